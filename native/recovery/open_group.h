// SPDX-License-Identifier: Apache-2.0
#pragma once

// Opening a group after whatever happened to it (design 4, "Opening a group"): decides who is
// right, the log or the primary, brings them together, and starts a new epoch. Blocking; runs away
// from the reactor, before any I/O is served.

#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "io/io.h"
#include "log/group_record_file.h"
#include "log/segment_info.h"
#include "nvram/buffer_store.h"
#include "nvram/log_buffer.h"

namespace ep::recovery {

struct PrimaryFile {
  uint16_t volume = 0;
  io::FileId file = io::kNoFile;
  /// Size, mtime and ctime as found; all zero where they say nothing (block devices).
  format::PrimaryLook look;
};

struct OpenInput {
  io::FileSystem* file_system = nullptr;
  Uuid group;
  /// A group that is being made: nothing of it may exist yet.
  bool create = false;
  std::vector<log::DeviceFolder> devices;
  /// Those of them that hang: not touched, for now.
  std::vector<Uuid> unanswering;
  /// Already open and locked; their locks have waited for the I/O of a killed process.
  std::vector<PrimaryFile> primaries;
  log::GroupRecordFile* record = nullptr;
  /// Where the buffer lives; null when it could not be had (then what it held is lost).
  nvram::BufferStore* store = nullptr;
  std::string boot;
  uint64_t wall_ns = 0;
  uint64_t segment_bytes = 0;
};

struct OpenFindings {
  uint64_t epoch = 0;
  uint64_t next_lsn = 1;
  uint64_t last_time_ns = 0;
  uint64_t next_segment = 1;
  /// Those of the input that can be used.
  std::vector<log::DeviceFolder> devices;
  std::vector<log::SegmentInfo> segments;
  /// What was done, for the process log and for tests.
  uint64_t entries_recovered = 0;
  uint64_t writes_redone = 0;
  uint64_t ranges_read_back = 0;
};

struct OpenOutcome : OpenFindings {
  /// The new epoch's; absent when the log cannot be written. In a gap too, so that it can be
  /// healed.
  std::optional<nvram::LogBuffer> buffer;
  /// The buffer's mirror is ready for a committer.
  bool mirrored = false;
};

/// On failure nothing is served and the group can be opened again later; what was found stays.
///
/// Also called while a group is served in a gap, to bring its log back: then the record is in that
/// gap, the primaries are not touched, and nobody else uses record and buffer.
Result<OpenOutcome> open_group(const OpenInput& input);

}  // namespace ep::recovery

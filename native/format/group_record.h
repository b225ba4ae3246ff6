// SPDX-License-Identifier: Apache-2.0
#pragma once

// What a group must know about itself before it may trust log, buffer and primaries: epoch, LSNs
// reserved, how it was closed, and its gap. Layout: group-record-format.md.

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "base/status.h"
#include "base/uuid.h"
#include "format/segment.h"

namespace ep::format {

constexpr uint64_t kGroupRecordSlotBytes = 4096;
constexpr uint64_t kGroupRecordFileBytes = 2 * kGroupRecordSlotBytes;

/// What a primary looked like when its group was closed cleanly; another look at open means that
/// somebody wrote behind our back (design 4).
struct PrimaryLook {
  uint64_t size_bytes = 0;
  uint64_t mtime_ns = 0;
  uint64_t ctime_ns = 0;
  friend bool operator==(const PrimaryLook&, const PrimaryLook&) = default;
};

struct GroupRecord {
  Uuid group;
  uint64_t sequence = 0;
  uint64_t epoch = 0;
  /// LSNs below this may have been taken; the next step of them is reserved before use.
  uint64_t reserved_lsn = 1;
  bool closed_cleanly = false;
  /// At a clean close: the last LSN and its time.
  uint64_t last_lsn = 0;
  uint64_t last_time_ns = 0;
  bool in_gap = false;
  Gap gap;
  /// The log could not be read when the gap opened: gap.from_lsn is a lower bound, and the next
  /// open that can read the log says better.
  bool gap_from_unknown = false;
  /// Somebody asked for the gap and has not asked for its end: it is not healed by itself.
  bool paused = false;
  /// What the dirty region logs say of the gap is not enough (a primary was written behind our
  /// back, history was lost): its resync looks at every region.
  bool resync_all = false;
  /// By volume number. The times are zero but for a clean close.
  struct Primary {
    uint16_t volume = 0;
    PrimaryLook look;
  };
  std::vector<Primary> primaries;
};

/// Fills one slot of 4096 bytes.
void encode_group_record(const GroupRecord& record, uint8_t* to);
/// kNotFound for a slot never written (zeroes), Corruption for a damaged one.
Result<GroupRecord> decode_group_record(std::span<const uint8_t> from);

}  // namespace ep::format

// SPDX-License-Identifier: Apache-2.0
#pragma once

// The blocking side of a segment file, shared by the writer (off the reactor) and by recovery:
// making one, sealing one.

#include <memory>
#include <string>
#include <vector>

#include "format/segment.h"
#include "io/io.h"
#include "log/segment_info.h"

namespace ep::log {

/// A segment file that is open for writing and holds nothing yet.
struct NewSegmentFile {
  io::FileId file = io::kNoFile;
  const DeviceFolder* device = nullptr;
  std::string absolute_path;
  uint64_t number = 0;
  uint64_t created_ns = 0;
  uint64_t capacity_bytes = 0;
  bool in_memory = false;
};

/// Makes and allocates a segment on this device; its header is not written yet. The size shrinks on
/// a device that is nearly full, down to the smallest allowed, below which it is kNoSpace. When
/// that fails and what was made cannot be removed either, `left` (if given) gets its path.
Result<NewSegmentFile> make_segment_file(io::FileSystem& file_system, const DeviceFolder& device,
                                         uint64_t number, uint64_t bytes, uint64_t wall_ns,
                                         std::string* left = nullptr);

/// The same on the first device that can take one; kNoSpace when none can.
Result<NewSegmentFile> make_segment_file(io::FileSystem& file_system,
                                         const std::vector<DeviceFolder>& devices, uint64_t number,
                                         uint64_t bytes, uint64_t wall_ns);

/// Writes directory and trailer behind the last batch, cuts the file to its size and syncs it.
/// `trailer` comes with everything but the directory's fields, which are filled in here. Returns
/// the file's final size. May be called again after a failure: everything that a failed sync may
/// have lost is written anew.
Result<uint64_t> seal_segment_file(io::FileSystem& file_system, io::FileId file,
                                   const std::vector<format::DirectoryEntry>& directory,
                                   uint64_t end_offset, format::SegmentTrailer trailer);

/// `groups/<group>/log/…` from an absolute path below the device's folder.
std::string path_below_device(const DeviceFolder& device, const std::string& absolute_path);

}  // namespace ep::log

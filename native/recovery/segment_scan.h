// SPDX-License-Identifier: Apache-2.0
#pragma once

// Reading segments at open: sealed ones by their trailer, others batch by batch up to the first
// that is broken.

#include <string>
#include <vector>

#include "io/io.h"
#include "log/batch.h"
#include "log/segment_info.h"

namespace ep::recovery {

struct ScannedSegment {
  log::SegmentInfo info;
  const log::DeviceFolder* device = nullptr;
  std::string absolute_path;
  /// Named like a segment, but its header is not one of this group, or is damaged in front of
  /// content: it is left alone. Its number counts as used.
  bool ignored = false;
  /// For one without a good trailer: what a writer would know after its last good batch.
  log::SegmentCursor cursor;
};

/// Every segment of the group on the devices, by number. Payloads of unsealed ones are verified.
/// An unsealed file without one good batch is listed with no entries.
Result<std::vector<ScannedSegment>> scan_segments(io::FileSystem& file_system,
                                                  const std::vector<log::DeviceFolder>& devices,
                                                  const Uuid& group);

/// Gives an unsealed segment its directory and trailer.
Status seal_scanned(io::FileSystem& file_system, ScannedSegment& segment, uint64_t wall_ns);

}  // namespace ep::recovery

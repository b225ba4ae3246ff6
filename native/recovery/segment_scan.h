// SPDX-License-Identifier: Apache-2.0
#pragma once

// Reading segments at open: sealed ones by their trailer, others batch by batch up to the first
// that is broken. A device that cannot be read is reported and leaves the others in service.

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
  /// Of the cursor after each batch.
  std::vector<log::CursorMark> marks;
  /// It was cut back, because a later segment holds the rest: that much of the file does not count.
  bool overlapped = false;
};

/// Why a device's part of the log is not known, or not wholly.
struct DeviceProblem {
  const log::DeviceFolder* device = nullptr;
  /// kNotFound: its folder is not there (not mounted, most likely). kUnsupported: a newer program
  /// wrote on it. The first that was met; the rest of the device was looked at all the same.
  Status status;
};

struct SegmentScan {
  /// By number. A file that could not be read is listed as `ignored`, so that nothing removes it
  /// and its number counts as used.
  std::vector<ScannedSegment> segments;
  /// One per device at most; empty when every device was read wholly.
  std::vector<DeviceProblem> problems;
};

/// Every segment of the group on the devices. Payloads of unsealed ones are verified. An unsealed
/// file without one good batch is listed with no entries.
///
/// Where segments hold the same LSNs, the one with the higher number counts from its first LSN on
/// [0046]: `info` and `cursor` of earlier ones are cut back to their last batch that ends before
/// it, to no entries at all if need be. A sealed file is cut in `info` only; it keeps its index.
SegmentScan scan_segments(io::FileSystem& file_system,
                          const std::vector<log::DeviceFolder>& devices, const Uuid& group);

/// Gives an unsealed segment its directory and trailer. What was found may be in the kernel's
/// memory only, of a file whose sync has failed once: everything that is not known to be durable
/// (LSNs from `suspect_lsn` on) is written again before it is synced and believed.
Status seal_scanned(io::FileSystem& file_system, ScannedSegment& segment, uint64_t suspect_lsn,
                    uint64_t wall_ns);

/// Blocking, when nobody writes the log any more: seals what is not sealed, as far as that can be
/// done. All segments with entries, by number.
std::vector<log::SegmentInfo> close_out(io::FileSystem& file_system,
                                        const std::vector<log::DeviceFolder>& devices,
                                        const Uuid& group, uint64_t wall_ns);

}  // namespace ep::recovery

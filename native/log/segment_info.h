// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <string>

#include "base/uuid.h"

namespace ep::log {

/// A device as a group uses it: everything of the group lies below `folder`
/// (`<device root>/groups/<group uuid>`).
struct DeviceFolder {
  Uuid device;
  std::string folder;
};

/// What is known of a segment without reading its entries.
struct SegmentInfo {
  uint64_t segment = 0;
  Uuid device;
  /// Below the device's root: `groups/<group uuid>/log/…`.
  std::string path;
  uint64_t epoch = 0;
  uint64_t first_lsn = 0;
  uint64_t last_lsn = 0;  // first_lsn - 1 when it holds nothing
  uint64_t first_time_ns = 0;
  uint64_t last_time_ns = 0;
  uint64_t entries = 0;
  uint64_t data_bytes = 0;
  uint64_t file_bytes = 0;
  bool sealed = false;
};

}  // namespace ep::log

// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>

#include "format/segment.h"

namespace ep::format {

/// A log entry with its payload where it stands in memory. `entry.address` means nothing here.
struct HeldEntry {
  Entry entry;
  uint8_t* data = nullptr;  // entry.payload_sectors() sectors
};

/// Entries in LSN order, as the log takes them over: the log buffer, seen from the log.
class EntrySource {
 public:
  virtual ~EntrySource() = default;
  /// One past the last entry.
  [[nodiscard]] virtual uint64_t head() const = 0;
  /// An entry that is held; stays valid until the source's owner releases it.
  [[nodiscard]] virtual HeldEntry held(uint64_t lsn) const = 0;
  /// Bytes of payload from this held LSN (or head()) to the head.
  [[nodiscard]] virtual uint64_t bytes_since(uint64_t lsn) const = 0;
  /// Bytes of payload that fit at most.
  [[nodiscard]] virtual uint64_t data_bytes() const = 0;
};

}  // namespace ep::format

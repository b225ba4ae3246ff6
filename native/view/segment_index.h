// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <memory>
#include <vector>

#include "log/segment_reader.h"
#include "view/extents.h"
#include "view/history.h"

namespace ep::view {

/// What a segment that no map covers says last about each place, in 16 bytes an extent.
class SegmentIndex {
 public:
  /// From the tables of the entries [first_lsn, last_lsn], which the segment has to hold.
  static Result<std::shared_ptr<const SegmentIndex>> build(const log::SegmentReader& reader,
                                                           uint64_t first_lsn, uint64_t last_lsn,
                                                           History::Counters& counters);

  /// Appends what reaches into [from, to), ascending, not clipped. `source` becomes `slot`.
  void lookup(uint64_t from, uint64_t to, uint32_t slot, std::vector<Extent>& out) const;
  [[nodiscard]] uint64_t memory_bytes() const { return rows_.size() * sizeof(Row); }

 private:
  struct Row {
    uint64_t position = 0;
    uint32_t sectors = 0;
    uint32_t place = 0;  // address in the segment, or kMapZero, kMapUnknown
  };
  std::vector<Row> rows_;  // ascending, without overlap
};

}  // namespace ep::view

// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <memory>
#include <vector>

#include "view/history.h"
#include "view/map_file.h"
#include "view/segment_store.h"

namespace ep::view {

/// A map, or a range of one segment's entries. Ranges of pieces may overlap: of two pieces that
/// speak of the same place the later one is right, whatever the earlier one says.
struct Piece {
  uint64_t first_lsn = 0;
  uint64_t last_lsn = 0;
  std::unique_ptr<MapFile> map;     // null for a segment
  std::vector<uint32_t> map_slots;  // SegmentStore's slots by the index in the map's table
  uint32_t slot = 0;                // of a segment
};

struct Plan {
  std::vector<Piece> pieces;  // oldest first
  uint64_t last_lsn = 0;
};

/// Which maps and segments are every LSN from 1 to the newest (at most `through_lsn`), but for
/// recorded gaps; as few maps as there can be, segments where no map reaches.
Result<Plan> make_plan(const History::Input& input, uint64_t through_lsn, SegmentStore& store,
                       MapCaches& caches);

}  // namespace ep::view

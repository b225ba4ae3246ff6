// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <map>
#include <memory>
#include <string>
#include <vector>

#include "log/segment_reader.h"
#include "view/extents.h"
#include "view/history.h"
#include "view/lru_cache.h"

namespace ep::view {

/// Segment files by their names, opened as they are needed; payloads by their place, always
/// verified: a piece of an entry is only given out of the whole entry, read and summed.
class SegmentStore {
 public:
  SegmentStore(io::FileSystem& file_system, const Uuid& group)
      : files_(file_system), group_(group) {}

  struct Location {
    Uuid device;
    uint64_t segment = 0;
    std::string path;  // empty: not on any device that is here
  };

  /// The slot of a segment; one that was not added gets a slot that cannot be read.
  uint32_t slot_of(const Uuid& device, uint64_t segment);
  void add(Location location);
  [[nodiscard]] const Location& location(uint32_t slot) const { return locations_[slot]; }

  /// kCorruption or kIoError when it cannot be had.
  Result<std::shared_ptr<const log::SegmentReader>> reader(uint32_t slot);

  /// An open one that took some work to read: whoever needs it next may find it open still.
  void keep(uint32_t slot, std::shared_ptr<const log::SegmentReader> reader) {
    open_.put(slot, std::move(reader), 1);
  }

  /// Sectors of the log that go to a place in memory.
  struct Want {
    uint32_t slot = 0;
    uint32_t address = 0;
    uint32_t sectors = 0;
    uint8_t* to = nullptr;
  };
  /// Reads them all, in the order of the log; sorts `wants`.
  Status gather(std::vector<Want>& wants, History::Counters& counters);

 private:
  /// One payload, as a batch table has it.
  struct Place {
    uint32_t address = 0;
    uint32_t sectors = 0;
    uint32_t crc = 0;
  };
  using Places = std::vector<Place>;
  struct Piece {
    Place place;
    uint32_t from = 0;  // address of the first wanted sector
    uint32_t sectors = 0;
    uint8_t* to = nullptr;
  };

  Result<std::shared_ptr<const Places>> places_of_batch(uint32_t slot,
                                                        const log::SegmentReader& reader,
                                                        size_t batch, History::Counters& counters);
  Result<Place> place_at(uint32_t slot, const log::SegmentReader& reader, uint32_t address,
                         History::Counters& counters);
  Status read_together(uint32_t slot, const log::SegmentReader& reader, std::vector<Piece>& pieces,
                       History::Counters& counters);

  io::FileSystem& files_;
  Uuid group_;
  std::vector<Location> locations_;
  std::map<std::pair<std::array<uint8_t, 16>, uint64_t>, uint32_t> slots_;
  LruCache<log::SegmentReader> open_{kOpenFilesMax};
  LruCache<Places> tables_{kTableCacheBytes};
  LruCache<std::vector<uint8_t>> payloads_{kPayloadCacheBytes};
  std::vector<uint8_t> buffer_;
};

}  // namespace ep::view

// SPDX-License-Identifier: Apache-2.0
#include "view/segment_index.h"

#include <algorithm>
#include <queue>

namespace ep::view {

using format::Entry;
using format::EntryType;

namespace {

/// An entry that changes content. Its number in the list is its age: the highest is the newest.
struct EntryPiece {
  uint64_t position = 0;
  uint64_t end = 0;
  uint32_t place = 0;
  uint32_t number = 0;
};

bool is_data(uint32_t place) { return place < format::kMapUnknown; }

void collect(const log::SegmentReader::Table& table, uint64_t first_lsn, uint64_t last_lsn,
             std::vector<EntryPiece>& pieces) {
  for (size_t i = 0; i < table.entries.size(); ++i) {
    const uint64_t lsn = table.first_lsn + i;
    if (lsn < first_lsn || lsn > last_lsn) continue;
    const Entry& entry = table.entries[i];
    uint32_t place = 0;
    switch (entry.type) {
      case EntryType::kWrite:
        place = entry.address;
        break;
      case EntryType::kDiscard:
      case EntryType::kWriteZeroes:
        place = format::kMapZero;
        break;
      case EntryType::kUnknown:
        place = format::kMapUnknown;
        break;
      case EntryType::kFlush:
      case EntryType::kMarker:
      case EntryType::kGeometry:
      case EntryType::kError:
      case EntryType::kGap:
        continue;
    }
    const uint64_t position = format::position_of(entry.volume, entry.sector);
    pieces.push_back(
        {position, position + entry.sectors, place, static_cast<uint32_t>(pieces.size())});
  }
}

}  // namespace

Result<std::shared_ptr<const SegmentIndex>> SegmentIndex::build(const log::SegmentReader& reader,
                                                                uint64_t first_lsn,
                                                                uint64_t last_lsn,
                                                                History::Counters& counters) {
  std::vector<EntryPiece> pieces;
  const auto& batches = reader.batches();
  for (size_t i = 0; i < batches.size(); ++i) {
    if (batches[i].first_lsn > last_lsn || batches[i].first_lsn + batches[i].entries <= first_lsn) {
      continue;
    }
    const auto table = reader.read_table(i);
    if (!table) return table.status();
    ++counters.tables_read;
    collect(*table, first_lsn, last_lsn, pieces);
  }
  std::sort(pieces.begin(), pieces.end(),
            [](const EntryPiece& a, const EntryPiece& b) { return a.position < b.position; });

  // One sweep: of the pieces that reach over the current position the newest shows.
  auto index = std::make_shared<SegmentIndex>();
  std::vector<Row>& rows = index->rows_;
  const auto older = [&pieces](uint32_t a, uint32_t b) {
    return pieces[a].number < pieces[b].number;
  };
  std::priority_queue<uint32_t, std::vector<uint32_t>, decltype(older)> open(older);
  uint64_t position = 0;
  for (size_t next = 0; next < pieces.size() || !open.empty();) {
    if (open.empty()) position = pieces[next].position;
    while (next < pieces.size() && pieces[next].position <= position) {
      open.push(static_cast<uint32_t>(next++));
    }
    while (!open.empty() && pieces[open.top()].end <= position) open.pop();
    if (open.empty()) continue;
    const EntryPiece& top = pieces[open.top()];
    uint64_t end = top.end;
    if (next < pieces.size()) end = std::min(end, pieces[next].position);
    const uint32_t shift = static_cast<uint32_t>(position - top.position);
    const uint32_t place = is_data(top.place) ? top.place + shift : top.place;
    const uint32_t sectors = static_cast<uint32_t>(end - position);
    Row* last = rows.empty() ? nullptr : &rows.back();
    const bool goes_on =
        last != nullptr && last->position + last->sectors == position &&
        (is_data(place) ? is_data(last->place) && last->place + last->sectors == place
                        : last->place == place) &&
        uint64_t{last->sectors} + sectors <= 0xffffffff;
    if (goes_on) {
      last->sectors += sectors;
    } else {
      rows.push_back({position, sectors, place});
    }
    position = end;
  }
  rows.shrink_to_fit();
  ++counters.indexes_built;
  return std::shared_ptr<const SegmentIndex>(std::move(index));
}

void SegmentIndex::lookup(uint64_t from, uint64_t to, uint32_t slot,
                          std::vector<Extent>& out) const {
  auto row = std::partition_point(rows_.begin(), rows_.end(), [from](const Row& each) {
    return each.position + each.sectors <= from;
  });
  for (; row != rows_.end() && row->position < to; ++row) {
    const bool data = is_data(row->place);
    out.push_back({row->position, row->sectors, data ? slot : row->place, data ? row->place : 0});
  }
}

}  // namespace ep::view

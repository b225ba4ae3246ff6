// SPDX-License-Identifier: Apache-2.0
#include "view/map_file.h"

#include <algorithm>

namespace ep::view {

Result<std::unique_ptr<MapFile>> MapFile::open(MapCaches& caches, uint32_t slot,
                                               const std::string& path) {
  std::unique_ptr<MapFile> map(new MapFile(caches, slot, path));
  if (const Status status = map->load(); !status) return map->in_file(status);
  return map;
}

Status MapFile::load() {
  const auto open = file();
  if (!open) return open.status();
  const io::FileId id = (*open)->id();
  const auto info = caches_.files.info(id);
  if (!info) return info.status();
  std::vector<uint8_t> page(format::kMapHeaderBytes);
  size_t got = 0;
  EP_TRY(caches_.files.read(id, 0, page.data(), page.size(), &got));
  page.resize(got);
  const auto header = format::decode_map_header(page, info->size);
  if (!header) return header.status();
  header_ = *header;

  const auto table = section(id, header_.segment_table, "segment table");
  if (!table) return table.status();
  auto segments = format::decode_map_segments(*table);
  if (!segments) return segments.status();
  segments_ = std::move(*segments);

  const auto index = section(id, header_.index, "index");
  if (!index) return index.status();
  auto blocks = format::decode_map_index(header_, *index);
  if (!blocks) return blocks.status();
  blocks_ = std::move(*blocks);

  auto bits = section(id, header_.bitmap, "bitmap");
  if (!bits) return bits.status();
  auto bitmap = format::MapBitmap::decode(std::move(*bits));
  if (!bitmap) return bitmap.status();
  bitmap_ = std::move(*bitmap);
  return Status::ok();
}

Result<std::vector<uint8_t>> MapFile::section(io::FileId file, const format::MapSection& section,
                                              const char* what) const {
  std::vector<uint8_t> content(section.length);
  size_t got = 0;
  if (!content.empty()) {
    EP_TRY(caches_.files.read(file, section.offset, content.data(), content.size(), &got));
  }
  content.resize(got);
  EP_TRY(format::check_map_section(section, content, what));
  return content;
}

Result<std::shared_ptr<const OpenFile>> MapFile::file() {
  if (auto open = caches_.open.get(slot_)) return open;
  const auto id = caches_.files.open(path_, {.read_only = true});
  if (!id) return id.status();
  auto open = std::make_shared<const OpenFile>(caches_.files, *id);
  caches_.open.put(slot_, open, 1);
  return open;
}

Result<std::shared_ptr<const std::vector<Extent>>> MapFile::block(size_t number,
                                                                  History::Counters& counters) {
  const uint64_t key = uint64_t{slot_} << 32 | number;
  if (auto held = caches_.blocks.get(key)) return held;
  const auto open = file();
  if (!open) return in_file(open.status());
  const format::MapBlockPlace& place = blocks_[number];
  std::vector<uint8_t> bytes(place.length);
  size_t got = 0;
  EP_TRY(caches_.files.read((*open)->id(), place.offset, bytes.data(), bytes.size(), &got));
  bytes.resize(got);
  auto extents = std::make_shared<std::vector<Extent>>();
  if (const Status status = format::decode_map_block(place, bytes, segments_.size(), *extents);
      !status) {
    return in_file(status);
  }
  // A region that the bitmap does not know would be skipped by other readers.
  uint64_t seen = ~uint64_t{0};
  for (const Extent& extent : *extents) {
    const uint64_t region = format::region_key_of(extent.position);
    if (region != seen && !bitmap_.touches(region)) {
      return in_file(Status(Code::kCorruption, "the bitmap does not know a region of a block"));
    }
    seen = region;
  }
  ++counters.blocks_read;
  std::shared_ptr<const std::vector<Extent>> block = std::move(extents);
  caches_.blocks.put(key, block, block->size() * sizeof(Extent));
  return block;
}

Status MapFile::lookup(uint64_t from, uint64_t to, std::vector<Extent>& out,
                       History::Counters& counters) {
  const uint64_t first_region = format::region_key_of(from);
  const uint64_t last_region = format::region_key_of(to - 1);
  bool touched = false;
  for (uint64_t region = first_region; region <= last_region && !touched; ++region) {
    touched = bitmap_.touches(region);
  }
  if (!touched) return Status::ok();
  size_t low =
      static_cast<size_t>(std::lower_bound(blocks_.begin(), blocks_.end(), first_region,
                                           [](const format::MapBlockPlace& block, uint64_t region) {
                                             return block.last_key < region;
                                           }) -
                          blocks_.begin());
  size_t high = low;
  while (high < blocks_.size() && blocks_[high].first_key <= last_region) ++high;
  // A region of many extents goes over many blocks: halve them by where their last extents end.
  for (size_t end = high; low < end;) {
    const size_t middle = low + (end - low) / 2;
    const auto held = block(middle, counters);
    if (!held) return held.status();
    if (end_of((*held)->back()) <= from) {
      low = middle + 1;
    } else {
      end = middle;
    }
  }
  for (; low < high; ++low) {
    const auto held = block(low, counters);
    if (!held) return held.status();
    const std::vector<Extent>& extents = **held;
    auto next = std::partition_point(extents.begin(), extents.end(),
                                     [from](const Extent& each) { return end_of(each) <= from; });
    for (; next != extents.end() && next->position < to; ++next) {
      if (!out.empty() && end_of(out.back()) > next->position) {
        return in_file(Status(Code::kCorruption, "blocks that overlap"));
      }
      out.push_back(*next);
    }
    if (next != extents.end()) break;
  }
  return Status::ok();
}

Status MapFile::in_file(const Status& status) const {
  if (status.message().find(path_) != std::string::npos) return status;
  return Status(status.code(), path_ + ": " + status.message());
}

}  // namespace ep::view

// SPDX-License-Identifier: Apache-2.0
#include "view/segment_store.h"

#include <algorithm>
#include <cstring>

namespace ep::view {

uint32_t SegmentStore::slot_of(const Uuid& device, uint64_t segment) {
  const auto [found, added] =
      slots_.try_emplace({device.bytes, segment}, static_cast<uint32_t>(locations_.size()));
  if (added) locations_.push_back({device, segment, ""});
  return found->second;
}

void SegmentStore::add(Location location) {
  const uint32_t slot = slot_of(location.device, location.segment);
  locations_[slot] = std::move(location);
}

Result<std::shared_ptr<const log::SegmentReader>> SegmentStore::reader(uint32_t slot) {
  if (auto held = open_.get(slot)) return held;
  const Location& location = locations_[slot];
  const std::string name =
      "segment " + std::to_string(location.segment) + " of device " + location.device.to_string();
  if (location.path.empty()) {
    return Status(Code::kCorruption, name + " is on none of the devices that are here");
  }
  auto opened = log::SegmentReader::open(files_, location.path, group_, location.segment);
  if (!opened) {
    const Code code = opened.status().code();
    // It was listed: what is not there now, or is another one, is history that is missing.
    if (code == Code::kNotFound || code == Code::kInvalidArgument) {
      return Status(Code::kCorruption, name + ": " + opened.status().message());
    }
    return opened.status();
  }
  if ((*opened)->header().device != location.device) {
    return Status(Code::kCorruption, (*opened)->path() + " was written to another device");
  }
  std::shared_ptr<const log::SegmentReader> shared = std::move(*opened);
  open_.put(slot, shared, 1);
  return shared;
}

Result<std::shared_ptr<const SegmentStore::Places>> SegmentStore::places_of_batch(
    uint32_t slot, const log::SegmentReader& reader, size_t batch, History::Counters& counters) {
  const uint64_t key = uint64_t{slot} << 32 | batch;
  if (auto held = tables_.get(key)) return held;
  const auto table = reader.read_table(batch);
  if (!table) return table.status();
  ++counters.tables_read;
  auto places = std::make_shared<Places>();
  for (const format::Entry& entry : table->entries) {
    if (entry.payload_sectors() == 0) continue;
    places->push_back({entry.address, entry.sectors, entry.data_crc});
  }
  std::shared_ptr<const Places> shared = std::move(places);
  tables_.put(key, shared, shared->size() * sizeof(Place) + 64);
  return shared;
}

Result<SegmentStore::Place> SegmentStore::place_at(uint32_t slot, const log::SegmentReader& reader,
                                                   uint32_t address, History::Counters& counters) {
  const auto batch = reader.batch_of_offset(uint64_t{address} * kSectorBytes);
  if (!batch) return batch.status();
  const auto held = places_of_batch(slot, reader, *batch, counters);
  if (!held) return held.status();
  const Places& places = **held;
  const auto behind =
      std::upper_bound(places.begin(), places.end(), address,
                       [](uint32_t at, const Place& place) { return at < place.address; });
  if (behind != places.begin()) {
    const Place& place = *std::prev(behind);
    if (address - place.address < place.sectors) return place;
  }
  return Status(Code::kCorruption,
                reader.path() + ": no entry has its data at sector " + std::to_string(address));
}

Status SegmentStore::gather(std::vector<Want>& wants, History::Counters& counters) {
  std::sort(wants.begin(), wants.end(), [](const Want& a, const Want& b) {
    return a.slot != b.slot ? a.slot < b.slot : a.address < b.address;
  });
  std::vector<Piece> pieces;
  for (size_t i = 0; i < wants.size();) {
    const uint32_t slot = wants[i].slot;
    const auto opened = reader(slot);
    if (!opened) return opened.status();
    const log::SegmentReader& segment = **opened;
    for (; i < wants.size() && wants[i].slot == slot; ++i) {
      Want want = wants[i];
      while (want.sectors > 0) {
        const auto place = place_at(slot, segment, want.address, counters);
        if (!place) return place.status();
        const uint32_t sectors =
            std::min(want.sectors, place->address + place->sectors - want.address);
        const Piece piece{*place, want.address, sectors, want.to};
        want.address += sectors;
        want.sectors -= sectors;
        want.to += uint64_t{sectors} * kSectorBytes;
        if (const auto held = payloads_.get(uint64_t{slot} << 32 | place->address)) {
          std::memcpy(piece.to, held->data() + (piece.from - place->address) * kSectorBytes,
                      sectors * kSectorBytes);
          continue;
        }
        if (!pieces.empty() && pieces.back().place.address != place->address) {
          const Place& first = pieces.front().place;
          const Place& last = pieces.back().place;
          const uint64_t hole = uint64_t{place->address} - last.address - last.sectors;
          const uint64_t all = uint64_t{place->address} + place->sectors - first.address;
          if (hole * kSectorBytes > kReadHoleBytesMax || all * kSectorBytes > kReadBytesMax) {
            EP_TRY(read_together(slot, segment, pieces, counters));
          }
        }
        pieces.push_back(piece);
      }
    }
    EP_TRY(read_together(slot, segment, pieces, counters));
  }
  return Status::ok();
}

/// One read for payloads that stand close together; each is verified once, whole.
Status SegmentStore::read_together(uint32_t slot, const log::SegmentReader& reader,
                                   std::vector<Piece>& pieces, History::Counters& counters) {
  if (pieces.empty()) return Status::ok();
  const uint32_t first = pieces.front().place.address;
  const Place& last = pieces.back().place;
  const uint64_t bytes = (uint64_t{last.address} + last.sectors - first) * kSectorBytes;
  if (buffer_.size() < bytes) buffer_.resize(bytes);
  EP_TRY(reader.read(uint64_t{first} * kSectorBytes, buffer_.data(), bytes));
  ++counters.data_reads;
  counters.data_bytes_read += bytes;
  uint32_t verified = 0;  // no payload stands in sector 0
  for (const Piece& piece : pieces) {
    const Place& place = piece.place;
    const uint8_t* payload = buffer_.data() + uint64_t{place.address - first} * kSectorBytes;
    const uint64_t size = uint64_t{place.sectors} * kSectorBytes;
    if (place.address != verified) {
      if (crc32(payload, size) != place.crc) {
        return Status(Code::kCorruption,
                      reader.path() + " at " +
                          std::to_string(uint64_t{place.address} * kSectorBytes) +
                          ": a payload fails its checksum");
      }
      verified = place.address;
      // Others may want the rest.
      if (piece.sectors < place.sectors) {
        payloads_.put(uint64_t{slot} << 32 | place.address,
                      std::make_shared<const std::vector<uint8_t>>(payload, payload + size), size);
      }
    }
    std::memcpy(piece.to, payload + uint64_t{piece.from - place.address} * kSectorBytes,
                uint64_t{piece.sectors} * kSectorBytes);
  }
  pieces.clear();
  return Status::ok();
}

}  // namespace ep::view

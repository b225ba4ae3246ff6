// SPDX-License-Identifier: Apache-2.0
#include "format/map.h"

#include <algorithm>
#include <cstring>

#include "base/limits.h"

namespace ep::format {

namespace {

constexpr char kMapMagic[8] = {'E', 'P', 'D', 'E', 'L', 'M', 'A', 'P'};
constexpr char kBlockMapMagic[4] = {'E', 'P', 'M', 'B'};
constexpr uint64_t kSectionsAt = 192;
constexpr uint64_t kSectionBytes = 24;
constexpr uint64_t kVolumeBytesMax = kVolumeSectorsMax * kSectorBytes;
/// What the writer, a JavaScript program, can hold in a number.
constexpr uint64_t kNumberMax = (uint64_t{1} << 53) - 1;

/// Stored in files, in the low two bits of a tag: frozen.
enum class Form : uint32_t { kSameSegment = 0, kOtherSegment = 1, kZero = 2, kUnknown = 3 };

Status damaged(const std::string& what) { return Status(Code::kCorruption, "delta map: " + what); }

/// The sum of `from` with the four bytes at `field` counted as zero.
uint32_t crc_without_field(std::span<const uint8_t> from, size_t field) {
  static constexpr uint8_t kZero[4] = {};
  uint32_t crc = crc32(from.data(), field);
  crc = crc32(kZero, 4, crc);
  return crc32(from.data() + field + 4, from.size() - field - 4, crc);
}

/// Runs and extents of one block, from its first byte to its last.
class BlockDecoder {
 public:
  BlockDecoder(std::span<const uint8_t> block, uint64_t segments, std::vector<MapExtent>& to)
      : block_(block), segments_(segments), to_(to) {}

  Status run(const MapBlockPlace& place) {
    uint64_t last_key = 0;
    bool first = true;
    while (at_ < block_.size()) {
      const uint32_t volume = varint();
      const uint32_t region = varint();
      const uint64_t key = uint64_t{volume} << 32 | region;
      if (bad_ || volume > 0xffff || region >= kRegionsPerVolumeMax ||
          (!first && key <= last_key)) {
        return damaged("regions of a block are not in order");
      }
      if (first && key != place.first_key) return damaged("a block starts with another region");
      first = false;
      last_key = key;
      EP_TRY(read_run(
          position_of(static_cast<uint16_t>(volume), uint64_t{region} << kRegionSectorsShift)));
    }
    if (last_key != place.last_key) return damaged("a block ends with another region");
    return Status::ok();
  }

 private:
  Status read_run(uint64_t origin) {
    uint64_t end = 0;
    for (;;) {
      const uint32_t gap = varint();
      const uint32_t tag = varint();
      if (bad_) return damaged("a block ends within an extent");
      const uint32_t sectors = tag >> 2;
      if (sectors == 0) {
        return gap == 0 && tag == 0 ? Status::ok() : damaged("an extent without a length");
      }
      const uint64_t start = end + gap;
      end = start + sectors;
      if (end > kRegionSectors) return damaged("an extent beyond its region");
      MapExtent extent{origin + start, sectors, kMapZero, 0};
      const Form form = static_cast<Form>(tag & 3);
      if (form == Form::kUnknown) {
        extent.source = kMapUnknown;
      } else if (form != Form::kZero) {
        EP_TRY(read_address(form, sectors));
        extent.source = static_cast<uint32_t>(segment_);
        extent.address = static_cast<uint32_t>(address_ - sectors);
      }
      to_.push_back(extent);
    }
  }

  /// Leaves the address behind the extent in address_.
  Status read_address(Form form, uint32_t sectors) {
    int64_t address = 0;
    if (form == Form::kOtherSegment) {
      segment_ = varint();
      address = varint();
      if (segment_ >= segments_) return damaged("an extent in a segment that no table has");
    } else {
      if (segment_ == kNone) return damaged("the first extent of a block names no segment");
      const uint32_t zigzag = varint();
      address =
          static_cast<int64_t>(address_) + static_cast<int32_t>((zigzag >> 1) ^ -(zigzag & 1));
    }
    if (bad_ || address < 1 || static_cast<uint64_t>(address) + sectors > kMapAddressMax) {
      return damaged("an address beyond the end of any segment");
    }
    address_ = static_cast<uint64_t>(address) + sectors;
    return Status::ok();
  }

  uint32_t varint() {
    uint32_t value = 0;
    for (uint32_t shift = 0; at_ < block_.size(); shift += 7) {
      const uint8_t byte = block_[at_++];
      if (shift == 28 && byte > 0x0f) break;
      value |= uint32_t{byte & 0x7fu} << shift;
      if (byte < 0x80) return value;
    }
    bad_ = true;
    return 0;
  }

  static constexpr uint64_t kNone = ~uint64_t{0};
  std::span<const uint8_t> block_;
  uint64_t segments_;
  std::vector<MapExtent>& to_;
  size_t at_ = kMapBlockHeaderBytes;
  bool bad_ = false;
  uint64_t segment_ = kNone;
  uint64_t address_ = 0;
};

}  // namespace

Result<MapHeader> decode_map_header(std::span<const uint8_t> page, uint64_t file_bytes) {
  if (page.size() < kMapHeaderBytes) return damaged("it is shorter than its header");
  page = page.first(kMapHeaderBytes);
  const uint8_t* at = page.data();
  if (std::memcmp(at, kMapMagic, 8) != 0) return damaged("it is none (wrong magic)");
  if (load_le<uint32_t>(at + 16) != crc_without_field(page, 16)) {
    return damaged("the header fails its checksum");
  }
  if (const auto version = load_le<uint32_t>(at + 8); version != kMapVersion) {
    return Status(Code::kUnsupported,
                  "delta map has version " + std::to_string(version) + ", this program reads 1");
  }
  if (const auto flags = load_le<uint32_t>(at + 12); flags != 0) {
    return Status(Code::kUnsupported, "delta map has flags " + std::to_string(flags));
  }
  if (load_le<uint32_t>(at + 20) != kMapHeaderBytes) return damaged("wrong header length");
  MapHeader header;
  header.group = load_uuid(at + 24);
  header.device = load_uuid(at + 40);
  header.level = load_le<uint32_t>(at + 64);
  header.expiry_class = load_le<uint32_t>(at + 68);
  header.first_time_ns = load_le<uint64_t>(at + 88);
  header.last_time_ns = load_le<uint64_t>(at + 96);
  header.created_ns = load_le<uint64_t>(at + 120);
  const std::pair<size_t, uint64_t*> numbers[] = {{56, &header.id},
                                                  {72, &header.first_lsn},
                                                  {80, &header.last_lsn},
                                                  {104, &header.previous},
                                                  {112, &header.first_child},
                                                  {128, &header.extents},
                                                  {136, &header.data_sectors},
                                                  {144, &header.zero_sectors},
                                                  {152, &header.unknown_sectors},
                                                  {160, &header.regions},
                                                  {168, &header.blocks},
                                                  {176, &header.file_bytes}};
  for (const auto& [offset, to] : numbers) {
    *to = load_le<uint64_t>(at + offset);
    if (*to > kNumberMax) return damaged("a number in the header is out of range");
  }
  if (header.id == 0 || header.last_lsn < header.first_lsn) return damaged("impossible LSNs or id");
  if (header.file_bytes != file_bytes) {
    return damaged("it has " + std::to_string(file_bytes) + " bytes in the place of " +
                   std::to_string(header.file_bytes));
  }
  MapSection* const sections[] = {&header.segment_table, &header.index, &header.bitmap,
                                  &header.geometry};
  for (size_t i = 0; i < 4; ++i) {
    const uint8_t* from = at + kSectionsAt + i * kSectionBytes;
    *sections[i] = {load_le<uint64_t>(from), load_le<uint64_t>(from + 8),
                    load_le<uint32_t>(from + 16)};
    if (sections[i]->offset < kMapHeaderBytes || sections[i]->offset > file_bytes ||
        sections[i]->length > kMapSectionBytesMax ||
        sections[i]->length > file_bytes - sections[i]->offset) {
      return damaged("a section does not stand in the file");
    }
  }
  return header;
}

Status check_map_section(const MapSection& section, std::span<const uint8_t> content,
                         const char* what) {
  if (content.size() == section.length && crc32(content.data(), content.size()) == section.crc) {
    return Status::ok();
  }
  return damaged(std::string("checksum mismatch in the ") + what);
}

Result<std::vector<MapSegment>> decode_map_segments(std::span<const uint8_t> content) {
  if (content.size() % kMapSegmentBytes != 0 ||
      content.size() / kMapSegmentBytes > kMapSegmentsMax) {
    return damaged("wrong length of the segment table");
  }
  std::vector<MapSegment> segments(content.size() / kMapSegmentBytes);
  const uint8_t* at = content.data();
  for (MapSegment& segment : segments) {
    segment = {load_uuid(at), load_le<uint64_t>(at + 16), load_le<uint64_t>(at + 24)};
    at += kMapSegmentBytes;
  }
  return segments;
}

Result<std::vector<MapBlockPlace>> decode_map_index(const MapHeader& header,
                                                    std::span<const uint8_t> content) {
  if (content.size() % kMapIndexEntryBytes != 0 ||
      content.size() / kMapIndexEntryBytes != header.blocks) {
    return damaged("wrong length of the block index");
  }
  std::vector<MapBlockPlace> blocks(content.size() / kMapIndexEntryBytes);
  const uint8_t* at = content.data();
  uint64_t expected = kMapHeaderBytes;
  uint64_t last = 0;
  for (MapBlockPlace& block : blocks) {
    block = {load_le<uint64_t>(at), load_le<uint64_t>(at + 8), load_le<uint64_t>(at + 16),
             load_le<uint32_t>(at + 24), load_le<uint32_t>(at + 28)};
    at += kMapIndexEntryBytes;
    if (block.first_key < last || block.last_key < block.first_key || block.offset != expected ||
        block.length <= kMapBlockHeaderBytes || block.length > kMapBlockBytesMax) {
      return damaged("the block index makes no sense");
    }
    last = block.last_key;
    expected = block.offset + block.length;
  }
  if (expected != header.segment_table.offset) {
    return damaged("the block index does not cover the blocks");
  }
  return blocks;
}

Result<MapBitmap> MapBitmap::decode(std::vector<uint8_t> content) {
  MapBitmap bitmap;
  for (size_t at = 0; at < content.size();) {
    const uint64_t left = content.size() - at;
    const uint64_t words = left >= 8 ? load_le<uint32_t>(content.data() + at + 4) : 0;
    if (words == 0 || 8 + words * 4 > left) return damaged("wrong length of a bitmap");
    bitmap.volumes_.push_back({load_le<uint32_t>(content.data() + at), words * 32, at + 8});
    at += 8 + words * 4;
  }
  bitmap.content_ = std::move(content);
  return bitmap;
}

bool MapBitmap::touches(uint64_t region_key) const {
  const uint64_t region = region_key & 0xffffffff;
  for (const Volume& volume : volumes_) {
    if (volume.volume != region_key >> 32) continue;
    return region < volume.regions && (content_[volume.at + region / 8] >> (region % 8) & 1) != 0;
  }
  return false;
}

Result<std::vector<MapVolume>> decode_map_geometry(std::span<const uint8_t> content) {
  std::vector<MapVolume> volumes;
  while (!content.empty()) {
    MapVolume volume;
    const size_t name = content.size() >= 16 ? load_le<uint16_t>(content.data() + 2) : 0;
    if (name == 0 || name > limits::kVolumeNameBytesMax || 16 + name > content.size()) {
      return damaged("a volume in the geometry makes no sense");
    }
    volume.volume = load_le<uint16_t>(content.data());
    volume.block_bytes = load_le<uint32_t>(content.data() + 4);
    volume.size_bytes = load_le<uint64_t>(content.data() + 8);
    volume.name.assign(reinterpret_cast<const char*>(content.data()) + 16, name);
    if (volume.size_bytes > kVolumeBytesMax) return damaged("a volume of an impossible size");
    volumes.push_back(std::move(volume));
    content = content.subspan(16 + name);
  }
  return volumes;
}

Status decode_map_block(const MapBlockPlace& place, std::span<const uint8_t> block,
                        uint64_t segments, std::vector<MapExtent>& to) {
  to.clear();
  if (block.size() != place.length || block.size() <= kMapBlockHeaderBytes ||
      std::memcmp(block.data(), kBlockMapMagic, 4) != 0 ||
      load_le<uint32_t>(block.data() + 4) != place.crc ||
      load_le<uint32_t>(block.data() + 8) != place.length ||
      crc_without_field(block, 4) != place.crc) {
    return damaged("a block fails its checksum");
  }
  const uint32_t count = load_le<uint32_t>(block.data() + 12);
  // An extent takes two bytes at least.
  to.reserve(std::min<size_t>(count, block.size() / 2));
  EP_TRY(BlockDecoder(block, segments, to).run(place));
  if (to.size() != count || to.empty()) return damaged("a block of another number of extents");
  return Status::ok();
}

}  // namespace ep::format

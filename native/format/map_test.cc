// SPDX-License-Identifier: Apache-2.0

// The golden maps, which map workers (TypeScript) wrote, read here extent by extent.

#include "format/map.h"

#include <gtest/gtest.h>

#include <cstdlib>
#include <fstream>
#include <iterator>
#include <random>

namespace ep::format {
namespace {

using Bytes = std::vector<uint8_t>;

Bytes golden(const char* name) {
  std::ifstream file(std::string(EP_SOURCE_DIR) + "/test/golden/" + name, std::ios::binary);
  return Bytes(std::istreambuf_iterator<char>(file), {});
}

struct WholeMap {
  MapHeader header;
  std::vector<MapSegment> segments;
  std::vector<MapBlockPlace> blocks;
  MapBitmap bitmap;
  std::vector<MapVolume> volumes;
  std::vector<MapExtent> extents;
};

/// Everything in a file, every check done.
Result<WholeMap> read_map(std::span<const uint8_t> file) {
  WholeMap map;
  auto header = decode_map_header(file.first(std::min<size_t>(file.size(), 4096)), file.size());
  if (!header) return header.status();
  map.header = *header;
  const auto part = [&](const MapSection& section) {
    return file.subspan(section.offset, section.length);
  };
  for (const MapSection* section :
       {&header->segment_table, &header->index, &header->bitmap, &header->geometry}) {
    EP_TRY(check_map_section(*section, part(*section), "section"));
  }
  auto segments = decode_map_segments(part(header->segment_table));
  if (!segments) return segments.status();
  map.segments = *segments;
  auto blocks = decode_map_index(*header, part(header->index));
  if (!blocks) return blocks.status();
  map.blocks = *blocks;
  const auto bits = part(header->bitmap);
  auto bitmap = MapBitmap::decode({bits.begin(), bits.end()});
  if (!bitmap) return bitmap.status();
  map.bitmap = *bitmap;
  auto volumes = decode_map_geometry(part(header->geometry));
  if (!volumes) return volumes.status();
  map.volumes = *volumes;
  for (const MapBlockPlace& place : map.blocks) {
    std::vector<MapExtent> extents;
    EP_TRY(decode_map_block(place, file.subspan(place.offset, place.length), map.segments.size(),
                            extents));
    map.extents.insert(map.extents.end(), extents.begin(), extents.end());
  }
  return map;
}

TEST(Map, TheGoldenOneIsReadAsItsContent) {
  const auto map = read_map(golden("map-1.epmap"));
  ASSERT_TRUE(map) << map.status().to_string();
  EXPECT_EQ(map->header.group.to_string(), "01234567-89ab-4cde-8f01-23456789abcd");
  EXPECT_EQ(map->header.device.to_string(), "fedcba98-7654-4321-8fed-cba987654321");
  EXPECT_EQ(map->header.id, 12u);
  EXPECT_EQ(map->header.level, 0u);
  EXPECT_EQ(map->header.expiry_class, 1u);
  EXPECT_EQ(map->header.first_lsn, 1001u);
  EXPECT_EQ(map->header.last_lsn, 1011u);
  EXPECT_EQ(map->header.previous, 11u);
  EXPECT_EQ(map->header.first_child, 0u);
  EXPECT_EQ(map->header.extents, 10u);
  EXPECT_EQ(map->header.regions, 3u);
  ASSERT_EQ(map->segments.size(), 1u);
  EXPECT_EQ(map->segments[0].device, map->header.device);
  EXPECT_EQ(map->segments[0].segment, 7u);
  EXPECT_EQ(map->segments[0].live_sectors, map->header.data_sectors);
  ASSERT_EQ(map->volumes.size(), 1u);
  EXPECT_EQ(map->volumes[0].name, "vda");
  EXPECT_EQ(map->volumes[0].size_bytes, 1024u * 1024 * 1024);
  for (uint64_t region = 0; region < 40; ++region) {
    EXPECT_EQ(map->bitmap.touches(region), region == 0 || region == 1 || region == 3) << region;
  }
  EXPECT_FALSE(map->bitmap.touches(uint64_t{1} << 32));
  const auto at = [](uint64_t region, uint64_t start, uint64_t end, uint32_t source,
                     uint32_t address) {
    return MapExtent{position_of(0, region * kRegionSectors + start),
                     static_cast<uint32_t>(end - start), source, address};
  };
  const std::vector<MapExtent> expected = {
      at(0, 95, 105, kMapZero, 0),   at(0, 105, 110, 0, 15),       at(0, 110, 114, 0, 30),
      at(0, 114, 120, 0, 24),        at(0, 200, 300, kMapZero, 0), at(0, 300, 308, kMapUnknown, 0),
      at(0, 308, 1200, kMapZero, 0), at(0, 524285, 524288, 0, 41), at(1, 0, 3, 0, 44),
      at(3, 524287, 524288, 0, 48)};
  EXPECT_TRUE(map->extents == expected);
}

/// The rule of goldenLargeMap in test/golden/generate.ts.
TEST(Map, TheLargeGoldenOneIsReadAsItsContent) {
  const auto map = read_map(golden("map-2.epmap"));
  ASSERT_TRUE(map) << map.status().to_string();
  EXPECT_GT(map->blocks.size(), 1u);
  EXPECT_EQ(map->blocks[0].last_key, map->blocks[1].first_key);
  uint32_t state = 1;
  const auto next = [&state](uint32_t bound) {
    state = (state * 1103515245u + 12345u) & 0x7fffffff;
    return (state >> 8) % bound;
  };
  struct Region {
    uint16_t volume;
    uint64_t region;
    int count;
  };
  std::vector<MapExtent> expected;
  for (const Region& region :
       {Region{0, 0, 6000}, {0, 3, 1}, {0, 40, 200}, {2, 0, 1500}, {2, 4095, 7}}) {
    uint32_t end = 0;
    for (int i = 0; i < region.count; ++i) {
      const uint32_t start = end + 1 + next(40);
      end = start + 1 + next(60);
      const uint32_t kind = next(8);
      const uint32_t address = 9 + next(2'000'000);
      MapExtent extent{position_of(region.volume, region.region * kRegionSectors + start),
                       end - start, kind == 6 ? kMapZero : kMapUnknown, 0};
      if (kind < 6) {
        extent.address = address;
        // The writer's table is in the order of first use.
        const uint64_t number = kind % 3 + 1;
        extent.source = 0;
        while (extent.source < map->segments.size() &&
               map->segments[extent.source].segment != number) {
          ++extent.source;
        }
      }
      expected.push_back(extent);
    }
  }
  ASSERT_EQ(map->segments.size(), 3u);
  for (const MapSegment& segment : map->segments) {
    EXPECT_EQ(segment.device, segment.segment == 2 ? map->header.group : map->header.device);
  }
  ASSERT_EQ(map->extents.size(), expected.size());
  EXPECT_TRUE(map->extents == expected);
  EXPECT_EQ(map->volumes.size(), 2u);
}

TEST(Map, EveryChangedByteIsSeen) {
  const Bytes whole = golden("map-1.epmap");
  ASSERT_TRUE(read_map(whole));
  Bytes bytes = whole;
  for (size_t i = 0; i < bytes.size(); ++i) {
    for (const int bit : {0, 7}) {
      bytes[i] = static_cast<uint8_t>(whole[i] ^ 1 << bit);
      const auto map = read_map(bytes);
      EXPECT_FALSE(map) << "byte " << i;
    }
    bytes[i] = whole[i];
  }
  for (size_t size = 0; size < whole.size(); ++size) {
    EXPECT_FALSE(read_map(std::span(whole).first(size)));
  }
}

/// What a broken writer, or somebody who can compute sums, makes: no crash, and no extent outside
/// of what may be.
TEST(Map, BlocksWithGoodSumsAreStillChecked) {
  const char* asked = std::getenv("EP_TEST_SEED");
  const uint64_t seed =
      asked != nullptr ? std::strtoull(asked, nullptr, 0) : std::random_device{}();
  SCOPED_TRACE("EP_TEST_SEED=" + std::to_string(seed));
  std::mt19937_64 random(seed);
  const Bytes whole = golden("map-2.epmap");
  const auto map = read_map(whole);
  ASSERT_TRUE(map);
  int good = 0;
  for (int round = 0; round < 3000; ++round) {
    MapBlockPlace place = map->blocks[random() % map->blocks.size()];
    Bytes block(whole.begin() + static_cast<ptrdiff_t>(place.offset),
                whole.begin() + static_cast<ptrdiff_t>(place.offset + place.length));
    for (uint64_t i = random() % 3 + 1; i > 0; --i) {
      block[16 + random() % (block.size() - 16)] = static_cast<uint8_t>(random());
    }
    if (random() % 4 == 0) {
      block.resize(17 + random() % (block.size() - 17));
      place.length = static_cast<uint32_t>(block.size());
      store_le<uint32_t>(block.data() + 8, place.length);
    }
    store_le<uint32_t>(block.data() + 4, 0);
    place.crc = crc32(block.data(), block.size());
    store_le<uint32_t>(block.data() + 4, place.crc);
    std::vector<MapExtent> extents;
    if (!decode_map_block(place, block, map->segments.size(), extents)) continue;
    ++good;
    uint64_t end = 0;
    for (const MapExtent& extent : extents) {
      ASSERT_GE(extent.position, end);
      ASSERT_GT(extent.sectors, 0u);
      end = extent.position + extent.sectors;
      ASSERT_EQ(region_key_of(extent.position), region_key_of(end - 1));
      if (extent.source < kMapUnknown) {
        ASSERT_LT(extent.source, map->segments.size());
        ASSERT_GT(extent.address, 0u);
        ASSERT_LE(uint64_t{extent.address} + extent.sectors, kMapAddressMax);
      }
    }
  }
  EXPECT_GT(good, 0);
}

}  // namespace
}  // namespace ep::format

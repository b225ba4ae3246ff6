// SPDX-License-Identifier: Apache-2.0
#pragma once

// Decoding of delta map files, which map workers write (TypeScript) and the data plane only reads.
// The layout's one home is src/maps/map-format.md; both sides are proven by
// test/golden/map-*.epmap. Pure of I/O. Nothing that a file says is believed: sums, order and
// bounds are checked.

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "base/bytes.h"
#include "base/status.h"
#include "base/uuid.h"

namespace ep::format {

constexpr uint32_t kMapVersion = 1;
constexpr uint64_t kMapHeaderBytes = kPageBytes;
constexpr uint32_t kMapBlockHeaderBytes = 16;
constexpr uint32_t kMapBlockBytesMax = 64 * 1024;
constexpr uint64_t kMapSectionBytesMax = 512ull * 1024 * 1024;
constexpr uint32_t kMapIndexEntryBytes = 32;
constexpr uint32_t kMapSegmentBytes = 32;
constexpr uint64_t kMapSegmentsMax = 1 << 24;
/// A region is 2^19 sectors (256 MiB), a volume at most 2^41 (1 PiB).
constexpr uint32_t kRegionSectorsShift = 19;
constexpr uint64_t kRegionSectors = uint64_t{1} << kRegionSectorsShift;
constexpr uint32_t kVolumeSectorsShift = 41;
constexpr uint64_t kVolumeSectorsMax = uint64_t{1} << kVolumeSectorsShift;
constexpr uint64_t kRegionsPerVolumeMax = kVolumeSectorsMax >> kRegionSectorsShift;
/// Addresses in segments stay below this.
constexpr uint64_t kMapAddressMax = 0x7fffffff;

/// A sector of a volume as one number, in the order of volumes and then places.
constexpr uint64_t position_of(uint16_t volume, uint64_t sector) {
  return uint64_t{volume} << kVolumeSectorsShift | sector;
}
/// A region as the index has it: 4 bytes of region, 4 of volume.
constexpr uint64_t region_key_of(uint64_t position) {
  return (position >> kVolumeSectorsShift) << 32 |
         ((position & (kVolumeSectorsMax - 1)) >> kRegionSectorsShift);
}

struct MapSection {
  uint64_t offset = 0;
  uint64_t length = 0;
  uint32_t crc = 0;
};

struct MapHeader {
  Uuid group;
  Uuid device;
  uint64_t id = 0;
  uint32_t level = 0;
  uint32_t expiry_class = 0;
  uint64_t first_lsn = 0;
  uint64_t last_lsn = 0;
  uint64_t first_time_ns = 0;
  uint64_t last_time_ns = 0;
  uint64_t previous = 0;
  uint64_t first_child = 0;
  uint64_t created_ns = 0;
  uint64_t extents = 0;
  uint64_t data_sectors = 0;
  uint64_t zero_sectors = 0;
  uint64_t unknown_sectors = 0;
  uint64_t regions = 0;
  uint64_t blocks = 0;
  uint64_t file_bytes = 0;
  MapSection segment_table;
  MapSection index;
  MapSection bitmap;
  MapSection geometry;
};
/// `file_bytes` is what the file has; every section stands in it.
Result<MapHeader> decode_map_header(std::span<const uint8_t> page, uint64_t file_bytes);

/// The sum of a section that was read whole.
Status check_map_section(const MapSection& section, std::span<const uint8_t> content,
                         const char* what);

struct MapSegment {
  Uuid device;
  uint64_t segment = 0;
  uint64_t live_sectors = 0;
};
Result<std::vector<MapSegment>> decode_map_segments(std::span<const uint8_t> content);

/// Where a block stands and which regions (region_key_of) it reaches over.
struct MapBlockPlace {
  uint64_t first_key = 0;
  uint64_t last_key = 0;
  uint64_t offset = 0;
  uint32_t length = 0;
  uint32_t crc = 0;
};
/// The blocks stand without holes between header and segment table, in the order of regions.
Result<std::vector<MapBlockPlace>> decode_map_index(const MapHeader& header,
                                                    std::span<const uint8_t> content);

/// One bit per region of each volume: whether the map says anything about it.
class MapBitmap {
 public:
  static Result<MapBitmap> decode(std::vector<uint8_t> content);
  [[nodiscard]] bool touches(uint64_t region_key) const;

 private:
  struct Volume {
    uint32_t volume = 0;
    uint64_t regions = 0;
    size_t at = 0;
  };
  std::vector<uint8_t> content_;
  std::vector<Volume> volumes_;
};

struct MapVolume {
  uint16_t volume = 0;
  uint32_t block_bytes = 0;
  uint64_t size_bytes = 0;
  std::string name;
};
Result<std::vector<MapVolume>> decode_map_geometry(std::span<const uint8_t> content);

/// In the place of an index into the segment table.
constexpr uint32_t kMapZero = 0xffffffff;
constexpr uint32_t kMapUnknown = 0xfffffffe;

struct MapExtent {
  uint64_t position = 0;  // position_of its first sector
  uint32_t sectors = 0;
  uint32_t source = 0;   // index into the segment table, kMapZero or kMapUnknown
  uint32_t address = 0;  // sector in the segment file; 0 without data
  friend bool operator==(const MapExtent&, const MapExtent&) = default;
};
/// Replaces `to` by the extents of a block, ascending and without overlap. `segments` is the length
/// of the segment table.
Status decode_map_block(const MapBlockPlace& place, std::span<const uint8_t> block,
                        uint64_t segments, std::vector<MapExtent>& to);

}  // namespace ep::format

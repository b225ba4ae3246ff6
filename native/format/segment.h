// SPDX-License-Identifier: Apache-2.0
#pragma once

// The constants and codecs of the log segment; the layout's one home is segment-format.md beside
// this file. The TypeScript reader (src/maps/segment) is proven against the same golden files.

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>

#include "base/bytes.h"
#include "base/limits.h"
#include "base/status.h"
#include "base/uuid.h"

namespace ep::format {

constexpr uint32_t kSegmentVersion = 1;
constexpr uint64_t kSegmentHeaderBytes = kPageBytes;
constexpr uint64_t kSegmentTrailerBytes = kPageBytes;
constexpr uint32_t kBatchHeaderBytes = 128;
constexpr uint32_t kEntryBytes = 32;
constexpr uint32_t kDirectoryEntryBytes = 16;

/// Stored in files: values are frozen, new ones are added at the end.
enum class EntryType : uint8_t {
  kWrite = 1,
  kDiscard = 2,
  kWriteZeroes = 3,
  kFlush = 4,
  kMarker = 5,
  kGeometry = 6,
  kError = 7,
  kUnknown = 8,
  kGap = 9,
};

/// Stored in files: frozen. On a kWrite that was not the guest's: read back from the primary.
constexpr uint8_t kEntryFlagResync = 1;
/// Stored in files: frozen. On a kError: the secondary failed, not the primary [0046].
constexpr uint8_t kEntryFlagSecondary = 2;

/// Stored in files: frozen.
enum class SealReason : uint8_t {
  kSize = 1,
  kTime = 2,
  kEntries = 3,
  kRequest = 4,
  kRecovery = 5,
  kClose = 6,
  kGap = 7,
};

/// One log entry, as in the batch table. `address` is the absolute 512-byte sector of the payload
/// in its segment file, 0 where there is none.
struct Entry {
  EntryType type{};
  uint8_t flags = 0;
  uint16_t volume = 0;
  uint32_t sectors = 0;
  uint64_t sector = 0;
  uint64_t time_ns = 0;
  uint32_t data_crc = 0;
  uint32_t address = 0;

  [[nodiscard]] bool has_payload() const {
    return type == EntryType::kWrite || type == EntryType::kMarker ||
           type == EntryType::kGeometry || type == EntryType::kGap;
  }
  [[nodiscard]] uint32_t payload_sectors() const { return has_payload() ? sectors : 0; }
  friend bool operator==(const Entry&, const Entry&) = default;
};

void encode_entry(const Entry& entry, uint8_t* to);
/// Corruption when the type, flags or volume are not ones that this version writes.
Result<Entry> decode_entry(const uint8_t* from);

struct SegmentHeader {
  Uuid group;
  Uuid device;
  uint64_t segment = 0;
  uint64_t epoch = 0;
  uint64_t first_lsn = 0;
  uint64_t created_ns = 0;
  uint64_t capacity_bytes = 0;
};
/// Fills 4096 bytes and returns the checksum in them, the start of the batch chain.
uint32_t encode_segment_header(const SegmentHeader& header, uint8_t* to);
Result<SegmentHeader> decode_segment_header(std::span<const uint8_t> from, uint32_t* crc);

struct BatchHeader {
  uint32_t crc = 0;
  uint32_t chain = 0;
  uint32_t entries = 0;
  Uuid group;
  uint64_t segment = 0;
  uint64_t epoch = 0;
  uint32_t batch = 0;
  uint32_t pages = 0;
  uint64_t first_lsn = 0;
  uint32_t data_sector = 0;
  uint32_t data_sectors = 0;

  [[nodiscard]] uint64_t bytes() const { return uint64_t{pages} * kPageBytes; }
  [[nodiscard]] uint64_t table_bytes() const {
    return kBatchHeaderBytes + uint64_t{entries} * kEntryBytes;
  }
};
/// Writes the header in front of a table of header.entries encoded entries that already stands at
/// `to + kBatchHeaderBytes`, computes the checksum over both and returns it.
uint32_t encode_batch_header(const BatchHeader& header, uint8_t* to);
/// Reads the 128 bytes without the table: magic, sizes and bounds are checked, the checksum is not.
Result<BatchHeader> decode_batch_header(std::span<const uint8_t> from);
/// Checks the checksum over header and table.
Status check_batch_table(const BatchHeader& header, std::span<const uint8_t> header_and_table);

struct DirectoryEntry {
  uint32_t page = 0;
  uint32_t entries = 0;
  uint32_t crc = 0;
  uint32_t lsn_delta = 0;
};
void encode_directory_entry(const DirectoryEntry& entry, uint8_t* to);
DirectoryEntry decode_directory_entry(const uint8_t* from);

struct SegmentTrailer {
  Uuid group;
  Uuid device;
  uint64_t segment = 0;
  uint64_t epoch = 0;
  uint64_t first_lsn = 0;
  uint64_t last_lsn = 0;
  uint64_t first_time_ns = 0;
  uint64_t last_time_ns = 0;
  uint64_t directory_offset = 0;
  uint32_t directory_crc = 0;
  uint32_t batches = 0;
  uint64_t entries = 0;
  uint64_t data_bytes = 0;
  uint64_t sealed_ns = 0;
  uint32_t last_chain = 0;
  SealReason reason{};
};
void encode_segment_trailer(const SegmentTrailer& trailer, uint8_t* to);
Result<SegmentTrailer> decode_segment_trailer(std::span<const uint8_t> from);

/// Payload of a kMarker entry: one sector.
struct MarkerPayload {
  /// Wall time until which the snapshot is kept; 0: as policy has it; ~0: for ever.
  uint64_t keep_until_ns = 0;
  std::string label;
};
constexpr uint64_t kKeepForever = ~uint64_t{0};
Status encode_marker(const MarkerPayload& marker, uint8_t* to);
Result<MarkerPayload> decode_marker(std::span<const uint8_t> from);

/// Stored in files: frozen.
enum class GeometryAction : uint8_t { kAdd = 1, kGrow = 2, kRemove = 3 };
/// Payload of a kGeometry entry: one sector. The entry's `volume` is the volume it speaks of.
struct GeometryPayload {
  GeometryAction action{};
  uint32_t block_bytes = 512;
  uint64_t size_bytes = 0;
  std::string name;
};
Status encode_geometry(const GeometryPayload& geometry, uint8_t* to);
Result<GeometryPayload> decode_geometry(std::span<const uint8_t> from);

/// An interruption of protection: history is good up to from_lsn and again after to_lsn.
struct Gap {
  uint64_t from_lsn = 0;
  uint64_t from_ns = 0;
  uint64_t to_lsn = 0;  // 0 while open
  uint64_t to_ns = 0;
  std::string reason;
};
/// Payload of a kGap entry: one sector. A reason that is too long is cut. The first entry of an
/// epoch that begins in a gap says where the gap began (to_lsn 0), its last one where it ends:
/// to_lsn is then the entry's own LSN.
void encode_gap(const Gap& gap, uint8_t* to);
Result<Gap> decode_gap(std::span<const uint8_t> from);

/// `log/YYYY-MM-DD/<segment, 16 hex digits>.eplog`, the day in UTC.
std::string segment_relative_path(uint64_t segment, uint64_t created_ns);
/// The number in a segment's file name; nothing when the name is not one.
std::optional<uint64_t> parse_segment_name(std::string_view name);

}  // namespace ep::format

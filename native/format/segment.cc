// SPDX-License-Identifier: Apache-2.0
#include "format/segment.h"

#include <cstdio>
#include <cstring>
#include <ctime>

namespace ep::format {

namespace {
constexpr size_t kGapReasonAt = 40;

constexpr char kHeaderMagic[8] = {'E', 'P', 'S', 'E', 'G', 'M', 'N', 'T'};
constexpr char kTrailerMagic[8] = {'E', 'P', 'S', 'E', 'G', 'E', 'N', 'D'};
constexpr char kBatchMagic[4] = {'E', 'P', 'B', 'T'};

/// The sum of a page whose own checksum field at 16 counts as zero.
uint32_t page_crc(const uint8_t* page) {
  static constexpr uint8_t kZero[4] = {};
  uint32_t crc = crc32(page, 16);
  crc = crc32(kZero, 4, crc);
  return crc32(page + 20, kPageBytes - 20, crc);
}

Status check_page(std::span<const uint8_t> from, const char (&magic)[8], const char* what) {
  if (from.size() < kPageBytes) return Status(Code::kCorruption, std::string(what) + " is cut off");
  if (std::memcmp(from.data(), magic, 8) != 0) {
    return Status(Code::kCorruption, std::string("no ") + what + " here (wrong magic)");
  }
  const uint32_t version = load_le<uint32_t>(from.data() + 8);
  if (version != kSegmentVersion) {
    return Status(Code::kUnsupported, std::string(what) + " has version " +
                                          std::to_string(version) + ", this program reads 1");
  }
  if (load_le<uint32_t>(from.data() + 16) != page_crc(from.data())) {
    return Status(Code::kCorruption, std::string(what) + " fails its checksum");
  }
  return Status::ok();
}

uint32_t table_crc(const uint8_t* from, uint64_t bytes) {
  static constexpr uint8_t kZero[4] = {};
  uint32_t crc = crc32(from, 4);
  crc = crc32(kZero, 4, crc);
  return crc32(from + 8, bytes - 8, crc);
}

}  // namespace

void encode_entry(const Entry& entry, uint8_t* to) {
  to[0] = static_cast<uint8_t>(entry.type);
  to[1] = entry.flags;
  store_le<uint16_t>(to + 2, entry.volume);
  store_le<uint32_t>(to + 4, entry.sectors);
  store_le<uint64_t>(to + 8, entry.sector);
  store_le<uint64_t>(to + 16, entry.time_ns);
  store_le<uint32_t>(to + 24, entry.data_crc);
  store_le<uint32_t>(to + 28, entry.address);
}

Result<Entry> decode_entry(const uint8_t* from) {
  Entry entry;
  if (from[0] < static_cast<uint8_t>(EntryType::kWrite) ||
      from[0] > static_cast<uint8_t>(EntryType::kGap)) {
    return Status(Code::kCorruption, "log entry of unknown type " + std::to_string(from[0]));
  }
  entry.type = static_cast<EntryType>(from[0]);
  entry.flags = from[1];
  if ((entry.flags & ~(kEntryFlagResync | kEntryFlagSecondary)) != 0) {
    return Status(Code::kCorruption, "log entry with unknown flags " + std::to_string(from[1]));
  }
  entry.volume = load_le<uint16_t>(from + 2);
  if (entry.volume >= limits::kVolumesPerGroupMax) {
    return Status(Code::kCorruption, "log entry of volume " + std::to_string(entry.volume));
  }
  entry.sectors = load_le<uint32_t>(from + 4);
  entry.sector = load_le<uint64_t>(from + 8);
  entry.time_ns = load_le<uint64_t>(from + 16);
  entry.data_crc = load_le<uint32_t>(from + 24);
  entry.address = load_le<uint32_t>(from + 28);
  return entry;
}

uint32_t encode_segment_header(const SegmentHeader& header, uint8_t* to) {
  std::memset(to, 0, kSegmentHeaderBytes);
  std::memcpy(to, kHeaderMagic, 8);
  store_le<uint32_t>(to + 8, kSegmentVersion);
  store_le<uint32_t>(to + 20, static_cast<uint32_t>(kSegmentHeaderBytes));
  store_uuid(to + 24, header.group);
  store_uuid(to + 40, header.device);
  store_le<uint64_t>(to + 56, header.segment);
  store_le<uint64_t>(to + 64, header.epoch);
  store_le<uint64_t>(to + 72, header.first_lsn);
  store_le<uint64_t>(to + 80, header.created_ns);
  store_le<uint64_t>(to + 88, header.capacity_bytes);
  const uint32_t crc = page_crc(to);
  store_le<uint32_t>(to + 16, crc);
  return crc;
}

Result<SegmentHeader> decode_segment_header(std::span<const uint8_t> from, uint32_t* crc) {
  EP_TRY(check_page(from, kHeaderMagic, "segment header"));
  const uint8_t* at = from.data();
  SegmentHeader header;
  header.group = load_uuid(at + 24);
  header.device = load_uuid(at + 40);
  header.segment = load_le<uint64_t>(at + 56);
  header.epoch = load_le<uint64_t>(at + 64);
  header.first_lsn = load_le<uint64_t>(at + 72);
  header.created_ns = load_le<uint64_t>(at + 80);
  header.capacity_bytes = load_le<uint64_t>(at + 88);
  if (crc != nullptr) *crc = load_le<uint32_t>(at + 16);
  return header;
}

uint32_t encode_batch_header(const BatchHeader& header, uint8_t* to) {
  std::memset(to, 0, kBatchHeaderBytes);
  std::memcpy(to, kBatchMagic, 4);
  store_le<uint32_t>(to + 8, header.chain);
  store_le<uint32_t>(to + 12, header.entries);
  store_uuid(to + 16, header.group);
  store_le<uint64_t>(to + 32, header.segment);
  store_le<uint64_t>(to + 40, header.epoch);
  store_le<uint32_t>(to + 48, header.batch);
  store_le<uint32_t>(to + 52, header.pages);
  store_le<uint64_t>(to + 56, header.first_lsn);
  store_le<uint32_t>(to + 64, header.data_sector);
  store_le<uint32_t>(to + 68, header.data_sectors);
  const uint32_t crc = table_crc(to, header.table_bytes());
  store_le<uint32_t>(to + 4, crc);
  return crc;
}

Result<BatchHeader> decode_batch_header(std::span<const uint8_t> from) {
  if (from.size() < kBatchHeaderBytes || std::memcmp(from.data(), kBatchMagic, 4) != 0) {
    return Status(Code::kCorruption, "no batch header here");
  }
  const uint8_t* at = from.data();
  BatchHeader header;
  header.crc = load_le<uint32_t>(at + 4);
  header.chain = load_le<uint32_t>(at + 8);
  header.entries = load_le<uint32_t>(at + 12);
  header.group = load_uuid(at + 16);
  header.segment = load_le<uint64_t>(at + 32);
  header.epoch = load_le<uint64_t>(at + 40);
  header.batch = load_le<uint32_t>(at + 48);
  header.pages = load_le<uint32_t>(at + 52);
  header.first_lsn = load_le<uint64_t>(at + 56);
  header.data_sector = load_le<uint32_t>(at + 64);
  header.data_sectors = load_le<uint32_t>(at + 68);
  const uint64_t table = align_up(header.table_bytes(), kSectorBytes);
  if (header.entries == 0 || header.entries > limits::kBatchEntriesMax || header.pages == 0 ||
      table + uint64_t{header.data_sectors} * kSectorBytes > header.bytes()) {
    return Status(Code::kCorruption, "batch header with impossible sizes");
  }
  return header;
}

Status check_batch_table(const BatchHeader& header, std::span<const uint8_t> header_and_table) {
  if (header_and_table.size() < header.table_bytes() ||
      table_crc(header_and_table.data(), header.table_bytes()) != header.crc) {
    return Status(Code::kCorruption, "batch table fails its checksum");
  }
  return Status::ok();
}

void encode_directory_entry(const DirectoryEntry& entry, uint8_t* to) {
  store_le<uint32_t>(to, entry.page);
  store_le<uint32_t>(to + 4, entry.entries);
  store_le<uint32_t>(to + 8, entry.crc);
  store_le<uint32_t>(to + 12, entry.lsn_delta);
}

DirectoryEntry decode_directory_entry(const uint8_t* from) {
  return {load_le<uint32_t>(from), load_le<uint32_t>(from + 4), load_le<uint32_t>(from + 8),
          load_le<uint32_t>(from + 12)};
}

void encode_segment_trailer(const SegmentTrailer& trailer, uint8_t* to) {
  std::memset(to, 0, kSegmentTrailerBytes);
  std::memcpy(to, kTrailerMagic, 8);
  store_le<uint32_t>(to + 8, kSegmentVersion);
  store_le<uint32_t>(to + 20, trailer.directory_crc);
  store_uuid(to + 24, trailer.group);
  store_uuid(to + 40, trailer.device);
  store_le<uint64_t>(to + 56, trailer.segment);
  store_le<uint64_t>(to + 64, trailer.epoch);
  store_le<uint64_t>(to + 72, trailer.first_lsn);
  store_le<uint64_t>(to + 80, trailer.last_lsn);
  store_le<uint64_t>(to + 88, trailer.first_time_ns);
  store_le<uint64_t>(to + 96, trailer.last_time_ns);
  store_le<uint64_t>(to + 104, trailer.directory_offset);
  store_le<uint64_t>(to + 112, trailer.entries);
  store_le<uint64_t>(to + 120, trailer.data_bytes);
  store_le<uint32_t>(to + 128, trailer.batches);
  store_le<uint32_t>(to + 132, trailer.last_chain);
  store_le<uint64_t>(to + 136, trailer.sealed_ns);
  to[144] = static_cast<uint8_t>(trailer.reason);
  store_le<uint32_t>(to + 16, page_crc(to));
}

Result<SegmentTrailer> decode_segment_trailer(std::span<const uint8_t> from) {
  EP_TRY(check_page(from, kTrailerMagic, "segment trailer"));
  const uint8_t* at = from.data();
  SegmentTrailer trailer;
  trailer.directory_crc = load_le<uint32_t>(at + 20);
  trailer.group = load_uuid(at + 24);
  trailer.device = load_uuid(at + 40);
  trailer.segment = load_le<uint64_t>(at + 56);
  trailer.epoch = load_le<uint64_t>(at + 64);
  trailer.first_lsn = load_le<uint64_t>(at + 72);
  trailer.last_lsn = load_le<uint64_t>(at + 80);
  trailer.first_time_ns = load_le<uint64_t>(at + 88);
  trailer.last_time_ns = load_le<uint64_t>(at + 96);
  trailer.directory_offset = load_le<uint64_t>(at + 104);
  trailer.entries = load_le<uint64_t>(at + 112);
  trailer.data_bytes = load_le<uint64_t>(at + 120);
  trailer.batches = load_le<uint32_t>(at + 128);
  trailer.last_chain = load_le<uint32_t>(at + 132);
  trailer.sealed_ns = load_le<uint64_t>(at + 136);
  trailer.reason = static_cast<SealReason>(at[144]);
  if (trailer.last_lsn < trailer.first_lsn ||
      trailer.entries != trailer.last_lsn - trailer.first_lsn + 1) {
    return Status(Code::kCorruption, "segment trailer with impossible LSNs");
  }
  return trailer;
}

Status encode_marker(const MarkerPayload& marker, uint8_t* to) {
  if (marker.label.empty() || marker.label.size() > limits::kMarkerLabelBytesMax) {
    return Status(Code::kInvalidArgument, "a marker's label has 1 to 255 bytes");
  }
  std::memset(to, 0, kSectorBytes);
  store_le<uint64_t>(to, marker.keep_until_ns);
  store_le<uint16_t>(to + 8, static_cast<uint16_t>(marker.label.size()));
  std::memcpy(to + 16, marker.label.data(), marker.label.size());
  return Status::ok();
}

Result<MarkerPayload> decode_marker(std::span<const uint8_t> from) {
  if (from.size() < kSectorBytes) return Status(Code::kCorruption, "marker is cut off");
  const uint16_t size = load_le<uint16_t>(from.data() + 8);
  if (size == 0 || size > limits::kMarkerLabelBytesMax) {
    return Status(Code::kCorruption, "marker with a label of " + std::to_string(size) + " bytes");
  }
  return MarkerPayload{load_le<uint64_t>(from.data()),
                       std::string(reinterpret_cast<const char*>(from.data()) + 16, size)};
}

Status encode_geometry(const GeometryPayload& geometry, uint8_t* to) {
  if (geometry.name.empty() || geometry.name.size() > limits::kVolumeNameBytesMax) {
    return Status(Code::kInvalidArgument, "a volume's name has 1 to 64 bytes");
  }
  std::memset(to, 0, kSectorBytes);
  to[0] = static_cast<uint8_t>(geometry.action);
  store_le<uint32_t>(to + 4, geometry.block_bytes);
  store_le<uint64_t>(to + 8, geometry.size_bytes);
  store_le<uint16_t>(to + 16, static_cast<uint16_t>(geometry.name.size()));
  std::memcpy(to + 24, geometry.name.data(), geometry.name.size());
  return Status::ok();
}

Result<GeometryPayload> decode_geometry(std::span<const uint8_t> from) {
  if (from.size() < kSectorBytes) return Status(Code::kCorruption, "geometry is cut off");
  GeometryPayload geometry;
  if (from[0] < 1 || from[0] > 3) {
    return Status(Code::kCorruption, "geometry with action " + std::to_string(from[0]));
  }
  geometry.action = static_cast<GeometryAction>(from[0]);
  geometry.block_bytes = load_le<uint32_t>(from.data() + 4);
  geometry.size_bytes = load_le<uint64_t>(from.data() + 8);
  const uint16_t size = load_le<uint16_t>(from.data() + 16);
  if (size == 0 || size > limits::kVolumeNameBytesMax) {
    return Status(Code::kCorruption, "geometry with a name of " + std::to_string(size) + " bytes");
  }
  geometry.name.assign(reinterpret_cast<const char*>(from.data()) + 24, size);
  return geometry;
}

void encode_gap(const Gap& gap, uint8_t* to) {
  std::memset(to, 0, kSectorBytes);
  store_le<uint64_t>(to, gap.from_lsn);
  store_le<uint64_t>(to + 8, gap.from_ns);
  store_le<uint64_t>(to + 16, gap.to_lsn);
  store_le<uint64_t>(to + 24, gap.to_ns);
  const size_t reason = std::min(gap.reason.size(), kSectorBytes - kGapReasonAt);
  store_le<uint16_t>(to + 32, static_cast<uint16_t>(reason));
  std::memcpy(to + kGapReasonAt, gap.reason.data(), reason);
}

Result<Gap> decode_gap(std::span<const uint8_t> from) {
  if (from.size() < kSectorBytes) return Status(Code::kCorruption, "a gap's payload is cut off");
  Gap gap;
  gap.from_lsn = load_le<uint64_t>(from.data());
  gap.from_ns = load_le<uint64_t>(from.data() + 8);
  gap.to_lsn = load_le<uint64_t>(from.data() + 16);
  gap.to_ns = load_le<uint64_t>(from.data() + 24);
  const uint16_t reason = load_le<uint16_t>(from.data() + 32);
  if (reason > kSectorBytes - kGapReasonAt || (gap.to_lsn != 0 && gap.to_lsn <= gap.from_lsn)) {
    return Status(Code::kCorruption, "a gap's payload makes no sense");
  }
  gap.reason.assign(reinterpret_cast<const char*>(from.data()) + kGapReasonAt, reason);
  return gap;
}

std::string segment_relative_path(uint64_t segment, uint64_t created_ns) {
  const time_t seconds = static_cast<time_t>(created_ns / 1'000'000'000);
  tm day{};
  gmtime_r(&seconds, &day);
  char text[64];
  std::snprintf(text, sizeof text, "log/%04d-%02d-%02d/%016llx.eplog", day.tm_year + 1900,
                day.tm_mon + 1, day.tm_mday, static_cast<unsigned long long>(segment));
  return text;
}

std::optional<uint64_t> parse_segment_name(std::string_view name) {
  if (name.size() != 22 || name.substr(16) != ".eplog") return std::nullopt;
  uint64_t value = 0;
  for (const char c : name.substr(0, 16)) {
    int digit = -1;
    if (c >= '0' && c <= '9') digit = c - '0';
    if (c >= 'a' && c <= 'f') digit = c - 'a' + 10;
    if (digit < 0) return std::nullopt;
    value = value << 4 | static_cast<uint64_t>(digit);
  }
  return value;
}

}  // namespace ep::format

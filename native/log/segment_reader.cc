// SPDX-License-Identifier: Apache-2.0
#include "log/segment_reader.h"

#include <algorithm>

#include "base/bytes.h"

namespace ep::log {

using format::BatchHeader;
using format::Entry;
using format::EntryType;

namespace {

/// 1 PiB.
constexpr uint64_t kVolumeSectorsMax = uint64_t{1} << 41;
/// No batch of a good segment is larger.
constexpr uint64_t kBatchBytesMax = 64ull * 1024 * 1024;

bool range_is_good(const Entry& entry) {
  switch (entry.type) {
    case EntryType::kWrite:
    case EntryType::kDiscard:
    case EntryType::kWriteZeroes:
    case EntryType::kUnknown:
      return entry.sectors != 0 && entry.sector < kVolumeSectorsMax &&
             entry.sector + entry.sectors <= kVolumeSectorsMax;
    case EntryType::kMarker:
    case EntryType::kGeometry:
    case EntryType::kGap:
      return entry.sectors == 1;
    case EntryType::kFlush:
    case EntryType::kError:
      return true;
  }
  return false;
}

}  // namespace

Result<std::unique_ptr<SegmentReader>> SegmentReader::open(io::FileSystem& file_system,
                                                           const std::string& path,
                                                           const Uuid& group, uint64_t number) {
  auto file = file_system.open(path, {.read_only = true});
  if (!file) return file.status();
  std::unique_ptr<SegmentReader> reader(new SegmentReader(file_system, *file, path));
  EP_TRY(reader->start(group, number));
  return reader;
}

SegmentReader::~SegmentReader() { files_.close(file_); }

uint64_t SegmentReader::last_lsn() const {
  if (batches_.empty()) return header_.first_lsn - 1;
  return batches_.back().first_lsn + batches_.back().entries - 1;
}

Status SegmentReader::start(const Uuid& group, uint64_t number) {
  const auto info = files_.info(file_);
  if (!info) return info.status();
  file_bytes_ = info->size;
  if (file_bytes_ < format::kSegmentHeaderBytes) {
    return Status(Code::kNotFound, path_ + " has no header yet");
  }
  std::vector<uint8_t> page(format::kSegmentHeaderBytes);
  EP_TRY(read(0, page.data(), page.size()));
  const auto header = format::decode_segment_header(page, &header_crc_);
  if (!header) {
    if (header.status().code() == Code::kUnsupported) {
      return Status(Code::kUnsupported, path_ + ": " + header.status().message());
    }
    const auto content = has_content();
    if (!content) return content.status();
    if (!*content) return Status(Code::kNotFound, path_ + " has no header yet");
    return damaged(0, header.status().message());
  }
  header_ = *header;
  if (header_.group != group || header_.segment != number) {
    return Status(Code::kInvalidArgument, path_ + " is the segment of another group or number");
  }
  format::SegmentTrailer trailer;
  const auto sealed = read_trailer(trailer);
  if (!sealed) return sealed.status();
  sealed_ = *sealed;
  return sealed_ ? read_directory(trailer) : walk();
}

/// Behind a header that cannot be read: is there anything that was logged?
Result<bool> SegmentReader::has_content() const {
  std::vector<uint8_t> bytes(format::kSegmentTrailerBytes);
  if (file_bytes_ >= format::kSegmentHeaderBytes + format::kSegmentTrailerBytes) {
    EP_TRY(read(file_bytes_ - bytes.size(), bytes.data(), bytes.size()));
    if (format::decode_segment_trailer(bytes)) return true;
  }
  if (file_bytes_ < format::kSegmentHeaderBytes + format::kBatchHeaderBytes) return false;
  bytes.resize(format::kBatchHeaderBytes);
  EP_TRY(read(format::kSegmentHeaderBytes, bytes.data(), bytes.size()));
  const auto batch = format::decode_batch_header(bytes);
  if (!batch || batch->bytes() > file_bytes_ - format::kSegmentHeaderBytes) return false;
  bytes.resize(batch->table_bytes());
  EP_TRY(read(format::kSegmentHeaderBytes, bytes.data(), bytes.size()));
  return format::check_batch_table(*batch, bytes).is_ok();
}

/// Without a good one the segment counts as not sealed.
Result<bool> SegmentReader::read_trailer(format::SegmentTrailer& to) const {
  if (file_bytes_ < format::kSegmentHeaderBytes + format::kSegmentTrailerBytes) return false;
  std::vector<uint8_t> page(format::kSegmentTrailerBytes);
  EP_TRY(read(file_bytes_ - page.size(), page.data(), page.size()));
  const auto trailer = format::decode_segment_trailer(page);
  if (trailer.status().code() == Code::kUnsupported) return trailer.status();
  if (!trailer || trailer->group != header_.group || trailer->segment != header_.segment ||
      trailer->epoch != header_.epoch || trailer->first_lsn != header_.first_lsn) {
    return false;
  }
  to = *trailer;
  return true;
}

Status SegmentReader::read_directory(const format::SegmentTrailer& trailer) {
  const uint64_t at = trailer.directory_offset;
  const uint64_t bytes = uint64_t{trailer.batches} * format::kDirectoryEntryBytes;
  if (at < format::kSegmentHeaderBytes || !is_aligned(at, kPageBytes) || at > file_bytes_ ||
      bytes > file_bytes_ - at) {
    return damaged(at, "the directory does not stand in the file");
  }
  std::vector<uint8_t> directory(bytes);
  EP_TRY(read(at, directory.data(), bytes));
  if (crc32(directory.data(), bytes) != trailer.directory_crc) {
    return damaged(at, "the directory fails its checksum");
  }
  batches_.reserve(trailer.batches);
  uint64_t lsn = trailer.first_lsn;
  uint64_t offset = format::kSegmentHeaderBytes;
  for (uint64_t i = 0; i < bytes; i += format::kDirectoryEntryBytes) {
    const auto entry = format::decode_directory_entry(directory.data() + i);
    const Batch batch{uint64_t{entry.page} * kPageBytes, trailer.first_lsn + entry.lsn_delta,
                      entry.entries, entry.crc};
    const uint64_t table_end =
        batch.offset + format::kBatchHeaderBytes + uint64_t{entry.entries} * format::kEntryBytes;
    if (batch.offset < offset || table_end > at || batch.first_lsn != lsn || entry.entries == 0 ||
        entry.entries > limits::kBatchEntriesMax) {
      return damaged(at, "the directory makes no sense");
    }
    batches_.push_back(batch);
    lsn += entry.entries;
    offset = table_end;
  }
  if (batches_.empty() || lsn != trailer.last_lsn + 1 ||
      batches_.back().crc != trailer.last_chain) {
    return damaged(at, "the directory does not hold every entry");
  }
  end_ = at;
  return Status::ok();
}

Status SegmentReader::walk() {
  end_ = file_bytes_;
  uint64_t offset = format::kSegmentHeaderBytes;
  uint32_t chain = header_crc_;
  uint64_t lsn = header_.first_lsn;
  for (;;) {
    BatchHeader header;
    const auto table = table_at(offset, batches_.size(), chain, lsn, header);
    if (!table) {
      // What does not hold is where the log ends; what cannot be read is not known.
      if (table.status().code() == Code::kCorruption) return Status::ok();
      return table.status();
    }
    const auto good = payloads_hold(*table);
    if (!good) return good.status();
    if (!*good) return Status::ok();
    batches_.push_back({offset, lsn, header.entries, header.crc});
    chain = header.crc;
    lsn += header.entries;
    offset += header.bytes();
  }
}

Result<bool> SegmentReader::payloads_hold(const Table& table) const {
  uint64_t first = 0;
  uint64_t sectors = 0;
  for (const Entry& entry : table.entries) {
    if (entry.payload_sectors() == 0) continue;
    if (sectors == 0) first = entry.address;
    sectors += entry.sectors;
  }
  // They stand one behind the other, bounded by the longest batch.
  std::vector<uint8_t> data(sectors * kSectorBytes);
  if (sectors != 0) EP_TRY(read(first * kSectorBytes, data.data(), data.size()));
  for (const Entry& entry : table.entries) {
    if (entry.payload_sectors() == 0) continue;
    const uint8_t* payload = data.data() + (entry.address - first) * kSectorBytes;
    if (crc32(payload, uint64_t{entry.sectors} * kSectorBytes) != entry.data_crc) return false;
  }
  return true;
}

Result<SegmentReader::Table> SegmentReader::table_at(uint64_t offset, size_t number, uint32_t chain,
                                                     uint64_t first_lsn, BatchHeader& to) const {
  if (offset > end_ || end_ - offset < format::kBatchHeaderBytes) {
    return damaged(offset, "no batch here");
  }
  std::vector<uint8_t> bytes(format::kBatchHeaderBytes);
  EP_TRY(read(offset, bytes.data(), bytes.size()));
  const auto header = format::decode_batch_header(bytes);
  if (!header) return damaged(offset, header.status().message());
  if (header->group != header_.group || header->segment != header_.segment ||
      header->epoch != header_.epoch || header->batch != number || header->chain != chain ||
      header->first_lsn != first_lsn) {
    return damaged(offset, "the batch does not continue the segment");
  }
  const uint64_t data_at = offset + align_up(header->table_bytes(), kSectorBytes);
  if (header->bytes() > kBatchBytesMax || header->bytes() > end_ - offset ||
      uint64_t{header->data_sector} * kSectorBytes != data_at) {
    return damaged(offset, "the batch does not stand in the file");
  }
  bytes.resize(header->table_bytes());
  EP_TRY(read(offset, bytes.data(), bytes.size()));
  if (!format::check_batch_table(*header, bytes)) {
    return damaged(offset, "the batch table fails its checksum");
  }
  Table table{first_lsn, {}};
  table.entries.reserve(header->entries);
  uint64_t address = header->data_sector;
  const uint64_t address_end = address + header->data_sectors;
  for (uint32_t i = 0; i < header->entries; ++i) {
    const auto entry =
        format::decode_entry(bytes.data() + format::kBatchHeaderBytes + i * format::kEntryBytes);
    if (!entry) return damaged(offset, entry.status().message());
    const uint64_t sectors = entry->payload_sectors();
    if (!range_is_good(*entry) || entry->address != (sectors == 0 ? 0 : address) ||
        sectors > address_end - address) {
      return damaged(offset, "an entry of the batch makes no sense");
    }
    address += sectors;
    table.entries.push_back(*entry);
  }
  to = *header;
  return table;
}

Result<SegmentReader::Table> SegmentReader::read_table(size_t number) const {
  EP_ASSERT(number < batches_.size());
  const Batch& batch = batches_[number];
  BatchHeader header;
  auto table = table_at(batch.offset, number, number == 0 ? header_crc_ : batches_[number - 1].crc,
                        batch.first_lsn, header);
  if (table && (header.crc != batch.crc || header.entries != batch.entries)) {
    return damaged(batch.offset, "the batch is not the one that the directory names");
  }
  return table;
}

Result<size_t> SegmentReader::batch_of_offset(uint64_t offset) const {
  const auto behind =
      std::upper_bound(batches_.begin(), batches_.end(), offset,
                       [](uint64_t place, const Batch& batch) { return place < batch.offset; });
  if (behind == batches_.begin()) return damaged(offset, "no batch holds this address");
  return static_cast<size_t>(behind - batches_.begin()) - 1;
}

Status SegmentReader::read(uint64_t offset, void* to, size_t size) const {
  size_t got = 0;
  EP_TRY(files_.read(file_, offset, to, size, &got));
  return got == size ? Status::ok() : damaged(offset, "the file ends too early");
}

Status SegmentReader::damaged(uint64_t offset, const std::string& what) const {
  return Status(Code::kCorruption, path_ + " at " + std::to_string(offset) + ": " + what);
}

}  // namespace ep::log

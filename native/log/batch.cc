// SPDX-License-Identifier: Apache-2.0
#include "log/batch.h"

#include <algorithm>
#include <cstdlib>
#include <cstring>

#include "base/limits.h"

namespace ep::log {

namespace {

constexpr uint64_t kStagingBytes =
    format::kSegmentHeaderBytes +
    align_up(format::kBatchHeaderBytes + uint64_t{limits::kBatchEntriesMax} * format::kEntryBytes,
             kPageBytes);

alignas(4096) constexpr uint8_t kZeroPage[kPageBytes] = {};

}  // namespace

format::SegmentTrailer SegmentCursor::trailer(uint64_t sealed_ns, format::SealReason reason) const {
  format::SegmentTrailer trailer;
  trailer.group = group;
  trailer.device = made.device->device;
  trailer.segment = made.number;
  trailer.epoch = epoch;
  trailer.first_lsn = first_lsn;
  trailer.last_lsn = last_lsn;
  trailer.first_time_ns = first_time_ns;
  trailer.last_time_ns = last_time_ns;
  trailer.entries = entries();
  trailer.data_bytes = data_bytes;
  trailer.sealed_ns = sealed_ns;
  trailer.last_chain = chain;
  trailer.reason = reason;
  return trailer;
}

CursorMark SegmentCursor::mark() const {
  return {static_cast<uint32_t>(directory.size()), chain, end, last_lsn, last_time_ns, data_bytes};
}

void SegmentCursor::cut_back(const CursorMark& mark) {
  EP_ASSERT(mark.batches != 0 && mark.batches <= directory.size());
  directory.resize(mark.batches);
  chain = mark.chain;
  end = mark.end;
  last_lsn = mark.last_lsn;
  last_time_ns = mark.last_time_ns;
  data_bytes = mark.data_bytes;
}

SegmentInfo SegmentCursor::info() const {
  SegmentInfo info;
  info.segment = made.number;
  info.device = made.device->device;
  info.path = path_below_device(*made.device, made.absolute_path);
  info.epoch = epoch;
  info.first_lsn = first_lsn;
  info.last_lsn = last_lsn;
  info.first_time_ns = first_time_ns;
  info.last_time_ns = last_time_ns;
  info.entries = entries();
  info.data_bytes = data_bytes;
  info.file_bytes = end;
  return info;
}

BatchPlan plan_batch(const format::EntrySource& source, uint64_t lsn) {
  BatchPlan plan;
  uint64_t data = 0;
  while (lsn < source.head() && plan.entries < limits::kBatchEntriesMax &&
         data < limits::kBatchDataBytesTarget) {
    data += uint64_t{source.held(lsn).entry.payload_sectors()} * kSectorBytes;
    ++plan.entries;
    ++lsn;
  }
  plan.table_bytes = align_up(
      format::kBatchHeaderBytes + uint64_t{plan.entries} * format::kEntryBytes, kSectorBytes);
  plan.bytes = align_up(plan.table_bytes + data, kPageBytes);
  return plan;
}

bool batch_fits(const SegmentCursor& segment, const BatchPlan& plan) {
  const uint64_t end = std::max(segment.end, format::kSegmentHeaderBytes);
  const uint64_t directory =
      align_up((segment.directory.size() + 1) * format::kDirectoryEntryBytes, kPageBytes);
  return end + plan.bytes + directory + format::kSegmentTrailerBytes <= segment.made.capacity_bytes;
}

BatchBytes::BatchBytes()
    : staging_(static_cast<uint8_t*>(std::aligned_alloc(kPageBytes, kStagingBytes))) {
  EP_ASSERT(staging_ != nullptr);
  iov_.reserve(8);
}

BatchBytes::~BatchBytes() { std::free(staging_); }

void BatchBytes::cut(SegmentCursor& segment, const format::EntrySource& source, uint64_t lsn,
                     const BatchPlan& plan) {
  uint8_t* table = staging_ + format::kSegmentHeaderBytes;
  const bool first = segment.empty();
  iov_.clear();
  if (first) {
    segment.first_lsn = lsn;
    segment.first_time_ns = source.held(lsn).entry.time_ns;
    segment.chain = format::encode_segment_header(
        {segment.group, segment.made.device->device, segment.made.number, segment.epoch, lsn,
         segment.made.created_ns, segment.made.capacity_bytes},
        staging_);
    segment.end = format::kSegmentHeaderBytes;
    iov_.push_back({staging_, format::kSegmentHeaderBytes + plan.table_bytes});
  } else {
    iov_.push_back({table, plan.table_bytes});
  }
  const auto data_sector = static_cast<uint32_t>((segment.end + plan.table_bytes) / kSectorBytes);
  uint32_t address = data_sector;
  uint8_t* to = table + format::kBatchHeaderBytes;
  for (uint32_t i = 0; i < plan.entries; ++i, to += format::kEntryBytes) {
    const format::HeldEntry held = source.held(lsn + i);
    format::Entry entry = held.entry;
    if (const uint32_t sectors = entry.payload_sectors(); sectors != 0) {
      entry.address = address;
      address += sectors;
      const uint64_t bytes = uint64_t{sectors} * kSectorBytes;
      iovec& last = iov_.back();
      if (iov_.size() > 1 && static_cast<uint8_t*>(last.iov_base) + last.iov_len == held.data) {
        last.iov_len += bytes;
      } else {
        iov_.push_back({held.data, bytes});
      }
    }
    format::encode_entry(entry, to);
    segment.last_time_ns = entry.time_ns;
  }
  std::memset(to, 0, static_cast<size_t>(table + plan.table_bytes - to));
  const uint64_t used = plan.table_bytes + uint64_t{address - data_sector} * kSectorBytes;
  if (used != plan.bytes) iov_.push_back({const_cast<uint8_t*>(kZeroPage), plan.bytes - used});

  format::BatchHeader header;
  header.chain = segment.chain;
  header.entries = plan.entries;
  header.group = segment.group;
  header.segment = segment.made.number;
  header.epoch = segment.epoch;
  header.batch = static_cast<uint32_t>(segment.directory.size());
  header.pages = static_cast<uint32_t>(plan.bytes / kPageBytes);
  header.first_lsn = lsn;
  header.data_sector = data_sector;
  header.data_sectors = address - data_sector;
  segment.chain = format::encode_batch_header(header, table);
  segment.directory.push_back({static_cast<uint32_t>(segment.end / kPageBytes), plan.entries,
                               segment.chain, static_cast<uint32_t>(lsn - segment.first_lsn)});
  offset_ = first ? 0 : segment.end;
  size_ = plan.bytes + (first ? format::kSegmentHeaderBytes : 0);
  segment.end += plan.bytes;
  segment.data_bytes += uint64_t{header.data_sectors} * kSectorBytes;
  segment.last_lsn = lsn + plan.entries - 1;
}

}  // namespace ep::log

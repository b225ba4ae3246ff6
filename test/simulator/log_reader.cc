// SPDX-License-Identifier: Apache-2.0
#include "log_reader.h"

#include <algorithm>
#include <span>

namespace ep::sim {

namespace {

/// Reads the batch at `at`; false when there is no good one.
bool read_batch(std::span<const uint8_t> all, uint64_t at, const format::SegmentHeader& header,
                uint32_t chain, uint32_t number, uint64_t lsn, format::BatchHeader* found,
                std::vector<LogEntry>* entries) {
  if (at + 128 > all.size()) return false;
  const auto batch = format::decode_batch_header(all.subspan(at, 128));
  if (!batch || batch->chain != chain || batch->group != header.group ||
      batch->segment != header.segment || batch->epoch != header.epoch || batch->batch != number ||
      batch->first_lsn != lsn || at + batch->bytes() > all.size() ||
      !format::check_batch_table(*batch, all.subspan(at, batch->table_bytes()))) {
    return false;
  }
  uint64_t address = (at + align_up(batch->table_bytes(), 512)) / 512;
  if (batch->data_sector != address) return false;
  for (uint32_t i = 0; i < batch->entries; ++i) {
    const auto entry = format::decode_entry(all.data() + at + 128 + uint64_t{i} * 32);
    if (!entry) return false;
    LogEntry read{lsn + i, *entry, {}, {}, {}};
    const uint64_t size = uint64_t{entry->payload_sectors()} * 512;
    if (size != 0) {
      if (entry->address != address || address * 512 + size > at + batch->bytes()) return false;
      const auto data = all.subspan(address * 512, size);
      if (crc32(data.data(), size) != entry->data_crc) return false;
      if (entry->type == format::EntryType::kWrite) {
        for (uint64_t s = 0; s < size; s += 512) read.tags.push_back(sector_tag(data.data() + s));
      } else if (entry->type == format::EntryType::kMarker) {
        const auto marker = format::decode_marker(data);
        if (marker) read.label = marker->label;
      } else if (entry->type == format::EntryType::kGap) {
        const auto gap = format::decode_gap(data);
        if (gap) read.gap = *gap;
      }
      address += size / 512;
    }
    entries->push_back(std::move(read));
  }
  *found = *batch;
  return true;
}

LogSegment read_segment(const std::string& path, const std::vector<uint8_t>& bytes) {
  LogSegment segment;
  segment.path = path;
  const std::span<const uint8_t> all(bytes);
  uint32_t chain = 0;
  const auto header =
      format::decode_segment_header(all.first(std::min<size_t>(4096, all.size())), &chain);
  if (!header) return segment;
  segment.number = header->segment;
  segment.epoch = header->epoch;
  segment.first_lsn = header->first_lsn;
  uint64_t at = 4096;
  uint64_t lsn = header->first_lsn;
  uint32_t batches = 0;
  uint64_t data_bytes = 0;
  std::vector<uint8_t> directory;
  for (;;) {
    std::vector<LogEntry> entries;
    format::BatchHeader batch;
    if (!read_batch(all, at, *header, chain, batches, lsn, &batch, &entries)) break;
    directory.resize(directory.size() + 16);
    format::encode_directory_entry({static_cast<uint32_t>(at / 4096), batch.entries, batch.crc,
                                    static_cast<uint32_t>(lsn - header->first_lsn)},
                                   directory.data() + directory.size() - 16);
    chain = batch.crc;
    lsn += batch.entries;
    at += batch.bytes();
    data_bytes += uint64_t{batch.data_sectors} * 512;
    ++batches;
    for (LogEntry& entry : entries) segment.entries.push_back(std::move(entry));
  }
  if (bytes.size() < 8192) return segment;
  const auto trailer = format::decode_segment_trailer(all.last(4096));
  if (!trailer) return segment;
  segment.sealed = true;
  const auto expect = [&](bool right, const char* what) {
    if (!right && segment.problem.empty()) segment.problem = path + ": wrong " + what;
  };
  expect(!segment.entries.empty(), "content: sealed and empty");
  if (segment.entries.empty()) return segment;
  expect(trailer->group == header->group && trailer->segment == header->segment &&
             trailer->epoch == header->epoch,
         "names in the trailer");
  expect(trailer->first_lsn == header->first_lsn && trailer->last_lsn == lsn - 1, "LSNs");
  expect(trailer->entries == segment.entries.size() && trailer->batches == batches, "counts");
  expect(trailer->first_time_ns == segment.entries.front().entry.time_ns &&
             trailer->last_time_ns == segment.entries.back().entry.time_ns,
         "times");
  expect(trailer->data_bytes == data_bytes && trailer->last_chain == chain, "sums");
  expect(trailer->directory_offset == at &&
             bytes.size() == at + align_up(directory.size(), 4096) + 4096,
         "sizes");
  expect(trailer->directory_crc == crc32(directory.data(), directory.size()) &&
             bytes.size() >= at + directory.size() &&
             std::equal(directory.begin(), directory.end(),
                        bytes.begin() + static_cast<ptrdiff_t>(at)),
         "directory");
  return segment;
}

}  // namespace

std::vector<const LogSegment*> LogReader::read(const Machine& machine,
                                               const std::vector<std::string>& folders) {
  std::vector<const LogSegment*> found;
  std::map<std::string, Cached> kept;
  for (const std::string& folder : folders) {
    for (const std::string& day : machine.list(folder + "/log")) {
      for (const std::string& name : machine.list(folder + "/log/" + day)) {
        if (!format::parse_segment_name(name)) continue;
        const std::string path = folder + "/log/" + day + "/" + name;
        const uint64_t version = machine.version(path);
        auto node = cache_.extract(path);
        if (node.empty() || node.mapped().version != version) {
          kept[path] = {version, read_segment(path, machine.read_all(path))};
        } else {
          kept.insert(std::move(node));
        }
      }
    }
  }
  cache_ = std::move(kept);
  for (const auto& [path, cached] : cache_) {
    if (cached.segment.number != 0) found.push_back(&cached.segment);
  }
  std::sort(found.begin(), found.end(),
            [](const LogSegment* a, const LogSegment* b) { return a->number < b->number; });
  return found;
}

}  // namespace ep::sim

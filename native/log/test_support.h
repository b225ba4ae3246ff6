// SPDX-License-Identifier: Apache-2.0
#pragma once

// For tests of log and above: reads a group's segments as a stranger would, from the page
// segment-format.md alone, without the scanner of recovery. Everything that can be checked is.

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <span>
#include <string>
#include <vector>

#include "format/segment.h"

namespace ep::log {

struct ReadEntry {
  uint64_t lsn = 0;
  format::Entry entry;
  std::vector<uint8_t> data;
};

struct ReadSegment {
  std::string path;
  uint64_t number = 0;
  uint64_t epoch = 0;
  bool sealed = false;
  format::SealReason reason{};
  std::vector<ReadEntry> entries;
  /// What a sealed file has wrong; empty when it is right.
  std::string problem;
};

inline std::vector<uint8_t> read_whole(const std::string& path) {
  std::ifstream file(path, std::ios::binary | std::ios::ate);
  std::vector<uint8_t> bytes(static_cast<size_t>(file.tellg()));
  file.seekg(0);
  file.read(reinterpret_cast<char*>(bytes.data()), static_cast<std::streamsize>(bytes.size()));
  return bytes;
}

inline ReadSegment read_segment(const std::string& path) {
  ReadSegment segment;
  segment.path = path;
  const std::vector<uint8_t> bytes = read_whole(path);
  const std::span<const uint8_t> all(bytes);
  uint32_t chain = 0;
  const auto header =
      format::decode_segment_header(all.first(std::min<size_t>(4096, all.size())), &chain);
  if (!header) {
    segment.problem = header.status().message();
    return segment;
  }
  segment.number = header->segment;
  segment.epoch = header->epoch;
  uint64_t at = 4096;
  uint64_t lsn = header->first_lsn;
  std::vector<uint8_t> directory;
  uint64_t data_bytes = 0;
  for (;;) {
    if (at + 128 > bytes.size()) break;
    const auto batch = format::decode_batch_header(all.subspan(at, 128));
    if (!batch || batch->chain != chain || batch->group != header->group ||
        batch->segment != header->segment || batch->epoch != header->epoch ||
        batch->batch != directory.size() / 16 || batch->first_lsn != lsn ||
        at + batch->bytes() > bytes.size() ||
        !format::check_batch_table(*batch, all.subspan(at, batch->table_bytes()))) {
      break;
    }
    std::vector<ReadEntry> entries;
    uint64_t address = (at + align_up(batch->table_bytes(), 512)) / 512;
    bool good = batch->data_sector == address;
    for (uint32_t i = 0; i < batch->entries && good; ++i) {
      const auto entry = format::decode_entry(bytes.data() + at + 128 + i * 32);
      good = entry.is_ok();
      if (!good) break;
      ReadEntry read{lsn + i, *entry, {}};
      if (const uint64_t size = uint64_t{entry->payload_sectors()} * 512; size != 0) {
        good = entry->address == address && address * 512 + size <= at + batch->bytes() &&
               crc32(bytes.data() + address * 512, size) == entry->data_crc;
        if (!good) break;
        read.data.assign(bytes.begin() + static_cast<ptrdiff_t>(address * 512),
                         bytes.begin() + static_cast<ptrdiff_t>(address * 512 + size));
        address += size / 512;
      } else {
        good = entry->address == 0;
      }
      entries.push_back(std::move(read));
    }
    if (!good) break;
    uint8_t line[16];
    format::encode_directory_entry({static_cast<uint32_t>(at / 4096), batch->entries, batch->crc,
                                    static_cast<uint32_t>(lsn - header->first_lsn)},
                                   line);
    directory.insert(directory.end(), line, line + 16);
    data_bytes += uint64_t{batch->data_sectors} * 512;
    chain = batch->crc;
    lsn += batch->entries;
    at += batch->bytes();
    std::move(entries.begin(), entries.end(), std::back_inserter(segment.entries));
  }
  const auto trailer = format::decode_segment_trailer(all.last(std::min<size_t>(4096, all.size())));
  if (!trailer) return segment;
  segment.sealed = true;
  segment.reason = trailer->reason;
  const auto expect = [&](bool right, const char* what) {
    if (!right && segment.problem.empty()) segment.problem = path + ": wrong " + what;
  };
  expect(!segment.entries.empty(), "content: sealed and empty");
  if (segment.entries.empty()) return segment;
  expect(trailer->group == header->group && trailer->device == header->device, "names");
  expect(trailer->segment == header->segment && trailer->epoch == header->epoch, "numbers");
  expect(trailer->first_lsn == header->first_lsn && trailer->last_lsn == lsn - 1, "LSNs");
  expect(trailer->entries == segment.entries.size(), "entry count");
  expect(trailer->first_time_ns == segment.entries.front().entry.time_ns, "first time");
  expect(trailer->last_time_ns == segment.entries.back().entry.time_ns, "last time");
  expect(trailer->data_bytes == data_bytes, "payload bytes");
  expect(trailer->last_chain == chain, "chain");
  expect(trailer->batches == directory.size() / 16, "batch count");
  expect(trailer->directory_offset == at, "directory offset");
  expect(trailer->directory_crc == crc32(directory.data(), directory.size()), "directory checksum");
  expect(bytes.size() == at + align_up(directory.size(), 4096) + 4096, "file size");
  expect(bytes.size() >= at + directory.size() &&
             std::equal(directory.begin(), directory.end(),
                        bytes.begin() + static_cast<ptrdiff_t>(at)),
         "directory");
  return segment;
}

/// All segments below `folder` (a DeviceFolder's) that have a header, by number.
inline std::vector<ReadSegment> read_segments(const std::string& folder) {
  std::vector<ReadSegment> segments;
  if (!std::filesystem::exists(folder + "/log")) return segments;
  for (const auto& entry : std::filesystem::recursive_directory_iterator(folder + "/log")) {
    if (!format::parse_segment_name(entry.path().filename().string())) continue;
    if (entry.file_size() < 4096) continue;
    ReadSegment segment = read_segment(entry.path().string());
    if (segment.number != 0) segments.push_back(std::move(segment));
  }
  std::sort(segments.begin(), segments.end(),
            [](const ReadSegment& a, const ReadSegment& b) { return a.number < b.number; });
  return segments;
}

}  // namespace ep::log

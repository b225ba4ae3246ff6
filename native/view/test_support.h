// SPDX-License-Identifier: Apache-2.0
#pragma once

// For tests of view and above, the simulator among them: segments with any content, and what the
// control plane would make of them: delta maps of any level and the manifest, written from the
// format pages alone. It shares no code with the readers of this folder. Everything goes through
// io::FileSystem, so that a simulated disk can stand in.

#include <algorithm>
#include <cstdio>
#include <deque>
#include <map>
#include <random>
#include <string>
#include <vector>

#include "base/assert.h"
#include "format/map.h"
#include "log/batch.h"
#include "log/segment_file.h"
#include "log/segment_info.h"

namespace ep::view {

/// Extents without overlap; laying one over others cuts those.
class TestExtents {
 public:
  struct Part {
    uint64_t end = 0;
    uint64_t segment = 0;  // number; kZero or kUnknown
    Uuid device;
    uint64_t address = 0;  // of its first sector
  };
  static constexpr uint64_t kZero = ~uint64_t{0};
  static constexpr uint64_t kUnknown = ~uint64_t{0} - 1;

  void lay(uint64_t position, const Part& part) {
    split(position);
    split(part.end);
    parts_.erase(parts_.lower_bound(position), parts_.lower_bound(part.end));
    parts_[position] = part;
  }
  void lay(const TestExtents& newer) {
    for (const auto& [position, part] : newer.parts_) lay(position, part);
  }
  void lay_entry(const format::Entry& entry, const Uuid& device, uint64_t segment) {
    Part part;
    switch (entry.type) {
      case format::EntryType::kWrite:
        part = {0, segment, device, entry.address};
        break;
      case format::EntryType::kDiscard:
      case format::EntryType::kWriteZeroes:
        part.segment = kZero;
        break;
      case format::EntryType::kUnknown:
        part.segment = kUnknown;
        break;
      default:
        return;
    }
    const uint64_t position = format::position_of(entry.volume, entry.sector);
    part.end = position + entry.sectors;
    lay(position, part);
  }
  [[nodiscard]] const std::map<uint64_t, Part>& parts() const { return parts_; }

 private:
  void split(uint64_t at) {
    auto behind = parts_.upper_bound(at);
    if (behind == parts_.begin()) return;
    auto& [position, part] = *std::prev(behind);
    if (position == at || part.end <= at) return;
    Part rest = part;
    if (rest.segment < kUnknown) rest.address += at - position;
    part.end = at;
    parts_[at] = rest;
  }

  std::map<uint64_t, Part> parts_;
};

/// The bytes of a map file (src/maps/map-format.md).
class TestMapEncoder {
 public:
  /// Blocks are closed at about `block_bytes`.
  explicit TestMapEncoder(size_t block_bytes = 32 * 1024 - 64) : block_bytes_(block_bytes) {}

  std::vector<uint8_t> encode(const format::MapHeader& names, const TestExtents& extents) {
    file_.assign(format::kMapHeaderBytes, 0);
    format::MapHeader header = names;
    for (const auto& [position, part] : extents.parts()) {
      // A region's runs do not reach over its border.
      for (uint64_t at = position; at < part.end;) {
        const uint64_t border = (at / format::kRegionSectors + 1) * format::kRegionSectors;
        const uint64_t end = std::min(part.end, border);
        put(at, end - at, part, at - position);
        at = end;
      }
    }
    close_block();
    header.extents = extents_;
    header.data_sectors = data_sectors_;
    header.zero_sectors = zero_sectors_;
    header.unknown_sectors = unknown_sectors_;
    header.regions = regions_.size();
    header.blocks = index_.size() / format::kMapIndexEntryBytes;
    header.segment_table = section(segment_table());
    header.index = section(index_);
    header.bitmap = section(bitmap());
    header.geometry = section({});
    header.file_bytes = file_.size();
    put_header(header);
    return std::move(file_);
  }

 private:
  void put(uint64_t position, uint64_t sectors, const TestExtents::Part& part, uint64_t shift) {
    const uint64_t key = format::region_key_of(position);
    if (!block_.empty() && block_.size() > block_bytes_) {
      end_run();
      close_block();
    }
    if (block_.empty()) {
      block_.assign(format::kMapBlockHeaderBytes, 0);
      first_key_ = key;
      has_run_ = false;
      last_segment_ = ~uint64_t{0};
      last_address_ = 0;
      count_ = 0;
    }
    if (!has_run_ || key != last_key_) {
      end_run();
      varint(key >> 32);
      varint(key & 0xffffffff);
      run_end_ = 0;
      has_run_ = true;
      last_key_ = key;
      if (regions_.empty() || regions_.back() != key) regions_.push_back(key);
    }
    const uint64_t start = position % format::kRegionSectors;
    varint(start - run_end_);
    run_end_ = start + sectors;
    ++count_;
    ++extents_;
    if (part.segment == TestExtents::kZero) {
      zero_sectors_ += sectors;
      varint(sectors * 4 + 2);
    } else if (part.segment == TestExtents::kUnknown) {
      unknown_sectors_ += sectors;
      varint(sectors * 4 + 3);
    } else {
      data_sectors_ += sectors;
      const uint64_t index = segment_index(part);
      live_[index] += sectors;
      const uint64_t address = part.address + shift;
      if (index == last_segment_) {
        varint(sectors * 4);
        const int32_t delta = static_cast<int32_t>(address - last_address_);
        varint(static_cast<uint32_t>(delta) << 1 ^ static_cast<uint32_t>(delta >> 31));
      } else {
        varint(sectors * 4 + 1);
        varint(index);
        varint(address);
      }
      last_segment_ = index;
      last_address_ = address + sectors;
    }
  }

  void end_run() {
    if (!has_run_ || block_.empty()) return;
    varint(0);
    varint(0);
    has_run_ = false;
  }

  void close_block() {
    if (block_.empty()) return;
    end_run();
    std::copy_n("EPMB", 4, block_.begin());
    store_le<uint32_t>(block_.data() + 8, static_cast<uint32_t>(block_.size()));
    store_le<uint32_t>(block_.data() + 12, count_);
    const uint32_t crc = crc32(block_.data(), block_.size());  // its field is zero still
    store_le<uint32_t>(block_.data() + 4, crc);
    uint8_t line[format::kMapIndexEntryBytes];
    store_le<uint64_t>(line, first_key_);
    store_le<uint64_t>(line + 8, last_key_);
    store_le<uint64_t>(line + 16, file_.size());
    store_le<uint32_t>(line + 24, static_cast<uint32_t>(block_.size()));
    store_le<uint32_t>(line + 28, crc);
    index_.insert(index_.end(), line, line + sizeof line);
    file_.insert(file_.end(), block_.begin(), block_.end());
    block_.clear();
  }

  uint64_t segment_index(const TestExtents::Part& part) {
    for (size_t i = 0; i < table_.size(); ++i) {
      if (table_[i].first == part.device && table_[i].second == part.segment) return i;
    }
    table_.emplace_back(part.device, part.segment);
    live_.push_back(0);
    return table_.size() - 1;
  }

  std::vector<uint8_t> segment_table() {
    std::vector<uint8_t> bytes(table_.size() * format::kMapSegmentBytes);
    for (size_t i = 0; i < table_.size(); ++i) {
      uint8_t* at = bytes.data() + i * format::kMapSegmentBytes;
      std::copy(table_[i].first.bytes.begin(), table_[i].first.bytes.end(), at);
      store_le<uint64_t>(at + 16, table_[i].second);
      store_le<uint64_t>(at + 24, live_[i]);
    }
    return bytes;
  }

  std::vector<uint8_t> bitmap() {
    std::map<uint64_t, std::vector<uint8_t>> volumes;
    for (const uint64_t key : regions_) {
      const uint64_t region = key & 0xffffffff;
      std::vector<uint8_t>& bits = volumes[key >> 32];
      bits.resize(std::max<size_t>(bits.size(), (region / 32 + 1) * 4));
      bits[region / 8] |= static_cast<uint8_t>(1 << (region % 8));
    }
    std::vector<uint8_t> bytes;
    for (const auto& [volume, bits] : volumes) {
      const size_t at = bytes.size();
      bytes.resize(at + 8);
      store_le<uint32_t>(bytes.data() + at, static_cast<uint32_t>(volume));
      store_le<uint32_t>(bytes.data() + at + 4, static_cast<uint32_t>(bits.size() / 4));
      bytes.insert(bytes.end(), bits.begin(), bits.end());
    }
    return bytes;
  }

  format::MapSection section(const std::vector<uint8_t>& content) {
    const format::MapSection section{file_.size(), content.size(),
                                     crc32(content.data(), content.size())};
    file_.insert(file_.end(), content.begin(), content.end());
    return section;
  }

  void put_header(const format::MapHeader& header) {
    uint8_t* at = file_.data();
    std::copy_n("EPDELMAP", 8, at);
    store_le<uint32_t>(at + 8, 1);
    store_le<uint32_t>(at + 20, 4096);
    std::copy(header.group.bytes.begin(), header.group.bytes.end(), at + 24);
    std::copy(header.device.bytes.begin(), header.device.bytes.end(), at + 40);
    store_le<uint64_t>(at + 56, header.id);
    store_le<uint32_t>(at + 64, header.level);
    store_le<uint32_t>(at + 68, header.expiry_class);
    const uint64_t numbers[] = {header.first_lsn,    header.last_lsn,        header.first_time_ns,
                                header.last_time_ns, header.previous,        header.first_child,
                                header.created_ns,   header.extents,         header.data_sectors,
                                header.zero_sectors, header.unknown_sectors, header.regions,
                                header.blocks,       header.file_bytes};
    for (size_t i = 0; i < std::size(numbers); ++i) store_le<uint64_t>(at + 72 + i * 8, numbers[i]);
    const format::MapSection* sections[] = {&header.segment_table, &header.index, &header.bitmap,
                                            &header.geometry};
    for (size_t i = 0; i < 4; ++i) {
      store_le<uint64_t>(at + 192 + i * 24, sections[i]->offset);
      store_le<uint64_t>(at + 200 + i * 24, sections[i]->length);
      store_le<uint32_t>(at + 208 + i * 24, sections[i]->crc);
    }
    store_le<uint32_t>(at + 16, crc32(at, format::kMapHeaderBytes));  // its field is zero still
  }

  void varint(uint64_t value) {
    for (; value >= 0x80; value >>= 7) block_.push_back(static_cast<uint8_t>(value | 0x80));
    block_.push_back(static_cast<uint8_t>(value));
  }

  size_t block_bytes_;
  std::vector<uint8_t> file_;
  std::vector<uint8_t> block_;
  std::vector<uint8_t> index_;
  std::vector<uint64_t> regions_;
  std::vector<std::pair<Uuid, uint64_t>> table_;
  std::vector<uint64_t> live_;
  uint64_t first_key_ = 0;
  uint64_t last_key_ = 0;
  uint64_t run_end_ = 0;
  bool has_run_ = false;
  uint64_t last_segment_ = 0;
  uint64_t last_address_ = 0;
  uint32_t count_ = 0;
  uint64_t extents_ = 0;
  uint64_t data_sectors_ = 0;
  uint64_t zero_sectors_ = 0;
  uint64_t unknown_sectors_ = 0;
};

inline Status write_test_file(io::FileSystem& files, const std::string& path,
                              const std::vector<uint8_t>& bytes) {
  EP_TRY(files.make_directories(path.substr(0, path.rfind('/'))));
  auto file = files.open(path, {.create = true});
  if (!file) return file.status();
  Status status = files.truncate(*file, 0);
  if (status) status = files.write(*file, 0, bytes.data(), bytes.size());
  if (status) status = files.sync(*file);
  files.close(*file);
  return status;
}

/// A manifest that is appended to, commit by commit (src/maps/manifest-format.md).
class TestManifest {
 public:
  TestManifest(io::FileSystem& files, std::string folder, const Uuid& group)
      : files_(files), path_(std::move(folder) + "/manifest") {
    line("{\"magic\":\"EPMANIFEST\",\"version\":1,\"group\":\"" + group.to_string() + "\"}");
  }

  void add_segment(const log::SegmentInfo& info, const std::string& path) {
    records_.push_back("{\"kind\":\"segment\",\"segment\":" + std::to_string(info.segment) +
                       ",\"device\":\"" + info.device.to_string() + "\",\"path\":\"" + path +
                       "\",\"epoch\":" + std::to_string(info.epoch) +
                       lsns(info.first_lsn, info.last_lsn) +
                       ",\"entries\":" + std::to_string(info.entries) +
                       ",\"dataBytes\":" + std::to_string(info.data_bytes) +
                       ",\"fileBytes\":" + std::to_string(info.file_bytes) + ",\"sealedAt\":\"" +
                       kTime + "\",\"reason\":1}");
  }
  void add_map(const format::MapHeader& map, const std::string& path, uint64_t file_bytes) {
    records_.push_back("{\"kind\":\"map\",\"id\":" + std::to_string(map.id) + ",\"device\":\"" +
                       map.device.to_string() + "\",\"path\":\"" + path +
                       "\",\"level\":" + std::to_string(map.level) + ",\"expiryClass\":0" +
                       lsns(map.first_lsn, map.last_lsn) +
                       ",\"previous\":" + std::to_string(map.previous) +
                       ",\"firstChild\":" + std::to_string(map.first_child) +
                       ",\"extents\":1,\"dataSectors\":1,"
                       "\"fileBytes\":" +
                       std::to_string(file_bytes) + "}");
  }
  void add_gap(uint64_t from_lsn, uint64_t to_lsn) {
    const bool open = to_lsn == 0;
    records_.push_back("{\"kind\":\"gap\",\"fromLsn\":" + std::to_string(from_lsn) +
                       ",\"toLsn\":" + (open ? "null" : std::to_string(to_lsn)) + ",\"from\":\"" +
                       kTime + "\",\"to\":" + (open ? "null" : "\"" + std::string(kTime) + "\"") +
                       ",\"reason\":\"test\",\"healed\":" + (open ? "false" : "true") + "}");
  }

  /// Everything added since the last one becomes one line; the file is written and synced.
  Status commit() {
    std::string json = "{\"records\":[";
    for (size_t i = 0; i < records_.size(); ++i) json += (i == 0 ? "" : ",") + records_[i];
    records_.clear();
    line(json + "]}");
    return write_test_file(files_, path_, {content_.begin(), content_.end()});
  }
  [[nodiscard]] const std::string& content() const { return content_; }
  [[nodiscard]] const std::string& path() const { return path_; }

 private:
  static constexpr const char* kTime = "2026-01-01T00:00:00.000000000Z";

  static std::string lsns(uint64_t first, uint64_t last) {
    return ",\"firstLsn\":" + std::to_string(first) + ",\"lastLsn\":" + std::to_string(last) +
           ",\"firstTime\":\"" + kTime + "\",\"lastTime\":\"" + kTime + "\"";
  }
  static std::string hex8(uint32_t value) {
    char text[9];
    std::snprintf(text, sizeof text, "%08x", value);
    return text;
  }
  void line(const std::string& json) {
    const std::string length = hex8(static_cast<uint32_t>(json.size()));
    crc_ = crc32(json.data(), json.size(), crc32(length.data(), length.size(), crc_));
    content_ += hex8(crc_) + " " + length + " " + json + "\n";
  }

  io::FileSystem& files_;
  std::string path_;
  std::string content_;
  std::vector<std::string> records_;
  uint32_t crc_ = 0;
};

/// What map workers would do, one step at a time: maps of single segments, maps of neighbouring
/// maps, and the manifest with them. Removes nothing.
class TestMapKeeper {
 public:
  struct Map {
    format::MapHeader header;
    std::string path;  // below the device's folder
    TestExtents extents;
  };

  TestMapKeeper(io::FileSystem& files, const Uuid& group, std::vector<log::DeviceFolder> devices)
      : files_(files),
        group_(group),
        devices_(std::move(devices)),
        manifest_(files, devices_.front().folder, group) {}

  /// Level 0 from the entries [first, last] of a segment. `table` gives the entry of an LSN.
  template <typename EntryOf>
  Status map_segment(const log::SegmentInfo& info, uint64_t first, uint64_t last,
                     const EntryOf& entry_of, size_t device, size_t block_bytes) {
    Map map;
    map.header.first_lsn = first;
    map.header.last_lsn = last;
    for (uint64_t lsn = first; lsn <= last; ++lsn) {
      map.extents.lay_entry(entry_of(lsn), info.device, info.segment);
    }
    return write(std::move(map), device, block_bytes);
  }

  /// One level above maps [from, from + count) of maps(), which follow each other.
  Status merge(size_t from, size_t count, size_t device, size_t block_bytes) {
    Map map;
    for (size_t i = from; i < from + count; ++i) {
      map.extents.lay(maps_[i].extents);
      map.header.level = std::max(map.header.level, maps_[i].header.level + 1);
    }
    map.header.first_lsn = maps_[from].header.first_lsn;
    map.header.last_lsn = maps_[from + count - 1].header.last_lsn;
    map.header.first_child = maps_[from].header.id;
    return write(std::move(map), device, block_bytes);
  }

  [[nodiscard]] const std::vector<Map>& maps() const { return maps_; }
  [[nodiscard]] std::string absolute_path(const Map& map) const {
    for (const log::DeviceFolder& device : devices_) {
      if (device.device == map.header.device) return device.folder + "/" + map.path;
    }
    EP_ASSERT(false);
    return "";
  }
  TestManifest& manifest() { return manifest_; }

 private:
  Status write(Map map, size_t device, size_t block_bytes) {
    map.header.group = group_;
    map.header.device = devices_[device].device;
    map.header.id = ++last_id_;
    char name[40];
    std::snprintf(name, sizeof name, "maps/%016llx.epmap",
                  static_cast<unsigned long long>(last_id_));
    map.path = name;
    const auto bytes = TestMapEncoder(block_bytes).encode(map.header, map.extents);
    EP_TRY(write_test_file(files_, devices_[device].folder + "/" + map.path, bytes));
    manifest_.add_map(map.header, map.path, bytes.size());
    maps_.push_back(std::move(map));
    return Status::ok();
  }

  io::FileSystem& files_;
  Uuid group_;
  std::vector<log::DeviceFolder> devices_;
  TestManifest manifest_;
  std::vector<Map> maps_;
  uint64_t last_id_ = 0;
};

/// Entries in plain memory, for ever: the log buffer of a test.
class TestEntries : public format::EntrySource {
 public:
  explicit TestEntries(uint64_t first = 1) : first_(first) {}
  /// Returns its LSN. Missing LSNs, in a gap, are left out with skip_to.
  uint64_t add(format::Entry entry, std::vector<uint8_t> data = {}) {
    entry.time_ns = 1'700'000'000'000'000'000 + 1'000 * head();
    entry.data_crc = data.empty() ? 0 : crc32(data.data(), data.size());
    entries_.push_back({entry, std::move(data)});
    return head() - 1;
  }
  [[nodiscard]] uint64_t head() const override { return first_ + entries_.size(); }
  [[nodiscard]] format::HeldEntry held(uint64_t lsn) const override {
    const auto& [entry, data] = entries_[lsn - first_];
    return {entry, const_cast<uint8_t*>(data.data())};
  }
  [[nodiscard]] uint64_t bytes_since(uint64_t lsn) const override {
    uint64_t sum = 0;
    for (; lsn < head(); ++lsn) sum += entries_[lsn - first_].second.size();
    return sum;
  }
  [[nodiscard]] uint64_t data_bytes() const override { return ~uint64_t{0}; }

 private:
  uint64_t first_;
  std::deque<std::pair<format::Entry, std::vector<uint8_t>>> entries_;
};

/// Part of a source, up to an LSN: what a batch is cut from.
class TestEntriesUpTo : public format::EntrySource {
 public:
  TestEntriesUpTo(const format::EntrySource& whole, uint64_t head) : whole_(whole), head_(head) {}
  [[nodiscard]] uint64_t head() const override { return head_; }
  [[nodiscard]] format::HeldEntry held(uint64_t lsn) const override { return whole_.held(lsn); }
  [[nodiscard]] uint64_t bytes_since(uint64_t lsn) const override {
    uint64_t sum = 0;
    for (; lsn < head_; ++lsn) sum += whole_.held(lsn).entry.payload_sectors() * kSectorBytes;
    return sum;
  }
  [[nodiscard]] uint64_t data_bytes() const override { return ~uint64_t{0}; }

 private:
  const format::EntrySource& whole_;
  uint64_t head_;
};

struct TestSegment {
  log::SegmentInfo info;
  std::string path;  // below the device's folder
  std::string absolute_path;
  /// By LSN - info.first_lsn, with their addresses.
  std::vector<uint32_t> addresses;
};

/// Writes entries [first, last] of a source as a segment, in batches of up to `batch_entries`
/// (random below). Unsealed ones get a tail of garbage.
inline Result<TestSegment> write_test_segment(io::FileSystem& files,
                                              const log::DeviceFolder& device, const Uuid& group,
                                              uint64_t number, uint64_t epoch,
                                              const format::EntrySource& entries, uint64_t first,
                                              uint64_t last, bool seal, uint32_t batch_entries,
                                              std::mt19937_64& random) {
  constexpr uint64_t kCreatedNs = 1'700'000'000'000'000'000;
  TestSegment segment;
  segment.path = format::segment_relative_path(number, kCreatedNs);
  segment.absolute_path = device.folder + "/" + segment.path;
  EP_TRY(files.make_directories(segment.absolute_path.substr(0, segment.absolute_path.rfind('/'))));
  auto file = files.open(segment.absolute_path, {.create = true});
  if (!file) return file.status();
  log::SegmentCursor cursor;
  cursor.made = {*file, &device, segment.absolute_path, number, kCreatedNs, 1 << 30, false};
  cursor.group = group;
  cursor.epoch = epoch;
  log::BatchBytes bytes;
  Status status;
  for (uint64_t lsn = first; lsn <= last && status;) {
    const TestEntriesUpTo part(entries, std::min(last + 1, lsn + 1 + random() % batch_entries));
    const log::BatchPlan plan = log::plan_batch(part, lsn);
    bytes.cut(cursor, part, lsn, plan);
    uint64_t offset = bytes.offset();
    for (const iovec& vector : bytes.iov()) {
      if (status) status = files.write(*file, offset, vector.iov_base, vector.iov_len);
      offset += vector.iov_len;
    }
    uint64_t address = (cursor.end - plan.bytes + plan.table_bytes) / kSectorBytes;
    for (uint32_t i = 0; i < plan.entries; ++i) {
      const uint64_t sectors = entries.held(lsn + i).entry.payload_sectors();
      segment.addresses.push_back(sectors == 0 ? 0 : static_cast<uint32_t>(address));
      address += sectors;
    }
    lsn += plan.entries;
  }
  segment.info = cursor.info();
  if (status && seal) {
    auto size = log::seal_segment_file(files, *file, cursor.directory, cursor.end,
                                       cursor.trailer(kCreatedNs, format::SealReason::kSize));
    status = size.status();
    if (size) segment.info.file_bytes = *size;
    segment.info.sealed = true;
  } else if (status) {
    std::vector<uint8_t> garbage(random() % 20000);
    for (uint8_t& byte : garbage) byte = static_cast<uint8_t>(random());
    status = files.write(*file, cursor.end, garbage.data(), garbage.size());
  }
  files.close(*file);
  if (!status) return status;
  return segment;
}

}  // namespace ep::view

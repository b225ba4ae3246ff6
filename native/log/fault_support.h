// SPDX-License-Identifier: Apache-2.0
#pragma once

// For tests of log and recovery: a log writer on one to three devices that fail in every way, and
// the files as a power cut would leave them.
//
// Every file has a shadow, which holds what a successful sync has made durable. A sync that fails
// makes the system forget what was not written yet, as Linux does: a later one does not rescue it.
// A power cut keeps the shadows plus a random part of what was written since.

#include <gtest/gtest.h>

#include <cerrno>
#include <deque>
#include <filesystem>
#include <fstream>
#include <map>
#include <random>
#include <set>

#include "block/test_support.h"
#include "io/test_support.h"
#include "log/log_writer.h"
#include "log/test_support.h"

namespace ep::log {

/// A log buffer that spoils what it has freed, so that whoever still reads it is found out.
class SpoilingSource : public format::EntrySource {
 public:
  static constexpr uint8_t kSpoilt = 0xdb;

  void add(uint32_t sectors, uint64_t seed) {
    format::Entry entry;
    entry.type = format::EntryType::kWrite;
    entry.sectors = sectors;
    entry.sector = seed % 1000;
    std::vector<uint8_t> data(sectors * kSectorBytes, static_cast<uint8_t>(seed % 0xd0));
    for (size_t i = 0; i < data.size(); i += kSectorBytes) {
      const uint64_t lsn = head();
      std::memcpy(&data[i], &lsn, sizeof lsn);
    }
    entry.data_crc = crc32(data.data(), data.size());
    push(entry, std::move(data));
  }
  void add_error(uint64_t segment) {
    format::Entry entry;
    entry.type = format::EntryType::kError;
    entry.flags = format::kEntryFlagSecondary;
    entry.sector = segment;
    push(entry, {});
  }
  [[nodiscard]] uint64_t head() const override { return 1 + entries_.size(); }
  [[nodiscard]] format::HeldEntry held(uint64_t lsn) const override {
    EXPECT_GE(lsn, tail_) << "the writer reads what it let go";
    const Held& held = entries_[lsn - 1];
    return {held.entry, const_cast<uint8_t*>(held.buffer.data())};
  }
  [[nodiscard]] uint64_t bytes_since(uint64_t lsn) const override {
    return sum_ - (lsn <= 1 ? 0 : sums_[lsn - 2]);
  }
  [[nodiscard]] uint64_t data_bytes() const override { return 16ull * 1024 * 1024; }

  void free_before(uint64_t lsn) {
    for (; tail_ < lsn; ++tail_) std::ranges::fill(entries_[tail_ - 1].buffer, kSpoilt);
  }
  [[nodiscard]] const format::Entry& entry(uint64_t lsn) const { return entries_[lsn - 1].entry; }
  [[nodiscard]] const std::vector<uint8_t>& original(uint64_t lsn) const {
    return entries_[lsn - 1].original;
  }
  /// Bytes of payload that are not freed.
  [[nodiscard]] uint64_t used_bytes() const { return bytes_since(tail_); }

 private:
  struct Held {
    format::Entry entry;
    std::vector<uint8_t> original;
    std::vector<uint8_t> buffer;
  };
  void push(format::Entry entry, std::vector<uint8_t> data) {
    entry.time_ns = 1000 + 10 * entries_.size();
    sum_ += data.size();
    sums_.push_back(sum_);
    auto copy = data;
    entries_.push_back({entry, std::move(data), std::move(copy)});
  }
  std::deque<Held> entries_;
  std::deque<uint64_t> sums_;
  uint64_t sum_ = 0;
  uint64_t tail_ = 1;
};

/// How one device behaves at the moment.
struct FaultyDevice {
  double write_fails = 0;
  double sync_fails = 0;
  double call_fails = 0;  // of the blocking side
  bool no_space = false;
  uint64_t hang_ns = 0;  // on top of every operation
};

/// The blocking side, with faults by device, and the shadows of both sides.
class ShadowFiles final : public io::FileSystem {
 public:
  ShadowFiles(std::string live, std::string shadow, uint64_t seed)
      : live_(std::move(live)), shadow_(std::move(shadow)), random_(seed) {}

  std::vector<FaultyDevice> devices;

  [[nodiscard]] FaultyDevice* device_of(const std::string& path) {
    // <live>/d<index>/…
    if (!path.starts_with(live_ + "/d")) return nullptr;
    return &devices[static_cast<size_t>(path[live_.size() + 2] - '0')];
  }
  [[nodiscard]] FaultyDevice* device_of(io::FileId file) { return device_of(open_.at(file)); }
  bool chance(double part) {
    return part > 0 && std::uniform_real_distribution<double>(0, 1)(random_) < part;
  }

  uint64_t random_sectors(uint64_t bytes) { return random_() % (bytes / 512 + 1) * 512; }

  /// Bytes were changed in the file, by either side.
  void wrote(io::FileId file, uint64_t offset, uint64_t length) {
    dirty_[open_.at(file)].push_back({++sequence_, offset, length});
  }
  [[nodiscard]] uint64_t now() const { return sequence_; }
  /// A sync that was begun at `since` has succeeded.
  void synced(io::FileId file, uint64_t since) {
    const std::string& path = open_.at(file);
    std::vector<Dirty>& list = dirty_[path];
    for (const Dirty& dirty : list) {
      if (dirty.sequence <= since) copy(path, shadow_of(path), dirty);
    }
    std::erase_if(list, [since](const Dirty& dirty) { return dirty.sequence <= since; });
  }
  void sync_failed(io::FileId file) { dirty_[open_.at(file)].clear(); }

  /// Makes below `to` what a power cut would leave; to be read only unless `own` (copies take
  /// time).
  void cut_power(const std::string& to, bool own) {
    std::filesystem::remove_all(to);
    if (std::filesystem::exists(shadow_)) {
      std::filesystem::copy(shadow_, to,
                            std::filesystem::copy_options::recursive |
                                (own ? std::filesystem::copy_options::none
                                     : std::filesystem::copy_options::create_hard_links));
    }
    for (const auto& [path, list] : dirty_) {
      const std::string target = to + path.substr(live_.size());
      if (list.empty() || !std::filesystem::exists(target) || !std::filesystem::exists(path)) {
        continue;
      }
      std::filesystem::remove(target);
      std::filesystem::copy(shadow_of(path), target);
      for (Dirty dirty : list) {
        if (random_() % 3 == 0) continue;
        if (random_() % 2 == 0) dirty.length = random_() % (dirty.length / 512 + 1) * 512;
        copy(path, target, dirty);
      }
    }
    // A removal may not have come through either.
    for (const std::string& path : removed_) {
      if (random_() % 2 == 0) std::filesystem::remove(to + path.substr(live_.size()));
    }
  }

  Result<io::FileId> open(const std::string& path, const io::OpenOptions& options) override {
    EP_TRY(step(path, "open"));
    auto file = real_.open(path, options);
    if (file) open_[*file] = path;
    return file;
  }
  void close(io::FileId file) override {
    open_.erase(file);
    real_.close(file);
  }
  Result<io::FileInfo> info(io::FileId file) override { return real_.info(file); }
  Status read(io::FileId file, uint64_t offset, void* to, size_t size, size_t* got) override {
    EP_TRY(step(open_.at(file), "read"));
    return real_.read(file, offset, to, size, got);
  }
  Status write(io::FileId file, uint64_t offset, const void* from, size_t size) override {
    EP_TRY(step(open_.at(file), "write"));
    EP_TRY(real_.write(file, offset, from, size));
    wrote(file, offset, size);
    return Status::ok();
  }
  Status sync(io::FileId file) override {
    const std::string path = open_.at(file);
    if (const Status failed = step(path, "sync"); !failed) {
      sync_failed(file);
      return failed;
    }
    std::filesystem::create_directories(std::filesystem::path(shadow_of(path)).parent_path());
    std::ofstream(shadow_of(path), std::ios::app).flush();
    synced(file, sequence_);
    std::filesystem::resize_file(shadow_of(path), std::filesystem::file_size(path));
    return Status::ok();
  }
  Status allocate(io::FileId file, uint64_t offset, uint64_t length) override {
    EP_TRY(step(open_.at(file), "allocate"));
    if (device_of(file)->no_space) return Status(Code::kNoSpace, "a test's full device");
    return real_.allocate(file, offset, length);
  }
  Status zero(io::FileId file, uint64_t offset, uint64_t length) override {
    return real_.zero(file, offset, length);
  }
  Status truncate(io::FileId file, uint64_t size) override {
    EP_TRY(step(open_.at(file), "truncate"));
    return real_.truncate(file, size);
  }
  Status make_directories(const std::string& path) override {
    EP_TRY(step(path, "make_directories"));
    return real_.make_directories(path);
  }
  Result<std::vector<std::string>> list(const std::string& path) override {
    return real_.list(path);
  }
  Status rename(const std::string& from, const std::string& to) override {
    return real_.rename(from, to);
  }
  Status remove(const std::string& path) override {
    EP_TRY(step(path, "remove"));
    EP_TRY(real_.remove(path));
    removed_.insert(path);
    return Status::ok();
  }
  Status sync_directory(const std::string& path) override { return step(path, "sync_directory"); }
  Result<io::SpaceInfo> space(const std::string& path) override {
    EP_TRY(step(path, "space"));
    const uint64_t total = 4ull * 1024 * 1024 * 1024;
    return io::SpaceInfo{total, device_of(path)->no_space ? total / 100 : total / 2};
  }

 private:
  struct Dirty {
    uint64_t sequence;
    uint64_t offset;
    uint64_t length;
  };

  [[nodiscard]] std::string shadow_of(const std::string& path) const {
    return shadow_ + path.substr(live_.size());
  }
  static void copy(const std::string& from, const std::string& to, const Dirty& dirty) {
    if (dirty.length == 0) return;
    std::vector<char> bytes(dirty.length);
    std::ifstream in(from, std::ios::binary);
    in.seekg(static_cast<std::streamoff>(dirty.offset));
    in.read(bytes.data(), static_cast<std::streamsize>(bytes.size()));
    std::fstream out(to, std::ios::binary | std::ios::in | std::ios::out);
    out.seekp(static_cast<std::streamoff>(dirty.offset));
    out.write(bytes.data(), in.gcount());
  }
  Status step(const std::string& path, const char* operation) {
    if (FaultyDevice* device = device_of(path); device != nullptr && chance(device->call_fails)) {
      return Status(Code::kIoError, std::string("a test's fault in ") + operation);
    }
    return Status::ok();
  }

  std::string live_;
  std::string shadow_;
  std::mt19937_64 random_;
  io::PosixFileSystem real_;
  std::map<io::FileId, std::string> open_;
  std::map<std::string, std::vector<Dirty>> dirty_;
  std::set<std::string> removed_;
  uint64_t sequence_ = 0;
};

/// A writer whose devices fail, with everything that it promises checked on the way.
class Troubled {
 public:
  Troubled(uint64_t seed, size_t device_count, LogWriterOptions options = {})
      : random(seed),
        directory("/dev/shm"),
        files(directory.path() + "/live", directory.path() + "/shadow", seed),
        engine(seed) {
    reactor.adopt(&engine);
    group.bytes.fill(9);
    options.group = group;
    options.epoch = 1;
    options.segment_bytes = limits::kSegmentBytesMin;
    options.first_wall_ns = engine.wall_ns();
    for (size_t i = 0; i < device_count; ++i) {
      Uuid device;
      device.bytes.fill(static_cast<uint8_t>(0xd0 + i));
      options.devices.push_back({device, folder(directory.path() + "/live", i)});
      std::filesystem::create_directories(options.devices.back().folder + "/log");
    }
    folders = options.devices;
    files.devices.resize(device_count);
    engine.extra_ns = [this](const io::Op& op) {
      if (op.kind == io::Op::Kind::kSyncData) sync_began[&op] = files.now();
      return files.device_of(op.file)->hang_ns;
    };
    engine.fault = [this](const io::Op& op) { return on_op(op); };
    writer = std::make_unique<LogWriter>(
        &reactor, &files, &source, options,
        LogWriter::Events{.durable =
                              [this](uint64_t lsn) {
                                EXPECT_GT(lsn, durable);
                                EXPECT_LT(lsn, source.head());
                                durable = lsn;
                                free();
                              },
                          .sealed =
                              [this](const SegmentInfo& info) {
                                EXPECT_EQ(info.first_lsn,
                                          sealed.empty() ? 1 : sealed.back().last_lsn + 1);
                                EXPECT_LE(info.last_lsn, durable);
                                EXPECT_EQ(writer->sealed_lsn(), info.last_lsn);
                                EXPECT_EQ(info.last_time_ns, source.entry(info.last_lsn).time_ns);
                                sealed.push_back(info);
                              },
                          .trouble =
                              [this](const Status& status) {
                                EXPECT_FALSE(status);
                                EXPECT_FALSE(in_trouble);
                                in_trouble = true;
                                ++troubles;
                              },
                          .recovered =
                              [this] {
                                EXPECT_TRUE(in_trouble);
                                in_trouble = false;
                              },
                          .gave_up =
                              [this](uint64_t segment, const Status&) {
                                EXPECT_TRUE(in_trouble);
                                EXPECT_TRUE(gave_up.insert(segment).second);
                                source.add_error(segment);
                                writer->notify();
                              },
                          .unpinned = [this] { free(); }});
    const Status prepared = writer->prepare();
    EXPECT_TRUE(prepared) << prepared.message();
  }
  ~Troubled() {
    heal();
    stop();
  }
  void stop() {
    if (!writer) return;
    bool quiet = false;
    writer->stop([&quiet] { quiet = true; });
    for (int i = 0; i < 100000 && !quiet; ++i) reactor.run_once(1'000'000);
    EXPECT_TRUE(quiet);
    writer.reset();
  }

  std::string folder(const std::string& root, size_t index) const {
    return root + "/d" + std::to_string(index) + "/groups/" + group.to_string();
  }
  void heal() {
    for (FaultyDevice& device : files.devices) device = {};
  }
  void run(int passes, uint64_t wait_ns = 100'000) {
    for (int i = 0; i < passes; ++i) reactor.run_once(wait_ns);
  }
  void write(uint32_t sectors) {
    source.add(sectors, random());
    writer->notify();
  }
  void write_now(uint32_t sectors) {
    write(sectors);
    writer->want_durable(source.head() - 1);
  }
  template <typename Until>
  bool run_until(Until until, int passes = 20000) {
    for (int i = 0; i < passes && !until(); ++i) reactor.run_once(1'000'000);
    return until();
  }
  [[nodiscard]] bool all_durable() const { return durable + 1 == source.head(); }
  bool drain() {
    writer->want_durable(source.head() - 1);
    return run_until([this] { return all_durable(); });
  }
  bool seal_all() {
    bool done = false;
    writer->seal(source.head() - 1, format::SealReason::kRequest,
                 [&](const Status& status, uint64_t) { done = status.is_ok(); });
    return run_until([&] { return done; });
  }

  /// A stranger reads the log below `root` by segment-format.md: where two segments hold the same
  /// LSNs, the later one counts from its first. Returns the last LSN without a hole before it.
  uint64_t check_readable(const std::string& root) {
    std::map<uint64_t, std::vector<ReadEntry>> by_number;
    for (size_t i = 0; i < files.devices.size(); ++i) {
      for (ReadSegment& segment : read_segments(folder(root, i))) {
        EXPECT_EQ(segment.problem, "");
        if (segment.entries.empty()) continue;
        EXPECT_TRUE(by_number.emplace(segment.number, std::move(segment.entries)).second);
      }
    }
    std::vector<ReadEntry> log;
    for (auto& [number, entries] : by_number) {
      while (!log.empty() && log.back().lsn >= entries.front().lsn) log.pop_back();
      std::move(entries.begin(), entries.end(), std::back_inserter(log));
    }
    uint64_t last = 0;
    for (const ReadEntry& read : log) {
      if (read.lsn != last + 1) break;
      last = read.lsn;
      EXPECT_LT(last, source.head());
      EXPECT_EQ(read.entry.type, source.entry(last).type);
      EXPECT_EQ(read.entry.time_ns, source.entry(last).time_ns);
      EXPECT_EQ(read.data, source.original(last)) << "LSN " << last;
    }
    EXPECT_GE(last, durable);
    return last;
  }
  /// What a power cut at this moment would leave, as a root for check_readable.
  std::string cut_power(bool own = false) {
    const std::string to = directory.path() + "/cut";
    files.cut_power(to, own);
    return to;
  }
  [[nodiscard]] std::string live() const { return directory.path() + "/live"; }

  /// Everything is sealed, and no file but the sealed ones is left.
  void check_end() {
    heal();
    EXPECT_TRUE(drain());
    EXPECT_TRUE(seal_all());
    EXPECT_FALSE(in_trouble);
    EXPECT_TRUE(run_until([this] { return writer->pinned_lsn() == LogWriter::kNotPinned; }));
    ASSERT_FALSE(sealed.empty());
    EXPECT_EQ(sealed.back().last_lsn, source.head() - 1);
    EXPECT_TRUE(run_until([this] { return count_files() <= sealed.size() + 1; }));
    stop();
    EXPECT_EQ(count_files(), sealed.size());
    std::set<uint64_t> named;
    for (const SegmentInfo& info : sealed) {
      std::string root;
      for (const DeviceFolder& device : folders) {
        if (device.device == info.device) root = device.folder.substr(0, device.folder.size() - 44);
      }
      const ReadSegment read = read_segment(root + "/" + info.path);
      EXPECT_TRUE(read.sealed) << info.path;
      EXPECT_EQ(read.problem, "");
      EXPECT_EQ(read.entries.size(), info.entries);
      ASSERT_FALSE(read.entries.empty());
      EXPECT_EQ(read.entries.front().lsn, info.first_lsn);
      EXPECT_EQ(read.entries.back().lsn, info.last_lsn);
      if (read.reason == format::SealReason::kRecovery) {
        EXPECT_TRUE(gave_up.contains(read.number));
      }
      for (const ReadEntry& entry : read.entries) {
        if (entry.entry.type == format::EntryType::kError) named.insert(entry.entry.sector);
      }
    }
    EXPECT_EQ(named, gave_up);
    EXPECT_EQ(check_readable(live()), source.head() - 1);
    EXPECT_EQ(check_readable(cut_power()), source.head() - 1);
  }
  [[nodiscard]] size_t count_files() const {
    size_t count = 0;
    for (const auto& entry : std::filesystem::recursive_directory_iterator(live())) {
      count += entry.is_regular_file() ? 1 : 0;
    }
    return count;
  }

  std::mt19937_64 random;
  block::TempDirectory directory;
  ShadowFiles files;
  io::SimEngine engine;
  reactor::Reactor reactor;
  Uuid group;
  std::vector<DeviceFolder> folders;
  SpoilingSource source;
  std::unique_ptr<LogWriter> writer;
  std::map<const io::Op*, uint64_t> sync_began;
  uint64_t durable = 0;
  std::vector<SegmentInfo> sealed;
  std::set<uint64_t> gave_up;
  bool in_trouble = false;
  int troubles = 0;

 private:
  void free() { source.free_before(std::min(durable + 1, writer->pinned_lsn())); }

  std::optional<io::SimEngine::Fault> on_op(const io::Op& op) {
    FaultyDevice& device = *files.device_of(op.file);
    if (op.kind == io::Op::Kind::kSyncData) {
      const uint64_t began = sync_began[&op];
      if (files.chance(device.sync_fails)) {
        files.sync_failed(op.file);
        return io::SimEngine::Fault{device.no_space ? -ENOSPC : -EIO, 0};
      }
      files.synced(op.file, began);
      return std::nullopt;
    }
    uint64_t total = 0;
    for (uint32_t i = 0; i < op.iov_count; ++i) {
      const auto* bytes = static_cast<const uint8_t*>(op.iov[i].iov_base);
      bool spoilt = op.iov[i].iov_len >= 512;
      for (size_t at = 0; at < 512 && spoilt; ++at) spoilt = bytes[at] == SpoilingSource::kSpoilt;
      EXPECT_FALSE(spoilt) << "a write in flight reads what was freed";
      total += op.iov[i].iov_len;
    }
    uint64_t applied = total;
    std::optional<io::SimEngine::Fault> fault;
    if (files.chance(device.write_fails)) {
      applied = files.random_sectors(total);
      fault = io::SimEngine::Fault{-EIO, applied};
      if (device.no_space) fault->result = -ENOSPC;
      if (files.chance(0.3) && applied != total) fault->result = static_cast<int32_t>(applied);
    }
    files.wrote(op.file, op.offset, applied);
    return fault;
  }
};

}  // namespace ep::log

// SPDX-License-Identifier: Apache-2.0
#pragma once

// For the oracle tests: a world that outlives "processes" (files, the log buffer's memory, and the
// model's knowledge of every request), and a Life, one process's run over it. A life ends cleanly
// or at any moment; the next one recovers.

#include <gtest/gtest.h>

#include <algorithm>
#include <cstring>
#include <deque>
#include <map>
#include <memory>
#include <random>
#include <set>
#include <string>
#include <vector>

#include "block/delay_device.h"
#include "block/error_device.h"
#include "block/test_support.h"
#include "block/uring_device.h"
#include "drl/region_log.h"
#include "io/test_support.h"
#include "log/test_support.h"
#include "recovery/open_group.h"
#include "split/splitter.h"

namespace ep::recovery {

constexpr uint64_t kVolumeBytes = 12ull * 1024 * 1024;
constexpr uint16_t kVolumes = 2;

/// A request as the model knows it. Content is a function of its id, so nothing is kept.
struct Req {
  uint64_t id = 0;
  uint16_t volume = 0;
  block::Op op{};
  uint64_t offset = 0;
  uint64_t length = 0;
  uint64_t submitted = 0;
  uint64_t completed = 0;  // 0: never was
  block::Outcome outcome{};
  bool must_be_logged = true;  // false: submitted or completed in a gap
  bool durable_known = false;  // its completion promised the log, durable up to `durable`
  uint64_t durable = 0;
  // Found by the check:
  uint64_t first_lsn = 0;
  uint64_t last_lsn = 0;
  uint64_t bytes_found = 0;

  [[nodiscard]] bool changes() const { return op != block::Op::kFlush && op != block::Op::kRead; }
};

inline uint64_t mix(uint64_t value) {
  value = (value ^ (value >> 30)) * 0xbf58476d1ce4e5b9ull;
  value = (value ^ (value >> 27)) * 0x94d049bb133111ebull;
  return value ^ (value >> 31);
}

/// Sector `index` of request `id`: the two numbers, then noise.
inline void fill_sector(uint64_t id, uint64_t index, uint8_t* to) {
  uint64_t words[64];
  words[0] = id;
  words[1] = index;
  uint64_t state = mix(id * 0x9e3779b97f4a7c15ull + index);
  for (int i = 2; i < 64; ++i) words[i] = state += 0x9e3779b97f4a7c15ull;
  std::memcpy(to, words, sizeof words);
}

struct World {
  explicit World(uint64_t the_seed)
      : seed(the_seed),
        random(the_seed),
        directory("/dev/shm"),
        region(std::make_unique<nvram::MemoryRegion>(
            nvram::LogBuffer::region_bytes(limits::kBufferDataBytesMin))) {
    for (size_t i = 0; i < 16; ++i) group.bytes[i] = static_cast<uint8_t>(mix(seed + i));
    device.device = group;
    device.device.bytes[0] ^= 0xff;
    device.folder = directory.path() + "/device/groups/" + group.to_string();
    std::filesystem::create_directories(device.folder + "/log");
    std::filesystem::create_directories(directory.path() + "/state");
  }

  [[nodiscard]] uint64_t below(uint64_t bound) { return random() % bound; }
  [[nodiscard]] std::string primary_path(uint16_t volume) const {
    return directory.path() + "/primary-" + std::to_string(volume);
  }
  [[nodiscard]] std::string drl_path(uint16_t volume) const {
    return directory.path() + "/state/volume-" + std::to_string(volume) + ".drl";
  }

  uint64_t seed;
  std::mt19937_64 random;
  block::TempDirectory directory;
  std::unique_ptr<nvram::MemoryRegion> region;
  std::string boot = "boot-1";
  Uuid group;
  log::DeviceFolder device;
  uint64_t wall_ns = 1'700'000'000'000'000'000;
  uint64_t clock = 0;  // of submissions and completions, over all lives
  uint64_t next_id = 1;
  std::map<uint64_t, Req> requests;
  std::set<std::string> markers;  // promised durable
  bool created = false;
};

/// What to drive a life with.
struct LifeOptions {
  split::Ack ack = split::Ack::kPrimary;
  split::FlushMode flush = split::FlushMode::kBoth;
  bool delays = true;
  /// More time for everything but the primaries: a log that cannot keep up.
  uint64_t log_extra_ns = 0;
  uint64_t clean_interval_ns = 3'000'000;
};

class Life {
 public:
  Life(World& world, const LifeOptions& options)
      : world_(world),
        options_(options),
        files(world.random()),
        engine(world.random()),
        reactor_() {
    engine.wall_offset_ns = world.wall_ns;
    // A clock that jumps back now and then: times in the log rise all the same.
    if (world.below(4) == 0) engine.wall_offset_ns -= world.below(3'000'000'000);
    engine.extra_ns = [this](const io::Op& op) {
      for (const auto& device : devices_) {
        if (device->file() == op.file) return uint64_t{0};
      }
      return options_.log_extra_ns;
    };
    reactor_.adopt(&engine);
  }
  ~Life() {
    // Only a closed life is destroyed; a dead one is buried.
    EP_ASSERT(closed_ || !opened_);
  }

  /// As volume::Group opens a group. May throw ProcessDeath from `files`.
  Status open() {
    auto record = log::GroupRecordFile::open(files, world_.directory.path() + "/state/record",
                                             world_.group, 1'000'000'000);
    if (!record) return record.status();
    record_ = std::move(*record);
    OpenInput input;
    input.file_system = &files;
    input.group = world_.group;
    input.create = !world_.created;
    input.devices = {world_.device};
    for (uint16_t volume = 0; volume < kVolumes; ++volume) {
      block::UringDeviceOptions options;
      options.path = world_.primary_path(volume);
      options.create = true;
      options.size_bytes = kVolumeBytes;
      auto device = block::UringDevice::open(files, engine, options);
      if (!device) return device.status();
      devices_.push_back(std::move(*device));
      auto info = devices_.back()->info();
      if (!info) return info.status();
      input.primaries.push_back(
          {volume, devices_.back()->file(), {info->size, info->mtime_ns, info->ctime_ns}});
    }
    input.record = record_.get();
    input.region = world_.region.get();
    input.boot = world_.boot;
    input.wall_ns = world_.wall_ns;
    input.segment_bytes = limits::kSegmentBytesMin;
    auto opened = open_group(input);
    if (!opened) return opened.status();
    outcome = std::move(*opened);
    const bool fresh = !world_.created;
    for (uint16_t volume = 0; volume < kVolumes; ++volume) {
      auto regions = drl::RegionLog::open(files, world_.drl_path(volume), world_.group, volume,
                                          kVolumeBytes, fresh);
      if (!regions) return regions.status();
      regions_.push_back(std::move(*regions));
      regions_.back()->attach(&engine);
    }
    if (outcome.buffer) {
      log::LogWriterOptions options;
      options.group = world_.group;
      options.epoch = outcome.epoch;
      options.segment_bytes = limits::kSegmentBytesMin;
      options.seal_after_ns = 20'000'000;
      options.write_after_ns = 2'000'000;
      options.devices = {world_.device};
      options.next_segment = outcome.next_segment;
      options.first_wall_ns = world_.wall_ns;
      writer_ = std::make_unique<log::LogWriter>(
          &reactor_, &files, &*outcome.buffer, options,
          log::LogWriter::Events{
              .durable =
                  [this](uint64_t lsn) {
                    EXPECT_GT(lsn, durable_seen_);
                    durable_seen_ = lsn;
                    splitter_->log_durable(lsn);
                  },
              .sealed = [this](const log::SegmentInfo&) { ++sealed; },
              .trouble = [this](const Status& status) { splitter_->log_failed(status); }});
      EP_TRY(writer_->prepare());
    }
    split::SplitterOptions split_options;
    split_options.ack = options_.ack;
    split_options.flush = options_.flush;
    split_options.last_time_ns = outcome.last_time_ns;
    split_options.clean_interval_ns = options_.clean_interval_ns;
    splitter_ = std::make_unique<split::Splitter>(
        &reactor_, outcome.buffer ? &*outcome.buffer : nullptr, writer_.get(), record_.get(),
        split_options, split::Splitter::Events{.gap = [this](const format::Gap& gap) {
          ++gaps;
          last_gap = gap;
        }});
    for (uint16_t volume = 0; volume < kVolumes; ++volume) {
      errors_.push_back(std::make_unique<block::ErrorDevice>(*devices_[volume]));
      block::DelayOptions delay;
      delay.where = world_.below(2) == 0 ? block::DelayOptions::Where::kBefore
                                         : block::DelayOptions::Where::kAfter;
      delay.seed = world_.random();
      delay.max_ns = options_.delays ? 2'000'000 : 0;
      delays_.push_back(std::make_unique<block::DelayDevice>(*errors_[volume], &reactor_, delay));
      fronts_.push_back(
          splitter_->add_volume(volume, delays_[volume].get(), regions_[volume].get()));
      regions_[volume]->on_failed = [this](const Status& status) {
        splitter_->open_gap(status.message());
      };
    }
    splitter_->start();
    world_.created = true;
    opened_ = true;
    return Status::ok();
  }

  void submit(uint16_t volume, block::Op op, uint64_t offset, uint64_t length) {
    Req& req = world_.requests[world_.next_id];
    req.id = world_.next_id++;
    req.volume = volume;
    req.op = op;
    req.offset = offset;
    req.length = length;
    req.submitted = ++world_.clock;
    req.must_be_logged = !splitter_->in_gap();
    auto owned = std::make_unique<block::TestRequest>();
    *owned = op == block::Op::kWrite ? scattered(req)
                                     : block::TestRequest::contiguous(op, offset, length);
    owned->request.may_unmap = world_.below(2) == 0;
    const uint64_t id = req.id;
    owned->then = [this, id](block::TestRequest* done) { on_done(id, done); };
    block::TestRequest* made = owned.get();
    flying_[id] = std::move(owned);
    made->submit(*fronts_[volume]);
  }

  void random_request() {
    const auto volume = static_cast<uint16_t>(world_.below(kVolumes));
    const uint64_t kind = world_.below(100);
    if (kind < 8) return submit(volume, block::Op::kFlush, 0, 0);
    if (kind < 10) return marker();
    block::Op op = block::Op::kWrite;
    if (kind < 15) op = block::Op::kDiscard;
    if (kind >= 15 && kind < 20) op = block::Op::kWriteZeroes;
    uint64_t sectors = 1 + world_.below(16);
    if (kind >= 60) sectors = 8 * (1 + world_.below(16));
    if (kind >= 80) sectors = 1 + world_.below(2048);
    if (kind == 99) sectors = 8193 + world_.below(4096);  // becomes two entries
    const uint64_t total = kVolumeBytes / 512;
    // Half of them in a small place, so that they overlap.
    uint64_t room = world_.below(2) == 0 ? std::min<uint64_t>(total, sectors + 64) : total;
    const uint64_t start = world_.below(room - sectors + 1);
    submit(volume, op, start * 512, sectors * 512);
  }

  void marker() {
    const std::string label = "marker " + std::to_string(world_.next_id++);
    uint8_t payload[kSectorBytes];
    EXPECT_TRUE(format::encode_marker({0, label}, payload));
    format::Entry entry;
    entry.type = format::EntryType::kMarker;
    ++own_entries_;
    splitter_->append_durable(entry, payload,
                              [this, label](const Status& status, uint64_t lsn, uint64_t) {
                                --own_entries_;
                                if (!status) return;
                                EXPECT_LE(lsn, writer_->durable_lsn());
                                world_.markers.insert(label);
                              });
  }

  void run(uint64_t wait_ns) { reactor_.run_once(wait_ns); }
  [[nodiscard]] size_t in_flight() const { return flying_.size() + own_entries_; }

  /// False when it did not end in a long time.
  bool drain() {
    for (int i = 0; i < 2'000'000 && in_flight() != 0; ++i) run(1'000'000);
    return in_flight() == 0;
  }

  /// As volume::Group closes a group.
  Status close() {
    if (!drain()) return Status(Code::kBusy, "requests never ended");
    if (!wait([&](std::function<void()> done) { splitter_->quiesce(done); })) {
      return Status(Code::kBusy, "never quiet");
    }
    Status status;
    if (writer_ && !splitter_->in_gap()) {
      const bool ended = wait([&](std::function<void()> done) {
        writer_->seal(splitter_->last_lsn(), format::SealReason::kClose,
                      [&status, done](const Status& sealed, uint64_t) {
                        status = sealed;
                        done();
                      });
      });
      if (!ended) return Status(Code::kBusy, "never sealed");
    }
    if (!wait([&](std::function<void()> done) {
          splitter_->settle([done](block::Outcome) { done(); });
        })) {
      return Status(Code::kBusy, "never settled");
    }
    const auto idle = [&] {
      bool all = !record_->busy();
      for (const auto& each : regions_) all = all && each->idle();
      return all;
    };
    for (int i = 0; i < 100'000 && !idle(); ++i) run(1'000'000);
    if (!idle()) return Status(Code::kBusy, "never idle");
    format::GroupRecord last = splitter_->record();
    const bool in_gap = splitter_->in_gap();
    last.last_lsn = splitter_->last_lsn();
    last.last_time_ns = splitter_->last_time_ns();
    last.closed_cleanly = true;
    last.primaries.clear();
    for (uint16_t volume = 0; volume < kVolumes; ++volume) {
      const Status closed = regions_[volume]->close_cleanly();
      if (status && !closed) status = closed;
      auto info = devices_[volume]->info();
      if (!info) return info.status();
      last.primaries.push_back({volume, {info->size, info->mtime_ns, info->ctime_ns}});
    }
    if (status && !in_gap) status = record_->save(last);
    if (writer_) {
      if (!wait([&](std::function<void()> done) { writer_->stop(done); })) {
        return Status(Code::kBusy, "never stopped");
      }
    }
    last_lsn = splitter_->last_lsn();
    end_wall();
    splitter_.reset();
    writer_.reset();
    regions_.clear();
    delays_.clear();
    errors_.clear();
    devices_.clear();
    record_.reset();
    closed_ = true;
    return status;
  }

  /// The process dies: nothing of it runs any more. The caller buries it.
  void die() {
    engine.crash();
    files.crash();
    end_wall();
    closed_ = true;
  }

  split::Splitter& splitter() { return *splitter_; }
  log::LogWriter* writer() { return writer_.get(); }
  block::ErrorDevice& errors(uint16_t volume) { return *errors_[volume]; }
  block::DelayDevice& delays(uint16_t volume) { return *delays_[volume]; }
  drl::RegionLog& regions(uint16_t volume) { return *regions_[volume]; }

 private:
  World& world_;
  LifeOptions options_;

 public:
  io::TestFileSystem files;
  io::SimEngine engine;
  OpenOutcome outcome;
  uint64_t sealed = 0;
  uint64_t gaps = 0;
  format::Gap last_gap;
  uint64_t last_lsn = 0;

 private:
  void end_wall() { world_.wall_ns = std::max(world_.wall_ns, engine.wall_ns()) + 1'000'000; }

  template <typename Start>
  bool wait(Start start) {
    bool done = false;
    start([&done] { done = true; });
    for (int i = 0; i < 1'000'000 && !done; ++i) run(1'000'000);
    return done;
  }

  block::TestRequest scattered(const Req& req) {
    block::TestRequest made =
        block::TestRequest::scattered_exactly(req.op, req.offset, req.length, random_memory_);
    std::vector<uint8_t> data(req.length);
    for (uint64_t i = 0; i * 512 < req.length; ++i) fill_sector(req.id, i, data.data() + i * 512);
    uint64_t at = 0;
    for (const iovec& part : made.vectors) {
      std::memcpy(part.iov_base, data.data() + at, part.iov_len);
      at += part.iov_len;
    }
    return made;
  }

  void on_done(uint64_t id, block::TestRequest* done) {
    Req& req = world_.requests[id];
    EXPECT_EQ(done->times_done, 1);
    req.completed = ++world_.clock;
    req.outcome = done->request.outcome;
    if (splitter_->in_gap()) req.must_be_logged = false;
    const bool promised = req.op == block::Op::kFlush ? options_.flush == split::FlushMode::kBoth
                                                      : options_.ack == split::Ack::kBoth;
    if (promised && !splitter_->in_gap() && req.outcome == block::Outcome::kOk) {
      req.durable_known = true;
      req.durable = writer_->durable_lsn();
    }
    // Not freed inside its own callback.
    const auto found = flying_.find(id);
    done_.push_back(std::move(found->second));
    flying_.erase(found);
    if (done_.size() > 64) done_.pop_front();
  }

  reactor::Reactor reactor_;
  std::mt19937_64 random_memory_{1};
  std::unique_ptr<log::GroupRecordFile> record_;
  std::vector<std::unique_ptr<block::UringDevice>> devices_;
  std::vector<std::unique_ptr<block::ErrorDevice>> errors_;
  std::vector<std::unique_ptr<block::DelayDevice>> delays_;
  std::vector<std::unique_ptr<drl::RegionLog>> regions_;
  std::unique_ptr<log::LogWriter> writer_;
  std::unique_ptr<split::Splitter> splitter_;
  std::vector<block::Device*> fronts_;
  std::map<uint64_t, std::unique_ptr<block::TestRequest>> flying_;
  std::deque<std::unique_ptr<block::TestRequest>> done_;
  uint64_t own_entries_ = 0;
  uint64_t durable_seen_ = 0;
  bool opened_ = false;
  bool closed_ = false;
};

// ---- the oracle -------------------------------------------------------------------------------

/// A disk by naive replay; `unknown` marks sectors that history does not know.
struct Replayed {
  std::vector<uint8_t> bytes = std::vector<uint8_t>(kVolumeBytes);
  std::vector<bool> unknown = std::vector<bool>(kVolumeBytes / 512);

  void apply(const log::ReadEntry& read) {
    const format::Entry& entry = read.entry;
    const uint64_t offset = entry.sector * 512;
    const uint64_t length = uint64_t{entry.sectors} * 512;
    using Type = format::EntryType;
    bool known = true;
    if (entry.type == Type::kWrite) {
      std::memcpy(bytes.data() + offset, read.data.data(), length);
    } else if (entry.type == Type::kDiscard || entry.type == Type::kWriteZeroes) {
      std::memset(bytes.data() + offset, 0, length);
    } else if (entry.type == Type::kUnknown) {
      known = false;
    } else {
      return;
    }
    for (uint64_t i = 0; i < entry.sectors; ++i) unknown[entry.sector + i] = !known;
  }

  /// First differing sector, or -1.
  [[nodiscard]] int64_t difference(const std::vector<uint8_t>& other) const {
    if (other.size() != bytes.size()) return 0;
    if (std::memcmp(other.data(), bytes.data(), bytes.size()) == 0) return -1;
    for (uint64_t i = 0; i < unknown.size(); ++i) {
      if (!unknown[i] && std::memcmp(bytes.data() + i * 512, other.data() + i * 512, 512) != 0) {
        return static_cast<int64_t>(i);
      }
    }
    return -1;
  }
};

struct LogSum {
  uint64_t entries = 0;
  uint64_t last_lsn = 0;
  uint64_t errors = 0;
  uint64_t read_back = 0;
  uint64_t unknown = 0;
  bool all_sealed = true;
};

/// Reads the whole log and checks it against the model. `complete`: it holds everything that was
/// answered (not so behind a gap).
inline LogSum check_log(World& world, bool complete) {
  LogSum sum;
  std::vector<log::ReadEntry> entries;
  for (log::ReadSegment& segment : log::read_segments(world.device.folder)) {
    EXPECT_EQ(segment.problem, "");
    sum.all_sealed = sum.all_sealed && segment.sealed;
    std::move(segment.entries.begin(), segment.entries.end(), std::back_inserter(entries));
  }
  std::map<uint64_t, Req>& all = world.requests;
  for (auto& [id, req] : all) req.first_lsn = req.last_lsn = req.bytes_found = 0;
  // Requests without data, by what they are, in order of submission.
  std::map<std::tuple<int, uint16_t, uint64_t, uint64_t>, std::deque<Req*>> plain;
  for (auto& [id, req] : all) {
    if (req.op == block::Op::kDiscard || req.op == block::Op::kWriteZeroes) {
      plain[{static_cast<int>(req.op), req.volume, req.offset, req.length}].push_back(&req);
    }
  }
  std::array<Replayed, kVolumes> disks;
  std::set<std::string> labels;
  uint64_t time = 0;
  uint8_t expected[512];
  for (const log::ReadEntry& read : entries) {
    const format::Entry& entry = read.entry;
    // After a crash a batch may stand behind one that did not get through: it is not part of the
    // log.
    if (!complete && read.lsn != sum.last_lsn + 1) break;
    EXPECT_EQ(read.lsn, sum.last_lsn + 1);
    EXPECT_GT(entry.time_ns, time);
    sum.last_lsn = read.lsn;
    time = entry.time_ns;
    ++sum.entries;
    EXPECT_LT(entry.volume, kVolumes);
    if (entry.volume >= kVolumes) continue;
    disks[entry.volume].apply(read);
    Req* req = nullptr;
    using Type = format::EntryType;
    if (entry.type == Type::kWrite && entry.flags == 0) {
      const auto id = load_le<uint64_t>(read.data.data());
      const auto found = all.find(id);
      if (found == all.end()) {
        ADD_FAILURE() << "LSN " << read.lsn << " has data that nobody wrote";
        continue;
      }
      req = &found->second;
      const uint64_t index = entry.sector - req->offset / 512;
      EXPECT_EQ(req->volume, entry.volume);
      EXPECT_EQ(req->bytes_found, index * 512) << "pieces of request " << id;
      for (uint64_t i = 0; i < entry.sectors; ++i) {
        fill_sector(id, index + i, expected);
        if (std::memcmp(read.data.data() + i * 512, expected, 512) != 0) {
          ADD_FAILURE() << "LSN " << read.lsn << " sector " << i << " has wrong bytes";
          break;
        }
      }
    } else if (entry.type == Type::kWrite) {
      EXPECT_EQ(entry.flags, format::kEntryFlagResync);
      ++sum.read_back;
    } else if (entry.type == Type::kDiscard || entry.type == Type::kWriteZeroes) {
      const auto op = entry.type == Type::kDiscard ? block::Op::kDiscard : block::Op::kWriteZeroes;
      auto& queue = plain[{static_cast<int>(op), entry.volume, entry.sector * 512,
                           uint64_t{entry.sectors} * 512}];
      // Those that never reached the log are the later ones of each process's run.
      if (queue.empty()) {
        ADD_FAILURE() << "LSN " << read.lsn << " is a discard that nobody asked for";
      } else {
        req = queue.front();
        queue.pop_front();
      }
    } else if (entry.type == Type::kMarker) {
      const auto marker = format::decode_marker(read.data);
      EXPECT_TRUE(marker);
      if (marker) labels.insert(marker->label);
    } else if (entry.type == Type::kError) {
      EXPECT_LT(entry.sector, read.lsn);
      ++sum.errors;
    } else if (entry.type == Type::kUnknown) {
      ++sum.unknown;
    }
    if (req == nullptr) continue;
    if (req->first_lsn == 0) req->first_lsn = read.lsn;
    req->last_lsn = read.lsn;
    req->bytes_found += uint64_t{entry.sectors} * 512;
    EXPECT_LE(req->bytes_found, req->length);
  }
  // Nothing that was answered is missing; what was promised durable was.
  std::vector<const Req*> by_submit;
  std::vector<const Req*> by_complete;
  for (auto& [id, req] : all) {
    if (req.completed != 0 && req.must_be_logged && req.changes() && complete) {
      // Entries without data look alike: one that was taken for a request that died unanswered may
      // be this one's.
      const bool plain = req.op != block::Op::kWrite;
      const bool found_as_twin =
          plain && std::any_of(all.begin(), all.end(), [&req = req](const auto& other) {
            const Req& twin = other.second;
            return twin.completed == 0 && twin.op == req.op && twin.volume == req.volume &&
                   twin.offset == req.offset && twin.length == req.length &&
                   twin.bytes_found == twin.length;
          });
      if (!found_as_twin) {
        EXPECT_EQ(req.bytes_found, req.length)
            << "request " << id << " (op " << static_cast<int>(req.op) << ", volume " << req.volume
            << ", offset " << req.offset << ") was answered, but the log lacks it";
      }
    }
    if (req.durable_known && req.changes()) {
      EXPECT_LE(req.last_lsn, req.durable) << "request " << id;
    }
    by_submit.push_back(&req);
    if (req.completed != 0) by_complete.push_back(&req);
  }
  if (complete) {
    for (const std::string& label : world.markers) EXPECT_TRUE(labels.count(label)) << label;
  }
  // Real time: what was submitted after another one was answered comes later, and a flush covers
  // it.
  std::sort(by_submit.begin(), by_submit.end(),
            [](const Req* a, const Req* b) { return a->submitted < b->submitted; });
  std::sort(by_complete.begin(), by_complete.end(),
            [](const Req* a, const Req* b) { return a->completed < b->completed; });
  uint64_t highest = 0;
  size_t next = 0;
  for (const Req* req : by_submit) {
    for (; next < by_complete.size() && by_complete[next]->completed < req->submitted; ++next) {
      highest = std::max(highest, by_complete[next]->last_lsn);
    }
    if (req->first_lsn != 0) {
      EXPECT_GT(req->first_lsn, highest) << "request " << req->id;
    }
    if (req->op == block::Op::kFlush && req->durable_known) {
      EXPECT_LE(highest, req->durable) << "flush " << req->id;
    }
  }
  if (complete) {
    for (uint16_t volume = 0; volume < kVolumes; ++volume) {
      const int64_t at = disks[volume].difference(log::read_whole(world.primary_path(volume)));
      EXPECT_EQ(at, -1) << "primary " << volume << " differs from the replayed log at this sector";
    }
  }
  return sum;
}

inline std::string describe(const World& world, const uint8_t* sector) {
  const auto id = load_le<uint64_t>(sector);
  const auto found = world.requests.find(id);
  if (found == world.requests.end()) return "nothing of a request";
  return "request " + std::to_string(id) + " (submitted " +
         std::to_string(found->second.submitted) + ", answered " +
         std::to_string(found->second.completed) + " of " + std::to_string(world.clock) + ")";
}

/// Wherever the primary differs from what the segments alone hold, the dirty region log (as it
/// stands on disk) says dirty.
inline void check_dirty_regions(World& world) {
  std::array<Replayed, kVolumes> disks;
  uint64_t lsn = 0;
  for (const log::ReadSegment& segment : log::read_segments(world.device.folder)) {
    for (const log::ReadEntry& read : segment.entries) {
      if (read.lsn != lsn + 1) break;  // behind a hole
      lsn = read.lsn;
      disks[read.entry.volume].apply(read);
    }
  }
  for (uint16_t volume = 0; volume < kVolumes; ++volume) {
    const std::vector<uint8_t> now = log::read_whole(world.primary_path(volume));
    io::PosixFileSystem files;
    // A copy: opening may write.
    const std::string copy = world.directory.path() + "/drl-copy";
    std::filesystem::copy_file(world.drl_path(volume), copy,
                               std::filesystem::copy_options::overwrite_existing);
    auto regions = drl::RegionLog::open(files, copy, world.group, volume, kVolumeBytes, false);
    ASSERT_TRUE(regions);
    for (uint64_t sector = 0; sector < kVolumeBytes / 512; ++sector) {
      if (disks[volume].unknown[sector]) continue;  // history says itself that it does not know
      if (std::memcmp(now.data() + sector * 512, disks[volume].bytes.data() + sector * 512, 512) ==
          0) {
        continue;
      }
      const auto region = static_cast<uint32_t>(sector * 512 / (*regions)->region_bytes());
      ASSERT_TRUE((*regions)->is_dirty(region))
          << "volume " << volume << " sector " << sector
          << " differs in a clean region: primary has "
          << describe(world, now.data() + sector * 512) << ", the log up to LSN " << lsn << " has "
          << describe(world, disks[volume].bytes.data() + sector * 512);
      sector = (uint64_t{region} + 1) * (*regions)->region_bytes() / 512 - 1;
    }
  }
}

}  // namespace ep::recovery

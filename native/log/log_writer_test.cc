// SPDX-License-Identifier: Apache-2.0
#include "log/log_writer.h"

#include <gtest/gtest.h>

#include <cerrno>
#include <deque>
#include <random>

#include "block/test_support.h"
#include "io/test_support.h"
#include "log/group_record_file.h"
#include "log/test_support.h"

namespace ep::log {
namespace {

using format::Entry;
using format::EntryType;
using format::SealReason;

/// A log buffer without bounds or room: entries stay where they are.
class QueueSource : public format::EntrySource {
 public:
  void add(uint32_t sectors, uint64_t seed) {
    Entry entry;
    entry.type = EntryType::kWrite;
    entry.sectors = sectors;
    entry.sector = seed % 1000;
    entry.time_ns = 1000 + entries_.size();
    std::vector<uint8_t> data(sectors * kSectorBytes, static_cast<uint8_t>(seed));
    data[0] = static_cast<uint8_t>(entries_.size());
    entry.data_crc = crc32(data.data(), data.size());
    sums_.push_back((sums_.empty() ? 0 : sums_.back()) + data.size());
    entries_.push_back({entry, std::move(data)});
  }
  [[nodiscard]] uint64_t head() const override { return 1 + entries_.size(); }
  [[nodiscard]] format::HeldEntry held(uint64_t lsn) const override {
    const auto& [entry, data] = entries_[lsn - 1];
    return {entry, const_cast<uint8_t*>(data.data())};
  }
  [[nodiscard]] uint64_t bytes_since(uint64_t lsn) const override {
    const uint64_t all = sums_.empty() ? 0 : sums_.back();
    return all - (lsn <= 1 ? 0 : sums_[lsn - 2]);
  }
  [[nodiscard]] uint64_t data_bytes() const override { return 16ull * 1024 * 1024; }

 private:
  std::deque<std::pair<Entry, std::vector<uint8_t>>> entries_;
  std::deque<uint64_t> sums_;
};

class Writing {
 public:
  explicit Writing(uint64_t seed, LogWriterOptions options = {})
      : random(seed), directory("/dev/shm"), files(seed), engine(seed) {
    reactor.adopt(&engine);
    group.bytes.fill(9);
    options.group = group;
    options.epoch = 1;
    options.segment_bytes = limits::kSegmentBytesMin;
    options.devices = {{group, directory.path() + "/groups/" + group.to_string()}};
    options.first_wall_ns = engine.wall_ns();
    folder = options.devices[0].folder;
    std::filesystem::create_directories(folder);
    writer = std::make_unique<LogWriter>(
        &reactor, &files, &source, options,
        LogWriter::Events{.durable =
                              [this](uint64_t lsn) {
                                EXPECT_GT(lsn, durable);
                                EXPECT_EQ(failures, 0);
                                durable = lsn;
                              },
                          .sealed = [this](const SegmentInfo& info) { sealed.push_back(info); },
                          .trouble = [this](const Status&) { ++failures; }});
    EXPECT_TRUE(writer->prepare());
  }
  ~Writing() {
    bool quiet = false;
    writer->stop([&quiet] { quiet = true; });
    for (int i = 0; i < 100000 && !quiet; ++i) reactor.run_once(1'000'000);
    EXPECT_TRUE(quiet);
    writer.reset();
  }
  void run(int passes, uint64_t wait_ns = 100'000) {
    for (int i = 0; i < passes; ++i) reactor.run_once(wait_ns);
  }
  /// A stranger finds at least what is called durable, contiguous, and nothing that was not
  /// appended.
  uint64_t check_readable() {
    uint64_t last = 0;
    for (const ReadSegment& segment : read_segments(folder)) {
      EXPECT_EQ(segment.problem, "");
      for (const ReadEntry& read : segment.entries) {
        if (read.lsn != last + 1) return last;
        last = read.lsn;
        EXPECT_LT(last, source.head());
        const format::HeldEntry held = source.held(last);
        EXPECT_EQ(std::memcmp(held.data, read.data.data(), read.data.size()), 0);
      }
    }
    EXPECT_GE(last, durable);
    return last;
  }

  std::mt19937_64 random;
  block::TempDirectory directory;
  io::TestFileSystem files;
  io::SimEngine engine;
  reactor::Reactor reactor;
  Uuid group;
  std::string folder;
  QueueSource source;
  std::unique_ptr<LogWriter> writer;
  uint64_t durable = 0;
  std::vector<SegmentInfo> sealed;
  int failures = 0;
};

TEST(LogWriter, DurableIsReadableAndOnlyGrows) {
  const uint64_t first = io::asked_seed().value_or(1);
  for (uint64_t seed = first; seed < first + io::seeds_of(4); ++seed) {
    SCOPED_TRACE("EP_TEST_SEED=" + std::to_string(seed));
    Writing log(seed);
    for (int i = 0; i < 300; ++i) {
      log.source.add(static_cast<uint32_t>(1 + log.random() % (log.random() % 6 == 0 ? 4096 : 32)),
                     seed);
      log.writer->notify();
      if (log.random() % 16 == 0) log.writer->want_durable(log.source.head() - 1);
      log.run(static_cast<int>(log.random() % 4));
      if (i % 60 == 0) log.check_readable();
    }
    uint64_t sealed_to = 0;
    log.writer->seal(log.source.head() - 1, SealReason::kRequest,
                     [&](const Status& status, uint64_t lsn) {
                       EXPECT_TRUE(status);
                       sealed_to = lsn;
                     });
    log.run(2000);
    EXPECT_EQ(sealed_to, log.source.head() - 1);
    EXPECT_EQ(log.check_readable(), sealed_to);
    EXPECT_GT(log.sealed.size(), 2u) << "no segment was full";
    uint64_t next = 1;
    for (const SegmentInfo& info : log.sealed) {
      EXPECT_EQ(info.first_lsn, next);
      next = info.last_lsn + 1;
      const ReadSegment read = read_segment(log.directory.path() + "/" + info.path);
      EXPECT_TRUE(read.sealed);
      EXPECT_EQ(read.entries.size(), info.entries);
      EXPECT_EQ(read.reason, next > sealed_to ? SealReason::kRequest : SealReason::kSize);
    }
  }
}

TEST(LogWriter, TimeLimitsWriteAndSeal) {
  LogWriterOptions options;
  options.write_after_ns = 10'000'000;
  options.seal_after_ns = 100'000'000;
  Writing log(1, options);
  log.source.add(8, 1);
  log.writer->notify();
  log.run(50, 100'000);  // 5 ms
  EXPECT_EQ(log.durable, 0u);
  log.run(200, 100'000);
  EXPECT_EQ(log.durable, 1u);
  EXPECT_TRUE(log.sealed.empty());
  log.run(1200, 100'000);
  ASSERT_EQ(log.sealed.size(), 1u);
  EXPECT_EQ(read_segments(log.folder)[0].reason, SealReason::kTime);
}

TEST(LogWriter, StopsWithEverythingInFlight) {
  for (int passes = 0; passes < 12; ++passes) {
    Writing log(3);
    for (int i = 0; i < 20; ++i) log.source.add(2048, 1);
    log.writer->notify();
    log.writer->want_durable(log.source.head() - 1);
    log.run(passes);
    // ~Writing stops it and checks that it comes to rest.
  }
}

TEST(GroupRecordFile, FailedSaveKeepsTheLastGoodRecord) {
  block::TempDirectory directory;
  Uuid group;
  group.bytes.fill(4);
  const std::string path = directory.path() + "/record";
  io::TestFileSystem files;
  format::GroupRecord record;
  record.group = group;
  {
    auto file = GroupRecordFile::open(files, path, group, 0);
    ASSERT_TRUE(file);
    EXPECT_FALSE((*file)->existed());
    record.epoch = 5;
    ASSERT_TRUE((*file)->save(record));
    // Two torn saves, one after the other: neither may touch the good slot.
    io::SimEngine engine(1);
    engine.fault = [](const io::Op& op) -> std::optional<io::SimEngine::Fault> {
      if (op.kind != io::Op::Kind::kWrite) return std::nullopt;
      return io::SimEngine::Fault{-EIO, 44};
    };
    int failed = 0;
    for (int i = 0; i < 2; ++i) {
      record.epoch = 100;
      (*file)->save_async(engine, record, [&](int32_t result) { failed += result < 0 ? 1 : 0; });
    }
    while ((*file)->busy()) engine.reap(1'000'000);
    EXPECT_EQ(failed, 2);
    EXPECT_EQ((*file)->current().epoch, 5u);
  }
  auto again = GroupRecordFile::open(files, path, group, 0);
  ASSERT_TRUE(again);
  EXPECT_TRUE((*again)->existed());
  EXPECT_EQ((*again)->current().epoch, 5u);
}

}  // namespace
}  // namespace ep::log

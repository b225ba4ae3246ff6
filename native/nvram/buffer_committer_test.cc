// SPDX-License-Identifier: Apache-2.0
#include "nvram/buffer_committer.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <deque>
#include <optional>

#include "base/limits.h"
#include "block/test_support.h"
#include "io/test_support.h"
#include "nvram/buffer_store.h"
#include "nvram/test_support.h"

namespace ep::nvram {
namespace {

using Kind = LogBuffer::Found::Kind;

uint64_t first_seed() { return io::asked_seed().value_or(1); }

/// A disk with a cache: the file is what its reader sees now, `durable` what was synced. After a
/// power cut each sector of the file is one or the other.
class CachedDisk {
 public:
  CachedDisk(const std::string& path, io::SimEngine& engine) : path_(path) {
    sync_now();
    engine.extra_ns = [this](const io::Op& op) {
      // Only what is done before a sync is asked for is covered by it.
      if (op.kind == io::Op::Kind::kSyncData) at_sync_ = bytes();
      return uint64_t{0};
    };
    engine.applied = [this](const io::Op& op) {
      if (op.kind == io::Op::Kind::kSyncData) durable_ = std::move(at_sync_);
    };
  }

  void sync_now() { durable_ = bytes(); }

  /// Returns how many sectors could have been one or the other.
  uint64_t cut(std::mt19937_64& random) {
    std::vector<uint8_t> image = bytes();
    const uint64_t of_ten = random() % 11;
    uint64_t open = 0;
    for (size_t at = 0; at < image.size(); at += 512) {
      if (std::equal(image.begin() + static_cast<ptrdiff_t>(at),
                     image.begin() + static_cast<ptrdiff_t>(at + 512),
                     durable_.begin() + static_cast<ptrdiff_t>(at))) {
        continue;
      }
      ++open;
      if (random() % 10 < of_ten) continue;
      std::copy_n(durable_.begin() + static_cast<ptrdiff_t>(at), 512,
                  image.begin() + static_cast<ptrdiff_t>(at));
    }
    const int fd = ::open(path_.c_str(), O_WRONLY | O_CLOEXEC);
    EP_ASSERT(pwrite(fd, image.data(), image.size(), 0) == static_cast<ssize_t>(image.size()));
    ::close(fd);
    return open;
  }

 private:
  [[nodiscard]] std::vector<uint8_t> bytes() const {
    const int fd = ::open(path_.c_str(), O_RDONLY | O_CLOEXEC);
    std::vector<uint8_t> all(static_cast<size_t>(lseek(fd, 0, SEEK_END)));
    EP_ASSERT(pread(fd, all.data(), all.size(), 0) == static_cast<ssize_t>(all.size()));
    ::close(fd);
    return all;
  }

  std::string path_;
  std::vector<uint8_t> durable_;
  std::vector<uint8_t> at_sync_;
};

struct Totals {
  uint64_t commits = 0;
  uint64_t open_sectors = 0;
  uint64_t beyond_durable = 0;
  uint64_t failures = 0;
  uint64_t bytes = 0;
  uint64_t kept = 0;
};

/// One boot of a machine: recovers what the last one left, then works until the power goes.
class Boot {
 public:
  Boot(const std::string& path, uint64_t number, uint64_t data_bytes, std::mt19937_64& random,
       Totals& totals)
      : random_(random), totals_(totals), files_(random()), engine_(random()) {
    options_.kind = BufferKind::kFile;
    options_.path = path;
    options_.group = group_of(7);
    options_.file_system = &files_;
    options_.boot = "boot-" + std::to_string(number);
    options_.create = number == 1;
    auto store = BufferStore::for_region(
        options_, std::make_unique<MemoryRegion>(LogBuffer::region_bytes(data_bytes)));
    EP_ASSERT(store.is_ok());
    store_ = std::move(*store);
  }

  /// `held` is what may be wanted of the last boot, whose log ends before `from`.
  void recover(const std::deque<ModelEntry>& held, uint64_t from, uint64_t durable,
               uint64_t epoch) {
    const auto loaded = store_->load_mirror();
    ASSERT_TRUE(loaded.is_ok());
    ASSERT_TRUE(*loaded);
    const auto found = LogBuffer::inspect(*store_->region(), options_.group, options_.boot);
    ASSERT_EQ(found.kind, Kind::kEntries);
    ASSERT_TRUE(found.from_mirror);
    ASSERT_TRUE(found.other_boot);
    ASSERT_EQ(found.epoch, epoch);
    LogBuffer buffer = LogBuffer::attach(store_->region(), found, from);
    ASSERT_EQ(buffer.tail(), from);
    ASSERT_GE(buffer.head(), std::max(from, durable + 1));
    ASSERT_LE(buffer.head(), held.empty() ? from : held.back().lsn + 1);
    for (const ModelEntry& each : held) {
      if (each.lsn < from || each.lsn >= buffer.head()) continue;
      expect_same(buffer.at(each.lsn), each);
      ++totals_.kept;
    }
    if (buffer.head() > durable + 1) ++totals_.beyond_durable;
  }

  void begin(uint64_t epoch, uint64_t first_lsn) {
    buffer_.emplace(
        LogBuffer::format(store_->region(), options_.group, options_.boot, epoch, first_lsn));
    next = first_lsn;
    ASSERT_TRUE(store_->commit_header().is_ok());
    disk_.emplace(options_.path, engine_);
    reported_ = first_lsn - 1;
    committer_.emplace(&engine_, store_->mirror(), &*buffer_,
                       BufferCommitter::Events{.durable = [this](uint64_t lsn) { on_durable(lsn); },
                                               .failed = [this](const Status&) { on_failed(); }});
  }

  /// Something breaks sooner or later.
  void break_at(uint64_t op) {
    engine_.fault = [this, op](const io::Op& each) -> std::optional<io::SimEngine::Fault> {
      if (ops_++ != op) return std::nullopt;
      broken_ = true;
      io::SimEngine::Fault fault;
      if (each.kind == io::Op::Kind::kWrite) {
        fault.applied_bytes = random_() % 16 * 512;
        if (random_() % 2 == 0) fault.result = static_cast<int32_t>(fault.applied_bytes);
        if (each.iov_count == 1 && each.iov[0].iov_len <= fault.applied_bytes) fault.result = -EIO;
      }
      return fault;
    };
  }

  void step(uint32_t sectors_max) {
    switch (random_() % 8) {
      case 0: {
        const uint64_t most = random_() % 20 == 0 ? 30 : 4;
        const uint64_t count = std::min<uint64_t>(held.size(), random_() % most);
        buffer_->release_before(next - held.size() + count);
        held.erase(held.begin(), held.begin() + static_cast<ptrdiff_t>(count));
        return;
      }
      case 1:
      case 2:
        if (next != 0 && buffer_->head() > 1) {
          const uint64_t back = random_() % 2 == 0 ? 0 : random_() % 10;
          committer_->want_durable(next - 1 - std::min(back, next - 1));
        }
        return;
      case 3:
      case 4:
        engine_.reap(random_() % 3 == 0 ? 0 : 100'000);
        return;
      default: {
        ModelEntry made = random_entry(random_, random_() % 3 == 0 ? sectors_max : 16);
        if (!has_room(*buffer_, made)) return;
        made.lsn = append(*buffer_, made);
        ASSERT_EQ(made.lsn, next++);
        totals_.bytes += made.data.size();
        held.push_back(std::move(made));
      }
    }
  }

  /// The power goes. What the ring held is gone with it.
  void cut() {
    engine_.crash();
    totals_.open_sectors += disk_->cut(random_);
    totals_.commits += committer_->stats().commits;
    totals_.failures += committer_->failed() ? 1 : 0;
    EXPECT_EQ(committer_->failed(), failed_times_ == 1);
    durable = committer_->durable_lsn();
    EXPECT_EQ(durable, reported_);
    die();
  }
  /// Descriptors and locks go; nothing of this may run any more.
  void die() { files_.crash(); }

  std::deque<ModelEntry> held;
  uint64_t next = 0;
  uint64_t durable = 0;

 private:
  void on_durable(uint64_t lsn) {
    EXPECT_FALSE(broken_);
    EXPECT_GT(lsn, reported_);
    EXPECT_LT(lsn, next);
    reported_ = lsn;
  }
  void on_failed() {
    EXPECT_TRUE(broken_);
    EXPECT_EQ(++failed_times_, 1);
  }

  std::mt19937_64& random_;
  Totals& totals_;
  io::TestFileSystem files_;
  io::SimEngine engine_;
  BufferStoreOptions options_;
  std::unique_ptr<BufferStore> store_;
  std::optional<CachedDisk> disk_;
  std::optional<LogBuffer> buffer_;
  std::optional<BufferCommitter> committer_;
  uint64_t reported_ = 0;
  uint64_t ops_ = 0;
  bool broken_ = false;
  int failed_times_ = 0;
};

void run_boots(uint64_t seed, uint64_t data_bytes, uint32_t sectors_max, int boots, int steps,
               Totals& totals) {
  SCOPED_TRACE("EP_TEST_SEED=" + std::to_string(seed));
  std::mt19937_64 random(seed);
  block::TempDirectory directory("/dev/shm");
  const std::string path = directory.path() + "/mirror";
  uint64_t next = 1 + random() % 1000;
  std::shared_ptr<Boot> last;
  uint64_t epoch = 1 + random() % 100;
  for (int number = 1; number <= boots; ++number) {
    auto boot =
        std::make_shared<Boot>(path, static_cast<uint64_t>(number), data_bytes, random, totals);
    if (last) {
      // The log has at least what has left the ring.
      const uint64_t from = last->next - random() % (last->held.size() + 1);
      boot->recover(last->held, from, last->durable, epoch);
      if (testing::Test::HasFatalFailure()) return;
      // A boot that comes to nothing leaves the mirror as it was.
      if (random() % 4 == 0) {
        boot->die();
        io::bury(boot);
        continue;
      }
    }
    boot->begin(++epoch, next);
    if (random() % 3 == 0) boot->break_at(random() % 60);
    const int count = static_cast<int>(random() % static_cast<uint64_t>(steps));
    for (int i = 0; i < count; ++i) {
      boot->step(sectors_max);
      if (testing::Test::HasFatalFailure()) return;
    }
    boot->cut();
    next = boot->next + random() % 3;
    last = boot;
    io::bury(boot);
  }
}

TEST(BufferCommitter, WhatIsDurableIsFoundAfterAnyPowerCut) {
  Totals totals;
  for (uint64_t seed = first_seed(); seed < first_seed() + 12; ++seed) {
    run_boots(seed, 1024 * 1024, 64, 10, 1200, totals);
    if (HasFatalFailure()) return;
  }
  // The cuts and faults must have met what they are for.
  EXPECT_GT(totals.commits, 500u);
  EXPECT_GT(totals.open_sectors, 1000u);
  EXPECT_GT(totals.beyond_durable, 10u);
  EXPECT_GT(totals.failures, 5u);
  EXPECT_GT(totals.kept, 300u);
  EXPECT_GT(totals.bytes, 50ull * 1024 * 1024) << "rings must go around";
}

TEST(BufferCommitter, LargeEntriesAndAFullRing) {
  Totals totals;
  for (uint64_t seed = first_seed(); seed < first_seed() + 2; ++seed) {
    run_boots(seed, limits::kBufferDataBytesMin, limits::kEntryDataBytesMax / kSectorBytes, 4, 400,
              totals);
    if (HasFatalFailure()) return;
  }
  EXPECT_GT(totals.commits, 10u);
}

/// A session on a file of its own, without trouble unless a test makes some.
class Session : public testing::Test {
 protected:
  void begin(uint64_t data_bytes = 1024 * 1024) {
    BufferStoreOptions options;
    options.kind = BufferKind::kFile;
    options.path = directory_.path() + "/mirror";
    options.group = group_of(7);
    options.file_system = &files_;
    options.boot = "boot-1";
    options.create = true;
    auto store = BufferStore::for_region(
        options, std::make_unique<MemoryRegion>(LogBuffer::region_bytes(data_bytes)));
    ASSERT_TRUE(store.is_ok()) << store.status().to_string();
    store_ = std::move(*store);
    buffer_.emplace(LogBuffer::format(store_->region(), group_of(7), "boot-1", 1, 1));
    ASSERT_TRUE(store_->commit_header().is_ok());
    committer_.emplace(&engine_, store_->mirror(), &*buffer_,
                       BufferCommitter::Events{
                           .durable =
                               [this](uint64_t lsn) {
                                 durable_.push_back(lsn);
                                 if (on_durable_) on_durable_();
                               },
                           .failed = [this](const Status& status) { failed_.push_back(status); }});
    engine_.applied = [this](const io::Op& op) {
      if (op.kind == io::Op::Kind::kWrite) ++writes_;
      if (op.kind == io::Op::Kind::kSyncData) ++syncs_;
    };
  }
  void append_sectors(uint32_t sectors, int count = 1) {
    for (int i = 0; i < count; ++i) {
      ModelEntry made;
      made.entry.type = sectors == 0 ? format::EntryType::kFlush : format::EntryType::kWrite;
      made.entry.sectors = sectors;
      made.data.assign(uint64_t{sectors} * 512, static_cast<uint8_t>(i));
      made.entry.data_crc = crc32(made.data.data(), made.data.size());
      append(*buffer_, made);
    }
  }
  void settle() {
    while (engine_.in_flight() != 0) engine_.reap(1'000'000'000);
  }

  block::TempDirectory directory_{"/dev/shm"};
  io::TestFileSystem files_;
  io::SimEngine engine_{first_seed()};
  std::unique_ptr<BufferStore> store_;
  std::optional<LogBuffer> buffer_;
  std::optional<BufferCommitter> committer_;
  std::vector<uint64_t> durable_;
  std::vector<Status> failed_;
  std::function<void()> on_durable_;
  uint64_t writes_ = 0;
  uint64_t syncs_ = 0;
};

TEST_F(Session, OneSyncServesAllWhoAskMeanwhile) {
  begin();
  append_sectors(8);
  committer_->want_durable(1);
  for (int i = 0; i < 30; ++i) {
    append_sectors(8);
    committer_->want_durable(buffer_->head() - 1);
  }
  EXPECT_TRUE(durable_.empty());
  settle();
  EXPECT_EQ(durable_, (std::vector<uint64_t>{1, 31}));
  EXPECT_EQ(syncs_, 2u);
  EXPECT_EQ(writes_, 4u);  // slots and data, each in one piece
  // 30 entries of a page each, and a page of slots; the first page of data is not written again.
  EXPECT_EQ(committer_->stats().bytes, (2 + 31) * kPageBytes);
  committer_->want_durable(20);
  EXPECT_EQ(engine_.in_flight(), 0u) << "it is durable already";
}

TEST_F(Session, ABurstBecomesSeveralCommits) {
  begin(limits::kBufferDataBytesMin);
  append_sectors(0, 5000);
  committer_->want_durable(5000);
  settle();
  EXPECT_EQ(durable_.size(), 3u);
  EXPECT_EQ(committer_->durable_lsn(), 5000u);
  append_sectors(limits::kEntryDataBytesMax / kSectorBytes, 3);
  committer_->want_durable(5003);
  settle();
  EXPECT_EQ(committer_->durable_lsn(), 5003u);
}

TEST_F(Session, WhatLeftTheRingIsNotWritten) {
  begin();
  append_sectors(8, 20);
  buffer_->release_before(21);
  committer_->want_durable(20);
  EXPECT_EQ(engine_.in_flight(), 0u);
  append_sectors(8);
  committer_->want_durable(21);
  settle();
  EXPECT_EQ(durable_, std::vector<uint64_t>{21});
  EXPECT_EQ(committer_->stats().bytes, 2 * kPageBytes);
}

TEST_F(Session, AFailedSyncEndsIt) {
  begin();
  append_sectors(8, 3);
  committer_->want_durable(1);
  settle();
  engine_.fault = [](const io::Op& op) -> std::optional<io::SimEngine::Fault> {
    if (op.kind == io::Op::Kind::kSyncData) return io::SimEngine::Fault{};
    return std::nullopt;
  };
  committer_->want_durable(2);
  committer_->want_durable(3);
  settle();
  engine_.fault = nullptr;
  committer_->want_durable(buffer_->head() - 1);
  settle();
  EXPECT_EQ(durable_, std::vector<uint64_t>{1});
  EXPECT_EQ(committer_->durable_lsn(), 1u);
  EXPECT_TRUE(committer_->failed());
  ASSERT_EQ(failed_.size(), 1u);
  EXPECT_EQ(failed_[0].code(), Code::kIoError);
  EXPECT_EQ(syncs_, 1u);
}

TEST_F(Session, AShortWriteIsNeverSynced) {
  begin();
  engine_.fault = [](const io::Op& op) -> std::optional<io::SimEngine::Fault> {
    if (op.kind == io::Op::Kind::kWrite) return io::SimEngine::Fault{512, 512};
    return std::nullopt;
  };
  append_sectors(8, 3);
  committer_->want_durable(3);
  settle();
  EXPECT_EQ(failed_.size(), 1u);
  EXPECT_EQ(syncs_, 0u);
  EXPECT_EQ(committer_->durable_lsn(), 0u);
}

TEST_F(Session, StopsAfterTheCommitInFlight) {
  begin();
  append_sectors(8, 3);
  committer_->want_durable(1);
  committer_->want_durable(2);
  bool quiet = false;
  committer_->stop([&] { quiet = true; });
  EXPECT_FALSE(quiet);
  settle();
  EXPECT_TRUE(quiet);
  EXPECT_EQ(durable_, std::vector<uint64_t>{1});
  committer_->want_durable(3);
  EXPECT_EQ(engine_.in_flight(), 0u);
}

TEST_F(Session, MayBeDestroyedWhenQuiet) {
  begin();
  append_sectors(8, 3);
  on_durable_ = [this] { committer_->stop([this] { committer_.reset(); }); };
  committer_->want_durable(1);
  settle();
  EXPECT_FALSE(committer_.has_value());
  EXPECT_EQ(durable_, std::vector<uint64_t>{1});
}

TEST_F(Session, AHeaderThatIsTornNamesOneEpochOrTheOther) {
  begin();
  append_sectors(8, 3);
  committer_->want_durable(3);
  settle();
  const auto read = [&] {
    std::vector<uint8_t> page(kPageBytes);
    size_t got = 0;
    EXPECT_TRUE(files_.read(store_->mirror(), 0, page.data(), page.size(), &got).is_ok());
    return page;
  };
  const std::vector<uint8_t> before = read();
  buffer_.emplace(LogBuffer::format(store_->region(), group_of(7), "boot-1", 2, 4));
  ASSERT_TRUE(store_->commit_header().is_ok());
  const std::vector<uint8_t> after = read();
  for (int torn = 0; torn < 4; ++torn) {
    std::vector<uint8_t> page = before;
    for (int sector = 0; sector < 2; ++sector) {
      if ((torn >> sector & 1) != 0)
        std::copy_n(after.begin() + sector * 512, 512, page.begin() + sector * 512);
    }
    ASSERT_TRUE(files_.write(store_->mirror(), 0, page.data(), page.size()).is_ok());
    std::memset(store_->region()->base(), 0, kPageBytes);  // the power goes
    const auto loaded = store_->load_mirror();
    ASSERT_TRUE(loaded && *loaded) << torn;
    const auto found = LogBuffer::inspect(*store_->region(), group_of(7), "boot-2");
    ASSERT_EQ(found.kind, Kind::kEntries);
    EXPECT_EQ(found.epoch, (torn & 1) != 0 ? 2u : 1u);
    // The log has all before the new epoch.
    EXPECT_EQ(LogBuffer::attach(store_->region(), found, 4).head(), 4u);
    // And an older one's entries are found only in the older one.
    const LogBuffer from_start = LogBuffer::attach(store_->region(), found, 1);
    EXPECT_EQ(from_start.head(), torn == 0 ? 4u : std::max<uint64_t>(found.tail_lsn, 1)) << torn;
  }
}

}  // namespace
}  // namespace ep::nvram

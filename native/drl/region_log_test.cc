// SPDX-License-Identifier: Apache-2.0
#include "drl/region_log.h"

#include <gtest/gtest.h>

#include <cerrno>
#include <deque>
#include <filesystem>
#include <fstream>
#include <map>
#include <set>

#include "block/test_support.h"
#include "io/test_support.h"

namespace ep::drl {
namespace {

constexpr uint64_t kRegion = 1024 * 1024;
/// Three pages of bits.
constexpr uint32_t kRegions = 70'000;

class Log {
 public:
  explicit Log(uint64_t seed, bool fresh = true) : engine(seed), random(seed) {
    group.bytes.fill(3);
    open(fresh);
  }
  ~Log() {
    if (log) settle();
  }
  void open(bool fresh) {
    log.reset();
    auto opened = RegionLog::open(files, path(), group, 1, kRegions * kRegion, fresh);
    ASSERT_TRUE(opened) << opened.status().to_string();
    log = std::move(*opened);
    log->attach(&engine);
    log->on_failed = [this](const Status&) { ++failures; };
  }
  [[nodiscard]] std::string path() const { return directory.path() + "/volume.drl"; }
  void settle() {
    for (int i = 0; i < 10'000 && !log->idle(); ++i) engine.reap(1'000'000);
    ASSERT_TRUE(log->idle());
  }
  /// What the next process would find: an independent look at the file's bits.
  [[nodiscard]] bool dirty_on_disk(uint32_t region) const { return OnDisk(path()).dirty(region); }

  class OnDisk {
   public:
    explicit OnDisk(const std::string& path) {
      std::ifstream file(path, std::ios::binary);
      bytes_.resize(4 * 4096);
      file.read(reinterpret_cast<char*>(bytes_.data()),
                static_cast<std::streamsize>(bytes_.size()));
      for (size_t page = 0; page < 3; ++page) {
        uint8_t* at = bytes_.data() + (1 + page) * 4096;
        const uint32_t sum = load_le<uint32_t>(at + 4);
        store_le<uint32_t>(at + 4, 0);
        good_[page] = file && crc32(at, 4096) == sum;
      }
    }
    [[nodiscard]] bool dirty(uint32_t region) const {
      constexpr uint32_t kPerPage = (4096 - 32) * 8;
      const uint32_t page = region / kPerPage;
      const uint32_t bit = region % kPerPage;
      return !good_[page] || (bytes_[(1 + page) * 4096 + 32 + bit / 8] >> (bit % 8) & 1) != 0;
    }

   private:
    std::vector<uint8_t> bytes_;
    bool good_[3] = {};
  };

  block::TempDirectory directory{"/dev/shm"};
  io::TestFileSystem files;
  io::SimEngine engine;
  std::mt19937_64 random;
  Uuid group;
  std::unique_ptr<RegionLog> log;
  int failures = 0;
};

struct Write {
  DirtyWaiter waiter;
  uint64_t offset = 0;
  uint64_t length = 0;
  bool started = false;

  Write() = default;
  Write(uint64_t the_offset, uint64_t the_length) : offset(the_offset), length(the_length) {}
  void begin(RegionLog& log) {
    waiter.owner = this;
    waiter.on_dirty = [](DirtyWaiter* ready) { static_cast<Write*>(ready->owner)->started = true; };
    started = log.begin_write(offset, length, &waiter);
  }
};

TEST(RegionLog, EqualsAModelUnderAnySchedule) {
  const uint64_t first = io::asked_seed().value_or(1);
  uint64_t cleaned = 0;
  for (uint64_t seed = first; seed < first + 8; ++seed) {
    SCOPED_TRACE("EP_TEST_SEED=" + std::to_string(seed));
    Log on(seed);
    std::deque<std::unique_ptr<Write>> flying;
    // Regions that a write was allowed to touch, with its LSN, since they were last cleaned.
    std::map<uint32_t, uint64_t> must;
    std::set<uint32_t> touched_since_begin;
    bool cleaning = false;
    uint64_t lsn = 0;
    uint64_t durable = 0;
    for (int step = 0; step < 1000; ++step) {
      switch (on.random() % 5) {
        case 0:
        case 1: {
          auto write = std::make_unique<Write>();
          // A few regions on all three pages, so that cleaning and writing meet.
          const uint64_t at = on.random() % 12 * 6'000;
          write->offset = at * kRegion + on.random() % kRegion / 512 * 512;
          write->length = (1 + on.random() % 4000) * 512;
          write->begin(*on.log);
          flying.push_back(std::move(write));
          break;
        }
        case 2: {
          if (flying.empty()) break;
          const size_t index = on.random() % flying.size();
          if (!flying[index]->started) break;
          on.log->end_write(flying[index]->offset, flying[index]->length, ++lsn);
          for (uint64_t region = flying[index]->offset / kRegion;
               region <= (flying[index]->offset + flying[index]->length - 1) / kRegion; ++region) {
            must[static_cast<uint32_t>(region)] = lsn;
          }
          flying.erase(flying.begin() + static_cast<ptrdiff_t>(index));
          break;
        }
        case 3:
          if (on.random() % 4 != 0) break;
          durable += on.random() % (lsn - durable + 1);
          if (!cleaning) {
            on.log->begin_clean(durable);
            cleaning = true;
            touched_since_begin.clear();
          } else {
            on.random() % 4 == 0 ? on.log->cancel_clean() : on.log->end_clean();
            cleaning = false;
            // What the log calls clean now may be so only when nobody needs it.
            for (auto each = must.begin(); each != must.end();) {
              if (on.log->is_dirty(each->first)) {
                ++each;
                continue;
              }
              EXPECT_LE(each->second, durable);
              ++cleaned;
              each = must.erase(each);
            }
          }
          break;
        default:
          on.engine.reap(on.random() % 2 * 300'000);
      }
      const Log::OnDisk disk(on.path());
      for (const auto& write : flying) {
        if (!write->started) continue;
        for (uint64_t region = write->offset / kRegion;
             region <= (write->offset + write->length - 1) / kRegion; ++region) {
          ASSERT_TRUE(disk.dirty(static_cast<uint32_t>(region))) << "step " << step;
        }
      }
      if (step % 10 == 0) {
        for (const auto& [region, last] : must) ASSERT_TRUE(disk.dirty(region)) << "step " << step;
      }
    }
    on.settle();
    for (const auto& write : flying) EXPECT_TRUE(write->started);
  }
  EXPECT_GT(cleaned, 0u);
}

TEST(RegionLog, CleaningLosesToAWrite) {
  Log on(1);
  Write first(0, 4096);
  first.begin(*on.log);
  EXPECT_FALSE(first.started);
  EXPECT_FALSE(on.dirty_on_disk(0));
  on.settle();
  EXPECT_TRUE(first.started);
  EXPECT_TRUE(on.dirty_on_disk(0));
  on.log->end_write(0, 4096, 5);
  EXPECT_EQ(on.log->begin_clean(5), 0u) << "touched since the last look";
  on.log->end_clean();
  EXPECT_EQ(on.log->begin_clean(4), 0u) << "the log is not durable past it";
  on.log->end_clean();
  ASSERT_EQ(on.log->begin_clean(5), 1u);
  Write second(8192, 4096);
  second.begin(*on.log);
  EXPECT_TRUE(second.started);
  on.log->end_write(8192, 4096, 6);
  on.log->end_clean();
  on.settle();
  EXPECT_TRUE(on.dirty_on_disk(0)) << "written between the two steps";
  on.log->begin_clean(6);
  ASSERT_EQ(on.log->begin_clean(6), 1u);
  on.log->end_clean();
  on.settle();
  EXPECT_FALSE(on.dirty_on_disk(0));
  Write third(0, 512);
  third.begin(*on.log);
  EXPECT_FALSE(third.started);
  on.settle();
  EXPECT_TRUE(third.started && on.dirty_on_disk(0));
  on.log->end_write(0, 512, 7);
}

TEST(RegionLog, DamagedPageIsDirtyAsAWhole) {
  Log on(1);
  ASSERT_TRUE(on.log->close_cleanly());
  on.open(false);
  EXPECT_EQ(on.log->dirty_regions(), 0u);
  {
    std::fstream file(on.path(), std::ios::binary | std::ios::in | std::ios::out);
    file.seekp(2 * 4096 + 700);
    file.put('\x01');
  }
  on.open(false);
  EXPECT_EQ(on.log->dirty_regions(), 32'512u);
  EXPECT_FALSE(on.log->is_dirty(32'511));
  EXPECT_TRUE(on.log->is_dirty(32'512));
}

TEST(RegionLog, MissingOrForeignIsDirtyAsAWhole) {
  Log on(1);
  on.log.reset();
  std::filesystem::remove(on.path());
  on.open(false);
  EXPECT_EQ(on.log->dirty_regions(), kRegions);
  Log other(2);
  other.group.bytes.fill(8);
  other.open(false);
  EXPECT_EQ(other.log->dirty_regions(), kRegions);
}

/// Taking over a foreign file may end at any call; never does the next open call it clean.
TEST(RegionLog, DeathWhileMakingTheFile) {
  for (uint64_t call = 0; call < 12; ++call) {
    Log on(1);
    on.group.bytes.fill(8);
    on.log.reset();
    on.files.die_at = on.files.calls + call;
    try {
      on.open(false);
    } catch (const io::ProcessDeath&) {
    }
    on.log.reset();
    on.files.die_at = io::TestFileSystem::kNever;
    // The dead one's descriptor (and its lock) ends with its process: look at a copy.
    const std::string copy = on.directory.path() + "/copy";
    std::filesystem::copy_file(on.path(), copy);
    io::PosixFileSystem files;
    auto next = RegionLog::open(files, copy, on.group, 1, kRegions * kRegion, false);
    ASSERT_TRUE(next);
    EXPECT_EQ((*next)->dirty_regions(), kRegions) << "call " << call;
  }
}

TEST(RegionLog, FailureFreesEveryWaiterAndTheFileIsLost) {
  for (const auto kind : {io::Op::Kind::kWrite, io::Op::Kind::kSyncData}) {
    Log on(1);
    on.engine.fault = [&](const io::Op& op) -> std::optional<io::SimEngine::Fault> {
      if (op.kind == kind) return io::SimEngine::Fault{};
      return std::nullopt;
    };
    std::deque<Write> writes;
    for (uint64_t i = 0; i < 20; ++i) {
      writes.emplace_back(i * 3'000 * kRegion, uint64_t{4096});
      writes.back().begin(*on.log);
    }
    on.settle();
    for (const Write& write : writes) EXPECT_TRUE(write.started);
    EXPECT_EQ(on.failures, 1);
    for (const Write& write : writes) on.log->end_write(write.offset, write.length, 1);
    EXPECT_EQ(on.log->begin_clean(100), 0u);
    EXPECT_FALSE(on.log->close_cleanly());
    on.engine.fault = nullptr;
    on.open(false);
    EXPECT_EQ(on.log->dirty_regions(), kRegions);
  }
}

}  // namespace
}  // namespace ep::drl

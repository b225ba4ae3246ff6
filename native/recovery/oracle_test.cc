// SPDX-License-Identifier: Apache-2.0

// The promise (design 2), in one process: random guests over random disks, processes that die at
// any moment, and after each opening the whole log read by a stranger: nothing answered is missing,
// real time is respected, and the replayed log equals the primaries. EP_TEST_SEED=n repeats one
// seed.

#include <gtest/gtest.h>

#include <chrono>

#include "recovery/oracle_support.h"

namespace ep::recovery {
namespace {

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
constexpr uint64_t kSeeds = 12;
#else
constexpr uint64_t kSeeds = 100;
#endif

/// Runs `body(seed)` for the seeds, or the one that was asked for, stopping at the first that
/// fails.
template <typename Body>
void for_seeds(uint64_t count, Body body) {
  if (const auto asked = io::asked_seed()) {
    SCOPED_TRACE("EP_TEST_SEED=" + std::to_string(*asked));
    body(*asked);
    return;
  }
  const auto start = std::chrono::steady_clock::now();
  uint64_t done = 0;
  for (uint64_t seed = 1; seed <= count && !testing::Test::HasFailure(); ++seed, ++done) {
    SCOPED_TRACE("EP_TEST_SEED=" + std::to_string(seed));
    body(seed);
    // A slow machine does fewer, but never none.
    if (done >= 3 && std::chrono::steady_clock::now() - start > std::chrono::seconds(6)) break;
  }
  testing::Test::RecordProperty("seeds", static_cast<int>(done));
  std::printf("seeds 1 to %llu\n", static_cast<unsigned long long>(done));
}

LifeOptions random_options(World& world) {
  LifeOptions options;
  options.ack = world.below(2) == 0 ? split::Ack::kPrimary : split::Ack::kBoth;
  options.flush = world.below(3) == 0 ? split::FlushMode::kPrimary : split::FlushMode::kBoth;
  options.delays = world.below(4) != 0;
  options.log_extra_ns = world.below(2) == 0 ? 60'000'000 : 0;
  return options;
}

/// Drives a life for `requests` requests. True when it died of what its file system was told.
bool drive(World& world, Life& life, uint64_t requests) {
  const uint64_t depth = 1 + world.below(48);
  try {
    for (uint64_t made = 0; made < requests;) {
      if (life.in_flight() < depth && world.below(8) != 0) {
        life.random_request();
        ++made;
      } else {
        life.run(world.below(3) * 100'000);
      }
    }
  } catch (const io::ProcessDeath&) {
    return true;
  }
  return false;
}

void end_life(std::shared_ptr<Life> life) {
  life->die();
  io::bury(std::move(life));
}

TEST(Oracle, CleanEnd) {
  uint64_t waits = 0;
  uint64_t overlaps = 0;
  for_seeds(kSeeds / 2, [&](uint64_t seed) {
    World world(seed);
    uint64_t expect_lsn = 1;
    for (int run = 0; run < 2; ++run) {
      auto life = std::make_unique<Life>(world, random_options(world));
      const Status opened = life->open();
      ASSERT_TRUE(opened) << opened.to_string();
      ASSERT_FALSE(life->splitter().in_gap());
      EXPECT_EQ(life->opened().next_lsn, expect_lsn);
      EXPECT_EQ(life->opened().epoch, static_cast<uint64_t>(run) + 1);
      // More at once than the buffer holds.
      for (uint64_t i = 0; run == 0 && i < 24; ++i) {
        life->submit(i % 2, block::Op::kWrite, i / 2 * 1024 * 1024, 1024 * 1024);
      }
      drive(world, *life, 100 + world.below(100));
      waits += life->splitter().counters().buffer_waits;
      overlaps += life->splitter().counters().overlap_waits;
      const Status closed = life->close();
      ASSERT_TRUE(closed) << closed.to_string();
      EXPECT_EQ(life->gaps, 0u);
      expect_lsn = life->last_lsn + 1;
    }
    const LogSum sum = check_log(world, true);
    EXPECT_EQ(sum.last_lsn + 1, expect_lsn);
    EXPECT_TRUE(sum.all_sealed);
  });
  EXPECT_GT(overlaps, 0u);
  if (!io::asked_seed()) {
    EXPECT_GT(waits, 0u) << "the buffer was never full: the test is too easy";
  }
}

/// Opens until it succeeds; the first tries die at a random call.
std::shared_ptr<Life> reopen(World& world, int deaths, uint64_t last_epoch) {
  for (;; --deaths) {
    auto life = std::make_shared<Life>(world, random_options(world));
    const bool fails = deaths > 0 && world.below(2) == 0;
    if (deaths > 0) (fails ? life->files.fail_from : life->files.die_at) = world.below(60);
    try {
      const Status opened = life->open();
      if (!opened) {
        EXPECT_TRUE(deaths > 0 && fails) << opened.to_string();
        end_life(life);
        if (deaths <= 0) return nullptr;
        continue;
      }
    } catch (const io::ProcessDeath&) {
      end_life(life);
      continue;
    }
    life->files.fail_from = life->files.die_at = io::TestFileSystem::kNever;
    EXPECT_GT(life->opened().epoch, last_epoch);
    return life;
  }
}

void crash_and_recover(uint64_t seed, bool with_errors) {
  World world(seed);
  uint64_t last_epoch = 0;
  uint64_t errors = 0;
  for (int run = 0; run < 4; ++run) {
    const int deaths = run == 0 ? 0 : static_cast<int>(world.below(3));
    std::shared_ptr<Life> life = reopen(world, deaths, last_epoch);
    ASSERT_TRUE(life);
    ASSERT_FALSE(life->splitter().in_gap())
        << "a gap without a reason: " << life->splitter().record().gap.reason;
    if (deaths == 0) {
      EXPECT_EQ(life->opened().epoch, last_epoch + 1);
    }
    last_epoch = life->opened().epoch;
    const LogSum sum = check_log(world, true);
    EXPECT_TRUE(sum.all_sealed);
    EXPECT_EQ(life->opened().next_lsn, sum.last_lsn + 1);
    errors += sum.errors;
    if (testing::Test::HasFailure()) {
      end_life(life);
      return;
    }
    if (with_errors) {
      for (uint64_t i = 0; i < 3; ++i) {
        block::ErrorRule rule;
        rule.ops = {block::Op::kWrite};
        if (world.below(3) == 0) rule.ops = {block::Op::kDiscard, block::Op::kWriteZeroes};
        rule.skip = world.below(60);
        rule.times = 1 + world.below(3);
        rule.after = world.below(2) == 0;
        life->errors(0).add_rule(rule);
        if (world.below(2) == 0) {
          life->errors(0).add_rule({.ops = {block::Op::kRead}, .skip = world.below(4), .times = 2});
        }
      }
    }
    if (world.below(3) == 0) life->files.die_at = life->files.calls + world.below(40);
    const bool died = drive(world, *life, 20 + world.below(200));
    if (!died && run == 3) {
      life->files.die_at = io::TestFileSystem::kNever;
      const Status closed = life->close();
      ASSERT_TRUE(closed) << closed.to_string();
      EXPECT_TRUE(check_log(world, true).all_sealed);
      return;
    }
    end_life(life);
    check_dirty_regions(world);
  }
}

TEST(Oracle, CrashAndRecover) {
  for_seeds(kSeeds, [](uint64_t seed) { crash_and_recover(seed, false); });
}

TEST(Oracle, CrashAndRecoverWithFailingPrimary) {
  for_seeds(kSeeds / 2, [](uint64_t seed) { crash_and_recover(seed, true); });
}

TEST(Oracle, FailingPrimaryIsReadBackOrUnknown) {
  uint64_t errors = 0;
  uint64_t read_back = 0;
  uint64_t unknown = 0;
  for_seeds(kSeeds / 4, [&](uint64_t seed) {
    World world(seed);
    auto life = std::make_unique<Life>(world, random_options(world));
    ASSERT_TRUE(life->open());
    for (int i = 0; i < 10; ++i) {
      block::ErrorRule rule;
      rule.ops = {block::Op::kWrite, block::Op::kDiscard, block::Op::kWriteZeroes};
      rule.skip = world.below(20);
      rule.times = 1;
      rule.after = world.below(2) == 0;
      life->errors(static_cast<uint16_t>(world.below(kVolumes))).add_rule(rule);
      if (i < 3)
        life->errors(1).add_rule({.ops = {block::Op::kRead}, .skip = world.below(3), .times = 1});
    }
    drive(world, *life, 250);
    const Status closed = life->close();
    ASSERT_TRUE(closed) << closed.to_string();
    EXPECT_EQ(life->gaps, 0u);
    const LogSum sum = check_log(world, true);
    errors += sum.errors;
    read_back += sum.read_back;
    unknown += sum.unknown;
  });
  EXPECT_GT(errors, 0u);
  EXPECT_GT(read_back, 0u);
  EXPECT_GT(unknown, 0u);
}

/// A write fails while the rest of the buffer is full behind it: its repair can get no room, ever.
TEST(Oracle, RepairWithoutRoomDoesNotHangTheGuest) {
  World world(io::asked_seed().value_or(1));
  LifeOptions options;
  options.delays = false;
  auto life = std::make_unique<Life>(world, options);
  ASSERT_TRUE(life->open());
  life->errors(0).add_rule({.ops = {block::Op::kWrite}, .times = 1});
  life->delays(0).hold();
  life->submit(0, block::Op::kWrite, 0, 1024 * 1024);
  for (uint64_t i = 0; i < 24; ++i) {
    life->submit(1, block::Op::kWrite, i % 12 * 1024 * 1024, 1024 * 1024);
  }
  for (int i = 0; i < 10'000; ++i) life->run(10'000);
  ASSERT_EQ(life->delays(0).held(), 1u);
  ASSERT_GT(life->splitter().counters().buffer_waits, 0u);
  ASSERT_GT(life->in_flight(), 1u) << "the buffer is not full";
  life->delays(0).resume();
  EXPECT_TRUE(life->drain()) << "guests wait for ever";
  EXPECT_EQ(life->gaps, 1u);
  EXPECT_EQ(world.requests[1].outcome, block::Outcome::kIoError);
  for (const auto& [id, req] : world.requests) {
    if (id != 1) {
      EXPECT_EQ(req.outcome, block::Outcome::kOk) << id;
    }
  }
  ASSERT_TRUE(life->close());
}

/// Power cut: the buffer is gone. The primary is right, nothing is redone, and it says so.
TEST(Oracle, LostBufferIsAGap) {
  for_seeds(kSeeds / 4, [](uint64_t seed) {
    World world(seed);
    std::shared_ptr<Life> life = reopen(world, 0, 0);
    ASSERT_TRUE(life && !life->splitter().in_gap());
    drive(world, *life, 50 + world.below(100));
    end_life(life);
    if (world.below(2) == 0) {
      world.boot = "boot-2";
    } else {
      std::memset(world.region->base(), 0, world.region->size());
    }
    const LogSum before = check_log(world, false);
    std::array<std::vector<uint8_t>, kVolumes> disks;
    for (uint16_t volume = 0; volume < kVolumes; ++volume) {
      disks[volume] = log::read_whole(world.primary_path(volume));
    }
    format::Gap first_gap;
    for (int run = 0; run < 3; ++run) {
      life = reopen(world, run == 0 ? static_cast<int>(world.below(3)) : 0, 0);
      ASSERT_TRUE(life);
      ASSERT_TRUE(life->splitter().in_gap());
      const format::Gap gap = life->splitter().record().gap;
      if (run == 0) {
        first_gap = gap;
        EXPECT_LE(gap.from_lsn, before.last_lsn);
        EXPECT_FALSE(gap.reason.empty());
      }
      EXPECT_EQ(gap.from_lsn, first_gap.from_lsn);
      EXPECT_EQ(gap.from_ns, first_gap.from_ns);
      EXPECT_EQ(gap.to_lsn, 0u);
      for (uint16_t volume = 0; volume < kVolumes; ++volume) {
        EXPECT_EQ(log::read_whole(world.primary_path(volume)), disks[volume]) << "redone in a gap";
      }
      // It dies in the middle of its resync, twice; then it is left alone.
      if (run < 2) {
        const uint64_t some = world.below(40);
        for (uint64_t i = 0; i < some && life->splitter().in_gap(); ++i) {
          if (world.below(4) == 0) life->random_request();
          life->run(1'000'000);
        }
        if (!life->splitter().in_gap()) {
          // Healed already: the next one finds the crash of a process.
          end_life(life);
          check_dirty_regions(world);
          break;
        }
        end_life(life);
      } else {
        drive(world, *life, 60);
        ASSERT_TRUE(life->heal());
        EXPECT_EQ(life->healed, 1u);
        EXPECT_EQ(life->last_gap.from_lsn, first_gap.from_lsn);
        EXPECT_GT(life->last_gap.to_lsn, first_gap.from_lsn);
        const Status closed = life->close();
        ASSERT_TRUE(closed) << closed.to_string();
        EXPECT_TRUE(check_log(world, false, true).all_sealed);
      }
      check_dirty_regions(world);
      for (uint16_t volume = 0; volume < kVolumes; ++volume) {
        disks[volume] = log::read_whole(world.primary_path(volume));
      }
    }
    for (const auto& [id, req] : world.requests) {
      if (req.completed != 0) {
        EXPECT_EQ(req.outcome, block::Outcome::kOk);
      }
    }
    life = nullptr;
    auto last = std::make_shared<Life>(world, random_options(world));
    ASSERT_TRUE(last->open());
    ASSERT_TRUE(last->heal());
    drive(world, *last, 40);
    ASSERT_TRUE(last->close());
    check_log(world, false, true);
  });
}

}  // namespace
}  // namespace ep::recovery

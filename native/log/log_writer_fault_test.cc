// SPDX-License-Identifier: Apache-2.0

// The log writer on devices that fail, hang and fill up [0046].

#include "log/fault_support.h"

namespace ep::log {
namespace {

using format::SealReason;

TEST(LogWriterFaults, EveryKindOnEveryNumberOfDevices) {
  struct Kind {
    const char* name;
    FaultyDevice device;
  };
  const Kind kinds[] = {
      {"writes fail", {.write_fails = 1}},
      {"syncs fail", {.sync_fails = 1}},
      {"calls fail", {.call_fails = 1}},
      {"everything fails", {.write_fails = 1, .sync_fails = 1, .call_fails = 1}},
      {"full", {.write_fails = 1, .no_space = true}},
  };
  for (const size_t devices : {1u, 2u, 3u}) {
    for (const Kind& kind : kinds) {
      SCOPED_TRACE(std::string(kind.name) + ", devices: " + std::to_string(devices));
      // Under a sanitizer two devices stand for all.
      if (io::seeds_of(4) < 4 && devices != 2) continue;
      Troubled log(7, devices);
      for (int i = 0; i < 12; ++i) log.write_now(1 + 97 * i);
      log.run(4);
      log.files.devices[0] = kind.device;
      const uint64_t before = log.durable;
      for (int i = 0; i < 40; ++i) {
        log.write_now(600);
        log.run(20);
      }
      if (devices == 1) {
        if (kind.device.write_fails + kind.device.sync_fails > 0) {
          EXPECT_LE(log.durable, before + 24) << "nothing can be written";
          EXPECT_TRUE(log.in_trouble);
          EXPECT_NE(log.writer->devices()[0].state, DeviceState::kOk);
        }
      } else {
        // The others take over while it is still broken.
        EXPECT_TRUE(log.drain());
        EXPECT_FALSE(log.in_trouble);
      }
      log.check_readable(log.cut_power());
      EXPECT_EQ(log.gave_up.empty(), log.writer->stats().segments_given_up == 0);
      log.check_end();
    }
  }
}

/// The oracle: random faults on random devices, and at any moment the power may fail.
TEST(LogWriterFaults, NothingDurableIsEverLost) {
  const uint64_t first = io::asked_seed().value_or(1);
  const uint64_t count = io::asked_seed() ? 1 : io::seeds_of(12);
  uint64_t given_up = 0;
  uint64_t pinned = 0;
  uint64_t cuts = 0;
  for (uint64_t seed = first; seed < first + count; ++seed) {
    SCOPED_TRACE("EP_TEST_SEED=" + std::to_string(seed));
    LogWriterOptions options;
    options.hang_after_ns = 20'000'000;
    options.seal_retry_ns = 30'000'000;
    options.write_after_ns = 3'000'000;
    options.seal_after_ns = 40'000'000;
    options.pool.retry_min_ns = 1'000'000;
    options.pool.retry_max_ns = 8'000'000;
    options.pool.trust_again_ns = 60'000'000;
    Troubled log(seed, 1 + seed % 3, options);
    for (int i = 0; i < 500; ++i) {
      // As a splitter: no more than fits the buffer.
      if (log.source.used_bytes() < 12ull * 1024 * 1024) {
        log.write(static_cast<uint32_t>(1 + log.random() % (log.random() % 12 == 0 ? 2048 : 64)));
      }
      if (log.random() % 5 == 0) log.writer->want_durable(log.source.head() - 1);
      if (log.random() % 60 == 0) {
        log.writer->seal(log.durable, SealReason::kRequest, [](const Status&, uint64_t) {});
      }
      if (log.random() % 15 == 0) {
        FaultyDevice& device = log.files.devices[log.random() % log.files.devices.size()];
        device = {};
        const uint64_t what = log.random() % 8;
        if (what == 0) device.write_fails = 0.5;
        if (what == 1) device.sync_fails = 0.5;
        if (what == 2) device.call_fails = 0.3;
        if (what == 3) device.no_space = true;
        if (what == 4) device.hang_ns = log.random() % 100'000'000;
        if (what == 5) device = {.write_fails = 1, .sync_fails = 1, .call_fails = 1};
      }
      log.run(static_cast<int>(log.random() % 12), 200'000);
      pinned += log.writer->pinned_lsn() != LogWriter::kNotPinned ? 1 : 0;
      if (log.random() % 50 == 0) {
        log.check_readable(log.cut_power());
        ++cuts;
      }
      if (::testing::Test::HasFailure()) return;
    }
    given_up += log.writer->stats().segments_given_up;
    log.check_end();
    if (::testing::Test::HasFailure()) return;
  }
  RecordProperty("segments_given_up", std::to_string(given_up));
  std::printf("segments given up %lu, power cuts %lu, passes with a pinned buffer %lu\n", given_up,
              cuts, pinned);
  if (count > 1) {
    EXPECT_GT(given_up, 50u);
    EXPECT_GT(pinned, 50u);
  }
}

TEST(LogWriterFaults, ABatchThatHangsMovesOnAndKeepsItsBytes) {
  for (const auto kind : {io::Op::Kind::kWrite, io::Op::Kind::kSyncData}) {
    Troubled log(3, 2);
    log.write_now(64);
    ASSERT_TRUE(log.drain());
    bool hang = true;
    int hung = 0;
    const auto extra = log.engine.extra_ns;
    log.engine.extra_ns = [&](const io::Op& op) -> uint64_t {
      const uint64_t more = extra(op);
      if (!hang || op.kind != kind) return more;
      hang = false;
      ++hung;
      return 20'000'000'000;
    };
    const uint64_t began = log.engine.monotonic_ns();
    log.write_now(64);
    log.write_now(64);
    log.run(100, 1'000'000);
    EXPECT_EQ(hung, 1);
    EXPECT_EQ(log.durable, 1u);
    EXPECT_EQ(log.troubles, 0);
    EXPECT_GE(log.writer->stalled_since_ns(), began);
    EXPECT_LT(log.writer->stalled_since_ns(), began + 10'000'000);
    ASSERT_TRUE(log.drain());
    const uint64_t took = log.engine.monotonic_ns() - began;
    EXPECT_GT(took, 900'000'000u);
    EXPECT_LT(took, 1'300'000'000u);
    EXPECT_EQ(log.troubles, 1);
    EXPECT_FALSE(log.in_trouble);
    if (kind == io::Op::Kind::kWrite) {
      EXPECT_EQ(log.writer->pinned_lsn(), 2u);
    } else {
      EXPECT_EQ(log.writer->pinned_lsn(), LogWriter::kNotPinned);
    }
    EXPECT_EQ(log.writer->devices()[0].state, DeviceState::kFailed);
    EXPECT_NE(log.writer->stalled_since_ns(), 0u);
    // Much later the write lands: in a file that is not sealed before, and then is.
    EXPECT_TRUE(log.sealed.empty());
    EXPECT_TRUE(log.run_until([&] { return log.sealed.size() == 1; }, 40000));
    EXPECT_EQ(log.sealed[0].last_lsn, 1u);
    log.check_end();
  }
}

TEST(LogWriterFaults, AHungOnlyDeviceIsWaitedFor) {
  Troubled log(3, 1);
  log.files.devices[0].hang_ns = 5'000'000'000;
  log.write_now(64);
  log.run(4000, 1'000'000);
  EXPECT_EQ(log.durable, 0u);
  EXPECT_EQ(log.troubles, 0);
  EXPECT_NE(log.writer->stalled_since_ns(), 0u);
  log.heal();
  EXPECT_TRUE(log.drain());
  EXPECT_EQ(log.writer->stats().segments_given_up, 0u);
  log.check_end();
}

TEST(LogWriterFaults, OneDeviceIsTriedAgainWithBackOff) {
  Troubled log(5, 1);
  log.write_now(8);
  ASSERT_TRUE(log.drain());
  log.files.devices[0].write_fails = 1;
  log.write_now(8);
  const uint64_t began = log.engine.monotonic_ns();
  EXPECT_TRUE(log.run_until([&] { return log.engine.monotonic_ns() > began + 10'000'000'000; }));
  // 50, 100, … 1600 ms, then every 2 s: nine or ten tries in 10 s.
  EXPECT_GE(log.writer->stats().segments_given_up, 8u);
  EXPECT_LE(log.writer->stats().segments_given_up, 11u);
  EXPECT_EQ(log.troubles, 1) << "one episode";
  EXPECT_EQ(log.gave_up.size(), 1u);
  log.heal();
  const uint64_t healed = log.engine.monotonic_ns();
  EXPECT_TRUE(log.drain());
  EXPECT_LT(log.engine.monotonic_ns() - healed, 2'200'000'000u);
  EXPECT_EQ(log.writer->devices()[0].state, DeviceState::kOk);
  log.check_end();
}

TEST(LogWriterFaults, AWaitForSealingOutlivesTroubleButNotStop) {
  Troubled log(5, 1);
  log.write_now(8);
  ASSERT_TRUE(log.drain());
  log.files.devices[0] = {.write_fails = 1, .sync_fails = 1, .call_fails = 1};
  std::optional<Status> answer;
  log.writer->seal(1, SealReason::kRequest,
                   [&](const Status& status, uint64_t) { answer = status; });
  log.run(5000, 1'000'000);
  EXPECT_FALSE(answer);
  bool quiet = false;
  log.writer->stop([&quiet] { quiet = true; });
  ASSERT_TRUE(answer);
  EXPECT_EQ(answer->code(), Code::kCancelled);
  EXPECT_TRUE(log.run_until([&] { return quiet; }));
  log.writer.reset();
  EXPECT_EQ(log.check_readable(log.cut_power()), 1u);
}

TEST(LogWriterFaults, LaterSegmentsAreSealedButReportedInOrder) {
  Troubled log(5, 2);
  log.write_now(8);
  ASSERT_TRUE(log.drain());
  // Whatever is on the first device cannot be written any more, for good.
  log.files.devices[0] = {.write_fails = 1, .sync_fails = 1, .call_fails = 1};
  for (int i = 0; i < 30; ++i) {
    log.write_now(2048);
    ASSERT_TRUE(log.drain());
  }
  log.run(5000, 1'000'000);
  EXPECT_TRUE(log.sealed.empty());
  EXPECT_EQ(log.writer->sealed_lsn(), 0u);
  EXPECT_GT(log.writer->stats().segments_sealed, 2u);
  const auto unsealed = log.writer->unsealed();
  ASSERT_GT(unsealed.size(), 3u);
  uint64_t next = 1;
  for (const SegmentInfo& info : unsealed) {
    EXPECT_EQ(info.first_lsn, next);
    EXPECT_EQ(info.last_time_ns, log.source.entry(info.last_lsn).time_ns);
    EXPECT_FALSE(info.sealed);
    next = info.last_lsn + 1;
  }
  EXPECT_EQ(next, log.durable + 1);
  log.check_end();
}

TEST(LogWriterFaults, UnsealedNamesTheTimeOfWhatIsSynced) {
  Troubled log(5, 1);
  log.write_now(8);
  ASSERT_TRUE(log.drain());
  // Written, not synced.
  log.write(2048);
  log.write(1);
  log.run(20);
  ASSERT_EQ(log.durable, 1u);
  ASSERT_EQ(log.writer->stats().batches, 2u);
  const auto list = log.writer->unsealed();
  ASSERT_EQ(list.size(), 1u);
  EXPECT_EQ(list[0].last_lsn, 1u);
  EXPECT_EQ(list[0].last_time_ns, log.source.entry(1).time_ns);
  EXPECT_EQ(list[0].data_bytes, 8u * 512);
  EXPECT_EQ(list[0].entries, 1u);
  log.check_end();
}

TEST(LogWriterFaults, StopsInTheMiddleOfTrouble) {
  for (uint64_t seed = 1; seed <= io::seeds_of(40); ++seed) {
    SCOPED_TRACE(seed);
    Troubled log(seed, 1 + seed % 3);
    for (int i = 0; i < 10; ++i) log.write_now(512);
    log.files.devices[0] = {.write_fails = 0.5, .sync_fails = 0.5, .call_fails = 0.2};
    log.files.devices.back().hang_ns = seed % 4 == 0 ? 3'000'000'000 : 0;
    log.run(static_cast<int>(seed % 20));
    log.stop();
    log.check_readable(log.cut_power());
  }
}

}  // namespace
}  // namespace ep::log

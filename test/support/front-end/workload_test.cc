// SPDX-License-Identifier: Apache-2.0
//
// The whole client against a fake back-end: that good ones pass, and that bad ones are found out.
#include "front-end/workload.h"

#include <gtest/gtest.h>
#include <stdlib.h>
#include <unistd.h>

#include <cstring>
#include <filesystem>
#include <fstream>
#include <thread>

#include "front-end/fake_back_end.h"
#include "front-end/load.h"
#include "front-end/pattern.h"
#include "front-end/probe.h"

namespace ep::front_end {
namespace {

class WorkloadTest : public ::testing::Test {
 protected:
  void SetUp() override {
    std::string name = (std::filesystem::temp_directory_path() / "front-end-XXXXXX").string();
    ASSERT_NE(::mkdtemp(name.data()), nullptr);
    folder_ = name;
    options_.sockets = {folder_ + "/disk.sock"};
    options_.queues = 2;
    options_.ops = 1500;
    options_.max_bytes = 64 << 10;
    options_.hot = true;
    options_.final_check = true;
    options_.no_error_tolerance = true;
    back_end_.socket_path = options_.sockets[0];
    quiet_ = std::fopen("/dev/null", "w");
  }
  void TearDown() override {
    std::fclose(quiet_);
    std::filesystem::remove_all(folder_);
  }

  WorkloadResult run() {
    Workload workload(options_, quiet_);
    Status status = workload.open();
    EXPECT_TRUE(status.ok()) << status.message();
    return status.ok() ? workload.run() : WorkloadResult{};
  }
  WorkloadResult run_against_fake() {
    FakeBackEnd fake(back_end_, &disk_);
    EXPECT_TRUE(fake.start().ok());
    return run();
  }
  /// One back-end after the other, each dying in the middle of its work.
  WorkloadResult run_with_deaths(int deaths, uint64_t* resubmitted) {
    options_.reconnect = true;
    std::atomic<bool> over = false;
    *resubmitted = 0;
    std::thread supervisor([&] {
      for (int life = 0; !over; life++) {
        FakeBackEnd::Options options = back_end_;
        options.die_after = life < deaths ? 97 + 31 * life : 0;
        FakeBackEnd fake(options, &disk_);
        if (!fake.start().ok()) break;
        while (!fake.dead() && !over) std::this_thread::sleep_for(std::chrono::milliseconds(2));
        fake.stop();
        *resubmitted += fake.resubmitted();
      }
    });
    while (::access(options_.sockets[0].c_str(), F_OK) != 0) {
      std::this_thread::sleep_for(std::chrono::milliseconds(1));
    }
    const WorkloadResult result = run();
    over = true;
    supervisor.join();
    return result;
  }

  std::string folder_;
  WorkloadOptions options_;
  FakeBackEnd::Options back_end_;
  std::vector<uint8_t> disk_ = std::vector<uint8_t>(4 << 20);
  FILE* quiet_ = nullptr;
};

TEST_F(WorkloadTest, GoodBackEndPasses) {
  for (bool indirect : {true, false}) {
    for (bool event_idx : {true, false}) {
      options_.indirect = indirect;
      options_.event_idx = event_idx;
      options_.seed++;
      std::fill(disk_.begin(), disk_.end(), 0);
      back_end_.reverse_window = indirect ? 1 : 5;
      const WorkloadResult result = run_against_fake();
      EXPECT_TRUE(result.ok) << result.failures.front();
      EXPECT_GT(result.sectors_checked, disk_.size() / kSectorBytes / 2);
      EXPECT_GT(result.writes, 500u);
      EXPECT_GT(result.discards, 20u);
      EXPECT_GT(result.write_zeroes, 20u);
      EXPECT_EQ(result.errors, 0u);
      if (!indirect) {
        EXPECT_GT(result.out_of_order, 100u);
      }
    }
  }
}

TEST_F(WorkloadTest, FindsCorruptReads) {
  back_end_.faults.corrupt_reads = true;
  EXPECT_FALSE(run_against_fake().ok);
}

TEST_F(WorkloadTest, FindsLostWrites) {
  back_end_.faults.lose_writes = true;
  EXPECT_FALSE(run_against_fake().ok);
}

TEST_F(WorkloadTest, FindsDoubleCompletions) {
  back_end_.faults.complete_twice = true;
  const WorkloadResult result = run_against_fake();
  ASSERT_FALSE(result.ok);
  EXPECT_NE(result.failures.front().find("not in flight"), std::string::npos);
}

TEST_F(WorkloadTest, DeathWithoutReconnectFails) {
  back_end_.die_after = 100;
  EXPECT_FALSE(run_against_fake().ok);
}

TEST_F(WorkloadTest, SurvivesDeathsWithOutOfOrderCompletions) {
  back_end_.reverse_window = 6;
  uint64_t resubmitted = 0;
  const WorkloadResult result = run_with_deaths(6, &resubmitted);
  EXPECT_TRUE(result.ok) << result.failures.front();
  EXPECT_EQ(result.reconnects, 6u);
  EXPECT_GT(resubmitted, 0u);
  EXPECT_EQ(result.submitted, result.completed);
}

TEST_F(WorkloadTest, FindsForgottenResubmission) {
  back_end_.reverse_window = 6;
  back_end_.faults.forget_inflight = true;
  options_.request_seconds = 1;
  uint64_t resubmitted = 0;
  EXPECT_FALSE(run_with_deaths(3, &resubmitted).ok);
}

TEST_F(WorkloadTest, FindsThatOutOfOrderNeedsTheInflightArea) {
  back_end_.reverse_window = 6;
  back_end_.inflight = false;
  options_.request_seconds = 1;
  uint64_t resubmitted = 0;
  EXPECT_FALSE(run_with_deaths(3, &resubmitted).ok);
}

TEST_F(WorkloadTest, JournalHasEveryRequestAndItsTicks) {
  options_.journal_path = folder_ + "/journal";
  options_.first_id = 1000;
  options_.final_check = false;
  const WorkloadResult result = run_against_fake();
  ASSERT_TRUE(result.ok);
  std::ifstream file(options_.journal_path, std::ios::binary);
  JournalHeader header;
  file.read(reinterpret_cast<char*>(&header), sizeof header);
  EXPECT_EQ(std::memcmp(header.magic, "EPJOURN1", 8), 0);
  EXPECT_EQ(header.complete, 1u);
  std::vector<bool> ticks(header.last_tick + 1);
  JournalRecord record;
  uint32_t id = 1000;
  bool write_found = false;
  while (file.read(reinterpret_cast<char*>(&record), sizeof record)) {
    EXPECT_EQ(record.id, id++);
    EXPECT_LT(record.submit_tick, record.complete_tick);
    ASSERT_LE(record.complete_tick, header.last_tick);
    EXPECT_FALSE(ticks[record.submit_tick] || ticks[record.complete_tick]);
    ticks[record.submit_tick] = ticks[record.complete_tick] = true;
    EXPECT_EQ(record.status, kStatusOk);
    if (record.type != kBlkOut) continue;
    write_found = true;
    EXPECT_LE(record.offset + record.length, disk_.size());
  }
  EXPECT_TRUE(write_found);
  EXPECT_EQ(id - 1000, result.submitted);
}

TEST_F(WorkloadTest, CommandsPauseAndStop) {
  int ends[2];
  ASSERT_EQ(::pipe(ends), 0);
  options_.ops = 0;
  options_.command_fd = ends[0];
  options_.final_check = false;
  char* text = nullptr;
  size_t size = 0;
  FILE* out = ::open_memstream(&text, &size);
  FakeBackEnd fake(back_end_, &disk_);
  ASSERT_TRUE(fake.start().ok());
  Workload workload(options_, out);
  ASSERT_TRUE(workload.open().ok());
  std::thread commander([&] {
    for (const char* line : {"pause\n", "tick\n", "resume\n", "stop\n"}) {
      std::this_thread::sleep_for(std::chrono::milliseconds(50));
      EXPECT_GT(::write(ends[1], line, std::strlen(line)), 0);
    }
  });
  const WorkloadResult result = workload.run();
  commander.join();
  std::fclose(out);
  EXPECT_TRUE(result.ok);
  const std::string printed(text, size);
  ::free(text);
  const size_t paused = printed.find("\"event\":\"paused\"");
  const size_t tick = printed.find("\"event\":\"tick\"");
  ASSERT_NE(paused, std::string::npos) << printed;
  ASSERT_NE(tick, std::string::npos) << printed;
  EXPECT_NE(printed.find("\"inFlight\":0", tick), std::string::npos);
  EXPECT_LT(paused, tick);
  ::close(ends[0]);
  ::close(ends[1]);
}

TEST_F(WorkloadTest, SameSeedSameRequests) {
  std::string journals[2];
  for (std::string& path : journals) {
    path = folder_ + "/journal" + std::to_string(&path - journals);
    options_.journal_path = path;
    std::fill(disk_.begin(), disk_.end(), 0);
    ASSERT_TRUE(run_against_fake().ok);
  }
  std::ifstream a(journals[0], std::ios::binary);
  std::ifstream b(journals[1], std::ios::binary);
  a.seekg(sizeof(JournalHeader));
  b.seekg(sizeof(JournalHeader));
  JournalRecord x;
  JournalRecord y;
  for (uint64_t i = 0; i < options_.ops; i++) {
    ASSERT_TRUE(a.read(reinterpret_cast<char*>(&x), sizeof x));
    ASSERT_TRUE(b.read(reinterpret_cast<char*>(&y), sizeof y));
    ASSERT_TRUE(x.type == y.type && x.offset == y.offset && x.length == y.length &&
                x.queue == y.queue && x.flags == y.flags)
        << x.id;
  }
}

TEST_F(WorkloadTest, LoadAndProbe) {
  FakeBackEnd fake(back_end_, &disk_);
  ASSERT_TRUE(fake.start().ok());
  ProbeResult found;
  Status status = probe(options_.sockets[0], 4096, 2000, &found);
  EXPECT_TRUE(status.ok()) << status.message();
  EXPECT_EQ(found.capacity, disk_.size());
  EXPECT_EQ(found.serial, "fake-back-end-serial");
  EXPECT_TRUE(found.inflight);
  LoadOptions load;
  load.socket_path = options_.sockets[0];
  load.write = true;
  load.depth = 8;
  load.seconds = 0.2;
  load.warmup_seconds = 0.05;
  LoadResult result;
  status = run_load(load, &result);
  EXPECT_TRUE(status.ok()) << status.message();
  EXPECT_GT(result.requests, 100u);
  EXPECT_EQ(result.errors, 0u);
  EXPECT_GE(result.latency.max_ns(), result.latency.percentile_ns(0.5));
  // Pairs of write and flush: each takes longer than a write alone.
  load.flush = true;
  LoadResult pairs;
  status = run_load(load, &pairs);
  EXPECT_TRUE(status.ok()) << status.message();
  EXPECT_GT(pairs.requests, 100u);
  EXPECT_EQ(pairs.errors, 0u);
  EXPECT_GT(pairs.latency.percentile_ns(0.01), 0u);
}

TEST(LatencyHistogram, PercentilesWithinThreePercent) {
  LatencyHistogram histogram;
  for (uint64_t ns = 1; ns <= 100000; ns++) histogram.add(ns);
  EXPECT_NEAR(static_cast<double>(histogram.percentile_ns(0.5)), 50000, 50000 * 0.035);
  EXPECT_NEAR(static_cast<double>(histogram.percentile_ns(0.99)), 99000, 99000 * 0.035);
  EXPECT_EQ(histogram.max_ns(), 100000u);
  EXPECT_EQ(histogram.percentile_ns(1.0), 100000u);
}

}  // namespace
}  // namespace ep::front_end

// SPDX-License-Identifier: Apache-2.0

// A front-end that does everything wrong, against one disk of a process that serves another one at
// the same time. The other guest must not notice: a crash here would have taken down every disk of
// the host, a stray write would have damaged one.

#include "front-end/hostile.h"

#include <gtest/gtest.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cstdio>
#include <cstring>
#include <thread>

#include "back_end.h"
#include "front-end/probe.h"
#include "front-end/workload.h"

namespace ep::fuzz {
namespace {

constexpr uint64_t kDiskBytes = 32 << 20;

TEST(Hostile, EveryAttackLeavesTheOtherDiskAlone) {
  const uint64_t seed = test_seed();
  const TestFolder folder;
  MemoryBackEnd back_end(folder, 3, kDiskBytes, 4);
  std::memset(back_end.device(2).bytes(), 0x5a, kDiskBytes);  // nobody connects to this one

  front_end::WorkloadOptions workload_options;
  workload_options.sockets = {back_end.socket(1)};
  workload_options.queues = 2;
  workload_options.seed = static_cast<uint32_t>(seed);
  workload_options.final_check = true;
  const int stop = eventfd(0, EFD_CLOEXEC);
  workload_options.stop_fd = stop;
  FILE* quiet = std::fopen("/dev/null", "w");
  front_end::Workload workload(workload_options, quiet);
  ASSERT_TRUE(workload.open().ok());
  front_end::WorkloadResult result;
  std::thread runner([&workload, &result] { result = workload.run(); });

  front_end::HostileOptions options;
  options.socket_path = back_end.socket(0);
  options.seed = seed;
  options.rounds = 10;
  char* report = nullptr;
  size_t report_bytes = 0;
  FILE* out = open_memstream(&report, &report_bytes);
  bool known = false;
  const bool all_ended_well = front_end::run_hostile(options, out, &known);
  std::fclose(out);
  EXPECT_TRUE(known);
  EXPECT_TRUE(all_ended_well) << report;
  std::free(report);

  const uint64_t one = 1;
  ASSERT_EQ(write(stop, &one, sizeof one), static_cast<ssize_t>(sizeof one));
  runner.join();
  close(stop);
  std::fclose(quiet);
  EXPECT_TRUE(result.ok) << (result.failures.empty() ? "" : result.failures[0]);
  EXPECT_EQ(result.errors, 0u);
  EXPECT_EQ(result.reconnects, 0u);
  EXPECT_GT(result.completed, 1000u);
  EXPECT_EQ(back_end.disk(1).stats().malformed, 0u);
  EXPECT_GT(back_end.disk(0).stats().malformed, 50u);
  EXPECT_EQ(back_end.disk(0).stats().in_flight, 0u);
  const uint8_t* untouched = back_end.device(2).bytes();
  EXPECT_EQ(untouched[0], 0x5a);
  EXPECT_EQ(std::memcmp(untouched, untouched + 1, kDiskBytes - 1), 0);
}

// Half a message used to be able to hold the library's one event thread, and with it every other
// guest's set-up, for as long as its sender liked.
TEST(Hostile, HalfAMessageHoldsNobodyUp) {
  const TestFolder folder;
  MemoryBackEnd back_end(folder, 2, kDiskBytes, 1);
  front_end::Channel half;
  ASSERT_TRUE(half.connect(back_end.socket(0)).ok());
  const uint32_t header[3] = {front_end::kSetMemTable, 1, 264};
  ASSERT_TRUE(half.send_raw(header, sizeof header).ok());
  front_end::ProbeResult result;
  const front_end::Status alive = front_end::probe(back_end.socket(1), 0, 8000, &result);
  EXPECT_TRUE(alive.ok()) << alive.message();
  EXPECT_TRUE(half.is_open());
}

TEST(VhostUserBlkTraffic, FewerQueuesThanOffered) {
  const TestFolder folder;
  MemoryBackEnd back_end(folder, 1, kDiskBytes, 8);
  for (const uint16_t queues : {1, 3, 8}) {
    front_end::WorkloadOptions options;
    options.sockets = {back_end.socket(0)};
    options.queues = queues;
    options.ops = 300;
    options.final_check = true;
    options.initial_zero = false;
    options.event_idx = queues != 3;
    options.indirect = queues != 3;
    options.inflight = queues != 1;
    FILE* quiet = std::fopen("/dev/null", "w");
    front_end::Workload workload(options, quiet);
    ASSERT_TRUE(workload.open().ok());
    const front_end::WorkloadResult result = workload.run();
    std::fclose(quiet);
    EXPECT_TRUE(result.ok) << (result.failures.empty() ? "" : result.failures[0]);
  }
  EXPECT_EQ(back_end.disk(0).stats().connections, 3u);
}

TEST(VhostUserBlkTraffic, StopUnderLoadEndsAllRequests) {
  const TestFolder folder;
  for (int round = 0; round < 5; ++round) {
    MemoryBackEnd back_end(folder, 1, kDiskBytes, 2);
    front_end::WorkloadOptions options;
    options.sockets = {back_end.socket(0)};
    options.queues = 2;
    FILE* quiet = std::fopen("/dev/null", "w");
    front_end::Workload workload(options, quiet);
    ASSERT_TRUE(workload.open().ok());
    std::thread runner([&workload] { workload.run(); });  // ends when the connection is lost
    while (back_end.disk(0).stats().requests < 500) std::this_thread::yield();
    back_end.disk(0).stop();
    EXPECT_EQ(back_end.disk(0).stats().in_flight, 0u);
    EXPECT_FALSE(back_end.disk(0).stats().connected);
    runner.join();
    std::fclose(quiet);
  }
}

TEST(VhostUserBlkTraffic, TellsTheGuestThatTheDiskGrew) {
  const TestFolder folder;
  MemoryBackEnd back_end(folder, 1, kDiskBytes, 1);
  front_end::Channel channel;
  ASSERT_TRUE(channel.connect(back_end.socket(0)).ok());
  int pair[2];
  ASSERT_EQ(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair), 0);
  constexpr uint32_t kSetBackendRequestFd = 21;
  constexpr uint64_t kBackendChannel = 1ull << 5;
  uint64_t features = 0;
  ASSERT_TRUE(channel.call_u64(front_end::kGetProtocolFeatures, &features).ok());
  EXPECT_NE(features & kBackendChannel, 0u);
  ASSERT_TRUE(
      channel.command(front_end::kSetProtocolFeatures, &features, sizeof features, true).ok());
  ASSERT_TRUE(channel.command(kSetBackendRequestFd, nullptr, 0, true, {&pair[1], 1}).ok());
  back_end.disk(0).notify_geometry();
  uint32_t message[3] = {};
  ASSERT_EQ(read(pair[0], message, sizeof message), static_cast<ssize_t>(sizeof message));
  EXPECT_EQ(message[0], 2u);  // CONFIG_CHANGE_MSG
  EXPECT_EQ(message[1], 1u);
  EXPECT_EQ(message[2], 0u);
  close(pair[0]);
  close(pair[1]);
}

}  // namespace
}  // namespace ep::fuzz

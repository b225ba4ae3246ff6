// SPDX-License-Identifier: Apache-2.0

// kill -9 of the back-end with requests in flight that complete out of order. The next back-end
// must run exactly those again whose completion was not published, and the guest must see every
// request end once, with its data in place. Only reordered completions exercise the in-flight area:
// in order, the ring's indexes alone would do.

#include <gtest/gtest.h>
#include <poll.h>
#include <unistd.h>

#include <atomic>
#include <chrono>
#include <cstdio>
#include <thread>

#include "back_end.h"
#include "block/delay_device.h"
#include "block/uring_device.h"
#include "front-end/vhost_user_client.h"
#include "front-end/workload.h"
#include "io/posix_file_system.h"

namespace ep::fuzz {
namespace {

constexpr uint64_t kDiskBytes = 16 << 20;

std::string setting(const char* name) {
  const char* value = std::getenv(name);
  return value != nullptr ? value : "";
}

// Not a test: the body of the process that is killed. Serves until then.
TEST(BackEndProcess, DISABLED_Serve) {
  ASSERT_FALSE(setting("EP_SERVE_SOCKET").empty());
  reactor::Reactor reactor;
  ASSERT_TRUE(reactor.start([] { return io::make_uring_engine(); }).is_ok());
  io::PosixFileSystem files;
  std::unique_ptr<block::UringDevice> disk;
  std::unique_ptr<block::DelayDevice> delayed;
  reactor.call([&] {
    block::UringDeviceOptions options;
    options.path = setting("EP_SERVE_FILE");
    options.create = true;
    options.size_bytes = kDiskBytes;
    auto opened = block::UringDevice::open(files, reactor.engine(), options);
    ASSERT_TRUE(opened.is_ok()) << opened.status().to_string();
    disk = std::move(*opened);
    block::DelayOptions delay;
    delay.where = setting("EP_SERVE_DELAY") == "before" ? block::DelayOptions::Where::kBefore
                                                        : block::DelayOptions::Where::kAfter;
    delay.seed = static_cast<uint64_t>(getpid());
    delay.max_ns = 5'000'000;
    delayed = std::make_unique<block::DelayDevice>(*disk, &reactor, delay);
  });
  exports::VhostUserBlkOptions options;
  options.path = setting("EP_SERVE_SOCKET");
  options.queues = 2;
  options.resubmit_in_flight = setting("EP_SERVE_RESUBMIT") != "0";
  auto made = exports::VhostUserBlk::create(options, &reactor, delayed.get());
  ASSERT_TRUE(made.is_ok()) << made.status().to_string();
  for (;;) pause();
}

struct KillRun {
  front_end::WorkloadResult result;
  int kills = 0;
};

KillRun run_with_kills(const std::string& delay, bool resubmit, int kills, uint32_t seed) {
  const TestFolder folder;
  const std::vector<std::string> environment = {
      "EP_SERVE_SOCKET=" + folder.file("disk.sock"), "EP_SERVE_FILE=" + folder.file("disk.img"),
      "EP_SERVE_DELAY=" + delay, std::string("EP_SERVE_RESUBMIT=") + (resubmit ? "1" : "0")};
  const std::string name = "BackEndProcess.DISABLED_Serve";
  auto server = std::make_unique<ChildProcess>(name, environment);

  front_end::WorkloadOptions options;
  options.sockets = {folder.file("disk.sock")};
  options.queues = 2;
  options.depth = 16;
  options.seed = seed;
  options.seconds = 1.5 * (kills + 1);
  options.max_bytes = 64 << 10;
  options.final_check = true;
  options.reconnect = true;
  options.reconnect_seconds = 20;
  options.request_seconds = resubmit ? 30 : 3;
  options.no_error_tolerance = true;
  FILE* quiet = std::fopen("/dev/null", "w");
  front_end::Workload workload(options, quiet);
  front_end::Status opened = front_end::Status::error("not tried");
  for (int attempt = 0; attempt < 200 && !opened.ok(); ++attempt) {
    std::this_thread::sleep_for(std::chrono::milliseconds(50));
    opened = workload.open();
  }
  EXPECT_TRUE(opened.ok()) << opened.message();
  KillRun run;
  std::atomic<bool> over{false};
  std::thread runner([&] {
    run.result = workload.run();
    over.store(true);
  });
  for (int i = 0; i < kills && !over.load(); ++i) {
    // Long enough for the front-end to be back and to have requests in flight.
    std::this_thread::sleep_for(std::chrono::milliseconds(1300));
    server->kill_now();
    run.kills++;
    server = std::make_unique<ChildProcess>(name, environment);
  }
  runner.join();
  std::fclose(quiet);
  return run;
}

class KillTest : public ::testing::TestWithParam<const char*> {};

TEST_P(KillTest, EveryRequestEndsOnceOverManyDeaths) {
  const auto seed = static_cast<uint32_t>(test_seed());
  const KillRun run = run_with_kills(GetParam(), true, 5, seed);
  EXPECT_TRUE(run.result.ok) << (run.result.failures.empty() ? "" : run.result.failures[0]);
  EXPECT_EQ(run.kills, 5);
  EXPECT_EQ(run.result.errors, 0u);
  EXPECT_GE(run.result.reconnects, 4u);
  EXPECT_GT(run.result.out_of_order, 100u) << "the delay did not reorder: this test tests nothing";
  EXPECT_GT(run.result.resubmitted, 0u);
  EXPECT_EQ(run.result.completed, run.result.submitted);
  std::printf("[ NOTE     ] %d kills, %llu requests, %llu resubmitted, %llu out of order\n",
              run.kills, static_cast<unsigned long long>(run.result.completed),
              static_cast<unsigned long long>(run.result.resubmitted),
              static_cast<unsigned long long>(run.result.out_of_order));
}
// Delayed before the disk: at death some requests had not touched it. After: they had, and run
// twice.
INSTANTIATE_TEST_SUITE_P(Delays, KillTest, ::testing::Values("before", "after"));

// The kill test must be able to fail: without resubmission requests are lost.
TEST(KillTestItself, NoticesThatResubmissionIsOff) {
  const auto seed = static_cast<uint32_t>(test_seed());
  const KillRun run = run_with_kills("before", false, 1, seed);
  EXPECT_FALSE(run.result.ok);
}

bool interrupted(const front_end::VhostUserClient& client) {
  pollfd call{client.call_fd(0), POLLIN, 0};
  return poll(&call, 1, 2'000) == 1;
}

// A back-end may die between publishing a completion and the interrupt that tells of it. Nothing is
// left to resubmit then, and with EVENT_IDX no later completion would interrupt either: the guest
// hangs unless the next back-end begins with an interrupt.
TEST(RestartedBackEnd, RepeatsAnInterruptThatItsPredecessorMayHaveOwed) {
  const TestFolder folder;
  auto server = std::make_unique<MemoryBackEnd>(folder, 1, 1 << 20, 1);
  front_end::ClientOptions options;
  options.socket_path = server->socket(0);
  front_end::VhostUserClient client(options);
  ASSERT_TRUE(client.connect().ok());
  ASSERT_TRUE(client.start().ok());
  const uint64_t header = client.memory().allocate(16, 16);
  const uint64_t status = client.memory().allocate(1, 1);
  const uint32_t flush = front_end::kBlkFlush;
  std::memcpy(client.memory().host(header), &flush, sizeof flush);
  client.drain_call(0);  // whatever the start brought
  front_end::SplitRing& ring = client.ring(0);
  const front_end::Segment segments[] = {{header, 16, false}, {status, 1, true}};
  ASSERT_NE(ring.add(segments), front_end::SplitRing::kNone);
  ring.arm_interrupt();
  ring.publish();
  client.kick(0);
  // The first interrupt may still be one that the start brought.
  for (int i = 0; i < 200 && ring.device_used_idx() == 0; ++i) usleep(10'000);
  ASSERT_EQ(ring.device_used_idx(), 1);

  client.disconnect();
  server = nullptr;
  // Published, and as far as this driver is concerned nobody said so.
  client.drain_call(0);
  server = std::make_unique<MemoryBackEnd>(folder, 1, 1 << 20, 1);
  ASSERT_TRUE(client.connect().ok());
  ASSERT_TRUE(client.start().ok());
  EXPECT_TRUE(interrupted(client));
}

}  // namespace
}  // namespace ep::fuzz

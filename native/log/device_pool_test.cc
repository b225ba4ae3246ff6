// SPDX-License-Identifier: Apache-2.0
#include "log/device_pool.h"

#include <gtest/gtest.h>

#include "base/limits.h"
#include "block/test_support.h"
#include "io/test_support.h"

namespace ep::log {
namespace {

constexpr uint64_t kMiB = 1024 * 1024;
constexpr uint64_t kGiB = 1024 * kMiB;

TEST(DevicePool, TheReserveFitsTheDevice) {
  EXPECT_EQ(space_reserve(64 * kMiB), 4 * kMiB);
  EXPECT_EQ(space_reserve(1 * kGiB), 64 * kMiB);
  EXPECT_EQ(space_reserve(4 * kGiB), 64 * kMiB);
  EXPECT_EQ(space_reserve(1000 * kGiB), 10 * kGiB);
}

TEST(DevicePool, SegmentsAreSpreadByFreeSpace) {
  std::vector<DeviceChoice> choices = {{0, 600 * kGiB, 1000 * kGiB, 0, false},
                                       {1, 200 * kGiB, 1000 * kGiB, 0, false},
                                       {2, 200 * kGiB, 1000 * kGiB, 0, false}};
  std::vector<int> taken(3);
  size_t longest = 0;
  size_t row = 0;
  size_t last = 3;
  for (int i = 0; i < 1000; ++i) {
    const size_t index = order_devices(choices).front();
    ++taken[index];
    choices[index].given_bytes += 256 * kMiB;
    choices[index].free_bytes -= 256 * kMiB;
    row = index == last ? row + 1 : 1;
    last = index;
    longest = std::max(longest, row);
  }
  EXPECT_NEAR(taken[0], 600, 3);
  EXPECT_NEAR(taken[1], 200, 3);
  EXPECT_NEAR(taken[2], 200, 3);
  EXPECT_LE(longest, 3u) << "spread, not in blocks";
}

TEST(DevicePool, RoomFirstThenFullThenTroubled) {
  const std::vector<DeviceChoice> choices = {{0, 500 * kGiB, 1000 * kGiB, 0, true},
                                             {1, 5 * kGiB, 1000 * kGiB, 0, false},
                                             {2, 20 * kGiB, 1000 * kGiB, 900 * kGiB, false}};
  EXPECT_EQ(order_devices(choices), (std::vector<size_t>{2, 1, 0}));
  EXPECT_TRUE(order_devices({}).empty());
}

TEST(DevicePool, FailureBackOffAndTrust) {
  DevicePool pool({{Uuid{}, "/a"}, {Uuid{}, "/b"}}, {});
  const uint64_t second = 1'000'000'000;
  uint64_t now = 100 * second;
  EXPECT_TRUE(pool.is_good(0, now));
  uint64_t wait = 50'000'000;
  for (int i = 0; i < 10; ++i) {
    pool.failed(0, Status(Code::kIoError, "broken"), now, 7);
    EXPECT_FALSE(pool.may_use(0, now + wait - 1));
    EXPECT_TRUE(pool.may_use(0, now + wait));
    now += wait;
    wait = std::min(wait * 2, 2 * second);
  }
  EXPECT_EQ(pool.status()[0].state, DeviceState::kFailed);
  EXPECT_EQ(pool.status()[0].reason, "broken");
  EXPECT_EQ(pool.status()[0].since_ns, 7u);
  EXPECT_EQ(pool.status()[1].state, DeviceState::kOk);
  pool.worked(0, 9);
  EXPECT_EQ(pool.status()[0].state, DeviceState::kOk);
  EXPECT_EQ(pool.status()[0].reason, "");
  EXPECT_TRUE(pool.may_use(0, now));
  EXPECT_FALSE(pool.is_good(0, now)) << "it failed a moment ago";
  EXPECT_TRUE(pool.is_good(0, now + 30 * second));
  pool.hold(1);
  EXPECT_FALSE(pool.may_use(1, now));
  EXPECT_EQ(pool.candidates(now).size(), 1u);
  EXPECT_FALSE(pool.another_is_good(0, now));
  pool.release(1);
  EXPECT_TRUE(pool.another_is_good(0, now));
}

TEST(DevicePool, AMissingDeviceIsSkippedAndNothingIsMadeThere) {
  block::TempDirectory directory("/dev/shm");
  io::TestFileSystem files;
  const std::vector<DeviceFolder> folders = {{Uuid{}, directory.path() + "/gone/groups/g"},
                                             {Uuid{}, directory.path() + "/here/groups/g"}};
  std::filesystem::create_directories(folders[1].folder);
  DevicePool pool(folders, {});
  const auto outcome = DevicePool::make(files, pool.folders(), pool.candidates(1), 1,
                                        limits::kSegmentBytesMin, 1'700'000'000'000'000'000);
  ASSERT_TRUE(outcome.made);
  EXPECT_TRUE(pool.learn(outcome, 1, 1));
  EXPECT_EQ(pool.index_of(outcome.made->device), 1u);
  EXPECT_EQ(pool.status()[0].state, DeviceState::kFailed);
  EXPECT_FALSE(std::filesystem::exists(directory.path() + "/gone"));
  files.close(outcome.made->file);
}

}  // namespace
}  // namespace ep::log

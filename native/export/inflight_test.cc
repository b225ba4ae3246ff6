// SPDX-License-Identifier: Apache-2.0
#include "export/inflight.h"

#include <gtest/gtest.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cerrno>

namespace ep::exports {
namespace {

class InflightTest : public ::testing::Test {
 protected:
  InflightTest() {
    auto made = InflightArea::create(2, 8, &fd_);
    EXPECT_TRUE(made.is_ok());
    area_ = *made;
  }
  ~InflightTest() override { close(fd_); }
  /// What a new back-end finds when the old one died with the used ring's index at `used_idx`.
  std::vector<uint16_t> after_death(uint16_t used_idx, uint16_t queue = 0) {
    auto mapped = InflightArea::map(fd_, area_->shape());
    EXPECT_TRUE(mapped.is_ok());
    std::vector<uint16_t> heads;
    InflightQueue next = (*mapped)->queue(queue);
    EXPECT_TRUE(next.recover(used_idx, 8, &heads).is_ok());
    return heads;
  }

  int fd_ = -1;
  std::shared_ptr<InflightArea> area_;
};

TEST_F(InflightTest, HeadsComeBackOldestFirst) {
  InflightQueue queue = area_->queue(0);
  std::vector<uint16_t> heads;
  ASSERT_TRUE(queue.recover(0, 8, &heads).is_ok());
  EXPECT_TRUE(heads.empty());
  for (const uint16_t head : {5, 1, 7, 3}) queue.taken(head);
  queue.completing(7);
  queue.completed(7, 1);
  EXPECT_EQ(after_death(1), (std::vector<uint16_t>{5, 1, 3}));
  EXPECT_EQ(after_death(1), (std::vector<uint16_t>{5, 1, 3}));  // nothing was done: the same again
  EXPECT_TRUE(after_death(0, 1).empty());
}

TEST_F(InflightTest, NewRequestsAreYoungerThanResubmittedOnes) {
  InflightQueue queue = area_->queue(0);
  std::vector<uint16_t> heads;
  ASSERT_TRUE(queue.recover(0, 8, &heads).is_ok());
  queue.taken(6);
  queue.taken(2);
  auto mapped = InflightArea::map(fd_, area_->shape());
  InflightQueue next = (*mapped)->queue(0);
  ASSERT_TRUE(next.recover(0, 8, &heads).is_ok());
  next.taken(0);
  EXPECT_EQ(after_death(0), (std::vector<uint16_t>{6, 2, 0}));
}

// A request whose completion the guest may have seen must not run again, one it cannot have seen
// must: death between any two stores of a completion.
TEST_F(InflightTest, DeathAtEveryStepOfACompletion) {
  InflightQueue queue = area_->queue(0);
  std::vector<uint16_t> heads;
  ASSERT_TRUE(queue.recover(10, 8, &heads).is_ok());
  queue.taken(4);
  queue.taken(2);
  EXPECT_EQ(after_death(10), (std::vector<uint16_t>{4, 2}));
  queue.completing(2);
  EXPECT_EQ(after_death(10), (std::vector<uint16_t>{4, 2}));  // before used->idx: runs again
  EXPECT_EQ(after_death(11), (std::vector<uint16_t>{4}));     // after used->idx, before completed()
  EXPECT_EQ(after_death(11), (std::vector<uint16_t>{4}));     // and once more after that recovery
}

TEST_F(InflightTest, IndexesWrap) {
  InflightQueue queue = area_->queue(0);
  std::vector<uint16_t> heads;
  ASSERT_TRUE(queue.recover(0xffff, 8, &heads).is_ok());
  queue.taken(1);
  queue.taken(0);
  queue.completing(0);
  EXPECT_EQ(after_death(0), (std::vector<uint16_t>{1}));
}

TEST_F(InflightTest, TheAreaIsNotTrusted) {
  InflightQueue queue = area_->queue(0);
  std::vector<uint16_t> heads;
  EXPECT_FALSE(queue.recover(0, 16, &heads).is_ok());  // a ring larger than the area
  ASSERT_TRUE(queue.recover(0, 8, &heads).is_ok());
  auto* bytes =
      static_cast<uint8_t*>(mmap(nullptr, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, fd_, 0));
  ASSERT_NE(bytes, MAP_FAILED);
  bytes[12] = bytes[13] = 0xff;  // last head 65535, and an index that asks to use it
  EXPECT_TRUE(queue.recover(1, 8, &heads).is_ok());
  bytes[10] = 0xff;  // 255 descriptors in an area of 8
  EXPECT_FALSE(queue.recover(1, 8, &heads).is_ok());
  bytes[10] = 8;
  bytes[8] = 9;  // version
  EXPECT_FALSE(queue.recover(1, 8, &heads).is_ok());
  munmap(bytes, 4096);
}

TEST_F(InflightTest, ShapesAreChecked) {
  const InflightShape good = area_->shape();
  EXPECT_EQ(ftruncate(fd_, 0), -1);  // sealed: a front-end cannot pull it away
  EXPECT_EQ(errno, EPERM);
  const auto attempt = [this](InflightShape shape) {
    return InflightArea::map(fd_, shape).is_ok();
  };
  EXPECT_TRUE(attempt(good));
  EXPECT_FALSE(attempt({good.bytes - 1, 0, 2, 8}));
  EXPECT_FALSE(attempt({good.bytes + 4096, 0, 2, 8}));
  EXPECT_FALSE(attempt({good.bytes, 4096, 2, 8}));
  EXPECT_FALSE(attempt({good.bytes, UINT64_MAX - 4095, 2, 8}));
  EXPECT_FALSE(attempt({good.bytes, 1, 2, 8}));
  EXPECT_FALSE(attempt({good.bytes, 0, 0, 8}));
  EXPECT_FALSE(attempt({good.bytes, 0, 2, 0}));
  EXPECT_FALSE(attempt({good.bytes, 0, 65535, 65535}));
  EXPECT_FALSE(area_->queue(2).present());
}

}  // namespace
}  // namespace ep::exports

// SPDX-License-Identifier: Apache-2.0
#include "front-end/model.h"

#include <gtest/gtest.h>

#include <cstring>

#include "front-end/pattern.h"
#include "front-end/protocol.h"

namespace ep::front_end {
namespace {

constexpr uint32_t kSeed = 5;

class ModelTest : public ::testing::Test {
 protected:
  void SetUp() override { ASSERT_TRUE(journal_.open("", kSeed, 1, 1, 1).ok()); }

  uint32_t submit(uint8_t type, uint64_t sector, uint32_t sectors) {
    JournalRecord& record = journal_.add();
    record.type = type;
    record.offset = sector * kSectorBytes;
    record.length = sectors * kSectorBytes;
    record.submit_tick = journal_.tick();
    return record.id;
  }
  void complete(uint32_t id, uint8_t status = kStatusOk, bool discard_any = false) {
    JournalRecord& record = journal_.record(id);
    record.complete_tick = journal_.tick();
    record.status = status;
    model_.complete(record, discard_any);
  }
  /// Whether sector `at` may hold sector `sector` of request `id`; id 0: zeroes.
  bool may_hold(uint64_t at, uint32_t id, uint32_t sector) {
    uint8_t data[kSectorBytes] = {};
    if (id != 0) fill_sector(data, kSeed, id, sector);
    return model_.matches(at, data, kSeed);
  }

  Journal journal_;
  VolumeModel model_{&journal_, 64, true};
};

TEST_F(ModelTest, LaterWriteReplaces) {
  complete(submit(kBlkOut, 0, 8));
  complete(submit(kBlkOut, 2, 2));
  EXPECT_TRUE(may_hold(1, 1, 1));
  EXPECT_FALSE(may_hold(1, 0, 0));
  EXPECT_TRUE(may_hold(2, 2, 0));
  EXPECT_FALSE(may_hold(2, 1, 2));
  EXPECT_TRUE(may_hold(4, 1, 4));
  EXPECT_FALSE(may_hold(4, 1, 3));
  complete(submit(kBlkWriteZeroes, 0, 64));
  EXPECT_TRUE(may_hold(4, 0, 0));
  EXPECT_FALSE(may_hold(4, 1, 4));
}

TEST_F(ModelTest, ConcurrentWritesLeaveBothUntilALaterOne) {
  const uint32_t a = submit(kBlkOut, 0, 4);
  const uint32_t b = submit(kBlkOut, 2, 4);
  complete(b);
  complete(a);
  EXPECT_TRUE(may_hold(2, a, 2));
  EXPECT_TRUE(may_hold(2, b, 0));
  EXPECT_FALSE(may_hold(2, 0, 0));
  EXPECT_FALSE(may_hold(0, b, 0));
  EXPECT_EQ(model_.candidates(2).size(), 2u);
  const uint32_t c = submit(kBlkOut, 2, 1);
  complete(c);
  EXPECT_TRUE(may_hold(2, c, 0));
  EXPECT_FALSE(may_hold(2, a, 2));
  EXPECT_TRUE(may_hold(3, a, 3));
}

TEST_F(ModelTest, FailedWriteMakesSectorsUnknown) {
  complete(submit(kBlkOut, 0, 2), kStatusIoError);
  EXPECT_TRUE(model_.unknown(0));
  complete(submit(kBlkOut, 0, 1));
  EXPECT_FALSE(model_.unknown(0));
  EXPECT_TRUE(model_.unknown(1));
  complete(submit(kBlkDiscard, 4, 1), kStatusUnsupported);
  EXPECT_TRUE(may_hold(4, 0, 0));
  EXPECT_FALSE(model_.unknown(4));
}

TEST_F(ModelTest, DiscardMayLeaveOldDataWhenTold) {
  complete(submit(kBlkOut, 0, 1));
  complete(submit(kBlkDiscard, 0, 1), kStatusOk, true);
  EXPECT_TRUE(may_hold(0, 1, 0));
  EXPECT_TRUE(may_hold(0, 0, 0));
  complete(submit(kBlkDiscard, 0, 1), kStatusOk, false);
  EXPECT_FALSE(may_hold(0, 1, 0));
}

}  // namespace
}  // namespace ep::front_end

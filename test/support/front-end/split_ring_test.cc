// SPDX-License-Identifier: Apache-2.0
#include "front-end/split_ring.h"

#include <gtest/gtest.h>

#include <vector>

namespace ep::front_end {
namespace {

/// A device that takes heads from the available ring and gives them back, all in one thread.
class LoopBack {
 public:
  LoopBack(GuestMemory& memory, SplitRing& ring)
      : size_(ring.size()),
        desc_(ring.descriptors()),
        avail_(reinterpret_cast<uint16_t*>(memory.host(ring.avail_guest()))),
        used_(reinterpret_cast<uint16_t*>(memory.host(ring.used_guest()))) {}

  std::vector<uint16_t> take() {
    std::vector<uint16_t> heads;
    while (last_avail_ != avail_[1]) heads.push_back(avail_[2 + (last_avail_++ & (size_ - 1))]);
    return heads;
  }
  void give(uint32_t head, uint32_t length) {
    auto* ring = reinterpret_cast<UsedElement*>(used_ + 2);
    ring[used_[1] & (size_ - 1)] = {head, length};
    used_[1]++;
  }
  void set_avail_event(uint16_t event) {
    auto* ring = reinterpret_cast<UsedElement*>(used_ + 2);
    *reinterpret_cast<uint16_t*>(ring + size_) = event;
  }
  uint16_t chain_length(uint16_t head) const {
    uint16_t length = 1;
    for (; (desc_[head].flags & kDescNext) != 0; head = desc_[head].next) length++;
    return length;
  }
  uint16_t* flags() { return used_; }

 private:
  uint16_t size_;
  Descriptor* desc_;
  uint16_t* avail_;
  uint16_t* used_;
  uint16_t last_avail_ = 0;
};

struct Fixture {
  explicit Fixture(bool event_idx) {
    EXPECT_TRUE(memory.create(1 << 20, 2).ok());
    EXPECT_TRUE(ring.create(&memory, 16, event_idx).ok());
  }
  GuestMemory memory;
  SplitRing ring;
};

TEST(SplitRing, RefusesBadSizes) {
  GuestMemory memory;
  ASSERT_TRUE(memory.create(1 << 20, 1).ok());
  for (uint16_t size : {0, 3, 100, 65535}) {
    SplitRing ring;
    EXPECT_FALSE(ring.create(&memory, size, false).ok()) << size;
  }
}

TEST(SplitRing, OutOfOrderCompletionsOverManyLaps) {
  Fixture f(false);
  LoopBack device(f.memory, f.ring);
  const Segment chain[] = {{f.memory.kGuestBase, 16, false},
                           {f.memory.kGuestBase, 512, true},
                           {f.memory.kGuestBase, 1, true}};
  // 70000 requests: the 16-bit indexes wrap.
  for (int lap = 0; lap < 14000; lap++) {
    for (int i = 0; i < 5; i++) ASSERT_NE(f.ring.add(chain), SplitRing::kNone);
    ASSERT_EQ(f.ring.add(chain), SplitRing::kNone);
    EXPECT_TRUE(f.ring.publish());
    auto heads = device.take();
    ASSERT_EQ(heads.size(), 5u);
    for (size_t i : {3u, 0u, 4u, 2u, 1u}) {
      ASSERT_EQ(device.chain_length(heads[i]), 3);
      device.give(heads[i], 513);
    }
    UsedElement element;
    bool violation;
    for (size_t i : {3u, 0u, 4u, 2u, 1u}) {
      ASSERT_TRUE(f.ring.poll(&element, &violation));
      ASSERT_FALSE(violation);
      ASSERT_EQ(element.id, heads[i]);
    }
    ASSERT_FALSE(f.ring.poll(&element, &violation));
    ASSERT_EQ(f.ring.free_descriptors(), 16);
  }
}

TEST(SplitRing, ReportsCompletionsThatAreNotDue) {
  Fixture f(false);
  LoopBack device(f.memory, f.ring);
  const Segment one[] = {{f.memory.kGuestBase, 16, false}};
  const uint16_t head = f.ring.add(one);
  f.ring.publish();
  device.take();
  device.give(head, 0);
  device.give(head, 0);
  device.give(40000, 0);
  UsedElement element;
  bool violation;
  ASSERT_TRUE(f.ring.poll(&element, &violation));
  EXPECT_FALSE(violation);
  ASSERT_TRUE(f.ring.poll(&element, &violation));
  EXPECT_TRUE(violation);
  ASSERT_TRUE(f.ring.poll(&element, &violation));
  EXPECT_TRUE(violation);
  EXPECT_EQ(f.ring.free_descriptors(), 16);
  EXPECT_EQ(f.ring.in_flight_count(), 0);
}

TEST(SplitRing, KicksOnlyWhenTheDeviceWantsIt) {
  Fixture plain(false);
  LoopBack device(plain.memory, plain.ring);
  const Segment one[] = {{plain.memory.kGuestBase, 16, false}};
  *device.flags() = kUsedNoNotify;
  plain.ring.add(one);
  EXPECT_FALSE(plain.ring.publish());
  *device.flags() = 0;
  plain.ring.add(one);
  EXPECT_TRUE(plain.ring.publish());
  EXPECT_FALSE(plain.ring.publish()) << "nothing new";

  Fixture f(true);
  LoopBack events(f.memory, f.ring);
  events.set_avail_event(1);
  f.ring.add(one);
  EXPECT_FALSE(f.ring.publish()) << "the device asked for the second";
  f.ring.add(one);
  EXPECT_TRUE(f.ring.publish());
  events.set_avail_event(3);
  f.ring.add(one);
  f.ring.add(one);
  EXPECT_TRUE(f.ring.publish()) << "the event index lies inside the batch";
}

TEST(SplitRing, IndirectTakesOneDescriptor) {
  Fixture f(false);
  const uint64_t table = f.memory.allocate(64, 16);
  const Segment chain[] = {{f.memory.kGuestBase, 16, false},
                           {f.memory.kGuestBase, 512, false},
                           {f.memory.kGuestBase, 1, true}};
  const uint16_t head = f.ring.add(chain, table);
  ASSERT_NE(head, SplitRing::kNone);
  EXPECT_EQ(f.ring.free_descriptors(), 15);
  EXPECT_EQ(f.ring.descriptors()[head].flags, kDescIndirect);
  EXPECT_EQ(f.ring.descriptors()[head].len, 48u);
  const auto* entries = reinterpret_cast<const Descriptor*>(f.memory.host(table));
  EXPECT_EQ(entries[0].flags, kDescNext);
  EXPECT_EQ(entries[1].next, 2);
  EXPECT_EQ(entries[2].flags, kDescWrite);
}

}  // namespace
}  // namespace ep::front_end

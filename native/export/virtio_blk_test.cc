// SPDX-License-Identifier: Apache-2.0
#include "export/virtio_blk.h"

#include <gtest/gtest.h>

#include <array>
#include <cstdlib>
#include <random>
#include <string>

#include "export/chain_builder.h"

namespace ep::exports {
namespace {

using Verdict = BlkCommand::Verdict;

class VirtioBlkTest : public ::testing::Test {
 protected:
  static constexpr uint16_t kRing = 256;
  static constexpr uint64_t kHeader = TestGuest::kBase + 0x100;
  static constexpr uint64_t kStatus = TestGuest::kBase + 0x200;
  static constexpr uint64_t kTable = TestGuest::kBase + 0x1000;
  static constexpr uint64_t kData = TestGuest::kBase + 0x10000;

  VirtioBlkTest() {
    facts_.capacity_bytes = 1 << 20;
    facts_.id = id_of("serial-1");
  }

  /// Chains descriptors one behind the other from index 0 on.
  void chain(std::vector<TestDescriptor> descriptors) {
    for (size_t i = 0; i < descriptors.size(); ++i) {
      if (i + 1 < descriptors.size()) {
        descriptors[i].flags |= kNext;
        descriptors[i].next = static_cast<uint16_t>(i + 1);
      }
      table_[i] = descriptors[i];
    }
  }
  BlkCommand parse(uint16_t head = 0) {
    const ChainSource source{reinterpret_cast<const uint8_t*>(table_.data()), kRing, indirect_,
                             &guest_.memory()};
    BlkCommand command;
    parse_command(source, facts_, head, iovecs_.data(), &command);
    return command;
  }
  BlkCommand transfer(uint32_t type, uint64_t sector, uint64_t data, uint32_t length) {
    guest_.header(kHeader, type, sector);
    const uint16_t direction = type == VIRTIO_BLK_T_IN ? kWrite : 0;
    chain({{kHeader, 16, 0, 0}, {data, length, direction, 0}, {kStatus, 1, kWrite, 0}});
    return parse();
  }
  BlkCommand range(uint32_t type, uint64_t sector, uint32_t sectors, uint32_t flags,
                   uint32_t bytes = 16) {
    guest_.header(kHeader, type, 0);
    const virtio_blk_discard_write_zeroes payload{sector, sectors, flags};
    guest_.write(kData, &payload, sizeof payload);
    chain({{kHeader, 16, 0, 0}, {kData, bytes, 0, 0}, {kStatus, 1, kWrite, 0}});
    return parse();
  }
  void expect_refused(const BlkCommand& command, uint8_t status, bool has_status = true) {
    EXPECT_NE(command.verdict, Verdict::kSubmit);
    EXPECT_EQ(command.status, status);
    EXPECT_EQ(command.status_byte != nullptr, has_status);
    EXPECT_EQ(command.used_bytes, has_status ? 1u : 0u);
  }

  TestGuest guest_;
  BlkFacts facts_;
  bool indirect_ = true;
  std::array<TestDescriptor, kRing> table_{};
  std::array<iovec, kChainIovecsMax> iovecs_{};
};

TEST_F(VirtioBlkTest, ReadAndWriteBecomeRequests) {
  BlkCommand read = transfer(VIRTIO_BLK_T_IN, 8, kData, 4096);
  ASSERT_EQ(read.verdict, Verdict::kSubmit);
  EXPECT_EQ(read.op, block::Op::kRead);
  EXPECT_EQ(read.offset, 4096u);
  EXPECT_EQ(read.length, 4096u);
  ASSERT_EQ(read.iov_count, 1u);
  EXPECT_EQ(read.iov[0].iov_base, guest_.host(kData));
  EXPECT_EQ(read.status_byte, guest_.host(kStatus));
  EXPECT_EQ(read.used_bytes, 4097u);

  BlkCommand write = transfer(VIRTIO_BLK_T_OUT, 0, kData, 512);
  ASSERT_EQ(write.verdict, Verdict::kSubmit);
  EXPECT_EQ(write.op, block::Op::kWrite);
  EXPECT_EQ(write.used_bytes, 1u);
}

TEST_F(VirtioBlkTest, BufferAcrossRegionsBecomesTwoIovecs) {
  const BlkCommand command = transfer(VIRTIO_BLK_T_OUT, 0, guest_.border() - 512, 1536);
  ASSERT_EQ(command.verdict, Verdict::kSubmit);
  ASSERT_EQ(command.iov_count, 2u);
  EXPECT_EQ(command.iov[0].iov_len, 512u);
  EXPECT_EQ(command.iov[1].iov_len, 1024u);
  EXPECT_EQ(command.iov[1].iov_base, guest_.host(guest_.border()));
}

TEST_F(VirtioBlkTest, AnyLayoutOfHeaderDataAndStatus) {
  // Header in three pieces, the last with data behind it; across the region border.
  const uint64_t at = guest_.border() - 7;
  guest_.header(at, VIRTIO_BLK_T_OUT, 3);
  chain({{at, 5, 0, 0}, {at + 5, 6, 0, 0}, {at + 11, 5 + 512, 0, 0}, {kStatus, 1, kWrite, 0}});
  BlkCommand command = parse();
  ASSERT_EQ(command.verdict, Verdict::kSubmit);
  EXPECT_EQ(command.offset, 3u * 512);
  EXPECT_EQ(command.length, 512u);
  // Data and status in one buffer.
  guest_.header(kHeader, VIRTIO_BLK_T_IN, 0);
  chain({{kHeader, 16, 0, 0}, {kData, 513, kWrite, 0}});
  command = parse();
  ASSERT_EQ(command.verdict, Verdict::kSubmit);
  EXPECT_EQ(command.length, 512u);
  EXPECT_EQ(command.status_byte, guest_.host(kData + 512));
}

TEST_F(VirtioBlkTest, SectorRanges) {
  EXPECT_EQ(transfer(VIRTIO_BLK_T_IN, 2047, kData, 512).verdict, Verdict::kSubmit);
  expect_refused(transfer(VIRTIO_BLK_T_IN, 2048, kData, 512), VIRTIO_BLK_S_IOERR);
  expect_refused(transfer(VIRTIO_BLK_T_OUT, 2047, kData, 1024), VIRTIO_BLK_S_IOERR);
  expect_refused(transfer(VIRTIO_BLK_T_OUT, UINT64_MAX, kData, 512), VIRTIO_BLK_S_IOERR);
  expect_refused(transfer(VIRTIO_BLK_T_OUT, 1ull << 55, kData, 512), VIRTIO_BLK_S_IOERR);
  expect_refused(transfer(VIRTIO_BLK_T_OUT, (1ull << 55) + 1, kData, 512), VIRTIO_BLK_S_IOERR);
  expect_refused(transfer(VIRTIO_BLK_T_OUT, 0, kData, 511), VIRTIO_BLK_S_IOERR);
  expect_refused(transfer(VIRTIO_BLK_T_OUT, 0, kData, 513), VIRTIO_BLK_S_IOERR);
}

TEST_F(VirtioBlkTest, DiscardAndWriteZeroes) {
  BlkCommand command = range(VIRTIO_BLK_T_DISCARD, 8, 16, 0);
  ASSERT_EQ(command.verdict, Verdict::kSubmit);
  EXPECT_EQ(command.op, block::Op::kDiscard);
  EXPECT_EQ(command.offset, 8u * 512);
  EXPECT_EQ(command.length, 16u * 512);
  command = range(VIRTIO_BLK_T_WRITE_ZEROES, 0, 2048, 1);
  ASSERT_EQ(command.verdict, Verdict::kSubmit);
  EXPECT_TRUE(command.may_unmap);
  EXPECT_FALSE(range(VIRTIO_BLK_T_WRITE_ZEROES, 0, 2048, 0).may_unmap);

  expect_refused(range(VIRTIO_BLK_T_WRITE_ZEROES, 1, 2048, 0), VIRTIO_BLK_S_IOERR);
  expect_refused(range(VIRTIO_BLK_T_DISCARD, UINT64_MAX, 1, 0), VIRTIO_BLK_S_IOERR);
  expect_refused(range(VIRTIO_BLK_T_DISCARD, UINT64_MAX, UINT32_MAX, 0), VIRTIO_BLK_S_IOERR);
  expect_refused(range(VIRTIO_BLK_T_DISCARD, 0, 1, 1), VIRTIO_BLK_S_UNSUPP);
  expect_refused(range(VIRTIO_BLK_T_WRITE_ZEROES, 0, 1, 2), VIRTIO_BLK_S_UNSUPP);
  expect_refused(range(VIRTIO_BLK_T_WRITE_ZEROES, 0, 1, 0, 32), VIRTIO_BLK_S_UNSUPP);
  expect_refused(range(VIRTIO_BLK_T_WRITE_ZEROES, 0, 1, 0, 15), VIRTIO_BLK_S_IOERR);
  EXPECT_EQ(range(VIRTIO_BLK_T_DISCARD, 0, 0, 0).status, VIRTIO_BLK_S_OK);
  facts_.can_discard = false;
  expect_refused(range(VIRTIO_BLK_T_DISCARD, 0, 1, 0), VIRTIO_BLK_S_UNSUPP);
}

TEST_F(VirtioBlkTest, ReadOnlyRefusesEveryWrite) {
  facts_.read_only = true;
  expect_refused(transfer(VIRTIO_BLK_T_OUT, 0, kData, 512), VIRTIO_BLK_S_IOERR);
  expect_refused(range(VIRTIO_BLK_T_DISCARD, 0, 1, 0), VIRTIO_BLK_S_IOERR);
  expect_refused(range(VIRTIO_BLK_T_WRITE_ZEROES, 0, 1, 0), VIRTIO_BLK_S_IOERR);
  EXPECT_EQ(transfer(VIRTIO_BLK_T_IN, 0, kData, 512).verdict, Verdict::kSubmit);
  EXPECT_EQ(transfer(VIRTIO_BLK_T_FLUSH, 0, kData, 512).verdict, Verdict::kSubmit);
}

TEST_F(VirtioBlkTest, GetIdIsCutToTheBuffer) {
  guest_.header(kHeader, VIRTIO_BLK_T_GET_ID, 0);
  chain({{kHeader, 16, 0, 0}, {kData, 20, kWrite, 0}, {kStatus, 1, kWrite, 0}});
  BlkCommand command = parse();
  EXPECT_EQ(command.verdict, Verdict::kAnswer);
  EXPECT_EQ(command.status, VIRTIO_BLK_S_OK);
  EXPECT_EQ(command.used_bytes, 21u);
  EXPECT_EQ(std::memcmp(guest_.host(kData), "serial-1\0\0\0\0\0\0\0\0\0\0\0\0", 20), 0);
  *guest_.host(kData + 4) = 'x';
  chain({{kHeader, 16, 0, 0}, {kData, 4, kWrite, 0}, {kStatus, 1, kWrite, 0}});
  EXPECT_EQ(parse().used_bytes, 5u);
  EXPECT_EQ(*guest_.host(kData + 4), 'x');
}

TEST_F(VirtioBlkTest, BrokenChains) {
  // Header alone; no status; status of no bytes; wrong directions; short header.
  guest_.header(kHeader, VIRTIO_BLK_T_OUT, 0);
  chain({{kHeader, 16, 0, 0}});
  expect_refused(parse(), VIRTIO_BLK_S_IOERR, false);
  chain({{kHeader, 16, 0, 0}, {kData, 512, 0, 0}});
  expect_refused(parse(), VIRTIO_BLK_S_IOERR, false);
  chain({{kHeader, 16, 0, 0}, {kData, 512, 0, 0}, {kStatus, 0, kWrite, 0}});
  expect_refused(parse(), VIRTIO_BLK_S_IOERR, false);
  chain({{kHeader, 16, 0, 0}, {kData, 512, kWrite, 0}, {kStatus, 1, kWrite, 0}});
  expect_refused(parse(), VIRTIO_BLK_S_IOERR);
  chain({{kHeader, 15, 0, 0}, {kStatus, 1, kWrite, 0}});
  expect_refused(parse(), VIRTIO_BLK_S_IOERR);
  chain({{kHeader, 16, 0, 0}, {kStatus, 1, kWrite, 0}, {kData, 512, 0, 0}});
  expect_refused(parse(), VIRTIO_BLK_S_IOERR);
  chain({{kHeader, 16, 0, 0}, {kData, 0, 0, 0}, {kStatus, 1, kWrite, 0}});
  expect_refused(parse(), VIRTIO_BLK_S_IOERR);
  chain({{kHeader, 16, 0, 0}, {guest_.end() - 256, 512, 0, 0}, {kStatus, 1, kWrite, 0}});
  expect_refused(parse(), VIRTIO_BLK_S_IOERR);
  chain({{kHeader, 16, 0, 0}, {UINT64_MAX - 100, 512, 0, 0}, {kStatus, 1, kWrite, 0}});
  expect_refused(parse(), VIRTIO_BLK_S_IOERR);
  chain({{kHeader, 16, 0, 0}, {kData, 512, 0, 0}, {guest_.end(), 1, kWrite, 0}});
  expect_refused(parse(), VIRTIO_BLK_S_IOERR, false);
  // A next out of the table, and a loop.
  table_[0] = {kHeader, 16, kNext, kRing};
  expect_refused(parse(), VIRTIO_BLK_S_IOERR, false);
  table_[0] = {kHeader, 16, kNext, 1};
  table_[1] = {kData, 512, kNext, 0};
  expect_refused(parse(), VIRTIO_BLK_S_IOERR, false);
  // An unknown type.
  expect_refused(transfer(0x77, 0, kData, 512), VIRTIO_BLK_S_UNSUPP);
}

TEST_F(VirtioBlkTest, ChainLengthIsBounded) {
  guest_.header(kHeader, VIRTIO_BLK_T_OUT, 0);
  for (const uint32_t segments : {kDataSegmentsMax, kDataSegmentsMax + 1}) {
    std::vector<TestDescriptor> all = {{kHeader, 16, 0, 0}};
    for (uint32_t i = 0; i < segments; ++i) all.push_back({kData + 512ull * i, 512, 0, 0});
    all.push_back({kStatus, 1, kWrite, 0});
    chain(all);
    const auto expected = segments == kDataSegmentsMax ? Verdict::kSubmit : Verdict::kMalformed;
    EXPECT_EQ(parse().verdict, expected);
  }
  std::vector<TestDescriptor> endless(kRing, TestDescriptor{kData, 512, 0, 0});
  chain(endless);
  expect_refused(parse(), VIRTIO_BLK_S_IOERR, false);
}

TEST_F(VirtioBlkTest, IndirectTables) {
  guest_.header(kHeader, VIRTIO_BLK_T_OUT, 1);
  const TestDescriptor good[3] = {
      {kHeader, 16, kNext, 1}, {kData, 512, kNext, 2}, {kStatus, 1, kWrite, 0}};
  // Also where the table itself lies across two regions, in the middle of a descriptor.
  for (const uint64_t at : {kTable, guest_.border() - 24}) {
    guest_.write(at, good, sizeof good);
    table_[0] = {at, sizeof good, kIndirect, 0};
    EXPECT_EQ(parse().verdict, Verdict::kSubmit);
  }
  table_[0] = {kTable, 48, kIndirect, 0};
  guest_.write(kTable, good, sizeof good);
  indirect_ = false;
  expect_refused(parse(), VIRTIO_BLK_S_IOERR, false);
  indirect_ = true;
  table_[0] = {kTable, 40, kIndirect, 0};
  expect_refused(parse(), VIRTIO_BLK_S_IOERR, false);
  table_[0] = {kTable, 0, kIndirect, 0};
  expect_refused(parse(), VIRTIO_BLK_S_IOERR, false);
  table_[0] = {kTable, 48, kIndirect | kNext, 1};
  expect_refused(parse(), VIRTIO_BLK_S_IOERR, false);
  table_[0] = {guest_.end() - 16, 48, kIndirect, 0};
  expect_refused(parse(), VIRTIO_BLK_S_IOERR, false);
  table_[0] = {kTable, 32, kIndirect, 0};  // the chain leaves the table
  expect_refused(parse(), VIRTIO_BLK_S_IOERR, false);
  const TestDescriptor nested[1] = {{kTable, 48, kIndirect, 0}};
  guest_.write(kTable, nested, sizeof nested);
  table_[0] = {kTable, 16, kIndirect, 0};
  expect_refused(parse(), VIRTIO_BLK_S_IOERR, false);
}

/// Whatever a chain says, the outcome keeps to the rules that the rest of the process relies on.
TEST_F(VirtioBlkTest, RandomChainsKeepTheRules) {
  const char* given = std::getenv("EP_SEED");
  const uint64_t seed =
      given != nullptr ? std::strtoull(given, nullptr, 10) : std::random_device{}();
  SCOPED_TRACE("EP_SEED=" + std::to_string(seed));
  std::printf("[ SEED     ] EP_SEED=%llu\n", static_cast<unsigned long long>(seed));
  std::mt19937_64 random(seed);
  const auto pick = [&random](uint64_t below) { return random() % below; };
  const auto address = [&]() -> uint64_t {
    switch (pick(8)) {
      case 0:
        return random();
      case 1:
        return guest_.border() - pick(1024);
      case 2:
        return guest_.end() - pick(1024);
      case 3:
        return kHeader;
      case 4:
        return kTable + 16 * pick(8);
      default:
        return kData + 512 * pick(64);
    }
  };
  const auto length = [&]() -> uint32_t {
    switch (pick(8)) {
      case 0:
        return static_cast<uint32_t>(random());
      case 1:
        return 0;
      case 2:
        return static_cast<uint32_t>(pick(600));
      case 3:
        return 16;
      case 4:
        return 1;
      default:
        return static_cast<uint32_t>(512 * (1 + pick(4)));
    }
  };
  const uint32_t types[] = {0, 1, 4, 8, 11, 13, 2, 0xffffffff};
  uint64_t submitted = 0;
  for (int round = 0; round < 100'000; ++round) {
    guest_.header(kHeader, types[pick(8)], pick(4) == 0 ? random() : pick(2100));
    // An orderly chain of a few buffers with the status behind, then some damage, or none.
    const auto fill = [&](TestDescriptor* to, size_t count) {
      const size_t used = 2 + pick(count - 1);
      const size_t first_writable = 1 + pick(used - 1);
      for (size_t i = 0; i < count; ++i) {
        const bool last = i + 1 >= used;
        to[i].address = i == 0 ? kHeader : last ? kStatus : address();
        to[i].length = i == 0 ? 16 : last ? 1 : length();
        to[i].flags =
            static_cast<uint16_t>((last ? 0 : kNext) | (i >= first_writable ? kWrite : 0));
        to[i].next = static_cast<uint16_t>(i + 1);
      }
      for (uint64_t damage = pick(3); damage > 0; --damage) {
        TestDescriptor& victim = to[pick(count)];
        switch (pick(5)) {
          case 0:
            victim.address = address();
            break;
          case 1:
            victim.length = length();
            break;
          case 2:
            victim.flags = static_cast<uint16_t>(pick(8));
            break;
          case 3:
            victim.next = static_cast<uint16_t>(pick(2) == 0 ? random() : pick(count));
            break;
          default:
            victim = {kTable, static_cast<uint32_t>(16 * pick(9)), kIndirect, 0};
            break;
        }
      }
    };
    fill(table_.data(), 8);
    TestDescriptor in_guest[8];
    fill(in_guest, 8);
    guest_.write(kTable, in_guest, sizeof in_guest);
    facts_.read_only = pick(10) == 0;

    const BlkCommand command = parse(static_cast<uint16_t>(pick(8) == 0 ? pick(8) : 0));
    const auto inside = [this](const uint8_t* pointer, uint64_t bytes) {
      for (const uint64_t start : {TestGuest::kBase, guest_.border()}) {
        const uint8_t* low = guest_.host(start);
        if (pointer >= low && pointer + bytes <= low + (1 << 20)) return true;
      }
      return false;
    };
    if (command.status_byte == nullptr) {
      ASSERT_EQ(command.used_bytes, 0u);
    } else {
      ASSERT_TRUE(inside(command.status_byte, 1));
    }
    ASSERT_FALSE(command.verdict == Verdict::kMalformed && command.status == VIRTIO_BLK_S_OK);
    if (command.verdict != Verdict::kSubmit) continue;
    ++submitted;
    ASSERT_NE(command.status_byte, nullptr);
    if (facts_.read_only) {
      ASSERT_TRUE(command.op == block::Op::kRead || command.op == block::Op::kFlush);
    }
    if (command.op == block::Op::kFlush) continue;
    ASSERT_GT(command.length, 0u);
    ASSERT_EQ(command.offset % 512, 0u);
    ASSERT_EQ(command.length % 512, 0u);
    ASSERT_LE(command.offset, facts_.capacity_bytes);
    ASSERT_LE(command.length, facts_.capacity_bytes - command.offset);
    if (command.op != block::Op::kRead && command.op != block::Op::kWrite) continue;
    ASSERT_LE(command.iov_count, kChainIovecsMax);
    uint64_t sum = 0;
    for (uint32_t i = 0; i < command.iov_count; ++i) {
      ASSERT_TRUE(
          inside(static_cast<const uint8_t*>(command.iov[i].iov_base), command.iov[i].iov_len));
      sum += command.iov[i].iov_len;
    }
    ASSERT_EQ(sum, command.length);
  }
  EXPECT_GT(submitted, 1000u);  // or the generator makes nothing but rubbish
}

TEST(VirtioBlkConfig, SaysWhatTheDeviceIs) {
  block::Geometry geometry;
  geometry.size_bytes = 10'000 * 512;
  geometry.block_bytes = 512;
  geometry.physical_block_bytes = 4096;
  const virtio_blk_config config = blk_config(geometry, 3, true);
  EXPECT_EQ(config.capacity, 10'000u);
  EXPECT_EQ(config.blk_size, 512u);
  EXPECT_EQ(config.physical_block_exp, 3);
  EXPECT_EQ(config.num_queues, 3);
  EXPECT_EQ(config.wce, 1);
  EXPECT_EQ(config.seg_max, kDataSegmentsMax);
  EXPECT_EQ(config.max_discard_seg, 1u);
  EXPECT_NE(blk_features(geometry) >> VIRTIO_BLK_F_DISCARD & 1, 0u);
  EXPECT_EQ(blk_features(geometry) >> VIRTIO_BLK_F_RO & 1, 0u);
  geometry.read_only = true;
  EXPECT_EQ(blk_features(geometry) >> VIRTIO_BLK_F_DISCARD & 1, 0u);
  EXPECT_NE(blk_features(geometry) >> VIRTIO_BLK_F_RO & 1, 0u);
}

TEST(VirtioBlkStatus, OfEveryOutcome) {
  EXPECT_EQ(status_of(block::Outcome::kOk), VIRTIO_BLK_S_OK);
  EXPECT_EQ(status_of(block::Outcome::kUnsupported), VIRTIO_BLK_S_UNSUPP);
  EXPECT_EQ(status_of(block::Outcome::kIoError), VIRTIO_BLK_S_IOERR);
  EXPECT_EQ(status_of(block::Outcome::kNoSpace), VIRTIO_BLK_S_IOERR);
  EXPECT_EQ(status_of(block::Outcome::kReadOnly), VIRTIO_BLK_S_IOERR);
}

}  // namespace
}  // namespace ep::exports

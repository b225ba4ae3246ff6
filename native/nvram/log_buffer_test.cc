// SPDX-License-Identifier: Apache-2.0
#include "nvram/log_buffer.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <optional>
#include <random>
#include <vector>

#include "base/limits.h"

namespace ep::nvram {
namespace {

using format::Entry;
using format::EntryType;
using Kind = LogBuffer::Found::Kind;

constexpr uint64_t kDataBytes = limits::kBufferDataBytesMin;
const std::string kBoot = "0f0e0d0c-0b0a-0908-0706-050403020100";

Uuid group_of(uint8_t value) {
  Uuid group;
  group.bytes.fill(value);
  return group;
}

uint64_t first_seed() {
  const char* text = std::getenv("EP_TEST_SEED");
  return text == nullptr ? 1 : std::strtoull(text, nullptr, 0);
}

struct ModelEntry {
  uint64_t lsn;
  Entry entry;
  std::vector<uint8_t> data;
  PrimaryState primary;
};

class Model {
 public:
  explicit Model(uint64_t seed)
      : random_(seed), region_(LogBuffer::region_bytes(kDataBytes)), next_(1 + random_() % 100) {
    buffer_.emplace(LogBuffer::format(&region_, group_of(7), kBoot, 3, next_));
  }

  void step() {
    switch (random_() % 4) {
      case 0:
        return release();
      case 1:
        return mark();
      default:
        return append();
    }
  }

  /// A process that died here: the next one finds exactly what the model holds.
  void check_reattached() {
    const auto found = LogBuffer::inspect(region_, group_of(7), kBoot);
    ASSERT_EQ(found.kind, Kind::kEntries);
    EXPECT_EQ(found.epoch, 3u);
    LogBuffer other = LogBuffer::attach(&region_, found);
    check(other);
    // It goes on in the other's place, as good as the first.
    if (random_() % 2 == 0) buffer_.emplace(std::move(other));
  }

  void check(const LogBuffer& buffer) const {
    ASSERT_EQ(buffer.head(), next_);
    ASSERT_EQ(buffer.tail(), next_ - held_.size());
    uint64_t bytes = 0;
    for (const ModelEntry& each : held_) {
      const BufferedEntry at = buffer.at(each.lsn);
      ASSERT_EQ(at.entry, each.entry);
      ASSERT_EQ(at.primary, each.primary);
      ASSERT_TRUE(std::equal(each.data.begin(), each.data.end(), at.data)) << each.lsn;
      bytes += each.data.size();
    }
    EXPECT_GE(buffer.used_bytes(), bytes);
    EXPECT_LE(buffer.used_bytes(), kDataBytes);
    EXPECT_EQ(buffer.bytes_since(buffer.head()), 0u);
    if (!held_.empty()) {
      EXPECT_GE(buffer.bytes_since(buffer.tail()), bytes);
    }
  }

  [[nodiscard]] bool was_full() const { return full_; }
  [[nodiscard]] bool wrapped() const { return appended_bytes_ > kDataBytes; }
  LogBuffer& buffer() { return *buffer_; }

 private:
  void append() {
    Entry entry;
    entry.type = random_() % 2 == 0 ? EntryType::kWrite : static_cast<EntryType>(1 + random_() % 8);
    entry.volume = static_cast<uint16_t>(random_() % 64);
    entry.flags = static_cast<uint8_t>(random_() % 4);
    entry.sector = random_();
    entry.time_ns = random_();
    entry.sectors = entry.type == EntryType::kWrite
                        ? static_cast<uint32_t>(1 + random_() % (random_() % 3 == 0 ? 8192 : 16))
                        : static_cast<uint32_t>(entry.has_payload() ? 1 : random_());
    const uint64_t bytes = uint64_t{entry.payload_sectors()} * kSectorBytes;
    if (!buffer_->has_room(bytes)) {
      full_ = true;
      // Never refused while less than a piece's waste of the ring is in use.
      ASSERT_TRUE(held_.size() == buffer_->slots() ||
                  buffer_->used_bytes() + 2 * bytes > kDataBytes);
      return;
    }
    std::vector<uint8_t> data(bytes);
    for (size_t i = 0; i < data.size(); i += 64) data[i] = static_cast<uint8_t>(random_());
    uint8_t* to = buffer_->next_data(bytes);
    std::copy(data.begin(), data.end(), to);
    entry.data_crc = crc32(data.data(), bytes);
    const auto state = static_cast<PrimaryState>(random_() % 2);
    ASSERT_EQ(buffer_->append(entry, state), next_);
    held_.push_back({next_++, entry, std::move(data), state});
    appended_bytes_ += bytes;
  }

  void release() {
    const uint64_t count =
        random_() % 100 == 0 ? held_.size() : std::min<uint64_t>(held_.size(), random_() % 4);
    for (uint64_t i = 0; i < count; ++i) held_.pop_front();
    buffer_->release_before(next_ - held_.size());
  }

  void mark() {
    if (held_.empty()) return;
    ModelEntry& each = held_[random_() % held_.size()];
    each.primary = static_cast<PrimaryState>(random_() % 3);
    buffer_->set_primary_state(each.lsn, each.primary);
  }

  std::mt19937_64 random_;
  MemoryRegion region_;
  std::optional<LogBuffer> buffer_;
  std::deque<ModelEntry> held_;
  uint64_t next_;
  uint64_t appended_bytes_ = 0;
  bool full_ = false;
};

TEST(LogBuffer, EqualsAModelOverAnyCrash) {
  bool full = false;
  for (uint64_t seed = first_seed(); seed < first_seed() + 6; ++seed) {
    SCOPED_TRACE("EP_TEST_SEED=" + std::to_string(seed));
    Model model(seed);
    for (int i = 0; i < 1500; ++i) {
      model.step();
      if (i % 25 == 0) model.check_reattached();
      if (HasFatalFailure()) return;
    }
    model.check(model.buffer());
    EXPECT_TRUE(model.wrapped());
    full = full || model.was_full();
  }
  EXPECT_TRUE(full);
}

TEST(LogBuffer, SlotsRunOutBeforeData) {
  MemoryRegion region(LogBuffer::region_bytes(kDataBytes));
  LogBuffer buffer = LogBuffer::format(&region, group_of(1), kBoot, 1, 1);
  Entry entry;
  entry.type = EntryType::kFlush;
  for (uint64_t round = 0; round < 3; ++round) {
    for (uint32_t i = 0; i < buffer.slots(); ++i) {
      ASSERT_TRUE(buffer.has_room(0));
      buffer.append(entry, PrimaryState::kDone);
    }
    EXPECT_FALSE(buffer.has_room(0));
    const auto found = LogBuffer::inspect(region, group_of(1), kBoot);
    EXPECT_EQ(LogBuffer::attach(&region, found).head(), buffer.head());
    buffer.release_before(buffer.head());
  }
}

class Damaged : public testing::Test {
 protected:
  Damaged() : region_(LogBuffer::region_bytes(kDataBytes)) {
    LogBuffer buffer = LogBuffer::format(&region_, group_of(7), kBoot, 5, 10);
    for (int i = 0; i < 20; ++i) {
      Entry entry;
      entry.type = EntryType::kWrite;
      entry.sectors = 8;
      uint8_t* data = buffer.next_data(4096);
      std::memset(data, 'a' + i, 4096);
      entry.data_crc = crc32(data, 4096);
      buffer.append(entry, PrimaryState::kPending);
    }
    slots_ = region_.base() + 4096;
    data_ = slots_ + buffer.slots() * 64;
    slots_count_ = buffer.slots();
  }

  [[nodiscard]] LogBuffer::Found inspect() const {
    return LogBuffer::inspect(region_, group_of(7), kBoot);
  }
  [[nodiscard]] uint64_t head() { return LogBuffer::attach(&region_, inspect()).head(); }

  MemoryRegion region_;
  uint8_t* slots_;
  uint8_t* data_;
  uint32_t slots_count_;
};

TEST_F(Damaged, EveryByteOfASlotIsNoticed) {
  for (uint64_t at = 0; at < 60; ++at) {
    uint8_t& byte = slots_[15 * 64 + at];
    byte ^= 0x10;
    EXPECT_EQ(head(), 15u) << at;
    byte ^= 0x10;
  }
  EXPECT_EQ(head(), 30u);
}

TEST_F(Damaged, PayloadStopsTheScan) {
  data_[7 * 4096 + 100] ^= 1;
  EXPECT_EQ(head(), 17u);
  data_[0] ^= 1;
  EXPECT_EQ(head(), 10u);
}

TEST_F(Damaged, EveryByteOfTheHeaderIsNoticed) {
  for (uint64_t at = 0; at < 512; ++at) {
    region_.base()[at] ^= 4;
    const Kind kind = inspect().kind;
    EXPECT_TRUE(kind == Kind::kForeign || (kind == Kind::kNothing && at < 8)) << at;
    region_.base()[at] ^= 4;
  }
  EXPECT_EQ(inspect().kind, Kind::kEntries);
}

TEST_F(Damaged, OfAnotherGroupOrBootIsForeign) {
  EXPECT_EQ(LogBuffer::inspect(region_, group_of(8), kBoot).kind, Kind::kForeign);
  EXPECT_EQ(LogBuffer::inspect(region_, group_of(7), "another").kind, Kind::kForeign);
  EXPECT_EQ(LogBuffer::inspect(region_, group_of(7), "").kind, Kind::kForeign);
}

TEST_F(Damaged, CutShortFormattingSaysSo) {
  store_le<uint32_t>(region_.base() + 520, 0);
  EXPECT_EQ(inspect().kind, Kind::kFormatting);
  // Also with a header half of the old and half of the new epoch.
  store_le<uint64_t>(region_.base() + 32, 6);
  EXPECT_EQ(inspect().kind, Kind::kFormatting);
  store_le<uint32_t>(region_.base() + 520, 9);
  EXPECT_EQ(inspect().kind, Kind::kForeign);
}

TEST_F(Damaged, RetiredIsNotEntries) {
  LogBuffer::attach(&region_, inspect()).retire();
  EXPECT_EQ(inspect().kind, Kind::kRetired);
}

TEST_F(Damaged, NewEpochForgetsTheOld) {
  LogBuffer next = LogBuffer::format(&region_, group_of(7), kBoot, 6, 15);
  // Slots 15 … 29 still hold entries of epoch 5 with the very LSNs.
  EXPECT_EQ(head(), 15u);
  EXPECT_EQ(inspect().epoch, 6u);
  EXPECT_EQ(next.head(), 15u);
}

TEST(LogBuffer, NothingInFreshMemory) {
  MemoryRegion region(LogBuffer::region_bytes(kDataBytes));
  EXPECT_EQ(LogBuffer::inspect(region, group_of(7), kBoot).kind, Kind::kNothing);
}

}  // namespace
}  // namespace ep::nvram

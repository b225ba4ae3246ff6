// SPDX-License-Identifier: Apache-2.0

// The log buffer on persistent memory: a power cut at every step of every operation.

#include <gtest/gtest.h>

#include <cstdlib>
#include <deque>
#include <optional>

#include "nvram/test_support.h"

namespace ep::nvram {
namespace {

using Kind = LogBuffer::Found::Kind;

constexpr uint64_t kRegionData = 1024 * 1024;
const std::string kBoot = "0f0e0d0c-0b0a-0908-0706-050403020100";
const std::string kNextBoot = "10000000-0b0a-0908-0706-050403020100";

uint64_t first_seed() {
  const char* text = std::getenv("EP_TEST_SEED");
  return text == nullptr ? 1 : std::strtoull(text, nullptr, 0);
}

/// A buffer, what it must hold, and what the operation under way may have changed already.
class World {
 public:
  explicit World(uint64_t seed)
      : random_(seed),
        region_(LogBuffer::region_bytes(kRegionData)),
        image_(LogBuffer::region_bytes(kRegionData)) {
    region_.on_persist = [this] {
      if (random_() % 24 == 0) check_cut();
    };
    format();
  }

  void step() {
    switch (random_() % 12) {
      case 0:
      case 1:
        return release();
      case 2:
      case 3:
        return mark();
      case 4:
        return checkpoint();
      case 5:
        if (random_() % 10 == 0) format();
        return;
      default:
        return append_one();
    }
  }

  [[nodiscard]] uint64_t cuts() const { return cuts_; }
  [[nodiscard]] uint64_t half_appended() const { return half_appended_; }
  [[nodiscard]] uint64_t half_formatted() const { return half_formatted_; }
  [[nodiscard]] uint64_t bytes() const { return bytes_; }

  /// Power goes here: the next boot must find what was promised.
  void check_cut() {
    region_.cut(random_, &image_);
    ++cuts_;
    const auto found = LogBuffer::inspect(image_, group_of(7), kNextBoot);
    ASSERT_EQ(LogBuffer::inspect(image_, group_of(8), kNextBoot).kind,
              first_format_ && found.kind == Kind::kNothing ? Kind::kNothing : Kind::kForeign);
    if (formatting_) {
      if (first_format_) return;  // there was nothing to lose
      if (found.kind == Kind::kFormatting) {
        ++half_formatted_;
        return;
      }
      ASSERT_EQ(found.kind, Kind::kEntries);
      ASSERT_TRUE(found.other_boot);
      if (found.epoch == epoch_) {
        ASSERT_EQ(found.tail_lsn, next_);
        ASSERT_EQ(found.checkpoint, next_ - 1);
        ASSERT_EQ(LogBuffer::attach(&image_, found).head(), next_);
        return;
      }
    } else {
      ASSERT_EQ(found.kind, Kind::kEntries);
      ASSERT_EQ(found.epoch, epoch_);
    }
    ASSERT_FALSE(found.from_mirror);
    ASSERT_TRUE(found.other_boot);
    ASSERT_TRUE(found.checkpoint == checkpoint_ ||
                (new_checkpoint_ && found.checkpoint == *new_checkpoint_));
    LogBuffer buffer = LogBuffer::attach(&image_, found);
    const uint64_t tail = next_ - held_.size();
    if (releasing_ != 0) {
      ASSERT_TRUE(buffer.tail() == tail || buffer.tail() == tail + releasing_);
    } else {
      ASSERT_EQ(buffer.tail(), tail);
    }
    if (appending_ != nullptr && buffer.head() == next_ + 1) {
      ++half_appended_;
      expect_same(buffer.at(next_), *appending_);
    } else {
      ASSERT_EQ(buffer.head(), next_);
    }
    for (const ModelEntry& each : held_) {
      if (each.lsn < buffer.tail()) continue;
      const BufferedEntry at = buffer.at(each.lsn);
      expect_same(at, each);
      if (marking_ == each.lsn) continue;
      // What was done is not known to be on the primary after a power cut.
      ASSERT_EQ(at.primary == PrimaryState::kFailed, each.primary == PrimaryState::kFailed);
      ASSERT_NE(at.primary, PrimaryState::kDone);
    }
  }

 private:
  void format() {
    formatting_ = true;
    ++epoch_;
    // Everything was safe: LSNs go on.
    buffer_.emplace(LogBuffer::format(&region_, group_of(7), kBoot, epoch_, next_));
    formatting_ = false;
    first_format_ = false;
    checkpoint_ = next_ - 1;
    held_.clear();
  }

  void append_one() {
    ModelEntry made = random_entry(random_, random_() % 3 == 0 ? 128 : 16);
    if (!has_room(*buffer_, made)) return;
    made.lsn = next_;
    appending_ = &made;
    ASSERT_EQ(append(*buffer_, made), next_);
    appending_ = nullptr;
    bytes_ += made.data.size();
    held_.push_back(std::move(made));
    ++next_;
  }

  void release() {
    releasing_ = std::min<uint64_t>(held_.size(), random_() % 6);
    buffer_->release_before(next_ - held_.size() + releasing_);
    held_.erase(held_.begin(), held_.begin() + static_cast<ptrdiff_t>(releasing_));
    releasing_ = 0;
  }

  void mark() {
    if (held_.empty()) return;
    ModelEntry& each = held_[random_() % held_.size()];
    // As in service: pending becomes done or failed, once.
    if (each.primary != PrimaryState::kPending) return;
    marking_ = each.lsn;
    each.primary = static_cast<PrimaryState>(1 + random_() % 2);
    buffer_->set_primary_state(each.lsn, each.primary);
    marking_ = 0;
  }

  void checkpoint() {
    new_checkpoint_ = next_ - 1 - random_() % (held_.size() + 1);
    if (*new_checkpoint_ < checkpoint_) new_checkpoint_ = checkpoint_;
    buffer_->set_checkpoint(*new_checkpoint_);
    checkpoint_ = *new_checkpoint_;
    ASSERT_EQ(buffer_->checkpoint(), checkpoint_);
    new_checkpoint_.reset();
  }

  std::mt19937_64 random_;
  SimPmemRegion region_;
  SimPmemRegion image_;
  std::optional<LogBuffer> buffer_;
  std::deque<ModelEntry> held_;
  uint64_t next_ = 100;
  uint64_t epoch_ = 3;
  uint64_t checkpoint_ = 99;

  bool first_format_ = true;
  bool formatting_ = false;
  const ModelEntry* appending_ = nullptr;
  uint64_t releasing_ = 0;
  uint64_t marking_ = 0;
  std::optional<uint64_t> new_checkpoint_;

  uint64_t cuts_ = 0;
  uint64_t half_appended_ = 0;
  uint64_t half_formatted_ = 0;
  uint64_t bytes_ = 0;
};

TEST(PowerCut, KeepsEveryEntryWhoseAppendReturned) {
  uint64_t cuts = 0;
  uint64_t half_appended = 0;
  uint64_t half_formatted = 0;
  for (uint64_t seed = first_seed(); seed < first_seed() + 8; ++seed) {
    SCOPED_TRACE("EP_TEST_SEED=" + std::to_string(seed));
    World world(seed);
    for (int i = 0; i < 1500; ++i) {
      world.step();
      if (testing::Test::HasFatalFailure()) return;
    }
    world.check_cut();
    EXPECT_GT(world.bytes(), 2 * kRegionData) << "the ring must go around";
    cuts += world.cuts();
    half_appended += world.half_appended();
    half_formatted += world.half_formatted();
  }
  // The cuts must have met what they are for.
  EXPECT_GT(cuts, 500u);
  EXPECT_GT(half_appended, 10u);
  EXPECT_GT(half_formatted, 5u);
}

TEST(PowerCut, AfterRetiringNothingIsFound) {
  SimPmemRegion region(LogBuffer::region_bytes(kRegionData));
  SimPmemRegion image(LogBuffer::region_bytes(kRegionData));
  std::mt19937_64 random(first_seed());
  LogBuffer buffer = LogBuffer::format(&region, group_of(7), kBoot, 3, 10);
  append(buffer, random_entry(random, 16));
  buffer.retire();
  region.cut(random, &image);
  EXPECT_EQ(LogBuffer::inspect(image, group_of(7), kNextBoot).kind, Kind::kRetired);
}

TEST(PowerCut, FromAGivenLsnOlderSlotsDoNotMatter) {
  MemoryRegion region(LogBuffer::region_bytes(kRegionData));
  std::mt19937_64 random(first_seed());
  LogBuffer buffer = LogBuffer::format(&region, group_of(7), kBoot, 3, 10);
  std::vector<ModelEntry> made;
  for (uint64_t i = 0; i < 40; ++i) {
    made.push_back(random_entry(random, 8));
    made.back().lsn = append(buffer, made.back());
  }
  // A tail as it stood at the beginning, and the slots behind it gone.
  region.base()[4096 + 20 * 64 + 8] ^= 1;
  const auto found = LogBuffer::inspect(region, group_of(7), kBoot);
  EXPECT_EQ(found.first_lsn, 10u);
  EXPECT_EQ(LogBuffer::attach(&region, found).head(), 20u);
  LogBuffer later = LogBuffer::attach(&region, found, 21);
  EXPECT_EQ(later.tail(), 21u);
  ASSERT_EQ(later.head(), 50u);
  for (uint64_t lsn = 21; lsn < 50; ++lsn) expect_same(later.at(lsn), made[lsn - 10]);
  // It goes on like any other.
  later.release_before(30);
  const ModelEntry next = random_entry(random, 8);
  EXPECT_EQ(append(later, next), 50u);
  expect_same(later.at(50), next);
  // The log is ahead of the buffer.
  LogBuffer ahead = LogBuffer::attach(&region, found, 60);
  EXPECT_EQ(ahead.tail(), 60u);
  EXPECT_EQ(ahead.head(), 60u);
  // The log lacks what the buffer has released.
  const auto released = LogBuffer::inspect(region, group_of(7), kBoot);
  EXPECT_EQ(LogBuffer::attach(&region, released, 25).tail(), 30u);
}

}  // namespace
}  // namespace ep::nvram

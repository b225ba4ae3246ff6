// SPDX-License-Identifier: Apache-2.0
#include "nvram/buffer_store.h"

#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <optional>

#include "base/limits.h"
#include "block/test_support.h"
#include "io/test_support.h"
#include "nvram/buffer_committer.h"
#include "nvram/pmem_region.h"
#include "nvram/test_support.h"

namespace ep::nvram {
namespace {

using Kind = LogBuffer::Found::Kind;

constexpr uint64_t kLeast = limits::kBufferDataBytesMin;
constexpr uint64_t kMiB = 1024 * 1024;

class Store : public testing::Test {
 protected:
  [[nodiscard]] BufferStoreOptions options_of(BufferKind kind) {
    BufferStoreOptions options;
    options.kind = kind;
    options.path = memory_.path() + "/ring";
    if (kind == BufferKind::kFile) {
      options.ring_path = options.path;
      options.path = disk_.path() + "/mirror";
    }
    options.data_bytes = kLeast;
    options.group = group_of(7);
    options.file_system = &files_;
    options.boot = "boot-1";
    options.treat_as_pmem = true;
    options.lock_wait_ns = 0;
    return options;
  }

  static std::unique_ptr<BufferStore> open(const BufferStoreOptions& options) {
    auto store = BufferStore::open(options);
    EXPECT_TRUE(store.is_ok()) << store.status().to_string();
    return store ? std::move(*store) : nullptr;
  }
  static Code open_code(const BufferStoreOptions& options) {
    return BufferStore::open(options).status().code();
  }

  /// Formats and appends `count` entries; durable in a mirror if there is one.
  void fill(BufferStore& store, const BufferStoreOptions& options, uint64_t epoch, int count) {
    LogBuffer buffer = LogBuffer::format(store.region(), options.group, options.boot, epoch, 1);
    ASSERT_TRUE(store.commit_header().is_ok());
    std::optional<BufferCommitter> committer;
    io::SimEngine engine(1);
    if (store.mirror() != io::kNoFile) {
      committer.emplace(&engine, store.mirror(), &buffer, BufferCommitter::Events{});
    }
    std::mt19937_64 random(epoch);
    made_.clear();
    for (int i = 0; i < count; ++i) {
      made_.push_back(random_entry(random, 64));
      made_.back().lsn = append(buffer, made_.back());
    }
    if (committer) {
      committer->want_durable(buffer.head() - 1);
      while (engine.in_flight() != 0) engine.reap(1'000'000'000);
      ASSERT_EQ(committer->durable_lsn(), buffer.head() - 1);
    }
  }

  LogBuffer::Found expect_filled(BufferStore& store, const BufferStoreOptions& options,
                                 uint64_t epoch) {
    const auto found = LogBuffer::inspect(*store.region(), options.group, options.boot);
    EXPECT_EQ(found.kind, Kind::kEntries);
    EXPECT_EQ(found.epoch, epoch);
    if (found.kind != Kind::kEntries) return found;
    LogBuffer buffer = LogBuffer::attach(store.region(), found, 1);
    EXPECT_EQ(buffer.head(), made_.size() + 1);
    for (const ModelEntry& each : made_) {
      if (each.lsn < buffer.head()) expect_same(buffer.at(each.lsn), each);
    }
    return found;
  }

  static uint64_t size_of(const std::string& path) { return std::filesystem::file_size(path); }
  static bool exists(const std::string& path) { return std::filesystem::exists(path); }
  static void write_text(const std::string& path, const std::string& text) {
    std::ofstream(path) << text;
  }

  block::TempDirectory memory_{"/dev/shm"};
  block::TempDirectory disk_;
  io::TestFileSystem files_;
  std::vector<ModelEntry> made_;
};

TEST_F(Store, TmpfsOutlivesTheProcess) {
  const auto options = options_of(BufferKind::kTmpfs);
  auto store = open(options);
  EXPECT_EQ(store->path(), options.path);
  EXPECT_EQ(store->mirror(), io::kNoFile);
  EXPECT_FALSE(store->survives_power_cut());
  fill(*store, options, 3, 20);
  EXPECT_EQ(open_code(options), Code::kBusy);
  store.reset();
  store = open(options);
  const auto found = expect_filled(*store, options, 3);
  EXPECT_FALSE(found.other_boot);
  EXPECT_FALSE(found.from_mirror);
  EXPECT_FALSE(*store->load_mirror());
  store.reset();
  // A copy of another boot is not believed.
  auto later = options;
  later.boot = "boot-2";
  store = open(later);
  EXPECT_EQ(LogBuffer::inspect(*store->region(), later.group, later.boot).kind, Kind::kForeign);
  ASSERT_TRUE(store->remove().is_ok());
  EXPECT_FALSE(exists(options.path));
}

TEST_F(Store, TmpfsIsFoundByTheGroupsName) {
  auto options = options_of(BufferKind::kTmpfs);
  options.path.clear();
  options.group = Uuid::random();
  auto store = open(options);
  const std::string path = store->path();
  EXPECT_NE(path.find("/everpoint-" + options.group.to_string() + ".logbuffer"), std::string::npos);
  fill(*store, options, 3, 5);
  store.reset();
  store = open(options);
  EXPECT_EQ(store->path(), path);
  expect_filled(*store, options, 3);
  store.reset();
  ASSERT_TRUE(BufferStore::forget(options).is_ok());
  EXPECT_FALSE(exists(path));
  EXPECT_TRUE(BufferStore::forget(options).is_ok());
}

TEST_F(Store, SizeChangesOnlyWhenNothingIsNeeded) {
  for (const BufferKind kind : {BufferKind::kTmpfs, BufferKind::kFile, BufferKind::kPmem}) {
    if (kind == BufferKind::kPmem && !pmem_built()) continue;
    SCOPED_TRACE(static_cast<int>(kind));
    auto options = options_of(kind);
    auto store = open(options);
    fill(*store, options, 3, 5);
    store.reset();
    options.data_bytes = 2 * kLeast + 12345;
    store = open(options);
    EXPECT_EQ(store->region()->size(), LogBuffer::region_bytes(kLeast));
    expect_filled(*store, options, 3);
    ASSERT_TRUE(store->put_away().is_ok());
    store = open(options);
    EXPECT_EQ(store->region()->size(), LogBuffer::region_bytes(2 * kLeast));
    fill(*store, options, 4, 5);
    expect_filled(*store, options, 4);
    if (kind == BufferKind::kFile) {
      EXPECT_EQ(size_of(options.path), store->region()->size());
    }
    ASSERT_TRUE(store->remove().is_ok());
    EXPECT_FALSE(exists(options.path));
    EXPECT_FALSE(exists(memory_.path() + "/ring"));
  }
}

TEST_F(Store, NothingOfAnotherGroupOrOtherUseIsTouched) {
  for (const BufferKind kind : {BufferKind::kTmpfs, BufferKind::kFile, BufferKind::kPmem}) {
    if (kind == BufferKind::kPmem && !pmem_built()) continue;
    SCOPED_TRACE(static_cast<int>(kind));
    auto options = options_of(kind);
    options.create = true;
    auto store = open(options);
    fill(*store, options, 3, 5);
    store.reset();
    auto other = options;
    other.group = group_of(8);
    if (kind == BufferKind::kFile) other.ring_path = memory_.path() + "/other";
    EXPECT_EQ(open_code(other), Code::kAlreadyExists);
    EXPECT_FALSE(BufferStore::forget(other).is_ok());
    other.create = false;
    if (kind == BufferKind::kFile) {
      EXPECT_EQ(open(other)->mirror_status().code(), Code::kAlreadyExists);
    }
    store = open(options);
    expect_filled(*store, options, 3);
    ASSERT_TRUE(store->remove().is_ok());
    if (kind == BufferKind::kTmpfs) continue;
    // Not a log buffer at all.
    write_text(options.path, std::string(64 * 1024, 'x'));
    EXPECT_EQ(open_code(options), Code::kAlreadyExists);
    EXPECT_FALSE(BufferStore::forget(options).is_ok());
    EXPECT_EQ(size_of(options.path), 64u * 1024);
    std::filesystem::remove(options.path);
    std::filesystem::remove(memory_.path() + "/ring");
  }
}

TEST_F(Store, MirrorSurvivesThePowerCutThatTakesTheRing) {
  auto options = options_of(BufferKind::kFile);
  options.data_bytes = kLeast + 4 * kMiB;
  auto store = open(options);
  EXPECT_EQ(store->path(), options.path);
  ASSERT_TRUE(store->mirror_status().is_ok());
  fill(*store, options, 3, 200);
  store.reset();
  // The process alone: the ring has it all.
  store = open(options);
  EXPECT_FALSE(*store->load_mirror());
  EXPECT_FALSE(expect_filled(*store, options, 3).from_mirror);
  store.reset();
  // The machine. The size in the configuration has changed meanwhile.
  std::filesystem::remove(options.ring_path);
  options.boot = "boot-2";
  options.data_bytes = kLeast;
  store = open(options);
  EXPECT_EQ(LogBuffer::inspect(*store->region(), options.group, options.boot).kind, Kind::kNothing);
  EXPECT_TRUE(*store->load_mirror());
  auto found = expect_filled(*store, options, 3);
  EXPECT_TRUE(found.from_mirror);
  EXPECT_TRUE(found.other_boot);
  store.reset();
  // The process dies in recovery: the ring is still only a copy.
  store = open(options);
  EXPECT_TRUE(*store->load_mirror());
  found = expect_filled(*store, options, 3);
  EXPECT_TRUE(found.from_mirror);
  // The next epoch is the ring's own.
  fill(*store, options, 4, 3);
  EXPECT_FALSE(expect_filled(*store, options, 4).from_mirror);
  ASSERT_TRUE(store->put_away().is_ok());
  EXPECT_FALSE(exists(options.ring_path));
  store = open(options);
  EXPECT_FALSE(*store->load_mirror()) << "it was put away";
}

TEST_F(Store, AMirrorOfTheSameBootIsACopyToo) {
  // Somebody removed the ring; no power was cut, but the last entries may be missing all the same.
  const auto options = options_of(BufferKind::kFile);
  auto store = open(options);
  fill(*store, options, 3, 20);
  store.reset();
  std::filesystem::remove(options.ring_path);
  store = open(options);
  ASSERT_TRUE(*store->load_mirror());
  const auto found = expect_filled(*store, options, 3);
  EXPECT_TRUE(found.from_mirror);
  EXPECT_FALSE(found.other_boot);
}

TEST_F(Store, UnreadablePagesOfAMirrorEndTheScanThere) {
  auto options = options_of(BufferKind::kFile);
  auto store = open(options);
  fill(*store, options, 3, 20);
  store.reset();
  std::filesystem::remove(options.ring_path);
  store = open(options);
  int reads = 0;
  // All of the second chunk and its pages: the data ring's beginning stays.
  files_.fail_if = [&](const char* operation) {
    return std::string(operation) == "read" && reads++ >= 2;
  };
  ASSERT_TRUE(*store->load_mirror());
  files_.fail_if = nullptr;
  expect_filled(*store, options, 3);
  reads = 0;
  files_.fail_if = [&](const char* operation) {
    return std::string(operation) == "read" && reads++ >= 1;
  };
  ASSERT_TRUE(*store->load_mirror());
  files_.fail_if = nullptr;
  const auto found = LogBuffer::inspect(*store->region(), options.group, options.boot);
  EXPECT_EQ(LogBuffer::attach(store->region(), found, 1).head(), 1u);
  files_.fail_from = 0;
  EXPECT_FALSE(store->load_mirror().is_ok()) << "without its header there is nothing to say";
}

TEST_F(Store, ADeathWhileLoadingIsMetByLoadingAgain) {
  auto options = options_of(BufferKind::kFile);
  auto store = open(options);
  fill(*store, options, 3, 20);
  store.reset();
  std::filesystem::remove(options.ring_path);
  options.boot = "boot-2";
  for (uint64_t call = 0; call < 16; ++call) {
    // Descriptors of the dead are closed, as by the kernel.
    auto files = std::make_shared<io::TestFileSystem>();
    auto dying = options;
    dying.file_system = files.get();
    store = open(dying);
    files->die_at = files->calls + call;
    EXPECT_THROW((void)store->load_mirror().is_ok(), io::ProcessDeath) << call;
    store.reset();
    const auto found = LogBuffer::inspect(*open(options)->region(), options.group, options.boot);
    EXPECT_EQ(found.kind, Kind::kNothing);
  }
  store = open(options);
  ASSERT_TRUE(*store->load_mirror());
  expect_filled(*store, options, 3);
}

TEST_F(Store, WithoutItsMirrorTheRingServesAlone) {
  auto options = options_of(BufferKind::kFile);
  options.path = disk_.path() + "/nowhere/mirror";
  auto store = open(options);
  EXPECT_EQ(store->mirror(), io::kNoFile);
  EXPECT_FALSE(store->mirror_status().is_ok());
  EXPECT_NE(store->note().find("power cut"), std::string::npos);
  EXPECT_FALSE(store->commit_header().is_ok());
  EXPECT_FALSE(*store->load_mirror());
  store.reset();
  options.create = true;
  EXPECT_EQ(open_code(options), Code::kNotFound);
  // No room for it.
  options.path = disk_.path() + "/mirror";
  files_.fail_if = [](const char* operation) { return std::string(operation) == "allocate"; };
  EXPECT_EQ(open_code(options), Code::kIoError);
  options.create = false;
  EXPECT_EQ(open(options)->mirror_status().code(), Code::kIoError);
  files_.fail_if = nullptr;
  EXPECT_TRUE(open(options)->mirror_status().is_ok());
}

TEST_F(Store, AHeaderThatWasNotCommittedIsReported) {
  const auto options = options_of(BufferKind::kFile);
  auto store = open(options);
  fill(*store, options, 3, 5);
  files_.fail_if = [](const char* operation) { return std::string(operation) == "sync"; };
  EXPECT_EQ(store->commit_header().code(), Code::kIoError);
  files_.fail_if = nullptr;
  EXPECT_TRUE(store->commit_header().is_ok());
}

TEST_F(Store, PersistentMemory) {
  auto options = options_of(BufferKind::kPmem);
  if (!pmem_built()) {
    EXPECT_EQ(open_code(options), Code::kUnsupported);
    return;
  }
  // By cache lines as on persistent memory, and by msync as on anything else.
  for (const bool lines : {true, false}) {
    options.treat_as_pmem = lines;
    options.boot = "boot-1";
    auto store = open(options);
    EXPECT_TRUE(store->survives_power_cut());
    // libpmem's own switch for trials makes every file look like persistent memory.
    EXPECT_EQ(store->note().empty(), lines || std::getenv("PMEM_IS_PMEM_FORCE") != nullptr);
    fill(*store, options, 3, 60);
    EXPECT_EQ(open_code(options), Code::kBusy);
    store.reset();
    store = open(options);
    EXPECT_FALSE(expect_filled(*store, options, 3).other_boot);
    store.reset();
    options.boot = "boot-2";
    store = open(options);
    EXPECT_TRUE(expect_filled(*store, options, 3).other_boot);
    EXPECT_TRUE(store->survives_power_cut());
    ASSERT_TRUE(store->put_away().is_ok());
    EXPECT_TRUE(exists(options.path));
    ASSERT_TRUE(BufferStore::forget(options).is_ok());
    EXPECT_FALSE(exists(options.path));
  }
  options.path = "";
  EXPECT_EQ(open_code(options), Code::kInvalidArgument);
  options.path = memory_.path() + "/nowhere/ring";
  EXPECT_EQ(open_code(options), Code::kNotFound);
}

TEST_F(Store, ARegionOfTheCallers) {
  for (const BufferKind kind : {BufferKind::kTmpfs, BufferKind::kPmem}) {
    auto options = options_of(kind);
    options.path.clear();
    auto store = BufferStore::for_region(
        options, std::make_unique<SimPmemRegion>(LogBuffer::region_bytes(kLeast)));
    ASSERT_TRUE(store.is_ok());
    fill(**store, options, 3, 5);
    expect_filled(**store, options, 3);
    EXPECT_TRUE((*store)->put_away().is_ok());
  }
  EXPECT_TRUE(std::filesystem::is_empty(memory_.path()));
}

TEST_F(Store, BorrowsFromABudget) {
  BufferBudget budget(3 * LogBuffer::region_bytes(kLeast) + 5 * kMiB);
  auto options = options_of(BufferKind::kTmpfs);
  options.budget = &budget;
  options.data_bytes = 2 * kLeast;
  auto first = open(options);
  EXPECT_EQ(first->region()->size(), LogBuffer::region_bytes(2 * kLeast));
  EXPECT_EQ(budget.used(), first->region()->size());
  fill(*first, options, 3, 5);

  // The next gets what is left, in whole MiB; and then there is nothing.
  auto second_options = options;
  second_options.group = group_of(8);
  second_options.path = memory_.path() + "/second";
  auto second = open(second_options);
  const uint64_t size = second->region()->size();
  EXPECT_EQ(size, LogBuffer::region_bytes(kLeast + 4 * kMiB));
  EXPECT_EQ(budget.used(), first->region()->size() + size);
  fill(*second, second_options, 3, 5);
  auto third_options = options;
  third_options.group = group_of(9);
  third_options.path = memory_.path() + "/third";
  EXPECT_EQ(open_code(third_options), Code::kNoSpace);
  EXPECT_FALSE(exists(third_options.path));

  // What holds entries is taken whatever is left, and given back.
  second.reset();
  BufferBudget small(kMiB);
  second_options.budget = &small;
  second = open(second_options);
  EXPECT_EQ(second->region()->size(), size);
  EXPECT_EQ(small.used(), size);
  EXPECT_EQ(small.reserve(1, 0), 0u);
  second.reset();
  EXPECT_EQ(small.used(), 0u);
  first.reset();
  EXPECT_EQ(budget.used(), 0u);
}

TEST(BufferBudget, HundredGroupsFit) {
  const uint64_t least = LogBuffer::region_bytes(kLeast);
  BufferBudget budget(100 * least);
  // A group that is alone may have more than its due; what it took is not there for others.
  EXPECT_EQ(budget.reserve(11 * least, least), 11 * least);
  for (int i = 0; i < 89; ++i) EXPECT_EQ(budget.reserve(least, least), least);
  EXPECT_EQ(budget.reserve(least, least), 0u);
  budget.give_back(10 * least);
  for (int i = 0; i < 10; ++i) EXPECT_EQ(budget.reserve(least, least), least);
  EXPECT_EQ(budget.used(), budget.total());
}

}  // namespace
}  // namespace ep::nvram

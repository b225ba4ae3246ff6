// SPDX-License-Identifier: Apache-2.0
#include "io/posix_file_system.h"

#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include <atomic>
#include <chrono>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <random>
#include <thread>

namespace ep::io {
namespace {

constexpr uint64_t kMs = 1'000'000;

class PosixFileSystemTest : public testing::Test {
 protected:
  void SetUp() override {
    std::string pattern = (std::filesystem::temp_directory_path() / "everpoint-XXXXXX").string();
    ASSERT_NE(mkdtemp(pattern.data()), nullptr);
    root_ = pattern;
  }
  void TearDown() override { std::filesystem::remove_all(root_); }
  FileId open(const std::string& name, OpenOptions options) {
    auto file = files_.open(root_ + "/" + name, options);
    EXPECT_TRUE(file.is_ok()) << file.status().to_string();
    return file.is_ok() ? *file : kNoFile;
  }

  PosixFileSystem files_;
  std::string root_;
};

TEST_F(PosixFileSystemTest, OpensCreatesAndRefuses) {
  EXPECT_EQ(files_.open(root_ + "/none", {}).status().code(), Code::kNotFound);
  const FileId file = open("new", {.create = true, .exclusive = true});
  files_.close(file);
  EXPECT_EQ(files_.open(root_ + "/new", {.create = true, .exclusive = true}).status().code(),
            Code::kAlreadyExists);
  EXPECT_EQ(files_.open(root_, {.read_only = true}).status().code(), Code::kInvalidArgument);
  ASSERT_EQ(mkfifo((root_ + "/fifo").c_str(), 0600), 0);
  const auto fifo = files_.open(root_ + "/fifo", {.read_only = true});
  EXPECT_EQ(fifo.status().code(), Code::kInvalidArgument);
  EXPECT_NE(fifo.status().message().find("/fifo"), std::string::npos);
}

TEST_F(PosixFileSystemTest, LocksBetweenTwoOpenDescriptions) {
  const FileId first = open("held", {.create = true, .lock = true});
  const auto second = files_.open(root_ + "/held", {.lock = true, .lock_wait_ns = 50 * kMs});
  ASSERT_FALSE(second.is_ok());
  EXPECT_EQ(second.status().code(), Code::kBusy);
  EXPECT_NE(second.status().message().find("process " + std::to_string(getpid())),
            std::string::npos)
      << second.status().message();
  std::atomic<bool> got{false};
  std::thread waiter([&] {
    auto third = files_.open(root_ + "/held", {.lock = true});
    EXPECT_TRUE(third.is_ok());
    got = true;
    files_.close(*third);
  });
  std::this_thread::sleep_for(std::chrono::milliseconds(60));
  EXPECT_FALSE(got.load());
  files_.close(first);
  waiter.join();
  EXPECT_TRUE(got.load());
}

TEST_F(PosixFileSystemTest, ALongWaitForALockIsToldAbout) {
  std::string told;
  PosixFileSystem talking([&](const std::string& message) { told = message; });
  const FileId first = open("held", {.create = true, .lock = true});
  const auto second = talking.open(root_ + "/held", {.lock = true, .lock_wait_ns = 5200 * kMs});
  EXPECT_EQ(second.status().code(), Code::kBusy);
  EXPECT_NE(told.find("/held"), std::string::npos) << told;
  EXPECT_NE(told.find(std::to_string(getpid())), std::string::npos) << told;
  files_.close(first);
}

// The same random reads and writes with and without O_DIRECT, at addresses, offsets and lengths off
// every alignment, against an array of bytes.
TEST_F(PosixFileSystemTest, ReadsAndWritesAnyBytesWithAndWithoutDirect) {
  const uint64_t seed = std::random_device{}();
  SCOPED_TRACE("seed " + std::to_string(seed));
  for (const bool direct : {false, true}) {
    std::mt19937_64 random(seed);
    const FileId file = open(direct ? "direct" : "plain", {.create = true, .direct = direct});
    std::vector<uint8_t> model;
    std::vector<uint8_t> memory(1 << 20);
    for (int i = 0; i < 150; ++i) {
      const uint64_t offset = random() % 400'000;
      const size_t size = 1 + random() % (random() % 10 == 0 ? 600'000 : 9'000);
      uint8_t* at = memory.data() + random() % 4096;
      if (random() % 2 == 0) {
        for (size_t k = 0; k < size; ++k) at[k] = static_cast<uint8_t>(random());
        ASSERT_TRUE(files_.write(file, offset, at, size).is_ok());
        if (model.size() < offset + size) model.resize(offset + size);
        if (size != 0) std::memcpy(model.data() + offset, at, size);
      } else {
        size_t got = 0;
        ASSERT_TRUE(files_.read(file, offset, at, size, &got).is_ok());
        const size_t have =
            offset >= model.size() ? 0 : std::min<size_t>(size, model.size() - offset);
        ASSERT_EQ(got, have);
        // memcmp takes no null pointer, not even for no bytes.
        if (have != 0) {
          ASSERT_EQ(std::memcmp(at, model.data() + offset, have), 0);
        }
        for (size_t k = have; k < size; ++k) ASSERT_EQ(at[k], 0);
      }
      ASSERT_EQ(files_.info(file)->size, model.size()) << "padding must not lengthen the file";
    }
    EXPECT_TRUE(files_.sync(file).is_ok());
    files_.close(file);
    std::ifstream stream(root_ + (direct ? "/direct" : "/plain"), std::ios::binary);
    const std::vector<uint8_t> all((std::istreambuf_iterator<char>(stream)), {});
    EXPECT_EQ(all, model);
  }
}

TEST_F(PosixFileSystemTest, ZeroAllocateAndTruncate) {
  const FileId file = open("f", {.create = true, .direct = true});
  std::vector<uint8_t> bytes(100'000, 7);
  ASSERT_TRUE(files_.write(file, 0, bytes.data(), bytes.size()).is_ok());
  ASSERT_TRUE(files_.zero(file, 1000, 50'000).is_ok());
  ASSERT_TRUE(files_.zero(file, 99'000, 1'000'000).is_ok());
  EXPECT_EQ(files_.info(file)->size, 100'000u);
  ASSERT_TRUE(files_.read(file, 0, bytes.data(), bytes.size(), nullptr).is_ok());
  for (size_t i = 0; i < bytes.size(); ++i) {
    ASSERT_EQ(bytes[i], (i >= 1000 && i < 51'000) || i >= 99'000 ? 0 : 7) << i;
  }
  ASSERT_TRUE(files_.allocate(file, 0, 1 << 20).is_ok());
  EXPECT_EQ(files_.info(file)->size, 1u << 20);
  struct stat stat {};
  ASSERT_EQ(fstat(file, &stat), 0);
  EXPECT_GE(stat.st_blocks * 512, 1 << 20);
  uint8_t kept = 0;
  ASSERT_TRUE(files_.read(file, 999, &kept, 1, nullptr).is_ok());
  EXPECT_EQ(kept, 7);
  ASSERT_TRUE(files_.truncate(file, 512).is_ok());
  EXPECT_EQ(files_.info(file)->size, 512u);
  EXPECT_EQ(files_.allocate(file, 0, 1ull << 60).code(), Code::kNoSpace);
  files_.close(file);
}

TEST_F(PosixFileSystemTest, InfoSaysWhetherDirectIsInForce) {
  const FileId plain = open("f", {.create = true});
  EXPECT_FALSE(files_.info(plain)->direct);
  EXPECT_EQ(files_.info(plain)->offset_alignment, 1u);
  const FileId direct = open("f", {.direct = true});
  const auto info = files_.info(direct);
  EXPECT_GE(info->offset_alignment, info->direct ? 512u : 1u);
  EXPECT_GT(info->mtime_ns, 1'600'000'000'000'000'000u);
  EXPECT_FALSE(info->is_block_device);
  files_.close(plain);
  files_.close(direct);
  EXPECT_EQ(files_.info(direct).status().code(), Code::kInvalidArgument);
}

TEST_F(PosixFileSystemTest, DirectoriesNamesAndSpace) {
  const std::string deep = root_ + "/a/b/c";
  ASSERT_TRUE(files_.make_directories(deep).is_ok());
  ASSERT_TRUE(files_.make_directories(deep + "/").is_ok());
  for (const char* name : {"z", "m", "a"}) {
    files_.close(*files_.open(deep + "/" + name, {.create = true}));
  }
  EXPECT_EQ(*files_.list(deep), (std::vector<std::string>{"a", "m", "z"}));
  EXPECT_EQ(files_.list(root_ + "/none").status().code(), Code::kNotFound);
  EXPECT_EQ(files_.make_directories(deep + "/a").code(), Code::kAlreadyExists);
  ASSERT_TRUE(files_.rename(deep + "/a", deep + "/m").is_ok());
  ASSERT_TRUE(files_.remove(deep + "/z").is_ok());
  EXPECT_EQ(files_.remove(deep + "/z").code(), Code::kNotFound);
  EXPECT_EQ(*files_.list(deep), (std::vector<std::string>{"m"}));
  ASSERT_TRUE(files_.sync_directory(deep).is_ok());
  EXPECT_EQ(files_.sync_directory(deep + "/none").code(), Code::kNotFound);
  ASSERT_TRUE(files_.remove(deep + "/m").is_ok());
  ASSERT_TRUE(files_.remove(deep).is_ok());
  const auto space = files_.space(root_);
  ASSERT_TRUE(space.is_ok());
  EXPECT_GT(space->total_bytes, space->free_bytes);
  EXPECT_GT(space->free_bytes, 0u);
}

// What hangs is shown with a frozen file system, in test/devices.
TEST_F(PosixFileSystemTest, ProbesAFolder) {
  EXPECT_TRUE(probe_folder(root_, 10'000'000'000));
  EXPECT_TRUE(files_.list(root_)->empty());
  EXPECT_EQ(probe_folder(root_ + "/none", 10'000'000'000).code(), Code::kNotFound);
}

}  // namespace
}  // namespace ep::io

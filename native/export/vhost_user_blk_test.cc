// SPDX-License-Identifier: Apache-2.0
#include "export/vhost_user_blk.h"

#include <gtest/gtest.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>

#include "block/memory_device.h"
#include "io/uring_engine.h"

namespace ep::exports {
namespace {

// Traffic over a connection is tested with the front-end library, in test/fuzz.
class VhostUserBlkTest : public ::testing::Test {
 protected:
  VhostUserBlkTest() {
    std::string name = (std::filesystem::temp_directory_path() / "ep-export-XXXXXX").string();
    folder_ = mkdtemp(name.data());
    EXPECT_TRUE(reactor_.start([] { return io::make_uring_engine(); }).is_ok());
  }
  ~VhostUserBlkTest() override {
    reactor_.stop();
    std::filesystem::remove_all(folder_);
  }
  [[nodiscard]] std::string socket(const std::string& name) const { return folder_ + "/" + name; }
  Result<std::unique_ptr<VhostUserBlk>> make(const std::string& path, uint32_t queues = 1) {
    VhostUserBlkOptions options;
    options.path = path;
    options.queues = queues;
    return VhostUserBlk::create(options, &reactor_, &device_);
  }

  std::string folder_;
  reactor::Reactor reactor_;
  block::MemoryDevice device_{1 << 20};
};

TEST_F(VhostUserBlkTest, RefusesWhatItCannotDo) {
  EXPECT_EQ(make("").status().code(), Code::kInvalidArgument);
  EXPECT_EQ(make("/tmp/" + std::string(103, 'x')).status().code(), Code::kInvalidArgument);
  EXPECT_EQ(make(socket("a"), 0).status().code(), Code::kInvalidArgument);
  EXPECT_EQ(make(socket("a"), 65).status().code(), Code::kInvalidArgument);
  VhostUserBlkOptions options;
  options.path = socket("a");
  options.serial = std::string(21, 's');
  EXPECT_EQ(VhostUserBlk::create(options, &reactor_, &device_).status().code(),
            Code::kInvalidArgument);
  EXPECT_FALSE(make(folder_ + "/missing/a").is_ok());
}

TEST_F(VhostUserBlkTest, ReplacesAStaleSocketButNoOtherFile) {
  const int fd = ::socket(AF_UNIX, SOCK_STREAM, 0);
  sockaddr_un name{};
  name.sun_family = AF_UNIX;
  std::strcpy(name.sun_path, socket("stale").c_str());
  ASSERT_EQ(bind(fd, reinterpret_cast<sockaddr*>(&name), sizeof name), 0);
  close(fd);
  EXPECT_TRUE(make(socket("stale")).is_ok());

  std::ofstream(socket("precious")) << "data";
  EXPECT_EQ(make(socket("precious")).status().code(), Code::kAlreadyExists);
  EXPECT_EQ(std::filesystem::file_size(socket("precious")), 4u);
}

TEST_F(VhostUserBlkTest, SocketIsPrivateAndGoesWithTheExport) {
  auto made = make(socket("a"), 3);
  ASSERT_TRUE(made.is_ok()) << made.status().to_string();
  struct stat about {};
  ASSERT_EQ(stat(socket("a").c_str(), &about), 0);
  EXPECT_EQ(about.st_mode & 0777, 0600u);
  EXPECT_EQ(make(socket("a")).status().code(), Code::kBusy);
  EXPECT_FALSE((*made)->stats().connected);
  (*made)->notify_geometry();
  (*made)->stop();
  (*made)->stop();
  EXPECT_NE(stat(socket("a").c_str(), &about), 0);
}

TEST_F(VhostUserBlkTest, CreateAndStopInALoop) {
  auto other = make(socket("other"));
  ASSERT_TRUE(other.is_ok());
  for (int i = 0; i < 200; ++i) {
    auto made = make(socket("a"), 64);
    ASSERT_TRUE(made.is_ok()) << i << ": " << made.status().to_string();
  }
}

}  // namespace
}  // namespace ep::exports

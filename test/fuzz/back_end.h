// SPDX-License-Identifier: Apache-2.0
#pragma once

// Back-ends for the tests of this folder: in this process, and in one that can be killed.

#include <gtest/gtest.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <memory>
#include <string>
#include <vector>

#include "block/memory_device.h"
#include "export/vhost_user_blk.h"
#include "front-end/probe.h"
#include "io/uring_engine.h"
#include "reactor/reactor.h"

namespace ep::fuzz {

class TestFolder {
 public:
  explicit TestFolder(
      const std::filesystem::path& parent = std::filesystem::temp_directory_path()) {
    std::string name = (parent / "ep-fuzz-XXXXXX").string();
    EXPECT_NE(mkdtemp(name.data()), nullptr);
    path_ = name;
  }
  ~TestFolder() { std::filesystem::remove_all(path_); }
  TestFolder(const TestFolder&) = delete;
  TestFolder& operator=(const TestFolder&) = delete;
  [[nodiscard]] std::string file(const std::string& name) const { return path_ + "/" + name; }

 private:
  std::string path_;
};

/// One reactor with a few disks in memory, each behind its own socket.
class MemoryBackEnd {
 public:
  MemoryBackEnd(const TestFolder& folder, size_t disks, uint64_t disk_bytes, uint32_t queues) {
    EXPECT_TRUE(reactor_.start([] { return io::make_uring_engine(); }).is_ok());
    for (size_t i = 0; i < disks; ++i) {
      devices_.push_back(std::make_unique<block::MemoryDevice>(disk_bytes));
      exports::VhostUserBlkOptions options;
      options.path = folder.file("disk-" + std::to_string(i) + ".sock");
      options.queues = queues;
      options.serial = "fuzz-" + std::to_string(i);
      auto made = exports::VhostUserBlk::create(options, &reactor_, devices_.back().get());
      EXPECT_TRUE(made.is_ok()) << made.status().to_string();
      exports_.push_back(std::move(*made));
      sockets_.push_back(options.path);
    }
  }
  ~MemoryBackEnd() {
    exports_.clear();
    reactor_.stop();
  }
  exports::VhostUserBlk& disk(size_t i) { return *exports_[i]; }
  block::MemoryDevice& device(size_t i) { return *devices_[i]; }
  [[nodiscard]] const std::string& socket(size_t i) const { return sockets_[i]; }

 private:
  reactor::Reactor reactor_;
  std::vector<std::unique_ptr<block::MemoryDevice>> devices_;
  std::vector<std::unique_ptr<exports::VhostUserBlk>> exports_;
  std::vector<std::string> sockets_;
};

/// This program once more, running the test `name` with the given environment: a back-end to kill.
class ChildProcess {
 public:
  ChildProcess(const std::string& name, const std::vector<std::string>& environment) {
    const std::string filter = "--gtest_filter=" + name;
    pid_ = fork();
    if (pid_ != 0) return;
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    for (const std::string& setting : environment) putenv(strdup(setting.c_str()));
    execl("/proc/self/exe", "back-end", filter.c_str(), "--gtest_also_run_disabled_tests",
          "--gtest_output=", "--gtest_brief=1", nullptr);
    _exit(127);
  }
  ~ChildProcess() { kill_now(); }
  ChildProcess(const ChildProcess&) = delete;
  ChildProcess& operator=(const ChildProcess&) = delete;
  void kill_now() {
    if (pid_ <= 0) return;
    ::kill(pid_, SIGKILL);
    int status = 0;
    waitpid(pid_, &status, 0);
    EXPECT_TRUE(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL)
        << "the back-end ended by itself, status " << status;
    pid_ = -1;
  }

 private:
  pid_t pid_ = -1;
};

inline uint64_t test_seed() {
  const char* given = std::getenv("EP_SEED");
  const uint64_t seed =
      given != nullptr ? std::strtoull(given, nullptr, 10) : static_cast<uint64_t>(getpid());
  std::printf("[ SEED     ] EP_SEED=%llu\n", static_cast<unsigned long long>(seed));
  return seed;
}

}  // namespace ep::fuzz

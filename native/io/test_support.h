// SPDX-License-Identifier: Apache-2.0
#pragma once

// For tests of everything above io: an Engine with a clock and disk times of its own, and a
// FileSystem that fails or dies at a chosen call. With both a test is one thread, repeats from its
// seed, and can end a "process" at any moment: what was in flight is then applied wholly, in part
// or not at all, and the file descriptors (with their locks) go away.

#include <fcntl.h>
#include <sys/uio.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdlib>
#include <functional>
#include <memory>
#include <optional>
#include <random>
#include <string>
#include <vector>

#include "base/assert.h"
#include "base/bytes.h"
#include "io/io.h"
#include "io/posix_file_system.h"

namespace ep::io {

/// Thrown by TestFileSystem where a test wants the process to end. Nothing of that process may run
/// afterwards; its objects are left as they are.
struct ProcessDeath {};

/// What has to stay reachable for ever although nothing may run its destructors: a dead process.
inline void bury(std::shared_ptr<void> dead) {
  static auto* graveyard = new std::vector<std::shared_ptr<void>>;
  graveyard->push_back(std::move(dead));
}

/// The seed to run first, from EP_TEST_SEED, or nothing.
inline std::optional<uint64_t> asked_seed() {
  const char* text = std::getenv("EP_TEST_SEED");
  if (text == nullptr) return std::nullopt;
  return std::strtoull(text, nullptr, 0);
}

/// How many seeds a test goes through: a quarter of them where a sanitizer makes each slow.
constexpr uint64_t seeds_of(uint64_t count) {
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
  return count < 4 ? 1 : count / 4;
#else
  return count;
#endif
}

/// Ops take a random time on a clock that only moves when nothing is due; they take effect when
/// they complete, so overlapping ones land in any order.
class SimEngine final : public Engine {
 public:
  struct Fault {
    int32_t result = -EIO;
    uint64_t applied_bytes = 0;  // of a write, from its start
  };

  explicit SimEngine(uint64_t seed) : random_(seed) {}

  uint64_t latency_min_ns = 20'000;
  uint64_t latency_max_ns = 400'000;
  uint64_t sync_max_ns = 1'500'000;
  uint64_t wall_offset_ns = 1'700'000'000'000'000'000;
  /// Time on top, by Op.
  std::function<uint64_t(const Op&)> extra_ns;
  /// Asked at completion.
  std::function<std::optional<Fault>(const Op&)> fault;
  /// Told of each Op that took effect.
  std::function<void(const Op&)> applied;

  void submit(Op* op) override {
    const uint64_t most = op->kind == Op::Kind::kSyncData ? sync_max_ns : latency_max_ns;
    const uint64_t low = std::min(latency_min_ns, most);
    const uint64_t extra = extra_ns ? extra_ns(*op) : 0;
    pending_.push_back({op, now_ + low + random_() % (most - low + 1) + extra});
  }
  void watch(Watch*) override { EP_ASSERT(false); }
  void unwatch(Watch*) override { EP_ASSERT(false); }
  unsigned reap(uint64_t wait_ns) override {
    unsigned count = complete_due();
    if (count != 0 || wait_ns == 0) return count;
    uint64_t next = now_ + wait_ns;
    for (const Pending& each : pending_) next = std::min(next, each.due);
    now_ = std::max(now_, next);
    return complete_due();
  }
  [[nodiscard]] unsigned in_flight() const override {
    return static_cast<unsigned>(pending_.size());
  }
  [[nodiscard]] uint64_t monotonic_ns() const override { return now_; }
  [[nodiscard]] uint64_t wall_ns() const override { return wall_offset_ns + now_; }

  /// The process ends here: each Op in flight is done, dropped, or (a write) done in part.
  void crash() {
    std::shuffle(pending_.begin(), pending_.end(), random_);
    for (const Pending& each : pending_) {
      const Op& op = *each.op;
      switch (random_() % 3) {
        case 0:
          break;
        case 1:
          perform(op);
          break;
        default:
          if (op.kind == Op::Kind::kWrite) write_part(op, random_() % (total(op) / 512 + 1) * 512);
          break;
      }
    }
    pending_.clear();
  }

 private:
  struct Pending {
    Op* op;
    uint64_t due;
  };

  unsigned complete_due() {
    unsigned count = 0;
    for (;;) {
      const auto first =
          std::min_element(pending_.begin(), pending_.end(),
                           [](const Pending& a, const Pending& b) { return a.due < b.due; });
      if (first == pending_.end() || first->due > now_) return count;
      Op* op = first->op;
      pending_.erase(first);
      ++count;
      int32_t result;
      if (const auto failed = fault ? fault(*op) : std::nullopt) {
        if (op->kind == Op::Kind::kWrite) write_part(*op, failed->applied_bytes);
        result = failed->result;
      } else {
        result = perform(*op);
        if (applied) applied(*op);
      }
      op->on_complete(op, result);
    }
  }

  static uint64_t total(const Op& op) {
    uint64_t sum = 0;
    for (uint32_t i = 0; i < op.iov_count; ++i) sum += op.iov[i].iov_len;
    return sum;
  }

  static int32_t perform(const Op& op) {
    ssize_t result = 0;
    switch (op.kind) {
      case Op::Kind::kRead:
        result =
            preadv(op.file, op.iov, static_cast<int>(op.iov_count), static_cast<off_t>(op.offset));
        break;
      case Op::Kind::kWrite:
        result =
            pwritev(op.file, op.iov, static_cast<int>(op.iov_count), static_cast<off_t>(op.offset));
        break;
      case Op::Kind::kSyncData:
        break;  // only processes die here, not machines
      case Op::Kind::kPunch:
        result = fallocate(op.file, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
                           static_cast<off_t>(op.offset), static_cast<off_t>(op.length));
        break;
      case Op::Kind::kZeroRange:
        result = fallocate(op.file, FALLOC_FL_ZERO_RANGE | FALLOC_FL_KEEP_SIZE,
                           static_cast<off_t>(op.offset), static_cast<off_t>(op.length));
        break;
    }
    return result < 0 ? -errno : static_cast<int32_t>(result);
  }

  /// Through a copy in plain memory and a descriptor without O_DIRECT, so that any length goes.
  static void write_part(const Op& op, uint64_t bytes) {
    if (bytes == 0) return;
    std::vector<uint8_t> all;
    for (uint32_t i = 0; i < op.iov_count; ++i) {
      const auto* from = static_cast<const uint8_t*>(op.iov[i].iov_base);
      all.insert(all.end(), from, from + op.iov[i].iov_len);
    }
    const std::string path = "/proc/self/fd/" + std::to_string(op.file);
    const int fd = ::open(path.c_str(), O_WRONLY | O_CLOEXEC);
    EP_ASSERT(fd >= 0);
    const uint64_t size = std::min<uint64_t>(bytes, all.size());
    const ssize_t put = pwrite(fd, all.data(), size, static_cast<off_t>(op.offset));
    EP_ASSERT(put == static_cast<ssize_t>(size));
    ::close(fd);
  }

  std::mt19937_64 random_;
  uint64_t now_ = 1'000'000'000;
  std::vector<Pending> pending_;
};

/// PosixFileSystem with faults at chosen calls. Every call that touches a file or folder counts.
class TestFileSystem final : public FileSystem {
 public:
  static constexpr uint64_t kNever = ~uint64_t{0};
  explicit TestFileSystem(uint64_t seed = 1)
      : real_(std::make_unique<PosixFileSystem>()), random_(seed) {}

  uint64_t calls = 0;
  /// The process dies in this call, counted from 0 (a write may have been done in part).
  uint64_t die_at = kNever;
  /// This call and all after it fail.
  uint64_t fail_from = kNever;
  /// Fails what it returns true for.
  std::function<bool(const char* operation)> fail_if;

  /// Closes every descriptor, as the end of a process does.
  void crash() { real_.reset(); }

  Result<FileId> open(const std::string& path, const OpenOptions& options) override {
    EP_TRY(step("open"));
    return real_->open(path, options);
  }
  void close(FileId file) override {
    if (real_) real_->close(file);
  }
  Result<FileInfo> info(FileId file) override { return real_->info(file); }
  Status read(FileId file, uint64_t offset, void* to, size_t size, size_t* got) override {
    EP_TRY(step("read"));
    return real_->read(file, offset, to, size, got);
  }
  Status write(FileId file, uint64_t offset, const void* from, size_t size) override {
    if (calls == die_at)
      (void)real_->write(file, offset, from, random_() % (size / 512 + 1) * 512).is_ok();
    EP_TRY(step("write"));
    return real_->write(file, offset, from, size);
  }
  Status sync(FileId file) override {
    EP_TRY(step("sync"));
    return real_->sync(file);
  }
  Status allocate(FileId file, uint64_t offset, uint64_t length) override {
    EP_TRY(step("allocate"));
    return real_->allocate(file, offset, length);
  }
  Status zero(FileId file, uint64_t offset, uint64_t length) override {
    EP_TRY(step("zero"));
    return real_->zero(file, offset, length);
  }
  Status truncate(FileId file, uint64_t size) override {
    EP_TRY(step("truncate"));
    return real_->truncate(file, size);
  }
  Status make_directories(const std::string& path) override {
    EP_TRY(step("make_directories"));
    return real_->make_directories(path);
  }
  Result<std::vector<std::string>> list(const std::string& path) override {
    EP_TRY(step("list"));
    return real_->list(path);
  }
  Status rename(const std::string& from, const std::string& to) override {
    EP_TRY(step("rename"));
    return real_->rename(from, to);
  }
  Status remove(const std::string& path) override {
    EP_TRY(step("remove"));
    return real_->remove(path);
  }
  Status sync_directory(const std::string& path) override {
    EP_TRY(step("sync_directory"));
    return real_->sync_directory(path);
  }
  Result<SpaceInfo> space(const std::string& path) override {
    EP_TRY(step("space"));
    return real_->space(path);
  }

 private:
  Status step(const char* operation) {
    const uint64_t call = calls++;
    if (call == die_at) throw ProcessDeath{};
    if (call >= fail_from || (fail_if && fail_if(operation))) {
      return Status(Code::kIoError, std::string("a test's fault in ") + operation);
    }
    return Status::ok();
  }

  std::unique_ptr<PosixFileSystem> real_;
  std::mt19937_64 random_;
};

}  // namespace ep::io

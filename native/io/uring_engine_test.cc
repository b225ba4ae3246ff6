// SPDX-License-Identifier: Apache-2.0
#include "io/uring_engine.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <cstdlib>
#include <cstring>
#include <deque>
#include <filesystem>
#include <functional>

namespace ep::io {
namespace {

class UringEngineTest : public testing::Test {
 protected:
  void make(const UringEngineOptions& options = {}) {
    auto made = UringEngine::create(options);
    if (made.status().code() == Code::kUnsupported) GTEST_SKIP() << made.status().to_string();
    ASSERT_TRUE(made.is_ok()) << made.status().to_string();
    engine_ = std::move(*made);
    std::string pattern = (std::filesystem::temp_directory_path() / "everpoint-XXXXXX").string();
    fd_ = mkostemp(pattern.data(), O_CLOEXEC);
    ASSERT_GE(fd_, 0);
    unlink(pattern.c_str());
  }
  void TearDown() override {
    engine_.reset();
    if (fd_ >= 0) ::close(fd_);
  }

  std::unique_ptr<UringEngine> engine_;
  int fd_ = -1;
};

struct OneOp {
  Op op;
  iovec vector{};
  int32_t result = INT32_MIN;
  unsigned* pending = nullptr;

  void start(Engine& engine, Op::Kind kind, int fd, uint64_t offset, void* data, size_t size) {
    op.kind = kind;
    op.file = fd;
    op.offset = offset;
    op.length = size;
    vector = {data, size};
    op.iov = &vector;
    op.iov_count = 1;
    op.owner = this;
    op.on_complete = [](Op* done, int32_t result) {
      auto* self = static_cast<OneOp*>(done->owner);
      self->result = result;
      --*self->pending;
    };
    ++*pending;
    engine.submit(&op);
  }
};

TEST_F(UringEngineTest, ManyMoreOpsThanTheQueuesHold) {
  make({.entries = 4, .completions = 8});
  if (IsSkipped()) return;
  constexpr unsigned kCount = 1000;
  unsigned pending = 0;
  std::vector<uint32_t> numbers(kCount);
  std::deque<OneOp> ops(kCount);
  for (unsigned i = 0; i < kCount; ++i) {
    numbers[i] = i * 3 + 1;
    ops[i].pending = &pending;
    ops[i].start(*engine_, Op::Kind::kWrite, fd_, i * 4, &numbers[i], 4);
  }
  EXPECT_EQ(pending, kCount) << "nothing completes inside submit";
  EXPECT_EQ(engine_->in_flight(), kCount);
  unsigned dispatched = 0;
  while (pending > 0) dispatched += engine_->reap(1'000'000'000);
  EXPECT_EQ(dispatched, kCount);
  EXPECT_EQ(engine_->in_flight(), 0u);
  for (const OneOp& op : ops) ASSERT_EQ(op.result, 4);
  std::vector<uint32_t> read_back(kCount);
  OneOp read;
  read.pending = &pending;
  read.start(*engine_, Op::Kind::kRead, fd_, 0, read_back.data(), kCount * 4);
  while (pending > 0) engine_->reap(1'000'000'000);
  EXPECT_EQ(read.result, static_cast<int32_t>(kCount * 4));
  EXPECT_EQ(read_back, numbers);
}

TEST_F(UringEngineTest, ErrorsAndShortReadsAreReportedAsTheyAre) {
  make();
  if (IsSkipped()) return;
  unsigned pending = 0;
  char bytes[100] = "abc";
  OneOp write, read, past, bad;
  for (OneOp* op : {&write, &read, &past, &bad}) op->pending = &pending;
  write.start(*engine_, Op::Kind::kWrite, fd_, 0, bytes, 3);
  while (pending > 0) engine_->reap(1'000'000'000);
  read.start(*engine_, Op::Kind::kRead, fd_, 1, bytes, sizeof bytes);
  past.start(*engine_, Op::Kind::kRead, fd_, 1000, bytes, sizeof bytes);
  bad.start(*engine_, Op::Kind::kRead, 1'000'000, 0, bytes, sizeof bytes);
  while (pending > 0) engine_->reap(1'000'000'000);
  EXPECT_EQ(write.result, 3);
  EXPECT_EQ(read.result, 2);
  EXPECT_EQ(past.result, 0);
  EXPECT_EQ(bad.result, -EBADF);
}

TEST_F(UringEngineTest, PunchAndZeroRangeKeepTheSize) {
  make();
  if (IsSkipped()) return;
  unsigned pending = 0;
  std::vector<char> bytes(64 * 1024, 'x');
  OneOp write, sync, punch, zero, read;
  for (OneOp* op : {&write, &sync, &punch, &zero, &read}) op->pending = &pending;
  write.start(*engine_, Op::Kind::kWrite, fd_, 0, bytes.data(), bytes.size());
  while (pending > 0) engine_->reap(1'000'000'000);
  sync.start(*engine_, Op::Kind::kSyncData, fd_, 0, nullptr, 0);
  punch.start(*engine_, Op::Kind::kPunch, fd_, 4096, nullptr, 8192);
  zero.start(*engine_, Op::Kind::kZeroRange, fd_, 60 * 1024, nullptr, 64 * 1024);
  while (pending > 0) engine_->reap(1'000'000'000);
  EXPECT_EQ(sync.result, 0);
  if (punch.result == -EOPNOTSUPP || zero.result == -EOPNOTSUPP) {
    GTEST_SKIP() << "the temporary directory's file system zeroes no ranges";
  }
  ASSERT_EQ(punch.result, 0);
  ASSERT_EQ(zero.result, 0);
  read.start(*engine_, Op::Kind::kRead, fd_, 0, bytes.data(), bytes.size());
  while (pending > 0) engine_->reap(1'000'000'000);
  ASSERT_EQ(read.result, static_cast<int32_t>(bytes.size()));
  for (size_t i = 0; i < bytes.size(); ++i) {
    const bool zeroed = (i >= 4096 && i < 12288) || i >= 60 * 1024;
    ASSERT_EQ(bytes[i], zeroed ? 0 : 'x') << i;
  }
}

TEST_F(UringEngineTest, WaitingEndsInTime) {
  make();
  if (IsSkipped()) return;
  const uint64_t start = engine_->monotonic_ns();
  EXPECT_EQ(engine_->reap(20'000'000), 0u);
  EXPECT_GE(engine_->monotonic_ns() - start, 19'000'000u);
  EXPECT_LT(engine_->monotonic_ns() - start, 10'000'000'000u);
}

struct Event {
  Event() {
    watch.fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    watch.owner = this;
    watch.on_ready = [](Watch* ready) {
      auto* self = static_cast<Event*>(ready->owner);
      ++self->ready;
      if (self->drain) {
        uint64_t count = 0;
        EXPECT_EQ(::read(ready->fd, &count, sizeof count), 8);
      }
      if (self->on_ready) self->on_ready();
    };
    watch.on_gone = [](Watch* left) { ++static_cast<Event*>(left->owner)->gone; };
  }
  ~Event() { ::close(watch.fd); }
  void kick() {
    const uint64_t one = 1;
    EXPECT_EQ(::write(watch.fd, &one, sizeof one), 8);
  }
  Watch watch;
  bool drain = true;
  int ready = 0;
  int gone = 0;
  std::function<void()> on_ready;
};

TEST_F(UringEngineTest, AWatchReportsAgainAndAgainUntilItIsTakenBack) {
  make();
  if (IsSkipped()) return;
  Event event;
  engine_->watch(&event.watch);
  EXPECT_EQ(engine_->reap(1'000'000), 0u);
  for (int i = 1; i <= 3; ++i) {
    event.kick();
    engine_->reap(1'000'000'000);
    EXPECT_EQ(event.ready, i);
    EXPECT_EQ(engine_->reap(1'000'000), 0u) << "nothing new once it was drained";
  }
  // What on_ready leaves unread is reported once more: level, not edge.
  event.drain = false;
  event.kick();
  engine_->reap(1'000'000'000);
  engine_->reap(1'000'000'000);
  EXPECT_EQ(event.ready, 5);
  engine_->unwatch(&event.watch);
  EXPECT_EQ(event.gone, 0) << "only from a later reap";
  for (int i = 0; i < 10 && event.gone == 0; ++i) engine_->reap(100'000'000);
  EXPECT_EQ(event.gone, 1);
  const int before = event.ready;
  engine_->reap(1'000'000);
  EXPECT_EQ(event.ready, before);
}

TEST_F(UringEngineTest, UnwatchInEveryState) {
  make();
  if (IsSkipped()) return;
  Event idle, fresh, inside, fired;
  inside.on_ready = [&] { engine_->unwatch(&inside.watch); };
  engine_->watch(&idle.watch);
  engine_->watch(&inside.watch);
  engine_->watch(&fired.watch);
  engine_->reap(0);
  engine_->watch(&fresh.watch);
  engine_->unwatch(&fresh.watch);  // before the kernel has heard of it
  engine_->unwatch(&idle.watch);
  inside.kick();
  fired.kick();
  engine_->unwatch(&fired.watch);  // with its report on the way
  for (int i = 0; i < 20; ++i) engine_->reap(5'000'000);
  EXPECT_EQ(idle.gone, 1);
  EXPECT_EQ(fresh.gone, 1);
  EXPECT_EQ(inside.gone, 1);
  EXPECT_EQ(fired.gone, 1);
  EXPECT_EQ(idle.ready, 0);
  EXPECT_EQ(inside.ready, 1);
  EXPECT_EQ(fired.ready, 0) << "no report after unwatch";
  // The same address again, at once.
  engine_->watch(&idle.watch);
  idle.kick();
  engine_->reap(1'000'000'000);
  EXPECT_EQ(idle.ready, 1);
}

TEST_F(UringEngineTest, MoreWatchesThanQueueEntries) {
  make({.entries = 4, .completions = 128});
  if (IsSkipped()) return;
  std::deque<Event> events(40);
  for (Event& event : events) engine_->watch(&event.watch);
  engine_->reap(0);
  for (Event& event : events) event.kick();
  for (int i = 0; i < 10; ++i) engine_->reap(5'000'000);
  for (Event& event : events) EXPECT_EQ(event.ready, 1);
  for (Event& event : events) engine_->unwatch(&event.watch);
  for (int i = 0; i < 20; ++i) engine_->reap(5'000'000);
  for (Event& event : events) EXPECT_EQ(event.gone, 1);
}

}  // namespace
}  // namespace ep::io

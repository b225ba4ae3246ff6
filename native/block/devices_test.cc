// SPDX-License-Identifier: Apache-2.0
//
// What single devices do beyond the common suite, and transfers over an engine that misbehaves.

#include <gtest/gtest.h>

#include <cerrno>
#include <fstream>

#include "block/delay_device.h"
#include "block/error_device.h"
#include "block/memory_device.h"
#include "block/test_support.h"
#include "block/uring_device.h"
#include "io/posix_file_system.h"
#include "io/uring_engine.h"

namespace ep::block {
namespace {

/// An engine over an array of bytes that answers what a script says first.
class ScriptedEngine final : public io::Engine {
 public:
  explicit ScriptedEngine(size_t size) : file(size) {}
  void submit(io::Op* op) override { queue_.push_back(op); }
  void watch(io::Watch*) override { EP_ASSERT(false); }
  void unwatch(io::Watch*) override { EP_ASSERT(false); }
  unsigned reap(uint64_t) override {
    unsigned count = 0;
    while (!queue_.empty()) {
      io::Op* op = queue_.front();
      queue_.pop_front();
      ++count;
      ++ops;
      int64_t limit = INT64_MAX;
      if (!script.empty()) {
        limit = script.front();
        script.pop_front();
      }
      op->on_complete(op, limit < 0 ? static_cast<int32_t>(limit) : carry_out(*op, limit));
    }
    return count;
  }
  [[nodiscard]] unsigned in_flight() const override { return static_cast<unsigned>(queue_.size()); }
  [[nodiscard]] uint64_t monotonic_ns() const override { return 0; }
  [[nodiscard]] uint64_t wall_ns() const override { return 0; }

  std::vector<uint8_t> file;
  /// Per operation: a negative errno, or at most how many bytes are done.
  std::deque<int64_t> script;
  unsigned ops = 0;

 private:
  int32_t carry_out(const io::Op& op, int64_t limit) {
    int64_t done = 0;
    for (uint32_t i = 0; i < op.iov_count; ++i) {
      auto* bytes = static_cast<uint8_t*>(op.iov[i].iov_base);
      for (size_t k = 0; k < op.iov[i].iov_len && done < limit; ++k, ++done) {
        const uint64_t at = op.offset + static_cast<uint64_t>(done);
        if (at >= file.size()) return static_cast<int32_t>(done);
        if (op.kind == io::Op::Kind::kWrite) file[at] = bytes[k];
        if (op.kind == io::Op::Kind::kRead) bytes[k] = file[at];
      }
    }
    return static_cast<int32_t>(done);
  }
  std::deque<io::Op*> queue_;
};

struct TransferRun {
  explicit TransferRun(ScriptedEngine* engine, uint64_t alignment) : engine(engine) {
    transfer.bind(
        engine, 0, alignment,
        [](Transfer* done, int32_t result) {
          auto* self = static_cast<TransferRun*>(done->owner());
          self->error = result;
          ++self->times;
        },
        this);
  }
  int32_t run(io::Op::Kind kind, uint64_t offset, TestRequest& memory) {
    transfer.start(kind, offset, memory.request.length, memory.vectors.data(),
                   static_cast<uint32_t>(memory.vectors.size()));
    while (engine->in_flight() > 0) engine->reap(0);
    EXPECT_EQ(times, 1);
    times = 0;
    return error;
  }
  ScriptedEngine* engine;
  Transfer transfer;
  int32_t error = 1;
  int times = 0;
};

TEST(Transfer, ShortOnesGoOnWhereTheyStopped) {
  std::mt19937_64 random(1);
  for (const uint64_t alignment : {uint64_t{1}, uint64_t{512}}) {
    ScriptedEngine engine(64 * 1024);
    TransferRun run(&engine, alignment);
    TestRequest write = TestRequest::scattered_exactly(Op::kWrite, 0, 32 * 1024, random);
    // 100 bytes of a direct write are no progress: they are written again.
    engine.script = {5 * 512, -EINTR, 100, -EAGAIN, 700, 4096, 0, 1024};
    ASSERT_EQ(run.run(io::Op::Kind::kWrite, 4096, write), 0);
    const std::vector<uint8_t> wanted = write.bytes();
    EXPECT_TRUE(std::equal(wanted.begin(), wanted.end(), engine.file.begin() + 4096));
    TestRequest read = TestRequest::scattered_exactly(Op::kRead, 0, 32 * 1024, random);
    engine.script = {512, -EAGAIN, 8192};
    ASSERT_EQ(run.run(io::Op::Kind::kRead, 4096, read), 0);
    EXPECT_EQ(read.bytes(), wanted);
  }
}

TEST(Transfer, ReadsPastTheEndAreZeroes) {
  std::mt19937_64 random(2);
  ScriptedEngine engine(5000);
  std::fill(engine.file.begin(), engine.file.end(), 9);
  TransferRun run(&engine, 512);
  TestRequest read = TestRequest::scattered_exactly(Op::kRead, 0, 8192, random);
  ASSERT_EQ(run.run(io::Op::Kind::kRead, 4096, read), 0);
  const std::vector<uint8_t> got = read.bytes();
  for (size_t i = 0; i < got.size(); ++i) ASSERT_EQ(got[i], i < 904 ? 9 : 0) << i;
}

TEST(Transfer, ErrorsAndAStandstillEnd) {
  ScriptedEngine engine(8192);
  TransferRun run(&engine, 512);
  TestRequest write = TestRequest::contiguous(Op::kWrite, 0, 4096);
  engine.script = {-ENOSPC};
  EXPECT_EQ(run.run(io::Op::Kind::kWrite, 0, write), -ENOSPC);
  engine.script.assign(5000, 0);
  EXPECT_EQ(run.run(io::Op::Kind::kWrite, 0, write), -EIO);
  engine.script.assign(5000, -EAGAIN);
  EXPECT_EQ(run.run(io::Op::Kind::kWrite, 0, write), -EIO);
  EXPECT_LT(engine.ops, 5000u);
}

TEST(Transfer, ErrnosBecomeOutcomes) {
  EXPECT_EQ(outcome_of(0), Outcome::kOk);
  EXPECT_EQ(outcome_of(-ENOSPC), Outcome::kNoSpace);
  EXPECT_EQ(outcome_of(-EDQUOT), Outcome::kNoSpace);
  EXPECT_EQ(outcome_of(-EROFS), Outcome::kReadOnly);
  EXPECT_EQ(outcome_of(-EOPNOTSUPP), Outcome::kUnsupported);
  EXPECT_EQ(outcome_of(-EIO), Outcome::kIoError);
}

TEST(DelayDevice, HeldRequestsAreReleasedInTheOrderAsked) {
  MemoryDevice memory(1 << 20);
  DelayDevice delay(memory, nullptr, {});
  std::vector<uint64_t> order;
  std::deque<TestRequest> requests;
  const auto submit_five = [&] {
    requests.clear();
    order.clear();
    for (uint64_t i = 0; i < 5; ++i) {
      requests.push_back(TestRequest::contiguous(Op::kWrite, i * 512, 512));
      requests.back().then = [&order, i](TestRequest*) { order.push_back(i); };
      requests.back().submit(delay);
    }
  };
  submit_five();
  EXPECT_EQ(order.size(), 5u) << "without hold and delay nothing is held back";
  delay.hold();
  submit_five();
  EXPECT_EQ(delay.held(), 5u);
  EXPECT_EQ(delay.held_at(3).offset, 3u * 512);
  EXPECT_TRUE(order.empty());
  delay.release(3);
  EXPECT_EQ(order, (std::vector<uint64_t>{3}));
  delay.resume(ReleaseOrder::kNewestFirst);
  EXPECT_EQ(order, (std::vector<uint64_t>{3, 4, 2, 1, 0}));
}

TEST(DelayDevice, WhereDecidesWhetherTheEffectIsLateToo) {
  for (const auto where : {DelayOptions::Where::kBefore, DelayOptions::Where::kAfter}) {
    MemoryDevice memory(1 << 20);
    DelayOptions options;
    options.where = where;
    DelayDevice delay(memory, nullptr, options);
    delay.hold();
    TestRequest write = TestRequest::contiguous(Op::kWrite, 0, 512);
    write.submit(delay);
    EXPECT_FALSE(write.done);
    EXPECT_EQ(memory.bytes()[0], where == DelayOptions::Where::kBefore ? 0 : 0xa5);
    delay.resume();
    EXPECT_TRUE(write.done);
    EXPECT_EQ(memory.bytes()[0], 0xa5);
  }
}

TEST(ErrorDevice, FailsWhatItsRulesSay) {
  MemoryDevice memory(1 << 20);
  ErrorDevice error(memory);
  const auto run = [&](Op op, uint64_t offset) {
    TestRequest request = TestRequest::contiguous(op, offset, op == Op::kFlush ? 0 : 512);
    request.submit(error);
    EXPECT_EQ(request.times_done, 1);
    return request.request.outcome;
  };
  ErrorRule rule;
  rule.ops = {Op::kWrite};
  rule.offset = 4096;
  rule.length = 1024;
  rule.outcome = Outcome::kNoSpace;
  rule.skip = 1;
  rule.times = 2;
  error.add_rule(rule);
  EXPECT_EQ(run(Op::kWrite, 0), Outcome::kOk);
  EXPECT_EQ(run(Op::kRead, 4096), Outcome::kOk);
  EXPECT_EQ(run(Op::kWrite, 4608), Outcome::kOk) << "skipped";
  EXPECT_EQ(run(Op::kWrite, 4096), Outcome::kNoSpace);
  EXPECT_EQ(run(Op::kWrite, 5120), Outcome::kOk) << "behind the range";
  EXPECT_EQ(run(Op::kWrite, 4608), Outcome::kNoSpace);
  EXPECT_EQ(run(Op::kWrite, 4096), Outcome::kOk) << "used up";
  EXPECT_EQ(error.failed(), 2u);
  rule = {};
  rule.ops = {Op::kFlush};
  const uint64_t id = error.add_rule(rule);
  EXPECT_EQ(run(Op::kFlush, 0), Outcome::kIoError);
  error.remove_rule(id);
  EXPECT_EQ(run(Op::kFlush, 0), Outcome::kOk);
  rule = {};
  rule.after = true;
  error.add_rule(rule);
  EXPECT_EQ(run(Op::kWrite, 8192), Outcome::kIoError);
  EXPECT_EQ(memory.bytes()[8192], 0xa5) << "failed, and written all the same";
}

class UringDeviceTest : public testing::Test {
 protected:
  void SetUp() override {
    auto made = io::UringEngine::create();
    if (!made) GTEST_SKIP() << made.status().to_string();
    engine_ = std::move(*made);
    options_.path = directory_.path() + "/disk";
  }
  Outcome run(Device& device, TestRequest& request) {
    request.submit(device);
    while (!request.done) engine_->reap(1'000'000);
    return request.request.outcome;
  }
  TempDirectory directory_;
  io::PosixFileSystem files_;
  std::unique_ptr<io::UringEngine> engine_;
  UringDeviceOptions options_;
};

TEST_F(UringDeviceTest, RefusesMissingEmptyAndOtherwiseSizedFiles) {
  EXPECT_EQ(UringDevice::open(files_, *engine_, options_).status().code(), Code::kNotFound);
  options_.create = true;
  EXPECT_EQ(UringDevice::open(files_, *engine_, options_).status().code(), Code::kInvalidArgument);
  options_.size_bytes = 1 << 20;
  ASSERT_TRUE(UringDevice::open(files_, *engine_, options_).is_ok());
  options_.size_bytes = 2 << 20;
  const auto other = UringDevice::open(files_, *engine_, options_);
  EXPECT_EQ(other.status().code(), Code::kInvalidArgument);
  EXPECT_NE(other.status().message().find("1048576"), std::string::npos);
}

TEST_F(UringDeviceTest, HoldsItsLock) {
  options_.create = true;
  options_.size_bytes = 1 << 20;
  auto first = UringDevice::open(files_, *engine_, options_);
  ASSERT_TRUE(first.is_ok());
  options_.lock_wait_ns = 30'000'000;
  EXPECT_EQ(UringDevice::open(files_, *engine_, options_).status().code(), Code::kBusy);
  first->reset();
  EXPECT_TRUE(UringDevice::open(files_, *engine_, options_).is_ok());
}

TEST_F(UringDeviceTest, ReadOnlyRefusesWrites) {
  options_.create = true;
  options_.size_bytes = 1 << 20;
  ASSERT_TRUE(UringDevice::open(files_, *engine_, options_).is_ok());
  options_.create = false;
  options_.read_only = true;
  auto device = UringDevice::open(files_, *engine_, options_);
  ASSERT_TRUE(device.is_ok());
  EXPECT_TRUE((*device)->geometry().read_only);
  for (const Op op : {Op::kWrite, Op::kDiscard, Op::kWriteZeroes}) {
    TestRequest request = TestRequest::contiguous(op, 0, 512);
    EXPECT_EQ(run(**device, request), Outcome::kReadOnly);
  }
  TestRequest read = TestRequest::contiguous(Op::kRead, 0, 512);
  EXPECT_EQ(run(**device, read), Outcome::kOk);
  TestRequest flush = TestRequest::contiguous(Op::kFlush, 0, 0);
  EXPECT_EQ(run(**device, flush), Outcome::kOk);
}

TEST_F(UringDeviceTest, AFileThatBecameShortReadsAsZeroesAndGrowsAgain) {
  options_.create = true;
  options_.size_bytes = 64 * 1024;
  auto device = UringDevice::open(files_, *engine_, options_);
  ASSERT_TRUE(device.is_ok());
  TestRequest write = TestRequest::contiguous(Op::kWrite, 0, 64 * 1024);
  ASSERT_EQ(run(**device, write), Outcome::kOk);
  ASSERT_TRUE(files_.truncate((*device)->file(), 10'000).is_ok());
  TestRequest read = TestRequest::contiguous(Op::kRead, 8192, 8192);
  ASSERT_EQ(run(**device, read), Outcome::kOk);
  const std::vector<uint8_t> got = read.bytes();
  for (size_t i = 0; i < got.size(); ++i) ASSERT_EQ(got[i], i < 10'000 - 8192 ? 0xa5 : 0) << i;
  TestRequest tail = TestRequest::contiguous(Op::kWrite, 60 * 1024, 4096);
  ASSERT_EQ(run(**device, tail), Outcome::kOk);
  EXPECT_EQ((*device)->info()->size, 64u * 1024);
}

}  // namespace
}  // namespace ep::block

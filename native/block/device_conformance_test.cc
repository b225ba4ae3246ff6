// SPDX-License-Identifier: Apache-2.0
//
// One suite for every Device: random requests against a naive array of bytes, concurrency, vectors
// at odd addresses, odd sizes. A failure prints its seed; EP_TEST_SEED repeats it.

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cstdlib>
#include <cstring>
#include <fstream>
#include <random>

#include "base/bytes.h"
#include "block/delay_device.h"
#include "block/error_device.h"
#include "block/memory_device.h"
#include "block/test_support.h"
#include "block/uring_device.h"
#include "io/posix_file_system.h"
#include "io/uring_engine.h"
#include "reactor/reactor.h"

namespace ep::block {
namespace {

uint64_t pick_seed() {
  const char* given = std::getenv("EP_TEST_SEED");
  return given != nullptr ? std::strtoull(given, nullptr, 10) : std::random_device{}();
}

/// A reactor on the test's thread with a real io_uring, or nothing where that is forbidden.
class World {
 public:
  World() {
    auto made = io::UringEngine::create();
    if (!made) {
      problem = made.status().to_string();
      return;
    }
    engine = std::move(*made);
    reactor.adopt(engine.get());
  }
  void run_until(const bool& done) {
    while (!done) reactor.run_once(1'000'000);
  }

  std::string problem;
  io::PosixFileSystem files;
  std::unique_ptr<io::UringEngine> engine;
  reactor::Reactor reactor;
};

/// A stack of devices under test. Devices are destroyed from the top down.
struct Stack {
  ~Stack() {
    while (!devices.empty()) devices.pop_back();
    if (!loop.empty()) {
      [[maybe_unused]] const int result = std::system(("losetup -d " + loop).c_str());
    }
  }
  Device& top() { return *devices.back(); }

  std::unique_ptr<TempDirectory> directory;
  std::string loop;
  std::vector<std::unique_ptr<Device>> devices;
  std::string skip;
};

using Make = std::function<std::unique_ptr<Stack>(World& world, uint64_t size_bytes)>;

struct Kind {
  std::string name;
  Make make;
  /// Sizes off the 512-byte grid make sense.
  bool odd_sizes = false;
};

void PrintTo(const Kind& kind, std::ostream* stream) { *stream << kind.name; }

std::unique_ptr<Stack> make_memory(World&, uint64_t size) {
  auto stack = std::make_unique<Stack>();
  stack->devices.push_back(std::make_unique<MemoryDevice>(size));
  return stack;
}

std::unique_ptr<Stack> make_uring(World& world, uint64_t size, const std::string& parent,
                                  uint32_t force_alignment) {
  auto stack = std::make_unique<Stack>();
  stack->directory = std::make_unique<TempDirectory>(parent);
  UringDeviceOptions options;
  options.path = stack->directory->path() + "/disk";
  options.create = true;
  options.size_bytes = size;
  options.force_offset_alignment = force_alignment;
  // Few, so that requests have to wait for a context.
  options.queue_depth = 8;
  auto device = UringDevice::open(world.files, *world.engine, options);
  if (!device) {
    stack->skip = device.status().to_string();
  } else {
    stack->devices.push_back(std::move(*device));
  }
  return stack;
}

std::unique_ptr<Stack> make_loop(World& world, uint64_t size) {
  auto stack = std::make_unique<Stack>();
  stack->skip = "no loop device with 4 KiB sectors to be had";
  if (geteuid() != 0) return stack;
  stack->directory = std::make_unique<TempDirectory>("/dev/shm");
  const std::string image = stack->directory->path() + "/image";
  const int fd = ::open(image.c_str(), O_RDWR | O_CREAT, 0600);
  const bool sized = fd >= 0 && ftruncate(fd, static_cast<off_t>(size)) == 0;
  if (fd >= 0) ::close(fd);
  if (!sized) return stack;
  FILE* pipe = popen(("losetup -b 4096 --show -f " + image + " 2>/dev/null").c_str(), "r");
  if (pipe == nullptr) return stack;
  char name[64] = {};
  const bool got = fgets(name, sizeof name, pipe) != nullptr;
  if (pclose(pipe) != 0 || !got) return stack;
  name[strcspn(name, "\n")] = 0;
  stack->loop = name;
  UringDeviceOptions options;
  options.path = stack->loop;
  auto device = UringDevice::open(world.files, *world.engine, options);
  if (!device) {
    stack->skip = device.status().to_string();
    return stack;
  }
  EXPECT_EQ((*device)->geometry().block_bytes, 4096u);
  EXPECT_TRUE((*device)->opened_info().is_block_device);
  EXPECT_TRUE((*device)->direct());
  stack->skip.clear();
  stack->devices.push_back(std::move(*device));
  return stack;
}

std::unique_ptr<Stack> make_delay(World& world, uint64_t size, DelayOptions::Where where) {
  auto stack = make_memory(world, size);
  DelayOptions options;
  options.where = where;
  options.seed = 3;
  options.max_ns = 50'000;
  Device& below = stack->top();
  stack->devices.push_back(std::make_unique<DelayDevice>(below, &world.reactor, options));
  return stack;
}

std::unique_ptr<Stack> make_error_over_uring(World& world, uint64_t size) {
  auto stack = make_uring(world, size, "", 0);
  if (!stack->skip.empty()) return stack;
  Device& below = stack->top();
  auto error = std::make_unique<ErrorDevice>(below);
  // A rule that never matches, so that the matching is on the way.
  ErrorRule rule;
  rule.times = 0;
  error->add_rule(rule);
  stack->devices.push_back(std::move(error));
  return stack;
}

std::vector<Kind> kinds() {
  using std::placeholders::_1;
  using std::placeholders::_2;
  return {
      {"memory", make_memory, true},
      {"uring", std::bind(make_uring, _1, _2, "", 0), true},
      {"uring_shm", std::bind(make_uring, _1, _2, "/dev/shm", 0), true},
      {"uring_4k", std::bind(make_uring, _1, _2, "", 4096), true},
      {"uring_shm_4k", std::bind(make_uring, _1, _2, "/dev/shm", 4096), true},
      {"loop_4k", make_loop, false},
      {"delay_before", std::bind(make_delay, _1, _2, DelayOptions::Where::kBefore), true},
      {"delay_after", std::bind(make_delay, _1, _2, DelayOptions::Where::kAfter), true},
      {"error_over_uring", make_error_over_uring, true},
  };
}

class DeviceConformance : public testing::TestWithParam<Kind> {
 protected:
  /// False when the test has to be skipped.
  bool open(uint64_t size) {
    if (!world_.problem.empty()) {
      skip_ = world_.problem;
      return false;
    }
    stack_ = GetParam().make(world_, size);
    skip_ = stack_->skip;
    return skip_.empty();
  }
  Outcome run(TestRequest& request) {
    request.submit(stack_->top());
    world_.run_until(request.done);
    EXPECT_EQ(request.times_done, 1);
    return request.request.outcome;
  }
  void expect_all(const std::vector<uint8_t>& model) {
    TestRequest all = TestRequest::contiguous(Op::kRead, 0, model.size());
    ASSERT_EQ(run(all), Outcome::kOk);
    const std::vector<uint8_t> got = all.bytes();
    for (size_t i = 0; i < model.size(); ++i) {
      ASSERT_EQ(got[i], model[i]) << "at byte " << i;
    }
  }

  World world_;
  std::unique_ptr<Stack> stack_;
  std::string skip_;
};

constexpr uint64_t kSize = 1024 * 1024;

Op random_op(std::mt19937_64& random) {
  const uint64_t dice = random() % 16;
  if (dice < 6) return Op::kRead;
  if (dice < 12) return Op::kWrite;
  if (dice < 13) return Op::kFlush;
  return dice < 14 ? Op::kDiscard : Op::kWriteZeroes;
}

void apply_to_model(const TestRequest& request, std::vector<uint8_t>* model) {
  const Request& what = request.request;
  if (what.op == Op::kWrite) {
    const std::vector<uint8_t> bytes = request.bytes();
    std::copy(bytes.begin(), bytes.end(),
              model->begin() + static_cast<std::ptrdiff_t>(what.offset));
  } else if (what.op == Op::kDiscard || what.op == Op::kWriteZeroes) {
    std::fill_n(model->begin() + static_cast<std::ptrdiff_t>(what.offset), what.length, 0);
  }
}

TEST_P(DeviceConformance, StartsAsZeroesAndTellsItsSize) {
  if (!open(kSize)) GTEST_SKIP() << skip_;
  EXPECT_EQ(stack_->top().geometry().size_bytes, kSize);
  EXPECT_FALSE(stack_->top().geometry().read_only);
  expect_all(std::vector<uint8_t>(kSize));
}

TEST_P(DeviceConformance, RandomRequestsOneByOneMatchTheModel) {
  if (!open(kSize)) GTEST_SKIP() << skip_;
  const uint64_t seed = pick_seed();
  SCOPED_TRACE("EP_TEST_SEED=" + std::to_string(seed));
  std::mt19937_64 random(seed);
  std::vector<uint8_t> model(kSize);
  for (int i = 0; i < 600; ++i) {
    TestRequest request = TestRequest::scattered(random_op(random), 0, kSize, random);
    ASSERT_EQ(run(request), Outcome::kOk);
    if (request.request.op == Op::kRead) {
      const std::vector<uint8_t> got = request.bytes();
      ASSERT_TRUE(std::equal(got.begin(), got.end(),
                             model.begin() + static_cast<std::ptrdiff_t>(request.request.offset)))
          << "request " << i;
    }
    apply_to_model(request, &model);
  }
  expect_all(model);
}

// Neighbours in one 4 KiB block are written at the same time: a device that reads, modifies and
// writes whole blocks without order loses one of them.
TEST_P(DeviceConformance, ConcurrentRequestsOnDifferentSectorsDoNotDisturbEachOther) {
  if (!open(kSize)) GTEST_SKIP() << skip_;
  const uint64_t seed = pick_seed();
  SCOPED_TRACE("EP_TEST_SEED=" + std::to_string(seed));
  std::mt19937_64 random(seed);
  std::vector<uint8_t> model(kSize);
  for (int round = 0; round < 20; ++round) {
    // The disk is cut at random sectors; each piece gets one request, all at once.
    std::deque<TestRequest> requests;
    for (uint64_t at = 0; at < kSize && requests.size() < 120;) {
      const uint64_t piece =
          std::min(kSize - at, (1 + random() % (random() % 4 == 0 ? 64 : 3)) * kSectorBytes);
      Op op = random_op(random);
      if (op == Op::kFlush) op = Op::kWrite;
      requests.push_back(TestRequest::scattered_exactly(op, at, piece, random));
      at += piece;
    }
    std::vector<TestRequest*> order;
    for (TestRequest& request : requests) order.push_back(&request);
    std::shuffle(order.begin(), order.end(), random);
    for (TestRequest* request : order) request->submit(stack_->top());
    for (TestRequest* request : order) {
      world_.run_until(request->done);
      ASSERT_EQ(request->request.outcome, Outcome::kOk);
      if (request->request.op == Op::kRead) {
        const std::vector<uint8_t> got = request->bytes();
        ASSERT_TRUE(
            std::equal(got.begin(), got.end(),
                       model.begin() + static_cast<std::ptrdiff_t>(request->request.offset)))
            << "round " << round << " at " << request->request.offset;
      }
    }
    for (TestRequest& request : requests) {
      ASSERT_EQ(request.times_done, 1);
      apply_to_model(request, &model);
    }
  }
  expect_all(model);
}

TEST_P(DeviceConformance, VectorsAtOddAddressesAndOfOddLengths) {
  if (!open(kSize)) GTEST_SKIP() << skip_;
  std::vector<uint8_t> model(kSize);
  std::vector<uint8_t> memory(8192 + 64);
  for (size_t i = 0; i < memory.size(); ++i) memory[i] = static_cast<uint8_t>(i * 7 + 1);
  const iovec parts[] = {{memory.data() + 1, 100},
                         {memory.data() + 107, 0},
                         {memory.data() + 203, 924},
                         {memory.data() + 2001, 3072}};
  TestRequest write;
  write.request.op = Op::kWrite;
  write.request.offset = 1536;
  write.request.length = 4096;
  write.vectors.assign(std::begin(parts), std::end(parts));
  ASSERT_EQ(run(write), Outcome::kOk);
  apply_to_model(write, &model);
  TestRequest read = write.with_op(Op::kRead);
  std::memset(memory.data(), 0, memory.size());
  ASSERT_EQ(run(read), Outcome::kOk);
  const std::vector<uint8_t> got = read.bytes();
  EXPECT_TRUE(std::equal(got.begin(), got.end(), model.begin() + 1536));
  expect_all(model);
}

TEST_P(DeviceConformance, DiscardAndWriteZeroesLeaveZeroesAndNothingElse) {
  if (!open(kSize)) GTEST_SKIP() << skip_;
  std::mt19937_64 random(7);
  std::vector<uint8_t> model(kSize);
  for (const Op op : {Op::kDiscard, Op::kWriteZeroes}) {
    for (const bool may_unmap : {false, true}) {
      TestRequest fill = TestRequest::contiguous(Op::kWrite, 0, kSize);
      fill.fill(random);
      ASSERT_EQ(run(fill), Outcome::kOk);
      apply_to_model(fill, &model);
      const uint64_t ranges[][2] = {
          {512, 512}, {4096, 4096}, {9216, 65536 + 1024}, {131072, 393216}, {kSize - 512, 512}};
      for (const auto& range : ranges) {
        TestRequest zero;
        zero.request.op = op;
        zero.request.may_unmap = may_unmap;
        zero.request.offset = range[0];
        zero.request.length = range[1];
        ASSERT_EQ(run(zero), Outcome::kOk);
        apply_to_model(zero, &model);
      }
      expect_all(model);
    }
  }
}

TEST_P(DeviceConformance, MoreRequestsThanAnyQueueAreAllAnsweredOnce) {
  if (!open(kSize)) GTEST_SKIP() << skip_;
  constexpr size_t kCount = 1500;
  std::mt19937_64 random(11);
  std::deque<TestRequest> requests;
  for (size_t i = 0; i < kCount; ++i) {
    requests.push_back(
        TestRequest::contiguous(Op::kWrite, (i * kSectorBytes) % kSize, kSectorBytes));
    requests.back().fill(random);
  }
  for (TestRequest& request : requests) request.submit(stack_->top());
  for (TestRequest& request : requests) world_.run_until(request.done);
  std::vector<uint8_t> model(kSize);
  for (TestRequest& request : requests) {
    ASSERT_EQ(request.times_done, 1);
    ASSERT_EQ(request.request.outcome, Outcome::kOk);
    apply_to_model(request, &model);
  }
  expect_all(model);
}

TEST_P(DeviceConformance, SizesOffTheSectorGridRoundUp) {
  if (!GetParam().odd_sizes) GTEST_SKIP() << "sizes of this device are whole sectors";
  std::mt19937_64 random(13);
  for (const uint64_t size : {uint64_t{1}, uint64_t{1000}, uint64_t{65536 + 513}}) {
    const uint64_t capacity = align_up(size, kSectorBytes);
    if (!open(size)) GTEST_SKIP() << skip_;
    ASSERT_EQ(stack_->top().geometry().size_bytes, capacity);
    std::vector<uint8_t> model(capacity);
    expect_all(model);  // reads past the end of the file
    TestRequest tail = TestRequest::contiguous(Op::kWrite, capacity - kSectorBytes, kSectorBytes);
    tail.fill(random);
    ASSERT_EQ(run(tail), Outcome::kOk);
    apply_to_model(tail, &model);
    expect_all(model);
    TestRequest flush;
    flush.request.op = Op::kFlush;
    ASSERT_EQ(run(flush), Outcome::kOk);
    TestRequest zero;
    zero.request.op = Op::kWriteZeroes;
    zero.request.length = capacity;
    ASSERT_EQ(run(zero), Outcome::kOk);
    expect_all(std::vector<uint8_t>(capacity));
  }
}

INSTANTIATE_TEST_SUITE_P(All, DeviceConformance, testing::ValuesIn(kinds()),
                         [](const auto& info) { return info.param.name; });

}  // namespace
}  // namespace ep::block

// SPDX-License-Identifier: Apache-2.0
#include "reactor/reactor.h"

#include <gtest/gtest.h>
#include <sys/eventfd.h>
#include <time.h>
#include <unistd.h>

#include <chrono>
#include <future>
#include <random>

#include "io/uring_engine.h"
#include "reactor/timer_heap.h"

namespace ep::reactor {
namespace {

class ReactorTest : public testing::Test {
 protected:
  void SetUp() override {
    const Status started = reactor_.start([] { return io::make_uring_engine(); });
    if (started.code() == Code::kUnsupported) GTEST_SKIP() << started.to_string();
    ASSERT_TRUE(started.is_ok()) << started.to_string();
  }
  Reactor reactor_;
};

TEST_F(ReactorTest, CallRunsOnTheReactorAndWaits) {
  bool there = false;
  EXPECT_FALSE(reactor_.on_this_thread());
  reactor_.call([&] { there = reactor_.on_this_thread(); });
  EXPECT_TRUE(there);
}

TEST_F(ReactorTest, MessagesOfOneThreadRunInOrder) {
  std::vector<int> seen;
  for (int i = 0; i < 1000; ++i) reactor_.post([&seen, i] { seen.push_back(i); });
  reactor_.call([] {});
  ASSERT_EQ(seen.size(), 1000u);
  for (int i = 0; i < 1000; ++i) EXPECT_EQ(seen[static_cast<size_t>(i)], i);
}

TEST_F(ReactorTest, StopRunsWhatWasPostedBefore) {
  std::atomic<int> ran{0};
  for (int i = 0; i < 100; ++i) reactor_.post([&] { ++ran; });
  // Results of the helper thread, and what they post, belong to it.
  reactor_.call([&] {
    reactor_.offload([] { std::this_thread::sleep_for(std::chrono::milliseconds(20)); },
                     [&] { reactor_.post([&] { ++ran; }); });
  });
  reactor_.stop();
  EXPECT_EQ(ran.load(), 101);
  reactor_.post([&] { ++ran; });
  reactor_.stop();
  EXPECT_EQ(ran.load(), 101);
}

TEST_F(ReactorTest, StartsAgainAfterStop) {
  reactor_.stop();
  ASSERT_TRUE(reactor_.start([] { return io::make_uring_engine(); }).is_ok());
  bool ran = false;
  reactor_.call([&] { ran = true; });
  EXPECT_TRUE(ran);
}

TEST(Reactor, StartTellsWhyThereIsNoEngine) {
  Reactor reactor;
  const Status status = reactor.start([]() -> Result<std::unique_ptr<io::Engine>> {
    return Status(Code::kUnsupported, "no engine today");
  });
  EXPECT_EQ(status.message(), "no engine today");
}

TEST_F(ReactorTest, OffloadRunsElsewhereAndReportsBack) {
  std::promise<bool> promise;
  auto future = promise.get_future();
  auto elsewhere = std::make_shared<bool>(false);
  reactor_.post([&] {
    reactor_.offload(
        [&, elsewhere] { *elsewhere = !reactor_.on_this_thread(); },
        [&, elsewhere] { promise.set_value(*elsewhere && reactor_.on_this_thread()); });
  });
  EXPECT_TRUE(future.get());
}

TEST_F(ReactorTest, TimersFireInOrderOfTheirDeadlinesAndNotEarly) {
  std::vector<int> fired;
  Timer timers[4];
  Timer cancelled;
  std::promise<void> done;
  uint64_t start = 0;
  uint64_t last = 0;
  reactor_.call([&] {
    start = reactor_.now_ns();
    const int milliseconds[] = {9, 3, 6, 3};
    for (int i = 0; i < 4; ++i) {
      timers[i].on_fire = [&, i] {
        fired.push_back(i);
        last = reactor_.now_ns();
        if (fired.size() == 4) done.set_value();
      };
      reactor_.arm_timer(&timers[i], start + static_cast<uint64_t>(milliseconds[i]) * 1'000'000);
    }
    cancelled.on_fire = [&] { fired.push_back(99); };
    reactor_.arm_timer(&cancelled, start + 1'000'000);
    EXPECT_TRUE(cancelled.armed());
    reactor_.cancel_timer(&cancelled);
    EXPECT_FALSE(cancelled.armed());
  });
  done.get_future().wait();
  reactor_.call([] {});
  EXPECT_EQ(fired, (std::vector<int>{1, 3, 2, 0}));
  EXPECT_GE(last, start + 9'000'000);
}

TEST_F(ReactorTest, ATimerMayArmItselfAgain) {
  Timer timer;
  int count = 0;
  std::promise<void> done;
  timer.on_fire = [&] {
    if (++count == 5) return done.set_value();
    reactor_.arm_timer(&timer, reactor_.now_ns());
  };
  reactor_.call([&] { reactor_.arm_timer(&timer, 0); });
  done.get_future().wait();
  EXPECT_EQ(count, 5);
}

/// Work that another thread leaves, with a notification only while armed: a virtqueue in small.
class FakeQueue final : public Poller {
 public:
  explicit FakeQueue(io::Engine* engine) : engine_(engine) {
    watch_.fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    watch_.owner = this;
    watch_.on_ready = [](io::Watch* watch) {
      uint64_t count = 0;
      EXPECT_EQ(::read(watch->fd, &count, sizeof count), static_cast<ssize_t>(sizeof count));
      ++static_cast<FakeQueue*>(watch->owner)->kicks;
    };
    watch_.on_gone = [](io::Watch* watch) { static_cast<FakeQueue*>(watch->owner)->gone = true; };
    engine_->watch(&watch_);
  }
  ~FakeQueue() override { ::close(watch_.fd); }
  void leave() { engine_->unwatch(&watch_); }

  unsigned poll() override {
    const uint64_t available = produced.load(std::memory_order_acquire);
    const uint64_t fresh = available - consumed.load(std::memory_order_relaxed);
    consumed.store(available, std::memory_order_release);
    return static_cast<unsigned>(fresh);
  }
  bool arm() override {
    notify.store(true, std::memory_order_seq_cst);
    return produced.load(std::memory_order_seq_cst) != consumed.load(std::memory_order_relaxed);
  }
  void disarm() override { notify.store(false, std::memory_order_relaxed); }

  /// The producer's side.
  void produce() {
    produced.fetch_add(1, std::memory_order_seq_cst);
    if (notify.load(std::memory_order_seq_cst)) {
      const uint64_t one = 1;
      EXPECT_EQ(::write(watch_.fd, &one, sizeof one), static_cast<ssize_t>(sizeof one));
    }
  }

  std::atomic<uint64_t> produced{0};
  std::atomic<uint64_t> consumed{0};
  std::atomic<bool> notify{false};
  uint64_t kicks = 0;
  std::atomic<bool> gone{false};

 private:
  io::Engine* engine_;
  io::Watch watch_;
};

TEST_F(ReactorTest, PollersLoseNoWorkBetweenArmingAndSleeping) {
  std::unique_ptr<FakeQueue> queue;
  reactor_.call([&] {
    queue = std::make_unique<FakeQueue>(&reactor_.engine());
    reactor_.add_poller(queue.get());
  });
  std::mt19937 random(5);
  const auto deadline = std::chrono::steady_clock::now() + std::chrono::seconds(20);
  for (uint64_t i = 1; i <= 2000; ++i) {
    queue->produce();
    // Sometimes long enough for the reactor to fall asleep, sometimes just while it does.
    if (random() % 4 == 0) {
      const auto pause = std::chrono::microseconds(random() % 60);
      std::this_thread::sleep_for(pause);
    }
    if (i % 50 != 0) continue;
    while (queue->consumed.load() != i) {
      ASSERT_LT(std::chrono::steady_clock::now(), deadline) << "lost work " << i;
      std::this_thread::yield();
    }
  }
  reactor_.call([&] {
    reactor_.remove_poller(queue.get());
    queue->leave();
  });
  while (!queue->gone.load()) reactor_.call([] {});
  reactor_.call([&] { queue.reset(); });
}

uint64_t thread_cpu_ns() {
  timespec now{};
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now);
  return static_cast<uint64_t>(now.tv_sec) * 1'000'000'000 + static_cast<uint64_t>(now.tv_nsec);
}

TEST_F(ReactorTest, IdleCostsNoCpu) {
  uint64_t before = 0;
  uint64_t after = 0;
  reactor_.call([&] { before = thread_cpu_ns(); });
  std::this_thread::sleep_for(std::chrono::milliseconds(300));
  reactor_.call([&] { after = thread_cpu_ns(); });
  // One spin of 20 µs on each side of the sleep and the system calls, far below 1 % of the time.
  EXPECT_LT(after - before, 3'000'000u);
}

// For ThreadSanitizer: several threads post and call while the reactor stops and starts.
TEST_F(ReactorTest, PostingCallingAndStoppingFromManyThreads) {
  for (int round = 0; round < 10; ++round) {
    std::atomic<bool> ending{false};
    std::atomic<uint64_t> posted{0};
    uint64_t ran = 0;  // the reactor's own
    std::vector<std::thread> threads;
    for (int t = 0; t < 3; ++t) {
      threads.emplace_back([&, t] {
        while (!ending.load()) {
          ++posted;
          reactor_.post([&] { ++ran; });
          if (t == 0) reactor_.call([&] { ++ran, ++posted; });
        }
      });
    }
    std::this_thread::sleep_for(std::chrono::milliseconds(20));
    ending = true;
    for (std::thread& thread : threads) thread.join();
    reactor_.stop();
    EXPECT_EQ(ran, posted.load());
    ASSERT_TRUE(reactor_.start([] { return io::make_uring_engine(); }).is_ok());
  }
}

TEST(Reactor, AdoptedItRunsOnTheCallersThread) {
  auto engine = io::make_uring_engine();
  if (!engine) GTEST_SKIP() << engine.status().to_string();
  Reactor reactor;
  reactor.adopt(engine->get());
  EXPECT_TRUE(reactor.on_this_thread());
  std::vector<int> seen;
  reactor.post([&] { seen.push_back(1); });
  reactor.offload([&] { seen.push_back(2); }, [&] { seen.push_back(3); });
  Timer timer;
  timer.on_fire = [&] { seen.push_back(4); };
  reactor.arm_timer(&timer, reactor.now_ns() + 2'000'000);
  while (timer.armed()) reactor.run_once(1'000'000'000);
  EXPECT_EQ(seen, (std::vector<int>{1, 2, 3, 4}));
}

TEST(TimerHeap, RandomArmingAndCancellingKeepsTheOrder) {
  std::mt19937_64 random(17);
  TimerHeap heap;
  std::vector<Timer> timers(200);
  std::vector<uint64_t> deadlines(timers.size());
  std::vector<size_t> fired;
  for (size_t i = 0; i < timers.size(); ++i) timers[i].on_fire = [&, i] { fired.push_back(i); };
  for (int step = 0; step < 5000; ++step) {
    const size_t i = random() % timers.size();
    if (random() % 3 == 0) {
      heap.cancel(&timers[i]);
      deadlines[i] = 0;
    } else {
      deadlines[i] = 1 + random() % 1000;
      heap.arm(&timers[i], deadlines[i]);
    }
  }
  for (uint64_t now = 0; now <= 1000; now += 100) {
    fired.clear();
    heap.fire(now);
    for (size_t k = 1; k < fired.size(); ++k) {
      EXPECT_LE(deadlines[fired[k - 1]], deadlines[fired[k]]);
    }
    for (const size_t i : fired) {
      EXPECT_GT(deadlines[i], 0u);
      EXPECT_LE(deadlines[i], now);
      deadlines[i] = 0;
    }
    for (const uint64_t deadline : deadlines) EXPECT_TRUE(deadline == 0 || deadline > now);
  }
  EXPECT_TRUE(heap.empty());
}

}  // namespace
}  // namespace ep::reactor

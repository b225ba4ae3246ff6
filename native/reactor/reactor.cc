// SPDX-License-Identifier: Apache-2.0
#include "reactor/reactor.h"

#include <sys/eventfd.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <condition_variable>
#include <future>

#include "reactor/helper_thread.h"
#include "reactor/timer_heap.h"

namespace ep::reactor {

namespace {

constexpr uint64_t kSleepMaxNs = 60ull * 1'000'000'000;

void relax_cpu() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

/// Messages from other threads. The mutex is held for a push or a swap only, never while a task
/// runs. `asleep` is set and looked at under it, so that a post either is seen before the reactor
/// sleeps or sees that it has to wake it.
struct Mailbox {
  std::mutex mutex;
  std::vector<std::function<void()>> tasks;  // guarded by mutex
  bool asleep = false;                       // guarded by mutex
  bool closed = true;                        // guarded by mutex
  /// A hint that spares the lock in most passes.
  std::atomic<bool> has_tasks{false};
  int wake_fd = -1;

  /// False when the reactor has ended.
  bool push(std::function<void()> task) {
    bool wake = false;
    {
      const std::lock_guard guard(mutex);
      if (closed) return false;
      tasks.push_back(std::move(task));
      has_tasks.store(true, std::memory_order_release);
      wake = asleep;
      asleep = false;
      // Inside the lock: the descriptor cannot be closed before this write.
      if (wake && wake_fd >= 0) {
        const uint64_t one = 1;
        const ssize_t put = ::write(wake_fd, &one, sizeof one);
        EP_ASSERT(put == sizeof one || errno == EAGAIN);
      }
    }
    return true;
  }

  /// True when there is something to do instead of sleeping.
  bool arm() {
    const std::lock_guard guard(mutex);
    asleep = tasks.empty();
    return !asleep;
  }

  void disarm() {
    const std::lock_guard guard(mutex);
    asleep = false;
  }

  unsigned run(std::vector<std::function<void()>>* scratch) {
    if (!has_tasks.load(std::memory_order_acquire)) return 0;
    {
      const std::lock_guard guard(mutex);
      scratch->swap(tasks);
      has_tasks.store(false, std::memory_order_relaxed);
    }
    for (auto& task : *scratch) {
      task();
      task = nullptr;  // what it captured may go now, not with the last of the batch
    }
    const auto count = static_cast<unsigned>(scratch->size());
    scratch->clear();
    return count;
  }
};

}  // namespace

struct Reactor::Impl {
  explicit Impl(ReactorOptions the_options)
      : options(std::move(the_options)), helper(options.name.substr(0, 8) + "-helper") {}

  const ReactorOptions options;
  Mailbox mailbox;
  std::thread thread;
  std::atomic<std::thread::id> owner{};
  Status start_status;
  std::promise<void> started;

  // The rest belongs to the reactor's thread.
  bool adopted = false;
  Offload offload;  // of who adopted it
  bool stopping = false;
  std::vector<std::function<void()>> running_tasks;
  std::vector<Poller*> pollers;  // nullptr: removed, swept after the pass
  bool sweep_pollers = false;
  TimerHeap timers;
  HelperThread helper;
  std::unique_ptr<io::Engine> engine;
  io::Watch wake_watch;
  bool wake_watch_gone = false;

  unsigned poll_all() {
    unsigned work = 0;
    // By index: a poller may add or remove pollers.
    for (size_t i = 0; i < pollers.size(); ++i) {
      if (pollers[i] != nullptr) work += pollers[i]->poll();
    }
    if (sweep_pollers) {
      std::erase(pollers, nullptr);
      sweep_pollers = false;
    }
    return work;
  }

  /// False when somebody found work while arming; those armed are disarmed again.
  bool arm_all() {
    size_t armed = 0;
    bool found = false;
    while (armed < pollers.size() && !found) {
      Poller* poller = pollers[armed++];
      if (poller != nullptr) found = poller->arm();
    }
    if (!found) found = mailbox.arm();
    if (!found) return true;
    disarm_first(armed);
    return false;
  }

  void disarm_first(size_t count) {
    for (size_t i = 0; i < count; ++i) {
      if (pollers[i] != nullptr) pollers[i]->disarm();
    }
  }
};

Reactor::Reactor(ReactorOptions options) : impl_(std::make_unique<Impl>(std::move(options))) {}

Reactor::~Reactor() {
  stop();
  if (impl_->adopted) {
    // Nothing asynchronous was started; what was posted and not run is dropped.
    const std::lock_guard guard(impl_->mailbox.mutex);
    impl_->mailbox.closed = true;
  }
}

Status Reactor::start(const EngineFactory& make_engine) {
  EP_ASSERT(!impl_->thread.joinable() && !impl_->adopted);
  const int fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
  if (fd < 0) return Status::from_errno(errno, "eventfd");
  impl_->mailbox.wake_fd = fd;
  impl_->started = {};
  impl_->start_status = Status::ok();
  auto started = impl_->started.get_future();
  impl_->thread =
      start_quiet_thread(impl_->options.name, [this, make_engine] { run_thread(make_engine); });
  started.wait();
  if (!impl_->start_status) {
    impl_->thread.join();
    ::close(fd);
    impl_->mailbox.wake_fd = -1;
  }
  return impl_->start_status;
}

void Reactor::run_thread(const EngineFactory& make_engine) {
  Impl& impl = *impl_;
  auto made = make_engine();
  if (!made) {
    impl.start_status = made.status();
    impl.started.set_value();
    return;
  }
  impl.engine = std::move(*made);
  engine_ = impl.engine.get();
  impl.stopping = false;
  impl.owner.store(std::this_thread::get_id());
  impl.wake_watch = {};
  impl.wake_watch.fd = impl.mailbox.wake_fd;
  impl.wake_watch.owner = &impl;
  impl.wake_watch.on_ready = [](io::Watch* watch) {
    uint64_t count = 0;
    const ssize_t got = ::read(watch->fd, &count, sizeof count);
    EP_ASSERT(got == sizeof count || errno == EAGAIN);
  };
  impl.wake_watch_gone = false;
  impl.wake_watch.on_gone = [](io::Watch* watch) {
    static_cast<Impl*>(watch->owner)->wake_watch_gone = true;
  };
  engine_->watch(&impl.wake_watch);
  {
    const std::lock_guard guard(impl.mailbox.mutex);
    impl.mailbox.closed = false;
  }
  impl.started.set_value();

  uint64_t last_work_ns = now_ns();
  while (!impl.stopping) {
    if (run_once(0) > 0) {
      last_work_ns = now_ns();
    } else if (now_ns() - last_work_ns >= impl.options.spin_ns) {
      sleep(kSleepMaxNs);
      last_work_ns = now_ns();
    } else {
      relax_cpu();
    }
  }

  // Closing: the helper's results are messages, messages may start Ops, Ops may post messages.
  for (;;) {
    impl.helper.join();
    if (run_once(0) > 0) continue;
    if (engine_->in_flight() > 0) {
      engine_->reap(10'000'000);
      continue;
    }
    const std::lock_guard guard(impl.mailbox.mutex);
    if (!impl.mailbox.tasks.empty()) continue;
    impl.mailbox.closed = true;
    break;
  }
  EP_ASSERT(impl.timers.empty());
  EP_ASSERT(std::all_of(impl.pollers.begin(), impl.pollers.end(),
                        [](const Poller* poller) { return poller == nullptr; }));
  engine_->unwatch(&impl.wake_watch);
  while (!impl.wake_watch_gone) engine_->reap(10'000'000);
  impl.owner.store({});
  impl.engine.reset();
}

/// Arms every source of work, looks once more, and waits in the engine. The order matters: a source
/// that gets work after arm() looked notifies a descriptor that the engine watches.
unsigned Reactor::sleep(uint64_t wait_ns) {
  Impl& impl = *impl_;
  if (!impl.arm_all()) return 0;
  if (!impl.timers.empty()) {
    const uint64_t now = now_ns();
    const uint64_t deadline = impl.timers.next_deadline_ns();
    wait_ns = deadline > now ? std::min(wait_ns, deadline - now) : 0;
  }
  const size_t armed = impl.pollers.size();
  const unsigned work = engine_->reap(wait_ns);
  impl.mailbox.disarm();
  impl.disarm_first(std::min(armed, impl.pollers.size()));
  return work;
}

void Reactor::stop() {
  if (!impl_->thread.joinable()) return;
  EP_ASSERT(!on_this_thread());
  post([this] { impl_->stopping = true; });
  impl_->thread.join();
  engine_ = nullptr;
  ::close(impl_->mailbox.wake_fd);
  impl_->mailbox.wake_fd = -1;
}

void Reactor::adopt(io::Engine* engine, Offload offload) {
  EP_ASSERT(!impl_->thread.joinable());
  engine_ = engine;
  impl_->adopted = true;
  impl_->offload = std::move(offload);
  impl_->owner.store(std::this_thread::get_id());
  const std::lock_guard guard(impl_->mailbox.mutex);
  impl_->mailbox.closed = false;
}

unsigned Reactor::run_once(uint64_t wait_ns) {
  Impl& impl = *impl_;
  unsigned work = impl.mailbox.run(&impl.running_tasks);
  work += impl.poll_all();
  if (!impl.timers.empty()) work += impl.timers.fire(now_ns());
  work += engine_->reap(0);
  if (work > 0 || wait_ns == 0) return work;

  return sleep(wait_ns);
}

void Reactor::post(std::function<void()> task) { (void)impl_->mailbox.push(std::move(task)); }

void Reactor::call(const std::function<void()>& task) {
  EP_ASSERT(!on_this_thread());
  std::mutex mutex;
  std::condition_variable ran;
  bool done = false;
  const bool posted = impl_->mailbox.push([&] {
    task();
    // Notified inside the lock: the waiter's frame, with all of this, ends as soon as it sees
    // `done`.
    const std::lock_guard guard(mutex);
    done = true;
    ran.notify_one();
  });
  EP_ASSERT(posted);
  std::unique_lock lock(mutex);
  ran.wait(lock, [&] { return done; });
}

bool Reactor::on_this_thread() const {
  return impl_->owner.load(std::memory_order_relaxed) == std::this_thread::get_id();
}

void Reactor::add_poller(Poller* poller) {
  EP_ASSERT(std::find(impl_->pollers.begin(), impl_->pollers.end(), poller) ==
            impl_->pollers.end());
  impl_->pollers.push_back(poller);
}

void Reactor::remove_poller(Poller* poller) {
  const auto found = std::find(impl_->pollers.begin(), impl_->pollers.end(), poller);
  EP_ASSERT(found != impl_->pollers.end());
  *found = nullptr;
  impl_->sweep_pollers = true;
}

void Reactor::arm_timer(Timer* timer, uint64_t deadline_ns) {
  impl_->timers.arm(timer, deadline_ns);
}

void Reactor::cancel_timer(Timer* timer) { impl_->timers.cancel(timer); }

void Reactor::offload(std::function<void()> work, std::function<void()> done) {
  if (impl_->offload) {
    impl_->offload(std::move(work), std::move(done));
    return;
  }
  if (impl_->adopted) {
    post([work = std::move(work), done = std::move(done)] {
      work();
      done();
    });
    return;
  }
  impl_->helper.push([this, work = std::move(work), done = std::move(done)]() mutable {
    work();
    work = nullptr;
    post(std::move(done));
  });
}

}  // namespace ep::reactor

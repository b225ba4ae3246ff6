// SPDX-License-Identifier: Apache-2.0
#pragma once

// A reactor is one thread that owns groups wholly: their exports' rings, log and files. Nothing it
// owns is ever touched by another thread; others post closures to its mailbox. It polls while there
// is work, then asks every poller to arm its notification, looks once more, and sleeps in the
// engine until a kick, a completion, a timer or a message.

#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <thread>
#include <vector>

#include "io/io.h"

namespace ep::reactor {

/// A source of work that is asked again and again (a virtqueue).
class Poller {
 public:
  virtual ~Poller() = default;
  /// Does a bounded amount of work; returns how many units.
  virtual unsigned poll() = 0;
  /// Asks the other side for notifications before the reactor sleeps. Returns true when work came
  /// in meanwhile, in which case the reactor does not sleep. Must fence between arming and looking.
  virtual bool arm() { return false; }
  /// Takes notifications back after sleep.
  virtual void disarm() {}
};

/// A one-shot timer. Embedded in its owner; must be cancelled before it is freed, and must outlive
/// its own on_fire (which may arm it again).
class Timer {
 public:
  std::function<void()> on_fire;
  [[nodiscard]] bool armed() const { return deadline_ns_ != 0; }

 private:
  friend class Reactor;
  friend class TimerHeap;
  uint64_t deadline_ns_ = 0;
  /// Order of arming, so that equal deadlines fire in it.
  uint64_t sequence_ = 0;
  size_t slot_ = 0;
};

struct ReactorOptions {
  /// How long to keep polling without any work before sleeping.
  uint64_t spin_ns = 20'000;
  std::string name = "reactor";
};

class Reactor {
 public:
  /// The engine must be made by `make_engine` on the reactor's own thread (SINGLE_ISSUER).
  using EngineFactory = std::function<Result<std::unique_ptr<io::Engine>>()>;

  explicit Reactor(ReactorOptions options = {});
  ~Reactor();
  Reactor(const Reactor&) = delete;
  Reactor& operator=(const Reactor&) = delete;

  /// Starts the thread and waits until its engine stands.
  Status start(const EngineFactory& make_engine);
  /// Runs what is in the mailbox and what offload() still has, waits for Ops in flight, then ends
  /// and joins the thread. Owners must have removed their pollers, timers and watches. What is
  /// posted after it is dropped. Not from the reactor's own thread; a second call does nothing.
  void stop();

  /// What takes the helper thread's place in a simulation: runs `work`, then posts `done`.
  using Offload = std::function<void(std::function<void()> work, std::function<void()> done)>;
  /// For simulations and tests: uses the caller's thread and engine; call run_once in a loop. There
  /// is no helper thread (offload runs its work in the next pass, unless `offload` takes it) and no
  /// wake-up: a message from another thread is seen when run_once looks.
  void adopt(io::Engine* engine, Offload offload = nullptr);
  /// One pass: mailbox, pollers, timers, completions; waits at most `wait_ns` when idle.
  /// Returns units of work done.
  unsigned run_once(uint64_t wait_ns);

  /// Any thread: `task` runs on the reactor, in order of posting. Never blocks on the reactor.
  void post(std::function<void()> task);
  /// Any thread but the reactor's: posts and waits until it has run.
  void call(const std::function<void()>& task);
  [[nodiscard]] bool on_this_thread() const;

  // The rest only on the reactor's thread.
  io::Engine& engine() { return *engine_; }
  [[nodiscard]] uint64_t now_ns() const { return engine_->monotonic_ns(); }
  void add_poller(Poller* poller);
  void remove_poller(Poller* poller);
  /// (Re)arms a timer to fire once at monotonic time `deadline_ns`.
  void arm_timer(Timer* timer, uint64_t deadline_ns);
  void cancel_timer(Timer* timer);
  /// Blocking work on the reactor's one helper thread, in order; `done` back here.
  void offload(std::function<void()> work, std::function<void()> done);

 private:
  struct Impl;
  void run_thread(const EngineFactory& make_engine);
  unsigned sleep(uint64_t wait_ns);

  std::unique_ptr<Impl> impl_;
  io::Engine* engine_ = nullptr;
};

}  // namespace ep::reactor

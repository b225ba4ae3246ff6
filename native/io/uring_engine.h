// SPDX-License-Identifier: Apache-2.0
#pragma once

// The real Engine: one io_uring, made and used on one thread. uring_engine.cc is the only file that
// knows liburing.

#include <memory>
#include <string>
#include <vector>

#include "io/io.h"

namespace ep::io {

struct UringEngineOptions {
  /// Submission queue entries; more Ops than this wait inside the engine, in order.
  unsigned entries = 256;
  /// Completion queue entries, and so the bound of requests inside the kernel.
  unsigned completions = 4096;
};

class UringEngine final : public Engine {
 public:
  /// Must run on the thread that will use the engine. kUnsupported, with what to do about it, where
  /// the kernel or a container's seccomp profile has no io_uring for us.
  static Result<std::unique_ptr<UringEngine>> create(const UringEngineOptions& options = {});
  /// Nothing may be in flight; armed watches end silently with the ring.
  ~UringEngine() override;
  UringEngine(const UringEngine&) = delete;
  UringEngine& operator=(const UringEngine&) = delete;

  void submit(Op* op) override;
  void watch(Watch* watch) override;
  void unwatch(Watch* watch) override;
  unsigned reap(uint64_t wait_ns) override;
  [[nodiscard]] unsigned in_flight() const override { return in_flight_; }
  [[nodiscard]] uint64_t monotonic_ns() const override;
  [[nodiscard]] uint64_t wall_ns() const override;

  /// Which set-up flags the kernel granted, for people ("single-issuer defer-taskrun …").
  [[nodiscard]] std::string describe() const;

 private:
  struct Ring;
  /// A poll to add or to remove. A removal uses the pointer as a number only.
  struct WatchStep {
    Watch* watch;
    bool remove;
  };

  UringEngine();
  void fill();
  void submit_backlog();
  void wait(uint64_t wait_ns);
  unsigned dispatch();
  unsigned dispatch_gone();
  unsigned run_immediate();
  void on_poll_done(Watch* watch, int32_t result);

  std::unique_ptr<Ring> ring_;
  /// Ops that are not in the submission queue yet, linked by Op::next.
  Op* backlog_head_ = nullptr;
  Op* backlog_tail_ = nullptr;
  /// Ops marked immediate, done by the next reap.
  Op* immediate_head_ = nullptr;
  Op* immediate_tail_ = nullptr;
  std::vector<WatchStep> watch_steps_;
  size_t watch_steps_done_ = 0;
  /// Unwatched while no poll was out; on_gone comes with the next reap.
  std::vector<Watch*> gone_;
  unsigned in_flight_ = 0;
  /// Entries whose completion has not been seen. Kept at or below the completion queue's size, so
  /// that it never overflows.
  unsigned in_kernel_ = 0;
  unsigned in_kernel_max_ = 0;
};

/// The usual argument of Reactor::start.
Result<std::unique_ptr<Engine>> make_uring_engine(const UringEngineOptions& options = {});

}  // namespace ep::io

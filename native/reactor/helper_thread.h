// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <condition_variable>
#include <deque>
#include <functional>
#include <mutex>
#include <string>
#include <thread>

namespace ep::reactor {

/// A thread that runs blocking work in order; started with the first piece of it.
class HelperThread {
 public:
  explicit HelperThread(std::string name) : name_(std::move(name)) {}
  ~HelperThread() { join(); }
  HelperThread(const HelperThread&) = delete;
  HelperThread& operator=(const HelperThread&) = delete;

  /// One thread, the same as for join().
  void push(std::function<void()> work);
  /// Runs what was pushed, then ends the thread. A later push starts a new one.
  void join();

 private:
  void run();

  const std::string name_;
  std::mutex mutex_;
  std::condition_variable wake_;
  std::deque<std::function<void()>> queue_;  // guarded by mutex_
  bool ending_ = false;                      // guarded by mutex_
  std::thread thread_;
};

/// A thread without signals, which belong to the host program's own threads. `name` is cut to what
/// the kernel shows (15 bytes).
std::thread start_quiet_thread(const std::string& name, std::function<void()> body);

}  // namespace ep::reactor

// SPDX-License-Identifier: Apache-2.0
#include "reactor/helper_thread.h"

#include <pthread.h>
#include <signal.h>

namespace ep::reactor {

std::thread start_quiet_thread(const std::string& name, std::function<void()> body) {
  // A thread inherits the mask of its maker. Faults (SIGSEGV and its like) are delivered
  // regardless.
  sigset_t all;
  sigset_t before;
  sigfillset(&all);
  pthread_sigmask(SIG_SETMASK, &all, &before);
  std::thread thread([name = name.substr(0, 15), body = std::move(body)] {
    pthread_setname_np(pthread_self(), name.c_str());
    body();
  });
  pthread_sigmask(SIG_SETMASK, &before, nullptr);
  return thread;
}

void HelperThread::push(std::function<void()> work) {
  {
    const std::lock_guard guard(mutex_);
    queue_.push_back(std::move(work));
  }
  if (!thread_.joinable()) {
    thread_ = start_quiet_thread(name_, [this] { run(); });
  }
  wake_.notify_one();
}

void HelperThread::run() {
  std::unique_lock lock(mutex_);
  for (;;) {
    wake_.wait(lock, [this] { return ending_ || !queue_.empty(); });
    if (queue_.empty()) return;
    std::function<void()> work = std::move(queue_.front());
    queue_.pop_front();
    lock.unlock();
    work();
    work = nullptr;
    lock.lock();
  }
}

void HelperThread::join() {
  if (!thread_.joinable()) return;
  {
    const std::lock_guard guard(mutex_);
    ending_ = true;
  }
  wake_.notify_one();
  thread_.join();
  ending_ = false;
}

}  // namespace ep::reactor

// SPDX-License-Identifier: Apache-2.0
#include "export/event_thread.h"

#include <dirent.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <chrono>
#include <cstdlib>
#include <fstream>
#include <memory>
#include <string>
#include <thread>

#include "base/assert.h"

namespace ep::exports {

namespace {

constexpr int kWakeSignal = SIGURG;

/// The kernel's number of the thread that rte_vhost names so, or -1.
pid_t find_event_thread() {
  const std::unique_ptr<DIR, int (*)(DIR*)> folder(opendir("/proc/self/task"), closedir);
  if (folder == nullptr) return -1;
  while (const dirent* entry = readdir(folder.get())) {
    std::string name;
    std::ifstream comm(std::string("/proc/self/task/") + entry->d_name + "/comm");
    if (std::getline(comm, name) && name == "vhost-events") return std::atoi(entry->d_name);
  }
  return -1;
}

/// A handler that does nothing, unless somebody else has use for the signal.
void take_signal() {
  struct sigaction now {};
  if (sigaction(kWakeSignal, nullptr, &now) != 0 || (now.sa_flags & SA_SIGINFO) != 0 ||
      now.sa_handler != SIG_DFL) {
    return;
  }
  struct sigaction nothing {};
  nothing.sa_handler = [](int) {};
  sigaction(kWakeSignal, &nothing, nullptr);
}

}  // namespace

EventThreadSignals::EventThreadSignals() {
  sigset_t needed;
  sigemptyset(&needed);
  sigaddset(&needed, SIGBUS);
  sigaddset(&needed, kWakeSignal);
  EP_ASSERT(pthread_sigmask(SIG_UNBLOCK, &needed, &before_) == 0);
}

EventThreadSignals::~EventThreadSignals() { pthread_sigmask(SIG_SETMASK, &before_, nullptr); }

void wake_event_thread() {
  const pid_t thread = find_event_thread();
  if (thread < 0) return;
  take_signal();
  // A signal that comes between the making of the list and the poll is lost; three are not.
  for (const int wait_ms : {0, 1, 4}) {
    std::this_thread::sleep_for(std::chrono::milliseconds(wait_ms));
    syscall(SYS_tgkill, getpid(), thread, kWakeSignal);
  }
}

}  // namespace ep::exports

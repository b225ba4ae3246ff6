// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <signal.h>

namespace ep::exports {

/// While it lives, threads that are started here receive the signals that rte_vhost's event thread
/// needs: SIGBUS for its own faults in guest memory, and the one of wake_event_thread().
class EventThreadSignals {
 public:
  EventThreadSignals();
  ~EventThreadSignals();
  EventThreadSignals(const EventThreadSignals&) = delete;
  EventThreadSignals& operator=(const EventThreadSignals&) = delete;

 private:
  sigset_t before_;
};

/// The event thread sleeps in poll(2) on a list of descriptors that it makes anew once a second, so
/// a new socket would wait that long for its first connection, and a guest for its disk after a
/// restart of ours. An interrupted poll makes the list at once. SIGURG does it: its default is to
/// be ignored, so nothing can go wrong but that nothing happens. Blocks for some milliseconds.
void wake_event_thread();

}  // namespace ep::exports

// SPDX-License-Identifier: Apache-2.0
#pragma once

// Armed timers as a binary min-heap of pointers; each timer knows its slot, so cancelling needs no
// search. One thread.

#include <vector>

#include "reactor/reactor.h"

namespace ep::reactor {

class TimerHeap {
 public:
  /// Inserts, or moves a timer that is armed already.
  void arm(Timer* timer, uint64_t deadline_ns);
  void cancel(Timer* timer);
  [[nodiscard]] bool empty() const { return heap_.empty(); }
  /// Of the first to fire; not when empty.
  [[nodiscard]] uint64_t next_deadline_ns() const { return heap_.front()->deadline_ns_; }
  /// Fires what is due, but for timers armed meanwhile, which wait for the next call.
  unsigned fire(uint64_t now_ns);

 private:
  static bool before(const Timer* a, const Timer* b);
  void put(size_t slot, Timer* timer);
  void sift_up(size_t slot);
  void sift_down(size_t slot);

  std::vector<Timer*> heap_;
  uint64_t sequence_ = 0;
};

}  // namespace ep::reactor

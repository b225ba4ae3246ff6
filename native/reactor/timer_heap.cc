// SPDX-License-Identifier: Apache-2.0
#include "reactor/timer_heap.h"

#include <algorithm>

namespace ep::reactor {

bool TimerHeap::before(const Timer* a, const Timer* b) {
  if (a->deadline_ns_ != b->deadline_ns_) return a->deadline_ns_ < b->deadline_ns_;
  return a->sequence_ < b->sequence_;
}

void TimerHeap::put(size_t slot, Timer* timer) {
  heap_[slot] = timer;
  timer->slot_ = slot;
}

void TimerHeap::sift_up(size_t slot) {
  Timer* timer = heap_[slot];
  while (slot > 0) {
    const size_t parent = (slot - 1) / 2;
    if (!before(timer, heap_[parent])) break;
    put(slot, heap_[parent]);
    slot = parent;
  }
  put(slot, timer);
}

void TimerHeap::sift_down(size_t slot) {
  Timer* timer = heap_[slot];
  for (;;) {
    size_t child = 2 * slot + 1;
    if (child >= heap_.size()) break;
    if (child + 1 < heap_.size() && before(heap_[child + 1], heap_[child])) ++child;
    if (!before(heap_[child], timer)) break;
    put(slot, heap_[child]);
    slot = child;
  }
  put(slot, timer);
}

void TimerHeap::arm(Timer* timer, uint64_t deadline_ns) {
  cancel(timer);
  timer->deadline_ns_ = std::max<uint64_t>(deadline_ns, 1);  // 0 means not armed
  timer->sequence_ = ++sequence_;
  heap_.push_back(timer);
  sift_up(heap_.size() - 1);
}

void TimerHeap::cancel(Timer* timer) {
  if (!timer->armed()) return;
  const size_t slot = timer->slot_;
  EP_ASSERT(slot < heap_.size() && heap_[slot] == timer);
  timer->deadline_ns_ = 0;
  Timer* last = heap_.back();
  heap_.pop_back();
  if (last == timer) return;
  put(slot, last);
  sift_up(slot);
  sift_down(last->slot_);
}

unsigned TimerHeap::fire(uint64_t now_ns) {
  const uint64_t newest = sequence_;
  unsigned fired = 0;
  while (!heap_.empty() && heap_.front()->deadline_ns_ <= now_ns &&
         heap_.front()->sequence_ <= newest) {
    Timer* timer = heap_.front();
    cancel(timer);
    ++fired;
    timer->on_fire();
  }
  return fired;
}

}  // namespace ep::reactor

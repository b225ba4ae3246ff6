// SPDX-License-Identifier: Apache-2.0
#include "front-end/split_ring.h"

#include <atomic>
#include <cstring>

namespace ep::front_end {

namespace {

/// Shared memory is read and written through these, so that neither compiler nor CPU reorders
/// what the protocol orders.
uint16_t load_acquire(const uint16_t* at) { return __atomic_load_n(at, __ATOMIC_ACQUIRE); }
uint16_t load_relaxed(const uint16_t* at) { return __atomic_load_n(at, __ATOMIC_RELAXED); }
void store_release(uint16_t* at, uint16_t v) { __atomic_store_n(at, v, __ATOMIC_RELEASE); }
void store_relaxed(uint16_t* at, uint16_t v) { __atomic_store_n(at, v, __ATOMIC_RELAXED); }
/// Store of one side, then load of what the other side stores: needs a full barrier. An atomic
/// exchange would do as well; TSan does not know fences, which is fine between processes.
void full_barrier() { __sync_synchronize(); }

}  // namespace

Status SplitRing::create(GuestMemory* memory, uint16_t size, bool event_idx) {
  if (size == 0 || size > 32768 || (size & (size - 1)) != 0) {
    return Status::error("ring size must be a power of two");
  }
  memory_ = memory;
  size_ = size;
  event_idx_ = event_idx;
  // Each part on its own page: no false sharing, and the alignment that legacy layouts want.
  desc_guest_ = memory->allocate(sizeof(Descriptor) * size, 4096);
  avail_guest_ = memory->allocate(sizeof(uint16_t) * (3ull + size), 4096);
  used_guest_ = memory->allocate(sizeof(uint16_t) * 3 + sizeof(UsedElement) * size, 4096);
  if (desc_guest_ == 0 || avail_guest_ == 0 || used_guest_ == 0) {
    return Status::error("guest memory is too small for the rings");
  }
  if (used_guest_ + 8ull * size + 6 > memory->regions()[0].guest_addr + memory->regions()[0].size) {
    return Status::error("rings must lie in the first memory region");
  }
  desc_ = reinterpret_cast<Descriptor*>(memory->host(desc_guest_));
  avail_ = reinterpret_cast<uint16_t*>(memory->host(avail_guest_));
  used_ = reinterpret_cast<uint16_t*>(memory->host(used_guest_));
  free_.resize(size);
  for (uint16_t i = 0; i < size; i++) free_[i] = static_cast<uint16_t>(size - 1 - i);
  free_count_ = size;
  chain_.assign(size, 0);
  next_.assign(size, kNone);
  return {};
}

uint16_t SplitRing::add(std::span<const Segment> segments, uint64_t indirect_guest) {
  const size_t count = segments.size();
  const size_t wanted = indirect_guest != 0 ? 1 : count;
  if (count == 0 || wanted > free_count_) return kNone;
  Descriptor* table = desc_;
  const uint16_t head = free_[free_count_ - 1];
  if (indirect_guest != 0) {
    table = reinterpret_cast<Descriptor*>(memory_->host(indirect_guest));
    desc_[head] = {indirect_guest, static_cast<uint32_t>(count * sizeof(Descriptor)), kDescIndirect,
                   0};
    next_[head] = kNone;
    free_count_--;
  }
  for (size_t i = 0; i < count; i++) {
    const bool last = i + 1 == count;
    uint16_t at = static_cast<uint16_t>(i);
    uint16_t next = static_cast<uint16_t>(i + 1);
    if (indirect_guest == 0) {
      at = free_[--free_count_];
      next = last ? kNone : free_[free_count_ - 1];
      next_[at] = next;
    }
    const uint16_t flags = static_cast<uint16_t>((last ? 0 : kDescNext) |
                                                 (segments[i].device_writes ? kDescWrite : 0));
    table[at] = {segments[i].guest, segments[i].length, flags,
                 static_cast<uint16_t>(last ? 0 : next)};
  }
  chain_[head] = static_cast<uint16_t>(1 + wanted);
  in_flight_++;
  store_relaxed(&avail_ring()[avail_idx_ & (size_ - 1)], head);
  avail_idx_++;
  return head;
}

bool SplitRing::publish() {
  const uint16_t old = published_;
  if (avail_idx_ == old) return false;
  published_ = avail_idx_;
  store_release(&avail_[1], avail_idx_);
  full_barrier();
  if (event_idx_) {
    const uint16_t event = load_relaxed(avail_event());
    return static_cast<uint16_t>(avail_idx_ - event - 1) < static_cast<uint16_t>(avail_idx_ - old);
  }
  return (load_relaxed(&used_[0]) & kUsedNoNotify) == 0;
}

bool SplitRing::poll(UsedElement* element, bool* violation) {
  if (load_acquire(&used_[1]) == last_used_) return false;
  *element = used_ring()[last_used_ & (size_ - 1)];
  last_used_++;
  // In polling mode the event index is kept half a lap away, where the device cannot reach it.
  if (event_idx_ && polling_ && (last_used_ & 1023) == 0) {
    store_relaxed(used_event(), static_cast<uint16_t>(last_used_ + 0x8000));
  }
  if (element->id >= size_ || chain_[element->id] == 0) {
    *violation = true;
    return true;
  }
  *violation = false;
  uint16_t at = static_cast<uint16_t>(element->id);
  for (uint16_t left = static_cast<uint16_t>(chain_[at] - 1); left > 0; left--) {
    free_[free_count_++] = at;
    at = next_[at];
  }
  chain_[element->id] = 0;
  in_flight_--;
  return true;
}

bool SplitRing::arm_interrupt() {
  polling_ = false;
  if (event_idx_) {
    store_relaxed(used_event(), last_used_);
  } else {
    store_relaxed(&avail_[0], 0);
  }
  full_barrier();
  return load_acquire(&used_[1]) != last_used_;
}

void SplitRing::disarm_interrupt() {
  if (polling_) return;
  polling_ = true;
  if (event_idx_) {
    store_relaxed(used_event(), static_cast<uint16_t>(last_used_ + 0x8000));
  } else {
    store_relaxed(&avail_[0], kAvailNoInterrupt);
  }
}

uint16_t SplitRing::device_used_idx() const { return load_acquire(&used_[1]); }

void SplitRing::raw_push(uint16_t head) {
  store_relaxed(&avail_ring()[avail_idx_ & (size_ - 1)], head);
  avail_idx_++;
}

void SplitRing::raw_set_avail_idx(uint16_t value) { store_release(&avail_[1], value); }

uint16_t SplitRing::raw_reserve(uint16_t count) {
  // create() stacks the highest index at the bottom.
  free_.erase(free_.begin(), free_.begin() + count);
  free_.resize(size_);
  free_count_ -= count;
  return static_cast<uint16_t>(size_ - count);
}

void SplitRing::raw_expect(uint16_t head) {
  if (chain_[head] != 0) return;
  chain_[head] = 1;
  in_flight_++;
}

}  // namespace ep::front_end

// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "front-end/guest_memory.h"
#include "front-end/protocol.h"
#include "front-end/status.h"

namespace ep::front_end {

/// One buffer of a request, as the driver hands it to the device.
struct Segment {
  uint64_t guest;
  uint32_t length;
  bool device_writes;
};

/// The driver's side of one split virtqueue in guest memory: descriptor table, available ring and
/// used ring. Keeps its own copy of everything the device must not be able to spoil (free list,
/// chain lengths, which heads are in flight). One thread.
///
/// Beside the orderly calls there are raw ones that write whatever they are told: for attacks.
class SplitRing {
 public:
  static constexpr uint16_t kNone = 0xffff;

  /// Lays the ring out in `memory`. `size` is a power of two up to 32768.
  Status create(GuestMemory* memory, uint16_t size, bool event_idx);

  uint16_t size() const { return size_; }
  uint16_t free_descriptors() const { return static_cast<uint16_t>(free_count_); }
  uint64_t descriptor_guest() const { return desc_guest_; }
  uint64_t avail_guest() const { return avail_guest_; }
  uint64_t used_guest() const { return used_guest_; }

  /// Queues a chain without showing it yet. With `indirect_guest` not 0 the chain goes into a table
  /// there and takes one descriptor. Returns the head, or kNone when descriptors are short.
  uint16_t add(std::span<const Segment> segments, uint64_t indirect_guest = 0);
  /// Shows everything added. True when the device wants a kick.
  bool publish();

  /// Takes one completion. False when there is none. A head that is not in flight, or out of
  /// range, is returned with `*violation` set and frees nothing.
  bool poll(UsedElement* element, bool* violation);

  /// Asks for an interrupt at the next completion; true when completions are there already, so
  /// that the caller must not sleep.
  bool arm_interrupt();
  /// Says that no interrupt is wanted (busy polling).
  void disarm_interrupt();

  bool in_flight(uint16_t head) const { return chain_[head] != 0; }
  uint16_t in_flight_count() const { return in_flight_; }
  uint16_t last_used() const { return last_used_; }
  /// The index that the device published, read anew: vring base after a back-end's death.
  uint16_t device_used_idx() const;
  uint16_t avail_idx() const { return avail_idx_; }

  // Raw access.
  Descriptor* descriptors() const { return desc_; }
  void raw_push(uint16_t head);
  void raw_set_avail_idx(uint16_t value);
  /// Takes `count` descriptors out of the free list's care and returns the first: they are the
  /// last ones of the table, never used by add() from then on. Only right after create().
  uint16_t raw_reserve(uint16_t count);
  /// Marks a raw head as in flight, with `count` 0 descriptors to give back at completion.
  void raw_expect(uint16_t head);

 private:
  uint16_t* avail_ring() const { return avail_ + 2; }
  uint16_t* used_event() const { return avail_ + 2 + size_; }
  UsedElement* used_ring() const { return reinterpret_cast<UsedElement*>(used_ + 2); }
  uint16_t* avail_event() const { return reinterpret_cast<uint16_t*>(used_ring() + size_); }

  uint16_t size_ = 0;
  bool event_idx_ = false;
  bool polling_ = false;
  uint64_t desc_guest_ = 0;
  uint64_t avail_guest_ = 0;
  uint64_t used_guest_ = 0;
  GuestMemory* memory_ = nullptr;
  Descriptor* desc_ = nullptr;
  uint16_t* avail_ = nullptr;   // flags, idx, ring[size], used_event
  uint16_t* used_ = nullptr;    // flags, idx, ring[size], avail_event
  std::vector<uint16_t> free_;  // a stack: the first free_count_ entries are free
  uint32_t free_count_ = 0;
  /// Per head: 0 not in flight, else 1 + the descriptors of its chain; the chain is in next_.
  std::vector<uint16_t> chain_;
  std::vector<uint16_t> next_;
  uint16_t avail_idx_ = 0;
  uint16_t published_ = 0;
  uint16_t last_used_ = 0;
  uint16_t in_flight_ = 0;
};

}  // namespace ep::front_end

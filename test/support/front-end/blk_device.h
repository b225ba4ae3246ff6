// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "front-end/vhost_user_client.h"

namespace ep::front_end {

struct BlkDeviceOptions {
  ClientOptions client;
  /// Requests in flight per queue, and the largest data buffer of one.
  uint16_t depth = 16;
  uint32_t max_bytes = 1 << 20;
  /// The most data segments of one request.
  uint16_t max_segments = 1;
};

/// One request and its buffers in guest memory. Owned by the device; a caller has it from
/// acquire() to release().
struct Slot {
  uint16_t queue = 0;
  uint16_t index = 0;
  bool in_flight = false;
  uint16_t head = 0;
  uint8_t status = kStatusPending;
  uint32_t used_length = 0;
  uint8_t* data = nullptr;
  /// Steady-clock nanoseconds of the submission (or of the reconnection, when later).
  uint64_t submitted_ns = 0;
  /// The caller's own.
  uint64_t user = 0;
  uint64_t user2 = 0;
  /// Called at completion by poll(), when set.
  void (*on_complete)(Slot& slot, void* context) = nullptr;
  void* context = nullptr;

  uint64_t header_guest = 0;
  uint64_t data_guest = 0;
  uint64_t status_guest = 0;
  uint64_t table_guest = 0;
  BlkHeader* header = nullptr;
  uint8_t* status_byte = nullptr;
};

/// What to submit. `segments` cuts the data into buffers (their sum is `length`); empty: one.
struct BlkRequest {
  uint32_t type = kBlkIn;
  uint64_t sector = 0;
  uint32_t length = 0;
  std::span<const uint32_t> segments = {};
};

/// Asynchronous virtio-blk requests over a VhostUserClient. No allocation per request. One thread.
class BlkDevice {
 public:
  explicit BlkDevice(BlkDeviceOptions options);

  /// Connects and starts.
  Status open();
  /// One attempt to come back after the back-end's death: same memory, rings, in-flight area.
  Status reopen();

  VhostUserClient& client() { return client_; }
  uint64_t capacity() const { return client_.capacity_bytes(); }

  /// A free slot of a queue, or null. Goes back with release().
  Slot* acquire(uint16_t queue);
  void release(Slot* slot);

  /// Queues a request from a slot; visible to the back-end after flush_queue(). For DISCARD and
  /// WRITE_ZEROES the caller has put the BlkRange into the data. False when descriptors are short
  /// just now (more data segments than the ring has room for).
  bool submit(Slot* slot, const BlkRequest& request);
  /// Shows what was submitted and kicks if the back-end wants it.
  void flush_queue(uint16_t queue);

  /// Takes completions and gives each slot to its callback or, without one, to `handler`. Returns
  /// how many.
  template <typename Handler>
  uint32_t poll(uint16_t queue, Handler&& handler) {
    uint32_t done = 0;
    while (Slot* slot = next_completion(queue)) {
      if (slot->on_complete != nullptr) {
        slot->on_complete(*slot, slot->context);
      } else {
        handler(*slot);
      }
      done++;
    }
    return done;
  }
  uint32_t poll(uint16_t queue) {
    return poll(queue, [](Slot&) {});
  }

  /// Submits one request and waits for its end. Only when nothing else uses the queue.
  Status submit_and_wait(Slot* slot, const BlkRequest& request, int timeout_ms);

  /// Sleeps until one of the queues interrupts, the peer goes, or the time is over.
  void wait_for_interrupt(std::span<const uint16_t> queues, int timeout_ms);

  uint32_t in_flight() const { return in_flight_; }
  /// In-flight requests that have waited longer than `limit_ns`.
  uint32_t overdue(uint64_t limit_ns) const;
  std::span<Slot> slots() { return slots_; }

  /// Breaches of the ring's rules by the back-end: completions of heads not in flight, requests
  /// "completed" without a status. Never cleared.
  const std::vector<std::string>& violations() const { return violations_; }

  static uint64_t now_ns();

 private:
  Slot* next_completion(uint16_t queue);
  Status make_slots();

  BlkDeviceOptions options_;
  VhostUserClient client_;
  std::vector<Slot> slots_;
  std::vector<std::vector<Slot*>> free_;
  std::vector<std::vector<Slot*>> by_head_;
  std::vector<Segment> chain_;
  std::vector<std::string> violations_;
  uint32_t in_flight_ = 0;
};

}  // namespace ep::front_end

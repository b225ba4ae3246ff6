// SPDX-License-Identifier: Apache-2.0
#pragma once

// The in-flight area of vhost-user (INFLIGHT_SHMFD, split queues): shared memory that the front-end
// keeps for us over our own death. It says which requests we had taken and in what order, so that
// the next back-end runs exactly those again whose completion was not published.
//
// rte_vhost offers calls for it, but trusts the numbers that lie in the shared memory (descriptor
// count, last head) as array bounds; a front-end that changes them could make it write anywhere. So
// the messages GET_INFLIGHT_FD and SET_INFLIGHT_FD are answered by us, and the library never learns
// of the area. The layout is the vhost-user specification's ("Inflight I/O tracking").
//
// Order of stores per completion, one used->idx store each: last head, used ring element,
// used->idx, the descriptor's flag, our copy of used->idx. Death between any two of them is undone
// by recover().

#include <cstdint>
#include <memory>
#include <vector>

#include "base/status.h"
#include "export/sigbus_guard.h"

namespace ep::exports {

struct InflightShape {
  uint64_t bytes = 0;
  uint64_t offset = 0;
  uint16_t queues = 0;
  uint16_t queue_size = 0;
};

/// One queue's part of the area. Belongs to the queue's reactor while the queue runs.
class InflightQueue {
 public:
  InflightQueue() = default;
  InflightQueue(uint8_t* base, uint16_t descriptors) : base_(base), descriptors_(descriptors) {}
  [[nodiscard]] bool present() const { return base_ != nullptr; }

  /// Brings the area in line with the used ring's index and lists the heads that were taken and not
  /// completed, oldest first. A fresh area is initialised. kCorruption when the area is not ours,
  /// or smaller than the ring. Call once, before anything else.
  Status recover(uint16_t used_idx, uint16_t ring_size, std::vector<uint16_t>* heads);
  /// Forgets every head (test seam: resubmission switched off).
  void forget();

  /// A request was taken from the available ring.
  void taken(uint16_t head);
  /// Before the completion becomes visible.
  void completing(uint16_t head);
  /// After used->idx was stored as `used_idx`.
  void completed(uint16_t head, uint16_t used_idx);

 private:
  uint8_t* base_ = nullptr;
  uint16_t descriptors_ = 0;
  uint64_t counter_ = 0;
};

/// The area of one device.
class InflightArea {
 public:
  static uint64_t bytes_needed(uint16_t queues, uint16_t queue_size);

  /// A new area in a memfd that cannot shrink, and the descriptor to send to the front-end, which
  /// is the caller's.
  static Result<std::shared_ptr<InflightArea>> create(uint16_t queues, uint16_t queue_size,
                                                      int* fd);
  /// The area that a front-end gives back. The descriptor stays the caller's.
  static Result<std::shared_ptr<InflightArea>> map(int fd, const InflightShape& shape);

  [[nodiscard]] const InflightShape& shape() const { return shape_; }
  /// Not present for a queue the area has no room for.
  [[nodiscard]] InflightQueue queue(uint16_t index) const;
  [[nodiscard]] bool broken() const { return mapping_.broken(); }

 private:
  InflightShape shape_;
  GuardedMapping mapping_;
};

}  // namespace ep::exports

// SPDX-License-Identifier: Apache-2.0
#pragma once

// One running virtqueue: a poller on the export's reactor that turns descriptor chains into
// block::Requests and completions into used ring entries. Made by the connection (control side) and
// handed to the reactor; from start() to the end of stop() only the reactor touches it.

#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "block/device.h"
#include "export/guest_memory.h"
#include "export/inflight.h"
#include "export/virtio_blk.h"
#include "io/io.h"
#include "reactor/reactor.h"

namespace ep::exports {

/// A counter with one writer (the reactor) and readers anywhere; costs no locked instruction.
class Counter {
 public:
  void add(uint64_t amount) {
    value_.store(value_.load(std::memory_order_relaxed) + amount, std::memory_order_relaxed);
  }
  void subtract(uint64_t amount) {
    value_.store(value_.load(std::memory_order_relaxed) - amount, std::memory_order_relaxed);
  }
  [[nodiscard]] uint64_t value() const { return value_.load(std::memory_order_relaxed); }

 private:
  std::atomic<uint64_t> value_{0};
};

/// What all queues of an export share. The counters and `facts` belong to the reactor.
struct ExportCore {
  reactor::Reactor* reactor = nullptr;
  block::Device* device = nullptr;
  BlkFacts facts;
  bool resubmit_in_flight = true;
  Counter requests;
  Counter read_bytes;
  Counter write_bytes;
  Counter errors;
  Counter malformed;
  Counter resubmitted;
  Counter in_flight;
};

/// The connection as its queues see it. Outlives the queues. Any thread.
struct ConnectionLink {
  /// A descriptor of the connection's socket of our own, or -1.
  int socket = -1;
  /// The guest was told that there is no write cache (or knows none): every write is made durable.
  std::atomic<bool> write_through{false};

  ~ConnectionLink();
  /// Ends the connection: the library reads the end of the stream and tells us so.
  void drop() const;
};

struct VirtqueueSetup {
  uint16_t size = 0;  // a power of two
  bool event_idx = false;
  bool indirect = false;
  /// The three rings in our address space; each lies whole in one region.
  uint8_t* descriptors = nullptr;
  uint8_t* available = nullptr;
  uint8_t* used = nullptr;
  /// Owned by the queue; -1: the guest wants none.
  int kick_fd = -1;
  int call_fd = -1;
  std::shared_ptr<const GuestMemory> memory;
  std::shared_ptr<const InflightArea> inflight_area;  // null: none was agreed on
  InflightQueue inflight;
  std::shared_ptr<ConnectionLink> link;
};

class Virtqueue final : public reactor::Poller {
 public:
  /// Any thread. Allocates all that requests will need.
  Virtqueue(ExportCore* core, VirtqueueSetup setup);
  /// Only before start() or after stop() is done.
  ~Virtqueue() override;

  // On the reactor.
  /// Takes the ring up where it stands, with what was in flight at a former back-end's death first.
  void start();
  /// Takes no new requests, finishes those taken, leaves the reactor, then calls `on_stopped`,
  /// after which the queue may be freed (but not from inside it). Once only.
  void stop(std::function<void()> on_stopped);
  /// Replaces the guest's interrupt and signals the new one once, since a completion may have gone
  /// to the old one. Takes ownership of `fd`.
  void replace_call_fd(int fd);
  /// Index of the next entry of the available ring to take; what GET_VRING_BASE wants.
  [[nodiscard]] uint16_t next_available() const { return last_available_; }

  unsigned poll() override;
  bool arm() override;
  void disarm() override;

 private:
  struct Task {
    block::Request request;
    Virtqueue* queue = nullptr;
    uint8_t* status_byte = nullptr;
    uint32_t used_bytes = 0;
    uint16_t head = 0;
    bool busy = false;
    bool flush_behind = false;  // write-through: a flush follows before the guest is answered
  };

  void take(uint16_t head);
  void run_device(Task* task);
  void on_device_done(Task* task);
  void complete(Task* task, uint8_t status, uint32_t used_bytes);
  void resubmit_some(unsigned* budget);
  void take_some(unsigned* budget);
  /// The ring itself makes no sense any more: nothing is taken until the guest sets it up anew.
  void give_up_ring();
  /// Notices memory that the front-end took away and ends the connection.
  bool memory_gone();
  void call_guest();
  void write_call_fd() const;
  void finish_stop_if_idle();
  iovec* iovecs_of(uint16_t head) { return iovecs_.get() + size_t{head} * kChainIovecsMax; }

  // The shared rings, each access once and atomic.
  [[nodiscard]] uint16_t available_flags() const;
  [[nodiscard]] uint16_t available_index() const;
  [[nodiscard]] uint16_t available_entry(uint16_t index) const;
  [[nodiscard]] uint16_t used_event() const;
  void set_used_flags(uint16_t flags);
  void set_available_event(uint16_t index);
  [[nodiscard]] uint16_t used_index() const;
  void put_used(uint16_t head, uint32_t bytes);

  ExportCore* const core_;
  VirtqueueSetup setup_;
  ChainSource source_;
  io::Watch kick_watch_;
  std::vector<Task> tasks_;
  /// kChainIovecsMax a task; pages are touched only as far as chains are long.
  std::unique_ptr<iovec[]> iovecs_;
  std::vector<uint16_t> resubmit_;  // oldest first
  size_t resubmitted_ = 0;
  uint16_t last_available_ = 0;
  uint16_t used_ = 0;
  /// used_ at the last decision about an interrupt.
  uint16_t signalled_used_ = 0;
  uint32_t in_flight_ = 0;
  bool broken_ = false;
  bool memory_lost_ = false;
  uint64_t faults_seen_ = 0;
  bool leaving_ = false;
  std::function<void()> on_stopped_;
};

}  // namespace ep::exports

// SPDX-License-Identifier: Apache-2.0
#include "front-end/blk_device.h"

#include <poll.h>
#include <time.h>

#include <array>

namespace ep::front_end {

namespace {

constexpr uint64_t kSlotHeaderBytes = 64;
/// The socket and the call eventfds of up to 64 queues.
constexpr nfds_t kMaxWait = 65;

uint64_t slot_table_bytes(const BlkDeviceOptions& options) {
  return (options.max_segments + 2ull) * sizeof(Descriptor);
}

ClientOptions with_data_bytes(const BlkDeviceOptions& options) {
  ClientOptions client = options.client;
  const uint64_t slot = kSlotHeaderBytes + slot_table_bytes(options) + options.max_bytes + 8192;
  client.data_bytes += slot * options.depth * client.queues;
  return client;
}

}  // namespace

BlkDevice::BlkDevice(BlkDeviceOptions options)
    : options_(std::move(options)), client_(with_data_bytes(options_)) {}

uint64_t BlkDevice::now_ns() {
  timespec now;
  ::clock_gettime(CLOCK_MONOTONIC, &now);
  return static_cast<uint64_t>(now.tv_sec) * 1000000000u + static_cast<uint64_t>(now.tv_nsec);
}

Status BlkDevice::open() {
  FRONT_END_TRY(client_.connect());
  FRONT_END_TRY(client_.create_memory());
  FRONT_END_TRY(make_slots());
  return client_.start();
}

Status BlkDevice::reopen() {
  const uint64_t capacity = client_.config().capacity;
  const uint64_t features = client_.features();
  Status status = client_.connect();
  if (status.ok() && client_.features() != features) {
    status = Status::error("back-end came back with other features");
  }
  if (status.ok() && client_.config().capacity != capacity) {
    status = Status::error("back-end came back with another capacity");
  }
  if (status.ok()) status = client_.start();
  if (!status.ok()) {
    client_.disconnect();
    return status;
  }
  const uint64_t now = now_ns();
  for (Slot& slot : slots_) {
    if (slot.in_flight) slot.submitted_ns = now;
  }
  return {};
}

Status BlkDevice::make_slots() {
  const ClientOptions& client = client_.options();
  GuestMemory& memory = client_.memory();
  slots_.resize(static_cast<size_t>(client.queues) * options_.depth);
  free_.resize(client.queues);
  by_head_.assign(client.queues, std::vector<Slot*>(client.queue_size, nullptr));
  chain_.reserve(options_.max_segments + 2u);
  for (size_t i = 0; i < slots_.size(); i++) {
    Slot& slot = slots_[i];
    slot.index = static_cast<uint16_t>(i);
    slot.queue = static_cast<uint16_t>(i / options_.depth);
    slot.header_guest = memory.allocate(kSlotHeaderBytes, 64);
    slot.status_guest = slot.header_guest + sizeof(BlkHeader);
    slot.table_guest = memory.allocate(slot_table_bytes(options_), 16);
    slot.data_guest = memory.allocate(options_.max_bytes, 4096);
    if (slot.header_guest == 0 || slot.table_guest == 0 || slot.data_guest == 0) {
      return Status::error("guest memory is too small for the buffers");
    }
    slot.header = reinterpret_cast<BlkHeader*>(memory.host(slot.header_guest));
    slot.status_byte = memory.host(slot.status_guest);
    slot.data = memory.host(slot.data_guest);
  }
  for (auto slot = slots_.rbegin(); slot != slots_.rend(); ++slot) {
    free_[slot->queue].push_back(&*slot);
  }
  return {};
}

Slot* BlkDevice::acquire(uint16_t queue) {
  if (free_[queue].empty()) return nullptr;
  Slot* slot = free_[queue].back();
  free_[queue].pop_back();
  return slot;
}

void BlkDevice::release(Slot* slot) { free_[slot->queue].push_back(slot); }

bool BlkDevice::submit(Slot* slot, const BlkRequest& request) {
  const bool reads = request.type == kBlkIn || request.type == kBlkGetId;
  chain_.clear();
  chain_.push_back({slot->header_guest, sizeof(BlkHeader), false});
  if (request.segments.empty()) {
    if (request.length > 0) chain_.push_back({slot->data_guest, request.length, reads});
  } else {
    uint64_t at = slot->data_guest;
    for (uint32_t length : request.segments) {
      chain_.push_back({at, length, reads});
      at += length;
    }
  }
  chain_.push_back({slot->status_guest, 1, true});
  *slot->header = {request.type, 0, request.sector};
  *slot->status_byte = kStatusPending;
  const bool indirect = client_.has(kFeatureIndirect);
  const uint16_t head = client_.ring(slot->queue).add(chain_, indirect ? slot->table_guest : 0);
  if (head == SplitRing::kNone) return false;
  slot->head = head;
  slot->in_flight = true;
  slot->status = kStatusPending;
  slot->submitted_ns = now_ns();
  by_head_[slot->queue][head] = slot;
  in_flight_++;
  return true;
}

void BlkDevice::flush_queue(uint16_t queue) {
  if (client_.ring(queue).publish()) client_.kick(queue);
}

Slot* BlkDevice::next_completion(uint16_t queue) {
  for (;;) {
    UsedElement element;
    bool violation;
    if (!client_.ring(queue).poll(&element, &violation)) return nullptr;
    Slot* slot = element.id < by_head_[queue].size() ? by_head_[queue][element.id] : nullptr;
    if (violation || slot == nullptr || !slot->in_flight) {
      violations_.push_back("queue " + std::to_string(queue) + ": completion of head " +
                            std::to_string(element.id) + ", which is not in flight");
      continue;
    }
    by_head_[queue][element.id] = nullptr;
    slot->in_flight = false;
    slot->used_length = element.len;
    slot->status = *static_cast<volatile uint8_t*>(slot->status_byte);
    in_flight_--;
    if (slot->status == kStatusPending) {
      violations_.push_back("queue " + std::to_string(queue) + ": head " +
                            std::to_string(element.id) + " completed without a status");
    }
    return slot;
  }
}

void BlkDevice::wait_for_interrupt(std::span<const uint16_t> queues, int timeout_ms) {
  std::array<pollfd, kMaxWait> fds;
  nfds_t count = 0;
  fds[count++] = {client_.channel().fd(), POLLIN | POLLRDHUP, 0};
  bool ready = false;
  for (uint16_t queue : queues) {
    if (client_.ring(queue).arm_interrupt()) ready = true;
    if (count < kMaxWait) fds[count++] = {client_.call_fd(queue), POLLIN, 0};
  }
  ::poll(fds.data(), count, ready ? 0 : timeout_ms);
  for (uint16_t queue : queues) client_.drain_call(queue);
}

Status BlkDevice::submit_and_wait(Slot* slot, const BlkRequest& request, int timeout_ms) {
  if (!submit(slot, request)) return Status::error("no free descriptors");
  flush_queue(slot->queue);
  const uint64_t deadline = now_ns() + static_cast<uint64_t>(timeout_ms) * 1000000;
  while (slot->in_flight) {
    if (poll(slot->queue) > 0) continue;
    if (client_.lost()) return Status::error("back-end closed the connection");
    if (now_ns() > deadline) return Status::error("no completion within the time");
    wait_for_interrupt({&slot->queue, 1}, 1);
  }
  return {};
}

uint32_t BlkDevice::overdue(uint64_t limit_ns) const {
  const uint64_t now = now_ns();
  uint32_t count = 0;
  for (const Slot& slot : slots_) {
    if (slot.in_flight && now - slot.submitted_ns > limit_ns) count++;
  }
  return count;
}

}  // namespace ep::front_end

// SPDX-License-Identifier: Apache-2.0
#define VIRTIO_RING_NO_LEGACY  // leaves helpers out that are not C++
#include "export/virtqueue.h"

#include <linux/virtio_ring.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <utility>

namespace ep::exports {

namespace {

// Layout of a split virtqueue's rings (virtio 1.2, 2.7): all little-endian, as we are.
constexpr size_t kFlagsAt = 0;
constexpr size_t kIndexAt = 2;
constexpr size_t kEntriesAt = 4;
constexpr size_t kUsedEntryBytes = 8;

uint16_t load16(const uint8_t* from) {
  return __atomic_load_n(reinterpret_cast<const uint16_t*>(from), __ATOMIC_ACQUIRE);
}

void store16(uint8_t* to, uint16_t value) {
  __atomic_store_n(reinterpret_cast<uint16_t*>(to), value, __ATOMIC_RELEASE);
}

}  // namespace

ConnectionLink::~ConnectionLink() {
  if (socket >= 0) close(socket);
}

void ConnectionLink::drop() const {
  if (socket >= 0) shutdown(socket, SHUT_RDWR);
}

uint16_t Virtqueue::available_flags() const { return load16(setup_.available + kFlagsAt); }
uint16_t Virtqueue::available_index() const { return load16(setup_.available + kIndexAt); }
uint16_t Virtqueue::available_entry(uint16_t index) const {
  return load16(setup_.available + kEntriesAt + 2 * size_t{index});
}
uint16_t Virtqueue::used_event() const {
  return load16(setup_.available + kEntriesAt + 2 * size_t{setup_.size});
}
void Virtqueue::set_used_flags(uint16_t flags) { store16(setup_.used + kFlagsAt, flags); }
void Virtqueue::set_available_event(uint16_t index) {
  store16(setup_.used + kEntriesAt + kUsedEntryBytes * setup_.size, index);
}
uint16_t Virtqueue::used_index() const { return load16(setup_.used + kIndexAt); }

void Virtqueue::put_used(uint16_t head, uint32_t bytes) {
  const auto slot = static_cast<uint16_t>(used_ & (setup_.size - 1));
  const vring_used_elem element{head, bytes};
  static_assert(sizeof element == kUsedEntryBytes);
  std::memcpy(setup_.used + kEntriesAt + kUsedEntryBytes * slot, &element, sizeof element);
  ++used_;
  // Release: data, status and element are visible before the index is.
  store16(setup_.used + kIndexAt, used_);
}

Virtqueue::Virtqueue(ExportCore* core, VirtqueueSetup setup)
    : core_(core), setup_(std::move(setup)), tasks_(setup_.size) {
  EP_ASSERT(setup_.size != 0 && (setup_.size & (setup_.size - 1)) == 0);
  iovecs_ = std::make_unique_for_overwrite<iovec[]>(size_t{setup_.size} * kChainIovecsMax);
  source_ = {setup_.descriptors, setup_.size, setup_.indirect, setup_.memory.get()};
  for (uint16_t head = 0; head < setup_.size; ++head) {
    Task& task = tasks_[head];
    task.queue = this;
    task.head = head;
    task.request.owner = &task;
    task.request.on_done = [](block::Request* request) {
      auto* done = static_cast<Task*>(request->owner);
      done->queue->on_device_done(done);
    };
  }
  kick_watch_.fd = setup_.kick_fd;
  kick_watch_.owner = this;
  // Emptied before the available index is read in the next poll, so that no kick is lost.
  kick_watch_.on_ready = [](io::Watch* watch) {
    uint64_t count;
    [[maybe_unused]] const ssize_t got = read(watch->fd, &count, sizeof count);
  };
  kick_watch_.on_gone = [](io::Watch* watch) {
    auto* queue = static_cast<Virtqueue*>(watch->owner);
    // Not here: the engine may still look at the watch, and on_stopped leads to its end.
    queue->core_->reactor->post(std::move(queue->on_stopped_));
  };
}

Virtqueue::~Virtqueue() {
  EP_ASSERT(in_flight_ == 0);
  if (setup_.kick_fd >= 0) close(setup_.kick_fd);
  if (setup_.call_fd >= 0) close(setup_.call_fd);
}

void Virtqueue::start() {
  SigbusGuard::instance().protect_this_thread();
  used_ = used_index();
  last_available_ = used_;
  if (setup_.inflight.present()) {
    const Status recovered = setup_.inflight.recover(used_, setup_.size, &resubmit_);
    if (!recovered) give_up_ring();
    // What was taken and not completed has been passed in the available ring.
    last_available_ = static_cast<uint16_t>(last_available_ + resubmit_.size());
    if (!core_->resubmit_in_flight) {
      setup_.inflight.forget();
      resubmit_.clear();
    }
  }
  signalled_used_ = used_;
  // A back-end that died may have published completions and not told of them. The guest would wait
  // for ever: with EVENT_IDX it gave an index for its next interrupt that is passed already.
  write_call_fd();
  disarm();
  core_->reactor->add_poller(this);
  if (setup_.kick_fd >= 0) core_->reactor->engine().watch(&kick_watch_);
}

void Virtqueue::stop(std::function<void()> on_stopped) {
  EP_ASSERT(!on_stopped_ && !leaving_);
  on_stopped_ = std::move(on_stopped);
  finish_stop_if_idle();
}

void Virtqueue::finish_stop_if_idle() {
  if (!on_stopped_ || leaving_ || in_flight_ > 0) return;
  // Heads that a dead back-end left are finished first: GET_VRING_BASE promises that nothing is
  // open.
  if (resubmitted_ < resubmit_.size() && !broken_ && !memory_lost_) return;
  leaving_ = true;
  call_guest();
  core_->reactor->remove_poller(this);
  if (setup_.kick_fd >= 0) {
    core_->reactor->engine().unwatch(&kick_watch_);
  } else {
    core_->reactor->post(std::move(on_stopped_));
  }
}

void Virtqueue::replace_call_fd(int fd) {
  if (setup_.call_fd >= 0) close(setup_.call_fd);
  setup_.call_fd = fd;
  write_call_fd();
}

unsigned Virtqueue::poll() {
  if (leaving_) return 0;
  unsigned budget = limits::kQueueRequestsPerPassMax;
  if (!broken_ && !memory_gone()) {
    resubmit_some(&budget);
    if (!on_stopped_) take_some(&budget);
  }
  const auto work = limits::kQueueRequestsPerPassMax - budget;
  call_guest();
  finish_stop_if_idle();
  return work;
}

void Virtqueue::resubmit_some(unsigned* budget) {
  while (*budget > 0 && resubmitted_ < resubmit_.size()) {
    --*budget;
    core_->resubmitted.add(1);
    take(resubmit_[resubmitted_++]);
  }
}

void Virtqueue::take_some(unsigned* budget) {
  if (*budget == 0) return;  // older ones are still to be resubmitted
  const auto waiting = static_cast<uint16_t>(available_index() - last_available_);
  if (waiting > setup_.size) return give_up_ring();
  for (uint16_t i = 0; i<waiting&& * budget> 0; ++i) {
    --*budget;
    const uint16_t head =
        available_entry(static_cast<uint16_t>(last_available_ & (setup_.size - 1)));
    // A second completion of one head would be a lie to the driver.
    if (head >= setup_.size || tasks_[head].busy) return give_up_ring();
    ++last_available_;
    if (setup_.inflight.present()) setup_.inflight.taken(head);
    take(head);
  }
}

void Virtqueue::give_up_ring() {
  broken_ = true;
  core_->malformed.add(1);
}

bool Virtqueue::memory_gone() {
  const uint64_t faults = SigbusGuard::instance().faults();
  if (faults == faults_seen_ || memory_lost_) return memory_lost_;
  faults_seen_ = faults;
  if (!setup_.memory->broken() &&
      (setup_.inflight_area == nullptr || !setup_.inflight_area->broken())) {
    return false;
  }
  memory_lost_ = true;
  setup_.link->drop();
  return true;
}

void Virtqueue::take(uint16_t head) {
  Task* task = &tasks_[head];
  BlkCommand command;
  parse_command(source_, core_->facts, head, iovecs_of(head), &command);
  task->busy = true;
  task->status_byte = command.status_byte;
  task->used_bytes = command.used_bytes;
  ++in_flight_;
  core_->in_flight.add(1);
  core_->requests.add(1);
  if (command.verdict != BlkCommand::Verdict::kSubmit) {
    if (command.verdict == BlkCommand::Verdict::kMalformed) core_->malformed.add(1);
    return complete(task, command.status, command.used_bytes);
  }
  block::Request& request = task->request;
  request.op = command.op;
  request.may_unmap = command.may_unmap;
  request.offset = command.offset;
  request.length = command.length;
  request.iov = command.iov;
  request.iov_count = command.iov_count;
  request.next = nullptr;
  task->flush_behind = command.op != block::Op::kRead && command.op != block::Op::kFlush &&
                       setup_.link->write_through.load(std::memory_order_relaxed);
  if (command.op == block::Op::kRead) core_->read_bytes.add(command.length);
  if (command.op == block::Op::kWrite) core_->write_bytes.add(command.length);
  core_->device->submit(&request);
}

void Virtqueue::on_device_done(Task* task) {
  block::Request& request = task->request;
  if (task->flush_behind && request.outcome == block::Outcome::kOk) {
    task->flush_behind = false;
    request.op = block::Op::kFlush;
    request.may_unmap = false;
    request.offset = 0;
    request.length = 0;
    request.iov = nullptr;
    request.iov_count = 0;
    request.next = nullptr;
    return core_->device->submit(&request);
  }
  const uint8_t status = status_of(request.outcome);
  complete(task, status, status == VIRTIO_BLK_S_OK ? task->used_bytes : 1);
}

void Virtqueue::complete(Task* task, uint8_t status, uint32_t used_bytes) {
  if (status != VIRTIO_BLK_S_OK) core_->errors.add(1);
  if (task->status_byte != nullptr) *task->status_byte = status;
  InflightQueue& inflight = setup_.inflight;
  if (inflight.present()) inflight.completing(task->head);
  put_used(task->head, used_bytes);
  if (inflight.present()) inflight.completed(task->head, used_);
  task->busy = false;
  --in_flight_;
  core_->in_flight.subtract(1);
  // poll() interrupts the guest once for all completions of a pass, and ends a stop.
}

void Virtqueue::call_guest() {
  if (used_ == signalled_used_) return;
  // The index must be out before we look whether the driver wants to know.
  std::atomic_thread_fence(std::memory_order_seq_cst);
  const uint16_t before = std::exchange(signalled_used_, used_);
  bool wanted;
  if (setup_.event_idx) {
    const uint16_t event = used_event();
    wanted = static_cast<uint16_t>(used_ - event - 1) < static_cast<uint16_t>(used_ - before);
  } else {
    wanted = (available_flags() & VRING_AVAIL_F_NO_INTERRUPT) == 0;
  }
  if (wanted) write_call_fd();
}

void Virtqueue::write_call_fd() const {
  if (setup_.call_fd < 0) return;
  const uint64_t one = 1;
  // Non-blocking. A full counter interrupts as well; anything else is the front-end's own doing.
  [[maybe_unused]] const ssize_t put = write(setup_.call_fd, &one, sizeof one);
}

bool Virtqueue::arm() {
  if (leaving_) return false;
  call_guest();
  if (memory_gone() || broken_) return false;
  if (resubmitted_ < resubmit_.size()) return true;
  if (on_stopped_) return false;
  if (setup_.kick_fd < 0) return true;  // a guest without kicks is polled for ever
  if (setup_.event_idx) {
    set_available_event(last_available_);
  } else {
    set_used_flags(0);
  }
  std::atomic_thread_fence(std::memory_order_seq_cst);
  const bool found = available_index() != last_available_;
  return found || SigbusGuard::instance().faults() != faults_seen_;
}

void Virtqueue::disarm() {
  if (leaving_ || broken_ || memory_lost_) return;
  // With EVENT_IDX the index we asked for has been passed, which silences kicks by itself.
  if (!setup_.event_idx) set_used_flags(VRING_USED_F_NO_NOTIFY);
}

}  // namespace ep::exports

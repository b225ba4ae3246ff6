// SPDX-License-Identifier: Apache-2.0
#define VIRTIO_RING_NO_LEGACY  // leaves helpers out that are not C++
#include "export/vhost_user_connection.h"

#include <fcntl.h>
#include <linux/virtio_ring.h>
#include <sys/socket.h>
#include <unistd.h>

#include <array>
#include <cstddef>
#include <cstring>
#include <future>
#include <utility>

#include "export/descriptors.h"

namespace ep::exports {

namespace {

using Handling = VhostDriver::Handling;

/// A copy of a part of the message's payload: the message is packed, the parts are not.
template <typename T>
T payload_of(const VhostMessage& message) {
  T part;
  std::memcpy(&part, &message.payload, sizeof part);
  return part;
}

template <typename T>
void set_payload(VhostMessage* message, const T& part) {
  std::memcpy(&message->payload, &part, sizeof part);
}

Handling reply_number(VhostMessage* message, uint64_t number) {
  set_payload(message, number);
  message->bytes = sizeof number;
  message->fd_count = 0;
  return Handling::kReply;
}

bool has(uint64_t features, unsigned bit) { return (features >> bit & 1) != 0; }

}  // namespace

VhostUserConnection::VhostUserConnection(int vid, uint16_t queues, ExportCore* core,
                                         std::function<block::Geometry()> geometry, int socket)
    : vid_(vid),
      core_(core),
      geometry_(std::move(geometry)),
      rings_(queues),
      link_(std::make_shared<ConnectionLink>()),
      library_faults_seen_(SigbusGuard::instance().event_thread_faults()) {
  link_->socket = socket;
}

VhostUserConnection::~VhostUserConnection() {
  for (const Ring& ring : rings_) EP_ASSERT(ring.running == nullptr);
  if (backend_channel_ >= 0) close(backend_channel_);
  if (pending_fd_ >= 0) close(pending_fd_);
}

Handling VhostUserConnection::before_message(VhostMessage* message) {
  drop_if_library_faulted();
  current_request_ = message->request;
  if (pending_fd_ >= 0) close(std::exchange(pending_fd_, -1));
  // Only what a disk needs: the library's own handlers for network cards, migration and post-copy
  // stay out of reach.
  switch (static_cast<VhostRequest>(message->request)) {
    case VhostRequest::kGetFeatures:
    case VhostRequest::kSetFeatures:
    case VhostRequest::kSetOwner:
    case VhostRequest::kGetProtocolFeatures:
    case VhostRequest::kSetProtocolFeatures:
      return Handling::kPass;
    case VhostRequest::kResetOwner:
      return Handling::kDone;  // as the specification recommends
    case VhostRequest::kGetQueueNum:
      if (message->fd_count != 0) return Handling::kRefuse;
      return reply_number(message, rings_.size());
    case VhostRequest::kSetMemTable:
      return set_memory(message);
    case VhostRequest::kSetVringNum:
    case VhostRequest::kSetVringAddr:
    case VhostRequest::kSetVringBase:
    case VhostRequest::kGetVringBase:
    case VhostRequest::kSetVringEnable:
      return set_ring(message);
    case VhostRequest::kSetVringKick:
    case VhostRequest::kSetVringCall:
    case VhostRequest::kSetVringErr:
      return check_ring_fd(message);
    case VhostRequest::kSetBackendRequestFd:
      return set_backend_channel(message);
    case VhostRequest::kGetConfig:
      return get_config(message);
    case VhostRequest::kSetConfig:
      return set_config(*message);
    case VhostRequest::kGetInflightFd:
      return get_inflight(message);
    case VhostRequest::kSetInflightFd:
      return set_inflight(message);
  }
  return Handling::kRefuse;
}

void VhostUserConnection::after_message(uint32_t request) {
  drop_if_library_faulted();
  switch (static_cast<VhostRequest>(request)) {
    case VhostRequest::kSetMemTable:
    case VhostRequest::kSetVringNum:
    case VhostRequest::kSetVringAddr:
    case VhostRequest::kSetVringBase:
    case VhostRequest::kSetInflightFd:
      for (uint16_t i = 0; i < rings_.size(); ++i) {
        if (rings_[i].ready && rings_[i].running == nullptr) start_queue(i);
      }
      break;
    default:
      break;
  }
}

void VhostUserConnection::on_queue_state(uint16_t index, bool ready) {
  if (index >= rings_.size()) return;
  Ring& ring = rings_[index];
  // A new interrupt descriptor (a guest masks and unmasks its interrupt that way) looks to the
  // library like an end and a start; the queue need not wait for its device because of it.
  if (static_cast<VhostRequest>(current_request_) == VhostRequest::kSetVringCall &&
      ring.running != nullptr) {
    if (ready) swap_call_fd(index);
    return;
  }
  ring.ready = ready;
  if (ready) {
    if (ring.running == nullptr) start_queue(index);
  } else {
    stop_queue(index);
  }
}

Handling VhostUserConnection::set_memory(VhostMessage* message) {
  const auto table = payload_of<MemoryTableMessage>(*message);
  if (table.count == 0 || table.count > kMessageFdsMax ||
      static_cast<int>(table.count) != message->fd_count ||
      message->bytes < 8 + sizeof(MemoryRegionMessage) * table.count) {
    return Handling::kRefuse;
  }
  // The old table goes with this message, whatever becomes of the new one.
  stop_all();
  memory_ = nullptr;
  std::vector<GuestRegionSpec> regions;
  std::vector<int> fds;
  for (uint32_t i = 0; i < table.count; ++i) {
    const MemoryRegionMessage& region = table.regions[i];
    regions.push_back(
        {region.guest_address, region.bytes, region.user_address, region.file_offset});
    fds.push_back(message->fds[i]);
  }
  auto memory = GuestMemory::create(regions, fds);
  if (!memory) return Handling::kRefuse;
  memory_ = std::move(*memory);
  return Handling::kPass;
}

Handling VhostUserConnection::set_ring(VhostMessage* message) {
  const auto request = static_cast<VhostRequest>(message->request);
  const auto state = payload_of<VringState>(*message);
  if (state.index >= rings_.size()) return Handling::kRefuse;
  const auto index = static_cast<uint16_t>(state.index);
  Ring& ring = rings_[index];
  switch (request) {
    case VhostRequest::kSetVringNum:
      // A ring of 0, or one that is no power of two, has no meaning; a larger one than we offer
      // would let one guest use up the library's heap.
      if (state.num == 0 || state.num > limits::kQueueSizeMax ||
          (state.num & (state.num - 1)) != 0) {
        return Handling::kRefuse;
      }
      stop_queue(index);
      ring.size = static_cast<uint16_t>(state.num);
      break;
    case VhostRequest::kSetVringAddr:
      if (message->bytes < sizeof(VringAddresses)) return Handling::kRefuse;
      stop_queue(index);
      ring.addresses = payload_of<VringAddresses>(*message);
      break;
    case VhostRequest::kSetVringEnable:
      break;  // on_queue_state follows
    default:  // base: the used ring and the in-flight area say where a queue stands
      stop_queue(index);
      break;
  }
  return Handling::kPass;
}

Handling VhostUserConnection::check_ring_fd(VhostMessage* message) {
  const auto number = payload_of<uint64_t>(*message);
  if ((number & kVringIndexMask) >= rings_.size()) return Handling::kRefuse;
  if ((number & kVringNoFd) != 0) {
    return message->fd_count == 0 ? Handling::kPass : Handling::kRefuse;
  }
  if (message->fd_count != 1 || !is_eventfd(message->fds[0])) return Handling::kRefuse;
  // The reactor reads and writes these and must never block.
  const int flags = fcntl(message->fds[0], F_GETFL);
  if (flags < 0 || fcntl(message->fds[0], F_SETFL, flags | O_NONBLOCK) != 0) {
    return Handling::kRefuse;
  }
  return Handling::kPass;
}

Handling VhostUserConnection::get_config(VhostMessage* message) {
  if (message->fd_count != 0 || message->bytes < kConfigHeaderBytes) return Handling::kRefuse;
  auto config = payload_of<ConfigMessage>(*message);
  if (config.bytes > kConfigBytesMax || config.offset > kConfigBytesMax - config.bytes ||
      message->bytes < kConfigHeaderBytes + config.bytes) {
    message->bytes = 0;  // an answer without a payload is the protocol's word for an error
    return Handling::kReply;
  }
  // The part of the 256 bytes that was asked for; behind the fields all is zero.
  std::array<uint8_t, kConfigBytesMax> space{};
  const virtio_blk_config fields =
      blk_config(geometry_(), static_cast<uint16_t>(rings_.size()), true);
  static_assert(sizeof fields <= kConfigBytesMax);
  std::memcpy(space.data(), &fields, sizeof fields);
  std::memcpy(config.region, space.data() + config.offset, config.bytes);
  set_payload(message, config);
  return Handling::kReply;
}

Handling VhostUserConnection::set_config(const VhostMessage& message) {
  const auto config = payload_of<ConfigMessage>(message);
  // The cache mode is all a guest may set, and only to what it is. A guest that is told "write
  // through" sends no flushes any more, and the front-end would not repeat the setting to a
  // back-end that was started anew. Refused, the guest reads "write back" again and goes on
  // flushing.
  const bool cache_mode = message.bytes >= kConfigHeaderBytes + 1 && config.bytes == 1 &&
                          config.offset == offsetof(virtio_blk_config, wce);
  return cache_mode && config.region[0] == 1 ? Handling::kDone : Handling::kRefuse;
}

Handling VhostUserConnection::get_inflight(VhostMessage* message) {
  auto wanted = payload_of<InflightMessage>(*message);
  if (message->fd_count != 0 || wanted.queues == 0 || wanted.queues > rings_.size() ||
      wanted.queue_size == 0 || wanted.queue_size > limits::kQueueSizeMax) {
    return Handling::kRefuse;
  }
  int fd = -1;
  const auto area = InflightArea::create(wanted.queues, wanted.queue_size, &fd);
  if (!area) return Handling::kRefuse;
  // It becomes ours when the front-end gives it back with SET_INFLIGHT_FD.
  wanted.mmap_bytes = (*area)->shape().bytes;
  wanted.mmap_offset = 0;
  set_payload(message, wanted);
  // Sent after we return, and not closed by the library: kept until the next message.
  message->fds[0] = fd;
  message->fd_count = 1;
  pending_fd_ = fd;
  return Handling::kReply;
}

Handling VhostUserConnection::set_inflight(VhostMessage* message) {
  const auto given = payload_of<InflightMessage>(*message);
  if (message->fd_count != 1 || given.queues > rings_.size()) return Handling::kRefuse;
  stop_all();
  inflight_ = nullptr;
  auto area = InflightArea::map(
      message->fds[0], {given.mmap_bytes, given.mmap_offset, given.queues, given.queue_size});
  if (!area) return Handling::kRefuse;
  inflight_ = std::move(*area);
  return Handling::kDone;
}

Handling VhostUserConnection::set_backend_channel(VhostMessage* message) {
  if (message->fd_count != 1) return Handling::kRefuse;
  if (backend_channel_ >= 0) close(backend_channel_);
  backend_channel_ = duplicate(message->fds[0]);
  return Handling::kDone;
}

void VhostUserConnection::notify_config_change() const {
  if (backend_channel_ < 0) return;
  const uint32_t header[3] = {kBackendConfigChange, kMessageVersion, 0};
  send(backend_channel_, header, sizeof header, MSG_DONTWAIT | MSG_NOSIGNAL);
}

bool VhostUserConnection::describe_queue(uint16_t index, VirtqueueSetup* setup) const {
  const Ring& ring = rings_[index];
  if (memory_ == nullptr || ring.size == 0) return false;
  const uint64_t features = vhost_library::negotiated_features(vid_);
  setup->size = ring.size;
  setup->event_idx = has(features, VIRTIO_RING_F_EVENT_IDX);
  setup->indirect = has(features, VIRTIO_RING_F_INDIRECT_DESC);
  const uint64_t event_bytes = setup->event_idx ? 2 : 0;
  setup->descriptors = memory_->translate_user(ring.addresses.descriptors, 16ull * ring.size);
  setup->available =
      memory_->translate_user(ring.addresses.available, 4 + 2ull * ring.size + event_bytes);
  setup->used = memory_->translate_user(ring.addresses.used, 4 + 8ull * ring.size + event_bytes);
  const auto aligned = [](const uint8_t* pointer, uintptr_t alignment) {
    return pointer != nullptr && reinterpret_cast<uintptr_t>(pointer) % alignment == 0;
  };
  if (!aligned(setup->descriptors, 16) || !aligned(setup->available, 2) ||
      !aligned(setup->used, 4)) {
    return false;
  }
  setup->memory = memory_;
  setup->inflight_area = inflight_;
  if (inflight_ != nullptr) setup->inflight = inflight_->queue(index);
  setup->link = link_;
  // Without FLUSH a guest takes every completed write for durable.
  link_->write_through.store(!has(features, VIRTIO_BLK_F_FLUSH));
  return true;
}

void VhostUserConnection::start_queue(uint16_t index) {
  VirtqueueSetup setup;
  if (!describe_queue(index, &setup)) {
    core_->reactor->post([core = core_] { core->malformed.add(1); });
    return;
  }
  const vhost_library::VringFds fds = vhost_library::vring_fds(vid_, index);
  setup.kick_fd = duplicate(fds.kick);
  setup.call_fd = duplicate(fds.call);
  rings_[index].running = std::make_unique<Virtqueue>(core_, std::move(setup));
  core_->reactor->post([queue = rings_[index].running.get()] { queue->start(); });
}

void VhostUserConnection::swap_call_fd(uint16_t index) {
  const int fd = duplicate(vhost_library::vring_fds(vid_, index).call);
  core_->reactor->post([queue = rings_[index].running.get(), fd] { queue->replace_call_fd(fd); });
}

void VhostUserConnection::stop_queue(uint16_t index) {
  Ring& ring = rings_[index];
  if (ring.running == nullptr) return;
  std::promise<void> stopped;
  core_->reactor->post(
      [queue = ring.running.get(), &stopped] { queue->stop([&stopped] { stopped.set_value(); }); });
  stopped.get_future().wait();
  vhost_library::set_vring_base(vid_, index, ring.running->next_available());
  ring.running = nullptr;
}

void VhostUserConnection::stop_all() {
  for (uint16_t i = 0; i < rings_.size(); ++i) stop_queue(i);
}

bool VhostUserConnection::peer_is_gone() const { return is_hung_up(link_->socket); }

void VhostUserConnection::retire(std::function<void()> on_gone) {
  // Dies with the last queue that holds it.
  const std::shared_ptr<void> last(nullptr, [on_gone = std::move(on_gone)](void*) { on_gone(); });
  for (Ring& ring : rings_) {
    ring.ready = false;
    if (ring.running == nullptr) continue;
    core_->reactor->post(
        [queue = ring.running.release(), last] { queue->stop([queue, last] { delete queue; }); });
  }
}

void VhostUserConnection::drop_if_library_faulted() {
  const uint64_t faults = SigbusGuard::instance().event_thread_faults();
  if (faults != library_faults_seen_) link_->drop();
  library_faults_seen_ = faults;
}

}  // namespace ep::exports

// SPDX-License-Identifier: Apache-2.0
#include "front-end/vhost_user_client.h"

#include <sys/eventfd.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

namespace ep::front_end {

Status VhostUserClient::connect() {
  FRONT_END_TRY(channel_.connect(options_.socket_path));
  FRONT_END_TRY(channel_.call_u64(kGetFeatures, &device_features_));
  if ((device_features_ & kFeatureVersion1) == 0) {
    return Status::error("back-end does not offer VIRTIO_F_VERSION_1");
  }
  uint64_t wanted = kFeatureVersion1 | kFeatureProtocol | kFeatureSegMax | kFeatureBlkSize |
                    kFeatureTopology | kFeatureFlush | kFeatureConfigWce | kFeatureMq |
                    kFeatureDiscard | kFeatureWriteZeroes | kFeatureReadOnly;
  if (options_.event_idx) wanted |= kFeatureEventIdx;
  if (options_.indirect) wanted |= kFeatureIndirect;
  features_ = device_features_ & wanted;
  protocol_ = 0;
  queue_limit_ = 1;
  if (has(kFeatureProtocol)) {
    uint64_t offered = 0;
    FRONT_END_TRY(channel_.call_u64(kGetProtocolFeatures, &offered));
    uint64_t take = kProtocolMq | kProtocolReplyAck | kProtocolConfig;
    if (options_.inflight) take |= kProtocolInflight;
    protocol_ = offered & take;
    FRONT_END_TRY(channel_.command(kSetProtocolFeatures, &protocol_, sizeof protocol_, false));
    if ((protocol_ & kProtocolMq) != 0) {
      FRONT_END_TRY(channel_.call_u64(kGetQueueNum, &queue_limit_));
    }
  }
  FRONT_END_TRY(command(kSetOwner, nullptr, 0));
  if (options_.queues < 1 || options_.queues > queue_limit_) {
    return Status::error("back-end has " + std::to_string(queue_limit_) + " queues, not " +
                         std::to_string(options_.queues));
  }
  if ((protocol_ & kProtocolConfig) == 0) {
    return Status::error("back-end does not offer the CONFIG protocol feature");
  }
  return read_config();
}

Status VhostUserClient::read_config() {
  uint8_t request[sizeof(ConfigHeader) + sizeof config_] = {};
  ConfigHeader header{0, sizeof config_, 0};
  std::memcpy(request, &header, sizeof header);
  Message reply;
  FRONT_END_TRY(channel_.call(kGetConfig, request, sizeof request, &reply));
  if (reply.payload.size() != sizeof request) {
    return Status::error("GET_CONFIG answered " + std::to_string(reply.payload.size()) + " bytes");
  }
  std::memcpy(&config_, reply.payload.data() + sizeof header, sizeof config_);
  return {};
}

Status VhostUserClient::command(uint32_t request, const void* payload, size_t size,
                                std::span<const int> fds) {
  return channel_.command(request, payload, size, (protocol_ & kProtocolReplyAck) != 0, fds);
}

Status VhostUserClient::create_memory() {
  if (memory_) return {};
  const uint64_t ring_bytes = 26ull * options_.queue_size + 3 * 4096;
  uint64_t bytes = options_.queues * ring_bytes + options_.data_bytes;
  // All rings must fit into the first region.
  bytes = std::max<uint64_t>(bytes, options_.queues * ring_bytes * options_.regions);
  auto memory = std::make_unique<GuestMemory>();
  FRONT_END_TRY(memory->create(bytes, options_.regions));
  std::vector<SplitRing> rings(options_.queues);
  for (SplitRing& ring : rings) {
    FRONT_END_TRY(ring.create(memory.get(), options_.queue_size, has(kFeatureEventIdx)));
    UniqueFd kick(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
    UniqueFd call(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
    if (!kick.valid() || !call.valid()) return Status::from_errno("eventfd", errno);
    kick_.push_back(std::move(kick));
    call_.push_back(std::move(call));
  }
  rings_ = std::move(rings);
  memory_ = std::move(memory);
  return {};
}

Status VhostUserClient::set_up_inflight() {
  if ((protocol_ & kProtocolInflight) == 0) return {};
  if (!inflight_fd_.valid()) {
    InflightInfo ask{0, 0, options_.queues, options_.queue_size};
    Message reply;
    FRONT_END_TRY(channel_.call(kGetInflightFd, &ask, sizeof ask, &reply));
    if (reply.payload.size() < sizeof inflight_ || reply.fds.size() != 1) {
      return Status::error("GET_INFLIGHT_FD answered no area");
    }
    std::memcpy(&inflight_, reply.payload.data(), sizeof inflight_);
    inflight_fd_ = std::move(reply.fds[0]);
    inflight_.num_queues = options_.queues;
    inflight_.queue_size = options_.queue_size;
  }
  int fd = inflight_fd_.get();
  return command(kSetInflightFd, &inflight_, sizeof inflight_, {&fd, 1});
}

Status VhostUserClient::set_features() {
  return command(kSetFeatures, &features_, sizeof features_);
}

Status VhostUserClient::set_mem_table() {
  size_t size;
  MemTable table = memory_->table(&size);
  std::vector<int> fds = memory_->region_fds();
  return command(kSetMemTable, &table, size, fds);
}

Status VhostUserClient::set_up_vring(uint16_t queue) {
  SplitRing& ring = rings_[queue];
  VringState num{queue, ring.size()};
  FRONT_END_TRY(command(kSetVringNum, &num, sizeof num));
  // After a death nobody can be asked for the base: like QEMU, take the used index. What was
  // taken from the available ring and not completed, the back-end knows from the in-flight area.
  VringState base{queue, ring.device_used_idx()};
  FRONT_END_TRY(command(kSetVringBase, &base, sizeof base));
  VringAddr addr{};
  addr.index = queue;
  addr.desc = memory_->user_address(ring.descriptor_guest());
  addr.avail = memory_->user_address(ring.avail_guest());
  addr.used = memory_->user_address(ring.used_guest());
  FRONT_END_TRY(command(kSetVringAddr, &addr, sizeof addr));
  uint64_t index = queue;
  int kick = kick_[queue].get();
  FRONT_END_TRY(command(kSetVringKick, &index, sizeof index, {&kick, 1}));
  int call = call_[queue].get();
  return command(kSetVringCall, &index, sizeof index, {&call, 1});
}

Status VhostUserClient::enable_vring(uint16_t queue) {
  if (!has(kFeatureProtocol)) return {};
  VringState enable{queue, 1};
  return command(kSetVringEnable, &enable, sizeof enable);
}

Status VhostUserClient::start() {
  FRONT_END_TRY(create_memory());
  FRONT_END_TRY(set_up_inflight());
  FRONT_END_TRY(set_features());
  FRONT_END_TRY(set_mem_table());
  for (uint16_t q = 0; q < options_.queues; q++) FRONT_END_TRY(set_up_vring(q));
  for (uint16_t q = 0; q < options_.queues; q++) FRONT_END_TRY(enable_vring(q));
  for (uint16_t q = 0; q < options_.queues; q++) kick(q);
  return {};
}

Status VhostUserClient::stop() {
  for (uint16_t q = 0; q < options_.queues; q++) {
    VringState ask{q, 0};
    Message reply;
    FRONT_END_TRY(channel_.call(kGetVringBase, &ask, sizeof ask, &reply, 30000));
    VringState base{};
    if (reply.payload.size() != sizeof base) return Status::error("bad GET_VRING_BASE answer");
    std::memcpy(&base, reply.payload.data(), sizeof base);
    if (static_cast<uint16_t>(base.num) != rings_[q].avail_idx()) {
      return Status::error("queue " + std::to_string(q) + " stopped at " +
                           std::to_string(base.num) + ", the driver is at " +
                           std::to_string(rings_[q].avail_idx()));
    }
  }
  channel_.close();
  return {};
}

void VhostUserClient::kick(uint16_t queue) {
  const uint64_t one = 1;
  // Fails only when the counter is full: then a kick is pending anyway.
  [[maybe_unused]] ssize_t written = ::write(kick_[queue].get(), &one, sizeof one);
}

void VhostUserClient::drain_call(uint16_t queue) {
  uint64_t count;
  // Fails only when there is nothing to drain.
  [[maybe_unused]] ssize_t got = ::read(call_[queue].get(), &count, sizeof count);
}

bool VhostUserClient::lost() {
  if (!channel_.is_open()) return true;
  if (!channel_.peer_gone()) return false;
  channel_.close();
  return true;
}

}  // namespace ep::front_end

// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "front-end/channel.h"
#include "front-end/guest_memory.h"
#include "front-end/protocol.h"
#include "front-end/split_ring.h"
#include "front-end/status.h"

namespace ep::front_end {

struct ClientOptions {
  std::string socket_path;
  uint16_t queues = 1;
  uint16_t queue_size = 128;
  bool event_idx = true;
  bool indirect = true;
  /// Whether to take INFLIGHT_SHMFD when it is offered.
  bool inflight = true;
  /// Guest memory beside the rings, and into how many regions all is cut.
  uint64_t data_bytes = 1 << 20;
  uint32_t regions = 1;
};

/// One vhost-user connection to a vhost-user-blk back-end, as QEMU's vhost-user-blk makes it.
/// Owns guest memory, rings, eventfds and the in-flight area; these outlive a back-end, so that
/// `connect` + `start` after its death replays the set-up with what was in flight. One thread.
class VhostUserClient {
 public:
  explicit VhostUserClient(ClientOptions options) : options_(std::move(options)) {}

  /// Connects, negotiates features and reads the config space.
  Status connect();
  /// Makes memory and rings (first time), then does the set-up that ends with running queues.
  /// Afterwards kicks every queue: after a restart requests may wait in it.
  Status start();
  /// The orderly end: GET_VRING_BASE of each queue, which a back-end answers when nothing is in
  /// flight any more, then closes.
  Status stop();
  /// Closes at once.
  void disconnect() { channel_.close(); }

  // The steps of start(), for tests that do them in their own way.
  Status create_memory();
  Status set_up_inflight();
  Status set_features();
  Status set_mem_table();
  Status set_up_vring(uint16_t queue);
  Status enable_vring(uint16_t queue);

  void kick(uint16_t queue);
  /// Clears the interrupt of a queue.
  void drain_call(uint16_t queue);
  int call_fd(uint16_t queue) const { return call_[queue].get(); }
  int kick_fd(uint16_t queue) const { return kick_[queue].get(); }
  int inflight_fd() const { return inflight_fd_.get(); }
  const InflightInfo& inflight_info() const { return inflight_; }

  bool connected() const { return channel_.is_open(); }
  /// True when the peer is gone; the connection is closed then.
  bool lost();

  Channel& channel() { return channel_; }
  GuestMemory& memory() { return *memory_; }
  SplitRing& ring(uint16_t queue) { return rings_[queue]; }
  const ClientOptions& options() const { return options_; }
  const BlkConfig& config() const { return config_; }
  uint64_t capacity_bytes() const { return config_.capacity * kSectorBytes; }
  uint64_t device_features() const { return device_features_; }
  uint64_t features() const { return features_; }
  bool has(uint64_t feature) const { return (features_ & feature) == feature; }
  uint64_t protocol_features() const { return protocol_; }
  bool inflight_active() const { return inflight_fd_.valid(); }
  uint64_t queue_limit() const { return queue_limit_; }

 private:
  Status command(uint32_t request, const void* payload, size_t size, std::span<const int> fds = {});
  Status read_config();

  ClientOptions options_;
  Channel channel_;
  uint64_t device_features_ = 0;
  uint64_t features_ = 0;
  uint64_t protocol_ = 0;
  uint64_t queue_limit_ = 1;
  BlkConfig config_{};
  std::unique_ptr<GuestMemory> memory_;
  std::vector<SplitRing> rings_;
  std::vector<UniqueFd> kick_;
  std::vector<UniqueFd> call_;
  UniqueFd inflight_fd_;
  InflightInfo inflight_{};
};

}  // namespace ep::front_end

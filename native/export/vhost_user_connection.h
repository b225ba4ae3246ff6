// SPDX-License-Identifier: Apache-2.0
#pragma once

// The control side of one front-end's connection: what it told us about memory, rings and in-flight
// area, and which queues run on the reactor. All on rte_vhost's event thread (the export serialises
// that with its own stop()).
//
// Whatever changes what a running queue stands on (memory table, ring address, size, base,
// in-flight area) stops it first, which waits until the device has answered everything; after the
// message the queue starts anew.

#include <functional>
#include <memory>
#include <vector>

#include "export/rte_vhost_library.h"
#include "export/virtqueue.h"

namespace ep::exports {

class VhostUserConnection {
 public:
  /// `geometry` is asked for every GET_CONFIG. `socket` is a duplicate of our own, or -1.
  VhostUserConnection(int vid, uint16_t queues, ExportCore* core,
                      std::function<block::Geometry()> geometry, int socket);
  /// Only after retire().
  ~VhostUserConnection();

  [[nodiscard]] int vid() const { return vid_; }
  VhostDriver::Handling before_message(VhostMessage* message);
  void after_message(uint32_t request);
  void on_queue_state(uint16_t queue, bool ready);

  /// The front-end has closed its side.
  [[nodiscard]] bool peer_is_gone() const;

  /// Begins the end: queues finish what they have and go, without waiting here. `on_gone` is called
  /// when the last is gone, on the reactor or, when there was none, at once.
  void retire(std::function<void()> on_gone);

  /// Sends "the config space has changed" if the front-end gave us a channel. Never blocks.
  void notify_config_change() const;

 private:
  struct Ring {
    VringAddresses addresses{};
    uint16_t size = 0;
    bool ready = false;
    std::unique_ptr<Virtqueue> running;
  };

  VhostDriver::Handling set_memory(VhostMessage* message);
  VhostDriver::Handling set_ring(VhostMessage* message);
  VhostDriver::Handling check_ring_fd(VhostMessage* message);
  VhostDriver::Handling get_config(VhostMessage* message);
  VhostDriver::Handling set_config(const VhostMessage& message);
  VhostDriver::Handling get_inflight(VhostMessage* message);
  VhostDriver::Handling set_inflight(VhostMessage* message);
  VhostDriver::Handling set_backend_channel(VhostMessage* message);

  void start_queue(uint16_t index);
  /// Fills in everything but the descriptors; false when the rings are not where they should be.
  bool describe_queue(uint16_t index, VirtqueueSetup* setup) const;
  void swap_call_fd(uint16_t index);
  void stop_queue(uint16_t index);
  void stop_all();
  /// Guest memory that the library touched by itself was taken away.
  void drop_if_library_faulted();

  const int vid_;
  ExportCore* const core_;
  const std::function<block::Geometry()> geometry_;
  std::vector<Ring> rings_;
  std::shared_ptr<const GuestMemory> memory_;
  std::shared_ptr<const InflightArea> inflight_;
  std::shared_ptr<ConnectionLink> link_;
  int backend_channel_ = -1;
  /// An in-flight area's descriptor on its way to the front-end.
  int pending_fd_ = -1;
  uint32_t current_request_ = 0;
  uint64_t library_faults_seen_ = 0;
};

}  // namespace ep::exports

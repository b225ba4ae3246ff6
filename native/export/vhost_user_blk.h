// SPDX-License-Identifier: Apache-2.0
#pragma once

// The vhost-user-blk door: turns a front-end's virtqueues into block::Requests on one device. The
// protocol engine is rte_vhost, seen by vhost_user_blk.cc (or one file beside it) only.

#include <cstdint>
#include <memory>
#include <string>

#include "base/status.h"
#include "block/device.h"
#include "reactor/reactor.h"

namespace ep::exports {

struct VhostUserBlkOptions {
  /// The socket's path; its folder exists (0700) and belongs to this export alone.
  std::string path;
  uint32_t queues = 1;
  /// Answer to GET_ID, at most 20 bytes.
  std::string serial;
  /// Owner of the socket; -1 leaves it to the process.
  int64_t uid = -1;
  int64_t gid = -1;
  /// Test seam: false drops what was in flight at the last back-end's death instead of
  /// resubmitting it, to show that the kill tests would notice.
  bool resubmit_in_flight = true;
};

struct VhostUserBlkStats {
  uint64_t requests = 0;
  uint64_t read_bytes = 0;
  uint64_t write_bytes = 0;
  uint64_t errors = 0;     // requests completed with an error
  uint64_t malformed = 0;  // of these, refused before the device saw them
  uint64_t resubmitted = 0;
  uint64_t connections = 0;  // since creation
  bool connected = false;
  uint32_t in_flight = 0;
};

/// One listening socket with at most one front-end. Created, stopped and asked from any thread but
/// the reactor's; the device is used on the reactor only.
class VhostUserBlk {
 public:
  virtual ~VhostUserBlk() = default;

  /// Listens when it returns; the device must already be ready to serve. Brings up the process's
  /// EAL on first use. kInvalidArgument for a path over 107 bytes or bad counts.
  static Result<std::unique_ptr<VhostUserBlk>> create(const VhostUserBlkOptions& options,
                                                      reactor::Reactor* reactor,
                                                      block::Device* device);
  /// Takes no new requests, waits for those in flight, disconnects and stops listening. After it
  /// the device is no longer referenced. Idempotent.
  virtual void stop() = 0;
  /// Tells the guest that the device has changed its size.
  virtual void notify_geometry() = 0;
  [[nodiscard]] virtual VhostUserBlkStats stats() const = 0;
};

}  // namespace ep::exports

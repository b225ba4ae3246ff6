// SPDX-License-Identifier: Apache-2.0
#pragma once

// The only door to DPDK's rte_vhost: sockets, the message loop, and when a queue is ready. The
// library has one event thread for all sockets of the process; every VhostDriver call comes on it.

#include <cstdint>
#include <string>

#include "base/status.h"
#include "export/vhost_user_message.h"

namespace ep::exports {

/// What an export says to the library's events. `vid` names the connection.
class VhostDriver {
 public:
  enum class Handling : uint8_t {
    kPass,    // the library handles the message
    kDone,    // handled
    kReply,   // handled; the message is the answer now
    kRefuse,  // an error: the acknowledgement says so, or the connection ends
  };

  virtual ~VhostDriver() = default;
  /// False: this connection is not wanted.
  virtual bool on_connected(int vid) = 0;
  /// The library frees all it has of the connection when this returns.
  virtual void on_disconnected(int vid) = 0;
  /// Before the library looks at a message. Descriptors of a message that is not passed on are
  /// closed by the binding, except where `fds` says -1.
  virtual Handling before_message(int vid, VhostMessage* message) = 0;
  /// After a message that succeeded.
  virtual void after_message(int vid, uint32_t request) = 0;
  /// A queue has, or no longer has, all that it needs to run.
  virtual void on_queue_state(int vid, uint16_t queue, bool ready) = 0;
};

namespace vhost_library {

/// Binds and listens on `path`. A socket that is there already was left by a process that was
/// killed and is replaced; another kind of file is kAlreadyExists. kBusy when this process listens
/// there. `driver` is used until close() has returned.
Status listen(const std::string& path, uint64_t features, VhostDriver* driver);

/// Ends the connection, if any, without on_disconnected, stops listening and removes the socket.
/// Waits for a call to the driver that is being made, so the caller must hold no lock that it
/// needs.
void close(const std::string& path, VhostDriver* driver);

// From inside a VhostDriver call only.
uint64_t negotiated_features(int vid);
/// The library's own descriptors, or negative numbers.
struct VringFds {
  int kick = -1;
  int call = -1;
};
VringFds vring_fds(int vid, uint16_t queue);
/// What GET_VRING_BASE will answer.
void set_vring_base(int vid, uint16_t queue, uint16_t base);

}  // namespace vhost_library

}  // namespace ep::exports

// SPDX-License-Identifier: Apache-2.0

// rte_vhost.h is not aware of C++ and of two headers that it needs.
#define VIRTIO_RING_NO_LEGACY
// clang-format off
#include <linux/vhost_types.h>
#include <linux/virtio_ring.h>
#include <rte_vhost.h>
// clang-format on
#include <rte_version.h>
#include <sys/stat.h>
#include <unistd.h>

#include <array>
#include <atomic>
#include <cerrno>
#include <cstddef>
#include <cstring>
#include <map>
#include <mutex>

#include "export/event_thread.h"
#include "export/rte_vhost_library.h"

#if RTE_VER_YEAR != 22 || RTE_VER_MONTH != 11
#error "look up struct vhu_msg_context in this DPDK's vhost_user.h: VhostMessage mirrors 22.11's"
#endif

namespace ep::exports {

namespace {

constexpr size_t kConnectionsMax = RTE_MAX_VHOST_DEVICE;

/// Which driver a socket or a connection belongs to. The library's callbacks carry a number only.
struct Registry {
  std::mutex mutex;
  std::map<std::string, VhostDriver*> by_path;
  std::array<std::atomic<VhostDriver*>, kConnectionsMax> by_vid{};
};

Registry& registry() {
  static Registry the_registry;
  return the_registry;
}

VhostDriver* driver_of(int vid) {
  if (vid < 0 || static_cast<size_t>(vid) >= kConnectionsMax) return nullptr;
  return registry().by_vid[static_cast<size_t>(vid)].load();
}

void close_fds(VhostMessage* message) {
  for (int i = 0; i < message->fd_count && i < static_cast<int>(kMessageFdsMax); ++i) {
    if (message->fds[i] >= 0) ::close(message->fds[i]);
    message->fds[i] = -1;
  }
  message->fd_count = 0;
}

rte_vhost_msg_result before(int vid, void* raw) {
  auto* message = static_cast<VhostMessage*>(raw);
  VhostDriver* driver = driver_of(vid);
  const auto handling =
      driver != nullptr ? driver->before_message(vid, message) : VhostDriver::Handling::kRefuse;
  switch (handling) {
    case VhostDriver::Handling::kPass:
      return RTE_VHOST_MSG_RESULT_NOT_HANDLED;
    case VhostDriver::Handling::kReply:
      return RTE_VHOST_MSG_RESULT_REPLY;
    case VhostDriver::Handling::kDone:
      close_fds(message);
      return RTE_VHOST_MSG_RESULT_OK;
    case VhostDriver::Handling::kRefuse:
      break;
  }
  close_fds(message);
  return RTE_VHOST_MSG_RESULT_ERR;
}

rte_vhost_msg_result after(int vid, void* raw) {
  VhostDriver* driver = driver_of(vid);
  if (driver != nullptr) driver->after_message(vid, static_cast<VhostMessage*>(raw)->request);
  return RTE_VHOST_MSG_RESULT_NOT_HANDLED;  // changes nothing about the outcome
}

constexpr rte_vhost_user_extern_ops kMessageOps = {before, after};

int new_connection(int vid) {
  char path[4096];
  if (rte_vhost_get_ifname(vid, path, sizeof path) != 0) return -1;
  Registry& all = registry();
  VhostDriver* driver = nullptr;
  {
    const std::lock_guard guard(all.mutex);
    const auto found = all.by_path.find(path);
    if (found == all.by_path.end()) return -1;
    driver = found->second;
  }
  if (rte_vhost_extern_callback_register(vid, &kMessageOps, nullptr) != 0) return -1;
  if (!driver->on_connected(vid)) return -1;
  all.by_vid[static_cast<size_t>(vid)].store(driver);
  return 0;
}

void destroy_connection(int vid) {
  VhostDriver* driver = driver_of(vid);
  if (driver == nullptr) return;
  driver->on_disconnected(vid);
  registry().by_vid[static_cast<size_t>(vid)].store(nullptr);
}

int vring_state_changed(int vid, uint16_t queue, int enable) {
  VhostDriver* driver = driver_of(vid);
  if (driver != nullptr) driver->on_queue_state(vid, queue, enable != 0);
  return 0;
}

// No new_device and destroy_device: they do not come for a guest that uses fewer queues than it
// has.
constexpr rte_vhost_device_ops kDeviceOps = {
    .new_device = nullptr,
    .destroy_device = nullptr,
    .vring_state_changed = vring_state_changed,
    .features_changed = nullptr,
    .new_connection = new_connection,
    .destroy_connection = destroy_connection,
    .guest_notified = nullptr,
    .reserved = {nullptr},
};

constexpr uint64_t kProtocolFeatures =
    1ull << VHOST_USER_PROTOCOL_F_MQ | 1ull << VHOST_USER_PROTOCOL_F_CONFIG |
    1ull << VHOST_USER_PROTOCOL_F_INFLIGHT_SHMFD | 1ull << VHOST_USER_PROTOCOL_F_REPLY_ACK |
    1ull << VHOST_USER_PROTOCOL_F_SLAVE_REQ;

/// A killed process leaves its socket behind; anything else in its place is not ours to remove.
Status remove_stale_socket(const std::string& path) {
  struct stat about {};
  if (lstat(path.c_str(), &about) != 0) return Status::ok();
  if (!S_ISSOCK(about.st_mode)) {
    return Status(Code::kAlreadyExists, path + " exists and is not a socket");
  }
  if (unlink(path.c_str()) != 0) return Status::from_errno(errno, "remove old socket " + path);
  return Status::ok();
}

Status register_and_start(const std::string& path, uint64_t features) {
  const char* name = path.c_str();
  const uint64_t bits = features | 1ull << VHOST_USER_F_PROTOCOL_FEATURES;
  if (rte_vhost_driver_register(name, 0) == 0) {
    const EventThreadSignals signals;  // the first start makes the event thread
    if (rte_vhost_driver_set_features(name, bits) == 0 &&
        rte_vhost_driver_callback_register(name, &kDeviceOps) == 0 &&
        rte_vhost_driver_set_protocol_features(name, kProtocolFeatures) == 0 &&
        rte_vhost_driver_start(name) == 0) {
      wake_event_thread();
      return Status::ok();
    }
    rte_vhost_driver_unregister(name);
  }
  return Status(Code::kIoError, "cannot listen on the vhost-user socket " + path);
}

}  // namespace

namespace vhost_library {

Status listen(const std::string& path, uint64_t features, VhostDriver* driver) {
  Registry& all = registry();
  {
    const std::lock_guard guard(all.mutex);
    if (!all.by_path.emplace(path, driver).second) {
      return Status(Code::kBusy, "this process already exports " + path);
    }
  }
  // Only now: a socket of another export of this process is not stale.
  Status status = remove_stale_socket(path);
  if (status) status = register_and_start(path, features);
  if (status) return status;
  const std::lock_guard guard(all.mutex);
  all.by_path.erase(path);
  return status;
}

void close(const std::string& path, VhostDriver* driver) {
  rte_vhost_driver_unregister(path.c_str());
  // The library has made its last call for this path. What is left is a connection it cut itself.
  Registry& all = registry();
  for (auto& slot : all.by_vid) {
    VhostDriver* expected = driver;
    slot.compare_exchange_strong(expected, nullptr);
  }
  const std::lock_guard guard(all.mutex);
  all.by_path.erase(path);
}

uint64_t negotiated_features(int vid) {
  uint64_t features = 0;
  if (rte_vhost_get_negotiated_features(vid, &features) != 0) return 0;
  return features;
}

VringFds vring_fds(int vid, uint16_t queue) {
  rte_vhost_vring vring{};
  if (rte_vhost_get_vhost_vring(vid, queue, &vring) != 0) return {};
  return {vring.kickfd, vring.callfd};
}

void set_vring_base(int vid, uint16_t queue, uint16_t base) {
  rte_vhost_set_vring_base(vid, queue, base, base);
}

}  // namespace vhost_library

}  // namespace ep::exports

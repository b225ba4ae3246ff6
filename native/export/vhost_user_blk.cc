// SPDX-License-Identifier: Apache-2.0
#include "export/vhost_user_blk.h"

#include <sys/stat.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <chrono>
#include <condition_variable>
#include <mutex>
#include <thread>
#include <utility>

#include "export/descriptors.h"
#include "export/eal.h"
#include "export/rte_vhost_library.h"
#include "export/vhost_user_connection.h"

namespace ep::exports {

namespace {

constexpr int kHalfMessageSeconds = 2;
/// How long a new connection waits for the requests of the last one. It holds the library's only
/// event thread, so it is short; a front-end that is refused tries again.
constexpr std::chrono::milliseconds kRetireWait{500};

Status check(const VhostUserBlkOptions& options) {
  if (options.path.empty() || options.path.size() > limits::kSocketPathBytesMax) {
    return Status(Code::kInvalidArgument,
                  "a socket path has 1 to " + std::to_string(limits::kSocketPathBytesMax) +
                      " bytes, this one " + std::to_string(options.path.size()));
  }
  if (options.queues == 0 || options.queues > limits::kQueuesPerExportMax) {
    return Status(Code::kInvalidArgument, "an export has 1 to " +
                                              std::to_string(limits::kQueuesPerExportMax) +
                                              " queues, not " + std::to_string(options.queues));
  }
  if (options.serial.size() > kIdBytes) {
    return Status(Code::kInvalidArgument, "a serial has at most 20 bytes");
  }
  return Status::ok();
}

class Export final : public VhostUserBlk, private VhostDriver {
 public:
  Export(const VhostUserBlkOptions& options, reactor::Reactor* reactor, block::Device* device)
      : options_(options) {
    core_.reactor = reactor;
    core_.device = device;
    core_.resubmit_in_flight = options.resubmit_in_flight;
    core_.facts.id = id_of(options.serial);
  }
  ~Export() override { stop(); }

  Status start();
  void stop() override;
  void notify_geometry() override;
  [[nodiscard]] VhostUserBlkStats stats() const override;

 private:
  bool on_connected(int vid) override;
  void on_disconnected(int vid) override;
  Handling before_message(int vid, VhostMessage* message) override;
  void after_message(int vid, uint32_t request) override;
  void on_queue_state(int vid, uint16_t queue, bool ready) override;

  void read_geometry();
  block::Geometry geometry() const;
  /// Under mutex_. The connection, if it is this one.
  VhostUserConnection* connection(int vid);
  void retire_connection();

  const VhostUserBlkOptions options_;
  ExportCore core_;
  mutable std::mutex geometry_mutex_;
  block::Geometry geometry_;  // guarded by geometry_mutex_

  /// Held over whole messages, and so while a queue is being drained; never taken on the reactor
  /// while a message may wait for it (on_gone comes only when there is no connection).
  std::mutex mutex_;
  std::condition_variable changed_;
  std::unique_ptr<VhostUserConnection> connection_;
  /// Queues of an ended connection still have requests in the device. Until they are done there is
  /// no new connection: its requests must not overtake them.
  bool retiring_ = false;
  bool stopping_ = false;
  bool listening_ = false;
  std::atomic<uint64_t> connections_{0};
  std::atomic<bool> connected_{false};
};

Status Export::start() {
  read_geometry();
  EP_TRY(vhost_library::listen(options_.path, blk_features(geometry()), this));
  listening_ = true;
  const int listener = find_socket(options_.path, true);
  if (listener >= 0) close_on_exec(listener);
  if (chmod(options_.path.c_str(), 0600) != 0) {
    return Status::from_errno(errno, "chmod " + options_.path);
  }
  if (options_.uid >= 0 || options_.gid >= 0) {
    if (chown(options_.path.c_str(), static_cast<uid_t>(options_.uid),
              static_cast<gid_t>(options_.gid)) != 0) {
      return Status::from_errno(errno, "chown " + options_.path);
    }
  }
  return Status::ok();
}

void Export::stop() {
  {
    std::unique_lock lock(mutex_);
    stopping_ = true;
    if (connection_ != nullptr) retire_connection();
    changed_.wait(lock, [this] { return !retiring_; });
    if (!std::exchange(listening_, false)) return;
  }
  // Without the mutex: it waits for a message that is being handled.
  vhost_library::close(options_.path, this);
  // Small things that were posted and not waited for still name this object.
  core_.reactor->call([] {});
}

void Export::read_geometry() {
  block::Geometry now;
  core_.reactor->call([this, &now] {
    now = core_.device->geometry();
    core_.facts.capacity_bytes = now.size_bytes;
    core_.facts.read_only = now.read_only;
    core_.facts.can_discard = now.can_discard;
    core_.facts.can_write_zeroes = now.can_write_zeroes;
  });
  const std::lock_guard guard(geometry_mutex_);
  geometry_ = now;
}

block::Geometry Export::geometry() const {
  const std::lock_guard guard(geometry_mutex_);
  return geometry_;
}

void Export::notify_geometry() {
  read_geometry();
  const std::lock_guard guard(mutex_);
  if (connection_ != nullptr) connection_->notify_config_change();
}

VhostUserBlkStats Export::stats() const {
  VhostUserBlkStats stats;
  stats.requests = core_.requests.value();
  stats.read_bytes = core_.read_bytes.value();
  stats.write_bytes = core_.write_bytes.value();
  stats.errors = core_.errors.value();
  stats.malformed = core_.malformed.value();
  stats.resubmitted = core_.resubmitted.value();
  stats.connections = connections_.load();
  stats.connected = connected_.load();
  stats.in_flight = static_cast<uint32_t>(core_.in_flight.value());
  return stats;
}

VhostUserConnection* Export::connection(int vid) {
  return connection_ != nullptr && connection_->vid() == vid ? connection_.get() : nullptr;
}

void Export::retire_connection() {
  retiring_ = true;
  connected_.store(false);
  // `changed_` is signalled under the lock, so that a stop() that sees it may end and free us.
  const std::unique_ptr<VhostUserConnection> ended = std::move(connection_);
  bool done_here = false;
  const auto this_thread = std::this_thread::get_id();
  ended->retire([this, this_thread, &done_here] {
    if (std::this_thread::get_id() == this_thread) {
      done_here = true;
      return;
    }
    const std::lock_guard guard(mutex_);
    retiring_ = false;
    changed_.notify_all();
  });
  if (done_here) retiring_ = false;
}

bool Export::on_connected(int vid) {
  SigbusGuard::instance().adopt_event_thread();
  std::unique_lock lock(mutex_);
  // A front-end that comes back at once may be heard before the end of its last connection is.
  if (connection_ != nullptr && connection_->peer_is_gone()) retire_connection();
  changed_.wait_for(lock, kRetireWait, [this] { return !retiring_; });
  if (stopping_ || retiring_ || connection_ != nullptr) return false;
  const int socket = find_socket(options_.path, false);
  if (socket < 0) return false;
  close_on_exec(socket);
  limit_socket_waits(socket, kHalfMessageSeconds);
  connection_ = std::make_unique<VhostUserConnection>(
      vid, static_cast<uint16_t>(options_.queues), &core_, [this] { return geometry(); },
      duplicate(socket));
  connections_.fetch_add(1);
  connected_.store(true);
  return true;
}

void Export::on_disconnected(int vid) {
  const std::lock_guard guard(mutex_);
  if (connection(vid) != nullptr) retire_connection();
}

VhostDriver::Handling Export::before_message(int vid, VhostMessage* message) {
  const std::lock_guard guard(mutex_);
  VhostUserConnection* current = connection(vid);
  return current != nullptr ? current->before_message(message) : Handling::kRefuse;
}

void Export::after_message(int vid, uint32_t request) {
  const std::lock_guard guard(mutex_);
  if (VhostUserConnection* current = connection(vid)) current->after_message(request);
}

void Export::on_queue_state(int vid, uint16_t queue, bool ready) {
  const std::lock_guard guard(mutex_);
  if (VhostUserConnection* current = connection(vid)) current->on_queue_state(queue, ready);
}

}  // namespace

Result<std::unique_ptr<VhostUserBlk>> VhostUserBlk::create(const VhostUserBlkOptions& options,
                                                           reactor::Reactor* reactor,
                                                           block::Device* device) {
  EP_TRY(check(options));
  EP_TRY(ensure_eal());
  auto made = std::make_unique<Export>(options, reactor, device);
  EP_TRY(made->start());
  return std::unique_ptr<VhostUserBlk>(std::move(made));
}

}  // namespace ep::exports

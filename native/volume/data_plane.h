// SPDX-License-Identifier: Apache-2.0
#pragma once

// All groups of one process, spread over its reactors.

#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <shared_mutex>
#include <string>
#include <vector>

#include "io/posix_file_system.h"
#include "volume/group.h"

namespace ep::volume {

struct DataPlaneOptions {
  std::string state_folder;
  uint32_t reactors = 1;
  /// For the rings of all log buffers together (design 4); 0: a quarter of the machine's memory.
  uint64_t buffer_budget_bytes = 0;
  Faults faults;
};

/// Events of all groups; called on reactor threads, must not block.
struct DataPlaneEvents {
  std::function<void(const Uuid& group, const log::SegmentInfo&)> sealed;
  std::function<void(const Uuid& group, const format::Gap&)> gap;
};

/// Every call blocks until it is done and may come from any thread but a reactor's. Calls for one
/// group run side by side; opening and closing it exclude all others.
class DataPlane {
 public:
  static Result<std::unique_ptr<DataPlane>> create(const DataPlaneOptions& options,
                                                   DataPlaneEvents events);
  ~DataPlane();

  Result<GroupStatus> open_group(const GroupConfig& config, bool create);
  /// With `forget` also a group that is not open; kNotFound for that otherwise.
  Status close_group(const Uuid& id, bool forget);
  Status set_modes(const Uuid& id, const GroupModes& modes);
  Status pause(const Uuid& id);
  Status resume(const Uuid& id);
  Result<GroupStatus> status(const Uuid& id);
  Result<Group::Marked> add_marker(const Uuid& id, const std::string& label,
                                   uint64_t keep_until_ns);
  Result<uint64_t> sync_log(const Uuid& id);
  Result<uint64_t> seal(const Uuid& id);
  Result<std::vector<log::SegmentInfo>> segments(const Uuid& id, uint64_t after);
  /// What the system did not allow, in words.
  [[nodiscard]] std::vector<std::string> notes() const;
  /// Closes every group cleanly and stops the reactors. The first failure is reported, the rest
  /// goes on. Nothing can be opened afterwards.
  Status close();

 private:
  struct Slot {
    GroupConfig config;
    GroupEnvironment environment;
    std::shared_mutex mutex;  // exclusive to open and close, shared to ask
    std::unique_ptr<Group> group;
  };
  DataPlane() = default;
  std::shared_ptr<Slot> find(const Uuid& id);
  Status forget_closed(const Uuid& id);
  template <typename T, typename Ask>
  Result<T> ask(const Uuid& id, Ask ask);

  DataPlaneOptions options_;
  DataPlaneEvents events_;
  io::PosixFileSystem file_system_;
  std::unique_ptr<nvram::BufferBudget> budget_;
  std::vector<std::unique_ptr<reactor::Reactor>> reactors_;
  mutable std::mutex mutex_;
  std::map<std::string, std::shared_ptr<Slot>> groups_;
  std::vector<std::string> notes_;
  size_t next_reactor_ = 0;
  bool closed_ = false;
};

}  // namespace ep::volume

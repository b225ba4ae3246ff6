// SPDX-License-Identifier: Apache-2.0
#pragma once

// The devices of a group as its log writer sees them: which one takes the next segment, which is in
// trouble, when it is tried again. All of it belongs to the writer's reactor, but for the blocking
// part, which works on copies.

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "base/status.h"
#include "io/io.h"
#include "log/segment_file.h"
#include "log/segment_info.h"

namespace ep::log {

enum class DeviceState : uint8_t { kOk, kFailed, kFull };

/// For people and the control plane.
struct DeviceStatus {
  Uuid device;
  DeviceState state = DeviceState::kOk;
  std::string reason;     // empty when ok
  uint64_t since_ns = 0;  // wall time; 0: since the group was opened
};

/// What decides who takes the next segment.
struct DeviceChoice {
  size_t index = 0;
  uint64_t free_bytes = 0;
  uint64_t total_bytes = 0;
  /// Bytes of segments that it was given in this run.
  uint64_t given_bytes = 0;
  bool recent_trouble = false;
};

/// Below this much free space a device counts as full: 64 MiB or 1 %, whichever is more, but never
/// more than a sixteenth of a small device.
uint64_t space_reserve(uint64_t total_bytes);

/// Indices into `choices`, best first: without trouble and with room; then full ones; then those
/// with recent trouble. Among equals segments are spread in proportion to free space: the one that
/// was given the smallest part of what it has comes first.
std::vector<size_t> order_devices(std::span<const DeviceChoice> choices);

struct DevicePoolOptions {
  /// After a failure a device is left alone for `retry_min_ns`, then twice that, up to
  /// `retry_max_ns`, until it works.
  uint64_t retry_min_ns = 50'000'000;
  uint64_t retry_max_ns = 2'000'000'000;
  /// For this long after its last failure it takes a segment only when no other device can.
  uint64_t trust_again_ns = 30'000'000'000;
};

class DevicePool {
 public:
  DevicePool(std::vector<DeviceFolder> folders, DevicePoolOptions options);
  DevicePool(const DevicePool&) = delete;
  DevicePool& operator=(const DevicePool&) = delete;

  [[nodiscard]] size_t size() const { return folders_.size(); }
  [[nodiscard]] const std::vector<DeviceFolder>& folders() const { return folders_; }
  /// Of one of folders().
  [[nodiscard]] size_t index_of(const DeviceFolder* folder) const {
    return static_cast<size_t>(folder - folders_.data());
  }

  /// Something on it failed (kNoSpace: it is full).
  void failed(size_t index, const Status& status, uint64_t now_ns, uint64_t wall_ns);
  /// A sync or sealing on it succeeded.
  void worked(size_t index, uint64_t wall_ns);

  /// Operations of given-up segments that have not ended: a device with one takes nothing new,
  /// since nothing says that it would end either.
  void hold(size_t index) { ++devices_[index].held; }
  void release(size_t index) { --devices_[index].held; }
  [[nodiscard]] bool is_held(size_t index) const { return devices_[index].held != 0; }

  /// It may be tried now.
  [[nodiscard]] bool may_use(size_t index, uint64_t now_ns) const;
  /// It may be used, has room as far as is known, and no recent trouble.
  [[nodiscard]] bool is_good(size_t index, uint64_t now_ns) const;
  /// It failed a short while ago.
  [[nodiscard]] bool had_trouble(size_t index, uint64_t now_ns) const;
  [[nodiscard]] bool another_is_good(size_t index, uint64_t now_ns) const;
  /// When the first device may be tried again (past: it may be now); ~0 for none, that is, until an
  /// operation ends.
  [[nodiscard]] uint64_t next_retry_ns() const;

  /// Those that may be tried now; free space is not looked up.
  [[nodiscard]] std::vector<DeviceChoice> candidates(uint64_t now_ns) const;

  struct MakeOutcome {
    struct Tried {
      size_t index = 0;
      Status status;  // ok when it has the segment, or was not asked for it
      bool full = false;
      std::string left;  // a file to be removed
    };
    std::vector<Tried> tried;
    std::optional<NewSegmentFile> made;
  };
  /// Blocking, any thread: looks up free space, then makes a segment on the best of `choices`.
  /// Those with recent trouble are not even looked at while another one can take it: a call to a
  /// device that hangs does not come back.
  static MakeOutcome make(io::FileSystem& file_system, const std::vector<DeviceFolder>& folders,
                          std::vector<DeviceChoice> choices, uint64_t number, uint64_t bytes,
                          uint64_t wall_ns);
  /// Takes note of how it went. Returns the last failure, ok when a segment was made.
  Status learn(const MakeOutcome& outcome, uint64_t now_ns, uint64_t wall_ns);

  [[nodiscard]] std::vector<DeviceStatus> status() const;

 private:
  struct Device {
    DeviceState state = DeviceState::kOk;
    std::string reason;
    uint64_t since_ns = 0;
    uint64_t last_trouble_ns = 0;  // monotonic, 0: never
    uint64_t backoff_ns = 0;
    uint64_t retry_at_ns = 0;  // monotonic
    uint64_t given_bytes = 0;
    unsigned held = 0;
  };
  static void enter(Device& device, DeviceState state, const std::string& reason, uint64_t wall_ns);

  std::vector<DeviceFolder> folders_;
  std::vector<Device> devices_;
  DevicePoolOptions options_;
};

}  // namespace ep::log

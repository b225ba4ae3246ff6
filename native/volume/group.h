// SPDX-License-Identifier: Apache-2.0
#pragma once

// A group in service: everything that one VM's protection is made of, put together and taken apart
// in the right order. Lives on one reactor; opened, closed and asked from other threads.

#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <vector>

#include "base/uuid.h"
#include "export/vhost_user_blk.h"
#include "format/group_record.h"
#include "io/io.h"
#include "log/segment_info.h"
#include "reactor/reactor.h"
#include "recovery/protection.h"
#include "split/splitter.h"

namespace ep::volume {

struct ExportConfig {
  std::string path;
  uint32_t queues = 1;
  int64_t uid = -1;
  int64_t gid = -1;
};

struct VolumeConfig {
  uint16_t number = 0;
  std::string name;
  uint32_t block_bytes = 512;
  std::string path;
  bool create = false;
  uint64_t size_bytes = 0;
  std::vector<ExportConfig> exports;
};

/// What can change while the group runs.
struct GroupModes {
  split::Ack ack = split::Ack::kPrimary;
  split::FlushMode flush = split::FlushMode::kBoth;
  split::LogPressure on_log_pressure = split::LogPressure::kThrottle;
  uint64_t throttle_max_ms = 5'000;
};

struct GroupConfig {
  Uuid id;
  std::string name;
  GroupModes modes;
  struct Device {
    Uuid id;
    std::string root;
  };
  std::vector<Device> devices;
  nvram::BufferKind buffer_kind = nvram::BufferKind::kTmpfs;
  /// nvram::BufferStoreOptions::path.
  std::string buffer_path;
  uint64_t buffer_bytes = 64ull * 1024 * 1024;
  uint64_t segment_bytes = 256ull * 1024 * 1024;
  uint64_t seal_after_ms = 60'000;
  std::vector<VolumeConfig> volumes;
};

/// Test seams (native-types.ts, NativeFaults).
struct Faults {
  uint64_t primary_delay_us_min = 0;
  uint64_t primary_delay_us_max = 0;
  uint64_t primary_delay_seed = 1;
  bool resubmit_in_flight = true;
};

struct ExportStatus {
  std::string path;
  exports::VhostUserBlkStats stats;
};

struct VolumeStatus {
  uint16_t number = 0;
  std::string name;
  uint64_t size_bytes = 0;
  uint32_t dirty_regions = 0;
  std::vector<ExportStatus> exports;
};

enum class GroupState : uint8_t { kProtected, kGap, kResyncing, kPaused };

struct GroupStatus {
  GroupState state = GroupState::kProtected;
  /// Why, in words, unless protected.
  std::string reason;
  /// The one that is open, and those healed since the group was opened.
  std::vector<format::Gap> gaps;
  uint64_t resync_left_bytes = 0;
  uint64_t resync_total_bytes = 0;
  /// Why the log cannot be written at the moment; empty when it can.
  std::string log_trouble;
  std::vector<log::DeviceStatus> devices;
  uint64_t lsn = 0;
  uint64_t durable_lsn = 0;
  uint64_t sealed_lsn = 0;
  uint64_t epoch = 0;
  uint64_t last_time_ns = 0;
  double rpo_seconds = 0;
  uint64_t log_bytes = 0;
  nvram::BufferKind buffer_kind = nvram::BufferKind::kTmpfs;
  std::string buffer_path;
  /// Entries in it survive a power cut.
  bool buffer_durable = false;
  uint64_t buffer_bytes = 0;
  uint64_t buffer_used_bytes = 0;
  std::vector<VolumeStatus> volumes;
  split::Counters counters;
  log::LogWriterStats log;
};

/// What a group tells its owner; called on the reactor's thread, must not block.
struct GroupEvents {
  std::function<void(const log::SegmentInfo&)> sealed;
  /// Opened (to_lsn 0) or healed.
  std::function<void(const format::Gap&)> gap;
};

struct GroupEnvironment {
  io::FileSystem* file_system = nullptr;
  reactor::Reactor* reactor = nullptr;
  /// Holds one folder per group.
  std::string state_folder;
  /// Of all groups' log buffers; null: no bound.
  nvram::BufferBudget* budget = nullptr;
  Faults faults;
};

class Group {
 public:
  /// Blocking, not on the reactor: design 4, "Opening a group", then the exports. With `create`
  /// primaries so marked are made, and each volume gets its geometry entry; on failure they are
  /// removed again.
  static Result<std::unique_ptr<Group>> open(const GroupEnvironment& environment,
                                             const GroupConfig& config, bool create,
                                             GroupEvents events);
  ~Group();

  /// Blocking: ends the exports, lets everything in flight finish, seals the log and notes a clean
  /// close. Once; nothing else may be called afterwards.
  Status close();
  /// Removes what `close` leaves on this host: log buffer, dirty region logs, group record.
  static Status forget(const GroupEnvironment& environment, const GroupConfig& config);

  // Blocking, any thread but the reactor's.
  [[nodiscard]] GroupStatus status();
  struct Marked {
    uint64_t lsn = 0;
    uint64_t time_ns = 0;
  };
  /// Answers when the marker is durable on the secondary.
  Result<Marked> add_marker(const std::string& label, uint64_t keep_until_ns);
  /// Everything logged so far is durable when it returns; the LSN up to which.
  Result<uint64_t> sync_log();
  /// The same, and sealed.
  Result<uint64_t> seal();
  /// Segments numbered above `after`, sealed ones first, then what is being written.
  [[nodiscard]] std::vector<log::SegmentInfo> segments(uint64_t after);
  void set_modes(const GroupModes& modes);
  /// Interrupts protection until resume(): durable when it returns, and guests pass.
  Status pause();
  /// Returns when healing is under way.
  Status resume();

 private:
  struct Disk;
  Group(const GroupEnvironment& environment, const GroupConfig& config, GroupEvents events);
  Status open_parts(bool create);
  Status open_disks(bool create);
  Status open_buffer(bool create);
  Status recover(bool create);
  Status log_geometry();
  Status start_exports();
  void wait_until_idle();
  Status seal_at_end();
  void look(GroupStatus* to);
  void tear_down();
  void on_sealed(const log::SegmentInfo& info);
  void on_gap(const format::Gap& gap);
  Status append_and_wait(const format::Entry& entry, const uint8_t* payload, Marked* marked);

  GroupEnvironment environment_;
  GroupConfig config_;
  GroupEvents events_;
  std::string folder_;
  bool owns_state_ = false;        // this open made the group: nothing of it existed before
  std::vector<std::string> made_;  // primaries made by this open, to be removed when it fails

  std::unique_ptr<log::GroupRecordFile> record_;
  std::unique_ptr<nvram::BufferStore> store_;
  std::vector<std::unique_ptr<Disk>> disks_;
  std::unique_ptr<recovery::Protection> protection_;
  std::unique_ptr<split::Splitter> splitter_;
  std::vector<format::Gap> healed_gaps_;  // on the reactor

  std::mutex segments_mutex_;  // written on the reactor, read elsewhere; never on a request's path
  std::vector<log::SegmentInfo> segments_;
};

}  // namespace ep::volume

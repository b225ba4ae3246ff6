// SPDX-License-Identifier: Apache-2.0
#pragma once

// One process's run over the simulated machine: a group opened, driven by a guest, and closed or
// killed. The composition "open a group" stands in life.cc alone; everything else of the simulator
// knows a life by this page.

#include <cstdint>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "block/uring_device.h"
#include "drl/region_log.h"
#include "log/group_record_file.h"
#include "log/log_writer.h"
#include "model.h"
#include "nvram/buffer_store.h"
#include "recovery/protection.h"
#include "rng.h"
#include "sim_disk.h"
#include "split/splitter.h"

namespace ep::sim {

/// What does not change over a group's lives.
struct GroupSetup {
  Uuid group;
  std::vector<uint64_t> volume_bytes;
  std::vector<log::DeviceFolder> devices;
  std::vector<std::string> device_roots;
  uint64_t buffer_bytes = 0;
  nvram::BufferKind buffer_kind = nvram::BufferKind::kTmpfs;
  uint64_t segment_bytes = 0;
  bool direct = true;
};

/// The log buffer's memory, which is the machine's: tmpfs goes with the power, and of persistent
/// memory each cache line that was not flushed may or may not have reached it.
class MachineMemory : public nvram::Region {
 public:
  MachineMemory(uint64_t bytes, bool persistent)
      : live_(bytes), durable_(persistent ? bytes : 0), persistent_(persistent) {
    base_ = live_.base();
    size_ = bytes;
  }
  void persist(const void* from, size_t bytes) override;
  [[nodiscard]] bool survives_power_cut() const override { return persistent_; }
  void power_cut(Rng& random);

 private:
  nvram::MemoryRegion live_;
  std::vector<uint8_t> durable_;
  bool persistent_;
};

/// What outlives a process besides the machine's files.
struct Surviving {
  std::unique_ptr<MachineMemory> region;
  std::string boot;
  bool created = false;
};

/// How one life is run.
struct LifeOptions {
  split::Ack ack = split::Ack::kPrimary;
  split::FlushMode flush = split::FlushMode::kBoth;
  uint64_t clean_interval_ns = 0;
  uint64_t write_after_ns = 0;
  uint64_t seal_after_ns = 0;
  split::LogPressure on_log_pressure = split::LogPressure::kThrottle;
  uint64_t throttle_max_ns = 0;
  uint64_t retry_ns = 0;
};

class Life {
 public:
  Life(Machine& machine, Model& model, const GroupSetup& setup, Surviving& surviving,
       const LifeOptions& options);
  ~Life();

  /// As a group is opened in service. Throws ProcessDeath where the process is to die.
  Status open();
  /// As a group is closed in service: everything must end.
  Status close();
  /// The process ends here; the object is kept (bury) but never used again.
  void die();

  void request(uint16_t volume, block::Op op, uint64_t sector, uint64_t sectors);
  void marker(const std::string& label);
  /// One pass of the reactor, waiting at most so long.
  void run(uint64_t wait_ns);
  /// Until nothing of the guest is in flight; false when that does not come.
  bool drain();
  /// Nothing is in flight anywhere in the group; false when that does not come.
  bool settle();

  [[nodiscard]] bool alive() const { return !ended_; }
  [[nodiscard]] size_t in_flight() const { return flying_.size() + own_entries_; }
  [[nodiscard]] bool in_gap() const { return splitter_->in_gap(); }
  /// Until protection is whole; false when that does not come.
  bool heal();
  void pause();
  void resume();
  [[nodiscard]] const format::GroupRecord& record() const { return splitter_->record(); }
  [[nodiscard]] uint64_t next_lsn() const { return protection_->opened().next_lsn; }
  [[nodiscard]] uint64_t epoch() const { return protection_->opened().epoch; }
  [[nodiscard]] const split::Counters& counters() const { return splitter_->counters(); }

  Process process;
  uint64_t redone = 0;
  uint64_t slowest_ns = 0;  // of the guest's requests
  uint64_t gaps_opened = 0;
  uint64_t gaps_healed = 0;

  static std::string primary_path(uint16_t volume);
  static std::string region_log_path(uint16_t volume);
  static std::string record_path();
  /// Of a buffer that is a file.
  static std::string mirror_path();

 private:
  struct Guest;
  Status open_group();
  void open_splitter();
  void answered(Guest* guest);
  void look();
  template <typename Start>
  bool wait(Start start);

  Machine& machine_;
  Model& model_;
  const GroupSetup& setup_;
  Surviving& surviving_;
  LifeOptions options_;
  reactor::Reactor reactor_;
  uint64_t epoch_seen_ = 0;
  uint64_t durable_seen_ = 0;
  std::unique_ptr<log::GroupRecordFile> record_;
  std::vector<std::unique_ptr<block::UringDevice>> primaries_;
  std::vector<std::unique_ptr<drl::RegionLog>> regions_;
  std::unique_ptr<nvram::BufferStore> store_;
  std::unique_ptr<recovery::Protection> protection_;
  std::unique_ptr<split::Splitter> splitter_;
  std::vector<block::Device*> fronts_;
  std::map<uint64_t, std::unique_ptr<Guest>> flying_;
  std::deque<std::unique_ptr<Guest>> answered_;
  uint64_t own_entries_ = 0;
  bool ended_ = false;
};

}  // namespace ep::sim

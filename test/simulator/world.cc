// SPDX-License-Identifier: Apache-2.0
#include "world.h"

#include <algorithm>
#include <cstdarg>
#include <cstdio>
#include <memory>

#include "base/bytes.h"
#include "base/limits.h"
#include "dirty_check.h"
#include "life.h"
#include "model.h"
#include "redo_check.h"
#include "ring_check.h"
#include "sim_disk.h"

namespace ep::sim {

namespace {

/// What nothing may destroy although its process is dead has to stay reachable.
void bury(std::shared_ptr<Life> dead) {
  static auto* graveyard = new std::vector<std::shared_ptr<Life>>;
  graveyard->push_back(std::move(dead));
}

constexpr uint64_t kBoundNs = 30 * kSecond;

class World {
 public:
  World(uint64_t seed, const SeedOptions& options)
      : options_(options), random_(mix(seed) ^ 0x5eed), machine_(mix(seed + 1)) {
    report_.seed = seed;
    make_setup();
    std::vector<uint64_t> sectors;
    for (const uint64_t bytes : setup_.volume_bytes) sectors.push_back((bytes + 511) / 512);
    model_ = std::make_unique<Model>(machine_, sectors);
    for (uint16_t v = 0; v < setup_.volume_bytes.size(); ++v) {
      disks_.primaries.push_back(Life::primary_path(v));
      disks_.region_logs.push_back(Life::region_log_path(v));
    }
    for (const auto& device : setup_.devices) disks_.folders.push_back(device.folder);
    disks_.group = setup_.group;
    disks_.record = Life::record_path();
  }

  SeedReport run() {
    for (const std::string& wrong :
         {check_ring(report_.seed), check_redo(report_.seed), check_dirty(report_.seed)}) {
      if (!wrong.empty()) model_->fail(wrong);
    }
    const uint64_t lives = random_.between(3, 7);
    for (uint64_t i = 0; i < lives && !model_->failed(); ++i) {
      one_life(i + 1 == lives);
    }
    report_.failures = model_->failures();
    report_.trace = machine_.trace.sum();
    report_.requests = model_->requests();
    report_.entries = model_->entries_seen;
    return report_;
  }

 private:
  enum class End { kClean, kCrash, kCrashAtCall, kPowerCut };

  __attribute__((format(printf, 2, 3))) void say(const char* format, ...) const {
    if (!options_.verbose) return;
    std::printf("%10.3f ms  ", static_cast<double>(machine_.now()) / 1e6);
    va_list arguments;
    va_start(arguments, format);
    std::vprintf(format, arguments);
    va_end(arguments);
    std::printf("\n");
  }

  // ---- the setting ------------------------------------------------------------------------------

  void make_setup() {
    for (size_t i = 0; i < 16; ++i) setup_.group.bytes[i] = static_cast<uint8_t>(random_.next());
    const bool slow_disks = random_.percent(20);
    for (int v = 0; v < 2; ++v) {
      DeviceSpec spec;
      spec.root = "/primary-" + std::to_string(v);
      spec.latency_max_ns = slow_disks ? 5 * kMillisecond : random_.between(50'000, 800'000);
      machine_.add_device(spec);
      uint64_t bytes = random_.between(512, 3072) * 1024;
      if (random_.percent(40)) bytes -= random_.below(4096);
      setup_.volume_bytes.push_back(bytes);
    }
    DeviceSpec state;
    state.root = "/state";
    state.sync_max_ns = random_.between(100'000, 3'000'000);
    machine_.add_device(state);
    const uint64_t secondaries = random_.between(1, 3);
    for (uint64_t i = 1; i <= secondaries; ++i) {
      DeviceSpec spec;
      spec.root = "/secondary-" + std::to_string(i);
      spec.latency_max_ns = random_.percent(30) ? 20 * kMillisecond : 1 * kMillisecond;
      spec.sync_max_ns = random_.percent(30) ? 40 * kMillisecond : 2 * kMillisecond;
      spec.in_memory = random_.percent(20);
      if (i == 1 && random_.percent(15)) spec.capacity = 40 * 1024 * 1024;
      machine_.add_device(spec);
      log::DeviceFolder folder;
      folder.device = setup_.group;
      folder.device.bytes[0] = static_cast<uint8_t>(folder.device.bytes[0] + i);
      folder.folder = spec.root + "/groups/" + setup_.group.to_string();
      setup_.devices.push_back(folder);
      setup_.device_roots.push_back(spec.root);
    }
    setup_.direct = random_.percent(70);
    setup_.buffer_bytes = random_.between(2, 4) * 1024 * 1024;
    setup_.segment_bytes = limits::kSegmentBytesMin + random_.below(3) * 512 * 1024;
    surviving_.boot = "boot-1";
    choose_buffer();
    faulty_ = random_.percent(45);
    cuts_ = random_.percent(50);
    machine_.names_with_any_sync = true;
    say("two volumes of %llu and %llu bytes, %llu devices, buffer %s of %llu MiB%s%s",
        static_cast<unsigned long long>(setup_.volume_bytes[0]),
        static_cast<unsigned long long>(setup_.volume_bytes[1]),
        static_cast<unsigned long long>(secondaries), buffer_name(),
        static_cast<unsigned long long>(setup_.buffer_bytes >> 20), setup_.direct ? ", direct" : "",
        faulty_ ? ", faults" : "");
  }

  void choose_buffer() {
    using nvram::BufferKind;
    const uint64_t dice = random_.below(100);
    setup_.buffer_kind = dice < 40   ? BufferKind::kTmpfs
                         : dice < 75 ? BufferKind::kFile
                                     : BufferKind::kPmem;
    if (options_.buffer) setup_.buffer_kind = *options_.buffer;
    if (setup_.buffer_kind == BufferKind::kFile) {
      DeviceSpec spec;
      spec.root = "/buffer";
      spec.latency_max_ns = random_.between(20'000, 500'000);
      spec.sync_max_ns = random_.between(50'000, 2'000'000);
      machine_.add_device(spec);
    }
    surviving_.region =
        std::make_unique<MachineMemory>(nvram::LogBuffer::region_bytes(setup_.buffer_bytes),
                                        setup_.buffer_kind == BufferKind::kPmem);
  }

  [[nodiscard]] const char* buffer_name() const {
    switch (setup_.buffer_kind) {
      case nvram::BufferKind::kTmpfs:
        return "tmpfs";
      case nvram::BufferKind::kFile:
        return "file";
      case nvram::BufferKind::kPmem:
        return "pmem";
    }
    return "?";
  }

  LifeOptions life_options() {
    LifeOptions options;
    options.ack = random_.percent(50) ? split::Ack::kPrimary : split::Ack::kBoth;
    options.flush = random_.percent(70) ? split::FlushMode::kBoth : split::FlushMode::kPrimary;
    if (options_.ack) options.ack = *options_.ack;
    if (options_.flush) options.flush = *options_.flush;
    options.clean_interval_ns = random_.between(1, 20) * kMillisecond;
    options.write_after_ns = random_.between(1, 30) * kMillisecond;
    options.seal_after_ns = random_.between(10, 400) * kMillisecond;
    options.on_log_pressure =
        random_.percent(80) ? split::LogPressure::kThrottle : split::LogPressure::kGap;
    options.throttle_max_ns = random_.between(500, 3'000) * kMillisecond;
    if (random_.percent(20)) {
      // So short that a slow device is enough for a gap in the middle of everything.
      options.throttle_max_ns = random_.between(5, 40) * kMillisecond;
      gap_on_pressure_ = true;
    }
    options.retry_ns = random_.between(1, 20) * kMillisecond;
    gap_on_pressure_ = gap_on_pressure_ || options.on_log_pressure == split::LogPressure::kGap;
    return options;
  }

  // ---- trouble ----------------------------------------------------------------------------------

  std::string random_root(bool secondaries_only) {
    if (secondaries_only || random_.percent(45)) {
      return setup_.device_roots[random_.below(setup_.device_roots.size())];
    }
    if (setup_.buffer_kind == nvram::BufferKind::kFile && random_.percent(20)) return "/buffer";
    return random_.percent(60) ? "/primary-" + std::to_string(random_.below(2)) : "/state";
  }

  /// What the product cannot live with yet (README.md, "known"): left out unless asked for.
  void soften(const std::string& root, Fault& fault) const {
    if (options_.strict) return;
    // A buffered primary whose sync failed has lost what the kernel forgot; a later sync that
    // succeeds is believed.
    if (root.starts_with("/primary") && !setup_.direct) fault.sync = false;
    // A region log that cannot be written cannot be taken away either, and is believed later.
    if (root == "/state") fault.write = fault.sync = fault.make_error = fault.short_write = false;
  }

  void add_faults() {
    const uint64_t count = random_.between(1, 3);
    for (uint64_t i = 0; i < count; ++i) {
      Fault fault;
      const std::string root = random_root(false);
      const bool secondary = root.starts_with("/secondary");
      fault.from_ns = machine_.now() + random_.below(60 * kMillisecond);
      fault.to_ns = fault.from_ns + random_.between(1, 30) * kMillisecond;
      fault.percent = random_.percent(50) ? 100 : random_.between(5, 60);
      switch (random_.below(7)) {
        case 0:
          fault.write = true;
          break;
        case 1:
          fault.sync = true;
          break;
        case 2:
          fault.write = fault.sync = fault.read = fault.make_error = true;
          break;
        case 3:
          fault.read = true;
          break;
        case 4:
          fault.write = fault.make_error = true;
          fault.error = 28;  // ENOSPC
          break;
        case 5:
          fault.short_write = true;
          break;
        default:
          fault.write = fault.sync = true;
          if (secondary && random_.percent(50)) {
            fault.hang = true;
            fault.percent = 10;
          } else {
            fault.extra_ns = random_.between(1, 200) * kMillisecond;
          }
          break;
      }
      soften(root, fault);
      if ((secondary || root == "/buffer") && fault.read) model_->history_may_be_lost = true;
      say("fault on %s: read %d write %d sync %d make %d short %d slow %llu hang %d, error %d, "
          "from "
          "%.3f ms for %.3f ms, %u %%",
          root.c_str(), fault.read, fault.write, fault.sync, fault.make_error, fault.short_write,
          static_cast<unsigned long long>(fault.extra_ns), fault.hang, fault.error,
          static_cast<double>(fault.from_ns) / 1e6,
          static_cast<double>(fault.to_ns - fault.from_ns) / 1e6, fault.percent);
      machine_.add_fault(root, fault);
    }
  }

  /// The last syncs of a life fail, on what the log is on: its process can tell nobody.
  void fail_last_syncs(Life& life) {
    Fault fault;
    fault.sync = true;
    fault.percent = 100;
    fault.from_ns = machine_.now() + random_.below(40 * kMillisecond);
    fault.to_ns = fault.from_ns + 20 * kMillisecond;
    life.process.die_at_ns = fault.from_ns + random_.below(10 * kMillisecond);
    say("the secondaries' syncs fail from %.3f ms, the end comes at %.3f ms",
        static_cast<double>(fault.from_ns) / 1e6,
        static_cast<double>(life.process.die_at_ns) / 1e6);
    for (const std::string& root : setup_.device_roots) machine_.add_fault(root, fault);
  }

  /// A log buffer that was away comes back: it is whole, of this group and boot, and old.
  void keep_or_bring_back_buffer() {
    nvram::Region& region = *surviving_.region;
    if (!old_buffer_.empty() && old_lives_ < opened_lives_ && old_boot_ == surviving_.boot &&
        random_.percent(25)) {
      say("an old log buffer is back");
      std::copy(old_buffer_.begin(), old_buffer_.end(), region.base());
      region.persist(region.base(), region.size());
      old_buffer_.clear();
      lost_buffer_ = true;
      if (region.survives_power_cut()) model_->history_may_be_lost = true;
    } else if (random_.percent(25)) {
      old_buffer_.assign(region.base(), region.base() + region.size());
      old_boot_ = surviving_.boot;
      old_lives_ = opened_lives_;
    }
  }

  void cut_power() {
    say("power cut");
    ++report_.power_cuts;
    machine_.power_cut();
    surviving_.boot = "boot-" + std::to_string(report_.power_cuts + 1);
    surviving_.region->power_cut(machine_.random);
    cut_ = true;
    lost_buffer_ = lost_buffer_ || setup_.buffer_kind != nvram::BufferKind::kPmem;
  }

  void step_wall_clock() {
    const auto by = static_cast<int64_t>(random_.below(7'200 * kSecond)) - 3'600ll * 1'000'000'000;
    say("the wall clock steps by %.3f s", static_cast<double>(by) / 1e9);
    machine_.step_wall(by);
  }

  // ---- a life -----------------------------------------------------------------------------------

  void check_after_death() {
    report_.late_requests += machine_.late_requests();
    model_->check_log(disks_);
    if (redo_cut_short_) return;
    model_->check_primaries(disks_, cut_, cut_ ? "after the power cut" : "after the crash");
    model_->check_regions(disks_, cut_ ? "after the power cut" : "after the crash");
  }

  void bury_dead(std::shared_ptr<Life> life) {
    life->die();
    bury(std::move(life));
  }

  /// Opens the group, however often that takes; null when the seed has failed.
  std::shared_ptr<Life> open() {
    uint64_t troubles = surviving_.created ? random_.below(3) : 0;
    for (;;) {
      auto life = std::make_shared<Life>(machine_, *model_, setup_, surviving_, life_options());
      bool may_fail = false;
      if (troubles > 0) {
        --troubles;
        if (faulty_ && random_.percent(40)) {
          Fault fault;
          fault.read = random_.percent(60);
          fault.write = fault.sync = fault.make_error = !fault.read || random_.percent(50);
          fault.percent = random_.between(5, 100);
          const std::string root = random_root(false);
          soften(root, fault);
          if (random_.percent(20)) {
            machine_.set_present(setup_.device_roots[0], false);
            model_->history_may_be_lost = true;
            say("the first secondary is not there");
          }
          if (root.starts_with("/secondary") || root == "/buffer") {
            model_->history_may_be_lost = true;
          }
          machine_.add_fault(root, fault);
          say("opening with a fault on %s: read %d write %d %u %%", root.c_str(), fault.read,
              fault.write, fault.percent);
          may_fail = true;
        } else {
          life->process.die_at_call = random_.below(120);
        }
      }
      bool died = false;
      Status status;
      try {
        status = life->open();
      } catch (const ProcessDeath&) {
        died = true;
      }
      life->process.die_at_call = Process::kNever;
      machine_.clear_faults();
      for (const std::string& root : setup_.device_roots) machine_.set_present(root, true);
      if (!died && status) return life;
      say("opening %s", died ? "dies" : status.to_string().c_str());
      if (!died && !may_fail) {
        model_->fail("opening failed without a reason: " + status.to_string());
      }
      ++report_.recoveries_interrupted;
      // After a power cut persistent memory is redone from the last checkpoint, over newer writes
      // too: until that has come to its end the primaries are between then and now.
      if (cut_ && setup_.buffer_kind == nvram::BufferKind::kPmem) redo_cut_short_ = true;
      bury_dead(life);
      if (cuts_ && random_.percent(35)) {
        cut_power();
        clean_ = false;  // the new epoch may have begun, and with it the need for the buffer
      }
      check_after_death();
      if (model_->failed()) return nullptr;
    }
  }

  void after_open(Life& life) {
    const bool known_gap = model_->gap_open();
    model_->opened();
    model_->check_log(disks_);
    model_->check_gap(life.record(), "after opening");
    report_.redone += life.redone;
    if (life.in_gap()) {
      ++gap_lives_;
      if (gap_lives_ == 1) ++report_.gaps;
      say("open in a gap after LSN %llu: %s",
          static_cast<unsigned long long>(life.record().gap.from_lsn),
          life.record().gap.reason.c_str());
      model_->check_primaries(disks_, cut_, "after opening");
      if (!known_gap && !faulty_ && clean_) {
        model_->fail(std::string("a gap after a clean close") +
                     (cut_ ? " and a power cut: " : ": ") + life.record().gap.reason);
      } else if (!known_gap && !faulty_ && !lost_buffer_ && !gap_on_pressure_) {
        model_->fail("a gap without a reason: " + life.record().gap.reason);
      }
    } else {
      say("open, epoch %llu, LSN %llu, %llu writes redone",
          static_cast<unsigned long long>(life.epoch()),
          static_cast<unsigned long long>(life.next_lsn()),
          static_cast<unsigned long long>(life.redone));
      model_->check_protected(disks_, "after opening");
      if (lost_buffer_ && !clean_) {
        // Nothing says so but the record: what the buffer had is gone.
        if (ran_since_clean_) model_->fail("a lost buffer after an unclean end opened no gap");
      }
    }
    model_->rebase(disks_, cut_);
    cut_ = clean_ = lost_buffer_ = redo_cut_short_ = false;
  }

  void random_request(Life& life) {
    const auto volume = static_cast<uint16_t>(random_.below(setup_.volume_bytes.size()));
    const uint64_t total = (setup_.volume_bytes[volume] + 511) / 512;
    const uint64_t kind = random_.below(100);
    if (kind < 8) return life.request(volume, block::Op::kFlush, 0, 0);
    if (kind < 10) return life.marker("marker " + std::to_string(++markers_));
    block::Op op = block::Op::kWrite;
    if (kind < 14) op = block::Op::kDiscard;
    if (kind >= 14 && kind < 18) op = block::Op::kWriteZeroes;
    if (kind >= 18 && kind < 24) op = block::Op::kRead;
    uint64_t sectors = 1 + random_.below(16);
    if (kind >= 60) sectors = 8 * (1 + random_.below(16));
    if (kind >= 92) sectors = 1 + random_.below(512);
    if (kind >= 98) sectors = 1 + random_.below(2048);
    sectors = std::min(sectors, total);
    // Half of them in a small place, so that they overlap.
    const uint64_t room =
        random_.percent(short_life_ ? 80 : 50) ? std::min(total, sectors + 64) : total;
    life.request(volume, op, random_.below(room - sectors + 1), sectors);
  }

  /// Runs a guest; false when the process has died on the way.
  bool drive(Life& life, uint64_t requests) {
    const uint64_t depth = 1 + random_.below(random_.percent(30) ? 4 : 48);
    uint64_t last_made = machine_.now();
    try {
      for (uint64_t made = 0; made < requests && !model_->failed();) {
        if (life.in_flight() < depth && random_.below(8) != 0) {
          random_request(life);
          ++made;
          last_made = machine_.now();
        } else {
          life.run(random_.below(3) * 100'000);
        }
        if (die_when_healed_ && !life.in_gap()) {
          for (uint64_t i = random_.below(4); i > 0; --i) life.run(0);
          return true;
        }
        if (machine_.now() - last_made > 2 * kBoundNs) {
          say("the guest is stuck");
          model_->fail("the guest's requests do not end");
          return true;
        }
        if (random_.below(400) == 0) step_wall_clock();
        if (random_.below(150) == 0 && life.process.hanging() == 0) check_quiet(life);
      }
      // A while without requests: what is lazy gets its time.
      if (!short_life_ && random_.percent(50)) {
        for (int i = 0; i < 60; ++i) life.run(kMillisecond);
      }
    } catch (const ProcessDeath&) {
      return false;
    }
    return true;
  }

  void check_quiet(Life& life) {
    if (!life.settle()) {
      if (life.process.hanging() == 0) model_->fail("the group never becomes quiet");
      return;
    }
    model_->check_primaries(disks_, false, "in service");
    if (life.in_gap()) return;
    // What the log lacks is in the buffer still: only the primaries are compared, as flushed.
    model_->check_log(disks_);
    model_->check_regions(disks_, "in service");
  }

  void check_second_process() {
    Process other(machine_);
    auto record =
        log::GroupRecordFile::open(other, Life::record_path(), setup_.group, kMillisecond);
    if (record) model_->fail("a second process has opened the group");
    record = Status(Code::kBusy, "closed");
    other.end();
  }

  void one_life(bool last) {
    ++report_.lives;
    std::shared_ptr<Life> life = open();
    if (!life) return;
    after_open(*life);
    const auto finish = [&] {
      report_.slowest_ns = std::max(report_.slowest_ns, life->slowest_ns);
      if (life->slowest_ns > kBoundNs) {
        model_->fail("a request took " + std::to_string(life->slowest_ns / kMillisecond) + " ms");
      }
    };
    ++opened_lives_;
    if (model_->failed()) return bury_dead(life);
    if (random_.percent(5)) check_second_process();
    if (faulty_ && random_.percent(60)) add_faults();
    End end = End::kCrash;
    const uint64_t dice = random_.below(100);
    if (dice < 20) end = End::kClean;
    if (dice >= 50 && dice < 75) end = End::kCrashAtCall;
    if (dice >= 75 && cuts_) end = End::kPowerCut;
    if (last && random_.percent(60)) end = End::kClean;
    uint64_t requests = 10 + random_.below(220);
    short_life_ = cuts_ && !last && random_.percent(short_life_ ? 60 : 20);
    if (short_life_) {
      // What an opening believed and did not make durable shows only when power goes soon.
      end = random_.percent(60) ? End::kPowerCut : End::kCrash;
      requests = 1 + random_.below(8);
    }
    die_when_healed_ = end != End::kClean && life->in_gap() && random_.percent(40);
    if (end == End::kCrashAtCall) {
      if (random_.percent(50)) {
        life->process.die_at_call = life->process.calls() + random_.below(40);
      } else {
        life->process.die_at_ns = machine_.now() + random_.below(80 * kMillisecond);
      }
    } else if (short_life_) {
      life->process.die_at_ns = machine_.now() + random_.below(4 * kMillisecond);
    } else if (random_.percent(50)) {
      life->process.die_at_ns =
          end == End::kClean ? Process::kNever : machine_.now() + random_.below(150 * kMillisecond);
    }
    const bool was_in_gap = life->in_gap();
    if (faulty_ && end != End::kClean && random_.percent(30)) fail_last_syncs(*life);
    bool alive = drive(*life, requests);
    ran_since_clean_ = true;
    finish();
    if (!was_in_gap && life->in_gap()) {
      ++report_.gaps;
      say("gap: %s", life->record().gap.reason.c_str());
      if (!faulty_ && !gap_on_pressure_ && !paused_) {
        model_->fail("a gap in service without a reason: " + life->record().gap.reason);
      }
    }
    if (model_->failed()) return bury_dead(life);
    if (alive && end == End::kClean && life->process.hanging() == 0) {
      machine_.clear_faults();
      end_cleanly(life);
    } else {
      say("crash%s", alive ? "" : " on the way");
      ++report_.crashes;
      bury_dead(life);
      keep_or_bring_back_buffer();
    }
    machine_.clear_faults();
    if (end == End::kPowerCut || (clean_ && cuts_ && random_.percent(30))) {
      cut_power();
    }
    check_after_death();
  }

  void end_cleanly(const std::shared_ptr<Life>& life) {
    Status status;
    try {
      status = life->close();
    } catch (const ProcessDeath&) {
      ++report_.crashes;
      return bury_dead(life);
    }
    say("closed: %s", status.to_string().c_str());
    if (!status) {
      if (!faulty_) model_->fail("closing failed without a reason: " + status.to_string());
      if (life->alive()) bury_dead(life);
      return;
    }
    const format::GroupRecord record = model_->read_record(disks_);
    clean_ = !record.in_gap;
    ran_since_clean_ = false;
    if (record.in_gap) {
      if (!faulty_ && !gap_on_pressure_ && !model_->gap_open())
        model_->fail("a gap in closing without a reason: " + record.gap.reason);
    } else {
      if (!record.closed_cleanly) model_->fail("a clean close is not in the record");
      model_->check_log(disks_);
      model_->check_protected(disks_, "after a clean close");
    }
  }

  const SeedOptions options_;
  Rng random_;
  Machine machine_;
  GroupSetup setup_;
  Surviving surviving_;
  std::unique_ptr<Model> model_;
  Model::Disks disks_;
  SeedReport report_;
  bool faulty_ = false;
  bool cuts_ = false;
  bool cut_ = false;    // the power went since the last opening that succeeded
  bool clean_ = false;  // the last life was closed cleanly
  bool lost_buffer_ = false;
  bool redo_cut_short_ = false;
  bool ran_since_clean_ = false;
  std::vector<uint8_t> old_buffer_;
  std::string old_boot_;
  uint64_t old_lives_ = 0;  // openings that had succeeded when it was kept
  uint64_t opened_lives_ = 0;
  bool short_life_ = false;
  bool die_when_healed_ = false;  // this life ends when its gap does
  uint64_t gap_lives_ = 0;
  bool gap_on_pressure_ = false;
  bool paused_ = false;
  uint64_t markers_ = 0;
};

}  // namespace

SeedReport run_seed(uint64_t seed, const SeedOptions& options) {
  return World(seed, options).run();
}

}  // namespace ep::sim

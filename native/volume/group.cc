// SPDX-License-Identifier: Apache-2.0
#include "volume/group.h"

#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <future>

#include "base/limits.h"
#include "block/delay_device.h"
#include "block/uring_device.h"
#include "io/posix_file_system.h"
#include "recovery/open_group.h"

namespace ep::volume {

namespace {

constexpr uint64_t kLockWaitNs = 60ull * 1'000'000'000;
constexpr uint64_t kProbeNs = 10ull * 1'000'000'000;
/// Whoever makes a group can be told at once that somebody else has its disk.
constexpr uint64_t kLockWaitAtCreationNs = 3ull * 1'000'000'000;
constexpr uint64_t kSealAtEndNs = 20ull * 1'000'000'000;

std::string drl_path(const std::string& folder, uint16_t volume) {
  return folder + "/volume-" + std::to_string(volume) + ".drl";
}

nvram::BufferStoreOptions store_options(const GroupEnvironment& environment,
                                        const GroupConfig& config) {
  nvram::BufferStoreOptions options;
  options.kind = config.buffer_kind;
  options.path = config.buffer_path;
  options.data_bytes = config.buffer_bytes;
  options.group = config.id;
  options.file_system = environment.file_system;
  options.boot = nvram::boot_id();
  options.budget = environment.budget;
  return options;
}

format::PrimaryLook look_of(const io::FileInfo& info) {
  // The times of a device node say nothing of what was written to the device.
  if (info.is_block_device) return {info.size, 0, 0};
  return {info.size, info.mtime_ns, info.ctime_ns};
}

}  // namespace

/// One volume's stack: primary file, test decorator, dirty region log, and its doors.
struct Group::Disk {
  VolumeConfig config;
  std::unique_ptr<block::UringDevice> file;
  std::unique_ptr<block::DelayDevice> delay;
  std::unique_ptr<drl::RegionLog> regions;
  block::Device* front = nullptr;
  std::vector<std::unique_ptr<exports::VhostUserBlk>> exports;

  [[nodiscard]] block::Device* primary() const {
    return delay ? static_cast<block::Device*>(delay.get()) : file.get();
  }
};

Group::Group(const GroupEnvironment& environment, const GroupConfig& config, GroupEvents events)
    : environment_(environment),
      config_(config),
      events_(std::move(events)),
      folder_(environment.state_folder + "/" + config.id.to_string()) {}

Group::~Group() { tear_down(); }

/// What a creation that failed half-way has made: state, buffer, and the group's folder on each
/// device.
static void remove_all(const GroupEnvironment& environment, const GroupConfig& config) {
  io::FileSystem& files = *environment.file_system;
  (void)Group::forget(environment, config).is_ok();
  for (const GroupConfig::Device& device : config.devices) {
    const std::string folder = device.root + "/groups/" + config.id.to_string();
    if (const auto days = files.list(folder + "/log")) {
      for (const std::string& day : *days) {
        const std::string day_folder = folder + "/log/" + day;
        if (const auto names = files.list(day_folder)) {
          for (const std::string& name : *names)
            (void)files.remove(day_folder + "/" + name).is_ok();
        }
        (void)files.remove(day_folder).is_ok();
      }
    }
    (void)files.remove(folder + "/log").is_ok();
    (void)files.remove(folder).is_ok();
  }
}

Result<std::unique_ptr<Group>> Group::open(const GroupEnvironment& environment,
                                           const GroupConfig& config, bool create,
                                           GroupEvents events) {
  std::unique_ptr<Group> group(new Group(environment, config, std::move(events)));
  const Status status = group->open_parts(create);
  if (status) return group;
  const std::vector<std::string> made = group->made_;
  const bool owned = group->owns_state_;
  group.reset();
  for (const std::string& path : made) (void)environment.file_system->remove(path).is_ok();
  if (owned) remove_all(environment, config);
  return status;
}

Status Group::open_parts(bool create) {
  if (config_.volumes.empty() || config_.volumes.size() > limits::kVolumesPerGroupMax) {
    return Status(Code::kInvalidArgument, "a group has 1 to 64 volumes");
  }
  if (config_.devices.empty() || config_.devices.size() > limits::kDevicesPerGroupMax) {
    return Status(Code::kInvalidArgument, "a group has 1 to 16 devices");
  }
  EP_TRY(environment_.file_system->make_directories(folder_));
  auto record = log::GroupRecordFile::open(*environment_.file_system, folder_ + "/record",
                                           config_.id, kLockWaitNs);
  if (!record) return record.status();
  record_ = std::move(*record);
  if (create && record_->existed()) {
    return Status(Code::kAlreadyExists,
                  "a group with UUID " + config_.id.to_string() + " exists already");
  }
  EP_TRY(open_disks(create));
  EP_TRY(open_buffer(create));
  EP_TRY(recover(create));
  if (create) EP_TRY(log_geometry());
  return start_exports();
}

Status Group::open_disks(bool create) {
  for (const VolumeConfig& config : config_.volumes) {
    auto disk = std::make_unique<Disk>();
    disk->config = config;
    const bool make = create && config.create;
    struct stat about {};
    if (make && stat(config.path.c_str(), &about) == 0) {
      return Status(Code::kAlreadyExists, "primary " + config.path + " exists already");
    }
    block::UringDeviceOptions options;
    options.path = config.path;
    options.create = make;
    options.size_bytes = make ? config.size_bytes : 0;
    options.block_bytes = config.block_bytes;
    options.lock_wait_ns = create ? kLockWaitAtCreationNs : kLockWaitNs;
    if (make) made_.push_back(config.path);
    auto file = block::UringDevice::open(*environment_.file_system, environment_.reactor->engine(),
                                         options);
    if (!file) return file.status();
    disk->file = std::move(*file);
    const Faults& faults = environment_.faults;
    if (faults.primary_delay_us_max != 0) {
      block::DelayOptions delay;
      delay.seed = faults.primary_delay_seed + config.number;
      delay.min_ns = faults.primary_delay_us_min * 1000;
      delay.max_ns = faults.primary_delay_us_max * 1000;
      // Of every second volume the effect comes late too, as if the disk had taken it late: only
      // then does a kill leave writes that are logged, not on the primary, and to be redone.
      if (config.number % 2 == 1) delay.where = block::DelayOptions::Where::kBefore;
      disk->delay = std::make_unique<block::DelayDevice>(*disk->file, environment_.reactor, delay);
    }
    disks_.push_back(std::move(disk));
  }
  return Status::ok();
}

/// A buffer that cannot be had keeps no guest from its disk: recovery opens a gap without one. Only
/// one that another process uses is a reason to stop.
Status Group::open_buffer(bool create) {
  nvram::BufferStoreOptions options = store_options(environment_, config_);
  options.create = create;
  auto store = nvram::BufferStore::open(options);
  if (store) {
    store_ = std::move(*store);
    return Status::ok();
  }
  const Code code = store.status().code();
  return create || code == Code::kBusy ? store.status() : Status::ok();
}

Status Group::recover(bool create) {
  io::FileSystem& files = *environment_.file_system;
  recovery::OpenInput input;
  input.file_system = &files;
  input.group = config_.id;
  input.create = create;
  for (const GroupConfig::Device& device : config_.devices) {
    const std::string folder = device.root + "/groups/" + config_.id.to_string();
    // Later a folder that is not there is a device that is not mounted, most likely: nothing is
    // made on what lies below.
    if (create) EP_TRY(files.make_directories(folder + "/log"));
    input.devices.push_back({device.id, folder});
    // A device that hangs is a gap, not a guest without its disk.
    if (!create && io::probe_folder(folder, kProbeNs).code() == Code::kBusy) {
      input.unanswering.push_back(device.id);
    }
  }
  for (const auto& disk : disks_) {
    auto info = disk->file->info();
    if (!info) return info.status();
    input.primaries.push_back({disk->config.number, disk->file->file(), look_of(*info)});
  }
  input.record = record_.get();
  input.store = store_.get();
  input.boot = nvram::boot_id();
  timespec now{};
  clock_gettime(CLOCK_REALTIME, &now);
  input.wall_ns =
      static_cast<uint64_t>(now.tv_sec) * 1'000'000'000 + static_cast<uint64_t>(now.tv_nsec);
  input.segment_bytes = config_.segment_bytes;
  recovery::ProtectionOptions options;
  options.open = input;
  options.log.seal_after_ns = config_.seal_after_ms * 1'000'000;
  auto protection = recovery::Protection::open(
      environment_.reactor, options,
      recovery::Protection::Events{
          .sealed = [this](const log::SegmentInfo& info) { on_sealed(info); },
          .reopened =
              [this](const std::vector<log::SegmentInfo>& segments) {
                const std::lock_guard lock(segments_mutex_);
                segments_ = segments;
              },
          .gap = [this](const format::Gap& gap) { on_gap(gap); }});
  if (!protection) return protection.status();
  protection_ = std::move(*protection);
  owns_state_ = create;
  segments_ = protection_->opened().segments;

  for (const auto& disk : disks_) {
    auto regions =
        drl::RegionLog::open(files, drl_path(folder_, disk->config.number), config_.id,
                             disk->config.number, disk->file->geometry().size_bytes, create);
    if (!regions) return regions.status();
    disk->regions = std::move(*regions);
    disk->regions->attach(&environment_.reactor->engine());
  }
  // Record and dirty region logs may have been made just now.
  EP_TRY(files.sync_directory(folder_));
  environment_.reactor->call([this] {
    split::SplitterOptions modes;
    modes.ack = config_.modes.ack;
    modes.flush = config_.modes.flush;
    modes.on_log_pressure = config_.modes.on_log_pressure;
    modes.throttle_max_ns = config_.modes.throttle_max_ms * 1'000'000;
    splitter_ = std::make_unique<split::Splitter>(
        environment_.reactor, record_.get(), modes,
        split::Splitter::Events{
            .gap = [this](const format::Gap& gap) { protection_->gap_opened(gap); }});
    std::vector<recovery::Protection::Volume> volumes;
    for (const auto& disk : disks_) {
      disk->front =
          splitter_->add_volume(disk->config.number, disk->primary(), disk->regions.get());
      disk->regions->on_failed = [this](const Status& status) {
        protection_->regions_failed(status);
      };
      volumes.push_back(
          {disk->config.number, disk->file->geometry().size_bytes, disk->regions.get()});
    }
    splitter_->start();
    protection_->start(splitter_.get(), std::move(volumes));
  });
  return Status::ok();
}

Status Group::log_geometry() {
  for (const auto& disk : disks_) {
    uint8_t payload[kSectorBytes];
    EP_TRY(format::encode_geometry({format::GeometryAction::kAdd, disk->config.block_bytes,
                                    disk->file->geometry().size_bytes, disk->config.name},
                                   payload));
    format::Entry entry;
    entry.type = format::EntryType::kGeometry;
    entry.volume = disk->config.number;
    EP_TRY(append_and_wait(entry, payload, nullptr));
  }
  return Status::ok();
}

Status Group::start_exports() {
  for (const auto& disk : disks_) {
    for (const ExportConfig& config : disk->config.exports) {
      const std::string socket_folder = config.path.substr(0, config.path.find_last_of('/'));
      EP_TRY(environment_.file_system->make_directories(socket_folder));
      if (chmod(socket_folder.c_str(), 0700) != 0) {
        return Status::from_errno(errno, "closing folder " + socket_folder + " to others");
      }
      if ((config.uid >= 0 || config.gid >= 0) &&
          chown(socket_folder.c_str(), static_cast<uid_t>(config.uid),
                static_cast<gid_t>(config.gid)) != 0) {
        return Status::from_errno(errno, "changing the owner of " + socket_folder);
      }
      exports::VhostUserBlkOptions options;
      options.path = config.path;
      options.queues = config.queues;
      // What a guest sees under /dev/disk/by-id; stable over restarts.
      options.serial =
          config_.id.to_string().substr(0, 13) + "-" + std::to_string(disk->config.number);
      options.uid = config.uid;
      options.gid = config.gid;
      options.resubmit_in_flight = environment_.faults.resubmit_in_flight;
      auto door = exports::VhostUserBlk::create(options, environment_.reactor, disk->front);
      if (!door) return door.status();
      disk->exports.push_back(std::move(*door));
    }
  }
  return Status::ok();
}

/// Runs `start(done)` on the reactor and waits until done was called there.
template <typename Start>
static void run_and_wait(reactor::Reactor* reactor, Start start) {
  auto finished = std::make_shared<std::promise<void>>();
  reactor->post([start, finished] { start([finished] { finished->set_value(); }); });
  finished->get_future().wait();
}

/// The group record and the dirty region logs may still be writing out what nobody waits for.
void Group::wait_until_idle() {
  for (bool idle = false; !idle;) {
    environment_.reactor->call([this, &idle] {
      idle = !record_->busy();
      for (const auto& disk : disks_) idle = idle && (!disk->regions || disk->regions->idle());
    });
    if (!idle) usleep(1000);
  }
}

/// Takes everything down in order, whatever stands; leaves an unclean epoch, which the next open
/// recovers from the buffer.
void Group::tear_down() {
  for (const auto& disk : disks_) {
    for (const auto& door : disk->exports) door->stop();
    disk->exports.clear();
  }
  reactor::Reactor* reactor = environment_.reactor;
  if (splitter_) {
    run_and_wait(reactor, [this](std::function<void()> done) { protection_->stop_healing(done); });
    run_and_wait(reactor, [this](std::function<void()> done) { splitter_->quiesce(done); });
    run_and_wait(reactor, [this](std::function<void()> done) { protection_->stop_log(done); });
    wait_until_idle();
  }
  reactor->call([this] {
    splitter_.reset();
    protection_.reset();
    for (const auto& disk : disks_) {
      disk->regions.reset();
      disk->delay.reset();
      disk->file.reset();
    }
  });
  disks_.clear();
  record_.reset();
  store_.reset();
}

Status Group::close() {
  for (const auto& disk : disks_) {
    for (const auto& door : disk->exports) door->stop();
    disk->exports.clear();
  }
  reactor::Reactor* reactor = environment_.reactor;
  run_and_wait(reactor, [this](std::function<void()> done) { protection_->stop_healing(done); });
  run_and_wait(reactor, [this](std::function<void()> done) { splitter_->quiesce(done); });
  const Status sealed = seal_at_end();
  Status status;
  run_and_wait(reactor, [this, &status](std::function<void()> done) {
    splitter_->settle([&status, done](block::Outcome outcome) {
      if (outcome != block::Outcome::kOk) {
        status = Status(Code::kIoError, "a primary could not be synced at the end");
      }
      done();
    });
  });
  bool in_gap = false;
  format::GroupRecord last;
  wait_until_idle();
  reactor->call([&] {
    in_gap = splitter_->in_gap();
    last = splitter_->record();
    last.last_lsn = splitter_->last_lsn();
    last.last_time_ns = splitter_->last_time_ns();
  });
  last.primaries.clear();
  for (const auto& disk : disks_) {
    Status closed = disk->regions->close_cleanly();
    // Its times too: else the next open, after a power cut, would take it for changed.
    if (closed) closed = environment_.file_system->sync(disk->file->file());
    if (status && !closed) status = closed;
    auto info = disk->file->info();
    if (info) {
      last.primaries.push_back({disk->config.number, look_of(*info)});
    } else if (status) {
      status = info.status();
    }
  }
  // In a gap as well: the primaries' looks tell whether somebody writes to them meanwhile.
  if (status && (sealed || in_gap)) {
    last.closed_cleanly = true;
    status = record_->save(last);
  } else if (status) {
    status = sealed;
  }
  const std::unique_ptr<nvram::BufferStore> store = std::move(store_);
  tear_down();
  // Everything is in the log, or the gap says what is not: the memory is free for others.
  if (status && store) (void)store->put_away().is_ok();
  return status;
}

/// Seals what was logged. A secondary that does not take it within the time that a guest's request
/// may wait ends in a gap, and the group is closed all the same.
Status Group::seal_at_end() {
  struct Wait {
    std::promise<Status> sealed;
    reactor::Timer timer;
  };
  auto wait = std::make_shared<Wait>();
  environment_.reactor->post([this, wait] {
    log::LogWriter* writer = protection_->writer();
    if (writer == nullptr || splitter_->in_gap()) {
      wait->sealed.set_value(Status(Code::kBusy, "in a gap"));
      return;
    }
    wait->timer.on_fire = [this] {
      splitter_->open_gap({.reason = "the log could not be sealed when the group was closed"},
                          [this] { protection_->writer()->stop([] {}); });
    };
    environment_.reactor->arm_timer(&wait->timer, environment_.reactor->now_ns() + kSealAtEndNs);
    writer->seal(splitter_->last_lsn(), format::SealReason::kClose,
                 [this, wait](const Status& status, uint64_t) {
                   environment_.reactor->cancel_timer(&wait->timer);
                   wait->sealed.set_value(status);
                 });
  });
  return wait->sealed.get_future().get();
}

Status Group::forget(const GroupEnvironment& environment, const GroupConfig& config) {
  (void)nvram::BufferStore::forget(store_options(environment, config)).is_ok();
  // The folders of its sockets, which hold nothing else.
  for (const VolumeConfig& volume : config.volumes) {
    for (const ExportConfig& door : volume.exports) {
      (void)environment.file_system->remove(door.path.substr(0, door.path.find_last_of('/')))
          .is_ok();
    }
  }
  const std::string folder = environment.state_folder + "/" + config.id.to_string();
  auto names = environment.file_system->list(folder);
  if (!names) return names.status().code() == Code::kNotFound ? Status::ok() : names.status();
  for (const std::string& name : *names)
    EP_TRY(environment.file_system->remove(folder + "/" + name));
  return environment.file_system->remove(folder);
}

void Group::on_sealed(const log::SegmentInfo& info) {
  {
    const std::lock_guard lock(segments_mutex_);
    segments_.push_back(info);
  }
  if (events_.sealed) events_.sealed(info);
}

void Group::on_gap(const format::Gap& gap) {
  if (gap.to_lsn != 0) healed_gaps_.push_back(gap);
  if (events_.gap) events_.gap(gap);
}

Status Group::append_and_wait(const format::Entry& entry, const uint8_t* payload, Marked* marked) {
  struct Answer {
    Status status;
    Marked marked;
  };
  auto answer = std::make_shared<std::promise<Answer>>();
  std::vector<uint8_t> copy(payload, payload + kSectorBytes);
  environment_.reactor->post([this, entry, copy, answer] {
    splitter_->append_durable(entry, copy.data(),
                              [answer](const Status& status, uint64_t lsn, uint64_t time_ns) {
                                answer->set_value({status, {lsn, time_ns}});
                              });
  });
  const Answer got = answer->get_future().get();
  if (marked != nullptr) *marked = got.marked;
  return got.status;
}

Result<Group::Marked> Group::add_marker(const std::string& label, uint64_t keep_until_ns) {
  uint8_t payload[kSectorBytes];
  EP_TRY(format::encode_marker({keep_until_ns, label}, payload));
  format::Entry entry;
  entry.type = format::EntryType::kMarker;
  Marked marked;
  EP_TRY(append_and_wait(entry, payload, &marked));
  return marked;
}

Result<uint64_t> Group::sync_log() {
  auto answer = std::make_shared<std::promise<Result<uint64_t>>>();
  environment_.reactor->post([this, answer] {
    splitter_->sync_log([answer](const Status& status, uint64_t lsn) {
      if (status) {
        answer->set_value(lsn);
      } else {
        answer->set_value(status);
      }
    });
  });
  return answer->get_future().get();
}

Result<uint64_t> Group::seal() {
  auto synced = sync_log();
  if (!synced) return synced;
  auto answer = std::make_shared<std::promise<Result<uint64_t>>>();
  const uint64_t lsn = *synced;
  environment_.reactor->post([this, lsn, answer] {
    log::LogWriter* writer = protection_->writer();
    if (writer == nullptr) {
      answer->set_value(Status(Code::kBusy, "protection is interrupted"));
      return;
    }
    writer->seal(lsn, format::SealReason::kRequest,
                 [answer](const Status& status, uint64_t sealed) {
                   if (status) {
                     answer->set_value(sealed);
                   } else {
                     answer->set_value(status);
                   }
                 });
  });
  return answer->get_future().get();
}

std::vector<log::SegmentInfo> Group::segments(uint64_t after) {
  std::vector<log::SegmentInfo> active;
  environment_.reactor->call([this, &active] {
    if (log::LogWriter* writer = protection_->writer()) active = writer->unsealed();
  });
  std::vector<log::SegmentInfo> list;
  const std::lock_guard lock(segments_mutex_);
  for (const log::SegmentInfo& info : segments_) {
    if (info.segment > after) list.push_back(info);
  }
  for (const log::SegmentInfo& info : active) {
    if (info.segment <= after) continue;
    // It may have been sealed between the two looks.
    if (!list.empty() && list.back().segment >= info.segment) continue;
    list.push_back(info);
  }
  return list;
}

void Group::set_modes(const GroupModes& modes) {
  environment_.reactor->call([this, &modes] {
    splitter_->set_ack(modes.ack);
    splitter_->set_flush(modes.flush);
    splitter_->set_log_pressure(modes.on_log_pressure, modes.throttle_max_ms * 1'000'000);
  });
}

Status Group::pause() {
  std::promise<Status> answer;
  environment_.reactor->post([this, &answer] {
    protection_->pause([&answer](const Status& status) { answer.set_value(status); });
  });
  return answer.get_future().get();
}

Status Group::resume() {
  std::promise<Status> answer;
  environment_.reactor->post([this, &answer] {
    protection_->resume([&answer](const Status& status) { answer.set_value(status); });
  });
  return answer.get_future().get();
}

GroupStatus Group::status() {
  GroupStatus status;
  if (store_) {
    status.buffer_kind = store_->kind();
    status.buffer_path = store_->path();
    status.buffer_durable = store_->survives_power_cut() || store_->mirror() != io::kNoFile;
  }
  for (const auto& disk : disks_) {
    VolumeStatus volume;
    volume.number = disk->config.number;
    volume.name = disk->config.name;
    for (size_t i = 0; i < disk->exports.size(); ++i) {
      volume.exports.push_back({disk->config.exports[i].path, disk->exports[i]->stats()});
    }
    status.volumes.push_back(std::move(volume));
  }
  environment_.reactor->call([this, &status] { look(&status); });
  for (const log::SegmentInfo& info : segments(0)) status.log_bytes += info.file_bytes;
  return status;
}

/// The part that is the reactor's.
void Group::look(GroupStatus* to) {
  GroupStatus& status = *to;
  status.epoch = protection_->epoch();
  const format::GroupRecord& record = splitter_->record();
  status.gaps = healed_gaps_;
  if (splitter_->in_gap()) {
    status.state = splitter_->resyncing()  ? GroupState::kResyncing
                   : protection_->paused() ? GroupState::kPaused
                                           : GroupState::kGap;
    status.reason = record.gap.reason;
    if (!protection_->heal_problem().empty()) {
      status.reason += "; bringing the log back failed: " + protection_->heal_problem();
    }
    status.gaps.push_back(record.gap);
    status.resync_left_bytes = protection_->resync_left_bytes();
    status.resync_total_bytes = protection_->resync_total_bytes();
  }
  status.lsn = splitter_->last_lsn();
  status.last_time_ns = splitter_->last_time_ns();
  status.durable_lsn = splitter_->durable_lsn();
  status.log_trouble = splitter_->trouble();
  log::LogWriter* writer = protection_->writer();
  status.sealed_lsn = writer != nullptr ? writer->sealed_lsn() : status.durable_lsn;
  if (writer != nullptr) status.devices = writer->devices();
  const uint64_t now = environment_.reactor->engine().wall_ns();
  uint64_t oldest = now;  // moment that is not safe
  if (const nvram::LogBuffer* buffer = protection_->buffer()) {
    status.buffer_bytes = buffer->data_bytes();
    status.buffer_used_bytes = buffer->used_bytes();
    if (status.durable_lsn < status.lsn && status.durable_lsn + 1 >= buffer->tail()) {
      oldest = buffer->at(status.durable_lsn + 1).entry.time_ns;
    }
  }
  if (splitter_->in_gap()) oldest = record.gap.from_ns;
  status.rpo_seconds = now > oldest ? static_cast<double>(now - oldest) / 1e9 : 0;
  status.counters = splitter_->counters();
  if (writer != nullptr) status.log = writer->stats();
  for (size_t i = 0; i < disks_.size(); ++i) {
    status.volumes[i].size_bytes = disks_[i]->file->geometry().size_bytes;
    status.volumes[i].dirty_regions = disks_[i]->regions->dirty_regions();
  }
}

}  // namespace ep::volume

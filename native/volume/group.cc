// SPDX-License-Identifier: Apache-2.0
#include "volume/group.h"

#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <future>

#include "base/limits.h"
#include "block/delay_device.h"
#include "block/uring_device.h"
#include "recovery/open_group.h"

namespace ep::volume {

namespace {

constexpr uint64_t kLockWaitNs = 60ull * 1'000'000'000;

std::string drl_path(const std::string& folder, uint16_t volume) {
  return folder + "/volume-" + std::to_string(volume) + ".drl";
}

std::string buffer_name(const Uuid& group) {
  return "/everpoint-" + group.to_string() + ".logbuffer";
}

/// Where a buffer of an earlier run stands, or where a new one is to be made.
Result<std::string> find_buffer(const GroupConfig& config) {
  if (!config.buffer_path.empty()) return config.buffer_path;
  for (const char* folder : {"/run", "/dev/shm"}) {
    const std::string path = folder + buffer_name(config.id);
    if (access(path.c_str(), F_OK) == 0) return path;
  }
  auto folder =
      nvram::TmpfsRegion::default_folder(nvram::LogBuffer::region_bytes(config.buffer_bytes));
  if (!folder) return folder.status();
  return *folder + buffer_name(config.id);
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
    options.lock_wait_ns = kLockWaitNs;
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
  const auto path = find_buffer(config_);
  if (!path) return create ? path.status() : Status::ok();
  buffer_path_ = *path;
  const uint64_t bytes = nvram::LogBuffer::region_bytes(config_.buffer_bytes);
  auto region = nvram::TmpfsRegion::open(buffer_path_, bytes, false);
  if (!region &&
      (region.status().code() == Code::kNotFound || region.status().code() == Code::kCorruption)) {
    region = nvram::TmpfsRegion::open(buffer_path_, bytes, true);
  }
  if (region) {
    region_ = std::move(*region);
    return Status::ok();
  }
  return create || region.status().code() == Code::kBusy ? region.status() : Status::ok();
}

Status Group::recover(bool create) {
  io::FileSystem& files = *environment_.file_system;
  recovery::OpenInput input;
  input.file_system = &files;
  input.group = config_.id;
  input.create = create;
  for (const GroupConfig::Device& device : config_.devices) {
    const std::string folder = device.root + "/groups/" + config_.id.to_string();
    if (create) {
      EP_TRY(files.make_directories(folder + "/log"));
    } else if (!files.list(folder)) {
      // Not mounted, most likely: nothing is made on what lies below. It must not keep the guest
      // from its disk; that is a gap.
      input.log_missing = "device " + device.id.to_string() + " is not at " + device.root;
    }
    input.devices.push_back({device.id, folder});
  }
  for (const auto& disk : disks_) {
    auto info = disk->file->info();
    if (!info) return info.status();
    input.primaries.push_back({disk->config.number, disk->file->file(), look_of(*info)});
  }
  input.record = record_.get();
  input.region = region_.get();
  input.boot = nvram::boot_id();
  timespec now{};
  clock_gettime(CLOCK_REALTIME, &now);
  input.wall_ns =
      static_cast<uint64_t>(now.tv_sec) * 1'000'000'000 + static_cast<uint64_t>(now.tv_nsec);
  input.segment_bytes = config_.segment_bytes;
  auto outcome = recovery::open_group(input);
  if (!outcome) return outcome.status();
  owns_state_ = create;
  epoch_ = outcome->epoch;
  segments_ = std::move(outcome->segments);
  buffer_ = std::move(outcome->buffer);

  for (const auto& disk : disks_) {
    auto regions =
        drl::RegionLog::open(files, drl_path(folder_, disk->config.number), config_.id,
                             disk->config.number, disk->file->geometry().size_bytes, create);
    if (!regions) return regions.status();
    disk->regions = std::move(*regions);
    disk->regions->attach(&environment_.reactor->engine());
  }
  if (buffer_) {
    log::LogWriterOptions options;
    options.group = config_.id;
    options.epoch = epoch_;
    options.segment_bytes = config_.segment_bytes;
    options.seal_after_ns = config_.seal_after_ms * 1'000'000;
    options.devices = input.devices;
    options.next_segment = outcome->next_segment;
    options.first_wall_ns = input.wall_ns;
    writer_ = std::make_unique<log::LogWriter>(
        environment_.reactor, &files, &*buffer_, options,
        log::LogWriter::Events{
            .durable = [this](uint64_t lsn) { splitter_->log_durable(lsn); },
            .sealed = [this](const log::SegmentInfo& info) { on_sealed(info); },
            .trouble = [this](const Status& status) { splitter_->log_failed(status); }});
    if (const Status prepared = writer_->prepare(); !prepared) {
      if (create) return prepared;
      EP_TRY(open_in_gap(prepared, outcome->next_lsn - 1, outcome->last_time_ns));
    }
  }
  const uint64_t last_time_ns = outcome->last_time_ns;
  environment_.reactor->call([this, last_time_ns] {
    split::SplitterOptions options;
    options.ack = config_.ack;
    options.flush = config_.flush;
    options.last_time_ns = last_time_ns;
    splitter_ = std::make_unique<split::Splitter>(
        environment_.reactor, buffer_ ? &*buffer_ : nullptr, writer_.get(), record_.get(), options,
        split::Splitter::Events{.gap = events_.gap});
    for (const auto& disk : disks_) {
      disk->front =
          splitter_->add_volume(disk->config.number, disk->primary(), disk->regions.get());
      disk->regions->on_failed = [this](const Status& status) {
        splitter_->open_gap(status.message());
      };
    }
    splitter_->start();
  });
  return Status::ok();
}

/// The log cannot be written at all: history ends here, the guest is served.
Status Group::open_in_gap(const Status& why, uint64_t last_lsn, uint64_t last_time_ns) {
  writer_.reset();
  format::GroupRecord record = record_->current();
  record.in_gap = true;
  record.last_lsn = last_lsn;
  record.gap = {};
  record.gap.from_lsn = last_lsn;
  record.gap.from_ns = last_time_ns;
  record.gap.reason = why.message();
  EP_TRY(record_->save(record));
  buffer_->retire();
  buffer_.reset();
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
    run_and_wait(reactor, [this](std::function<void()> done) { splitter_->quiesce(done); });
  }
  if (writer_) {
    run_and_wait(reactor, [this](std::function<void()> done) { writer_->stop(done); });
  }
  if (splitter_) {
    wait_until_idle();
  }
  reactor->call([this] {
    splitter_.reset();
    writer_.reset();
    for (const auto& disk : disks_) {
      disk->regions.reset();
      disk->delay.reset();
      disk->file.reset();
    }
  });
  disks_.clear();
  record_.reset();
  region_.reset();
}

Status Group::close() {
  for (const auto& disk : disks_) {
    for (const auto& door : disk->exports) door->stop();
    disk->exports.clear();
  }
  reactor::Reactor* reactor = environment_.reactor;
  run_and_wait(reactor, [this](std::function<void()> done) { splitter_->quiesce(done); });
  Status status;
  if (writer_) {
    run_and_wait(reactor, [this, &status](std::function<void()> done) {
      if (splitter_->in_gap()) {
        done();
        return;
      }
      writer_->seal(splitter_->last_lsn(), format::SealReason::kClose,
                    [&status, done](const Status& sealed, uint64_t) {
                      status = sealed;
                      done();
                    });
    });
  }
  run_and_wait(reactor, [this, &status](std::function<void()> done) {
    splitter_->settle([&status, done](block::Outcome outcome) {
      if (outcome != block::Outcome::kOk && status) {
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
    const Status closed = disk->regions->close_cleanly();
    if (status && !closed) status = closed;
    auto info = disk->file->info();
    if (info) {
      last.primaries.push_back({disk->config.number, look_of(*info)});
    } else if (status) {
      status = info.status();
    }
  }
  if (status && !in_gap) {
    last.closed_cleanly = true;
    status = record_->save(last);
  }
  tear_down();
  // Everything is in the log, or the gap says what is not: the memory is free for others.
  if (status) (void)environment_.file_system->remove(buffer_path_).is_ok();
  return status;
}

Status Group::forget(const GroupEnvironment& environment, const GroupConfig& config) {
  auto path = find_buffer(config);
  if (path) (void)environment.file_system->remove(*path).is_ok();
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
    writer_->seal(lsn, format::SealReason::kRequest,
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
    if (writer_) active = writer_->unsealed();
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

void Group::set_modes(split::Ack ack, split::FlushMode flush) {
  environment_.reactor->call([this, ack, flush] {
    splitter_->set_ack(ack);
    splitter_->set_flush(flush);
  });
}

GroupStatus Group::status() {
  GroupStatus status;
  status.epoch = epoch_;
  status.buffer_path = buffer_path_;
  for (const auto& disk : disks_) {
    VolumeStatus volume;
    volume.number = disk->config.number;
    volume.name = disk->config.name;
    for (size_t i = 0; i < disk->exports.size(); ++i) {
      volume.exports.push_back({disk->config.exports[i].path, disk->exports[i]->stats()});
    }
    status.volumes.push_back(std::move(volume));
  }
  environment_.reactor->call([this, &status] {
    status.in_gap = splitter_->in_gap();
    if (status.in_gap) status.gap = splitter_->record().gap;
    status.lsn = splitter_->last_lsn();
    status.last_time_ns = splitter_->last_time_ns();
    status.durable_lsn = writer_ ? writer_->durable_lsn() : splitter_->record().gap.from_lsn;
    status.sealed_lsn = writer_ ? writer_->sealed_lsn() : status.durable_lsn;
    if (buffer_) {
      status.buffer_bytes = buffer_->data_bytes();
      status.buffer_used_bytes = buffer_->used_bytes();
      if (!status.in_gap && status.durable_lsn < status.lsn) {
        const uint64_t oldest = buffer_->at(status.durable_lsn + 1).entry.time_ns;
        const uint64_t now = environment_.reactor->engine().wall_ns();
        status.rpo_seconds = now > oldest ? static_cast<double>(now - oldest) / 1e9 : 0;
      }
    }
    status.counters = splitter_->counters();
    if (writer_) status.log = writer_->stats();
    for (size_t i = 0; i < disks_.size(); ++i) {
      status.volumes[i].size_bytes = disks_[i]->file->geometry().size_bytes;
      status.volumes[i].dirty_regions = disks_[i]->regions->dirty_regions();
    }
  });
  for (const log::SegmentInfo& info : segments(0)) status.log_bytes += info.file_bytes;
  return status;
}

}  // namespace ep::volume

// SPDX-License-Identifier: Apache-2.0
#include "volume/data_plane.h"

#include <unistd.h>

#include "io/uring_engine.h"

namespace ep::volume {

Result<std::unique_ptr<DataPlane>> DataPlane::create(const DataPlaneOptions& options,
                                                     DataPlaneEvents events) {
  if (options.reactors == 0 || options.reactors > 64) {
    return Status(Code::kInvalidArgument, "a data plane has 1 to 64 reactors");
  }
  std::unique_ptr<DataPlane> plane(new DataPlane);
  plane->options_ = options;
  plane->events_ = std::move(events);
  uint64_t budget = options.buffer_budget_bytes;
  if (budget == 0) {
    budget = static_cast<uint64_t>(sysconf(_SC_PHYS_PAGES)) *
             static_cast<uint64_t>(sysconf(_SC_PAGESIZE)) / 4;
  }
  plane->budget_ = std::make_unique<nvram::BufferBudget>(budget);
  EP_TRY(plane->file_system_.make_directories(options.state_folder));
  for (uint32_t i = 0; i < options.reactors; ++i) {
    reactor::ReactorOptions reactor_options;
    reactor_options.name = "everpoint-" + std::to_string(i);
    auto reactor = std::make_unique<reactor::Reactor>(reactor_options);
    std::string granted;
    EP_TRY(reactor->start([&granted]() -> Result<std::unique_ptr<io::Engine>> {
      auto engine = io::UringEngine::create();
      if (!engine) return engine.status();
      granted = (*engine)->describe();
      return std::unique_ptr<io::Engine>(std::move(*engine));
    }));
    if (i == 0) plane->notes_.push_back(granted + "; buffers and files are not registered");
    plane->reactors_.push_back(std::move(reactor));
  }
  return plane;
}

DataPlane::~DataPlane() { (void)close().is_ok(); }

std::shared_ptr<DataPlane::Slot> DataPlane::find(const Uuid& id) {
  const std::lock_guard lock(mutex_);
  const auto found = groups_.find(id.to_string());
  return found == groups_.end() ? nullptr : found->second;
}

Result<GroupStatus> DataPlane::open_group(const GroupConfig& config, bool create) {
  auto slot = std::make_shared<Slot>();
  // Whoever finds the slot from here on waits until the group stands or has failed.
  const std::unique_lock held(slot->mutex);
  {
    const std::lock_guard lock(mutex_);
    if (closed_) return Status(Code::kCancelled, "the data plane is closing");
    if (!groups_.emplace(config.id.to_string(), slot).second) {
      return Status(Code::kAlreadyExists, "group " + config.id.to_string() + " is open already");
    }
    slot->config = config;
    slot->environment = {&file_system_, reactors_[next_reactor_++ % reactors_.size()].get(),
                         options_.state_folder, budget_.get(), options_.faults};
  }
  const Uuid id = config.id;
  GroupEvents events;
  events.sealed = [this, id](const log::SegmentInfo& info) {
    if (events_.sealed) events_.sealed(id, info);
  };
  events.gap = [this, id](const format::Gap& gap) {
    if (events_.gap) events_.gap(id, gap);
  };
  auto group = Group::open(slot->environment, config, create, std::move(events));
  if (!group) {
    const std::lock_guard lock(mutex_);
    groups_.erase(config.id.to_string());
    return group.status();
  }
  slot->group = std::move(*group);
  return slot->group->status();
}

/// A group that could not be opened, or was not: what lies on this host is named by its UUID alone.
Status DataPlane::forget_closed(const Uuid& id) {
  GroupEnvironment environment;
  environment.file_system = &file_system_;
  environment.state_folder = options_.state_folder;
  GroupConfig config;
  config.id = id;
  return Group::forget(environment, config);
}

Status DataPlane::close_group(const Uuid& id, bool forget) {
  const std::shared_ptr<Slot> slot = find(id);
  if (!slot) {
    if (forget) return forget_closed(id);
    return Status(Code::kNotFound, "no group " + id.to_string() + " is open");
  }
  const std::unique_lock held(slot->mutex);
  if (!slot->group) return Status(Code::kNotFound, "no group " + id.to_string() + " is open");
  Status status = slot->group->close();
  slot->group.reset();
  if (forget) {
    const Status forgotten = Group::forget(slot->environment, slot->config);
    if (status) status = forgotten;
  }
  const std::lock_guard lock(mutex_);
  groups_.erase(id.to_string());
  return status;
}

template <typename T, typename Ask>
Result<T> DataPlane::ask(const Uuid& id, Ask ask) {
  const std::shared_ptr<Slot> slot = find(id);
  if (!slot) return Status(Code::kNotFound, "no group " + id.to_string() + " is open");
  const std::shared_lock held(slot->mutex);
  if (!slot->group) return Status(Code::kNotFound, "no group " + id.to_string() + " is open");
  return ask(*slot->group);
}

Status DataPlane::set_modes(const Uuid& id, const GroupModes& modes) {
  return this
      ->ask<bool>(id,
                  [&](Group& group) -> Result<bool> {
                    group.set_modes(modes);
                    return true;
                  })
      .status();
}

Status DataPlane::pause(const Uuid& id) {
  return this
      ->ask<bool>(id,
                  [](Group& group) -> Result<bool> {
                    EP_TRY(group.pause());
                    return true;
                  })
      .status();
}

Status DataPlane::resume(const Uuid& id) {
  return this
      ->ask<bool>(id,
                  [](Group& group) -> Result<bool> {
                    EP_TRY(group.resume());
                    return true;
                  })
      .status();
}

Result<GroupStatus> DataPlane::status(const Uuid& id) {
  return ask<GroupStatus>(id, [](Group& group) -> Result<GroupStatus> { return group.status(); });
}

Result<Group::Marked> DataPlane::add_marker(const Uuid& id, const std::string& label,
                                            uint64_t keep_until_ns) {
  return ask<Group::Marked>(id,
                            [&](Group& group) { return group.add_marker(label, keep_until_ns); });
}

Result<uint64_t> DataPlane::sync_log(const Uuid& id) {
  return ask<uint64_t>(id, [](Group& group) { return group.sync_log(); });
}

Result<uint64_t> DataPlane::seal(const Uuid& id) {
  return ask<uint64_t>(id, [](Group& group) { return group.seal(); });
}

Result<std::vector<log::SegmentInfo>> DataPlane::segments(const Uuid& id, uint64_t after) {
  return ask<std::vector<log::SegmentInfo>>(
      id,
      [&](Group& group) -> Result<std::vector<log::SegmentInfo>> { return group.segments(after); });
}

std::vector<std::string> DataPlane::notes() const {
  const std::lock_guard lock(mutex_);
  return notes_;
}

Status DataPlane::close() {
  std::vector<Uuid> open;
  {
    const std::lock_guard lock(mutex_);
    closed_ = true;
    for (const auto& [name, slot] : groups_) open.push_back(slot->config.id);
  }
  Status first;
  for (const Uuid& id : open) {
    const Status status = close_group(id, false);
    if (first && !status && status.code() != Code::kNotFound) first = status;
  }
  for (const auto& reactor : reactors_) reactor->stop();
  return first;
}

}  // namespace ep::volume

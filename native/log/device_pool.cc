// SPDX-License-Identifier: Apache-2.0
#include "log/device_pool.h"

#include <algorithm>
#include <numeric>

#include "base/limits.h"

namespace ep::log {

namespace {

/// Given bytes count about this long: a device that comes back after a month does not have to make
/// up for it.
constexpr uint64_t kRememberedSegments = 64;

bool is_full(const DeviceChoice& choice) {
  return choice.free_bytes < space_reserve(choice.total_bytes) ||
         choice.free_bytes / 2 < limits::kSegmentBytesMin;
}

}  // namespace

uint64_t space_reserve(uint64_t total_bytes) {
  constexpr uint64_t kReserveBytes = 64ull * 1024 * 1024;
  return std::min(std::max(kReserveBytes, total_bytes / 100), total_bytes / 16);
}

std::vector<size_t> order_devices(std::span<const DeviceChoice> choices) {
  const auto rank = [](const DeviceChoice& choice) {
    if (choice.recent_trouble) return 2;
    return is_full(choice) ? 1 : 0;
  };
  std::vector<size_t> order(choices.size());
  std::iota(order.begin(), order.end(), size_t{0});
  std::stable_sort(order.begin(), order.end(), [&](size_t left, size_t right) {
    const DeviceChoice& a = choices[left];
    const DeviceChoice& b = choices[right];
    if (rank(a) != rank(b)) return rank(a) < rank(b);
    // given / free, compared without dividing: free may be 0. What is given comes off what is
    // free, so that free + given is the room at the start and the proportion stays.
    const auto a_room = static_cast<double>(a.free_bytes + a.given_bytes);
    const auto b_room = static_cast<double>(b.free_bytes + b.given_bytes);
    const double a_part = static_cast<double>(a.given_bytes) * b_room;
    const double b_part = static_cast<double>(b.given_bytes) * a_room;
    if (a_part != b_part) return a_part < b_part;
    return a_room > b_room;
  });
  return order;
}

DevicePool::DevicePool(std::vector<DeviceFolder> folders, DevicePoolOptions options)
    : folders_(std::move(folders)), devices_(folders_.size()), options_(options) {}

void DevicePool::enter(Device& device, DeviceState state, const std::string& reason,
                       uint64_t wall_ns) {
  if (device.state != state) device.since_ns = wall_ns;
  device.state = state;
  device.reason = reason;
}

void DevicePool::failed(size_t index, const Status& status, uint64_t now_ns, uint64_t wall_ns) {
  Device& device = devices_[index];
  const bool full = status.code() == Code::kNoSpace;
  enter(device, full ? DeviceState::kFull : DeviceState::kFailed, status.message(), wall_ns);
  device.last_trouble_ns = now_ns;
  device.backoff_ns =
      std::clamp(device.backoff_ns * 2, options_.retry_min_ns, options_.retry_max_ns);
  device.retry_at_ns = now_ns + device.backoff_ns;
}

void DevicePool::worked(size_t index, uint64_t wall_ns) {
  Device& device = devices_[index];
  device.backoff_ns = 0;
  device.retry_at_ns = 0;
  if (device.state == DeviceState::kFailed) enter(device, DeviceState::kOk, {}, wall_ns);
}

bool DevicePool::had_trouble(size_t index, uint64_t now_ns) const {
  const Device& device = devices_[index];
  return device.last_trouble_ns != 0 && now_ns < device.last_trouble_ns + options_.trust_again_ns;
}

bool DevicePool::may_use(size_t index, uint64_t now_ns) const {
  const Device& device = devices_[index];
  return device.held == 0 && now_ns >= device.retry_at_ns;
}

bool DevicePool::is_good(size_t index, uint64_t now_ns) const {
  return may_use(index, now_ns) && devices_[index].state != DeviceState::kFull &&
         !had_trouble(index, now_ns);
}

bool DevicePool::another_is_good(size_t index, uint64_t now_ns) const {
  for (size_t other = 0; other < devices_.size(); ++other) {
    if (other != index && is_good(other, now_ns)) return true;
  }
  return false;
}

uint64_t DevicePool::next_retry_ns() const {
  uint64_t first = ~uint64_t{0};
  for (const Device& device : devices_) {
    if (device.held == 0) first = std::min(first, device.retry_at_ns);
  }
  return first;
}

std::vector<DeviceChoice> DevicePool::candidates(uint64_t now_ns) const {
  std::vector<DeviceChoice> choices;
  for (size_t index = 0; index < devices_.size(); ++index) {
    if (!may_use(index, now_ns)) continue;
    DeviceChoice choice;
    choice.index = index;
    choice.given_bytes = devices_[index].given_bytes;
    choice.recent_trouble = had_trouble(index, now_ns);
    choices.push_back(choice);
  }
  return choices;
}

DevicePool::MakeOutcome DevicePool::make(io::FileSystem& file_system,
                                         const std::vector<DeviceFolder>& folders,
                                         std::vector<DeviceChoice> choices, uint64_t number,
                                         uint64_t bytes, uint64_t wall_ns) {
  MakeOutcome outcome;
  for (const bool troubled : {false, true}) {
    std::vector<DeviceChoice> usable;
    for (DeviceChoice& choice : choices) {
      if (choice.recent_trouble != troubled) continue;
      const auto space = file_system.space(folders[choice.index].folder);
      if (!space) {
        outcome.tried.push_back({choice.index, space.status(), false, {}});
        continue;
      }
      choice.free_bytes = space->free_bytes;
      choice.total_bytes = space->total_bytes;
      usable.push_back(choice);
    }
    for (const size_t at : order_devices(usable)) {
      MakeOutcome::Tried tried{usable[at].index, Status::ok(), is_full(usable[at]), {}};
      if (!outcome.made) {
        auto made = make_segment_file(file_system, folders[tried.index], number, bytes, wall_ns,
                                      &tried.left);
        if (made) {
          outcome.made = *made;
        } else {
          tried.status = made.status();
        }
      }
      outcome.tried.push_back(std::move(tried));
    }
    if (outcome.made) break;
  }
  return outcome;
}

Status DevicePool::learn(const MakeOutcome& outcome, uint64_t now_ns, uint64_t wall_ns) {
  Status last(Code::kNoSpace, "the group has no device for its log");
  for (const MakeOutcome::Tried& tried : outcome.tried) {
    Device& device = devices_[tried.index];
    if (!tried.status) {
      failed(tried.index, tried.status, now_ns, wall_ns);
      last = tried.status;
    } else if (tried.full) {
      if (device.state == DeviceState::kOk) {
        enter(device, DeviceState::kFull, "it is nearly full", wall_ns);
      }
    } else if (device.state == DeviceState::kFull && !had_trouble(tried.index, now_ns)) {
      enter(device, DeviceState::kOk, {}, wall_ns);
    }
  }
  if (!outcome.made) return last;
  Device& device = devices_[index_of(outcome.made->device)];
  device.given_bytes += outcome.made->capacity_bytes;
  if (device.given_bytes > kRememberedSegments * outcome.made->capacity_bytes) {
    for (Device& each : devices_) each.given_bytes /= 2;
  }
  if (device.state == DeviceState::kFull) {
    device.backoff_ns = 0;
    device.retry_at_ns = 0;
  }
  return Status::ok();
}

std::vector<DeviceStatus> DevicePool::status() const {
  std::vector<DeviceStatus> list;
  for (size_t index = 0; index < devices_.size(); ++index) {
    const Device& device = devices_[index];
    list.push_back({folders_[index].device, device.state, device.reason, device.since_ns});
  }
  return list;
}

}  // namespace ep::log

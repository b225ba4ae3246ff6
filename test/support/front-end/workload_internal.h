// SPDX-License-Identifier: Apache-2.0
//
// The private parts of Workload, shared by its two source files only.
#pragma once

#include <bitset>
#include <vector>

#include "front-end/workload.h"

namespace ep::front_end {

/// The most sectors of one request (1 MiB).
constexpr uint32_t kMaxRequestSectors = 2048;

struct Workload::Plan {
  size_t volume = 0;
  uint16_t queue = 0;
  uint32_t type = kBlkIn;
  uint64_t sector = 0;
  uint32_t sectors = 0;
  bool unmap = false;
  uint64_t segment_seed = 0;
};

/// A read in flight, and the sectors of it that a write was in flight for meanwhile.
struct Workload::ActiveRead {
  Slot* slot = nullptr;
  uint64_t first = 0;
  uint32_t count = 0;
  std::bitset<kMaxRequestSectors> skip;

  void skip_overlap(uint64_t other_first, uint64_t other_count) {
    const uint64_t from = std::max(first, other_first);
    const uint64_t to = std::min(first + count, other_first + other_count);
    for (uint64_t s = from; s < to; s++) skip.set(s - first);
  }
};

struct Workload::Volume {
  explicit Volume(BlkDeviceOptions device_options) : device(std::move(device_options)) {}

  size_t index = 0;
  BlkDevice device;
  uint64_t sectors = 0;  // of the used span
  std::unique_ptr<VolumeModel> model;
  std::vector<ActiveRead> reads;
  std::vector<uint32_t> changes;      // ids of writes, discards, write-zeroes in flight
  std::vector<uint32_t> newest_done;  // per queue: highest id completed
  uint64_t lost_at_ns = 0;
  uint64_t next_try_ns = 0;
  size_t violations_seen = 0;
};

}  // namespace ep::front_end

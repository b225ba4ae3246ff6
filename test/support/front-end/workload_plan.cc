// SPDX-License-Identifier: Apache-2.0
//
// What the workload submits: drawing requests and putting them into slots.
#include <algorithm>
#include <cstring>

#include "front-end/pattern.h"
#include "front-end/random.h"
#include "front-end/workload_internal.h"

namespace ep::front_end {

namespace {

/// Lengths spread evenly over the orders of magnitude, in units.
uint64_t draw_length(Random& random, uint64_t most_units) {
  uint32_t bits = 0;
  while ((most_units >> bits) > 1) bits++;
  const uint64_t ceiling = std::min(most_units, uint64_t{2} << random.below(bits + 1));
  return 1 + random.below(ceiling);
}

/// Cuts `length` bytes at random multiples of 512; now and then at any byte.
void cut_segments(Random& random, uint32_t length, uint32_t most, std::vector<uint32_t>* out) {
  out->clear();
  const uint32_t grain = random.one_in(8) ? 1 : kSectorBytes;
  const uint32_t wanted = 1 + static_cast<uint32_t>(random.below(most));
  uint32_t left = length;
  while (left > 0) {
    uint32_t part = left;
    if (out->size() + 1 < wanted && left > grain) {
      part = grain * (1 + static_cast<uint32_t>(random.below(left / grain)));
    }
    out->push_back(part);
    left -= part;
  }
}

}  // namespace

void Workload::plan_random(uint32_t id) {
  Random random((static_cast<uint64_t>(options_.seed) << 32) ^ id);
  random.next();
  Plan& plan = *plan_;
  plan.volume = random.below(volumes_.size());
  plan.queue = static_cast<uint16_t>(random.below(options_.queues));
  Volume& volume = *volumes_[plan.volume];
  const VhostUserClient& client = volume.device.client();
  const WorkloadMix& mix = options_.mix;
  const std::pair<uint32_t, uint32_t> types[] = {
      {kBlkIn, mix.read},
      {kBlkOut, mix.write},
      {kBlkFlush, client.has(kFeatureFlush) ? mix.flush : 0},
      {kBlkDiscard, client.has(kFeatureDiscard) ? mix.discard : 0},
      {kBlkWriteZeroes, client.has(kFeatureWriteZeroes) ? mix.write_zeroes : 0},
      {kBlkGetId, mix.get_id}};
  uint64_t total = 0;
  for (const auto& [type, weight] : types) total += weight;
  uint64_t pick = random.below(std::max<uint64_t>(total, 1));
  plan.type = kBlkIn;
  for (const auto& [type, weight] : types) {
    if (pick < weight) {
      plan.type = type;
      break;
    }
    pick -= weight;
  }
  plan.sector = 0;
  plan.sectors = 0;
  plan.segment_seed = random.next();
  if (plan.type == kBlkFlush || plan.type == kBlkGetId) return;

  const uint64_t unit = options_.align / kSectorBytes;
  const uint64_t units = volume.sectors / unit;
  uint64_t most = std::max<uint64_t>(options_.max_bytes / options_.align, 1);
  if (plan.type == kBlkDiscard && client.config().max_discard_sectors != 0) {
    most = std::min<uint64_t>(most, client.config().max_discard_sectors / unit);
  }
  if (plan.type == kBlkWriteZeroes && client.config().max_write_zeroes_sectors != 0) {
    most = std::min<uint64_t>(most, client.config().max_write_zeroes_sectors / unit);
  }
  const uint64_t length = draw_length(random, std::clamp<uint64_t>(most, 1, units));
  uint64_t room = units - length + 1;
  // Nine of ten requests into a small place make overlaps the rule.
  if (options_.hot && !random.one_in(10)) {
    room = std::min(room, std::max<uint64_t>(2 * options_.max_bytes / options_.align, 16));
  }
  plan.sector = random.below(room) * unit;
  plan.sectors = static_cast<uint32_t>(length * unit);
  plan.unmap = random.one_in(2);
}

bool Workload::plan_check() {
  while (check_volume_ < volumes_.size() && check_sector_ >= volumes_[check_volume_]->sectors) {
    check_volume_++;
    check_sector_ = 0;
  }
  if (check_volume_ >= volumes_.size()) return false;
  Plan& plan = *plan_;
  const uint64_t left = volumes_[check_volume_]->sectors - check_sector_;
  const uint64_t most = std::max<uint32_t>(options_.max_bytes / kSectorBytes, 1);
  plan = Plan{};
  plan.volume = check_volume_;
  plan.queue = static_cast<uint16_t>((check_sector_ / most) % options_.queues);
  plan.sector = check_sector_;
  plan.sectors = static_cast<uint32_t>(std::min(left, most));
  check_sector_ += plan.sectors;
  return true;
}

bool Workload::work_is_over() const {
  if (stop_) return true;
  if (options_.ops != 0 && random_ops_ >= options_.ops) return true;
  return end_by_ns_ != 0 && BlkDevice::now_ns() >= end_by_ns_;
}

bool Workload::plan_next() {
  if (planned_) return true;
  if (state_ == State::kChecking) {
    planned_ = plan_check();
  } else if (state_ == State::kRunning && !work_is_over()) {
    plan_random(journal_.next_id());
    random_ops_++;
    planned_ = true;
  }
  return planned_;
}

bool Workload::submit(const Plan& plan) {
  Volume& volume = *volumes_[plan.volume];
  BlkDevice& device = volume.device;
  Slot* slot = device.client().connected() ? device.acquire(plan.queue) : nullptr;
  if (slot == nullptr) return false;
  const uint32_t id = journal_.next_id();
  const uint32_t bytes = plan.sectors * kSectorBytes;
  BlkRequest request;
  request.type = plan.type;
  segments_.clear();
  if (plan.type == kBlkIn || plan.type == kBlkOut) {
    Random random(plan.segment_seed);
    const BlkConfig& config = device.client().config();
    uint32_t most = options_.max_segments;
    if (device.client().has(kFeatureSegMax)) most = std::clamp(config.seg_max, 1u, most);
    cut_segments(random, bytes, most, &segments_);
    request.sector = plan.sector;
    request.length = bytes;
    request.segments = segments_;
    if (plan.type == kBlkOut) {
      fill_request(slot->data, bytes, options_.seed, id);
    } else {
      // So that data the back-end did not deliver is not mistaken for what a last read left.
      std::memset(slot->data, 0xa5, bytes);
    }
  } else if (plan.type == kBlkGetId) {
    request.length = 20;
  } else if (plan.type != kBlkFlush) {
    const uint32_t flags = plan.type == kBlkWriteZeroes && plan.unmap ? kRangeUnmap : 0;
    BlkRange range{plan.sector, plan.sectors, flags};
    std::memcpy(slot->data, &range, sizeof range);
    request.length = sizeof range;
  }
  if (!device.submit(slot, request)) {
    device.release(slot);
    return false;
  }
  slot->user = id;
  JournalRecord& record = journal_.add();
  record.type = static_cast<uint8_t>(plan.type);
  record.volume = static_cast<uint8_t>(plan.volume);
  record.queue = static_cast<uint8_t>(plan.queue);
  record.offset = plan.sector * kSectorBytes;
  record.length = bytes;
  record.flags = plan.type == kBlkWriteZeroes && plan.unmap ? kJournalUnmap : 0;
  record.submit_tick = journal_.tick();
  result_.submitted++;

  if (plan.type == kBlkIn) {
    ActiveRead& read = volume.reads.emplace_back();
    read.slot = slot;
    read.first = plan.sector;
    read.count = plan.sectors;
    for (uint32_t change : volume.changes) {
      const JournalRecord& other = journal_.record(change);
      read.skip_overlap(other.offset / kSectorBytes, other.length / kSectorBytes);
    }
  } else if (plan.sectors > 0) {
    volume.changes.push_back(id);
    for (ActiveRead& read : volume.reads) read.skip_overlap(plan.sector, plan.sectors);
  }
  return true;
}

bool Workload::issue() {
  bool issued = false;
  // A bounded number at a time, so that completions are looked at in between.
  for (int i = 0; i < 32; i++) {
    if (!plan_next() || !submit(*plan_)) break;
    planned_ = false;
    issued = true;
  }
  if (issued) {
    for (auto& volume : volumes_) {
      for (uint16_t q = 0; q < options_.queues; q++) volume->device.flush_queue(q);
    }
  }
  return issued;
}

}  // namespace ep::front_end

// SPDX-License-Identifier: Apache-2.0
#include "front-end/load.h"

#include <time.h>

#include <algorithm>
#include <cstring>
#include <vector>

#include "front-end/blk_device.h"
#include "front-end/random.h"

namespace ep::front_end {

namespace {

double thread_cpu_seconds() {
  timespec now;
  ::clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now);
  return static_cast<double>(now.tv_sec) + static_cast<double>(now.tv_nsec) / 1e9;
}

/// Empty polls in a row before sleeping: about 20 us, the cost of a sleep and a wake-up.
constexpr uint32_t kSpins = 400;

class LoadRun {
 public:
  LoadRun(const LoadOptions& options, BlkDevice* device)
      : options_(options), device_(device), random_(options.seed) {
    const uint64_t bytes =
        options.size == 0 ? device->capacity() : std::min(options.size, device->capacity());
    blocks_ = bytes / options.block_bytes;
    for (uint16_t q = 0; q < options.queues; q++) all_queues_.push_back(q);
  }

  Status run(LoadResult* result);

 private:
  void submit(Slot* slot);
  bool submit_flush(Slot* slot);
  uint32_t poll_all();
  Status check_progress(uint64_t now);

  const LoadOptions& options_;
  BlkDevice* device_;
  Random random_;
  uint64_t blocks_ = 0;
  uint64_t next_block_ = 0;
  uint64_t errors_ = 0;
  uint64_t now_ns_ = 0;
  bool stopping_ = false;
  LatencyHistogram latency_;
  std::vector<uint16_t> all_queues_;
};

void LoadRun::submit(Slot* slot) {
  const uint64_t block = options_.random ? random_.below(blocks_) : next_block_++ % blocks_;
  BlkRequest request;
  request.type = options_.write ? kBlkOut : kBlkIn;
  request.sector = block * (options_.block_bytes / kSectorBytes);
  request.length = options_.block_bytes;
  if (options_.write) {
    // Different data each time, for a store that might notice equal blocks, at next to no cost.
    const uint64_t stamp[2] = {random_.next(), block};
    std::memcpy(slot->data, stamp, sizeof stamp);
  }
  device_->submit(slot, request);
  slot->user = slot->submitted_ns;
  slot->user2 = options_.flush ? 1 : 0;
}

/// The second half of a pair, where there is one; `user` keeps when the first one was submitted.
bool LoadRun::submit_flush(Slot* slot) {
  if (slot->user2 == 0 || slot->status != kStatusOk) return false;
  slot->user2 = 0;
  BlkRequest request;
  request.type = kBlkFlush;
  return device_->submit(slot, request);
}

uint32_t LoadRun::poll_all() {
  uint32_t done = 0;
  for (uint16_t q : all_queues_) {
    // One look at the clock for all completions of one pass: they were seen together.
    bool stamped = false;
    const uint32_t here = device_->poll(q, [&](Slot& slot) {
      if (!stamped) now_ns_ = BlkDevice::now_ns();
      stamped = true;
      if (submit_flush(&slot)) return;
      latency_.add(now_ns_ - slot.user);
      if (slot.status != kStatusOk) errors_++;
      if (stopping_) {
        device_->release(&slot);
      } else {
        submit(&slot);
      }
    });
    if (here > 0) device_->flush_queue(q);
    done += here;
  }
  return done;
}

Status LoadRun::check_progress(uint64_t now) {
  if (device_->client().lost()) return Status::error("back-end closed the connection");
  if (!device_->violations().empty()) return Status::error(device_->violations().front());
  if (now - now_ns_ > 10000000000ull) return Status::error("no completion for 10 s");
  return {};
}

Status LoadRun::run(LoadResult* result) {
  if (blocks_ == 0) return Status::error("the disk is smaller than one block");
  for (Slot& slot : device_->slots()) {
    Random filler(options_.seed + slot.index);
    for (uint32_t i = 0; i + 8 <= options_.block_bytes; i += 8) {
      const uint64_t word = filler.next();
      std::memcpy(slot.data + i, &word, sizeof word);
    }
  }
  for (uint16_t q : all_queues_) {
    device_->client().ring(q).disarm_interrupt();
    for (uint16_t i = 0; i < options_.depth; i++) submit(device_->acquire(q));
    device_->flush_queue(q);
  }
  now_ns_ = BlkDevice::now_ns();
  uint64_t start = now_ns_;
  const uint64_t warm_end = start + static_cast<uint64_t>(options_.warmup_seconds * 1e9);
  const uint64_t end = warm_end + static_cast<uint64_t>(options_.seconds * 1e9);
  double cpu_start = thread_cpu_seconds();
  bool warm = false;
  uint32_t empty = 0;
  while (!stopping_ || device_->in_flight() > 0) {
    if (poll_all() > 0) {
      empty = 0;
    } else {
      if (++empty % kSpins == 0) {
        FRONT_END_TRY(check_progress(BlkDevice::now_ns()));
        if (!options_.spin) {
          device_->wait_for_interrupt(all_queues_, 100);
          for (uint16_t q : all_queues_) device_->client().ring(q).disarm_interrupt();
        }
      }
      continue;
    }
    if (!warm && now_ns_ >= warm_end) {
      warm = true;
      errors_ = 0;
      latency_.clear();
      start = now_ns_;
      cpu_start = thread_cpu_seconds();
    }
    if (!stopping_ && now_ns_ >= end) {
      stopping_ = true;
      const double cpu = thread_cpu_seconds() - cpu_start;
      result->requests = latency_.count();
      result->seconds = static_cast<double>(now_ns_ - start) / 1e9;
      result->cpu_us_per_request =
          cpu * 1e6 / static_cast<double>(std::max<uint64_t>(result->requests, 1));
      result->latency = latency_;
    }
  }
  result->errors = errors_;
  result->iops = static_cast<double>(result->requests) / result->seconds;
  result->mb_per_second = result->iops * options_.block_bytes / 1e6;
  return device_->client().stop();
}

}  // namespace

void LatencyHistogram::add(uint64_t ns) {
  uint32_t bucket = static_cast<uint32_t>(ns);
  if (ns >= (1u << kSubBits)) {
    const uint32_t shift = static_cast<uint32_t>(63 - __builtin_clzll(ns)) - kSubBits;
    bucket = ((shift + 1) << kSubBits) + static_cast<uint32_t>((ns >> shift) - (1u << kSubBits));
  }
  buckets_[bucket]++;
  count_++;
  sum_ += ns;
  max_ = std::max(max_, ns);
}

uint64_t LatencyHistogram::percentile_ns(double share) const {
  const auto wanted = static_cast<uint64_t>(share * static_cast<double>(count_) + 0.999999);
  uint64_t seen = 0;
  for (uint32_t bucket = 0; bucket < buckets_.size(); bucket++) {
    seen += buckets_[bucket];
    if (seen < wanted || seen == 0) continue;
    if (bucket < (1u << kSubBits)) return bucket;
    const uint32_t shift = (bucket >> kSubBits) - 1;
    const uint64_t base = (bucket & ((1u << kSubBits) - 1)) + (1u << kSubBits);
    return std::min(max_, ((base + 1) << shift) - 1);
  }
  return max_;
}

Status run_load(const LoadOptions& options, LoadResult* result) {
  if (options.block_bytes == 0 || options.block_bytes % kSectorBytes != 0) {
    return Status::error("block size must be a multiple of 512");
  }
  BlkDeviceOptions device_options;
  device_options.client.socket_path = options.socket_path;
  device_options.client.queues = options.queues;
  device_options.client.queue_size = options.queue_size;
  device_options.client.event_idx = options.event_idx;
  device_options.client.indirect = options.indirect;
  device_options.depth = options.depth;
  device_options.max_bytes = options.block_bytes;
  BlkDevice device(device_options);
  FRONT_END_TRY(device.open());
  const uint32_t each = device.client().has(kFeatureIndirect) ? 1 : 3;
  if (options.depth * each > options.queue_size) {
    return Status::error("--depth does not fit into the ring; raise --queue-size");
  }
  if (options.write && device.client().has(kFeatureReadOnly)) {
    return Status::error("the disk is read-only");
  }
  return LoadRun(options, &device).run(result);
}

}  // namespace ep::front_end

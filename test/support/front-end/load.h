// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <array>
#include <cstdint>
#include <string>

#include "front-end/status.h"

namespace ep::front_end {

/// Counts durations in buckets 1/32 of their size wide. No allocation.
class LatencyHistogram {
 public:
  void add(uint64_t ns);
  void clear() { *this = LatencyHistogram(); }
  uint64_t count() const { return count_; }
  uint64_t max_ns() const { return max_; }
  double mean_ns() const { return count_ == 0 ? 0 : static_cast<double>(sum_) / count_; }
  /// The upper end of the bucket that holds the given share of all, 0 < share <= 1.
  uint64_t percentile_ns(double share) const;

 private:
  static constexpr uint32_t kSubBits = 5;
  std::array<uint64_t, 64 << kSubBits> buckets_{};
  uint64_t count_ = 0;
  uint64_t sum_ = 0;
  uint64_t max_ = 0;
};

struct LoadOptions {
  std::string socket_path;
  bool write = false;
  bool random = true;
  /// Each write is followed by a flush, as a guest's fsync does: both together are one request.
  bool flush = false;
  uint32_t block_bytes = 4096;
  uint16_t depth = 1;  // per queue
  uint16_t queues = 1;
  uint16_t queue_size = 128;
  double seconds = 5;
  double warmup_seconds = 1;
  uint64_t size = 0;  // 0: the whole disk
  uint64_t seed = 1;
  bool event_idx = true;
  bool indirect = true;
  /// Never sleep: for back-ends that poll too and machines with a core to spare.
  bool spin = false;
};

struct LoadResult {
  uint64_t requests = 0;
  uint64_t errors = 0;
  double seconds = 0;
  double iops = 0;
  double mb_per_second = 0;  // 10^6 bytes
  /// CPU time of this thread per request, to show what the generator itself costs.
  double cpu_us_per_request = 0;
  LatencyHistogram latency;
};

/// Keeps `depth` requests of one kind in flight on each queue for the given time. One thread.
Status run_load(const LoadOptions& options, LoadResult* result);

}  // namespace ep::front_end

// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <cstdio>
#include <memory>
#include <string>
#include <vector>

#include "front-end/blk_device.h"
#include "front-end/journal.h"
#include "front-end/json.h"
#include "front-end/model.h"

namespace ep::front_end {

/// Relative weights of the request types.
struct WorkloadMix {
  uint32_t read = 25;
  uint32_t write = 60;
  uint32_t flush = 5;
  uint32_t discard = 5;
  uint32_t write_zeroes = 4;
  uint32_t get_id = 1;
};

struct WorkloadOptions {
  std::vector<std::string> sockets;  // one per volume
  uint16_t queues = 1;
  uint16_t queue_size = 128;
  uint16_t depth = 8;
  uint16_t max_segments = 8;
  uint32_t regions = 2;
  bool event_idx = true;
  bool indirect = true;
  bool inflight = true;

  uint32_t seed = 1;
  uint32_t first_id = 1;
  uint64_t ops = 0;    // 0: no limit
  double seconds = 0;  // 0: no limit
  uint32_t max_bytes = 1 << 20;
  uint32_t align = 512;
  /// Only the first bytes of each volume are used; 0: all of it.
  uint64_t span = 0;
  bool hot = false;
  WorkloadMix mix;

  std::string journal_path;
  bool reconnect = false;
  double reconnect_seconds = 60;
  double request_seconds = 30;
  bool no_error_tolerance = false;
  /// Discarded sectors may read as before, or as zeroes.
  bool discard_any = false;
  /// The volumes are all zeroes at the start; else sectors are unknown until written.
  bool initial_zero = true;
  /// At the end read everything once more.
  bool final_check = false;
  bool start_paused = false;

  /// Where commands come from (pause, resume, stop, tick), -1: nowhere. Set to non-blocking.
  int command_fd = -1;
  /// Readable when the run is to end (a signalfd), -1: none.
  int stop_fd = -1;
};

struct WorkloadResult {
  bool ok = false;
  uint64_t submitted = 0;
  uint64_t completed = 0;
  uint64_t errors = 0;
  uint64_t reads = 0;
  uint64_t writes = 0;
  uint64_t flushes = 0;
  uint64_t discards = 0;
  uint64_t write_zeroes = 0;
  uint64_t sectors_checked = 0;
  uint64_t sectors_skipped = 0;
  uint64_t reconnects = 0;
  uint64_t resubmitted = 0;
  /// Completions that overtook an older request of their queue.
  uint64_t out_of_order = 0;
  std::vector<std::string> failures;
};

/// The random workload behind `everpoint-front-end run`. What request k is (volume, queue, type,
/// place, data) follows from the seed, k and the volumes' sizes alone; only timing varies. One
/// thread for all volumes.
class Workload {
 public:
  Workload(WorkloadOptions options, FILE* out);
  ~Workload();

  /// Connects all volumes, or says why not.
  Status open();
  /// Runs to the end; prints events to `out`.
  WorkloadResult run();

 private:
  struct Plan;
  struct ActiveRead;
  struct Volume;
  enum class State { kRunning, kPausing, kPaused, kChecking, kEnding };

  bool step();
  void wait_until_something_happens();
  void poll_completions();
  void on_completion(Volume& volume, Slot& slot);
  void check_read(Volume& volume, Slot& slot, const ActiveRead& read);
  bool issue();
  bool submit(const Plan& plan);
  bool plan_next();
  void plan_random(uint32_t id);
  bool plan_check();
  bool work_is_over() const;
  void advance_state();
  void look_after_connections();
  void look_at_time();
  void read_commands();
  void command(const std::string& line);
  void fail(const std::string& what);
  uint32_t in_flight() const;
  bool all_connected() const;
  JsonLine event(const char* name) const;

  WorkloadOptions options_;
  FILE* out_;
  Journal journal_;
  std::vector<std::unique_ptr<Volume>> volumes_;
  std::unique_ptr<Plan> plan_;
  bool planned_ = false;
  std::vector<uint32_t> segments_;
  State state_ = State::kRunning;
  bool stop_ = false;
  uint64_t random_ops_ = 0;
  uint64_t start_ns_ = 0;
  uint64_t next_progress_ns_ = 0;
  uint64_t end_by_ns_ = 0;
  uint64_t failed_at_ns_ = 0;
  size_t check_volume_ = 0;
  uint64_t check_sector_ = 0;
  std::string command_text_;
  WorkloadResult result_;
};

}  // namespace ep::front_end

// SPDX-License-Identifier: Apache-2.0
#pragma once

// Turns the log buffer's entries, in LSN order, into flush batches of segment files.
//
//   buffer  [tail … written … head)          batches are cut from `taken_` on
//   segments  A (closing) → B (active) → C (allocated ahead)
//
// A batch is written with one vectored write out of the buffer (table from staging memory, data in
// place) and counts when every batch before it is done. An LSN is *durable* when its batch counts
// and a sync of its file began after that; entries leave the buffer only then (the splitter frees
// them), so a file whose sync failed is never the only place of an entry. Full segments are sealed
// on the offload thread once their last batch is durable.

#include <cstdint>
#include <deque>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "format/entry_source.h"
#include "format/segment.h"
#include "io/io.h"
#include "log/segment_file.h"
#include "log/segment_info.h"
#include "reactor/reactor.h"

namespace ep::log {

struct LogWriterOptions {
  Uuid group;
  uint64_t epoch = 0;
  uint64_t segment_bytes = 256ull * 1024 * 1024;
  uint64_t seal_after_ns = 60ull * 1'000'000'000;
  /// An entry is handed to the secondary at the latest after this long.
  uint64_t write_after_ns = 50'000'000;
  /// Where segments go; the first with room is taken.
  std::vector<DeviceFolder> devices;
  uint64_t next_segment = 1;
  /// Wall time for the name of the first segment's folder.
  uint64_t first_wall_ns = 0;
};

struct LogWriterStats {
  uint64_t batches = 0;
  uint64_t syncs = 0;
  uint64_t segments_sealed = 0;
  /// Bytes of segment files written in this run: header, batches, directory, trailer.
  uint64_t bytes = 0;
};

/// One group's; lives on its reactor.
class LogWriter {
 public:
  struct Events {
    /// Everything up to this LSN is durable on the secondary; only grows.
    std::function<void(uint64_t lsn)> durable;
    std::function<void(const SegmentInfo&)> sealed;
    /// The log cannot go on; nothing more is written. Once.
    std::function<void(const Status&)> failed;
  };

  LogWriter(reactor::Reactor* reactor, io::FileSystem* file_system, format::EntrySource* source,
            LogWriterOptions options, Events events);
  ~LogWriter();

  /// Blocking, before the reactor uses it: allocates the first segment.
  Status prepare();

  /// The buffer has grown: cuts batches when there is enough, otherwise sees to the time limit.
  void notify();
  /// Every entry up to `lsn` is to become durable as soon as can be.
  void want_durable(uint64_t lsn);
  /// Seals the active segment when what it holds is durable (`lsn` included); `done` then gets the
  /// last LSN that stands in sealed segments. kCancelled when the log fails first.
  void seal(uint64_t lsn, format::SealReason reason, std::function<void(Status, uint64_t)> done);

  /// No new batch is started; `quiet` is called when no I/O is in flight any more. The active
  /// segment stays unsealed.
  void stop(std::function<void()> quiet);

  [[nodiscard]] uint64_t durable_lsn() const { return durable_lsn_; }
  [[nodiscard]] uint64_t sealed_lsn() const { return sealed_lsn_; }
  [[nodiscard]] const LogWriterStats& stats() const { return stats_; }
  [[nodiscard]] bool failed() const { return failed_; }
  /// The active segment as far as it is durable; nothing when it holds no entry yet.
  [[nodiscard]] std::vector<SegmentInfo> unsealed() const;

 private:
  struct Segment;
  struct Batch;

  void pump();
  [[nodiscard]] bool should_cut() const;
  bool cut_batch();
  static void on_batch_written(io::Op* op, int32_t result);
  void batch_done(Batch* batch, int32_t result);
  void maybe_sync();
  static void on_synced(io::Op* op, int32_t result);
  void sync_done(Segment* segment, int32_t result);
  void advance_durable();
  [[nodiscard]] Segment* active() const;
  void close_active(format::SealReason reason);
  void serve_seal_wishes();
  void maybe_seal_front();
  void seal_done(const Status& status, const SegmentInfo& info);
  void order_next_segment();
  void adopt_next(const NewSegmentFile& made);
  bool take_next_segment();
  void fail(const Status& status);
  void check_quiet();
  void arm_timer();
  void on_timer();

  reactor::Reactor* reactor_;
  io::FileSystem* file_system_;
  format::EntrySource* source_;
  LogWriterOptions options_;
  Events events_;
  LogWriterStats stats_;

  std::deque<std::unique_ptr<Segment>> segments_;  // closing ones first, active last
  std::unique_ptr<Segment> next_;                  // allocated ahead
  bool next_ordered_ = false;
  uint64_t next_segment_number_;

  std::vector<std::unique_ptr<Batch>> idle_batches_;
  std::deque<std::unique_ptr<Batch>> flying_;  // in order of cutting

  uint64_t taken_lsn_;  // first LSN not in any batch
  uint64_t wanted_lsn_ = 0;
  uint64_t durable_lsn_;
  uint64_t sealed_lsn_;
  uint64_t pending_since_ns_ = 0;  // monotonic; 0: all is durable

  struct SealWish {
    uint64_t lsn;
    format::SealReason reason;
    std::function<void(Status, uint64_t)> done;
  };
  std::vector<SealWish> seal_wishes_;
  reactor::Timer timer_;
  bool stopping_ = false;
  bool failed_ = false;
  bool sealing_ = false;
  unsigned syncs_running_ = 0;
  std::function<void()> quiet_;
};

}  // namespace ep::log

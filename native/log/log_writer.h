// SPDX-License-Identifier: Apache-2.0
#pragma once

// Turns the log buffer's entries, in LSN order, into flush batches of segment files.
//
//   buffer  [tail … written … head)          batches are cut from `taken_lsn_` on
//   segments  A (closing) → B (active) → C (allocated ahead)
//
// A batch is written with one vectored write out of the buffer (table from staging memory, data in
// place) and counts when every batch before it is done. An LSN is *durable* when its batch counts
// and a sync of its file began after that; entries leave the buffer only then (the splitter frees
// them), so a file whose sync failed is never the only place of an entry. Full segments are sealed
// on the offload thread once their last batch is durable.
//
// Trouble [0046] (design 4, step 7): a batch or sync that fails, or hangs while another device is
// usable, gives its segment up. What a sync made durable in it stays; everything behind that is
// still in the buffer and is written again into a new segment with a higher number, on another
// device where there is one. So two files may hold the same LSNs; the higher number counts. The
// segments behind the one that was given up go as well, since their LSNs are written again. The
// writer never gives up itself and opens no gap: whoever cannot wait does.
//
//   given up, with a durable part   closed out: sealed at its durable end, retried until it works
//   given up, nothing durable       removed, retried until it works
// Both only after every operation on the file has ended: a late write must not land in it.

#include <cstdint>
#include <deque>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "format/entry_source.h"
#include "format/segment.h"
#include "io/io.h"
#include "log/device_pool.h"
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
  /// Where segments go, spread by free space.
  std::vector<DeviceFolder> devices;
  uint64_t next_segment = 1;
  /// Wall time for the name of the first segment's folder.
  uint64_t first_wall_ns = 0;
  /// A batch or sync that has not ended after this long counts as failed when another device is
  /// usable.
  uint64_t hang_after_ns = 1'000'000'000;
  /// How often sealing or removing a segment is tried again.
  uint64_t seal_retry_ns = 3'000'000'000;
  DevicePoolOptions pool;
};

struct LogWriterStats {
  uint64_t batches = 0;
  uint64_t syncs = 0;
  uint64_t segments_sealed = 0;
  uint64_t segments_given_up = 0;
  /// Bytes of segment files written in this run: header, batches, directory, trailer.
  uint64_t bytes = 0;
};

/// One group's; lives on its reactor.
class LogWriter {
 public:
  /// Called on the reactor, when the writer is in order again: they may call it.
  struct Events {
    /// Everything up to this LSN is durable on the secondary; only grows.
    std::function<void(uint64_t lsn)> durable;
    /// In LSN order, without holes.
    std::function<void(const SegmentInfo&)> sealed;
    /// The log cannot be written at the moment; it is being retried. Once until `recovered`.
    std::function<void(const Status&)> trouble;
    /// What could not be written is durable now.
    std::function<void()> recovered = nullptr;
    /// This segment was given up: the owner appends an error entry that names it [0046], which will
    /// stand in a later one. Not told of segments of the same episode of trouble in which nothing
    /// became durable, but for the first.
    std::function<void(uint64_t segment, const Status&)> gave_up = nullptr;
    /// pinned_lsn() has risen: the owner may free more.
    std::function<void()> unpinned = nullptr;
  };
  /// pinned_lsn() when nothing is.
  static constexpr uint64_t kNotPinned = ~uint64_t{0};

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
  /// last LSN that stands in sealed segments. Waits through trouble; kCancelled by stop().
  void seal(uint64_t lsn, format::SealReason reason, std::function<void(Status, uint64_t)> done);

  /// Nothing new is started and waits for seal() end; `quiet` is called when no I/O is in flight
  /// any more, operations that hang included. What is not sealed stays so: recovery does it.
  void stop(std::function<void()> quiet);

  [[nodiscard]] uint64_t durable_lsn() const { return durable_lsn_; }
  /// Lowest LSN whose bytes in the buffer a write to a given-up segment still reads, kNotPinned
  /// when there is none. Durable or not, entries from here on must stay in the buffer.
  [[nodiscard]] uint64_t pinned_lsn() const;
  [[nodiscard]] uint64_t sealed_lsn() const { return sealed_lsn_; }
  [[nodiscard]] const LogWriterStats& stats() const { return stats_; }
  /// Between `trouble` and `recovered`.
  [[nodiscard]] bool in_trouble() const { return in_trouble_; }
  /// Monotonic start of the oldest operation (batch, sync, sealing, allocation, removal) that has
  /// not ended; 0 when there is none.
  [[nodiscard]] uint64_t stalled_since_ns() const;
  [[nodiscard]] std::vector<DeviceStatus> devices() const { return pool_.status(); }
  /// What is durable and not reported as sealed, in LSN order.
  [[nodiscard]] std::vector<SegmentInfo> unsealed() const;

 private:
  struct Segment;
  struct Batch;

  // log_writer.cc: the straight path.
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
  void order_next_segment();
  void adopt_next(const NewSegmentFile& made);
  void discard_left(const DevicePool::MakeOutcome& outcome);
  void close_file(Segment& segment);
  void next_made(const DevicePool::MakeOutcome& outcome);
  bool take_next_segment();
  void arm_timer();
  void on_timer();

  // log_writer_upkeep.cc: trouble, sealing, removing.
  void give_up(Segment* segment, const Status& status);
  void abandon_batches();
  void abandoned_done(Batch* batch);
  void begin_trouble(const Status& status, uint64_t lsn);
  void go_on();
  void announce();
  void work_off();
  bool seal_one();
  bool remove_one();
  void seal_done(Segment* segment, const Result<uint64_t>& size);
  void remove_done(Segment* segment, const Status& status);
  void report_sealed();
  [[nodiscard]] bool may_work_on(const Segment& segment) const;
  void watch_for_hang();
  void give_up_hung();
  [[nodiscard]] size_t device_of(const Segment& segment) const;
  void arm_upkeep();
  void check_quiet();

  reactor::Reactor* reactor_;
  io::FileSystem* file_system_;
  format::EntrySource* source_;
  LogWriterOptions options_;
  Events events_;
  LogWriterStats stats_;
  DevicePool pool_;

  /// In LSN and number order: closing ones (given-up ones with a durable part among them) first,
  /// active last.
  std::deque<std::unique_ptr<Segment>> segments_;
  std::unique_ptr<Segment> next_;  // allocated ahead
  /// Files with nothing durable, to be removed when all operations on them have ended.
  std::vector<std::unique_ptr<Segment>> discarded_;
  uint64_t next_segment_number_;

  std::vector<std::unique_ptr<Batch>> idle_batches_;
  std::deque<std::unique_ptr<Batch>> flying_;  // in order of cutting
  /// Writes to given-up segments that have not ended.
  std::vector<std::unique_ptr<Batch>> abandoned_;

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
  reactor::Timer upkeep_timer_;
  bool stopping_ = false;
  bool in_trouble_ = false;
  uint64_t trouble_lsn_ = 0;  // the trouble ends when this one is durable
  /// To be told when the writer is in order again.
  std::optional<Status> tell_trouble_;
  std::optional<std::pair<uint64_t, Status>> tell_gave_up_;
  bool gave_up_told_ = false;      // in this episode
  uint64_t ordered_since_ns_ = 0;  // an allocation is at work; 0: none
  uint64_t working_since_ns_ = 0;  // a sealing or removal is at work; 0: none
  unsigned syncs_running_ = 0;
  std::function<void()> quiet_;
};

}  // namespace ep::log

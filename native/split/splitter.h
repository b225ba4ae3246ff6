// SPDX-License-Identifier: Apache-2.0
#pragma once

// The life of one write (figures 5 and 6 of the source, [0043]–[0046]; design 4):
//
//   submit ─ overlap? wait ─ region clean? dirty region log first ─ room? wait
//          ─ LSN, time, one copy into the log buffer, checksum ─ primary write out of the buffer
//          ─ done: answer (ack: primary) or wait for the log too (ack: both)
//
// The log writer takes entries out of the same buffer on its own pace. An entry leaves the buffer
// when both its writes are done. One Splitter per group, on its reactor; each volume's front is a
// block::Device that an export drives.
//
// The log comes and goes: attach_log() gives the splitter a buffer and a writer, a gap takes them
// away. In a gap requests go to the primaries alone, their regions stay uncovered. With a log
// attached again the group is *resyncing*: new requests are logged as ever, resync_range() brings
// what the log missed, end_gap() ends it.

#include <cstdint>
#include <deque>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "block/device.h"
#include "drl/region_log.h"
#include "format/group_record.h"
#include "log/group_record_file.h"
#include "log/log_writer.h"
#include "nvram/buffer_committer.h"
#include "nvram/log_buffer.h"
#include "reactor/reactor.h"

namespace ep::split {

enum class Ack : uint8_t { kPrimary, kBoth };
enum class FlushMode : uint8_t { kBoth, kPrimary };

struct Counters {
  uint64_t writes = 0;
  uint64_t write_bytes = 0;
  uint64_t reads = 0;
  uint64_t flushes = 0;
  uint64_t discards = 0;
  uint64_t write_zeroes = 0;
  uint64_t markers = 0;
  uint64_t overlap_waits = 0;
  uint64_t buffer_waits = 0;
  uint64_t primary_errors = 0;
  uint64_t log_errors = 0;
  /// Segments given up and gone on with in another one.
  uint64_t log_moves = 0;
  uint64_t resync_bytes = 0;
  /// Time that requests have waited for the log, together.
  uint64_t throttled_ns = 0;
  uint64_t gaps = 0;
};

/// What happens when the log buffer is full.
enum class LogPressure : uint8_t { kThrottle, kGap };

struct SplitterOptions {
  Ack ack = Ack::kPrimary;
  FlushMode flush = FlushMode::kBoth;
  LogPressure on_log_pressure = LogPressure::kThrottle;
  /// No request waits for the log longer than this; then a gap opens.
  uint64_t throttle_max_ns = 5'000'000'000;
  /// How often idle dirty regions are looked for.
  uint64_t clean_interval_ns = 5'000'000'000;
};

class Splitter {
 public:
  struct Events {
    /// Protection was interrupted; durable when called.
    std::function<void(const format::Gap&)> gap;
  };

  /// Without a log; in a gap when the record says so. Then everything goes to the primaries alone.
  /// A splitter that is not in a gap gets its log before its first request.
  Splitter(reactor::Reactor* reactor, log::GroupRecordFile* record, SplitterOptions options,
           Events events);
  ~Splitter();

  /// Adds a volume; returns the device that its exports drive. Primary and DRL outlive the
  /// splitter.
  block::Device* add_volume(uint16_t number, block::Device* primary, drl::RegionLog* regions);
  /// Starts the timers; after the last add_volume.
  void start();

  /// From now on requests are logged: in a gap the state becomes *resyncing*. The record file holds
  /// the new epoch. Buffer and writer stay until detach_log, or the splitter's end. `last_time_ns`
  /// is that of the last entry known of any earlier epoch: times only rise.
  struct Log {
    nvram::LogBuffer* buffer = nullptr;
    log::LogWriter* writer = nullptr;
    /// Makes the buffer durable where that is not its memory's own doing; null elsewhere.
    nvram::BufferCommitter* committer = nullptr;
  };
  void attach_log(const Log& log, uint64_t last_time_ns);
  /// In an open gap: calls back when nothing uses the buffer any more, and has forgotten both. The
  /// writer's own I/O is the caller's affair.
  void detach_log(std::function<void()> detached);

  // What writer and committer report.
  void log_durable(uint64_t lsn);
  void buffer_durable(uint64_t lsn);
  void buffer_failed(const Status& status);
  void log_trouble(const Status& status);
  void log_recovered();
  void log_gave_up(uint64_t segment);
  void log_unpinned();

  /// Appends an entry of the group's own with one sector of payload; `done` when it is durable on
  /// the secondary. kBusy in a gap, kCancelled when one opens first.
  void append_durable(format::Entry entry, const uint8_t* payload,
                      std::function<void(Status, uint64_t lsn, uint64_t time_ns)> done);
  /// `done` when everything appended before the call is durable.
  void sync_log(std::function<void(Status, uint64_t lsn)> done);

  struct GapWish {
    std::string reason;
    bool paused = false;
    /// The dirty region logs do not say all: the resync is to look at every region.
    bool resync_all = false;
  };
  /// Opens a gap, or changes what an open one says; `opened` (may be empty) when that is durable
  /// and requests pass to the primaries alone.
  void open_gap(const GapWish& wish, std::function<void()> opened = nullptr);
  /// While resyncing: the first entry, which tells the secondary where the gap began.
  void log_gap_begin();
  /// While resyncing. Reads [offset, +length) of the primary under its range's lock and logs what
  /// differs from `history` (nullptr: everything). `known[i]` false: history does not know sector
  /// i. Both stay until `done(status, bytes logged)`; kCancelled when the log was lost meanwhile.
  void resync_range(uint16_t volume, uint64_t offset, uint64_t length, const uint8_t* history,
                    const std::vector<bool>* known, std::function<void(Status, uint64_t)> done);
  /// While resyncing, when every region is covered: logs the gap's end and, when that is durable,
  /// ends the gap. kCancelled when the log was lost first.
  void end_gap(std::function<void(Status, const format::Gap&)> done);
  /// In a paused gap: durably takes "paused" away.
  void end_pause(std::function<void(Status)> done);

  /// Calls back when no request is in flight; new ones must not come (exports are stopped).
  void quiesce(std::function<void()> quiet);
  /// After quiesce: syncs the primaries and cleans what can be; then the splitter is still.
  void settle(std::function<void(block::Outcome)> settled);

  void set_ack(Ack ack) { options_.ack = ack; }
  void set_flush(FlushMode flush) { options_.flush = flush; }
  void set_log_pressure(LogPressure mode, uint64_t throttle_max_ns) {
    options_.on_log_pressure = mode;
    options_.throttle_max_ns = throttle_max_ns;
  }

  [[nodiscard]] bool in_gap() const { return gap_state_ != GapState::kNone; }
  [[nodiscard]] bool resyncing() const { return gap_state_ == GapState::kResyncing; }
  /// Requests that go to the primaries alone and will leave uncovered regions behind.
  [[nodiscard]] uint64_t passing() const { return passing_; }
  /// Every entry up to this one is on the secondary, or in a gap the last one before it.
  [[nodiscard]] uint64_t durable_lsn() const;
  [[nodiscard]] const format::GroupRecord& record() const { return record_; }
  [[nodiscard]] uint64_t last_lsn() const;
  [[nodiscard]] uint64_t last_time_ns() const { return last_time_ns_; }
  /// Why the log cannot be written at the moment; empty when it can.
  [[nodiscard]] const std::string& trouble() const { return log_trouble_; }
  [[nodiscard]] const Counters& counters() const { return counters_; }

 private:
  struct Volume;
  struct Parent;
  struct Piece;
  struct Repair;
  struct ResyncRange;
  struct Waiter {
    void (*resume)(Waiter* waiter) = nullptr;
    Waiter* next = nullptr;
    uint64_t since_ns = 0;  // has waited for room since then; 0: does not wait
    bool urgent = false;    // a repair: the buffer's tail may wait for it
  };
  struct OwnEntry;
  struct DurableWait {
    uint64_t lsn;
    uint64_t since_ns;
    std::function<void(Status)> done;
  };
  enum class GapState : uint8_t { kNone, kOpening, kOpen, kResyncing };

  void accept(Volume* volume, block::Request* request);
  void begin(Parent* parent);
  void advance(Parent* parent);
  bool start_piece(Parent* parent);
  void pass_through(Parent* parent);
  static void on_primary_done(block::Request* child);
  void primary_done(Piece* piece);
  void finish_piece(Piece* piece, block::Outcome outcome);
  void piece_gone(Parent* parent, block::Outcome outcome);
  void finish_parent(Parent* parent);
  void begin_flush(Parent* parent);
  void flush_logged(Parent* parent);

  /// Requests are logged.
  [[nodiscard]] bool logging() const {
    return gap_state_ == GapState::kNone || gap_state_ == GapState::kResyncing;
  }
  [[nodiscard]] bool log_is_lost() const { return gap_state_ == GapState::kOpen; }

  void begin_resync(Parent* parent);
  void resync_compare(block::Outcome outcome);
  void resync_step();
  void retry_resync();
  void resync_end(const Status& status);

  void repair(Piece* piece);
  void repair_step(Repair* repair);
  void repair_end(Repair* repair);
  void give_up_if_stuck();

  [[nodiscard]] bool has_room(uint64_t bytes) const;
  uint64_t append(format::Entry entry, bool done);
  void copy_payload(Parent* parent, uint8_t* to, uint64_t bytes);
  [[nodiscard]] bool must_queue(const Waiter* waiter) const;
  void wait_for_room(Waiter* waiter);
  void start_own(std::unique_ptr<OwnEntry> own);
  void proceed(std::unique_ptr<OwnEntry> own);
  void wait_until_durable(uint64_t lsn, std::function<void(Status)> done);
  void recycle(Parent* parent);
  void serve_room_waiters();
  void advance_tail();
  void reserve_lsns();
  [[nodiscard]] uint64_t complete_through();
  void gap_is_open();
  void save_record(std::function<void(int32_t)> done);
  void gap_is_ended(const Status& logged, uint64_t lsn, uint64_t time_ns,
                    const std::function<void(Status, const format::Gap&)>& done);
  void check_detached();

  void arm_pressure_timer();
  void on_pressure_timer();
  [[nodiscard]] uint64_t waiting_since_ns() const;
  static void release_waits(std::deque<DurableWait>* waits, const Status& status, uint64_t durable);
  void release_guests(uint64_t durable);
  [[nodiscard]] bool buffer_survives() const;
  [[nodiscard]] bool is_safe(uint64_t lsn) const;
  void make_safe(uint64_t lsn);
  void checkpoint();

  void retry_overlap_waiters(Volume* volume);

  void on_clean_timer();
  void primary_unsynced(Volume* volume);
  void clean(Volume* volume, std::function<void(block::Outcome)> done);
  void check_quiet();

  Piece* take_piece();
  Parent* take_parent();

  reactor::Reactor* reactor_;
  nvram::LogBuffer* buffer_ = nullptr;
  log::LogWriter* writer_ = nullptr;
  nvram::BufferCommitter* committer_ = nullptr;
  log::GroupRecordFile* record_file_;
  SplitterOptions options_;
  Events events_;
  Counters counters_;
  format::GroupRecord record_;
  uint64_t durable_reserved_lsn_;
  bool reserving_ = false;
  uint64_t last_time_ns_ = 0;
  uint64_t not_done_lsn_ = 0;  // every LSN below is done on the primary
  std::vector<uint8_t> done_;  // by slot: the entry needs its primary no more
  std::vector<Piece*> piece_by_slot_;
  uint64_t waiting_pieces_ = 0;  // done on the primary, held for the log (ack: both)
  uint64_t seen_durable_lsn_ = 0;

  std::vector<std::unique_ptr<Volume>> volumes_;
  Waiter* room_waiters_ = nullptr;
  Waiter* room_waiters_tail_ = nullptr;
  Waiter* serving_ = nullptr;  // is being resumed right now
  uint64_t serving_since_ns_ = 0;
  bool serving_now_ = false;
  bool requeued_ = false;
  std::deque<DurableWait> durable_waits_;  // for the secondary
  std::deque<DurableWait> guest_waits_;    // for wherever a flush is safe
  bool checkpointing_ = false;
  uint64_t checkpoint_lsn_ = 0;
  unsigned checkpoint_left_ = 0;
  bool checkpoint_failed_ = false;

  GapState gap_state_ = GapState::kNone;
  std::function<void()> detached_;
  bool refusing_ = false;  // writes that nothing durable would tell of
  uint64_t passing_ = 0;   // pieces without an entry
  unsigned record_saves_ = 0;
  std::string log_trouble_;
  ResyncRange* resync_ = nullptr;  // the one that runs
  bool resync_waits_ = false;      // for room that guests leave over
  uint64_t resync_since_ns_ = 0;
  uint64_t logged_in_flight_ = 0;  // pieces that have an entry in the buffer, repairs, resyncs
  reactor::Timer pressure_timer_;
  uint64_t in_flight_ = 0;  // parents, own entries, repairs, cleanings
  std::function<void()> quiet_;
  reactor::Timer clean_timer_;
  std::vector<std::unique_ptr<Piece[]>> piece_blocks_;
  std::vector<std::unique_ptr<Parent[]>> parent_blocks_;
  Piece* free_pieces_ = nullptr;
  Parent* free_parents_ = nullptr;
};

}  // namespace ep::split

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
};

struct SplitterOptions {
  Ack ack = Ack::kPrimary;
  FlushMode flush = FlushMode::kBoth;
  /// Time of the last entry of any earlier epoch: times only rise.
  uint64_t last_time_ns = 0;
  /// How often idle dirty regions are looked for.
  uint64_t clean_interval_ns = 5'000'000'000;
};

class Splitter {
 public:
  struct Events {
    /// Protection was interrupted; durable when called.
    std::function<void(const format::Gap&)> gap;
  };

  /// `buffer` and `writer` are null for a group that opens in a gap: then everything goes to the
  /// primaries alone, with their regions dirty.
  Splitter(reactor::Reactor* reactor, nvram::LogBuffer* buffer, log::LogWriter* writer,
           log::GroupRecordFile* record, SplitterOptions options, Events events);
  ~Splitter();

  /// Adds a volume; returns the device that its exports drive. Primary and DRL outlive the
  /// splitter.
  block::Device* add_volume(uint16_t number, block::Device* primary, drl::RegionLog* regions);
  /// Starts the timers; after the last add_volume.
  void start();

  // What the writer reports.
  void log_durable(uint64_t lsn);
  void log_failed(const Status& status);

  /// Appends an entry of the group's own with one sector of payload; `done` when it is durable on
  /// the secondary. kBusy in a gap, kCancelled when one opens first.
  void append_durable(format::Entry entry, const uint8_t* payload,
                      std::function<void(Status, uint64_t lsn, uint64_t time_ns)> done);
  /// `done` when everything appended before the call is durable.
  void sync_log(std::function<void(Status, uint64_t lsn)> done);

  /// Opens a gap for a reason of the group's (dirty region log lost).
  void open_gap(const std::string& reason);

  /// Calls back when no request is in flight; new ones must not come (exports are stopped).
  void quiesce(std::function<void()> quiet);
  /// After quiesce: syncs the primaries and cleans what can be; then the splitter is still.
  void settle(std::function<void(block::Outcome)> settled);

  void set_ack(Ack ack) { options_.ack = ack; }
  void set_flush(FlushMode flush) { options_.flush = flush; }

  [[nodiscard]] bool in_gap() const { return gap_state_ != GapState::kNone; }
  [[nodiscard]] const format::GroupRecord& record() const { return record_; }
  [[nodiscard]] uint64_t last_lsn() const;
  [[nodiscard]] uint64_t last_time_ns() const { return last_time_ns_; }
  [[nodiscard]] const Counters& counters() const { return counters_; }

 private:
  struct Volume;
  struct Parent;
  struct Piece;
  struct Repair;
  struct Waiter {
    void (*resume)(Waiter* waiter) = nullptr;
    Waiter* next = nullptr;
    bool urgent = false;  // a repair: the buffer's tail may wait for it
  };
  struct OwnEntry;
  enum class GapState : uint8_t { kNone, kOpening, kOpen };

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

  void repair(Piece* piece);
  void repair_step(Repair* repair);
  void repair_end(Repair* repair);
  void give_up_if_stuck();

  [[nodiscard]] bool has_room(uint64_t bytes) const;
  uint64_t append(format::Entry entry, bool done);
  void copy_payload(Parent* parent, uint8_t* to, uint64_t bytes);
  [[nodiscard]] bool must_queue(const Waiter* waiter) const;
  void wait_for_room(Waiter* waiter);
  void proceed(std::unique_ptr<OwnEntry> own);
  void serve_room_waiters();
  void advance_tail();
  void reserve_lsns();
  [[nodiscard]] uint64_t complete_through();
  void gap_is_open(int32_t result);
  void release_durable_waits(const Status& status, uint64_t durable);

  [[nodiscard]] bool overlaps_in_flight(const Volume& volume, const Parent& parent) const;
  void retry_overlap_waiters(Volume* volume);

  void on_clean_timer();
  void clean(Volume* volume, std::function<void(block::Outcome)> done);
  void check_quiet();

  Piece* take_piece();
  Parent* take_parent();

  reactor::Reactor* reactor_;
  nvram::LogBuffer* buffer_;
  log::LogWriter* writer_;
  log::GroupRecordFile* record_file_;
  SplitterOptions options_;
  Events events_;
  Counters counters_;
  format::GroupRecord record_;
  uint64_t durable_reserved_lsn_;
  bool reserving_ = false;
  uint64_t last_time_ns_;
  uint64_t not_done_lsn_ = 0;  // every LSN below is done on the primary
  std::vector<uint8_t> done_;  // by slot: the entry needs its primary no more
  std::vector<Piece*> piece_by_slot_;
  uint64_t waiting_pieces_ = 0;  // done on the primary, held for the log (ack: both)
  uint64_t seen_durable_lsn_ = 0;

  std::vector<std::unique_ptr<Volume>> volumes_;
  Waiter* room_waiters_ = nullptr;
  Waiter* room_waiters_tail_ = nullptr;
  Waiter* serving_ = nullptr;  // is being resumed right now
  struct DurableWait {
    uint64_t lsn;
    std::function<void(Status)> done;
  };
  std::deque<DurableWait> durable_waits_;

  GapState gap_state_ = GapState::kNone;
  uint64_t in_flight_ = 0;  // parents, own entries, repairs, cleanings
  std::function<void()> quiet_;
  reactor::Timer clean_timer_;
  std::vector<std::unique_ptr<Piece[]>> piece_blocks_;
  std::vector<std::unique_ptr<Parent[]>> parent_blocks_;
  Piece* free_pieces_ = nullptr;
  Parent* free_parents_ = nullptr;
};

}  // namespace ep::split

// SPDX-License-Identifier: Apache-2.0

// The splitter's gaps (design 4): how waiting for the log is bounded, how protection is interrupted
// durably, and how a resync brings back what the log missed.

#include <algorithm>
#include <cstdlib>
#include <cstring>

#include "base/limits.h"
#include "base/mutation.h"
#include "split/splitter_parts.h"

namespace ep::split {

using block::Outcome;
using block::Request;
using format::Entry;
using format::EntryType;

// ---- bounds -------------------------------------------------------------------------------------

/// Since when the one that waits longest for the log does so; 0 when nobody waits.
uint64_t Splitter::waiting_since_ns() const {
  uint64_t since = ~uint64_t{0};
  for (const Waiter* waiter = room_waiters_; waiter != nullptr; waiter = waiter->next) {
    since = std::min(since, waiter->since_ns);
  }
  for (const auto* waits : {&durable_waits_, &guest_waits_}) {
    if (!waits->empty()) since = std::min(since, waits->front().since_ns);
  }
  if (resync_waits_) since = std::min(since, resync_since_ns_);
  if (waiting_pieces_ != 0) {
    for (const Piece* piece : piece_by_slot_) {
      if (piece != nullptr && piece->waits_for_log) since = std::min(since, piece->waits_since_ns);
    }
  }
  return since == ~uint64_t{0} ? 0 : since;
}

void Splitter::arm_pressure_timer() {
  if (pressure_timer_.armed() || !logging()) return;
  reactor_->arm_timer(&pressure_timer_, reactor_->now_ns() + options_.throttle_max_ns);
}

void Splitter::on_pressure_timer() {
  const uint64_t since = waiting_since_ns();
  if (since == 0 || !logging()) return;
  if (reactor_->now_ns() >= since + options_.throttle_max_ns) {
    ++counters_.log_errors;
    std::string reason = "the log did not keep up for " +
                         std::to_string(options_.throttle_max_ns / 1'000'000) + " ms";
    if (!log_trouble_.empty()) reason += ": " + log_trouble_;
    open_gap({.reason = std::move(reason)});
    return;
  }
  reactor_->arm_timer(&pressure_timer_, since + options_.throttle_max_ns);
}

// ---- opening ------------------------------------------------------------------------------------

/// A gap is durable before anything relies on it: until then new writes wait, and what is in the
/// buffer stays good for a recovery. From then on the buffer is given up.
void Splitter::open_gap(const GapWish& wish, std::function<void()> opened) {
  const bool first = !record_.in_gap;
  if (first) {
    ++counters_.gaps;
    record_.in_gap = true;
    record_.gap = {};
    record_.gap.from_lsn = writer_->durable_lsn();
    // The time of the last entry that is safe: later moments are in the gap.
    const uint64_t first_lost = writer_->durable_lsn() + 1;
    record_.gap.from_ns = first_lost < buffer_->head() && first_lost >= buffer_->tail()
                              ? buffer_->at(first_lost).entry.time_ns - 1
                              : last_time_ns_;
  }
  if (buffer_ != nullptr) {
    record_.last_lsn = buffer_->head() - 1;
    record_.last_time_ns = last_time_ns_;
  }
  if (first || logging() || wish.paused) record_.gap.reason = wish.reason;
  record_.paused = record_.paused || wish.paused;
  record_.resync_all = record_.resync_all || wish.resync_all;
  if (logging()) {
    gap_state_ = GapState::kOpening;
    reactor_->cancel_timer(&pressure_timer_);
  }
  save_record([this, opened = std::move(opened)](int32_t result) {
    // When neither log nor record can be written: a retired buffer makes the next open find the
    // epoch unclean and its buffer lost, which is a gap as well. Still not a silent one.
    if (result < 0) ++counters_.log_errors;
    // But for this: when the dirty regions are not to be trusted either, nothing says where the
    // primary goes its own way.
    refusing_ = result < 0 && record_.resync_all;
    if (gap_state_ == GapState::kOpening) gap_is_open();
    if (opened) opened();
  });
}

void Splitter::gap_is_open() {
  gap_state_ = GapState::kOpen;
  buffer_->retire();
  // What was logged and is not durable goes with the buffer: the log has it no more.
  if (!mutated(Mutation::kKeepCoveredAtGap)) {
    for (const auto& volume : volumes_) volume->regions->uncover(false);
  }
  waiting_pieces_ = 0;
  for (Piece* piece : piece_by_slot_) {
    if (piece != nullptr && piece->waits_for_log) finish_piece(piece, Outcome::kOk);
  }
  const Status lost = gap_status(record_.gap);
  release_waits(&guest_waits_, lost, ~uint64_t{0});
  release_waits(&durable_waits_, lost, ~uint64_t{0});
  serve_room_waiters();
  retry_resync();
  events_.gap(record_.gap);
}

void Splitter::end_pause(std::function<void(Status)> done) {
  record_.paused = false;
  save_record([done = std::move(done)](int32_t result) {
    done(result < 0 ? Status::from_errno(-result, "saving the group record") : Status::ok());
  });
}

// ---- ending -------------------------------------------------------------------------------------

void Splitter::log_gap_begin() {
  EP_ASSERT(resyncing());
  auto own = std::make_unique<OwnEntry>();
  own->entry.type = EntryType::kGap;
  own->in_gap_too = true;
  format::encode_gap(record_.gap, own->payload);
  own->done = [](const Status&, uint64_t, uint64_t) {};
  start_own(std::move(own));
}

void Splitter::end_gap(std::function<void(Status, const format::Gap&)> done) {
  auto own = std::make_unique<OwnEntry>();
  own->entry.type = EntryType::kGap;
  own->in_gap_too = own->ends_gap = true;
  own->done = [this, done = std::move(done)](const Status& status, uint64_t lsn, uint64_t time_ns) {
    gap_is_ended(status, lsn, time_ns, done);
  };
  start_own(std::move(own));
}

void Splitter::gap_is_ended(const Status& logged, uint64_t lsn, uint64_t time_ns,
                            const std::function<void(Status, const format::Gap&)>& done) {
  if (!logged || !resyncing()) {
    done(Status(Code::kCancelled, "the log was lost again"), record_.gap);
    return;
  }
  const format::GroupRecord before = record_;
  format::Gap gap = record_.gap;
  gap.to_lsn = lsn;
  gap.to_ns = time_ns;
  record_.in_gap = false;
  record_.gap_from_unknown = false;
  record_.paused = false;
  record_.resync_all = false;
  record_.gap = {};
  save_record([this, before, gap, done](int32_t result) {
    if (result < 0) {
      // It stands in the log, but the next open would not know: it goes on.
      if (!record_.in_gap) {
        record_.in_gap = true;
        record_.gap = before.gap;
        record_.resync_all = before.resync_all;
      }
      done(Status::from_errno(-result, "saving the group record"), gap);
      return;
    }
    if (resyncing()) {
      gap_state_ = GapState::kNone;
      // The first point behind the gap, which itself ends at an LSN that is not offered.
      if (has_room(0)) {
        Entry entry;
        entry.type = EntryType::kFlush;
        entry.volume = volumes_.front()->number;
        entry.sector = complete_through();
        writer_->notify();
        writer_->want_durable(append(entry, true));
      }
    }
    done(Status::ok(), gap);
  });
}

// ---- resync -------------------------------------------------------------------------------------

namespace {
/// Guests have the larger part of the buffer.
constexpr uint64_t kResyncShare = 2;
/// Equal sectors between two that differ are logged with them when they are fewer: an entry costs
/// as much.
constexpr uint64_t kBridgeSectors = 8;

bool all_zero(const uint8_t* data, uint64_t bytes) {
  return data[0] == 0 && std::memcmp(data, data + 1, bytes - 1) == 0;
}
}  // namespace

/// A pseudo-write: the range is locked as a guest's would be, so that what is read and logged has
/// its place in the order of the guest's writes.
struct Splitter::ResyncRange {
  Parent* parent = nullptr;
  const uint8_t* history = nullptr;
  const std::vector<bool>* known = nullptr;
  std::function<void(Status, uint64_t)> done;
  Request read;
  iovec iov{};
  uint8_t* memory = nullptr;
  struct Run {
    uint64_t sector;
    uint64_t sectors;
    EntryType type;
  };
  std::vector<Run> runs;
  size_t next = 0;
  uint64_t logged = 0;
  ~ResyncRange() { std::free(memory); }
};

void Splitter::resync_range(uint16_t volume, uint64_t offset, uint64_t length,
                            const uint8_t* history, const std::vector<bool>* known,
                            std::function<void(Status, uint64_t)> done) {
  EP_ASSERT(resync_ == nullptr);
  if (!resyncing()) {
    done(Status(Code::kCancelled, "the log was lost again"), 0);
    return;
  }
  const auto found = std::find_if(volumes_.begin(), volumes_.end(),
                                  [volume](const auto& each) { return each->number == volume; });
  EP_ASSERT(found != volumes_.end());
  resync_ = new ResyncRange;
  resync_->history = history;
  resync_->known = known;
  resync_->done = std::move(done);
  resync_->memory =
      static_cast<uint8_t*>(std::aligned_alloc(kPageBytes, align_up(length, kPageBytes)));
  Parent* parent = take_parent();
  resync_->parent = parent;
  parent->is_resync = true;
  parent->volume = found->get();
  parent->request = nullptr;
  parent->offset = offset;
  parent->length = length;
  ++in_flight_;
  ++logged_in_flight_;
  if (parent->volume->overlaps(*parent) && !mutated(Mutation::kResyncWithoutLock)) {
    parent->volume->waiting.push_back(parent);
    return;
  }
  begin(parent);
}

void Splitter::begin_resync(Parent* parent) {
  resync_->iov = {resync_->memory, parent->length};
  Request& read = resync_->read;
  read = Request{};
  read.op = block::Op::kRead;
  read.offset = parent->offset;
  read.length = parent->length;
  read.iov = &resync_->iov;
  read.iov_count = 1;
  read.owner = this;
  read.on_done = [](Request* done) {
    static_cast<Splitter*>(done->owner)->resync_compare(done->outcome);
  };
  parent->volume->primary->submit(&read);
}

void Splitter::resync_compare(Outcome outcome) {
  ResyncRange& range = *resync_;
  const uint64_t first = range.parent->offset / kSectorBytes;
  const uint64_t sectors = range.parent->length / kSectorBytes;
  if (outcome != Outcome::kOk) {
    ++counters_.primary_errors;
    range.runs.push_back({first, sectors, EntryType::kUnknown});
    resync_step();
    return;
  }
  for (uint64_t i = 0; i < sectors; ++i) {
    const uint64_t at = i * kSectorBytes;
    const bool same = mutated(Mutation::kHealWithoutCompare) ||
                      (range.history != nullptr && (range.known == nullptr || (*range.known)[i]) &&
                       std::memcmp(range.history + at, range.memory + at, kSectorBytes) == 0);
    if (same) continue;
    const EntryType type =
        all_zero(range.memory + at, kSectorBytes) ? EntryType::kWriteZeroes : EntryType::kWrite;
    if (!range.runs.empty()) {
      auto& last = range.runs.back();
      const uint64_t between = first + i - (last.sector + last.sectors);
      const uint64_t bridge = type == EntryType::kWrite ? kBridgeSectors : 0;
      if (last.type == type && between <= bridge) {
        last.sectors = first + i + 1 - last.sector;
        continue;
      }
    }
    range.runs.push_back({first + i, 1, type});
  }
  resync_step();
}

void Splitter::retry_resync() {
  if (resync_waits_) resync_step();
}

/// Logs as many runs as there is room for.
void Splitter::resync_step() {
  ResyncRange& range = *resync_;
  resync_waits_ = false;
  while (range.next < range.runs.size()) {
    if (!resyncing() && gap_state_ != GapState::kOpening) {
      resync_end(Status(Code::kCancelled, "the log was lost again"));
      return;
    }
    ResyncRange::Run& run = range.runs[range.next];
    Entry entry;
    entry.type = run.type;
    entry.volume = range.parent->volume->number;
    entry.sector = run.sector;
    const bool has_data = run.type == EntryType::kWrite;
    const uint64_t most = has_data ? limits::kEntryDataBytesMax / kSectorBytes : run.sectors;
    entry.sectors = static_cast<uint32_t>(std::min(run.sectors, most));
    const uint64_t bytes = has_data ? entry.sectors * kSectorBytes : 0;
    if (room_waiters_ != nullptr || !has_room(bytes) ||
        buffer_->used_bytes() + bytes > buffer_->data_bytes() / kResyncShare) {
      resync_waits_ = true;
      resync_since_ns_ = reactor_->now_ns();
      arm_pressure_timer();
      if (logging()) writer_->want_durable(buffer_->head() - 1);
      return;
    }
    if (has_data) {
      const uint64_t from = run.sector * kSectorBytes - range.parent->offset;
      uint8_t* data = buffer_->next_data(bytes);
      std::memcpy(data, range.memory + from, bytes);
      entry.data_crc = crc32(data, bytes);
    }
    if (run.type != EntryType::kUnknown) entry.flags = format::kEntryFlagResync;
    append(entry, true);
    writer_->notify();
    range.logged += entry.sectors * kSectorBytes;
    run.sector += entry.sectors;
    run.sectors -= entry.sectors;
    if (run.sectors == 0) ++range.next;
  }
  resync_end(Status::ok());
}

void Splitter::resync_end(const Status& status) {
  const std::unique_ptr<ResyncRange> range(resync_);
  resync_ = nullptr;
  Volume* volume = range->parent->volume;
  if (!mutated(Mutation::kResyncWithoutLock)) volume->leave(range->parent);
  recycle(range->parent);
  counters_.resync_bytes += range->logged;
  --in_flight_;
  --logged_in_flight_;
  range->done(status, range->logged);
  if (!volume->waiting.empty()) retry_overlap_waiters(volume);
  check_detached();
  check_quiet();
}

}  // namespace ep::split

// SPDX-License-Identifier: Apache-2.0
#include "split/splitter.h"

#include <algorithm>
#include <cstring>
#include <utility>

#include "base/limits.h"
#include "base/mutation.h"
#include "split/splitter_parts.h"

namespace ep::split {

using block::Outcome;
using block::Request;
using format::Entry;
using format::EntryType;
using nvram::PrimaryState;

Splitter::Splitter(reactor::Reactor* reactor, log::GroupRecordFile* record, SplitterOptions options,
                   Events events)
    : reactor_(reactor),
      record_file_(record),
      options_(options),
      events_(std::move(events)),
      record_(record->current()),
      durable_reserved_lsn_(record_.reserved_lsn),
      last_time_ns_(record_.last_time_ns),
      gap_state_(record_.in_gap ? GapState::kOpen : GapState::kNone) {
  clean_timer_.on_fire = [this] { on_clean_timer(); };
  pressure_timer_.on_fire = [this] { on_pressure_timer(); };
}

Splitter::~Splitter() {
  EP_ASSERT(in_flight_ == 0);
  reactor_->cancel_timer(&clean_timer_);
  reactor_->cancel_timer(&pressure_timer_);
}

block::Device* Splitter::add_volume(uint16_t number, block::Device* primary,
                                    drl::RegionLog* regions) {
  volumes_.push_back(std::make_unique<Volume>(this, number, primary, regions));
  return volumes_.back().get();
}

void Splitter::start() {
  reactor_->arm_timer(&clean_timer_, reactor_->now_ns() + options_.clean_interval_ns);
}

void Splitter::attach_log(const Log& log, uint64_t last_time_ns) {
  EP_ASSERT(buffer_ == nullptr && (gap_state_ == GapState::kOpen || !record_.in_gap));
  buffer_ = log.buffer;
  writer_ = log.writer;
  committer_ = log.committer;
  record_ = record_file_->current();
  durable_reserved_lsn_ = record_.reserved_lsn;
  last_time_ns_ = std::max(last_time_ns_, last_time_ns);
  done_.assign(buffer_->slots(), 0);
  piece_by_slot_.assign(buffer_->slots(), nullptr);
  not_done_lsn_ = buffer_->head();
  seen_durable_lsn_ = buffer_->head() - 1;
  waiting_pieces_ = 0;
  gap_state_ = record_.in_gap ? GapState::kResyncing : GapState::kNone;
}

void Splitter::detach_log(std::function<void()> detached) {
  EP_ASSERT(log_is_lost() && !detached_);
  detached_ = std::move(detached);
  check_detached();
}

void Splitter::check_detached() {
  if (!detached_ || logged_in_flight_ != 0 || record_saves_ != 0) return;
  if (buffer_ != nullptr) record_.last_lsn = buffer_->head() - 1;
  buffer_ = nullptr;
  writer_ = nullptr;
  committer_ = nullptr;
  const auto detached = std::move(detached_);
  detached_ = nullptr;
  detached();
}

uint64_t Splitter::last_lsn() const {
  return buffer_ != nullptr ? buffer_->head() - 1 : record_.last_lsn;
}

uint64_t Splitter::durable_lsn() const {
  if (record_.in_gap || writer_ == nullptr) return record_.in_gap ? record_.gap.from_lsn : 0;
  return writer_->durable_lsn();
}

block::Geometry Splitter::Volume::geometry() const { return primary->geometry(); }

void Splitter::Volume::submit(Request* request) { splitter->accept(this, request); }

// ---- requests ---------------------------------------------------------------------------------

void Splitter::accept(Volume* volume, Request* request) {
  if (request->op == block::Op::kRead) {
    // Everything that was answered stands on the primary, so reads need no look at the buffer.
    ++counters_.reads;
    volume->primary->submit(request);
    return;
  }
  Parent* parent = take_parent();
  parent->volume = volume;
  parent->request = request;
  parent->offset = request->offset;
  parent->length = request->length;
  parent->next_offset = 0;
  parent->iov_index = 0;
  parent->iov_used = 0;
  parent->left = 0;
  parent->last_lsn = 0;
  parent->outcome = Outcome::kOk;
  ++in_flight_;
  switch (request->op) {
    case block::Op::kFlush:
      ++counters_.flushes;
      begin_flush(parent);
      return;
    case block::Op::kWrite:
      ++counters_.writes;
      counters_.write_bytes += request->length;
      break;
    case block::Op::kDiscard:
      ++counters_.discards;
      break;
    case block::Op::kWriteZeroes:
      ++counters_.write_zeroes;
      break;
    case block::Op::kRead:
      break;
  }
  if (volume->overlaps(*parent) && !mutated(Mutation::kOverlapUnordered)) {
    // Two overlapping writes in flight could reach log and primary in different orders.
    ++counters_.overlap_waits;
    volume->waiting.push_back(parent);
    return;
  }
  begin(parent);
}

/// The regions are made dirty before anything is logged, not only before the primary is touched: a
/// log that was ahead of the primary when power went would differ from it in a region called clean.
void Splitter::begin(Parent* parent) {
  if (mutated(Mutation::kResyncWithoutLock) && parent->is_resync) return begin_resync(parent);
  parent->volume->enter(parent);
  if (parent->is_resync) return begin_resync(parent);
  parent->left = 1;  // held until the last piece is started
  parent->dirty.owner = parent;
  parent->dirty.on_dirty = [](drl::DirtyWaiter* waiter) {
    auto* ready = static_cast<Parent*>(waiter->owner);
    ready->volume->splitter->advance(ready);
  };
  if (parent->volume->regions->begin_write(parent->offset, parent->length, &parent->dirty)) {
    advance(parent);
  }
}

/// Starts as many pieces of the request as there is room for; the rest goes on when there is more.
void Splitter::advance(Parent* parent) {
  if (log_is_lost()) {
    if (parent->next_offset < parent->length) pass_through(parent);
  } else {
    while (parent->next_offset < parent->length) {
      if (must_queue(&parent->waiter) || !start_piece(parent)) {
        ++counters_.buffer_waits;
        wait_for_room(&parent->waiter);
        if (options_.on_log_pressure == LogPressure::kGap && logging() &&
            buffer_->head() < durable_reserved_lsn_) {
          open_gap({.reason = "the log buffer is full"});
        }
        return;
      }
    }
    if (mutated(Mutation::kAnswerBeforePrimary) && parent->left > 1) {
      std::exchange(parent->request, nullptr)->finish(Outcome::kOk);
    }
  }
  piece_gone(parent, Outcome::kOk);
}

bool Splitter::start_piece(Parent* parent) {
  const Request& request = *parent->request;
  const bool is_write = request.op == block::Op::kWrite;
  const uint64_t most = is_write ? limits::kEntryDataBytesMax : kNoDataPieceBytesMax;
  const uint64_t bytes = std::min(parent->length - parent->next_offset, most);
  if (!has_room(is_write ? bytes : 0)) return false;

  Entry entry;
  entry.volume = parent->volume->number;
  entry.sector = (parent->offset + parent->next_offset) / kSectorBytes;
  entry.sectors = static_cast<uint32_t>(bytes / kSectorBytes);
  Piece* piece = take_piece();
  piece->parent = parent;
  piece->offset = parent->offset + parent->next_offset;
  piece->length = bytes;
  Request& child = piece->child;
  child.op = request.op;
  child.may_unmap = request.may_unmap;
  child.outcome = Outcome::kOk;
  child.offset = piece->offset;
  child.length = bytes;
  child.iov = nullptr;
  child.iov_count = 0;
  if (is_write) {
    uint8_t* data = buffer_->next_data(bytes);
    copy_payload(parent, data, bytes);
    entry.type = EntryType::kWrite;
    entry.data_crc = crc32(data, bytes);
    piece->iov = {data, bytes};
    child.iov = &piece->iov;
    child.iov_count = 1;
  } else {
    entry.type = request.op == block::Op::kDiscard ? EntryType::kDiscard : EntryType::kWriteZeroes;
  }
  piece->lsn = append(entry, false);
  piece_by_slot_[piece->lsn % buffer_->slots()] = piece;
  ++logged_in_flight_;
  parent->next_offset += bytes;
  ++parent->left;
  writer_->notify();
  if (options_.ack == Ack::kBoth) make_safe(piece->lsn);
  parent->volume->primary->submit(&child);
  return true;
}

/// In a gap nothing is logged: the request goes to the primary as it came, its regions stay dirty.
/// A request of which a part was logged before the gap opened is written again as a whole.
void Splitter::pass_through(Parent* parent) {
  const Request& request = *parent->request;
  if (refusing_) {
    parent->next_offset = parent->length;
    parent->outcome = Outcome::kIoError;
    return;
  }
  Piece* piece = take_piece();
  piece->parent = parent;
  piece->lsn = 0;
  piece->offset = request.offset;
  piece->length = request.length;
  Request& child = piece->child;
  child.op = request.op;
  child.may_unmap = request.may_unmap;
  child.offset = request.offset;
  child.length = request.length;
  child.iov = request.iov;
  child.iov_count = request.iov_count;
  parent->next_offset = parent->length;
  ++parent->left;
  parent->last_lsn = drl::kNotLogged;
  ++passing_;
  parent->volume->primary->submit(&child);
}

void Splitter::on_primary_done(Request* child) {
  auto* piece = static_cast<Piece*>(child->owner);
  piece->parent->volume->splitter->primary_done(piece);
}

void Splitter::primary_done(Piece* piece) {
  const Outcome outcome = piece->child.outcome;
  if (outcome != Outcome::kOk) ++counters_.primary_errors;
  if (piece->lsn == 0) {
    // Last: only then are its regions uncovered.
    finish_piece(piece, outcome);
    --passing_;
    return;
  }
  if (outcome != Outcome::kOk && !mutated(Mutation::kForgetFailedWrite)) {
    buffer_->set_primary_state(piece->lsn, PrimaryState::kFailed);
    repair(piece);
    return;
  }
  buffer_->set_primary_state(piece->lsn, PrimaryState::kDone);
  piece->parent->last_lsn = std::max(piece->parent->last_lsn, piece->lsn);
  done_[piece->lsn % buffer_->slots()] = 1;
  const bool must_wait = options_.ack == Ack::kBoth && !log_is_lost() && !is_safe(piece->lsn);
  if (must_wait) {
    piece->waits_for_log = true;
    piece->waits_since_ns = reactor_->now_ns();
    ++waiting_pieces_;
    arm_pressure_timer();
  } else {
    finish_piece(piece, Outcome::kOk);
  }
  advance_tail();
}

void Splitter::finish_piece(Piece* piece, Outcome outcome) {
  Parent* parent = piece->parent;
  const bool logged = piece->lsn != 0;
  if (logged) piece_by_slot_[piece->lsn % buffer_->slots()] = nullptr;
  piece->next_free = free_pieces_;
  free_pieces_ = piece;
  piece_gone(parent, outcome);
  if (!logged) return;
  --logged_in_flight_;
  check_detached();
}

void Splitter::piece_gone(Parent* parent, Outcome outcome) {
  if (outcome != Outcome::kOk && parent->outcome == Outcome::kOk) parent->outcome = outcome;
  if (--parent->left == 0) finish_parent(parent);
}

void Splitter::finish_parent(Parent* parent) {
  Volume* volume = parent->volume;
  Request* request = parent->request;
  const Outcome outcome = parent->outcome;
  const bool answered = mutated(Mutation::kAnswerBeforePrimary) && request == nullptr;
  if (answered || request->op != block::Op::kFlush) {
    volume->regions->end_write(parent->offset, parent->length, parent->last_lsn);
    volume->leave(parent);
  }
  recycle(parent);
  --in_flight_;
  if (!answered) request->finish(outcome);
  if (!volume->waiting.empty()) retry_overlap_waiters(volume);
  check_quiet();
}

void Splitter::recycle(Parent* parent) {
  // Whoever gets it next is not the one that is being served.
  if (serving_ == &parent->waiter) serving_ = nullptr;
  parent->next_free = free_parents_;
  free_parents_ = parent;
}

void Splitter::retry_overlap_waiters(Volume* volume) {
  // begin() may finish a request at once and come back here; the list is read afresh each time.
  for (size_t i = 0; i < volume->waiting.size();) {
    Parent* parent = volume->waiting[i];
    if (volume->overlaps(*parent)) {
      ++i;
      continue;
    }
    volume->waiting.erase(volume->waiting.begin() + static_cast<ptrdiff_t>(i));
    begin(parent);
    i = 0;
  }
}

// ---- flush ------------------------------------------------------------------------------------

void Splitter::begin_flush(Parent* parent) {
  Volume* volume = parent->volume;
  // One for the primary, one for the log.
  parent->left = 2;
  Request& child = parent->flush;
  child = Request{};
  child.op = block::Op::kFlush;
  child.owner = parent;
  child.on_done = [](Request* done) {
    auto* flushed = static_cast<Parent*>(done->owner);
    Splitter* self = flushed->volume->splitter;
    if (done->outcome != Outcome::kOk) self->primary_unsynced(flushed->volume);
    self->piece_gone(flushed, done->outcome);
  };
  parent->waits_for_flush_entry = true;
  flush_logged(parent);
  if (mutated(Mutation::kFlushIgnoresPrimary)) return piece_gone(parent, Outcome::kOk);
  volume->primary->submit(&child);
}

/// Logs the flush entry as soon as there is room, then waits for the log if it is to.
void Splitter::flush_logged(Parent* parent) {
  parent->waits_for_flush_entry = false;
  if (log_is_lost()) {
    piece_gone(parent, Outcome::kOk);
    return;
  }
  if (must_queue(&parent->waiter) || !has_room(0)) {
    parent->waits_for_flush_entry = true;
    wait_for_room(&parent->waiter);
    return;
  }
  Entry entry;
  entry.type = EntryType::kFlush;
  entry.volume = parent->volume->number;
  entry.sector = complete_through();
  const uint64_t lsn = append(entry, true);
  writer_->notify();
  if (options_.flush == FlushMode::kPrimary || is_safe(lsn) ||
      mutated(Mutation::kFlushIgnoresLog)) {
    piece_gone(parent, Outcome::kOk);
    return;
  }
  // A gap that opens meanwhile ends the wait: the flush then holds on the primary alone.
  guest_waits_.push_back({lsn, reactor_->now_ns(),
                          [this, parent](const Status&) { piece_gone(parent, Outcome::kOk); }});
  arm_pressure_timer();
  make_safe(lsn);
}

/// What is appended survives a power cut at once.
bool Splitter::buffer_survives() const {
  return buffer_->region().survives_power_cut() && !buffer_->region().persist_failed();
}

/// A power cut would not take this entry, so that a guest may be told.
bool Splitter::is_safe(uint64_t lsn) const {
  return lsn <= writer_->durable_lsn() || buffer_survives() ||
         (committer_ != nullptr && lsn <= committer_->durable_lsn());
}

void Splitter::make_safe(uint64_t lsn) {
  if (committer_ != nullptr && !committer_->failed()) {
    committer_->want_durable(lsn);
  } else {
    writer_->want_durable(lsn);
  }
}

void Splitter::wait_until_durable(uint64_t lsn, std::function<void(Status)> done) {
  durable_waits_.push_back({lsn, reactor_->now_ns(), std::move(done)});
  arm_pressure_timer();
  writer_->notify();
  writer_->want_durable(lsn);
}

uint64_t Splitter::complete_through() {
  while (not_done_lsn_ < buffer_->head() &&
         (not_done_lsn_ < buffer_->tail() || done_[not_done_lsn_ % buffer_->slots()] != 0)) {
    ++not_done_lsn_;
  }
  return not_done_lsn_ - 1;
}

// ---- entries of the group's own -----------------------------------------------------------------

void Splitter::append_durable(Entry entry, const uint8_t* payload,
                              std::function<void(Status, uint64_t, uint64_t)> done) {
  auto own = std::make_unique<OwnEntry>();
  own->entry = entry;
  std::memcpy(own->payload, payload, kSectorBytes);
  own->done = std::move(done);
  start_own(std::move(own));
}

void Splitter::start_own(std::unique_ptr<OwnEntry> own) {
  own->splitter = this;
  own->resume = [](Waiter* waiter) {
    auto* waiting = static_cast<OwnEntry*>(waiter);
    waiting->splitter->proceed(std::unique_ptr<OwnEntry>(waiting));
  };
  ++in_flight_;
  proceed(std::move(own));
}

void Splitter::proceed(std::unique_ptr<OwnEntry> own) {
  if (own->in_gap_too ? !logging() : gap_state_ != GapState::kNone) {
    --in_flight_;
    own->done(gap_status(record_.gap), 0, 0);
    check_quiet();
    return;
  }
  if (must_queue(own.get()) || !has_room(kSectorBytes)) {
    wait_for_room(own.release());
    return;
  }
  if (own->ends_gap) {
    format::Gap gap = record_.gap;
    gap.to_lsn = buffer_->head();
    gap.to_ns = std::max(last_time_ns_ + 1, reactor_->engine().wall_ns());
    format::encode_gap(gap, own->payload);
  }
  if (own->entry.has_payload()) {
    uint8_t* data = buffer_->next_data(kSectorBytes);
    std::memcpy(data, own->payload, kSectorBytes);
    own->entry.sectors = 1;
    own->entry.data_crc = crc32(data, kSectorBytes);
  }
  const uint64_t lsn = append(own->entry, true);
  if (own->entry.type == EntryType::kMarker) ++counters_.markers;
  if ((mutated(Mutation::kSkipMarkerSync) && own->entry.type == EntryType::kMarker) ||
      (mutated(Mutation::kEndGapEarly) && own->ends_gap)) {
    writer_->notify();
    --in_flight_;
    own->done(Status::ok(), lsn, last_time_ns_);
    return check_quiet();
  }
  wait_until_durable(
      lsn, [this, lsn, time_ns = last_time_ns_, done = std::move(own->done)](const Status& status) {
        --in_flight_;
        done(status, lsn, time_ns);
        check_quiet();
      });
}

void Splitter::sync_log(std::function<void(Status, uint64_t)> done) {
  if (gap_state_ != GapState::kNone) {
    done(gap_status(record_.gap), 0);
    return;
  }
  const uint64_t lsn = buffer_->head() - 1;
  if (lsn <= writer_->durable_lsn()) {
    done(Status::ok(), writer_->durable_lsn());
    return;
  }
  wait_until_durable(lsn,
                     [lsn, done = std::move(done)](const Status& status) { done(status, lsn); });
}

// ---- the buffer -------------------------------------------------------------------------------

bool Splitter::has_room(uint64_t bytes) const {
  return logging() && buffer_->has_room(bytes) && buffer_->head() < durable_reserved_lsn_;
}

uint64_t Splitter::append(Entry entry, bool done) {
  last_time_ns_ = std::max(last_time_ns_ + 1, reactor_->engine().wall_ns());
  entry.time_ns = last_time_ns_;
  const uint64_t lsn = buffer_->append(entry, done ? PrimaryState::kDone : PrimaryState::kPending);
  done_[lsn % buffer_->slots()] = done ? 1 : 0;
  if (lsn + limits::kLsnReserveStep / 2 >= durable_reserved_lsn_) reserve_lsns();
  return lsn;
}

void Splitter::copy_payload(Parent* parent, uint8_t* to, uint64_t bytes) {
  const Request& request = *parent->request;
  while (bytes != 0) {
    const iovec& from = request.iov[parent->iov_index];
    const uint64_t part = std::min<uint64_t>(bytes, from.iov_len - parent->iov_used);
    std::memcpy(to, static_cast<const uint8_t*>(from.iov_base) + parent->iov_used, part);
    to += part;
    bytes -= part;
    parent->iov_used += part;
    if (parent->iov_used == from.iov_len) {
      ++parent->iov_index;
      parent->iov_used = 0;
    }
  }
}

/// First come, first served: only who is being served now, and repairs, may pass those who wait.
bool Splitter::must_queue(const Waiter* waiter) const {
  return room_waiters_ != nullptr && waiter != serving_ && !waiter->urgent;
}

void Splitter::wait_for_room(Waiter* waiter) {
  waiter->next = nullptr;
  const bool was_served = waiter == serving_;
  waiter->since_ns = was_served ? serving_since_ns_ : reactor_->now_ns();
  if (was_served || waiter->urgent) {
    // It was first and there is still not enough: it stays first, but for repairs.
    if (was_served) {
      serving_ = nullptr;
      requeued_ = true;
    }
    Waiter** place = &room_waiters_;
    while (!waiter->urgent && *place != nullptr && (*place)->urgent) place = &(*place)->next;
    waiter->next = *place;
    *place = waiter;
    if (waiter->next == nullptr) room_waiters_tail_ = waiter;
  } else {
    if (room_waiters_ == nullptr) {
      room_waiters_ = waiter;
    } else {
      room_waiters_tail_->next = waiter;
    }
    room_waiters_tail_ = waiter;
  }
  arm_pressure_timer();
  // The log has to move for room to come.
  if (!logging()) return;
  writer_->want_durable(buffer_->head() - 1);
  if (buffer_survives()) checkpoint();
}

void Splitter::serve_room_waiters() {
  if (serving_now_) return;
  serving_now_ = true;
  requeued_ = false;
  while (room_waiters_ != nullptr && !requeued_) {
    Waiter* waiter = room_waiters_;
    room_waiters_ = waiter->next;
    if (room_waiters_ == nullptr) room_waiters_tail_ = nullptr;
    serving_ = waiter;
    serving_since_ns_ = waiter->since_ns;
    const uint64_t waited = reactor_->now_ns() - waiter->since_ns;
    waiter->resume(waiter);
    if (!requeued_) counters_.throttled_ns += waited;
  }
  serving_ = nullptr;
  serving_now_ = false;
}

/// Frees what both volumes have: the tail follows the oldest entry that still waits for either.
void Splitter::advance_tail() {
  if (buffer_ == nullptr) return;
  uint64_t free = std::min(writer_->durable_lsn() + 1, writer_->pinned_lsn());
  // Persistent memory is what a redo after a power cut goes by.
  if (mutated(Mutation::kReleaseBeforeDurable)) free = ~uint64_t{0};
  if (buffer_survives()) free = std::min(free, buffer_->checkpoint() + 1);
  uint64_t tail = buffer_->tail();
  while (tail < buffer_->head() && tail < free && done_[tail % buffer_->slots()] != 0) ++tail;
  if (buffer_survives() && buffer_->used_bytes() > buffer_->data_bytes() / 2) checkpoint();
  if (tail == buffer_->tail()) return;
  buffer_->release_before(tail);
  if (room_waiters_ != nullptr) serve_room_waiters();
  retry_resync();
  give_up_if_stuck();
}

void Splitter::reserve_lsns() {
  if (reserving_ || !logging()) return;
  reserving_ = true;
  record_.reserved_lsn += limits::kLsnReserveStep;
  const uint64_t reserved = record_.reserved_lsn;
  save_record([this, reserved](int32_t result) {
    reserving_ = false;
    if (result < 0) {
      open_gap({.reason = Status::from_errno(-result, "reserving log sequence numbers").message()});
    } else {
      durable_reserved_lsn_ = reserved;
      serve_room_waiters();
    }
  });
}

void Splitter::save_record(std::function<void(int32_t)> done) {
  ++in_flight_;
  ++record_saves_;
  record_.last_time_ns = last_time_ns_;
  record_file_->save_async(reactor_->engine(), record_,
                           [this, done = std::move(done)](int32_t result) {
                             --record_saves_;
                             done(result);
                             --in_flight_;
                             check_detached();
                             check_quiet();
                           });
}

void Splitter::log_durable(uint64_t lsn) {
  if (!logging()) return;
  release_guests(lsn);
  release_waits(&durable_waits_, Status::ok(), lsn);
  if (logging()) advance_tail();
}

void Splitter::buffer_durable(uint64_t lsn) {
  if (logging()) release_guests(lsn);
}

/// The log alone makes things safe from now on.
void Splitter::buffer_failed(const Status& status) {
  log_trouble_ = status.message();
  if (logging()) writer_->want_durable(buffer_->head() - 1);
}

/// Those who wait for an entry to be safe, wherever.
void Splitter::release_guests(uint64_t durable) {
  if (durable <= seen_durable_lsn_) return;
  for (uint64_t at = std::exchange(seen_durable_lsn_, durable) + 1;
       waiting_pieces_ != 0 && at <= durable; ++at) {
    Piece* piece = piece_by_slot_[at % buffer_->slots()];
    if (piece != nullptr && piece->lsn == at && piece->waits_for_log) {
      --waiting_pieces_;
      finish_piece(piece, Outcome::kOk);
    }
  }
  release_waits(&guest_waits_, Status::ok(), durable);
}

void Splitter::log_trouble(const Status& status) {
  ++counters_.log_errors;
  log_trouble_ = status.message();
}

void Splitter::log_recovered() { log_trouble_.clear(); }

void Splitter::log_gave_up(uint64_t segment) {
  if (!logging()) return;
  ++counters_.log_moves;
  auto own = std::make_unique<OwnEntry>();
  own->entry.type = EntryType::kError;
  own->entry.flags = format::kEntryFlagSecondary;
  own->entry.sector = segment;
  own->in_gap_too = true;
  own->done = [](const Status&, uint64_t, uint64_t) {};
  start_own(std::move(own));
}

void Splitter::log_unpinned() {
  if (logging()) advance_tail();
}

void Splitter::release_waits(std::deque<DurableWait>* waits, const Status& status,
                             uint64_t durable) {
  while (!waits->empty() && waits->front().lsn <= durable) {
    const auto done = std::move(waits->front().done);
    waits->pop_front();
    done(status);
  }
}

// ---- end --------------------------------------------------------------------------------------

void Splitter::check_quiet() {
  if (!quiet_ || in_flight_ != 0) return;
  const auto quiet = std::move(quiet_);
  quiet_ = nullptr;
  quiet();
}

void Splitter::quiesce(std::function<void()> quiet) {
  reactor_->cancel_timer(&clean_timer_);
  quiet_ = std::move(quiet);
  check_quiet();
}

Splitter::Piece* Splitter::take_piece() {
  if (free_pieces_ == nullptr) {
    piece_blocks_.push_back(std::make_unique<Piece[]>(kPoolBlock));
    for (uint32_t i = 0; i < kPoolBlock; ++i) {
      Piece* piece = &piece_blocks_.back()[i];
      piece->next_free = free_pieces_;
      free_pieces_ = piece;
    }
  }
  Piece* piece = free_pieces_;
  free_pieces_ = piece->next_free;
  piece->child = Request{};
  piece->child.on_done = on_primary_done;
  piece->child.owner = piece;
  piece->waits_for_log = false;
  piece->repair_waits = false;
  return piece;
}

Splitter::Parent* Splitter::take_parent() {
  if (free_parents_ == nullptr) {
    parent_blocks_.push_back(std::make_unique<Parent[]>(kPoolBlock));
    for (uint32_t i = 0; i < kPoolBlock; ++i) {
      Parent* parent = &parent_blocks_.back()[i];
      parent->waiter.parent = parent;
      parent->waiter.resume = [](Waiter* waiter) {
        Parent* waiting = static_cast<Parent::ParentWaiter*>(waiter)->parent;
        Splitter* splitter = waiting->volume->splitter;
        if (waiting->waits_for_flush_entry) {
          splitter->flush_logged(waiting);
        } else {
          splitter->advance(waiting);
        }
      };
      parent->next_free = free_parents_;
      free_parents_ = parent;
    }
  }
  Parent* parent = free_parents_;
  free_parents_ = parent->next_free;
  parent->waits_for_flush_entry = false;
  parent->is_resync = false;
  return parent;
}

}  // namespace ep::split

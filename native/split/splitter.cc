// SPDX-License-Identifier: Apache-2.0
#include "split/splitter.h"

#include <algorithm>
#include <cstring>

#include "base/limits.h"
#include "split/splitter_parts.h"

namespace ep::split {

using block::Outcome;
using block::Request;
using format::Entry;
using format::EntryType;
using nvram::PrimaryState;

Splitter::Splitter(reactor::Reactor* reactor, nvram::LogBuffer* buffer, log::LogWriter* writer,
                   log::GroupRecordFile* record, SplitterOptions options, Events events)
    : reactor_(reactor),
      buffer_(buffer),
      writer_(writer),
      record_file_(record),
      options_(options),
      events_(std::move(events)),
      record_(record->current()),
      durable_reserved_lsn_(record_.reserved_lsn),
      last_time_ns_(options.last_time_ns),
      gap_state_(record_.in_gap ? GapState::kOpen : GapState::kNone) {
  EP_ASSERT((buffer_ == nullptr) == record_.in_gap);
  if (buffer_ != nullptr) {
    done_.resize(buffer_->slots());
    piece_by_slot_.resize(buffer_->slots());
    not_done_lsn_ = buffer_->head();
    seen_durable_lsn_ = buffer_->head() - 1;
  }
  clean_timer_.on_fire = [this] { on_clean_timer(); };
}

Splitter::~Splitter() {
  EP_ASSERT(in_flight_ == 0);
  reactor_->cancel_timer(&clean_timer_);
}

block::Device* Splitter::add_volume(uint16_t number, block::Device* primary,
                                    drl::RegionLog* regions) {
  volumes_.push_back(std::make_unique<Volume>(this, number, primary, regions));
  return volumes_.back().get();
}

void Splitter::start() {
  reactor_->arm_timer(&clean_timer_, reactor_->now_ns() + options_.clean_interval_ns);
}

uint64_t Splitter::last_lsn() const {
  return buffer_ != nullptr ? buffer_->head() - 1 : record_.last_lsn;
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
  if (overlaps_in_flight(*volume, *parent)) {
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
  parent->volume->enter(parent);
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

bool Splitter::overlaps_in_flight(const Volume& volume, const Parent& parent) const {
  return volume.overlaps(parent);
}

/// Starts as many pieces of the request as there is room for; the rest goes on when there is more.
void Splitter::advance(Parent* parent) {
  if (gap_state_ == GapState::kOpen) {
    if (parent->next_offset < parent->length) pass_through(parent);
  } else {
    while (parent->next_offset < parent->length) {
      if (must_queue(&parent->waiter) || !start_piece(parent)) {
        ++counters_.buffer_waits;
        wait_for_room(&parent->waiter);
        return;
      }
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
  parent->next_offset += bytes;
  ++parent->left;
  writer_->notify();
  if (options_.ack == Ack::kBoth) writer_->want_durable(piece->lsn);
  parent->volume->primary->submit(&child);
  return true;
}

/// In a gap nothing is logged: the request goes to the primary as it came, its regions stay dirty.
/// A request of which a part was logged before the gap opened is written again as a whole.
void Splitter::pass_through(Parent* parent) {
  const Request& request = *parent->request;
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
  parent->last_lsn = kNeverClean;
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
    finish_piece(piece, outcome);
    return;
  }
  if (outcome != Outcome::kOk) {
    buffer_->set_primary_state(piece->lsn, PrimaryState::kFailed);
    repair(piece);
    return;
  }
  buffer_->set_primary_state(piece->lsn, PrimaryState::kDone);
  piece->parent->last_lsn = std::max(piece->parent->last_lsn, piece->lsn);
  done_[piece->lsn % buffer_->slots()] = 1;
  const bool must_wait = options_.ack == Ack::kBoth && gap_state_ != GapState::kOpen &&
                         piece->lsn > writer_->durable_lsn();
  if (must_wait) {
    piece->waits_for_log = true;
    ++waiting_pieces_;
  } else {
    finish_piece(piece, Outcome::kOk);
  }
  advance_tail();
}

void Splitter::finish_piece(Piece* piece, Outcome outcome) {
  Parent* parent = piece->parent;
  if (piece->lsn != 0) piece_by_slot_[piece->lsn % buffer_->slots()] = nullptr;
  piece->next_free = free_pieces_;
  free_pieces_ = piece;
  piece_gone(parent, outcome);
}

void Splitter::piece_gone(Parent* parent, Outcome outcome) {
  if (outcome != Outcome::kOk && parent->outcome == Outcome::kOk) parent->outcome = outcome;
  if (--parent->left == 0) finish_parent(parent);
}

void Splitter::finish_parent(Parent* parent) {
  Volume* volume = parent->volume;
  Request* request = parent->request;
  const Outcome outcome = parent->outcome;
  if (request->op != block::Op::kFlush) {
    volume->regions->end_write(parent->offset, parent->length, parent->last_lsn);
    volume->leave(parent);
  }
  parent->next_free = free_parents_;
  free_parents_ = parent;
  --in_flight_;
  request->finish(outcome);
  if (!volume->waiting.empty()) retry_overlap_waiters(volume);
  check_quiet();
}

void Splitter::retry_overlap_waiters(Volume* volume) {
  // begin() may finish a request at once and come back here; the list is read afresh each time.
  for (size_t i = 0; i < volume->waiting.size();) {
    Parent* parent = volume->waiting[i];
    if (overlaps_in_flight(*volume, *parent)) {
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
    flushed->volume->splitter->piece_gone(flushed, done->outcome);
  };
  parent->waits_for_flush_entry = true;
  flush_logged(parent);
  volume->primary->submit(&child);
}

/// Logs the flush entry as soon as there is room, then waits for the log if it is to.
void Splitter::flush_logged(Parent* parent) {
  parent->waits_for_flush_entry = false;
  if (gap_state_ == GapState::kOpen) {
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
  if (options_.flush == FlushMode::kPrimary) {
    writer_->notify();
    piece_gone(parent, Outcome::kOk);
    return;
  }
  // A gap that opens meanwhile ends the wait: the flush then holds on the primary alone.
  durable_waits_.push_back(
      {lsn, [this, parent](const Status&) { piece_gone(parent, Outcome::kOk); }});
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

struct Splitter::OwnEntry : Waiter {
  Entry entry;
  uint8_t payload[kSectorBytes] = {};
  Splitter* splitter = nullptr;
  std::function<void(Status, uint64_t, uint64_t)> done;
};

void Splitter::append_durable(Entry entry, const uint8_t* payload,
                              std::function<void(Status, uint64_t, uint64_t)> done) {
  auto own = std::make_unique<OwnEntry>();
  own->splitter = this;
  own->entry = entry;
  std::memcpy(own->payload, payload, kSectorBytes);
  own->done = std::move(done);
  own->resume = [](Waiter* waiter) {
    auto* waiting = static_cast<OwnEntry*>(waiter);
    waiting->splitter->proceed(std::unique_ptr<OwnEntry>(waiting));
  };
  ++in_flight_;
  proceed(std::move(own));
}

void Splitter::proceed(std::unique_ptr<OwnEntry> own) {
  if (gap_state_ != GapState::kNone) {
    --in_flight_;
    own->done(gap_status(record_.gap), 0, 0);
    check_quiet();
    return;
  }
  if (must_queue(own.get()) || !has_room(kSectorBytes)) {
    wait_for_room(own.release());
    return;
  }
  uint8_t* data = buffer_->next_data(kSectorBytes);
  std::memcpy(data, own->payload, kSectorBytes);
  own->entry.sectors = 1;
  own->entry.data_crc = crc32(data, kSectorBytes);
  const uint64_t lsn = append(own->entry, true);
  if (own->entry.type == EntryType::kMarker) ++counters_.markers;
  durable_waits_.push_back({lsn, [this, lsn, time_ns = last_time_ns_,
                                  done = std::move(own->done)](const Status& status) {
                              --in_flight_;
                              done(status, lsn, time_ns);
                              check_quiet();
                            }});
  writer_->notify();
  writer_->want_durable(lsn);
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
  durable_waits_.push_back(
      {lsn, [lsn, done = std::move(done)](const Status& status) { done(status, lsn); }});
  writer_->want_durable(lsn);
}

// ---- the buffer -------------------------------------------------------------------------------

bool Splitter::has_room(uint64_t bytes) const {
  return gap_state_ == GapState::kNone && buffer_->has_room(bytes) &&
         buffer_->head() < durable_reserved_lsn_;
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
  if (waiter == serving_ || waiter->urgent) {
    // It was first and there is still not enough: it stays first, but for repairs.
    if (waiter == serving_) serving_ = nullptr;
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
  // The log has to move for room to come.
  if (gap_state_ == GapState::kNone) writer_->want_durable(buffer_->head() - 1);
}

void Splitter::serve_room_waiters() {
  if (serving_ != nullptr) return;
  while (room_waiters_ != nullptr) {
    Waiter* waiter = room_waiters_;
    room_waiters_ = waiter->next;
    if (room_waiters_ == nullptr) room_waiters_tail_ = nullptr;
    serving_ = waiter;
    waiter->resume(waiter);
    if (serving_ == nullptr) return;  // it went back to the front
    serving_ = nullptr;
  }
}

/// Frees what both volumes have: the tail follows the oldest entry that still waits for either.
void Splitter::advance_tail() {
  const uint64_t durable = writer_->durable_lsn();
  uint64_t tail = buffer_->tail();
  while (tail < buffer_->head() && tail <= durable && done_[tail % buffer_->slots()] != 0) ++tail;
  if (tail == buffer_->tail()) return;
  buffer_->release_before(tail);
  if (room_waiters_ != nullptr) serve_room_waiters();
  give_up_if_stuck();
}

void Splitter::reserve_lsns() {
  if (reserving_ || gap_state_ != GapState::kNone) return;
  reserving_ = true;
  record_.reserved_lsn += limits::kLsnReserveStep;
  const uint64_t reserved = record_.reserved_lsn;
  ++in_flight_;
  record_file_->save_async(reactor_->engine(), record_, [this, reserved](int32_t result) {
    reserving_ = false;
    --in_flight_;
    if (result < 0) {
      open_gap(Status::from_errno(-result, "reserving log sequence numbers").message());
    } else {
      durable_reserved_lsn_ = reserved;
      serve_room_waiters();
    }
    check_quiet();
  });
}

void Splitter::log_durable(uint64_t lsn) {
  for (uint64_t at = seen_durable_lsn_ + 1; waiting_pieces_ != 0 && at <= lsn; ++at) {
    Piece* piece = piece_by_slot_[at % buffer_->slots()];
    if (piece != nullptr && piece->lsn == at && piece->waits_for_log) {
      --waiting_pieces_;
      finish_piece(piece, Outcome::kOk);
    }
  }
  seen_durable_lsn_ = lsn;
  release_durable_waits(Status::ok(), lsn);
  advance_tail();
}

void Splitter::release_durable_waits(const Status& status, uint64_t durable) {
  while (!durable_waits_.empty() && durable_waits_.front().lsn <= durable) {
    const auto done = std::move(durable_waits_.front().done);
    durable_waits_.pop_front();
    done(status);
  }
}

// ---- gap --------------------------------------------------------------------------------------

void Splitter::log_failed(const Status& status) {
  ++counters_.log_errors;
  open_gap(status.message());
}

/// A gap is durable before anything relies on it: until then new writes wait, and what is in the
/// buffer stays good for a recovery. From then on the buffer is given up.
void Splitter::open_gap(const std::string& reason) {
  if (gap_state_ != GapState::kNone) return;
  gap_state_ = GapState::kOpening;
  record_.in_gap = true;
  record_.last_lsn = buffer_->head() - 1;
  record_.last_time_ns = last_time_ns_;
  record_.gap = {};
  record_.gap.from_lsn = writer_->durable_lsn();
  // The time of the last entry that is safe: later moments are in the gap.
  const uint64_t first_lost = writer_->durable_lsn() + 1;
  record_.gap.from_ns = first_lost < buffer_->head() && first_lost >= buffer_->tail()
                            ? buffer_->at(first_lost).entry.time_ns - 1
                            : last_time_ns_;
  record_.gap.reason = reason;
  ++in_flight_;
  record_file_->save_async(reactor_->engine(), record_,
                           [this](int32_t result) { gap_is_open(result); });
}

void Splitter::gap_is_open(int32_t result) {
  --in_flight_;
  if (result < 0) {
    // Neither log nor record can be written. Retiring the buffer makes the next open find the epoch
    // unclean and its buffer lost, which is a gap as well: still not a silent one.
    ++counters_.log_errors;
  }
  gap_state_ = GapState::kOpen;
  buffer_->retire();
  waiting_pieces_ = 0;
  for (Piece* piece : piece_by_slot_) {
    if (piece != nullptr && piece->waits_for_log) finish_piece(piece, Outcome::kOk);
  }
  release_durable_waits(gap_status(record_.gap), ~uint64_t{0});
  serve_room_waiters();
  events_.gap(record_.gap);
  check_quiet();
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
  return parent;
}

}  // namespace ep::split

// SPDX-License-Identifier: Apache-2.0

// What the splitter does besides the straight path: repairing history after a failed primary write
// [0044], and making idle regions clean again.

#include <algorithm>
#include <cstdlib>

#include "base/limits.h"
#include "base/mutation.h"
#include "split/splitter_parts.h"

namespace ep::split {

using block::Outcome;
using block::Request;
using format::Entry;
using format::EntryType;

namespace {
constexpr uint64_t kRepairStepBytes = 1024 * 1024;
static_assert(kRepairStepBytes <= limits::kEntryDataBytesMax);
}  // namespace

/// A write that the primary refused: the log has it, the primary may hold the old bytes, the new
/// ones or a mixture. An error entry says so; then the range is read back piece by piece and logged
/// as it is, or as unknown where it cannot be read. The failed piece stays in the buffer, and its
/// range locked, until that is done.
struct Splitter::Repair : Waiter {
  Splitter* splitter = nullptr;
  Piece* piece = nullptr;
  Outcome outcome = Outcome::kIoError;
  bool error_logged = false;
  bool have_data = false;
  bool unreadable = false;
  uint64_t position = 0;
  uint64_t step = 0;
  uint64_t last_lsn = 0;
  Request read;
  iovec iov{};
  uint8_t* memory = nullptr;
  ~Repair() { std::free(memory); }
};

void Splitter::repair(Piece* piece) {
  auto* repair = new Repair;
  repair->splitter = this;
  repair->piece = piece;
  repair->outcome = piece->child.outcome;
  repair->memory = static_cast<uint8_t*>(std::aligned_alloc(kPageBytes, kRepairStepBytes));
  repair->urgent = true;
  repair->resume = [](Waiter* waiter) {
    auto* waiting = static_cast<Repair*>(waiter);
    waiting->splitter->repair_step(waiting);
  };
  ++in_flight_;
  repair_step(repair);
}

/// Does the next thing that needs room in the buffer, or starts the next read.
void Splitter::repair_step(Repair* repair) {
  Piece* piece = repair->piece;
  if (log_is_lost()) {
    repair_end(repair);
    return;
  }
  const uint64_t bytes = repair->have_data && !repair->unreadable ? repair->step : 0;
  if (!has_room(bytes)) {
    piece->repair_waits = !buffer_->has_room(bytes);
    wait_for_room(repair);
    give_up_if_stuck();
    return;
  }
  piece->repair_waits = false;
  Entry entry;
  entry.volume = piece->parent->volume->number;
  if (!repair->error_logged) {
    entry.type = EntryType::kError;
    entry.sector = piece->lsn;
    append(entry, true);
    repair->error_logged = true;
  } else if (repair->have_data) {
    entry.sector = (piece->offset + repair->position) / kSectorBytes;
    entry.sectors = static_cast<uint32_t>(repair->step / kSectorBytes);
    entry.type = repair->unreadable ? EntryType::kUnknown : EntryType::kWrite;
    if (!repair->unreadable) {
      uint8_t* data = buffer_->next_data(repair->step);
      std::copy_n(repair->memory, repair->step, data);
      entry.flags = format::kEntryFlagResync;
      entry.data_crc = crc32(data, repair->step);
    }
    repair->last_lsn = append(entry, true);
    repair->position += repair->step;
    repair->have_data = false;
  }
  writer_->notify();
  if (repair->position == piece->length) {
    repair_end(repair);
    return;
  }
  repair->step = std::min(kRepairStepBytes, piece->length - repair->position);
  repair->iov = {repair->memory, repair->step};
  repair->read = Request{};
  repair->read.op = block::Op::kRead;
  repair->read.offset = piece->offset + repair->position;
  repair->read.length = repair->step;
  repair->read.iov = &repair->iov;
  repair->read.iov_count = 1;
  repair->read.owner = repair;
  repair->read.on_done = [](Request* done) {
    auto* reading = static_cast<Repair*>(done->owner);
    reading->have_data = true;
    reading->unreadable = done->outcome != Outcome::kOk;
    reading->splitter->repair_step(reading);
  };
  piece->parent->volume->primary->submit(&repair->read);
}

/// Room comes from the buffer's tail only. When the tail is a failed write whose repair itself
/// waits for room, none will ever come, and every guest would wait for ever: history is given up
/// instead.
void Splitter::give_up_if_stuck() {
  if (!logging()) return;
  const uint64_t tail = buffer_->tail();
  if (tail == buffer_->head()) return;
  const Piece* piece = piece_by_slot_[tail % buffer_->slots()];
  if (piece == nullptr || piece->lsn != tail || !piece->repair_waits) return;
  open_gap(
      {.reason = "the primary failed a write while the log buffer was too full to read it back"});
}

void Splitter::repair_end(Repair* repair) {
  const std::unique_ptr<Repair> owned(repair);
  Piece* piece = repair->piece;
  const bool whole = repair->position == piece->length;
  piece->parent->last_lsn =
      std::max(piece->parent->last_lsn, whole ? repair->last_lsn : drl::kNotLogged);
  done_[piece->lsn % buffer_->slots()] = 1;
  finish_piece(piece, repair->outcome);
  advance_tail();
  --in_flight_;
  check_quiet();
}

// ---- dirty regions ------------------------------------------------------------------------------

void Splitter::on_clean_timer() {
  reactor_->arm_timer(&clean_timer_, reactor_->now_ns() + options_.clean_interval_ns);
  if (refusing_) open_gap({.reason = record_.gap.reason, .resync_all = true});
  if (!logging()) return;
  for (const auto& volume : volumes_) {
    if (!volume->cleaning) clean(volume.get(), nullptr);
  }
}

/// What a failed sync leaves behind nobody knows: the kernel may have dropped pages that were
/// written, and the next sync says yes. History has what the primary may have lost, so what was
/// written since it was last known as synced is compared again.
void Splitter::primary_unsynced(Volume* volume) {
  ++counters_.primary_errors;
  volume->regions->uncover(false);
  if (logging()) {
    open_gap({.reason = "the primary of volume " + std::to_string(volume->number) +
                        " could not be synced"});
  }
}

/// A region may become clean when the primary was synced after its last write and the log is
/// durable past it: so first the log's word, then the sync, then the bits.
void Splitter::clean(Volume* volume, std::function<void(Outcome)> done) {
  const bool allowed = logging();
  const uint32_t candidates = allowed ? volume->regions->begin_clean(writer_->durable_lsn()) : 0;
  if (candidates == 0 && !done) return;
  if (mutated(Mutation::kCleanWithoutSync) && !done) return volume->regions->end_clean();
  volume->cleaning = true;
  volume->clean_done = std::move(done);
  ++in_flight_;
  Request& flush = volume->clean_flush;
  flush = Request{};
  flush.op = block::Op::kFlush;
  flush.owner = volume;
  flush.on_done = [](Request* request) {
    auto* synced = static_cast<Volume*>(request->owner);
    Splitter* self = synced->splitter;
    synced->cleaning = false;
    if (request->outcome == Outcome::kOk && self->logging()) {
      synced->regions->end_clean();
    } else {
      synced->regions->cancel_clean();
    }
    if (request->outcome != Outcome::kOk) self->primary_unsynced(synced);
    --self->in_flight_;
    const auto finished = std::move(synced->clean_done);
    synced->clean_done = nullptr;
    if (finished) finished(request->outcome);
    self->check_quiet();
  };
  volume->primary->submit(&flush);
}

/// Persistent memory only: syncs the primaries, so that nothing before needs to be redone after a
/// power cut and may leave the buffer.
void Splitter::checkpoint() {
  if (checkpointing_) return;
  checkpoint_lsn_ = complete_through();
  if (checkpoint_lsn_ <= buffer_->checkpoint()) return;
  checkpointing_ = true;
  checkpoint_failed_ = false;
  checkpoint_left_ = static_cast<unsigned>(volumes_.size());
  ++in_flight_;
  ++logged_in_flight_;
  for (const auto& volume : volumes_) {
    Request& flush = volume->checkpoint_flush;
    flush = Request{};
    flush.op = block::Op::kFlush;
    flush.owner = this;
    flush.on_done = [](Request* done) {
      auto* self = static_cast<Splitter*>(done->owner);
      if (done->outcome != Outcome::kOk) {
        self->checkpoint_failed_ = true;
        for (const auto& each : self->volumes_) {
          if (&each->checkpoint_flush == done) self->primary_unsynced(each.get());
        }
      }
      if (--self->checkpoint_left_ != 0) return;
      self->checkpointing_ = false;
      if (!self->checkpoint_failed_) self->buffer_->set_checkpoint(self->checkpoint_lsn_);
      self->advance_tail();
      --self->in_flight_;
      --self->logged_in_flight_;
      self->check_detached();
      self->check_quiet();
    };
    volume->primary->submit(&flush);
  }
}

void Splitter::settle(std::function<void(Outcome)> settled) {
  EP_ASSERT(in_flight_ == 0);
  struct Progress {
    size_t left = 0;
    Outcome outcome = Outcome::kOk;
    std::function<void(Outcome)> settled;
  };
  auto progress = std::make_shared<Progress>();
  progress->left = volumes_.size();
  progress->settled = std::move(settled);
  for (const auto& volume : volumes_) {
    // Once to take "touched" away, so that the second look finds everything idle.
    if (logging()) volume->regions->begin_clean(writer_->durable_lsn());
    clean(volume.get(), [progress](Outcome outcome) {
      if (outcome != Outcome::kOk) progress->outcome = outcome;
      if (--progress->left == 0) progress->settled(progress->outcome);
    });
  }
}

}  // namespace ep::split

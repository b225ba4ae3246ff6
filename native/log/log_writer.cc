// SPDX-License-Identifier: Apache-2.0
#include "log/log_writer.h"

#include <algorithm>
#include <cerrno>

#include "base/limits.h"
#include "log/batch.h"

namespace ep::log {

using format::SealReason;

struct LogWriter::Segment {
  SegmentCursor cursor;
  LogWriter* writer = nullptr;
  uint64_t opened_ns = 0;      // monotonic
  uint64_t published_lsn = 0;  // last LSN whose batch, and all before, are written
  uint64_t published_time_ns = 0;
  uint64_t published_end = 0;
  uint64_t synced_lsn = 0;
  uint64_t synced_end = 0;
  uint64_t sync_target = 0;
  bool closing = false;
  bool syncing = false;
  SealReason reason{};
  io::Op sync_op;

  [[nodiscard]] bool empty() const { return cursor.empty(); }
  [[nodiscard]] bool all_durable() const { return !syncing && synced_lsn == cursor.last_lsn; }
};

struct LogWriter::Batch {
  io::Op op;
  BatchBytes bytes;
  LogWriter* writer = nullptr;
  Segment* segment = nullptr;
  uint64_t last_lsn = 0;
  uint64_t last_time_ns = 0;
  uint64_t end = 0;
  bool done = false;
};

LogWriter::LogWriter(reactor::Reactor* reactor, io::FileSystem* file_system,
                     format::EntrySource* source, LogWriterOptions options, Events events)
    : reactor_(reactor),
      file_system_(file_system),
      source_(source),
      options_(std::move(options)),
      events_(std::move(events)),
      next_segment_number_(options_.next_segment),
      taken_lsn_(source->head()),
      durable_lsn_(source->head() - 1),
      sealed_lsn_(source->head() - 1) {
  for (uint32_t i = 0; i < limits::kBatchesInFlightMax; ++i) {
    idle_batches_.push_back(std::make_unique<Batch>());
    idle_batches_.back()->writer = this;
  }
  timer_.on_fire = [this] { on_timer(); };
}

LogWriter::~LogWriter() {
  EP_ASSERT(flying_.empty() && !sealing_ && !next_ordered_ && syncs_running_ == 0);
  EP_ASSERT(!timer_.armed());
  if (next_) segments_.push_back(std::move(next_));
  for (const auto& segment : segments_) {
    file_system_->close(segment->cursor.made.file);
    // Without a batch it says nothing; what cannot be removed now goes at the next open.
    if (segment->empty()) (void)file_system_->remove(segment->cursor.made.absolute_path).is_ok();
  }
}

Status LogWriter::prepare() {
  auto made = make_segment_file(*file_system_, options_.devices, next_segment_number_,
                                options_.segment_bytes, options_.first_wall_ns);
  if (!made) return made.status();
  ++next_segment_number_;
  adopt_next(*made);
  return Status::ok();
}

LogWriter::Segment* LogWriter::active() const {
  if (segments_.empty() || segments_.back()->closing) return nullptr;
  return segments_.back().get();
}

void LogWriter::notify() {
  if (pending_since_ns_ == 0) {
    pending_since_ns_ = reactor_->now_ns();
    arm_timer();
  }
  if (should_cut()) pump();
}

void LogWriter::want_durable(uint64_t lsn) {
  wanted_lsn_ = std::max(wanted_lsn_, lsn);
  pump();
}

void LogWriter::seal(uint64_t lsn, SealReason reason, std::function<void(Status, uint64_t)> done) {
  if (failed_ || stopping_) {
    done(Status(Code::kCancelled, "the log is not being written"), sealed_lsn_);
    return;
  }
  seal_wishes_.push_back({lsn, reason, std::move(done)});
  want_durable(lsn);
  serve_seal_wishes();
}

void LogWriter::stop(std::function<void()> quiet) {
  stopping_ = true;
  quiet_ = std::move(quiet);
  reactor_->cancel_timer(&timer_);
  check_quiet();
}

void LogWriter::check_quiet() {
  if (!quiet_ || !flying_.empty() || sealing_ || next_ordered_ || syncs_running_ != 0) return;
  const std::function<void()> quiet = std::move(quiet_);
  quiet_ = nullptr;
  quiet();
}

bool LogWriter::should_cut() const {
  const uint64_t head = source_->head();
  return taken_lsn_ < head &&
         (wanted_lsn_ >= taken_lsn_ || head - taken_lsn_ >= limits::kBatchEntriesMax ||
          source_->bytes_since(taken_lsn_) >= limits::kBatchDataBytesTarget);
}

void LogWriter::pump() {
  if (stopping_ || failed_) return;
  while (should_cut() && cut_batch()) {
  }
  maybe_sync();
}

/// Starts one batch of what is in the buffer; false when that must wait (both batches in flight, no
/// segment ready).
bool LogWriter::cut_batch() {
  if (idle_batches_.empty()) return false;
  const BatchPlan plan = plan_batch(*source_, taken_lsn_);
  if (Segment* segment = active(); segment != nullptr && !segment->empty()) {
    if (!batch_fits(segment->cursor, plan)) {
      close_active(SealReason::kSize);
    } else if (segment->cursor.entries() + plan.entries > limits::kSegmentEntriesMax) {
      close_active(SealReason::kEntries);
    }
  }
  if (active() == nullptr && !take_next_segment()) return false;
  Segment* segment = active();
  if (segment->empty()) segment->opened_ns = reactor_->now_ns();
  Batch* batch = idle_batches_.back().get();
  flying_.push_back(std::move(idle_batches_.back()));
  idle_batches_.pop_back();
  batch->bytes.cut(segment->cursor, *source_, taken_lsn_, plan);
  batch->segment = segment;
  batch->done = false;
  batch->end = segment->cursor.end;
  batch->last_lsn = segment->cursor.last_lsn;
  batch->last_time_ns = segment->cursor.last_time_ns;
  taken_lsn_ = batch->last_lsn + 1;
  batch->op = io::Op{};
  batch->op.kind = io::Op::Kind::kWrite;
  batch->op.file = segment->cursor.made.file;
  batch->op.offset = batch->bytes.offset();
  batch->op.iov = batch->bytes.iov().data();
  batch->op.iov_count = static_cast<uint32_t>(batch->bytes.iov().size());
  batch->op.on_complete = on_batch_written;
  batch->op.owner = batch;
  batch->op.immediate =
      segment->cursor.made.in_memory && batch->bytes.size() <= io::kImmediateBytesMax;
  ++stats_.batches;
  stats_.bytes += batch->bytes.size();
  reactor_->engine().submit(&batch->op);
  if (segment->cursor.end > segment->cursor.made.capacity_bytes / 2) order_next_segment();
  return true;
}

void LogWriter::on_batch_written(io::Op* op, int32_t result) {
  auto* batch = static_cast<Batch*>(op->owner);
  batch->writer->batch_done(batch, result);
}

void LogWriter::batch_done(Batch* batch, int32_t result) {
  batch->done = true;
  if (result < 0 || static_cast<uint64_t>(result) != batch->bytes.size()) {
    // A short write on an allocated file is a device in trouble as well.
    const int error = result < 0 ? -result : EIO;
    fail(Status::from_errno(error,
                            "writing log segment " + batch->segment->cursor.made.absolute_path));
  }
  while (!flying_.empty() && flying_.front()->done) {
    std::unique_ptr<Batch> front = std::move(flying_.front());
    flying_.pop_front();
    if (!failed_) {
      front->segment->published_lsn = front->last_lsn;
      front->segment->published_time_ns = front->last_time_ns;
      front->segment->published_end = front->end;
    }
    idle_batches_.push_back(std::move(front));
  }
  pump();
  check_quiet();
}

/// Syncs a file whose written entries are wanted, when a quarter of the buffer waits for it, or
/// when it is to be sealed.
void LogWriter::maybe_sync() {
  if (failed_) return;
  for (const auto& segment : segments_) {
    if (segment->syncing || segment->published_lsn <= segment->synced_lsn) continue;
    const bool wanted = wanted_lsn_ > segment->synced_lsn;
    const bool much = segment->published_end - segment->synced_end >= source_->data_bytes() / 4;
    if (!wanted && !much && !segment->closing) continue;
    segment->syncing = true;
    segment->sync_target = segment->published_lsn;
    segment->synced_end = segment->published_end;
    segment->sync_op = io::Op{};
    segment->sync_op.kind = io::Op::Kind::kSyncData;
    segment->sync_op.file = segment->cursor.made.file;
    segment->sync_op.on_complete = on_synced;
    segment->sync_op.owner = segment.get();
    segment->sync_op.immediate = segment->cursor.made.in_memory;
    ++syncs_running_;
    ++stats_.syncs;
    reactor_->engine().submit(&segment->sync_op);
  }
}

void LogWriter::on_synced(io::Op* op, int32_t result) {
  auto* segment = static_cast<Segment*>(op->owner);
  segment->writer->sync_done(segment, result);
}

void LogWriter::sync_done(Segment* segment, int32_t result) {
  segment->syncing = false;
  --syncs_running_;
  if (result < 0) {
    // What the kernel could not write it has forgotten: this file is never trusted again.
    fail(Status::from_errno(-result, "syncing log segment " + segment->cursor.made.absolute_path));
  } else if (!failed_) {
    segment->synced_lsn = segment->sync_target;
    advance_durable();
    serve_seal_wishes();
    maybe_seal_front();
    pump();
  }
  check_quiet();
}

void LogWriter::advance_durable() {
  uint64_t durable = durable_lsn_;
  for (const auto& segment : segments_) {
    durable = std::max(durable, segment->synced_lsn);
    if (!segment->closing || !segment->all_durable()) break;
  }
  if (durable == durable_lsn_) return;
  durable_lsn_ = durable;
  pending_since_ns_ = durable + 1 == source_->head() ? 0 : reactor_->now_ns();
  arm_timer();
  events_.durable(durable);
}

void LogWriter::close_active(SealReason reason) {
  Segment* segment = active();
  EP_ASSERT(segment != nullptr && !segment->empty());
  segment->closing = true;
  segment->reason = reason;
  maybe_sync();
  maybe_seal_front();
}

void LogWriter::serve_seal_wishes() {
  for (size_t i = 0; i < seal_wishes_.size();) {
    SealWish& wish = seal_wishes_[i];
    if (sealed_lsn_ >= wish.lsn) {
      const auto done = std::move(wish.done);
      seal_wishes_.erase(seal_wishes_.begin() + static_cast<ptrdiff_t>(i));
      done(Status::ok(), sealed_lsn_);
      continue;
    }
    Segment* segment = active();
    if (durable_lsn_ >= wish.lsn && segment != nullptr && !segment->empty() &&
        segment->cursor.first_lsn <= wish.lsn) {
      close_active(wish.reason);
    }
    ++i;
  }
}

/// Segments are sealed one at a time, in order, so that sealed_lsn only ever names a contiguous
/// log.
void LogWriter::maybe_seal_front() {
  if (sealing_ || failed_ || segments_.empty()) return;
  Segment* segment = segments_.front().get();
  if (!segment->closing || !segment->all_durable()) return;
  sealing_ = true;
  const format::SegmentTrailer trailer =
      segment->cursor.trailer(reactor_->engine().wall_ns(), segment->reason);
  auto outcome = std::make_shared<Result<uint64_t>>(uint64_t{0});
  reactor_->offload(
      [this, segment, trailer, outcome] {
        *outcome = seal_segment_file(*file_system_, segment->cursor.made.file,
                                     segment->cursor.directory, segment->cursor.end, trailer);
      },
      [this, segment, outcome] {
        SegmentInfo info = segment->cursor.info();
        if (*outcome) info.file_bytes = **outcome;
        info.sealed = outcome->is_ok();
        seal_done(outcome->status(), info);
      });
}

void LogWriter::seal_done(const Status& status, const SegmentInfo& info) {
  sealing_ = false;
  if (!status) {
    fail(status);
  } else {
    std::unique_ptr<Segment> sealed = std::move(segments_.front());
    segments_.pop_front();
    file_system_->close(sealed->cursor.made.file);
    sealed_lsn_ = info.last_lsn;
    ++stats_.segments_sealed;
    stats_.bytes += info.file_bytes - sealed->cursor.end;
    events_.sealed(info);
    serve_seal_wishes();
    maybe_seal_front();
  }
  check_quiet();
}

void LogWriter::order_next_segment() {
  if (next_ || next_ordered_ || stopping_ || failed_) return;
  next_ordered_ = true;
  const uint64_t number = next_segment_number_++;
  auto outcome = std::make_shared<std::optional<Result<NewSegmentFile>>>();
  const uint64_t wall_ns = reactor_->engine().wall_ns();
  reactor_->offload(
      [this, number, wall_ns, outcome] {
        outcome->emplace(make_segment_file(*file_system_, options_.devices, number,
                                           options_.segment_bytes, wall_ns));
      },
      [this, outcome] {
        next_ordered_ = false;
        const Result<NewSegmentFile>& made = **outcome;
        if (made) {
          adopt_next(*made);
          pump();
        } else if (active() == nullptr) {
          fail(made.status());
        }
        // Otherwise there is still room in the active one; asked again when that is full.
        check_quiet();
      });
}

void LogWriter::adopt_next(const NewSegmentFile& made) {
  next_ = std::make_unique<Segment>();
  next_->writer = this;
  next_->cursor.made = made;
  next_->cursor.group = options_.group;
  next_->cursor.epoch = options_.epoch;
}

bool LogWriter::take_next_segment() {
  if (!next_) {
    order_next_segment();
    return false;
  }
  segments_.push_back(std::move(next_));
  return true;
}

void LogWriter::fail(const Status& status) {
  if (failed_) return;
  failed_ = true;
  reactor_->cancel_timer(&timer_);
  for (SealWish& wish : seal_wishes_) {
    wish.done(Status(Code::kCancelled, status.message()), sealed_lsn_);
  }
  seal_wishes_.clear();
  events_.failed(status);
}

void LogWriter::arm_timer() {
  if (stopping_ || failed_) return;
  uint64_t deadline = ~uint64_t{0};
  if (pending_since_ns_ != 0) deadline = pending_since_ns_ + options_.write_after_ns;
  if (const Segment* segment = active(); segment != nullptr && !segment->empty()) {
    deadline = std::min(deadline, segment->opened_ns + options_.seal_after_ns);
  }
  if (deadline == ~uint64_t{0}) {
    reactor_->cancel_timer(&timer_);
  } else {
    reactor_->arm_timer(&timer_, deadline);
  }
}

void LogWriter::on_timer() {
  const uint64_t now = reactor_->now_ns();
  if (pending_since_ns_ != 0 && now >= pending_since_ns_ + options_.write_after_ns) {
    pending_since_ns_ = now;
    want_durable(source_->head() - 1);
  }
  if (Segment* segment = active(); segment != nullptr && !segment->empty() &&
                                   now >= segment->opened_ns + options_.seal_after_ns) {
    close_active(SealReason::kTime);
  }
  arm_timer();
}

std::vector<SegmentInfo> LogWriter::unsealed() const {
  std::vector<SegmentInfo> list;
  for (const auto& segment : segments_) {
    if (segment->synced_lsn == 0) continue;
    SegmentInfo info = segment->cursor.info();
    info.last_lsn = segment->synced_lsn;
    info.last_time_ns = segment->published_time_ns;
    info.entries = info.last_lsn - info.first_lsn + 1;
    info.file_bytes = segment->published_end;
    list.push_back(info);
  }
  return list;
}

}  // namespace ep::log

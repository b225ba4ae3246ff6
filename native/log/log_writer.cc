// SPDX-License-Identifier: Apache-2.0
#include "log/log_writer.h"

#include <algorithm>
#include <cerrno>

#include "base/limits.h"
#include "base/mutation.h"
#include "log/log_writer_parts.h"

namespace ep::log {

using format::SealReason;

LogWriter::LogWriter(reactor::Reactor* reactor, io::FileSystem* file_system,
                     format::EntrySource* source, LogWriterOptions options, Events events)
    : reactor_(reactor),
      file_system_(file_system),
      source_(source),
      options_(std::move(options)),
      events_(std::move(events)),
      pool_(std::move(options_.devices), options_.pool),
      next_segment_number_(options_.next_segment),
      taken_lsn_(source->head()),
      durable_lsn_(source->head() - 1),
      sealed_lsn_(source->head() - 1) {
  for (uint32_t i = 0; i < limits::kBatchesInFlightMax; ++i) {
    idle_batches_.push_back(std::make_unique<Batch>());
    idle_batches_.back()->writer = this;
  }
  timer_.on_fire = [this] { on_timer(); };
  upkeep_timer_.on_fire = [this] { go_on(); };
}

LogWriter::~LogWriter() {
  EP_ASSERT(flying_.empty() && abandoned_.empty() && syncs_running_ == 0);
  EP_ASSERT(working_since_ns_ == 0 && ordered_since_ns_ == 0);
  EP_ASSERT(!timer_.armed() && !upkeep_timer_.armed());
  if (next_) discarded_.push_back(std::move(next_));
  for (const auto& segment : segments_) {
    close_file(*segment);
    // Without a batch it says nothing; what cannot be removed now goes at the next open.
    if (segment->empty()) (void)file_system_->remove(segment->cursor.made.absolute_path).is_ok();
  }
  for (const auto& segment : discarded_) {
    close_file(*segment);
    (void)file_system_->remove(segment->cursor.made.absolute_path).is_ok();
  }
}

void LogWriter::close_file(Segment& segment) {
  if (segment.cursor.made.file != io::kNoFile) file_system_->close(segment.cursor.made.file);
  segment.cursor.made.file = io::kNoFile;
}

Status LogWriter::prepare() {
  const uint64_t now = reactor_->now_ns();
  const auto outcome =
      DevicePool::make(*file_system_, pool_.folders(), pool_.candidates(now), next_segment_number_,
                       options_.segment_bytes, options_.first_wall_ns);
  discard_left(outcome);
  EP_TRY(pool_.learn(outcome, now, options_.first_wall_ns));
  ++next_segment_number_;
  adopt_next(*outcome.made);
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
  if (stopping_) {
    done(Status(Code::kCancelled, "the log is not being written"), sealed_lsn_);
    return;
  }
  seal_wishes_.push_back({lsn, reason, std::move(done)});
  want_durable(lsn);
  serve_seal_wishes();
}

bool LogWriter::should_cut() const {
  const uint64_t head = source_->head();
  return taken_lsn_ < head &&
         (wanted_lsn_ >= taken_lsn_ || head - taken_lsn_ >= limits::kBatchEntriesMax ||
          source_->bytes_since(taken_lsn_) >= limits::kBatchDataBytesTarget);
}

void LogWriter::pump() {
  if (stopping_) return;
  while (should_cut() && cut_batch()) {
  }
  maybe_sync();
  // No segment to write to, and none to be had just now: somebody has to try again.
  if (active() == nullptr && ordered_since_ns_ == 0 && should_cut()) arm_upkeep();
}

/// Starts one batch of what is in the buffer; false when that must wait (both batches in flight, no
/// segment ready).
bool LogWriter::cut_batch() {
  if (flying_.size() >= limits::kBatchesInFlightMax) return false;
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
  const uint64_t now = reactor_->now_ns();
  if (segment->empty()) segment->opened_ns = now;
  // Those of given-up segments keep their memory: then there is one too few.
  if (idle_batches_.empty()) {
    idle_batches_.push_back(std::make_unique<Batch>());
    idle_batches_.back()->writer = this;
  }
  Batch* batch = idle_batches_.back().get();
  flying_.push_back(std::move(idle_batches_.back()));
  idle_batches_.pop_back();
  batch->first_lsn = taken_lsn_;
  batch->bytes.cut(segment->cursor, *source_, taken_lsn_, plan);
  batch->segment = segment;
  batch->started_ns = now;
  batch->done = false;
  batch->mark = segment->cursor.mark();
  taken_lsn_ = batch->mark.last_lsn + 1;
  ++segment->ops;
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
  watch_for_hang();
  if (segment->cursor.end > segment->cursor.made.capacity_bytes / 2) order_next_segment();
  return true;
}

void LogWriter::on_batch_written(io::Op* op, int32_t result) {
  auto* batch = static_cast<Batch*>(op->owner);
  batch->writer->batch_done(batch, result);
}

void LogWriter::batch_done(Batch* batch, int32_t result) {
  Segment* segment = batch->segment;
  --segment->ops;
  if (segment->given_up) {
    abandoned_done(batch);
    return;
  }
  batch->done = true;
  if (result < 0 || static_cast<uint64_t>(result) != batch->bytes.size()) {
    // A short write on an allocated file is a device in trouble as well.
    const int error = result < 0 ? -result : EIO;
    give_up(segment,
            Status::from_errno(error, "writing log segment " + segment->cursor.made.absolute_path));
  }
  if (mutated(Mutation::kPublishOutOfOrder) && !segment->given_up &&
      batch->mark.batches > segment->published.batches) {
    segment->published = batch->mark;
  }
  while (!flying_.empty() && flying_.front()->done) {
    std::unique_ptr<Batch> front = std::move(flying_.front());
    flying_.pop_front();
    if (!mutated(Mutation::kPublishOutOfOrder) ||
        front->mark.batches > front->segment->published.batches) {
      front->segment->published = front->mark;
    }
    idle_batches_.push_back(std::move(front));
  }
  go_on();
}

/// Syncs a file whose written entries are wanted, when a quarter of the buffer waits for it, or
/// when it is to be sealed.
void LogWriter::maybe_sync() {
  for (const auto& segment : segments_) {
    if (segment->syncing || segment->published.batches <= segment->synced.batches) continue;
    const bool wanted = wanted_lsn_ > segment->synced.last_lsn;
    const bool much = segment->published.end - segment->synced.end >= source_->data_bytes() / 4;
    if (!wanted && !much && !segment->closing) continue;
    const uint64_t now = reactor_->now_ns();
    segment->syncing = true;
    segment->sync_started_ns = now;
    segment->sync_target = segment->published;
    ++segment->ops;
    segment->sync_op = io::Op{};
    segment->sync_op.kind = io::Op::Kind::kSyncData;
    segment->sync_op.file = segment->cursor.made.file;
    segment->sync_op.on_complete = on_synced;
    segment->sync_op.owner = segment.get();
    segment->sync_op.immediate = segment->cursor.made.in_memory;
    ++syncs_running_;
    ++stats_.syncs;
    reactor_->engine().submit(&segment->sync_op);
    watch_for_hang();
  }
}

void LogWriter::on_synced(io::Op* op, int32_t result) {
  auto* segment = static_cast<Segment*>(op->owner);
  segment->writer->sync_done(segment, result);
}

void LogWriter::sync_done(Segment* segment, int32_t result) {
  segment->syncing = false;
  --segment->ops;
  --syncs_running_;
  if (mutated(Mutation::kTrustAfterFailedSync)) result = std::max(result, 0);
  if (segment->given_up) {
    // Even a late success says nothing: its entries are being written again.
    pool_.release(device_of(*segment));
  } else if (result < 0) {
    // What the kernel could not write it has forgotten: nothing behind the last sync is trusted.
    give_up(segment, Status::from_errno(
                         -result, "syncing log segment " + segment->cursor.made.absolute_path));
  } else {
    segment->synced =
        mutated(Mutation::kSyncCoversLater) ? segment->published : segment->sync_target;
    pool_.worked(device_of(*segment), reactor_->engine().wall_ns());
    advance_durable();
    serve_seal_wishes();
  }
  go_on();
}

void LogWriter::advance_durable() {
  uint64_t durable = durable_lsn_;
  for (const auto& segment : segments_) {
    durable = std::max(durable, segment->synced.last_lsn);
    if (!segment->closing || !segment->all_synced()) break;
  }
  if (durable == durable_lsn_) return;
  durable_lsn_ = durable;
  pending_since_ns_ = durable + 1 == source_->head() ? 0 : reactor_->now_ns();
  arm_timer();
  const bool recovered = in_trouble_ && durable >= trouble_lsn_;
  if (recovered) in_trouble_ = false;
  events_.durable(durable);
  if (recovered && !stopping_ && events_.recovered) events_.recovered();
}

void LogWriter::close_active(SealReason reason) {
  Segment* segment = active();
  EP_ASSERT(segment != nullptr && !segment->empty());
  segment->closing = true;
  segment->reason = reason;
  maybe_sync();
  work_off();
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

void LogWriter::order_next_segment() {
  if (next_ || ordered_since_ns_ != 0 || stopping_) return;
  const uint64_t now = reactor_->now_ns();
  auto candidates = pool_.candidates(now);
  if (candidates.empty()) return;  // asked again when one may be tried
  ordered_since_ns_ = now;
  const uint64_t number = next_segment_number_++;
  auto outcome = std::make_shared<DevicePool::MakeOutcome>();
  const uint64_t wall_ns = reactor_->engine().wall_ns();
  reactor_->offload(
      [this, number, wall_ns, outcome, candidates = std::move(candidates)] {
        *outcome = DevicePool::make(*file_system_, pool_.folders(), candidates, number,
                                    options_.segment_bytes, wall_ns);
      },
      [this, outcome] { next_made(*outcome); });
}

void LogWriter::next_made(const DevicePool::MakeOutcome& outcome) {
  ordered_since_ns_ = 0;
  discard_left(outcome);
  const Status status = pool_.learn(outcome, reactor_->now_ns(), reactor_->engine().wall_ns());
  if (outcome.made) {
    adopt_next(*outcome.made);
  } else if (active() == nullptr && should_cut()) {
    begin_trouble(status, taken_lsn_);
  }
  // Otherwise there is still room in the active one; asked again when that is full.
  go_on();
}

/// What was made and could be neither used nor removed holds space.
void LogWriter::discard_left(const DevicePool::MakeOutcome& outcome) {
  for (const DevicePool::MakeOutcome::Tried& tried : outcome.tried) {
    if (tried.left.empty()) continue;
    auto segment = std::make_unique<Segment>();
    segment->cursor.made.device = &pool_.folders()[tried.index];
    segment->cursor.made.absolute_path = tried.left;
    discarded_.push_back(std::move(segment));
  }
}

void LogWriter::adopt_next(const NewSegmentFile& made) {
  next_ = std::make_unique<Segment>();
  next_->writer = this;
  next_->cursor.made = made;
  next_->cursor.group = options_.group;
  next_->cursor.epoch = options_.epoch;
}

/// Makes the segment that was allocated ahead the active one. On a device that fell into trouble
/// meanwhile it is of no use while there is a better one.
bool LogWriter::take_next_segment() {
  if (next_) {
    const uint64_t now = reactor_->now_ns();
    const size_t device = device_of(*next_);
    const bool usable = pool_.may_use(device, now);
    if (usable && (pool_.is_good(device, now) || !pool_.another_is_good(device, now))) {
      segments_.push_back(std::move(next_));
      // With one on another device at hand a failure needs no blocking call to get over.
      if (pool_.size() > 1) order_next_segment();
      return true;
    }
    if (!usable && pool_.candidates(now).empty()) return false;
    discarded_.push_back(std::move(next_));
  }
  order_next_segment();
  return false;
}

void LogWriter::arm_timer() {
  if (stopping_) return;
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
    // What is synced behind one that is not has no place in the log yet.
    if (segment->synced.batches == 0 || segment->synced.last_lsn > durable_lsn_) continue;
    SegmentInfo info = segment->cursor.info();
    info.last_lsn = segment->synced.last_lsn;
    info.last_time_ns = segment->synced.last_time_ns;
    info.entries = info.last_lsn - info.first_lsn + 1;
    info.data_bytes = segment->synced.data_bytes;
    info.file_bytes = segment->synced.end;
    list.push_back(info);
  }
  return list;
}

}  // namespace ep::log

// SPDX-License-Identifier: Apache-2.0

// What the log writer does besides the straight path: giving segments up [0046], sealing and
// removing files on the helper thread, and coming to rest.

#include <algorithm>
#include <iterator>
#include <utility>

#include "base/mutation.h"
#include "log/log_writer_parts.h"

namespace ep::log {

using format::SealReason;

size_t LogWriter::device_of(const Segment& segment) const {
  return pool_.index_of(segment.cursor.made.device);
}

// ---- trouble ------------------------------------------------------------------------------------

/// The segment's file is no longer written. What was synced of it stays; what comes behind, in it
/// and in later segments, is in the buffer and will be cut again.
void LogWriter::give_up(Segment* segment, const Status& status) {
  EP_ASSERT(!segment->given_up);
  const uint64_t now = reactor_->now_ns();
  pool_.failed(device_of(*segment), status, now, reactor_->engine().wall_ns());
  ++stats_.segments_given_up;
  const uint64_t number = segment->cursor.made.number;
  const uint64_t taken_before = taken_lsn_;

  auto at = std::find_if(segments_.begin(), segments_.end(),
                         [segment](const auto& each) { return each.get() == segment; });
  EP_ASSERT(at != segments_.end());
  for (auto later = at; later != segments_.end(); ++later) {
    EP_ASSERT(!(*later)->sealed);
    // One that was given up before and waits for an earlier one to become durable: held already.
    if (!(*later)->given_up && (*later)->syncing) pool_.hold(device_of(**later));
    (*later)->given_up = true;
  }
  abandon_batches();
  if (segment->synced.batches != 0) {
    if (!mutated(Mutation::kForgetFailedBatch)) taken_lsn_ = segment->synced.last_lsn + 1;
    segment->cursor.cut_back(segment->synced);
    segment->published = segment->synced;
    if (!segment->closing) segment->reason = SealReason::kRecovery;
    segment->closing = true;
    ++at;
  } else {
    if (!mutated(Mutation::kForgetFailedBatch)) taken_lsn_ = segment->cursor.first_lsn;
  }
  std::move(at, segments_.end(), std::back_inserter(discarded_));
  segments_.erase(at, segments_.end());

  // It was on its way for some reason; now it is late.
  wanted_lsn_ = std::max(wanted_lsn_, taken_before - 1);
  begin_trouble(status, taken_lsn_);
  // A device that fails again and again before anything is durable must not fill the buffer.
  if (!gave_up_told_ || segment->synced.batches != 0) tell_gave_up_.emplace(number, status);
  gave_up_told_ = true;
}

/// Takes the batches of given-up segments, the last ones cut, out of flight.
void LogWriter::abandon_batches() {
  while (!flying_.empty() && flying_.back()->segment->given_up) {
    std::unique_ptr<Batch> batch = std::move(flying_.back());
    flying_.pop_back();
    if (batch->done) {
      idle_batches_.push_back(std::move(batch));
    } else {
      pool_.hold(device_of(*batch->segment));
      abandoned_.push_back(std::move(batch));
    }
  }
}

void LogWriter::abandoned_done(Batch* batch) {
  const uint64_t pinned = pinned_lsn();
  pool_.release(device_of(*batch->segment));
  const auto at = std::find_if(abandoned_.begin(), abandoned_.end(),
                               [batch](const auto& each) { return each.get() == batch; });
  EP_ASSERT(at != abandoned_.end());
  idle_batches_.push_back(std::move(*at));
  abandoned_.erase(at);
  if (pinned_lsn() != pinned && events_.unpinned) events_.unpinned();
  go_on();
}

uint64_t LogWriter::pinned_lsn() const {
  uint64_t first = kNotPinned;
  for (const auto& batch : abandoned_) first = std::min(first, batch->first_lsn);
  return first;
}

/// `lsn` is the first that could not be made durable.
void LogWriter::begin_trouble(const Status& status, uint64_t lsn) {
  if (!in_trouble_) {
    tell_trouble_ = status;
    trouble_lsn_ = 0;
    gave_up_told_ = false;
  }
  in_trouble_ = true;
  trouble_lsn_ = std::max(trouble_lsn_, lsn);
}

/// The end of every completion: says what there is to say, then starts what can be started.
void LogWriter::go_on() {
  if (pool_.size() > 1) {
    give_up_hung();
    order_next_segment();
  }
  announce();
  work_off();
  pump();
  arm_upkeep();
  check_quiet();
}

void LogWriter::announce() {
  const auto trouble = std::exchange(tell_trouble_, std::nullopt);
  const auto gave_up = std::exchange(tell_gave_up_, std::nullopt);
  if (stopping_) return;
  if (trouble) events_.trouble(*trouble);
  if (gave_up && events_.gave_up) events_.gave_up(gave_up->first, gave_up->second);
}

/// With one device waiting is all there is; with several somebody looks at the clock.
void LogWriter::watch_for_hang() {
  if (pool_.size() > 1) arm_upkeep();
}

/// A batch or sync that hangs is a failure when another device is usable; it stays in flight, and
/// keeps its memory, until it ends.
void LogWriter::give_up_hung() {
  const uint64_t now = reactor_->now_ns();
  const auto hangs = [&](const Segment& segment, uint64_t started_ns) {
    return now >= started_ns + options_.hang_after_ns &&
           pool_.another_is_good(device_of(segment), now);
  };
  Segment* hung = nullptr;
  for (const auto& segment : segments_) {
    bool found =
        segment->syncing && !segment->given_up && hangs(*segment, segment->sync_started_ns);
    for (const auto& batch : flying_) {
      found |=
          batch->segment == segment.get() && !batch->done && hangs(*segment, batch->started_ns);
    }
    if (!found) continue;
    hung = segment.get();
    break;  // the ones behind it go with it
  }
  if (hung == nullptr) return;
  give_up(hung,
          Status(Code::kIoError, "writing log segment " + hung->cursor.made.absolute_path +
                                     " has not ended for " +
                                     std::to_string(options_.hang_after_ns / 1'000'000) + " ms"));
}

// ---- sealing and removing -----------------------------------------------------------------------

/// Blocking calls share one helper thread. One to a device in trouble may not come back for long,
/// so with several devices it is only made when the next segment stands ready: what is written
/// needs no helper then.
bool LogWriter::may_work_on(const Segment& segment) const {
  const uint64_t now = reactor_->now_ns();
  const size_t device = device_of(segment);
  if (segment.ops != 0 || now < segment.retry_at_ns || pool_.is_held(device)) return false;
  return pool_.size() == 1 || next_ != nullptr || !pool_.had_trouble(device, now);
}

void LogWriter::work_off() {
  if (stopping_ || working_since_ns_ != 0) return;
  if (!seal_one()) (void)remove_one();
}

/// Seals the first closed segment that can be. One whose device fails does not keep later ones from
/// being sealed, but they are reported behind it only.
bool LogWriter::seal_one() {
  for (const auto& each : segments_) {
    Segment* segment = each.get();
    if (!segment->closing || !segment->all_synced() || segment->cursor.last_lsn > durable_lsn_) {
      return false;
    }
    if (segment->sealed || !may_work_on(*segment)) continue;
    working_since_ns_ = reactor_->now_ns();
    const format::SegmentTrailer trailer =
        segment->cursor.trailer(reactor_->engine().wall_ns(), segment->reason);
    auto size = std::make_shared<Result<uint64_t>>(uint64_t{0});
    reactor_->offload(
        [this, segment, trailer, size] {
          *size = seal_segment_file(*file_system_, segment->cursor.made.file,
                                    segment->cursor.directory, segment->cursor.end, trailer);
        },
        [this, segment, size] { seal_done(segment, *size); });
    return true;
  }
  return false;
}

void LogWriter::seal_done(Segment* segment, const Result<uint64_t>& size) {
  working_since_ns_ = 0;
  const uint64_t now = reactor_->now_ns();
  const uint64_t wall_ns = reactor_->engine().wall_ns();
  if (!size) {
    segment->retry_at_ns = now + options_.seal_retry_ns;
    pool_.failed(device_of(*segment), size.status(), now, wall_ns);
  } else {
    pool_.worked(device_of(*segment), wall_ns);
    close_file(*segment);
    segment->sealed = true;
    segment->info = segment->cursor.info();
    segment->info.file_bytes = *size;
    segment->info.sealed = true;
    ++stats_.segments_sealed;
    stats_.bytes += *size - segment->cursor.end;
    report_sealed();
  }
  go_on();
}

void LogWriter::report_sealed() {
  while (!segments_.empty() && segments_.front()->sealed) {
    const SegmentInfo info = segments_.front()->info;
    segments_.pop_front();
    sealed_lsn_ = info.last_lsn;
    events_.sealed(info);
  }
  serve_seal_wishes();
}

bool LogWriter::remove_one() {
  for (const auto& each : discarded_) {
    Segment* segment = each.get();
    if (!may_work_on(*segment)) continue;
    working_since_ns_ = reactor_->now_ns();
    auto status = std::make_shared<Status>();
    reactor_->offload(
        [this, segment, status] {
          *status = file_system_->remove(segment->cursor.made.absolute_path);
        },
        [this, segment, status] { remove_done(segment, *status); });
    return true;
  }
  return false;
}

void LogWriter::remove_done(Segment* segment, const Status& status) {
  working_since_ns_ = 0;
  const uint64_t now = reactor_->now_ns();
  if (!status && status.code() != Code::kNotFound) {
    segment->retry_at_ns = now + options_.seal_retry_ns;
    pool_.failed(device_of(*segment), status, now, reactor_->engine().wall_ns());
  } else {
    close_file(*segment);
    std::erase_if(discarded_, [segment](const auto& each) { return each.get() == segment; });
  }
  go_on();
}

// ---- time ---------------------------------------------------------------------------------------

uint64_t LogWriter::stalled_since_ns() const {
  uint64_t oldest = ~uint64_t{0};
  const auto look = [&oldest](uint64_t started_ns) {
    if (started_ns != 0) oldest = std::min(oldest, started_ns);
  };
  for (const auto& batch : flying_) look(batch->done ? 0 : batch->started_ns);
  for (const auto& batch : abandoned_) look(batch->started_ns);
  for (const auto& segment : segments_) look(segment->syncing ? segment->sync_started_ns : 0);
  for (const auto& segment : discarded_) look(segment->syncing ? segment->sync_started_ns : 0);
  look(ordered_since_ns_);
  look(working_since_ns_);
  return oldest == ~uint64_t{0} ? 0 : oldest;
}

/// Sees to everything that time brings: trying a device again, an operation that hangs, sealing
/// and removing again.
void LogWriter::arm_upkeep() {
  if (stopping_) return;
  const uint64_t now = reactor_->now_ns();
  uint64_t deadline = ~uint64_t{0};
  const auto by = [&](uint64_t at, uint64_t again_after) {
    deadline = std::min(deadline, at > now ? at : now + again_after);
  };
  if (active() == nullptr && ordered_since_ns_ == 0 && should_cut()) {
    const uint64_t retry = pool_.next_retry_ns();
    if (retry != ~uint64_t{0}) by(retry, options_.pool.retry_min_ns);
  }
  if (pool_.size() > 1) {
    const uint64_t again = options_.hang_after_ns / 4 + 1;
    for (const auto& batch : flying_) {
      if (!batch->done) by(batch->started_ns + options_.hang_after_ns, again);
    }
    for (const auto& segment : segments_) {
      if (segment->syncing) by(segment->sync_started_ns + options_.hang_after_ns, again);
    }
  }
  if (working_since_ns_ == 0) {
    for (const auto& segment : segments_) {
      if (segment->closing && segment->all_synced() && !segment->sealed) {
        by(segment->retry_at_ns, options_.seal_retry_ns);
      }
    }
    for (const auto& segment : discarded_) by(segment->retry_at_ns, options_.seal_retry_ns);
  }
  if (deadline == ~uint64_t{0}) {
    reactor_->cancel_timer(&upkeep_timer_);
  } else {
    reactor_->arm_timer(&upkeep_timer_, deadline);
  }
}

// ---- end ----------------------------------------------------------------------------------------

void LogWriter::stop(std::function<void()> quiet) {
  stopping_ = true;
  reactor_->cancel_timer(&timer_);
  reactor_->cancel_timer(&upkeep_timer_);
  for (const SealWish& wish : std::exchange(seal_wishes_, {})) {
    wish.done(Status(Code::kCancelled, "the log is being closed"), sealed_lsn_);
  }
  quiet_ = std::move(quiet);
  check_quiet();
}

void LogWriter::check_quiet() {
  if (!quiet_ || !flying_.empty() || !abandoned_.empty() || syncs_running_ != 0 ||
      working_since_ns_ != 0 || ordered_since_ns_ != 0) {
    return;
  }
  const std::function<void()> quiet = std::move(quiet_);
  quiet_ = nullptr;
  quiet();
}

}  // namespace ep::log

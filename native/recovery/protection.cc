// SPDX-License-Identifier: Apache-2.0
#include "recovery/protection.h"

#include <algorithm>
#include <utility>

#include "base/limits.h"
#include "base/mutation.h"
#include "recovery/segment_scan.h"

namespace ep::recovery {

namespace {
/// How often history is asked for again before everything is logged without it.
constexpr unsigned kHistoryTries = 3;
/// While guests write, a resync rests as long as it worked, but never longer than this.
constexpr uint64_t kRestNsMax = 50'000'000;
/// How soon to look again for requests that still go to the primaries alone.
constexpr uint64_t kLookAgainNs = 5'000'000;
}  // namespace

Protection::Protection(reactor::Reactor* reactor, const ProtectionOptions& options, Events events)
    : reactor_(reactor),
      options_(options),
      events_(std::move(events)),
      retry_ns_(options.retry_min_ns) {}

Protection::~Protection() {
  EP_ASSERT(!timer_.armed() && !step_running_ && state_ != State::kOpening);
}

Result<std::unique_ptr<Protection>> Protection::open(reactor::Reactor* reactor,
                                                     const ProtectionOptions& options,
                                                     Events events) {
  std::unique_ptr<Protection> made(new Protection(reactor, options, std::move(events)));
  auto session = made->open_session(true);
  if (!session) return session.status();
  made->opened_ = (*session)->outcome;
  made->epoch_ = made->opened_.epoch;
  made->options_.open.create = false;
  // Later openings do not keep a guest waiting.
  made->options_.open.unanswering.clear();
  if ((*session)->writer) made->session_ = std::move(*session);
  return made;
}

/// Blocking. A session without a writer: the group is served in a gap.
Result<std::unique_ptr<Protection::Session>> Protection::open_session(bool first) {
  auto opened = open_group(options_.open);
  if (!opened) return opened.status();
  auto session = std::make_unique<Session>();
  session->outcome = std::move(*opened);
  OpenOutcome& outcome = session->outcome;
  if (!outcome.buffer) return session;

  log::LogWriterOptions options = options_.log;
  options.group = options_.open.group;
  options.epoch = outcome.epoch;
  options.devices = outcome.devices;
  options.next_segment = outcome.next_segment;
  options.first_wall_ns = options_.open.wall_ns;
  options.segment_bytes = options_.open.segment_bytes;
  session->writer = std::make_unique<log::LogWriter>(
      reactor_, options_.open.file_system, &*outcome.buffer, options,
      log::LogWriter::Events{
          .durable = [this](uint64_t lsn) { splitter_->log_durable(lsn); },
          .sealed = [this](const log::SegmentInfo& info) { events_.sealed(info); },
          .trouble = [this](const Status& status) { splitter_->log_trouble(status); },
          .recovered = [this] { splitter_->log_recovered(); },
          .gave_up = [this](uint64_t segment, const Status&) { splitter_->log_gave_up(segment); },
          .unpinned = [this] { splitter_->log_unpinned(); }});
  Status status = session->writer->prepare();
  if (!status) {
    if (options_.open.create) return status;
    session->writer = nullptr;
    const Status recorded = record_gap(outcome, status);
    if (!first) return status;
    if (!recorded) return recorded;
    outcome.buffer->retire();
    outcome.buffer.reset();
    return session;
  }
  if (options_.open.record->current().in_gap) {
    const view::History::Input input{options_.open.file_system, options_.open.group,
                                     outcome.devices};
    auto history = view::History::open(input, outcome.next_lsn - 1);
    if (history) {
      session->history = std::move(*history);
      history_failures_ = 0;
    } else if (!first && ++history_failures_ < kHistoryTries) {
      return history.status();
    } else {
      // What history has cannot be told any more: it gets everything anew.
      format::GroupRecord record = options_.open.record->current();
      record.resync_all = true;
      if (const Status saved = options_.open.record->save(record); !saved) return saved;
    }
  }
  return session;
}

/// The log cannot be written at all: history ends here, the guest is served.
Status Protection::record_gap(const OpenOutcome& outcome, const Status& why) {
  format::GroupRecord record = options_.open.record->current();
  if (record.in_gap) return Status::ok();
  record.in_gap = true;
  record.last_lsn = outcome.next_lsn - 1;
  record.gap = {};
  record.gap.from_lsn = outcome.next_lsn - 1;
  record.gap.from_ns = outcome.last_time_ns;
  record.gap.reason = why.message();
  return options_.open.record->save(record);
}

void Protection::start(split::Splitter* splitter, std::vector<Volume> volumes) {
  splitter_ = splitter;
  volumes_ = std::move(volumes);
  timer_.on_fire = [this] {
    if (state_ == State::kWaiting) heal();
    if (state_ == State::kResyncing) resync_next();
  };
  const format::GroupRecord& record = options_.open.record->current();
  if (record.in_gap && !mutated(Mutation::kForgetUncoveredAtRestart)) {
    for (const Volume& volume : volumes_) volume.regions->uncover(record.resync_all);
  }
  // A pause lasts over restarts, and its buffer is not used.
  if (session_ && record.in_gap && record.paused) session_ = nullptr;
  if (!session_) {
    wait_to_heal(retry_ns_);
    return;
  }
  attach_session();
  state_ = State::kProtected;
  if (record.in_gap) begin_resync();
}

void Protection::attach_session() {
  OpenOutcome& outcome = session_->outcome;
  if (outcome.mirrored) {
    session_->committer = std::make_unique<nvram::BufferCommitter>(
        &reactor_->engine(), options_.open.store->mirror(), &*outcome.buffer,
        nvram::BufferCommitter::Events{
            .durable = [this](uint64_t lsn) { splitter_->buffer_durable(lsn); },
            .failed = [this](const Status& status) { splitter_->buffer_failed(status); }});
  }
  splitter_->attach_log({&*outcome.buffer, session_->writer.get(), session_->committer.get()},
                        outcome.last_time_ns);
}

// ---- a gap has opened ---------------------------------------------------------------------------

void Protection::gap_opened(const format::Gap& gap) {
  events_.gap(gap);
  if (stopping_ || state_ == State::kStopped) return;
  leave_session();
}

void Protection::regions_failed(const Status& status) {
  // What it says on disk may be older than what was written meanwhile, or be gone.
  auto open = [this, message = status.message()] {
    splitter_->open_gap({.reason = message, .resync_all = true});
  };
  if (state_ == State::kOpening) {
    after_opening_.push_back(std::move(open));
  } else {
    open();
  }
}

void Protection::leave_session() {
  reactor_->cancel_timer(&timer_);
  state_ = State::kLeaving;
  detached_ = writer_quiet_ = false;
  committer_quiet_ = session_->committer == nullptr;
  splitter_->detach_log([this] {
    detached_ = true;
    session_left();
  });
  // The committer first: the last of the three to answer frees the session.
  if (!committer_quiet_) {
    session_->committer->stop([this] {
      committer_quiet_ = true;
      session_left();
    });
  }
  session_->writer->stop([this] {
    writer_quiet_ = true;
    session_left();
  });
}

void Protection::session_left() {
  if (state_ != State::kLeaving || !detached_ || !writer_quiet_ || !committer_quiet_ ||
      step_running_) {
    return;
  }
  // Not from inside the writer's own call.
  reactor_->post([this, left = std::shared_ptr<Session>(std::move(session_))] {});
  retry_ns_ = options_.retry_min_ns;
  if (paused() && !stopping_) {
    close_out_log();
  } else {
    wait_to_heal(retry_ns_);
  }
}

/// Before a pause, which may be long: what was logged until it is sealed, so that it can be mapped
/// and read. Without one the next opening does that.
void Protection::close_out_log() {
  state_ = State::kOpening;
  auto segments = std::make_shared<std::vector<log::SegmentInfo>>();
  reactor_->offload(
      [this, segments, wall_ns = reactor_->engine().wall_ns()] {
        const OpenInput& open = options_.open;
        *segments = close_out(*open.file_system, open.devices, open.group, wall_ns);
      },
      [this, segments] {
        events_.reopened(*segments);
        wait_to_heal(retry_ns_);
        const auto after = std::exchange(after_opening_, {});
        for (const auto& task : after) task();
      });
}

void Protection::wait_to_heal(uint64_t delay_ns) {
  state_ = State::kWaiting;
  check_stopped();
  if (stopping_ || paused()) return;
  reactor_->arm_timer(&timer_, reactor_->now_ns() + delay_ns);
}

// ---- pause and resume ---------------------------------------------------------------------------

void Protection::pause(std::function<void(Status)> done) {
  if (state_ == State::kOpening) {
    after_opening_.push_back([this, done = std::move(done)] { pause(done); });
    return;
  }
  auto open = [this, done = std::move(done)] {
    reactor_->cancel_timer(&timer_);
    splitter_->open_gap({.reason = "paused by request", .paused = true},
                        [done] { done(Status::ok()); });
  };
  if (splitter_->in_gap()) {
    open();
    return;
  }
  // What was answered before the pause is history still.
  splitter_->sync_log([open = std::move(open)](const Status&, uint64_t) { open(); });
}

void Protection::resume(std::function<void(Status)> done) {
  if (state_ == State::kOpening) {
    after_opening_.push_back([this, done = std::move(done)] { resume(done); });
    return;
  }
  if (!paused()) {
    done(Status(Code::kConflict, "it is not paused"));
    return;
  }
  splitter_->end_pause([this, done = std::move(done)](const Status& status) {
    if (status && state_ == State::kWaiting) heal();
    if (state_ == State::kOpening) {
      after_opening_.push_back([done] { done(Status::ok()); });
    } else {
      done(status);
    }
  });
}

// ---- opening anew -------------------------------------------------------------------------------

void Protection::heal() {
  if (stopping_ || paused()) return;
  reactor_->cancel_timer(&timer_);
  state_ = State::kOpening;
  options_.open.wall_ns = reactor_->engine().wall_ns();
  auto opened = std::make_shared<std::optional<Result<std::unique_ptr<Session>>>>();
  std::vector<drl::RegionLog*> broken;
  for (const Volume& volume : volumes_) {
    if (volume.regions->failed()) broken.push_back(volume.regions);
  }
  reactor_->offload(
      [this, opened, broken] {
        Status status;
        for (drl::RegionLog* regions : broken) {
          if (status) status = regions->rebuild_file();
        }
        if (status) {
          opened->emplace(open_session(false));
        } else {
          opened->emplace(status);
        }
      },
      [this, opened, broken] {
        if (**opened) {
          for (drl::RegionLog* regions : broken) regions->rebuilt();
        }
        healed_opening(std::move(**opened));
      });
}

void Protection::healed_opening(Result<std::unique_ptr<Session>> opened) {
  if (opened && (*opened)->writer == nullptr) {
    opened = Status(Code::kIoError, "the log cannot be written");
  }
  if (opened && stopping_) {
    // The next process finds an epoch of which nothing was used.
    opened = Status(Code::kCancelled, "stopping");
  }
  if (!opened) {
    heal_problem_ = opened.status().message();
    wait_to_heal(retry_ns_);
    retry_ns_ = std::min(retry_ns_ * 2, options_.retry_max_ns);
  } else {
    heal_problem_.clear();
    session_ = std::move(*opened);
    epoch_ = session_->outcome.epoch;
    events_.reopened(session_->outcome.segments);
    attach_session();
    begin_resync();
  }
  const auto after = std::exchange(after_opening_, {});
  for (const auto& task : after) task();
}

// ---- resync -------------------------------------------------------------------------------------

void Protection::begin_resync() {
  state_ = State::kResyncing;
  if (options_.open.record->current().resync_all) {
    for (const Volume& volume : volumes_) volume.regions->uncover(true);
  }
  volume_ = 0;
  region_ = 0;
  offset_ = 0;
  requests_seen_ = 0;
  resync_total_bytes_ = resync_left_bytes();
  splitter_->log_gap_begin();
  resync_next();
}

uint64_t Protection::resync_left_bytes() const {
  if (!splitter_->in_gap()) return 0;
  uint64_t bytes = 0;
  for (const Volume& volume : volumes_) {
    bytes += uint64_t{volume.regions->uncovered_regions()} * volume.regions->region_bytes();
  }
  return bytes;
}

/// Moves on to a region that is not covered; false when there is none.
bool Protection::find_uncovered() {
  if (offset_ != 0) return true;  // in the middle of one
  for (size_t tried = 0; tried <= volumes_.size(); ++tried) {
    drl::RegionLog& regions = *volumes_[volume_].regions;
    region_ = regions.next_uncovered(region_);
    if (region_ < regions.regions()) return true;
    region_ = 0;
    volume_ = (volume_ + 1) % volumes_.size();
  }
  return false;
}

void Protection::resync_next() {
  if (stopping_ || step_running_ || !splitter_->resyncing()) {
    check_stopped();
    return;
  }
  if (!find_uncovered()) {
    finish_resync();
    return;
  }
  const Volume& volume = volumes_[volume_];
  if (mutated(Mutation::kSkipRegionInResync) && offset_ == 0 &&
      resync_left_bytes() == volume.regions->region_bytes()) {
    volume.regions->cover(region_, splitter_->last_lsn());
    finish_resync();
    return;
  }
  const uint64_t region_bytes = volume.regions->region_bytes();
  const uint64_t start = region_ * region_bytes + offset_;
  const uint64_t end = std::min(volume.size_bytes, (uint64_t{region_} + 1) * region_bytes);
  step_bytes_ = std::min(options_.resync_step_bytes, end - start);
  step_running_ = true;
  step_began_ns_ = reactor_->now_ns();
  history_good_ = false;
  if (!session_->history) {
    resync_compare();
    return;
  }
  // History before this epoch changes no more: it can be read before the range is locked.
  history_bytes_.resize(step_bytes_);
  reactor_->offload(
      [this, number = volume.number, start] {
        history_good_ =
            session_->history->read(number, start, step_bytes_, history_bytes_.data(), &known_)
                .is_ok();
      },
      [this] { resync_compare(); });
}

void Protection::resync_compare() {
  const Volume& volume = volumes_[volume_];
  const uint64_t start = region_ * volume.regions->region_bytes() + offset_;
  splitter_->resync_range(volume.number, start, step_bytes_,
                          history_good_ ? history_bytes_.data() : nullptr,
                          history_good_ ? &known_ : nullptr,
                          [this](const Status& status, uint64_t) { resync_stepped(status); });
}

void Protection::resync_stepped(const Status& status) {
  step_running_ = false;
  if (state_ == State::kLeaving) {
    session_left();
    return;
  }
  if (!status || !splitter_->resyncing()) {
    check_stopped();
    return;
  }
  const Volume& volume = volumes_[volume_];
  offset_ += step_bytes_;
  const uint64_t region_bytes = volume.regions->region_bytes();
  if (offset_ == region_bytes || region_ * region_bytes + offset_ >= volume.size_bytes) {
    volume.regions->cover(region_, splitter_->last_lsn());
    offset_ = 0;
  }
  const uint64_t requests = splitter_->counters().reads + splitter_->counters().writes;
  const bool guests = requests != std::exchange(requests_seen_, requests);
  const uint64_t worked = reactor_->now_ns() - step_began_ns_;
  reactor_->arm_timer(&timer_, reactor_->now_ns() + (guests ? std::min(worked, kRestNsMax) : 0));
}

void Protection::finish_resync() {
  if (splitter_->passing() != 0) {
    // Requests from before this epoch still go to the primaries alone and will leave uncovered
    // regions behind.
    reactor_->arm_timer(&timer_, reactor_->now_ns() + kLookAgainNs);
    return;
  }
  step_running_ = true;
  splitter_->end_gap([this](const Status& status, const format::Gap& gap) {
    step_running_ = false;
    if (status) {
      events_.gap(gap);
      session_->history = nullptr;
      retry_ns_ = options_.retry_min_ns;
      if (state_ == State::kResyncing) state_ = State::kProtected;
    } else if (state_ == State::kResyncing && splitter_->resyncing() && !stopping_) {
      reactor_->arm_timer(&timer_, reactor_->now_ns() + retry_ns_);
    }
    if (state_ == State::kLeaving) session_left();
    check_stopped();
  });
}

// ---- end ----------------------------------------------------------------------------------------

void Protection::stop_healing(std::function<void()> quiet) {
  stopping_ = true;
  on_stopped_ = std::move(quiet);
  reactor_->cancel_timer(&timer_);
  check_stopped();
}

void Protection::check_stopped() {
  if (!on_stopped_ || step_running_) return;
  if (state_ == State::kOpening || state_ == State::kLeaving) return;
  const auto stopped = std::exchange(on_stopped_, nullptr);
  stopped();
}

void Protection::stop_log(std::function<void()> quiet) {
  state_ = State::kStopped;
  if (!session_) {
    quiet();
    return;
  }
  session_->writer->stop([this, quiet = std::move(quiet)] {
    if (session_->committer) {
      session_->committer->stop(quiet);
    } else {
      quiet();
    }
  });
}

}  // namespace ep::recovery

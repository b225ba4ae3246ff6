// SPDX-License-Identifier: Apache-2.0
#pragma once

// Keeps a group's history going (design 4, "Gap"): opens the group, owns the log of the running
// epoch, and when protection is interrupted, brings it back by itself:
//
//   protected ──gap──▶ waiting ──retry, or resume──▶ opening ──▶ resyncing ──▶ protected
//                         ▲                                │           │
//                         └──────── failed ◀───────────────┴───────────┘
//
// *Opening* is recovery::open_group, off the reactor, while the guest is served by the primaries
// alone; it starts a new epoch. *Resyncing* walks over the uncovered regions: each piece is
// compared with history under its range's lock, and what differs is logged. A crash at any point
// leaves the gap in the record and the regions dirty, and the next process goes on.

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "drl/region_log.h"
#include "log/log_writer.h"
#include "reactor/reactor.h"
#include "recovery/open_group.h"
#include "split/splitter.h"
#include "view/history.h"

namespace ep::recovery {

struct ProtectionOptions {
  /// As for the first opening; `wall_ns` is taken anew for each later one.
  OpenInput open;
  /// Group, epoch, devices and numbers are filled in at each opening.
  log::LogWriterOptions log;
  /// Waits between attempts to bring the log back: the first, doubled up to the last.
  uint64_t retry_min_ns = 1'000'000'000;
  uint64_t retry_max_ns = 30'000'000'000;
  /// A resync's step; a guest's write to it waits while it is read and compared.
  uint64_t resync_step_bytes = 256 * 1024;
};

/// One group's. Opened away from the reactor; everything else on it.
class Protection {
 public:
  struct Volume {
    uint16_t number = 0;
    uint64_t size_bytes = 0;
    drl::RegionLog* regions = nullptr;
  };
  struct Events {
    std::function<void(const log::SegmentInfo&)> sealed;
    /// The log was opened again: these are its segments, all sealed, in the place of what was
    /// known.
    std::function<void(const std::vector<log::SegmentInfo>&)> reopened;
    /// It has opened (to_lsn 0) or was healed; durable when called.
    std::function<void(const format::Gap&)> gap;
  };

  /// Blocking. kOk also for a group that is served in a gap.
  static Result<std::unique_ptr<Protection>> open(reactor::Reactor* reactor,
                                                  const ProtectionOptions& options, Events events);
  ~Protection();

  /// What the first opening found.
  [[nodiscard]] const OpenFindings& opened() const { return opened_; }

  /// Gives the splitter its log, or begins to heal. The splitter's gap event is gap_opened().
  void start(split::Splitter* splitter, std::vector<Volume> volumes);
  void gap_opened(const format::Gap& gap);
  /// A dirty region log could not be written.
  void regions_failed(const Status& status);

  /// Stops protection until resume(): a gap, durable when `done` is called.
  void pause(std::function<void(Status)> done);
  /// `done` when the log was opened again, or could not be and is tried on. kConflict when it is
  /// not paused.
  void resume(std::function<void(Status)> done);

  /// Ends whatever heals; `quiet` when nothing of it is under way. The log goes on.
  void stop_healing(std::function<void()> quiet);
  /// After stop_healing and the splitter's quiesce: stops the writer; `quiet` when it has no I/O.
  void stop_log(std::function<void()> quiet);

  /// Null when there is no log at the moment.
  [[nodiscard]] log::LogWriter* writer() { return session_ ? session_->writer.get() : nullptr; }
  [[nodiscard]] const nvram::LogBuffer* buffer() const {
    return session_ ? &*session_->outcome.buffer : nullptr;
  }
  /// Null for a buffer that is not mirrored in a file, and in a gap.
  [[nodiscard]] const nvram::BufferCommitter* committer() const {
    return session_ ? session_->committer.get() : nullptr;
  }
  [[nodiscard]] uint64_t epoch() const { return epoch_; }
  /// With which LSN the running epoch began.
  [[nodiscard]] uint64_t epoch_first_lsn() const {
    return session_ ? session_->outcome.next_lsn : opened_.next_lsn;
  }
  [[nodiscard]] uint64_t resync_left_bytes() const;
  [[nodiscard]] uint64_t resync_total_bytes() const { return resync_total_bytes_; }
  [[nodiscard]] bool paused() const { return splitter_->record().paused; }
  /// Why the last attempt to bring the log back failed; empty when there was none.
  [[nodiscard]] const std::string& heal_problem() const { return heal_problem_; }

 private:
  /// A log that can be written: buffer and writer of one epoch.
  struct Session {
    OpenOutcome outcome;
    std::unique_ptr<log::LogWriter> writer;
    std::unique_ptr<nvram::BufferCommitter> committer;
    std::unique_ptr<view::History> history;  // while resyncing; null: everything is logged
  };
  enum class State : uint8_t { kProtected, kLeaving, kWaiting, kOpening, kResyncing, kStopped };

  Protection(reactor::Reactor* reactor, const ProtectionOptions& options, Events events);
  Result<std::unique_ptr<Session>> open_session(bool first);
  Status record_gap(const OpenOutcome& outcome, const Status& why);
  void attach_session();
  void leave_session();
  void session_left();
  void close_out_log();
  void wait_to_heal(uint64_t delay_ns);
  void heal();
  void healed_opening(Result<std::unique_ptr<Session>> opened);
  void begin_resync();
  void resync_next();
  void resync_compare();
  void resync_stepped(const Status& status);
  void finish_resync();
  [[nodiscard]] bool find_uncovered();
  void check_stopped();

  reactor::Reactor* reactor_;
  ProtectionOptions options_;
  Events events_;
  OpenFindings opened_;
  uint64_t epoch_ = 0;
  split::Splitter* splitter_ = nullptr;
  std::vector<Volume> volumes_;

  State state_ = State::kStopped;
  std::unique_ptr<Session> session_;
  bool detached_ = false;
  bool writer_quiet_ = false;
  bool committer_quiet_ = false;
  bool stopping_ = false;
  bool step_running_ = false;
  std::function<void()> on_stopped_;
  reactor::Timer timer_;
  uint64_t retry_ns_;
  unsigned history_failures_ = 0;
  std::string heal_problem_;
  /// Asked for while the record was being written off the reactor.
  std::vector<std::function<void()>> after_opening_;

  // Of the resync.
  size_t volume_ = 0;
  uint32_t region_ = 0;
  uint64_t offset_ = 0;  // of the next step
  uint64_t step_bytes_ = 0;
  uint64_t step_began_ns_ = 0;
  uint64_t requests_seen_ = 0;
  uint64_t resync_total_bytes_ = 0;
  std::vector<uint8_t> history_bytes_;
  std::vector<bool> known_;
  bool history_good_ = false;
};

}  // namespace ep::recovery

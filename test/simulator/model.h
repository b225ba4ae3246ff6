// SPDX-License-Identifier: Apache-2.0
#pragma once

// What the simulator knows of the truth: every request that a guest made, when it was answered and
// with what; every entry that was put into the log buffer; everything that was promised durable.
// Checks say what is wrong in words; the first thing found fails the seed.

#include <algorithm>
#include <cstdint>
#include <map>
#include <set>
#include <string>
#include <vector>

#include "block/device.h"
#include "format/group_record.h"
#include "log_reader.h"
#include "nvram/log_buffer.h"
#include "sim_disk.h"

namespace ep::sim {

/// A guest's request. Its data is a function of its id and the place within it.
struct Req {
  uint64_t id = 0;
  uint16_t volume = 0;
  block::Op op{};
  uint64_t sector = 0;
  uint64_t sectors = 0;
  uint64_t submitted = 0;  // on the model's clock
  uint64_t completed = 0;  // 0: not yet
  uint64_t submitted_ns = 0;
  block::Outcome outcome{};
  bool dead = false;       // its process ended first
  bool flushed = false;    // a later flush of its volume succeeded
  bool tainted = false;    // a flush failed since: it may be lost whatever a later one says
  bool passed = false;     // not logged, or not wholly: it met a gap
  uint64_t after_lsn = 0;  // entries must be above this: of what was answered before
  uint64_t first_lsn = 0;
  uint64_t last_lsn = 0;
  uint64_t logged_sectors = 0;

  [[nodiscard]] bool changes() const { return op != block::Op::kFlush && op != block::Op::kRead; }
};

/// Sector `index` of request `id`.
void fill_sector(uint64_t id, uint64_t index, uint8_t* to);

class Model {
 public:
  Model(Machine& machine, std::vector<uint64_t> volume_sectors);

  // ---- what happens
  Req& submit(uint16_t volume, block::Op op, uint64_t sector, uint64_t sectors, bool in_gap);
  /// `promised_log`: by mode and state its answer says that the log has it durably.
  void complete(uint64_t id, block::Outcome outcome, bool in_gap, bool promised_log);
  /// Looks at what came into the buffer since the last look.
  void observe(const nvram::LogBuffer& buffer);
  /// The log says so; in a gap that is being opened it is no promise any more.
  void log_durable(uint64_t lsn, bool in_gap);
  /// No gap is open (any more): what is durable counts.
  void log_promised(uint64_t lsn) {
    in_log_lsn_ = std::max(in_log_lsn_, lsn);
    buffer_promised(lsn);
  }
  /// Durable in the log buffer, where that survives a power cut; the next opening brings it into
  /// the log.
  void buffer_promised(uint64_t lsn) { promised_lsn_ = std::max(promised_lsn_, lsn); }
  /// The next opening is done: what was promised must be in the log.
  void opened() { in_log_lsn_ = promised_lsn_; }
  /// A gap gives the buffer up, and says so: what only that had is promised no more.
  void gap_opened() { promised_lsn_ = in_log_lsn_; }
  void marker_durable(const std::string& label, uint64_t lsn);
  void process_ended();
  /// A read's data, when it is answered.
  void check_read(uint64_t id, const uint8_t* bytes);

  // ---- checks; each may fail()
  struct Disks {
    std::vector<std::string> primaries;
    std::vector<std::string> folders;
    std::vector<std::string> region_logs;
    std::string record;
    Uuid group;
  };
  /// The log on disk against everything known. Returns the last LSN before any hole or open gap.
  uint64_t check_log(const Disks& disks);
  /// Each sector of the primaries holds something that it may hold: after a power cut only what was
  /// flushed is sure, otherwise everything that was answered. `where` for the message.
  void check_primaries(const Disks& disks, bool power_cut, const char* where);
  /// The group record as it stands on disk; all defaults when there is no good one.
  [[nodiscard]] format::GroupRecord read_record(const Disks& disks) const;
  /// Where primary and log differ, the region logs on disk say dirty.
  void check_regions(const Disks& disks, const char* where);
  /// No gap is open: nothing answered is missing in the log, and the primaries equal it.
  void check_protected(const Disks& disks, const char* where);
  /// After an opening: what the primaries hold now is what they hold; nothing of an earlier process
  /// may land any more.
  void rebase(const Disks& disks, bool after_power_cut);
  /// The record's word on gaps, after an opening that succeeded.
  void check_gap(const format::GroupRecord& record, const char* where);
  /// An opening begins an epoch at `next_lsn`.
  void begin_epoch(uint64_t epoch, uint64_t next_lsn);

  void fail(const std::string& what);
  [[nodiscard]] bool failed() const { return !failures_.empty(); }
  [[nodiscard]] const std::vector<std::string>& failures() const { return failures_; }

  /// At the last opening that succeeded.
  [[nodiscard]] bool gap_open() const { return gap_known_; }
  [[nodiscard]] uint64_t promised_lsn() const { return promised_lsn_; }
  [[nodiscard]] uint64_t answered_lsn() const { return answered_lsn_; }
  [[nodiscard]] const Req& request(uint64_t id) const { return requests_.at(id - 1); }
  [[nodiscard]] uint64_t requests() const { return requests_.size(); }
  [[nodiscard]] uint64_t clock() const { return clock_; }

  uint64_t entries_seen = 0;
  /// The secondary has had trouble that may cost what it had: a promise may then be in a gap.
  bool history_may_be_lost = false;

 private:
  /// What an entry was when it got its LSN; address and place do not count.
  struct Issued {
    format::EntryType type{};
    uint8_t flags = 0;
    uint16_t volume = 0;
    uint32_t sectors = 0;
    uint64_t sector = 0;
    uint64_t time_ns = 0;
    uint32_t crc = 0;
    friend bool operator==(const Issued&, const Issued&) = default;
  };
  static Issued issued_of(const format::Entry& entry);
  void issue(uint64_t lsn, const format::Entry& entry, const uint8_t* data);
  void apply(const LogEntry& entry);
  [[nodiscard]] uint64_t expected_tag(const Req& req, uint64_t sector) const;
  /// Whether a sector may hold `tag`.
  [[nodiscard]] bool allowed(uint16_t volume, uint64_t sector, uint64_t tag, bool power_cut) const;
  [[nodiscard]] std::string describe(uint16_t volume, uint64_t sector, uint64_t tag) const;
  std::vector<std::vector<uint64_t>> read_primaries(const Disks& disks);

  struct Rec {
    uint32_t id = 0;  // of a request; 0: what was there before
    uint64_t tag = 0;
  };

  Machine& machine_;
  const std::vector<uint64_t> volume_sectors_;
  uint64_t clock_ = 0;
  std::vector<Req> requests_;                           // by id - 1
  std::vector<std::vector<uint64_t>> unflushed_;        // by volume: ids answered, not flushed
  std::vector<uint64_t> active_;                        // ids that change something, in flight
  std::set<uint64_t> reads_;                            // ids of reads in flight
  std::vector<std::vector<std::vector<Rec>>> history_;  // by volume and sector
  std::map<uint64_t, Issued> issued_;
  uint64_t issue_next_ = 1;
  uint64_t last_issue_time_ = 0;
  uint64_t answered_lsn_ = 0;  // highest of any request that was answered
  uint64_t promised_lsn_ = 0;  // said to be durable, outside any gap
  uint64_t in_log_lsn_ = 0;    // of these, said to be in the log already
  uint64_t durable_lsn_ = 0;   // said to be durable
  std::map<std::string, uint64_t> markers_;
  bool gap_known_ = false;
  format::Gap gap_;
  uint64_t epoch_ = 0;

  // The log replayed, as far as it goes: also into a gap that is open, where what was resynced may
  // be clean already.
  LogReader reader_;
  uint64_t applied_lsn_ = 0;
  uint64_t replayed_lsn_ = 0;  // the last one outside an open gap
  uint64_t replayed_time_ = 0;
  std::vector<std::vector<uint64_t>> replay_;  // by volume: tags
  std::vector<std::vector<bool>> unknown_;
  std::set<std::string> labels_;
  std::vector<std::string> failures_;
};

}  // namespace ep::sim

// SPDX-License-Identifier: Apache-2.0
#include "recovery/open_group.h"

#include <algorithm>
#include <utility>

#include "base/limits.h"
#include "base/mutation.h"
#include "log/batch.h"
#include "recovery/segment_scan.h"
#ifdef EP_MUTATIONS
#include "view/history.h"
#endif

namespace ep::recovery {

using format::Entry;
using format::EntryType;
using format::GroupRecord;
using nvram::LogBuffer;
using nvram::PrimaryState;

namespace {

class Opening {
 public:
  explicit Opening(const OpenInput& input) : in_(input), fs_(*input.file_system) {}

  Result<OpenOutcome> run() {
    record_ = in_.record->current();
    EP_TRY(check_sizes());
    if (mutated(Mutation::kDropGapAtRestart)) record_.in_gap = false;
    const Status scanned = scan();
    // What a newer program wrote is not for this one to go on with.
    if (scanned.code() == Code::kUnsupported) return scanned;
    if (in_.create) {
      EP_TRY(scanned);
      if (in_.record->existed() || !segments_.empty()) {
        return Status(Code::kAlreadyExists,
                      "a group with UUID " + in_.group.to_string() + " exists already");
      }
    } else if (!in_.record->existed()) {
      open_gap("the group record is lost");
      record_.resync_all = true;
      // Lost LSNs are not known either; none is ever used twice.
      record_.reserved_lsn = log_last_ + 1 + limits::kLsnReserveStep;
      record_.epoch = last_epoch_;
      record_.gap_from_unknown = !scanned;
    } else if (record_.in_gap) {
      // It was open before, and stays so until a resync heals it.
      if (scanned && record_.gap_from_unknown) know_gap_start();
      if (record_.closed_cleanly && changed_primary() != nullptr) record_.resync_all = true;
    } else if (!without_.empty()) {
      assume_log_end();
      open_gap(without_);
      record_.resync_all = true;
    } else if (!scanned) {
      // The secondary never takes the guest down: it is served, and history has to wait.
      assume_log_end();
      open_gap("its log cannot be read: " + scanned.message());
      record_.gap_from_unknown = true;
    } else if (record_.closed_cleanly) {
      check_clean_close();
    } else {
      EP_TRY(recover_unclean());
    }
    if (record_.in_gap && hole_ && !keep_as_is_ && without_.empty()) set_aside_behind_hole();
    const Status sealed = seal_unsealed();
    if (!sealed && !record_.in_gap) {
      if (in_.create) return sealed;
      open_gap("its log cannot be written: " + sealed.message());
    }
    writable_ = scanned.is_ok() && sealed.is_ok();
    if (!record_.in_gap && in_.store == nullptr && !in_.create) {
      open_gap("there is no log buffer to write to");
    }
    EP_TRY(begin_epoch());
    return std::move(out_);
  }

 private:
  /// Another size is another disk: neither redo nor a guest may touch it.
  Status check_sizes() const {
    for (const PrimaryFile& primary : in_.primaries) {
      const GroupRecord::Primary* known = known_primary(primary.volume);
      // An odd end is filled up to a sector when it is written.
      if (known == nullptr || align_up(known->look.size_bytes, kSectorBytes) ==
                                  align_up(primary.look.size_bytes, kSectorBytes)) {
        continue;
      }
      return Status(Code::kInvalidArgument,
                    "the primary of volume " + std::to_string(primary.volume) + " has " +
                        std::to_string(primary.look.size_bytes) + " bytes, it had " +
                        std::to_string(known->look.size_bytes) +
                        "; put the right disk back, or bring this one back to its size");
    }
    return Status::ok();
  }

  [[nodiscard]] const GroupRecord::Primary* known_primary(uint16_t volume) const {
    for (const GroupRecord::Primary& known : record_.primaries) {
      if (known.volume == volume) return &known;
    }
    return nullptr;
  }

  /// Fails when no device can be read. Those that cannot are left out: the others go on without.
  Status read_log() {
    // A passing fault must not cost the history behind it.
    constexpr int kTries = 3;
    Status status;
    devices_ = in_.devices;
    for (const Uuid& hanging : in_.unanswering) {
      std::erase_if(devices_,
                    [&](const log::DeviceFolder& each) { return each.device == hanging; });
      without_ = "device " + hanging.to_string() + " does not answer";
    }
    if (devices_.empty()) return Status(Code::kIoError, std::exchange(without_, {}));
    for (int i = 0; i < kTries; ++i) {
      SegmentScan found = scan_segments(fs_, devices_, in_.group);
      out_.devices = devices_;
      if (found.problems.empty()) {
        segments_ = std::move(found.segments);
        return Status::ok();
      }
      status = found.problems.front().status;
      bool passing = false;
      for (const DeviceProblem& problem : found.problems) {
        if (problem.status.code() == Code::kUnsupported) return problem.status;
        passing = passing || problem.status.code() == Code::kIoError;
        std::erase_if(out_.devices, [&problem](const log::DeviceFolder& device) {
          return device.device == problem.device->device;
        });
      }
      if (passing && i + 1 < kTries) continue;
      if (out_.devices.empty()) return status;
      without_ = "device " + found.problems.front().device->device.to_string() +
                 " cannot be read: " + status.message();
      segments_ = std::move(found.segments);
      return Status::ok();
    }
    return status;
  }

  /// Finds the last LSN that stands in the log without a hole before it. An epoch that began in a
  /// gap goes on after a jump, and its first entry says so.
  Status scan() {
    EP_TRY(read_log());
    // Numbers that an absent device may have used are not used again: it is not that far ahead.
    const uint64_t ahead = without_.empty() ? 1 : 65'536;
    out_.next_segment = ahead;
    for (const ScannedSegment& segment : segments_) {
      out_.next_segment = std::max(out_.next_segment, segment.info.segment + ahead);
      if (segment.info.entries == 0) continue;
      last_epoch_ = std::max(last_epoch_, segment.info.epoch);
      if (hole_ || segment.info.first_lsn != log_last_ + 1) {
        hole_ = segment.info.first_lsn <= log_last_ || !begins_in_gap(segment);
      }
      if (hole_) continue;
      log_last_ = segment.info.last_lsn;
      out_.last_time_ns = std::max(out_.last_time_ns, segment.info.last_time_ns);
    }
    return Status::ok();
  }

  [[nodiscard]] bool begins_in_gap(const ScannedSegment& segment) const {
    auto file = fs_.open(segment.absolute_path, {.read_only = true});
    if (!file) return false;
    uint8_t entry[format::kEntryBytes];
    size_t got = 0;
    const Status read = fs_.read(*file, format::kSegmentHeaderBytes + format::kBatchHeaderBytes,
                                 entry, sizeof entry, &got);
    fs_.close(*file);
    if (!read || got != sizeof entry) return false;
    const auto first = format::decode_entry(entry);
    return first && first->type == EntryType::kGap;
  }

  /// The log cannot be read: what is known of its end without it.
  void assume_log_end() {
    out_.last_time_ns = std::max(out_.last_time_ns, record_.last_time_ns);
    if (record_.closed_cleanly) {
      log_last_ = std::max(log_last_, record_.last_lsn);
      return;
    }
    if (in_.store == nullptr) return;
    const LogBuffer::Found found = LogBuffer::inspect(*in_.store->region(), in_.group, in_.boot);
    if (found.kind != LogBuffer::Found::Kind::kEntries) return;
    const LogBuffer buffer = LogBuffer::attach(in_.store->region(), found);
    if (buffer.head() > buffer.tail()) {
      out_.last_time_ns = std::max(out_.last_time_ns, buffer.at(buffer.head() - 1).entry.time_ns);
    }
    // What has left the buffer is durable.
    log_last_ = std::max(log_last_, buffer.tail() - 1);
  }

  void know_gap_start() {
    record_.gap.from_lsn = log_last_;
    record_.gap.from_ns = out_.last_time_ns;
    record_.gap_from_unknown = false;
  }

  void open_gap(const std::string& reason) {
    record_.in_gap = true;
    record_.gap = {};
    record_.gap.from_lsn = log_last_;
    // Of the last entry that is there: what came after it is lost, whenever that was noticed.
    record_.gap.from_ns = out_.last_time_ns;
    record_.gap.reason = reason;
    record_.last_lsn = log_last_;
    record_.last_time_ns = out_.last_time_ns;
  }

  /// One that is not as a clean close left it; null when all are.
  [[nodiscard]] const PrimaryFile* changed_primary() const {
    for (const PrimaryFile& primary : in_.primaries) {
      const GroupRecord::Primary* known = known_primary(primary.volume);
      if (known == nullptr || known->look != primary.look) return &primary;
    }
    return nullptr;
  }

  void check_clean_close() {
    out_.last_time_ns = std::max(out_.last_time_ns, record_.last_time_ns);
    if (hole_ || log_last_ != record_.last_lsn) {
      open_gap("the log ends at LSN " + std::to_string(log_last_) + ", but it was closed at " +
               std::to_string(record_.last_lsn));
      record_.resync_all = true;
      return;
    }
    if (const PrimaryFile* changed = changed_primary()) {
      open_gap("the primary of volume " + std::to_string(changed->volume) +
               " was changed while the group was closed");
      record_.resync_all = true;
    }
  }

  /// The last run did not close. Its log is complete when the buffer still holds everything that is
  /// not in the segments; otherwise the primary is right and nothing is redone.
  Status recover_unclean() {
    LogBuffer::Found found;
    if (in_.store != nullptr) {
      // A mirror that cannot be read is a lost buffer.
      (void)in_.store->load_mirror().is_ok();
      found = LogBuffer::inspect(*in_.store->region(), in_.group, in_.boot);
    }
    using Kind = LogBuffer::Found::Kind;
    if (found.kind == Kind::kFormatting && !hole_) return Status::ok();
    if (found.kind != Kind::kEntries ||
        (found.epoch != record_.epoch && found.epoch != record_.epoch + 1 &&
         !mutated(Mutation::kIgnoreEpoch))) {
      if (mutated(Mutation::kRedoAfterLostBuffer)) EP_TRY(redo_log());
      open_gap("it was not closed cleanly and its log buffer is lost");
      // Given up by a gap that the record does not know: then the dirty region logs may have failed
      // with it.
      record_.resync_all = record_.resync_all || found.kind == Kind::kRetired;
      return Status::ok();
    }
    LogBuffer buffer = found.from_mirror
                           ? LogBuffer::attach(in_.store->region(), found, log_last_ + 1)
                           : LogBuffer::attach(in_.store->region(), found);
    if (found.epoch == record_.epoch + 1) {
      // A recovery came as far as making the next epoch's buffer: all before was safe.
      if (buffer.head() != buffer.tail() || hole_ || log_last_ + 1 != buffer.tail()) {
        open_gap("its log buffer does not follow its log");
      }
      return Status::ok();
    }
    // The log may be ahead of the buffer by what an interrupted recovery has read back already.
    if (buffer.tail() > log_last_ + 1) {
      // Entries that were durable cannot be read: what stands behind the damage is not cut off.
      keep_as_is_ = true;
      record_.resync_all = true;
      open_gap("its log buffer holds LSN " + std::to_string(buffer.tail()) + " to " +
               std::to_string(buffer.head()) + ", its log ends at " + std::to_string(log_last_));
      return Status::ok();
    }
    suspect_lsn_ = buffer.tail();
    Status logged = drop_after_hole();
    // First, and durably: what is appended behind must never be there without it.
    if (logged && !mutated(Mutation::kAppendBeforeSeal)) logged = seal_entries();
    if (logged && buffer.head() > log_last_ + 1) logged = append_to_log(buffer, log_last_ + 1);
    if (!logged) {
      // What was answered stands on the primaries already (a write is answered after them at the
      // earliest), so they are right without the log.
      open_gap("its log cannot be written: " + logged.message());
      return Status::ok();
    }
    if (found.from_mirror) {
      // Not all that may have reached a primary is here: an older logged write redone could land on
      // newer flushed data. History has what was flushed; the rest is for a resync.
      open_gap("the power was cut: what was not flushed may stand on the primary alone");
      return Status::ok();
    }
    EP_TRY(redo(buffer));
    return read_back_failed(buffer);
  }

  /// Behind a torn segment others may stand that were written ahead; the buffer has all of it.
  Status drop_after_hole() {
    for (size_t i = 0; i < segments_.size();) {
      const log::SegmentInfo& info = segments_[i].info;
      if (info.epoch != record_.epoch || info.first_lsn <= log_last_ || info.entries == 0) {
        ++i;
        continue;
      }
      if (info.sealed) {
        return Status(Code::kCorruption,
                      "segment " + info.path +
                          " is sealed, but the log before it has a hole after LSN " +
                          std::to_string(log_last_));
      }
      EP_TRY(fs_.remove(segments_[i].absolute_path));
      segments_.erase(segments_.begin() + static_cast<ptrdiff_t>(i));
    }
    return Status::ok();
  }

  /// The same in a gap, where nothing has those entries: a batch counts only when every batch
  /// before it does, so they are not part of the log. The bytes stay, under a name that no reader
  /// takes.
  void set_aside_behind_hole() {
    std::erase_if(segments_, [this](const ScannedSegment& segment) {
      const log::SegmentInfo& info = segment.info;
      if (info.sealed || info.entries == 0 || info.first_lsn <= log_last_) return false;
      return fs_.rename(segment.absolute_path, segment.absolute_path + ".aside").is_ok();
    });
  }

  Status append_to_log(const LogBuffer& buffer, uint64_t from) {
    log::BatchBytes bytes;
    for (uint64_t lsn = from; lsn < buffer.head();) {
      auto made = log::make_segment_file(fs_, in_.devices, out_.next_segment, in_.segment_bytes,
                                         in_.wall_ns);
      if (!made) return made.status();
      ++out_.next_segment;
      log::SegmentCursor cursor;
      cursor.made = *made;
      cursor.group = in_.group;
      cursor.epoch = record_.epoch;
      Status status = fill_segment(buffer, lsn, cursor, bytes);
      log::SegmentInfo info = cursor.info();
      if (status) {
        auto size =
            log::seal_segment_file(fs_, made->file, cursor.directory, cursor.end,
                                   cursor.trailer(in_.wall_ns, format::SealReason::kRecovery));
        if (size) info.file_bytes = *size;
        status = size.status();
      }
      fs_.close(made->file);
      EP_TRY(status);
      info.sealed = true;
      out_.segments.push_back(info);
      out_.entries_recovered += info.entries;
      lsn = info.last_lsn + 1;
      log_last_ = info.last_lsn;
      out_.last_time_ns = std::max(out_.last_time_ns, info.last_time_ns);
    }
    return Status::ok();
  }

  Status fill_segment(const LogBuffer& buffer, uint64_t lsn, log::SegmentCursor& cursor,
                      log::BatchBytes& bytes) {
    while (lsn < buffer.head()) {
      const log::BatchPlan plan = log::plan_batch(buffer, lsn);
      if (!log::batch_fits(cursor, plan)) break;
      bytes.cut(cursor, buffer, lsn, plan);
      uint64_t offset = bytes.offset();
      for (const iovec& part : bytes.iov()) {
        EP_TRY(fs_.write(cursor.made.file, offset, part.iov_base, part.iov_len));
        offset += part.iov_len;
      }
      lsn = cursor.last_lsn + 1;
    }
    return fs_.sync(cursor.made.file);
  }

  [[nodiscard]] io::FileId primary_of(uint16_t volume) const {
    for (const PrimaryFile& primary : in_.primaries) {
      if (primary.volume == volume) return primary.file;
    }
    return io::kNoFile;
  }

  /// Writes what is not known to have reached the primaries to them, in LSN order. What is done is
  /// done: after the crash of a process the kernel has its finished writes, and after a power cut
  /// persistent memory calls only those done that were synced. And a later
  /// overlapping write cannot be done before an earlier one (the splitter puts them in order), so
  /// nothing older ever lands on something newer, nor in a region that may be clean.
  Status redo(LogBuffer& buffer) {
    if (mutated(Mutation::kSkipRedo)) return Status::ok();
    for (uint64_t next = buffer.tail(); next < buffer.head(); ++next) {
      const uint64_t lsn =
          mutated(Mutation::kRedoWrongOrder) ? buffer.tail() + (buffer.head() - 1 - next) : next;
      const nvram::BufferedEntry at = buffer.at(lsn);
      const io::FileId file = primary_of(at.entry.volume);
      if (at.primary != PrimaryState::kPending || file == io::kNoFile) continue;
      const uint64_t offset = at.entry.sector * kSectorBytes;
      const uint64_t bytes = uint64_t{at.entry.sectors} * kSectorBytes;
      Status status;
      if (at.entry.type == EntryType::kWrite) {
        status = fs_.write(file, offset, at.data, bytes);
      } else if (at.entry.type == EntryType::kDiscard || at.entry.type == EntryType::kWriteZeroes) {
        status = fs_.zero(file, offset, bytes);
      } else {
        continue;
      }
      // As in service: it is read back, and history gets what the primary really holds.
      if (!status) buffer.set_primary_state(lsn, PrimaryState::kFailed);
      ++out_.writes_redone;
    }
    for (const PrimaryFile& primary : in_.primaries) EP_TRY(fs_.sync(primary.file));
    return Status::ok();
  }

#ifdef EP_MUTATIONS
  /// What must never be done: the primaries may be newer than the log.
  Status redo_log() {
    auto history = view::History::open({&fs_, in_.group, out_.devices}, log_last_);
    if (!history) return Status::ok();
    constexpr uint64_t kStep = 64 * 1024;
    std::vector<uint8_t> bytes(kStep);
    std::vector<bool> known;
    for (const PrimaryFile& primary : in_.primaries) {
      for (uint64_t at = 0; at + kStep <= primary.look.size_bytes; at += kStep) {
        if (!(*history)->read(primary.volume, at, kStep, bytes.data(), &known)) continue;
        EP_TRY(fs_.write(primary.file, at, bytes.data(), kStep));
      }
    }
    return Status::ok();
  }
#else
  static Status redo_log() { return Status::ok(); }
#endif

  /// Writes that the primary had refused before the crash, and whose range was perhaps not read
  /// back yet: history gets what the primary really holds [0044]. The buffer keeps what it has
  /// until the next epoch begins, so that a crash in here starts it all over.
  Status read_back_failed(const LogBuffer& buffer) {
    for (uint64_t lsn = buffer.tail(); lsn < buffer.head(); ++lsn) {
      const nvram::BufferedEntry at = buffer.at(lsn);
      const io::FileId file = primary_of(at.entry.volume);
      if (at.primary != PrimaryState::kFailed || file == io::kNoFile) continue;
      if (const Status status = read_back(file, at.entry); !status) {
        open_gap("what a primary holds after a failed write cannot be logged: " + status.message());
        return Status::ok();
      }
    }
    return Status::ok();
  }

  Status read_back(io::FileId file, const Entry& failed) {
    nvram::MemoryRegion region(LogBuffer::region_bytes(limits::kBufferDataBytesMin));
    LogBuffer found = LogBuffer::format(&region, in_.group, in_.boot, record_.epoch, log_last_ + 1);
    constexpr uint32_t kStepSectors = 2048;
    for (uint32_t done = 0; done < failed.sectors; done += kStepSectors) {
      Entry entry;
      entry.volume = failed.volume;
      entry.sector = failed.sector + done;
      entry.sectors = std::min(kStepSectors, failed.sectors - done);
      entry.time_ns = ++out_.last_time_ns;
      const uint64_t bytes = uint64_t{entry.sectors} * kSectorBytes;
      uint8_t* data = found.next_data(bytes);
      size_t got = 0;
      if (fs_.read(file, entry.sector * kSectorBytes, data, bytes, &got)) {
        entry.type = EntryType::kWrite;
        entry.flags = format::kEntryFlagResync;
        entry.data_crc = crc32(data, bytes);
      } else {
        entry.type = EntryType::kUnknown;
      }
      if (found.head() >= record_.reserved_lsn) {
        return Status(Code::kNoSpace, "no log sequence numbers are left for the recovery");
      }
      const uint64_t lsn = found.append(entry, PrimaryState::kDone);
      EP_TRY(append_to_log(found, lsn));
      found.release_before(found.head());
      ++out_.ranges_read_back;
    }
    return Status::ok();
  }

  /// Goes through all of them whatever happens to one, so that what can be read is known.
  Status seal_entries() {
    for (ScannedSegment& segment : segments_) {
      if (segment.ignored || segment.info.entries == 0 || segment.info.sealed) continue;
      EP_TRY(seal_scanned(fs_, segment, suspect_lsn_, in_.wall_ns));
    }
    return Status::ok();
  }

  Status seal_unsealed() {
    Status first;
    for (ScannedSegment& segment : segments_) {
      Status status;
      if (segment.ignored) continue;
      if (segment.info.entries == 0) {
        // A sealed one that a later one covers wholly: maps may name it.
        if (!keep_as_is_ && !segment.info.sealed) status = fs_.remove(segment.absolute_path);
      } else {
        if (!segment.info.sealed && !keep_as_is_) {
          status = seal_scanned(fs_, segment, suspect_lsn_, in_.wall_ns);
        }
        out_.segments.push_back(segment.info);
      }
      if (first && !status) first = status;
    }
    std::sort(
        out_.segments.begin(), out_.segments.end(),
        [](const log::SegmentInfo& a, const log::SegmentInfo& b) { return a.segment < b.segment; });
    return first;
  }

  /// Buffer first, record second: a crash between the two finds an empty buffer of the next epoch.
  Status begin_epoch() {
    out_.epoch = std::max(record_.epoch, last_epoch_) + 1;
    record_.group = in_.group;
    const bool log_goes_on = writable_ && in_.store != nullptr;
    if (record_.in_gap && !mutated(Mutation::kReuseLsn)) {
      out_.next_lsn = std::max(record_.reserved_lsn, log_last_ + 1);
    } else {
      if (!log_goes_on) return Status(Code::kNoSpace, "there is no log buffer to write to");
      // The log was complete, so no LSN was lost and the count goes on without a hole.
      out_.next_lsn = log_last_ + 1;
    }
    record_.reserved_lsn = std::max(record_.reserved_lsn, out_.next_lsn);
    if (log_goes_on) {
      out_.buffer =
          LogBuffer::format(in_.store->region(), in_.group, in_.boot, out_.epoch, out_.next_lsn);
      // Without it the buffer serves as one on tmpfs does.
      out_.mirrored = in_.store->mirror() != io::kNoFile && in_.store->commit_header().is_ok();
      record_.reserved_lsn =
          std::max(record_.reserved_lsn, out_.next_lsn + limits::kLsnReserveStep);
    }
    // Times only rise, also where the entries that had them are lost.
    out_.last_time_ns = std::max({out_.last_time_ns, record_.last_time_ns, record_.gap.from_ns});
    record_.last_time_ns = out_.last_time_ns;
    record_.epoch = out_.epoch;
    record_.closed_cleanly = false;
    record_.primaries.clear();
    for (const PrimaryFile& primary : in_.primaries) {
      record_.primaries.push_back({primary.volume, {primary.look.size_bytes, 0, 0}});
    }
    return in_.record->save(record_);
  }

  const OpenInput& in_;
  io::FileSystem& fs_;
  OpenOutcome out_;
  GroupRecord record_;
  std::vector<log::DeviceFolder> devices_;  // those that answer; segments_ points into it
  std::vector<ScannedSegment> segments_;
  uint64_t log_last_ = 0;
  uint64_t suspect_lsn_ = 0;  // what is before it in the log is known to be durable
  uint64_t last_epoch_ = 0;
  bool hole_ = false;
  bool keep_as_is_ = false;
  bool writable_ = false;
  std::string without_;  // a device that is left out, and why
};

}  // namespace

Result<OpenOutcome> open_group(const OpenInput& input) { return Opening(input).run(); }

}  // namespace ep::recovery

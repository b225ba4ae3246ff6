// SPDX-License-Identifier: Apache-2.0
#include "model.h"

#include <algorithm>
#include <cstring>

#include "base/bytes.h"

namespace ep::sim {

using block::Outcome;
using format::EntryType;

namespace {
constexpr size_t kFailuresKept = 5;
}

void fill_sector(uint64_t id, uint64_t index, uint8_t* to) {
  uint64_t words[64];
  words[0] = id;
  words[1] = index;
  uint64_t state = mix(id * 0x9e3779b97f4a7c15ull + index);
  for (int i = 2; i < 64; ++i) words[i] = state += 0x9e3779b97f4a7c15ull;
  std::memcpy(to, words, sizeof words);
}

Model::Model(Machine& machine, std::vector<uint64_t> volume_sectors)
    : machine_(machine), volume_sectors_(std::move(volume_sectors)) {
  for (const uint64_t sectors : volume_sectors_) {
    history_.emplace_back(sectors, std::vector<Rec>{Rec{}});
    replay_.emplace_back(sectors);
    unknown_.emplace_back(sectors);
    unflushed_.emplace_back();
  }
}

void Model::fail(const std::string& what) {
  if (failures_.size() < kFailuresKept) {
    failures_.push_back("at " + std::to_string(machine_.now() / 1000) + " us: " + what);
  }
}

// ---- requests ---------------------------------------------------------------------------------

uint64_t Model::expected_tag(const Req& req, uint64_t sector) const {
  if (req.op != block::Op::kWrite) return 0;
  uint8_t bytes[512];
  fill_sector(req.id, sector - req.sector, bytes);
  return sector_tag(bytes);
}

Req& Model::submit(uint16_t volume, block::Op op, uint64_t sector, uint64_t sectors, bool in_gap) {
  requests_.emplace_back();
  Req& req = requests_.back();
  req.id = requests_.size();
  req.volume = volume;
  req.op = op;
  req.sector = sector;
  req.sectors = sectors;
  req.submitted = ++clock_;
  req.submitted_ns = machine_.now();
  req.passed = in_gap;
  req.after_lsn = answered_lsn_;
  if (op == block::Op::kRead) reads_.insert(req.id);
  if (!req.changes()) return req;
  active_.push_back(req.id);
  for (uint64_t at = sector; at < sector + sectors; ++at) {
    std::vector<Rec>& list = history_[volume][at];
    if (list.size() >= 6) {
      // A read on its way may still answer with what was there when it began.
      const uint64_t before = reads_.empty() ? clock_ : request(*reads_.begin()).submitted;
      uint64_t sure = 0;
      for (const Rec& rec : list) {
        if (rec.id == 0) continue;
        const Req& write = request(rec.id);
        if (write.flushed && write.completed < before) sure = std::max(sure, write.submitted);
      }
      std::erase_if(list, [&](const Rec& rec) {
        if (rec.id == 0) return sure != 0;
        return request(rec.id).completed != 0 && request(rec.id).completed < sure;
      });
    }
    list.push_back({static_cast<uint32_t>(req.id), expected_tag(req, at)});
  }
  return req;
}

void Model::complete(uint64_t id, Outcome outcome, bool in_gap, bool promised_log) {
  Req& req = requests_[id - 1];
  if (req.completed != 0) return fail("request " + std::to_string(id) + " was answered twice");
  req.completed = ++clock_;
  req.outcome = outcome;
  machine_.trace.add(id);
  machine_.trace.add(static_cast<uint64_t>(outcome));
  req.passed = req.passed || in_gap;
  const bool good = outcome == Outcome::kOk;
  if (req.op == block::Op::kFlush) {
    std::vector<uint64_t>& waiting = unflushed_[req.volume];
    if (good) {
      std::erase_if(waiting, [&](uint64_t written) {
        Req& write = requests_[written - 1];
        if (write.completed >= req.submitted) return false;
        write.flushed = !write.tainted;
        return true;
      });
      if (promised_log && !req.passed && req.after_lsn > promised_lsn_) {
        fail("flush " + std::to_string(id) + " was answered, but the log is durable to LSN " +
             std::to_string(promised_lsn_) + " only, and an earlier write has " +
             std::to_string(req.after_lsn));
      }
    } else {
      for (const uint64_t written : waiting) requests_[written - 1].tainted = true;
    }
    return;
  }
  reads_.erase(id);
  if (!req.changes()) return;
  std::erase(active_, id);
  answered_lsn_ = std::max(answered_lsn_, req.last_lsn);
  if (!good) return;
  unflushed_[req.volume].push_back(id);
  if (req.passed) return;
  if (req.logged_sectors != req.sectors) {
    fail("request " + std::to_string(id) + " was answered with " +
         std::to_string(req.logged_sectors) + " of " + std::to_string(req.sectors) +
         " sectors logged");
  }
  if (promised_log && req.last_lsn > promised_lsn_) {
    fail("request " + std::to_string(id) + " (LSN " + std::to_string(req.last_lsn) +
         ") was answered before the log was durable past " + std::to_string(promised_lsn_));
  }
}

void Model::process_ended() {
  const uint64_t now = ++clock_;
  for (const uint64_t id : active_) {
    requests_[id - 1].completed = now;
    requests_[id - 1].dead = true;
    requests_[id - 1].outcome = Outcome::kIoError;
  }
  active_.clear();
  reads_.clear();
}

void Model::check_read(uint64_t id, const uint8_t* bytes) {
  const Req& req = request(id);
  for (uint64_t i = 0; i < req.sectors; ++i) {
    const uint64_t tag = sector_tag(bytes + i * 512);
    uint64_t sure = 0;
    bool good = false;
    const std::vector<Rec>& list = history_[req.volume][req.sector + i];
    for (const Rec& rec : list) {
      if (rec.id == 0) continue;
      const Req& write = request(rec.id);
      // Only what was answered before the read began is sure.
      if (write.completed != 0 && write.completed < req.submitted && !write.dead &&
          write.outcome == Outcome::kOk) {
        sure = std::max(sure, write.submitted);
      }
    }
    for (const Rec& rec : list) {
      if (rec.tag != tag) continue;
      good = good ||
             (rec.id == 0 ? sure == 0
                          : request(rec.id).completed == 0 || request(rec.id).completed > sure);
    }
    if (!good) {
      return fail("read " + std::to_string(id) +
                  " got wrong data: " + describe(req.volume, req.sector + i, tag));
    }
  }
}

// ---- the log buffer -----------------------------------------------------------------------------

Model::Issued Model::issued_of(const format::Entry& entry) {
  return {entry.type,   entry.flags,   entry.volume,  entry.sectors,
          entry.sector, entry.time_ns, entry.data_crc};
}

void Model::begin_epoch(uint64_t epoch, uint64_t next_lsn) {
  if (epoch <= epoch_) {
    fail("epoch " + std::to_string(epoch) + " after epoch " + std::to_string(epoch_));
  }
  epoch_ = epoch;
  if (!issued_.empty() && next_lsn <= issued_.rbegin()->first) {
    fail("the new epoch begins at LSN " + std::to_string(next_lsn) + ", but " +
         std::to_string(issued_.rbegin()->first) + " was taken already");
  }
  issue_next_ = next_lsn;
  // What was lost with a buffer had times too; only those that stand in the log count (check_log).
  last_issue_time_ = 0;
}

void Model::observe(const nvram::LogBuffer& buffer) {
  for (; issue_next_ < buffer.head(); ++issue_next_) {
    if (issue_next_ < buffer.tail()) {
      return fail("LSN " + std::to_string(issue_next_) + " left the buffer unseen");
    }
    const nvram::BufferedEntry at = buffer.at(issue_next_);
    issue(issue_next_, at.entry, at.data);
  }
}

void Model::issue(uint64_t lsn, const format::Entry& entry, const uint8_t* data) {
  machine_.trace.add(lsn);
  ++entries_seen;
  if (!issued_.emplace(lsn, issued_of(entry)).second) {
    fail("LSN " + std::to_string(lsn) + " was used twice");
  }
  if (entry.time_ns <= last_issue_time_) {
    fail("LSN " + std::to_string(lsn) + " has an older time than the one before");
  }
  last_issue_time_ = entry.time_ns;
  Req* req = nullptr;
  if (entry.type == EntryType::kWrite && entry.flags == 0) {
    const auto id = load_le<uint64_t>(data);
    const auto index = load_le<uint64_t>(data + 8);
    if (id == 0 || id > requests_.size()) return fail("an entry has data that nobody wrote");
    req = &requests_[id - 1];
    if (req->volume != entry.volume || req->sector + index != entry.sector ||
        index != req->logged_sectors) {
      fail("LSN " + std::to_string(lsn) + " is not where request " + std::to_string(id) + " goes");
    }
    for (uint64_t i = 0; i < entry.sectors; ++i) {
      uint8_t expected[512];
      fill_sector(id, index + i, expected);
      if (std::memcmp(expected, data + i * 512, 512) != 0) {
        fail("LSN " + std::to_string(lsn) + " has wrong bytes in sector " + std::to_string(i));
        break;
      }
    }
  } else if (entry.flags == 0 &&
             (entry.type == EntryType::kDiscard || entry.type == EntryType::kWriteZeroes)) {
    const auto op =
        entry.type == EntryType::kDiscard ? block::Op::kDiscard : block::Op::kWriteZeroes;
    // A piece without data is a whole request here: volumes are small.
    for (const uint64_t id : active_) {
      Req& each = requests_[id - 1];
      if (each.op == op && each.volume == entry.volume &&
          each.sector + each.logged_sectors == entry.sector &&
          each.logged_sectors + entry.sectors == each.sectors) {
        req = &each;
        break;
      }
    }
    if (req == nullptr) return fail("an entry is a discard that nobody asked for");
  }
  if (req == nullptr) return;
  if (req->first_lsn == 0) req->first_lsn = lsn;
  req->last_lsn = lsn;
  req->logged_sectors += entry.sectors;
  if (lsn <= req->after_lsn) {
    fail("request " + std::to_string(req->id) + " has LSN " + std::to_string(lsn) +
         ", but one that was answered before it came has " + std::to_string(req->after_lsn));
  }
  if (req->completed != 0) fail("request " + std::to_string(req->id) + " was logged after its end");
}

void Model::log_durable(uint64_t lsn, bool in_gap) {
  machine_.trace.add(lsn);
  if (lsn <= durable_lsn_) {
    fail("the durable LSN went from " + std::to_string(durable_lsn_) + " to " +
         std::to_string(lsn));
  }
  durable_lsn_ = lsn;
  if (!in_gap) log_promised(lsn);
}

void Model::marker_durable(const std::string& label, uint64_t lsn) {
  if (lsn > durable_lsn_) fail(label + " was answered before it was durable");
  markers_[label] = lsn;
}

// ---- checks -------------------------------------------------------------------------------------

void Model::apply(const LogEntry& read) {
  const format::Entry& entry = read.entry;
  if (entry.type == EntryType::kMarker) labels_.insert(read.label);
  const bool unknown = entry.type == EntryType::kUnknown;
  const bool zeroes = entry.type == EntryType::kDiscard || entry.type == EntryType::kWriteZeroes;
  if (!unknown && !zeroes && entry.type != EntryType::kWrite) return;
  if (entry.volume >= replay_.size() ||
      entry.sector + entry.sectors > volume_sectors_[entry.volume]) {
    return fail("LSN " + std::to_string(read.lsn) + " lies outside its volume");
  }
  for (uint64_t i = 0; i < entry.sectors; ++i) {
    unknown_[entry.volume][entry.sector + i] = unknown;
    if (!unknown) replay_[entry.volume][entry.sector + i] = zeroes ? 0 : read.tags[i];
  }
}

uint64_t Model::check_log(const Disks& disks) {
  const std::vector<const LogSegment*> segments = reader_.read(machine_, disks.folders);
  // A segment that was given up ends where a later one begins.
  std::vector<uint64_t> ends(segments.size(), ~uint64_t{0});
  uint64_t end = ~uint64_t{0};
  for (size_t i = segments.size(); i-- > 0;) {
    ends[i] = end;
    if (!segments[i]->entries.empty()) end = std::min(end, segments[i]->first_lsn);
    if (!segments[i]->problem.empty()) fail(segments[i]->problem);
  }
  std::vector<const LogEntry*> walk;
  uint64_t last = 0;
  uint64_t reach = 0;
  uint64_t time = 0;
  bool in_gap = false;
  bool broken = false;
  for (size_t i = 0; i < segments.size() && !broken; ++i) {
    for (const LogEntry& read : segments[i]->entries) {
      if (read.lsn >= ends[i]) break;
      const bool opens = read.entry.type == EntryType::kGap && read.gap.to_lsn == 0;
      if (read.lsn != last + 1 && !in_gap && !(opens && read.lsn > last)) {
        broken = true;
        break;
      }
      // Times of what a device away had are known as far as record and buffer tell.
      if (read.entry.time_ns <= time && !history_may_be_lost) {
        fail("the log goes back in time at LSN " + std::to_string(read.lsn));
      }
      time = read.entry.time_ns;
      last = read.lsn;
      walk.push_back(&read);
      if (opens) in_gap = true;
      if (read.entry.type == EntryType::kGap && read.gap.to_lsn == read.lsn) in_gap = false;
      if (!in_gap) reach = last;
    }
  }
  if (last < applied_lsn_) {
    // A tail that was never durable went with the power. From the start again.
    applied_lsn_ = 0;
    labels_.clear();
    for (size_t v = 0; v < replay_.size(); ++v) {
      std::fill(replay_[v].begin(), replay_[v].end(), 0);
      std::fill(unknown_[v].begin(), unknown_[v].end(), false);
    }
  }
  for (const LogEntry* read : walk) {
    const auto known = issued_.find(read->lsn);
    if (known == issued_.end()) {
      const EntryType type = read->entry.type;
      const bool own = read->entry.flags != 0 || type == EntryType::kUnknown ||
                       type == EntryType::kError || type == EntryType::kGap ||
                       type == EntryType::kGeometry;
      if (!own) {
        fail("LSN " + std::to_string(read->lsn) + " stands in the log, but nobody logged it");
      }
      issued_.emplace(read->lsn, issued_of(read->entry));
    } else if (known->second != issued_of(read->entry)) {
      fail("LSN " + std::to_string(read->lsn) + " stands in the log with another content than " +
           "it was given");
    }
    if (read->lsn > applied_lsn_) apply(*read);
  }
  applied_lsn_ = last;
  replayed_lsn_ = reach;
  if (reach < in_log_lsn_ && !history_may_be_lost && !in_gap) {
    fail("the log ends at LSN " + std::to_string(reach) + ", but it was durable to " +
         std::to_string(in_log_lsn_));
  }
  for (const auto& [label, lsn] : markers_) {
    if (lsn <= reach && !labels_.contains(label)) fail("marker '" + label + "' is not in the log");
  }
  return reach;
}

std::vector<std::vector<uint64_t>> Model::read_primaries(const Disks& disks) {
  std::vector<std::vector<uint64_t>> tags;
  for (size_t v = 0; v < disks.primaries.size(); ++v) {
    tags.emplace_back(volume_sectors_[v]);
    machine_.for_each_sector(disks.primaries[v], [&](uint64_t sector, const uint8_t* bytes) {
      if (sector < tags[v].size()) tags[v][sector] = sector_tag(bytes);
    });
  }
  return tags;
}

bool Model::allowed(uint16_t volume, uint64_t sector, uint64_t tag, bool power_cut) const {
  const std::vector<Rec>& list = history_[volume][sector];
  uint64_t sure = 0;
  for (const Rec& rec : list) {
    if (rec.id == 0) continue;
    const Req& req = request(rec.id);
    const bool settled =
        power_cut ? req.flushed : req.completed != 0 && !req.dead && req.outcome == Outcome::kOk;
    if (settled) sure = std::max(sure, req.submitted);
  }
  return std::any_of(list.begin(), list.end(), [&](const Rec& rec) {
    if (rec.tag != tag) return false;
    if (rec.id == 0) return sure == 0;
    const Req& req = request(rec.id);
    return req.completed == 0 || req.completed > sure;
  });
}

std::string Model::describe(uint16_t volume, uint64_t sector, uint64_t tag) const {
  std::string text = "volume " + std::to_string(volume) + " sector " + std::to_string(sector) +
                     " has " + (tag == 0 ? "zeroes" : "something else");
  std::string all;
  for (const Rec& rec : history_[volume][sector]) {
    if (rec.id == 0) {
      all += rec.tag == tag ? " [the old content: here]" : " [the old content]";
      continue;
    }
    const Req& req = request(rec.id);
    all += " [request " + std::to_string(rec.id) + " op " +
           std::to_string(static_cast<int>(req.op)) + " LSN " + std::to_string(req.first_lsn) +
           " clock " + std::to_string(req.submitted) + ".." + std::to_string(req.completed) +
           (req.flushed ? " flushed" : "") +
           (req.dead                                            ? " dead"
            : req.completed != 0 && req.outcome != Outcome::kOk ? " failed"
                                                                : "") +
           (rec.tag == tag ? ": here]" : "]");
  }
  return text + "; of" + all;
}

void Model::check_primaries(const Disks& disks, bool power_cut, const char* where) {
  const auto tags = read_primaries(disks);
  for (uint16_t v = 0; v < tags.size(); ++v) {
    for (uint64_t sector = 0; sector < tags[v].size(); ++sector) {
      if (!allowed(v, sector, tags[v][sector], power_cut)) {
        return fail(std::string(where) + ": a primary lost what it had " +
                    (power_cut ? "flushed: " : "answered: ") +
                    describe(v, sector, tags[v][sector]));
      }
    }
  }
}

namespace {

/// drl-format.md; a missing or damaged part is dirty.
struct RegionBits {
  std::vector<uint8_t> bytes;
  uint64_t region_bytes = 0;

  static uint32_t sum(const uint8_t* page, size_t field) {
    std::vector<uint8_t> copy(page, page + 4096);
    std::memset(copy.data() + field, 0, 4);
    return crc32(copy.data(), copy.size());
  }
  RegionBits(std::vector<uint8_t> all, const Uuid& group, uint16_t volume) : bytes(std::move(all)) {
    if (bytes.size() < 4096 || std::memcmp(bytes.data(), "EPDRLOG1", 8) != 0 ||
        load_le<uint32_t>(bytes.data() + 12) != sum(bytes.data(), 12) ||
        std::memcmp(bytes.data() + 16, group.bytes.data(), 16) != 0 ||
        load_le<uint16_t>(bytes.data() + 32) != volume) {
      return;
    }
    region_bytes = load_le<uint64_t>(bytes.data() + 40);
  }
  [[nodiscard]] bool dirty(uint64_t offset) const {
    if (region_bytes == 0) return true;
    const uint64_t region = offset / region_bytes;
    const uint64_t page = region / 32512;
    const uint64_t at = (1 + page) * 4096;
    if (at + 4096 > bytes.size() || std::memcmp(bytes.data() + at, "EPDP", 4) != 0 ||
        load_le<uint32_t>(bytes.data() + at + 4) != sum(bytes.data() + at, 4)) {
      return true;
    }
    const uint64_t bit = region % 32512;
    return ((bytes[at + 32 + bit / 8] >> (bit % 8)) & 1) != 0;
  }
};

}  // namespace

format::GroupRecord Model::read_record(const Disks& disks) const {
  format::GroupRecord newest;
  const std::vector<uint8_t> bytes = machine_.read_all(disks.record);
  for (uint64_t at = 0; at + format::kGroupRecordSlotBytes <= bytes.size();
       at += format::kGroupRecordSlotBytes) {
    const auto slot =
        format::decode_group_record({bytes.data() + at, format::kGroupRecordSlotBytes});
    if (slot && slot->sequence >= newest.sequence) newest = *slot;
  }
  return newest;
}

void Model::check_regions(const Disks& disks, const char* where) {
  const format::GroupRecord record = read_record(disks);
  if (record.in_gap && record.resync_all) return;  // the region logs are not asked
  const auto tags = read_primaries(disks);
  for (uint16_t v = 0; v < tags.size(); ++v) {
    const RegionBits bits(machine_.read_all(disks.region_logs[v]), disks.group, v);
    for (uint64_t sector = 0; sector < tags[v].size(); ++sector) {
      if (unknown_[v][sector] || tags[v][sector] == replay_[v][sector]) continue;
      if (!bits.dirty(sector * 512)) {
        return fail(std::string(where) + ": a clean region differs from the log up to LSN " +
                    std::to_string(applied_lsn_) + ": " + describe(v, sector, tags[v][sector]));
      }
      const uint64_t step = std::max<uint64_t>(bits.region_bytes, 512) / 512;
      sector = (sector / step + 1) * step - 1;  // the rest of the region is dirty as well
    }
  }
}

void Model::check_protected(const Disks& disks, const char* where) {
  if (answered_lsn_ > replayed_lsn_) {
    fail(std::string(where) + ": LSN " + std::to_string(answered_lsn_) +
         " was answered, but the log ends at " + std::to_string(replayed_lsn_) + " without a gap");
  }
  const auto tags = read_primaries(disks);
  for (uint16_t v = 0; v < tags.size(); ++v) {
    for (uint64_t sector = 0; sector < tags[v].size(); ++sector) {
      if (unknown_[v][sector] || tags[v][sector] == replay_[v][sector]) continue;
      return fail(std::string(where) + ": the primary is not what the log says at LSN " +
                  std::to_string(replayed_lsn_) + ": " + describe(v, sector, tags[v][sector]));
    }
  }
}

void Model::rebase(const Disks& disks, bool after_power_cut) {
  const auto tags = read_primaries(disks);
  for (uint16_t v = 0; v < tags.size(); ++v) {
    requests_.emplace_back();
    Req& req = requests_.back();
    req.id = requests_.size();
    req.volume = v;
    req.op = block::Op::kWrite;
    req.submitted = ++clock_;
    req.completed = ++clock_;
    req.flushed = after_power_cut;  // what is there is all that is there
    if (!after_power_cut) unflushed_[v].push_back(req.id);
    for (uint64_t sector = 0; sector < tags[v].size(); ++sector) {
      std::vector<Rec>& list = history_[v][sector];
      if (list.size() == 1 && list[0].tag == tags[v][sector]) continue;
      list.push_back({static_cast<uint32_t>(req.id), tags[v][sector]});
    }
  }
}

void Model::check_gap(const format::GroupRecord& record, const char* where) {
  if (gap_known_ && !record.in_gap && replayed_lsn_ <= gap_.from_lsn) {
    fail(std::string(where) + ": the gap after LSN " + std::to_string(gap_.from_lsn) +
         " was forgotten");
  }
  if (gap_known_ && record.in_gap && record.gap.from_lsn > gap_.from_lsn &&
      replayed_lsn_ <= gap_.from_lsn && !record.gap_from_unknown) {
    fail(std::string(where) + ": the gap after LSN " + std::to_string(gap_.from_lsn) +
         " has moved to " + std::to_string(record.gap.from_lsn));
  }
  if (record.in_gap && record.gap.from_lsn < promised_lsn_ && !history_may_be_lost) {
    fail(std::string(where) + ": the gap (" + record.gap.reason + ") begins after LSN " +
         std::to_string(record.gap.from_lsn) + ", but the log was durable to " +
         std::to_string(promised_lsn_));
  }
  gap_known_ = record.in_gap;
  if (gap_known_) gap_ = record.gap;
}

}  // namespace ep::sim

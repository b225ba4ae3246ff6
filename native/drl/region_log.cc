// SPDX-License-Identifier: Apache-2.0
#include "drl/region_log.h"

#include <algorithm>
#include <bit>
#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <utility>

#include "base/bytes.h"
#include "base/limits.h"
#include "base/mutation.h"

namespace ep::drl {

namespace {
constexpr char kMagic[8] = {'E', 'P', 'D', 'R', 'L', 'O', 'G', '1'};
constexpr char kPageMagic[4] = {'E', 'P', 'D', 'P'};
constexpr uint32_t kVersion = 1;
constexpr uint32_t kBitsOffset = 32;
constexpr uint32_t kRegionsPerPage = (kPageBytes - kBitsOffset) * 8;
constexpr uint64_t kRegionsMax = 1u << 18;
constexpr uint32_t kPagesPerCycle = 16;

uint32_t crc_without(const uint8_t* page, size_t field) {
  static constexpr uint8_t kZero[4] = {};
  uint32_t crc = crc32(page, field);
  crc = crc32(kZero, 4, crc);
  return crc32(page + field + 4, kPageBytes - field - 4, crc);
}
}  // namespace

/// The pages of one write-and-sync round, and who waits for it.
struct RegionLog::Cycle {
  uint8_t* memory =
      static_cast<uint8_t*>(std::aligned_alloc(kPageBytes, kPagesPerCycle* kPageBytes));
  io::Op ops[kPagesPerCycle];
  iovec iov[kPagesPerCycle];
  io::Op sync;
  uint32_t pages[kPagesPerCycle];
  uint32_t count = 0;
  uint32_t left = 0;
  int32_t worst = 0;
  DirtyWaiter* waiters = nullptr;
  ~Cycle() { std::free(memory); }
};

RegionLog::RegionLog() : cycle_(std::make_unique<Cycle>()) {}

RegionLog::~RegionLog() {
  EP_ASSERT(!cycle_running_ && waiting_ == nullptr);
  if (file_ != io::kNoFile) file_system_->close(file_);
}

uint64_t RegionLog::region_bytes_for(uint64_t volume_bytes) {
  uint64_t bytes = limits::kDirtyRegionBytesMin;
  while ((volume_bytes + bytes - 1) / bytes > kRegionsMax) bytes *= 2;
  return bytes;
}

Result<std::unique_ptr<RegionLog>> RegionLog::open(io::FileSystem& file_system,
                                                   const std::string& path, const Uuid& group,
                                                   uint16_t volume, uint64_t volume_bytes,
                                                   bool fresh) {
  std::unique_ptr<RegionLog> log(new RegionLog);
  log->file_system_ = &file_system;
  log->path_ = path;
  log->group_ = group;
  log->volume_ = volume;
  log->region_bytes_ = region_bytes_for(volume_bytes);
  log->region_shift_ = static_cast<uint32_t>(std::countr_zero(log->region_bytes_));
  log->regions_ =
      static_cast<uint32_t>((volume_bytes + log->region_bytes_ - 1) >> log->region_shift_);
  log->region_.resize(log->regions_);
  const uint32_t pages = (log->regions_ + kRegionsPerPage - 1) / kRegionsPerPage;
  log->page_changed_.resize(pages);
  auto file = file_system.open(path, {.create = true, .lock = true});
  if (!file) return file.status();
  log->file_ = *file;

  uint8_t header[kPageBytes];
  log->encode_header(header);

  std::vector<uint8_t> have((1 + uint64_t{pages}) * kPageBytes);
  size_t got = 0;
  EP_TRY(file_system.read(*file, 0, have.data(), have.size(), &got));
  const bool known = !fresh && std::memcmp(have.data(), header, kPageBytes) == 0;
  for (uint32_t page = 0; page < pages; ++page) {
    const uint8_t* at = have.data() + (1 + uint64_t{page}) * kPageBytes;
    const bool good = known && std::memcmp(at, kPageMagic, 4) == 0 &&
                      load_le<uint32_t>(at + 4) == crc_without(at, 4) &&
                      load_le<uint32_t>(at + 8) == page;
    const uint32_t first = page * kRegionsPerPage;
    const uint32_t end = std::min(log->regions_, first + kRegionsPerPage);
    for (uint32_t region = first; region < end; ++region) {
      const uint32_t bit = region - first;
      const bool dirty = !fresh && (!good || ((at[kBitsOffset + bit / 8] >> (bit % 8)) & 1) != 0);
      log->region_[region].dirty = dirty;
      log->region_[region].durable = dirty;
      // What an earlier run left dirty stays so until a write of this run covers it or a resync.
      if (dirty) log->region_[region].last_lsn = 0;
      log->dirty_count_ += dirty ? 1 : 0;
    }
  }
  // Whatever was found: an earlier process may have died before its sync, or seen it fail. What is
  // believed from here on is what the disk has, not what the kernel's memory has.
  if (!known || !mutated(Mutation::kTrustCachedDirty)) EP_TRY(log->write_whole(false));
  return log;
}

void RegionLog::encode_header(uint8_t* to) const {
  std::memset(to, 0, kPageBytes);
  std::memcpy(to, kMagic, 8);
  store_le<uint32_t>(to + 8, kVersion);
  std::memcpy(to + 16, group_.bytes.data(), 16);
  store_le<uint16_t>(to + 32, volume_);
  store_le<uint32_t>(to + 36, regions_);
  store_le<uint64_t>(to + 40, region_bytes_);
  store_le<uint32_t>(to + 12, crc_without(to, 12));
}

/// The header last: under one that matches, pages of another geometry would be believed.
Status RegionLog::write_whole(bool all_dirty) {
  uint8_t bytes[kPageBytes];
  for (uint32_t page = 0; page < page_changed_.size(); ++page) {
    encode_page(page, all_dirty, bytes);
    EP_TRY(file_system_->write(file_, (1 + uint64_t{page}) * kPageBytes, bytes, kPageBytes));
  }
  EP_TRY(file_system_->sync(file_));
  encode_header(bytes);
  EP_TRY(file_system_->write(file_, 0, bytes, kPageBytes));
  return file_system_->sync(file_);
}

bool RegionLog::is_dirty(uint32_t region) const { return region_[region].dirty; }

void RegionLog::mark_page(uint32_t region) {
  const uint32_t page = region / kRegionsPerPage;
  if (page_changed_[page]) return;
  page_changed_[page] = true;
  changed_pages_.push_back(page);
}

void RegionLog::set_dirty(uint32_t region) {
  Region& at = region_[region];
  if (!at.dirty) {
    at.dirty = true;
    ++dirty_count_;
  }
  if (!at.durable) mark_page(region);
}

bool RegionLog::begin_write(uint64_t offset, uint64_t length, DirtyWaiter* waiter) {
  const auto first = static_cast<uint32_t>(offset >> region_shift_);
  const auto last = static_cast<uint32_t>((offset + length - 1) >> region_shift_);
  bool durable = true;
  for (uint32_t region = first; region <= last; ++region) {
    Region& at = region_[region];
    ++at.in_flight;
    at.touched = true;
    if (!at.durable) {
      durable = false;
      set_dirty(region);
    }
  }
  if (durable || failed_) return true;
  if (mutated(Mutation::kSkipDirtySync)) {
    if (!cycle_running_) start_cycle();
    return true;
  }
  waiter->next = nullptr;
  if (waiting_ == nullptr) {
    waiting_ = waiter;
  } else {
    waiting_tail_->next = waiter;
  }
  waiting_tail_ = waiter;
  if (!cycle_running_) start_cycle();
  return false;
}

void RegionLog::end_write(uint64_t offset, uint64_t length, uint64_t lsn) {
  const auto first = static_cast<uint32_t>(offset >> region_shift_);
  const auto last = static_cast<uint32_t>((offset + length - 1) >> region_shift_);
  for (uint32_t region = first; region <= last; ++region) {
    Region& at = region_[region];
    EP_ASSERT(at.in_flight > 0);
    --at.in_flight;
    if (lsn == kNotLogged) {
      if (!mutated(Mutation::kForgetGapWrite)) set_uncovered(region);
    } else {
      at.last_lsn = std::max(at.last_lsn, lsn);
    }
  }
}

void RegionLog::set_uncovered(uint32_t region) {
  Region& at = region_[region];
  if (at.uncovered) return;
  at.uncovered = true;
  ++uncovered_count_;
}

void RegionLog::uncover(bool all) {
  for (uint32_t region = 0; region < regions_; ++region) {
    if (all) set_dirty(region);
    if (region_[region].dirty) set_uncovered(region);
  }
}

uint32_t RegionLog::next_uncovered(uint32_t from) const {
  while (from < regions_ && !region_[from].uncovered) ++from;
  return from;
}

void RegionLog::cover(uint32_t region, uint64_t lsn) {
  Region& at = region_[region];
  EP_ASSERT(at.uncovered);
  at.uncovered = false;
  --uncovered_count_;
  at.last_lsn = std::max(at.last_lsn, lsn);
}

uint32_t RegionLog::begin_clean(uint64_t durable_lsn) {
  candidates_.clear();
  if (failed_) return 0;
  for (uint32_t region = 0; region < regions_; ++region) {
    Region& at = region_[region];
    if (at.dirty && (!at.uncovered || mutated(Mutation::kCleanUncovered)) && at.in_flight == 0 &&
        !at.touched && (at.last_lsn <= durable_lsn || mutated(Mutation::kClearRegionEarly))) {
      candidates_.push_back(region);
    }
    at.touched = false;
  }
  return static_cast<uint32_t>(candidates_.size());
}

void RegionLog::end_clean() {
  for (const uint32_t region : candidates_) {
    Region& at = region_[region];
    if (at.touched || at.in_flight != 0 || !at.dirty) continue;
    if (at.uncovered && !mutated(Mutation::kCleanUncovered)) continue;
    at.dirty = false;
    // The disk may say clean from now on at any moment: a write must make it dirty again first.
    at.durable = false;
    --dirty_count_;
    mark_page(region);
  }
  candidates_.clear();
  if (!cycle_running_ && !changed_pages_.empty()) start_cycle();
}

void RegionLog::cancel_clean() { candidates_.clear(); }

void RegionLog::encode_page(uint32_t page, bool all_dirty, uint8_t* to) const {
  std::memset(to, 0, kPageBytes);
  std::memcpy(to, kPageMagic, 4);
  store_le<uint32_t>(to + 8, page);
  const uint32_t first = page * kRegionsPerPage;
  const uint32_t end = std::min(regions_, first + kRegionsPerPage);
  for (uint32_t region = first; region < end; ++region) {
    if (!all_dirty && !region_[region].dirty) continue;
    const uint32_t bit = region - first;
    to[kBitsOffset + bit / 8] = static_cast<uint8_t>(to[kBitsOffset + bit / 8] | 1u << (bit % 8));
  }
  store_le<uint32_t>(to + 4, crc_without(to, 4));
}

void RegionLog::start_cycle() {
  Cycle& cycle = *cycle_;
  cycle_running_ = true;
  cycle.count = static_cast<uint32_t>(std::min<size_t>(changed_pages_.size(), kPagesPerCycle));
  // Waiters are served when no changed page is left, so all of theirs are in this cycle or an
  // earlier one.
  const bool last = cycle.count == changed_pages_.size();
  cycle.waiters = last ? waiting_ : nullptr;
  if (last) waiting_ = waiting_tail_ = nullptr;
  cycle.worst = 0;
  cycle.left = cycle.count;
  for (uint32_t i = 0; i < cycle.count; ++i) {
    const uint32_t page = changed_pages_.back();
    changed_pages_.pop_back();
    page_changed_[page] = false;
    cycle.pages[i] = page;
    uint8_t* memory = cycle.memory + i * kPageBytes;
    encode_page(page, false, memory);
    cycle.iov[i] = {memory, kPageBytes};
    io::Op& op = cycle.ops[i];
    op = io::Op{};
    op.kind = io::Op::Kind::kWrite;
    op.file = file_;
    op.offset = (1 + uint64_t{page}) * kPageBytes;
    op.iov = &cycle.iov[i];
    op.iov_count = 1;
    op.on_complete = on_page_written;
    op.owner = this;
    engine_->submit(&op);
  }
  if (cycle.count == 0) cycle_written(0);
}

void RegionLog::on_page_written(io::Op* op, int32_t result) {
  auto* self = static_cast<RegionLog*>(op->owner);
  if (result != static_cast<int32_t>(kPageBytes)) self->cycle_->worst = result < 0 ? result : -EIO;
  if (--self->cycle_->left == 0) self->cycle_written(self->cycle_->worst);
}

void RegionLog::cycle_written(int32_t result) {
  if (result < 0) {
    cycle_done(result);
    return;
  }
  io::Op& op = cycle_->sync;
  op = io::Op{};
  op.kind = io::Op::Kind::kSyncData;
  op.file = file_;
  op.on_complete = on_synced;
  op.owner = this;
  engine_->submit(&op);
}

void RegionLog::on_synced(io::Op* op, int32_t result) {
  static_cast<RegionLog*>(op->owner)->cycle_done(result);
}

void RegionLog::cycle_done(int32_t result) {
  Cycle& cycle = *cycle_;
  if (result < 0 && !failed_) {
    // What stands in the file is older than what is about to be written, and may look whole: it is
    // taken away, so that the next open takes everything for dirty. Best effort: the gap that the
    // owner opens says so too. Nothing is cleared until then.
    failed_ = true;
    (void)file_system_->remove(path_).is_ok();
    candidates_.clear();
    if (on_failed) on_failed(Status::from_errno(-result, "writing dirty region log " + path_));
  }
  for (uint32_t i = 0; i < cycle.count; ++i) {
    // A bit that was set while the page was on its way marked the page again; it is durable only
    // after the next cycle.
    if (page_changed_[cycle.pages[i]] && !failed_) continue;
    const uint32_t first = cycle.pages[i] * kRegionsPerPage;
    const uint32_t end = std::min(regions_, first + kRegionsPerPage);
    for (uint32_t region = first; region < end; ++region) {
      region_[region].durable = region_[region].dirty;
    }
  }
  cycle_running_ = false;
  DirtyWaiter* waiter = cycle.waiters;
  cycle.waiters = nullptr;
  if (failed_) {
    changed_pages_.clear();
    std::fill(page_changed_.begin(), page_changed_.end(), false);
    if (waiter == nullptr) {
      waiter = waiting_;
    } else {
      DirtyWaiter* end = waiter;
      while (end->next != nullptr) end = end->next;
      end->next = waiting_;
    }
    waiting_ = waiting_tail_ = nullptr;
  }
  if (waiting_ != nullptr || !changed_pages_.empty()) start_cycle();
  while (waiter != nullptr) {
    DirtyWaiter* next = waiter->next;
    waiter->on_dirty(waiter);
    waiter = next;
  }
}

Status RegionLog::rebuild_file() {
  EP_ASSERT(failed_);
  // First: should its removal have failed, its own lock would keep us waiting.
  if (file_ != io::kNoFile) file_system_->close(std::exchange(file_, io::kNoFile));
  auto file = file_system_->open(path_, {.create = true, .lock = true});
  if (!file) return file.status();
  file_ = *file;
  return write_whole(true);
}

void RegionLog::rebuilt() {
  failed_ = false;
  for (uint32_t region = 0; region < regions_; ++region) {
    set_dirty(region);
    region_[region].durable = true;
  }
  changed_pages_.clear();
  std::fill(page_changed_.begin(), page_changed_.end(), false);
}

Status RegionLog::close_cleanly() {
  EP_ASSERT(idle());
  if (failed_) return Status(Code::kIoError, "dirty region log " + path_ + " could not be written");
  for (const uint32_t page : changed_pages_) {
    uint8_t bytes[kPageBytes];
    encode_page(page, false, bytes);
    EP_TRY(file_system_->write(file_, (1 + uint64_t{page}) * kPageBytes, bytes, kPageBytes));
  }
  changed_pages_.clear();
  return file_system_->sync(file_);
}

}  // namespace ep::drl

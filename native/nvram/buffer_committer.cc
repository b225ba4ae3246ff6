// SPDX-License-Identifier: Apache-2.0
#include "nvram/buffer_committer.h"

#include <algorithm>
#include <cerrno>
#include <cstdlib>
#include <cstring>

#include "base/limits.h"

namespace ep::nvram {

namespace {

constexpr uint64_t kCommittedSlotBytes = 64;
constexpr uint64_t kSlotsPerPage = kPageBytes / kCommittedSlotBytes;
/// Bounds of one commit: a burst of many small entries becomes several.
constexpr uint64_t kSlotPagesMax = 32;
constexpr uint64_t kEntriesMax = (kSlotPagesMax - 2) * kSlotsPerPage;
constexpr uint64_t kDataBytesTarget = limits::kBufferDataBytesMin / 4;
constexpr uint64_t kDataBytesMax = kDataBytesTarget + limits::kEntryDataBytesMax;
constexpr uint64_t kWriteBytesMax = 1024 * 1024;
/// Slots and data may both go around the ring's end, and each piece may end in a short write.
constexpr size_t kWritesMax = 2 + kDataBytesMax / kWriteBytesMax + 4;
constexpr uint64_t kStagingPages = kSlotPagesMax + 1;

// The two ends of a commit's data never share a page of the ring.
static_assert(kDataBytesMax + 2 * kPageBytes < limits::kBufferDataBytesMin);

constexpr uint64_t page_floor(uint64_t value) { return value & ~(kPageBytes - 1); }

}  // namespace

void BufferCommitter::Free::operator()(uint8_t* memory) const { std::free(memory); }

BufferCommitter::BufferCommitter(io::Engine* engine, io::FileId mirror, const LogBuffer* buffer,
                                 Events events)
    : engine_(engine),
      mirror_(mirror),
      buffer_(buffer),
      events_(std::move(events)),
      wanted_lsn_(buffer->head() - 1),
      durable_lsn_(buffer->head() - 1),
      staging_(static_cast<uint8_t*>(std::aligned_alloc(kPageBytes, kStagingPages * kPageBytes))),
      writes_(kWritesMax) {
  EP_ASSERT(buffer->head() == buffer->tail());
  EP_ASSERT(staging_ != nullptr);
}

BufferCommitter::~BufferCommitter() { EP_ASSERT(!in_flight_); }

void BufferCommitter::want_durable(uint64_t lsn) {
  EP_ASSERT(lsn < buffer_->head());
  if (failed_ || stopping_ || lsn <= wanted_lsn_) return;
  wanted_lsn_ = lsn;
  if (!in_flight_) start();
}

void BufferCommitter::start() {
  // What has left the ring is durable in the log, and its room may hold something else by now.
  const uint64_t first = std::max(durable_lsn_ + 1, buffer_->tail());
  if (first > wanted_lsn_) return;
  in_flight_ = true;
  error_ = 0;
  plan(first);
  ++stats_.commits;
  // An engine may complete nothing from inside submit, so the count is whole before any is done.
  writes_out_ = static_cast<unsigned>(writes_used_);
  for (size_t i = 0; i < writes_used_; ++i) {
    stats_.bytes += writes_[i].bytes;
    engine_->submit(&writes_[i].op);
  }
}

void BufferCommitter::plan(uint64_t first) {
  writes_used_ = 0;
  staged_pages_ = 0;
  struct Range {
    uint64_t from = 0;
    uint64_t to = 0;
  };
  Range data[2];  // before and after the ring's end
  size_t ranges = 0;
  uint64_t bytes = 0;
  uint64_t lsn = first;
  const uint64_t last = std::min(wanted_lsn_, first + kEntriesMax - 1);
  for (; lsn <= last && bytes < kDataBytesTarget; ++lsn) {
    const LogBuffer::Placement at = buffer_->placement(lsn);
    if (at.data_bytes == 0) continue;
    bytes += at.data_bytes;
    if (ranges == 0 || at.data_offset != data[ranges - 1].to) {
      EP_ASSERT(ranges < 2);
      data[ranges++] = {at.data_offset, at.data_offset};
    }
    data[ranges - 1].to += at.data_bytes;
  }
  target_lsn_ = lsn - 1;
  for (size_t i = 0; i < ranges; ++i) add_data(data[i].from, data[i].to, i + 1 == ranges);
  add_slots(first, target_lsn_);
}

/// Whole pages around [from, to); of the last range of the commit the last page from a copy.
void BufferCommitter::add_data(uint64_t from, uint64_t to, bool last) {
  uint8_t* base = buffer_->region().base();
  const uint64_t end = align_up(to, kPageBytes);
  const uint64_t direct_end = last && end != to ? end - kPageBytes : end;
  for (uint64_t at = page_floor(from); at < end;) {
    Write& write = add_write(at);
    const uint64_t direct = at < direct_end ? std::min(direct_end - at, kWriteBytesMax) : 0;
    if (direct != 0) write.iov[write.op.iov_count++] = {base + at, direct};
    at += direct;
    if (at == direct_end && at < end) {
      uint8_t* copy = staging_.get() + staged_pages_++ * kPageBytes;
      std::memcpy(copy, base + at, kPageBytes);
      write.iov[write.op.iov_count++] = {copy, kPageBytes};
      at = end;
    }
    write.bytes = at - write.op.offset;
  }
}

void BufferCommitter::add_slots(uint64_t first, uint64_t last) {
  const uint8_t* base = buffer_->region().base();
  for (uint64_t lsn = first; lsn <= last;) {
    // As far as the slot ring's end.
    const uint64_t slot = lsn % buffer_->slots();
    const uint64_t count = std::min(last - lsn + 1, buffer_->slots() - slot);
    const uint64_t from = buffer_->placement(lsn).slot_offset;
    const uint64_t begin = page_floor(from);
    const uint64_t bytes = align_up(from + count * kCommittedSlotBytes, kPageBytes) - begin;
    EP_ASSERT(staged_pages_ + bytes / kPageBytes <= kStagingPages);
    uint8_t* copy = staging_.get() + staged_pages_ * kPageBytes;
    staged_pages_ += bytes / kPageBytes;
    std::memcpy(copy, base + begin, bytes);
    Write& write = add_write(begin);
    write.iov[write.op.iov_count++] = {copy, bytes};
    write.bytes = bytes;
    lsn += count;
  }
}

BufferCommitter::Write& BufferCommitter::add_write(uint64_t offset) {
  EP_ASSERT(writes_used_ < writes_.size());
  Write& write = writes_[writes_used_++];
  write.op = io::Op{};
  write.op.kind = io::Op::Kind::kWrite;
  write.op.file = mirror_;
  write.op.offset = offset;
  write.op.iov = write.iov;
  write.op.on_complete = on_written;
  write.op.owner = this;
  write.bytes = 0;
  return write;
}

void BufferCommitter::on_written(io::Op* op, int32_t result) {
  auto* self = static_cast<BufferCommitter*>(op->owner);
  for (const Write& write : self->writes_) {
    if (&write.op == op) return self->written(write, result);
  }
  EP_ASSERT(false);
}

void BufferCommitter::written(const Write& write, int32_t result) {
  if (result < 0) {
    if (error_ == 0) error_ = result;
  } else if (static_cast<uint64_t>(result) != write.bytes && error_ == 0) {
    error_ = -EIO;
  }
  if (--writes_out_ != 0) return;
  if (error_ != 0) return fail();
  sync_ = io::Op{};
  sync_.kind = io::Op::Kind::kSyncData;
  sync_.file = mirror_;
  sync_.on_complete = on_synced;
  sync_.owner = this;
  engine_->submit(&sync_);
}

void BufferCommitter::on_synced(io::Op* op, int32_t result) {
  static_cast<BufferCommitter*>(op->owner)->synced(result);
}

void BufferCommitter::synced(int32_t result) {
  if (result < 0) {
    error_ = result;
    return fail();
  }
  in_flight_ = false;
  durable_lsn_ = std::max(target_lsn_, std::min(wanted_lsn_, buffer_->tail() - 1));
  if (!stopping_) start();
  if (events_.durable) {
    reporting_ = true;
    events_.durable(durable_lsn_);
    reporting_ = false;
  }
  become_quiet();
}

void BufferCommitter::fail() {
  in_flight_ = false;
  failed_ = true;
  if (events_.failed) {
    reporting_ = true;
    events_.failed(Status::from_errno(-error_, "committing the log buffer to its mirror"));
    reporting_ = false;
  }
  become_quiet();
}

/// The last thing that a completion does: the committer may be gone afterwards.
void BufferCommitter::become_quiet() {
  if (in_flight_ || !quiet_) return;
  const std::function<void()> quiet = std::move(quiet_);
  quiet();
}

void BufferCommitter::stop(std::function<void()> quiet) {
  EP_ASSERT(!stopping_);
  stopping_ = true;
  if (in_flight_ || reporting_) {
    quiet_ = std::move(quiet);
  } else if (quiet) {
    quiet();
  }
}

}  // namespace ep::nvram

// SPDX-License-Identifier: Apache-2.0
#include "block/transfer.h"

#include <algorithm>
#include <cerrno>
#include <cstring>

namespace ep::block {

namespace {
/// Of one transfer without any progress; each costs a pass of the reactor, so this is far beyond
/// what a kernel short of memory for a moment answers.
constexpr uint32_t kRetriesMax = 1000;
}  // namespace

Outcome outcome_of(int32_t error) {
  switch (error) {
    case 0:
      return Outcome::kOk;
    case -ENOSPC:
    case -EDQUOT:
    case -EFBIG:
      return Outcome::kNoSpace;
    case -EROFS:
      return Outcome::kReadOnly;
    case -EOPNOTSUPP:
      return Outcome::kUnsupported;
    default:
      return Outcome::kIoError;
  }
}

void Transfer::bind(io::Engine* engine, io::FileId file, uint64_t alignment, OnDone on_done,
                    void* owner) {
  engine_ = engine;
  alignment_ = alignment;
  on_done_ = on_done;
  owner_ = owner;
  op_.file = file;
  op_.owner = this;
  op_.on_complete = &Transfer::completed;
}

void Transfer::start(io::Op::Kind kind, uint64_t offset, uint64_t length, const iovec* iov,
                     uint32_t iov_count) {
  offset_ = offset;
  length_ = length;
  done_ = 0;
  retries_ = 0;
  iov_ = iov;
  iov_count_ = iov_count;
  op_.kind = kind;
  op_.offset = offset;
  op_.length = length;
  op_.iov = iov;
  op_.iov_count = iov_count;
  op_.immediate = in_memory_ && (kind == io::Op::Kind::kSyncData ||
                                 ((kind == io::Op::Kind::kRead || kind == io::Op::Kind::kWrite) &&
                                  length <= io::kImmediateBytesMax));
  engine_->submit(&op_);
}

void Transfer::finish(int32_t error) { on_done_(this, error); }

void Transfer::completed(io::Op* op, int32_t result) {
  auto* self = static_cast<Transfer*>(op->owner);
  if (result == -EAGAIN || result == -EINTR) {
    if (++self->retries_ > kRetriesMax) return self->finish(-EIO);
    return self->engine_->submit(op);
  }
  if (result < 0) return self->finish(result);
  const bool read = op->kind == io::Op::Kind::kRead;
  if (!read && op->kind != io::Op::Kind::kWrite) return self->finish(0);

  const auto got = static_cast<uint64_t>(result);
  if (self->done_ + got >= self->length_) return self->finish(0);
  const uint64_t usable = got & ~(self->alignment_ - 1);
  if (read && (got == 0 || usable != got)) {
    // The file ends here.
    self->zero_rest(self->done_ + got);
    return self->finish(0);
  }
  if (usable == 0) {
    if (++self->retries_ > kRetriesMax) return self->finish(-EIO);
  } else {
    self->retries_ = 0;
  }
  self->go_on(usable);
}

/// Submits what is left behind `done_now` more bytes.
void Transfer::go_on(uint64_t done_now) {
  done_ += done_now;
  rest_.clear();
  uint64_t skip = done_;
  for (uint32_t i = 0; i < iov_count_; ++i) {
    const iovec& part = iov_[i];
    const uint64_t cut = std::min<uint64_t>(skip, part.iov_len);
    skip -= cut;
    if (cut == part.iov_len) continue;
    rest_.push_back({static_cast<uint8_t*>(part.iov_base) + cut, part.iov_len - cut});
  }
  op_.offset = offset_ + done_;
  op_.iov = rest_.data();
  op_.iov_count = static_cast<uint32_t>(rest_.size());
  engine_->submit(&op_);
}

void Transfer::zero_rest(uint64_t from) const {
  for (uint32_t i = 0; i < iov_count_; ++i) {
    const iovec& part = iov_[i];
    const uint64_t cut = std::min<uint64_t>(from, part.iov_len);
    from -= cut;
    std::memset(static_cast<uint8_t*>(part.iov_base) + cut, 0, part.iov_len - cut);
  }
}

}  // namespace ep::block

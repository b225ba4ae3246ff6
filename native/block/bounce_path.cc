// SPDX-License-Identifier: Apache-2.0
#include "block/bounce_path.h"

#include <algorithm>
#include <cerrno>
#include <cstdlib>
#include <cstring>

#include "base/bytes.h"

namespace ep::block {

namespace {

template <typename Visit>
void visit_vector(const iovec* iov, uint32_t count, uint64_t from, size_t size, Visit visit) {
  size_t done = 0;
  for (uint32_t i = 0; i < count && done < size; ++i) {
    if (from >= iov[i].iov_len) {
      from -= iov[i].iov_len;
      continue;
    }
    const size_t take = std::min<size_t>(iov[i].iov_len - from, size - done);
    visit(static_cast<uint8_t*>(iov[i].iov_base) + from, done, take);
    done += take;
    from = 0;
  }
  EP_ASSERT(done == size);
}

bool writes(const Request& request) { return request.op != Op::kRead; }
bool zeroes(const Request& request) {
  return request.op == Op::kDiscard || request.op == Op::kWriteZeroes;
}

}  // namespace

void copy_from_vector(const iovec* iov, uint32_t count, uint64_t from, void* to, size_t size) {
  visit_vector(iov, count, from, size, [&](const uint8_t* part, size_t at, size_t bytes) {
    std::memcpy(static_cast<uint8_t*>(to) + at, part, bytes);
  });
}

void copy_to_vector(const iovec* iov, uint32_t count, uint64_t from, const void* bytes,
                    size_t size) {
  visit_vector(iov, count, from, size, [&](uint8_t* part, size_t at, size_t take) {
    std::memcpy(part, static_cast<const uint8_t*>(bytes) + at, take);
  });
}

bool choose_zero_kind(const Request& request, const ZeroSupport& support, io::Op::Kind* kind) {
  const bool may_unmap = request.op == Op::kDiscard || request.may_unmap;
  if (may_unmap && support.punch) {
    *kind = io::Op::Kind::kPunch;
    return true;
  }
  *kind = io::Op::Kind::kZeroRange;
  return support.zero_range;
}

void note_unsupported(io::Op::Kind kind, ZeroSupport* support) {
  if (kind == io::Op::Kind::kPunch) support->punch = false;
  if (kind == io::Op::Kind::kZeroRange) support->zero_range = false;
}

void BouncePath::BufferDeleter::operator()(uint8_t* memory) const { std::free(memory); }

BouncePath::BouncePath(io::Engine* engine, io::FileId file, uint64_t alignment,
                       ZeroSupport* support)
    : engine_(engine), alignment_(alignment), support_(support) {
  EP_ASSERT(alignment_ > 0 && (alignment_ & (alignment_ - 1)) == 0);
  EP_ASSERT(alignment_ <= kBufferBytes);
  for (Slot& slot : slots_) {
    slot.path = this;
    slot.transfer.bind(engine_, file, alignment_, &BouncePath::transfer_done, &slot);
  }
}

BouncePath::~BouncePath() { EP_ASSERT(idle()); }

bool BouncePath::modifies_partial_blocks(const Request& request) const {
  return writes(request) && !is_aligned(request.offset | request.length, alignment_);
}

bool BouncePath::meet(const Request& a, const Request& b) const {
  return block_down(a.offset) < block_up(b.offset + b.length) &&
         block_down(b.offset) < block_up(a.offset + a.length);
}

/// Behind those at work and those that came earlier, so that nobody is overtaken for ever.
bool BouncePath::must_wait(const Request& request) const {
  if (!modifies_partial_blocks(request)) return false;
  for (const Slot& slot : slots_) {
    if (slot.request != nullptr && modifies_partial_blocks(*slot.request) &&
        meet(*slot.request, request)) {
      return true;
    }
  }
  for (const Request* earlier = waiting_head_; earlier != &request; earlier = earlier->next) {
    if (modifies_partial_blocks(*earlier) && meet(*earlier, request)) return true;
  }
  return false;
}

void BouncePath::submit(Request* request) {
  request->next = nullptr;
  (waiting_head_ == nullptr ? waiting_head_ : waiting_tail_->next) = request;
  waiting_tail_ = request;
  pump();
}

BouncePath::Slot* BouncePath::free_slot() {
  if (active_ == kSlots) return nullptr;
  if (buffers_ == nullptr) {
    void* memory = nullptr;
    const int error =
        posix_memalign(&memory, std::max<size_t>(alignment_, kPageBytes), kSlots * kBufferBytes);
    EP_ASSERT(error == 0);
    buffers_.reset(static_cast<uint8_t*>(memory));
    for (size_t i = 0; i < kSlots; ++i) slots_[i].buffer = buffers_.get() + i * kBufferBytes;
  }
  const auto found = std::find_if(slots_.begin(), slots_.end(),
                                  [](const Slot& slot) { return slot.request == nullptr; });
  EP_ASSERT(found != slots_.end());
  return &*found;
}

/// Starts waiting requests, oldest first, that have a slot and need not wait for another. Starting
/// one only submits to the engine and never completes anything from here.
void BouncePath::pump() {
  Request* previous = nullptr;
  for (Request* request = waiting_head_; request != nullptr;) {
    Request* const next = request->next;
    Slot* slot = free_slot();
    if (slot == nullptr) return;
    if (must_wait(*request)) {
      previous = request;
    } else {
      (previous == nullptr ? waiting_head_ : previous->next) = next;
      if (waiting_tail_ == request) waiting_tail_ = previous;
      request->next = nullptr;
      ++active_;
      slot->request = request;
      slot->position = request->offset;
      slot->write_zeroes = false;
      next_piece(slot);
    }
    request = next;
  }
}

void BouncePath::next_piece(Slot* slot) {
  const Request& request = *slot->request;
  const uint64_t end = request.offset + request.length;
  const uint64_t position = slot->position;
  slot->base = block_down(position);
  slot->stop = std::min(end, slot->base + kBufferBytes);
  if (zeroes(request) && !slot->write_zeroes &&
      choose_zero_kind(request, *support_, &slot->zero_kind)) {
    // Whole blocks in one operation; the partial ones at both ends are written.
    const uint64_t whole_end = block_down(end);
    if (position == slot->base && whole_end > position) {
      slot->stop = whole_end;
      slot->step = Step::kZero;
      slot->transfer.start(slot->zero_kind, position, whole_end - position);
      return;
    }
    slot->stop = std::min(end, slot->base + alignment_);
  }
  slot->transfer_bytes = block_up(slot->stop) - slot->base;
  slot->vector = {slot->buffer, slot->transfer_bytes};
  if (request.op == Op::kRead) {
    transfer_blocks(slot, Step::kRead, io::Op::Kind::kRead);
  } else if (position != slot->base || slot->stop != slot->base + slot->transfer_bytes) {
    transfer_blocks(slot, Step::kReadToModify, io::Op::Kind::kRead);
  } else {
    start_write(slot);
  }
}

void BouncePath::transfer_blocks(Slot* slot, Step step, io::Op::Kind kind) {
  slot->step = step;
  slot->transfer.start(kind, slot->base, slot->transfer_bytes, &slot->vector, 1);
}

void BouncePath::start_write(Slot* slot) {
  const Request& request = *slot->request;
  uint8_t* to = slot->buffer + (slot->position - slot->base);
  const size_t size = slot->stop - slot->position;
  if (zeroes(request)) {
    std::memset(to, 0, size);
  } else {
    copy_from_vector(request.iov, request.iov_count, slot->position - request.offset, to, size);
  }
  transfer_blocks(slot, Step::kWrite, io::Op::Kind::kWrite);
}

void BouncePath::transfer_done(Transfer* transfer, int32_t error) {
  auto* slot = static_cast<Slot*>(transfer->owner());
  slot->path->piece_done(slot, error);
}

void BouncePath::piece_done(Slot* slot, int32_t error) {
  const Request& request = *slot->request;
  if (slot->step == Step::kZero && (error == -EOPNOTSUPP || error == -EINVAL)) {
    // EINVAL is about this range; EOPNOTSUPP about every one.
    if (error == -EOPNOTSUPP) note_unsupported(slot->zero_kind, support_);
    if (error == -EINVAL) slot->write_zeroes = true;
    return next_piece(slot);
  }
  if (error != 0) return finish(slot, outcome_of(error));
  if (slot->step == Step::kReadToModify) return start_write(slot);
  if (slot->step == Step::kRead) {
    copy_to_vector(request.iov, request.iov_count, slot->position - request.offset,
                   slot->buffer + (slot->position - slot->base), slot->stop - slot->position);
  }
  slot->position = slot->stop;
  if (slot->position == request.offset + request.length) return finish(slot, Outcome::kOk);
  next_piece(slot);
}

void BouncePath::finish(Slot* slot, Outcome outcome) {
  Request* request = slot->request;
  slot->request = nullptr;
  --active_;
  // Those that waited for this one start before whatever its owner submits next.
  pump();
  request->finish(outcome);
}

}  // namespace ep::block

// SPDX-License-Identifier: Apache-2.0
#include "io/uring_engine.h"

#include <fcntl.h>
#include <liburing.h>
#include <linux/falloc.h>
#include <poll.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>
#include <ctime>

namespace ep::io {

namespace {

// The low bits of user_data tell apart what a completion belongs to; both structures are aligned.
constexpr uint64_t kTagMask = 3;
constexpr uint64_t kTagOp = 0;
constexpr uint64_t kTagPoll = 1;
constexpr uint64_t kTagRemoval = 2;
static_assert(alignof(Op) > kTagMask && alignof(Watch) > kTagMask);

/// Completions taken from the ring before their callbacks run.
constexpr unsigned kDispatchBatch = 64;
/// Completions dispatched in one reap at most, so that callbacks which complete at once and submit
/// again cannot keep the reactor from its other work.
constexpr unsigned kDispatchMax = 4096;
constexpr uint64_t kWaitMaxNs = 3600ull * 1000 * 1000 * 1000;

uint64_t clock_ns(clockid_t clock) {
  timespec now{};
  clock_gettime(clock, &now);
  return static_cast<uint64_t>(now.tv_sec) * 1'000'000'000 + static_cast<uint64_t>(now.tv_nsec);
}

uint64_t user_data(const void* pointer, uint64_t tag) {
  return reinterpret_cast<uintptr_t>(pointer) | tag;
}

void prepare(io_uring_sqe* sqe, const Op& op) {
  switch (op.kind) {
    case Op::Kind::kRead:
      // One buffer needs no vector for the kernel to copy in.
      if (op.iov_count == 1 && op.iov->iov_len <= INT32_MAX) {
        io_uring_prep_read(sqe, op.file, op.iov->iov_base, static_cast<unsigned>(op.iov->iov_len),
                           op.offset);
      } else {
        io_uring_prep_readv(sqe, op.file, op.iov, op.iov_count, op.offset);
      }
      break;
    case Op::Kind::kWrite:
      if (op.iov_count == 1 && op.iov->iov_len <= INT32_MAX) {
        io_uring_prep_write(sqe, op.file, op.iov->iov_base, static_cast<unsigned>(op.iov->iov_len),
                            op.offset);
      } else {
        io_uring_prep_writev(sqe, op.file, op.iov, op.iov_count, op.offset);
      }
      break;
    case Op::Kind::kSyncData:
      io_uring_prep_fsync(sqe, op.file, IORING_FSYNC_DATASYNC);
      break;
    case Op::Kind::kPunch:
      // Block devices have taken both fallocate modes since Linux 4.9, with the same promise.
      io_uring_prep_fallocate(sqe, op.file, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
                              static_cast<off_t>(op.offset), static_cast<off_t>(op.length));
      break;
    case Op::Kind::kZeroRange:
      io_uring_prep_fallocate(sqe, op.file, FALLOC_FL_ZERO_RANGE | FALLOC_FL_KEEP_SIZE,
                              static_cast<off_t>(op.offset), static_cast<off_t>(op.length));
      break;
  }
}

/// The same as a plain system call.
ssize_t do_now(const Op& op) {
  const auto offset = static_cast<off_t>(op.offset);
  switch (op.kind) {
    case Op::Kind::kRead:
      return preadv(op.file, op.iov, static_cast<int>(op.iov_count), offset);
    case Op::Kind::kWrite:
      return pwritev(op.file, op.iov, static_cast<int>(op.iov_count), offset);
    case Op::Kind::kSyncData:
      return fdatasync(op.file);
    case Op::Kind::kPunch:
    case Op::Kind::kZeroRange:
      break;
  }
  EP_ASSERT(!"only reads, writes and syncs are immediate");
  return -1;
}

Status explain_setup_failure(int error) {
  const std::string what = "io_uring_setup";
  if (error == EPERM || error == EACCES) {
    return Status(Code::kUnsupported,
                  what +
                      ": not permitted: a container's seccomp profile or the sysctl "
                      "kernel.io_uring_disabled forbids io_uring; allow the io_uring_* system "
                      "calls for this service");
  }
  if (error == ENOSYS) {
    return Status(Code::kUnsupported,
                  what +
                      ": this kernel or its seccomp profile has no io_uring; Linux 5.15 or newer "
                      "is needed");
  }
  if (error == ENOMEM) {
    return Status(Code::kIoError,
                  what + ": out of memory: raise RLIMIT_MEMLOCK (LimitMEMLOCK=) of this service");
  }
  return Status::from_errno(error, what);
}

}  // namespace

struct UringEngine::Ring {
  io_uring ring{};
  unsigned flags = 0;
  ~Ring() {
    if (ring.ring_fd >= 0 && ring.sq.ring_ptr != nullptr) io_uring_queue_exit(&ring);
  }
};

UringEngine::UringEngine() : ring_(std::make_unique<Ring>()) {}

Result<std::unique_ptr<UringEngine>> UringEngine::create(const UringEngineOptions& options) {
  EP_ASSERT(options.entries > 0);
  EP_ASSERT(options.completions >= options.entries);
  // Best first. DEFER_TASKRUN came with 6.1, SINGLE_ISSUER with 6.0, COOP_TASKRUN and TASKRUN_FLAG
  // with 5.19, SUBMIT_ALL with 5.18.
  constexpr unsigned kBase = IORING_SETUP_CQSIZE | IORING_SETUP_CLAMP;
  constexpr std::array<unsigned, 4> kFlagSets = {
      kBase | IORING_SETUP_SUBMIT_ALL | IORING_SETUP_TASKRUN_FLAG | IORING_SETUP_SINGLE_ISSUER |
          IORING_SETUP_DEFER_TASKRUN,
      kBase | IORING_SETUP_SUBMIT_ALL | IORING_SETUP_TASKRUN_FLAG | IORING_SETUP_COOP_TASKRUN,
      kBase | IORING_SETUP_SUBMIT_ALL,
      kBase,
  };
  std::unique_ptr<UringEngine> engine(new UringEngine());
  Ring& ring = *engine->ring_;
  int result = -EINVAL;
  io_uring_params params{};
  for (const unsigned flags : kFlagSets) {
    params = {};
    params.flags = flags;
    params.cq_entries = options.completions;
    result = io_uring_queue_init_params(options.entries, &ring.ring, &params);
    ring.flags = flags;
    if (result != -EINVAL) break;
    ring.ring = {};
  }
  if (result < 0) {
    ring.ring = {};
    return explain_setup_failure(-result);
  }
  if ((params.features & IORING_FEAT_EXT_ARG) == 0 || (params.features & IORING_FEAT_NODROP) == 0) {
    return Status(Code::kUnsupported,
                  "io_uring of this kernel is too old; Linux 5.15 or newer is "
                  "needed");
  }
  // Saves the descriptor lookup of each call; a kernel before 5.18 does without.
  (void)io_uring_register_ring_fd(&ring.ring);
  engine->in_kernel_max_ = params.cq_entries;
  engine->watch_steps_.reserve(64);
  return engine;
}

UringEngine::~UringEngine() { EP_ASSERT(in_flight_ == 0); }

void UringEngine::submit(Op* op) {
  op->next = nullptr;
  Op*& head = op->immediate ? immediate_head_ : backlog_head_;
  Op*& tail = op->immediate ? immediate_tail_ : backlog_tail_;
  if (tail == nullptr) {
    head = op;
  } else {
    tail->next = op;
  }
  tail = op;
  ++in_flight_;
}

/// Does what was submitted as immediate so far; what its callbacks submit waits for the next reap.
unsigned UringEngine::run_immediate() {
  Op* op = immediate_head_;
  immediate_head_ = immediate_tail_ = nullptr;
  unsigned count = 0;
  while (op != nullptr) {
    Op* next = op->next;
    op->next = nullptr;
    const ssize_t result = do_now(*op);
    --in_flight_;
    ++count;
    op->on_complete(op, result < 0 ? -errno : static_cast<int32_t>(result));
    op = next;
  }
  return count;
}

void UringEngine::watch(Watch* watch) {
  EP_ASSERT(!watch->armed);
  watch->armed = true;
  watch->leaving = false;
  watch_steps_.push_back({watch, false});
}

void UringEngine::unwatch(Watch* watch) {
  EP_ASSERT(!watch->leaving);
  watch->leaving = true;
  if (watch->armed) {
    watch_steps_.push_back({watch, true});
  } else {
    gone_.push_back(watch);
  }
}

/// Moves what waits into the submission queue, as far as it and the completion bound allow. Steps
/// of watches go in the order they were asked for: a removal follows its poll, and never meets a
/// later watch at the same address.
void UringEngine::fill() {
  io_uring* ring = &ring_->ring;
  while (watch_steps_done_ < watch_steps_.size() && in_kernel_ < in_kernel_max_) {
    io_uring_sqe* sqe = io_uring_get_sqe(ring);
    if (sqe == nullptr) return;
    const WatchStep& step = watch_steps_[watch_steps_done_++];
    if (step.remove) {
      io_uring_prep_poll_remove(sqe, user_data(step.watch, kTagPoll));
      io_uring_sqe_set_data64(sqe, kTagRemoval);
    } else {
      // One shot, armed again after each report: that alone is level-triggered. A multishot poll
      // reports wake-ups, and would lose what on_ready leaves unread.
      io_uring_prep_poll_add(sqe, step.watch->fd, POLLIN);
      io_uring_sqe_set_data64(sqe, user_data(step.watch, kTagPoll));
    }
    ++in_kernel_;
  }
  if (watch_steps_done_ == watch_steps_.size()) {
    watch_steps_.clear();
    watch_steps_done_ = 0;
  }
  while (backlog_head_ != nullptr && in_kernel_ < in_kernel_max_) {
    io_uring_sqe* sqe = io_uring_get_sqe(ring);
    if (sqe == nullptr) return;
    Op* op = backlog_head_;
    backlog_head_ = op->next;
    if (backlog_head_ == nullptr) backlog_tail_ = nullptr;
    op->next = nullptr;
    prepare(sqe, *op);
    io_uring_sqe_set_data64(sqe, user_data(op, kTagOp));
    ++in_kernel_;
  }
}

/// Fills and submits until all that waits is in the submission queue or the kernel takes no more.
/// What remains in the submission queue itself goes with the last system call of this reap.
void UringEngine::submit_backlog() {
  for (;;) {
    fill();
    const bool waiting = backlog_head_ != nullptr || !watch_steps_.empty();
    if (!waiting || in_kernel_ >= in_kernel_max_) return;
    const int result = io_uring_submit(&ring_->ring);
    if (result <= 0) {
      EP_ASSERT(result == 0 || result == -EAGAIN || result == -EBUSY || result == -EINTR);
      return;
    }
  }
}

void UringEngine::wait(uint64_t wait_ns) {
  wait_ns = std::min(wait_ns, kWaitMaxNs);
  __kernel_timespec timeout{};
  timeout.tv_sec = static_cast<int64_t>(wait_ns / 1'000'000'000);
  timeout.tv_nsec = static_cast<long long>(wait_ns % 1'000'000'000);
  io_uring_cqe* cqe = nullptr;
  const int result = io_uring_submit_and_wait_timeout(&ring_->ring, &cqe, 1, &timeout, nullptr);
  EP_ASSERT(result >= 0 || result == -ETIME || result == -EINTR || result == -EAGAIN ||
            result == -EBUSY);
}

unsigned UringEngine::reap(uint64_t wait_ns) {
  const unsigned gone = dispatch_gone() + run_immediate();
  submit_backlog();
  io_uring* ring = &ring_->ring;
  if (wait_ns > 0 && gone == 0 && immediate_head_ == nullptr && io_uring_cq_ready(ring) == 0) {
    wait(wait_ns);
  } else if (io_uring_sq_ready(ring) > 0) {
    // Also runs deferred completions; without anything to submit the ring's flags tell dispatch()
    // whether that needs a system call.
    const int result = io_uring_submit_and_get_events(ring);
    EP_ASSERT(result >= 0 || result == -EAGAIN || result == -EBUSY || result == -EINTR ||
              result == -ETIME);
  }
  return gone + dispatch();
}

unsigned UringEngine::dispatch_gone() {
  if (gone_.empty()) return 0;
  std::vector<Watch*> gone;
  gone.swap(gone_);
  for (Watch* watch : gone) {
    if (watch->on_gone != nullptr) watch->on_gone(watch);
  }
  return static_cast<unsigned>(gone.size());
}

void UringEngine::on_poll_done(Watch* watch, int32_t result) {
  watch->armed = false;
  if (watch->leaving) {
    if (watch->on_gone != nullptr) watch->on_gone(watch);
    return;
  }
  watch->on_ready(watch);
  // A descriptor that cannot be polled is reported once: reading it tells the owner why.
  if (!watch->leaving && result >= 0) {
    watch->armed = true;
    watch_steps_.push_back({watch, false});
  }
}

unsigned UringEngine::dispatch() {
  struct Done {
    uint64_t data;
    int32_t result;
  };
  io_uring* ring = &ring_->ring;
  std::array<io_uring_cqe*, kDispatchBatch> cqes;
  std::array<Done, kDispatchBatch> done;
  unsigned total = 0;
  while (total < kDispatchMax) {
    const unsigned count = io_uring_peek_batch_cqe(ring, cqes.data(), kDispatchBatch);
    if (count == 0) break;
    for (unsigned i = 0; i < count; ++i) done[i] = {cqes[i]->user_data, cqes[i]->res};
    io_uring_cq_advance(ring, count);
    in_kernel_ -= count;
    for (unsigned i = 0; i < count; ++i) {
      const uint64_t tag = done[i].data & kTagMask;
      const uintptr_t pointer = done[i].data & ~kTagMask;
      if (tag == kTagOp) {
        Op* op = reinterpret_cast<Op*>(pointer);
        --in_flight_;
        op->on_complete(op, done[i].result);
      } else if (tag == kTagPoll) {
        on_poll_done(reinterpret_cast<Watch*>(pointer), done[i].result);
      }
    }
    total += count;
    if (count < kDispatchBatch) break;
  }
  return total;
}

uint64_t UringEngine::monotonic_ns() const { return clock_ns(CLOCK_MONOTONIC); }
uint64_t UringEngine::wall_ns() const { return clock_ns(CLOCK_REALTIME); }

std::string UringEngine::describe() const {
  std::string text = "io_uring";
  const unsigned flags = ring_->flags;
  if ((flags & IORING_SETUP_SINGLE_ISSUER) != 0) text += " single-issuer";
  if ((flags & IORING_SETUP_DEFER_TASKRUN) != 0) text += " defer-taskrun";
  if ((flags & IORING_SETUP_COOP_TASKRUN) != 0) text += " coop-taskrun";
  if ((flags & IORING_SETUP_SUBMIT_ALL) != 0) text += " submit-all";
  return text;
}

Result<std::unique_ptr<Engine>> make_uring_engine(const UringEngineOptions& options) {
  auto engine = UringEngine::create(options);
  if (!engine) return engine.status();
  return std::unique_ptr<Engine>(std::move(*engine));
}

}  // namespace ep::io

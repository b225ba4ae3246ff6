// SPDX-License-Identifier: Apache-2.0
#include "block/uring_device.h"

#include <algorithm>
#include <cerrno>
#include <climits>

#include "base/bytes.h"
#include "base/mutation.h"

namespace ep::block {

Result<std::unique_ptr<UringDevice>> UringDevice::open(io::FileSystem& files, io::Engine& engine,
                                                       const UringDeviceOptions& options) {
  EP_ASSERT(options.queue_depth > 0);
  io::OpenOptions how;
  how.create = options.create;
  how.read_only = options.read_only;
  how.direct = options.direct;
  how.lock = options.lock && !mutated(Mutation::kNoLockAtOpen);
  how.lock_wait_ns = options.lock_wait_ns;
  // Twice at most: the size may turn out not to suit direct I/O.
  for (;;) {
    auto file = files.open(options.path, how);
    if (!file) return file.status();
    std::unique_ptr<UringDevice> device(new UringDevice(files, engine, *file));
    EP_TRY(device->prepare(options));
    if (!device->direct_ || is_aligned(device->geometry_.size_bytes, device->offset_alignment_)) {
      return device;
    }
    how.direct = false;
  }
}

UringDevice::UringDevice(io::FileSystem& files, io::Engine& engine, io::FileId file)
    : files_(files), engine_(engine), file_(file) {}

Status UringDevice::prepare(const UringDeviceOptions& options) {
  auto info = files_.info(file_);
  if (!info) return info.status();
  if (options.create && info->size == 0 && !info->is_block_device) {
    EP_TRY(files_.truncate(file_, options.size_bytes));
    // The size, and the name, must not go with the power: an empty primary is no primary.
    EP_TRY(files_.sync(file_));
    const size_t slash = options.path.find_last_of('/');
    if (slash != std::string::npos && slash != 0) {
      EP_TRY(files_.sync_directory(options.path.substr(0, slash)));
    }
    info = files_.info(file_);
    if (!info) return info.status();
  }
  opened_info_ = *info;
  if (opened_info_.size == 0) {
    return Status(Code::kInvalidArgument, "open " + options.path + ": is empty");
  }
  if (options.size_bytes != 0 && options.size_bytes != opened_info_.size) {
    return Status(Code::kInvalidArgument, "open " + options.path + ": has " +
                                              std::to_string(opened_info_.size) + " bytes, not " +
                                              std::to_string(options.size_bytes));
  }
  direct_ = opened_info_.direct;
  if (direct_) {
    offset_alignment_ = opened_info_.offset_alignment;
    memory_alignment_ = std::max(opened_info_.memory_alignment, 1u);
    if (options.force_offset_alignment > offset_alignment_) {
      offset_alignment_ = options.force_offset_alignment;
    }
  } else if (is_aligned(align_up(opened_info_.size, kSectorBytes),
                        std::max(options.force_offset_alignment, 1u))) {
    offset_alignment_ = std::max(options.force_offset_alignment, 1u);
  }
  geometry_.size_bytes = align_up(opened_info_.size, kSectorBytes);
  geometry_.block_bytes = options.block_bytes;
  if (geometry_.block_bytes == 0) {
    geometry_.block_bytes = opened_info_.is_block_device
                                ? std::max<uint32_t>(opened_info_.offset_alignment, kSectorBytes)
                                : kSectorBytes;
  }
  geometry_.physical_block_bytes = std::max(options.physical_block_bytes, geometry_.block_bytes);
  geometry_.read_only = options.read_only;

  bounce_ = std::make_unique<BouncePath>(&engine_, file_, offset_alignment_, &zero_support_);
  contexts_ = std::vector<Context>(options.queue_depth);
  for (Context& context : contexts_) {
    context.device = this;
    context.transfer.bind(&engine_, file_, offset_alignment_, &UringDevice::transfer_done,
                          &context);
    context.transfer.set_in_memory(opened_info_.in_memory);
    context.next_free = free_contexts_;
    free_contexts_ = &context;
  }
  return Status::ok();
}

UringDevice::~UringDevice() {
  EP_ASSERT(busy_contexts_ == 0 && waiting_head_ == nullptr);
  files_.close(file_);
}

/// Whether the kernel takes the request as it is. Kernels before 6.0 want the length of each buffer
/// in whole sectors too.
bool UringDevice::fits_kernel(const Request& request) const {
  if (!is_aligned(request.offset | request.length, offset_alignment_)) return false;
  if (request.op != Op::kRead && request.op != Op::kWrite) return true;
  if (request.iov_count > IOV_MAX) return false;
  if (!direct_) return true;
  const uint64_t length_alignment = std::max(memory_alignment_, kSectorBytes);
  for (uint32_t i = 0; i < request.iov_count; ++i) {
    const iovec& part = request.iov[i];
    if (!is_aligned(reinterpret_cast<uintptr_t>(part.iov_base), memory_alignment_)) return false;
    if (!is_aligned(part.iov_len, length_alignment)) return false;
  }
  return true;
}

void UringDevice::submit(Request* request) {
  if (request->op == Op::kFlush) {
    // Nothing of ours can be unwritten.
    if (geometry_.read_only) return request->finish(Outcome::kOk);
  } else {
    EP_ASSERT(request->length > 0);
    EP_ASSERT(is_aligned(request->offset | request->length, kSectorBytes));
    EP_ASSERT(request->length <= geometry_.size_bytes);
    EP_ASSERT(request->offset <= geometry_.size_bytes - request->length);
    if (geometry_.read_only && request->op != Op::kRead) {
      return request->finish(Outcome::kReadOnly);
    }
    if (request->op == Op::kDiscard || request->op == Op::kWriteZeroes) {
      io::Op::Kind kind{};
      if (!choose_zero_kind(*request, zero_support_, &kind)) return bounce_->submit(request);
    }
    if (!fits_kernel(*request)) return bounce_->submit(request);
  }
  Context* context = free_contexts_;
  if (context == nullptr) {
    request->next = nullptr;
    (waiting_head_ == nullptr ? waiting_head_ : waiting_tail_->next) = request;
    waiting_tail_ = request;
    return;
  }
  free_contexts_ = context->next_free;
  ++busy_contexts_;
  start(context, request);
}

void UringDevice::start(Context* context, Request* request) {
  context->request = request;
  switch (request->op) {
    case Op::kRead:
      context->kind = io::Op::Kind::kRead;
      break;
    case Op::kWrite:
      context->kind = io::Op::Kind::kWrite;
      break;
    case Op::kFlush:
      context->kind = io::Op::Kind::kSyncData;
      break;
    case Op::kDiscard:
    case Op::kWriteZeroes:
      // What waited may find that zeroing has turned out unsupported; done() sorts that out.
      (void)choose_zero_kind(*request, zero_support_, &context->kind);
      break;
  }
  context->transfer.start(context->kind, request->offset, request->length, request->iov,
                          request->iov_count);
}

void UringDevice::transfer_done(Transfer* transfer, int32_t error) {
  auto* context = static_cast<Context*>(transfer->owner());
  context->device->done(context, error);
}

void UringDevice::done(Context* context, int32_t error) {
  Request* request = context->request;
  const io::Op::Kind kind = context->kind;  // before the context goes to the next request
  context->request = nullptr;
  if (waiting_head_ != nullptr) {
    Request* next = waiting_head_;
    waiting_head_ = next->next;
    if (waiting_head_ == nullptr) waiting_tail_ = nullptr;
    next->next = nullptr;
    start(context, next);
  } else {
    context->next_free = free_contexts_;
    free_contexts_ = context;
    --busy_contexts_;
  }
  const bool zeroing = kind == io::Op::Kind::kPunch || kind == io::Op::Kind::kZeroRange;
  if (zeroing && (error == -EOPNOTSUPP || error == -EINVAL)) {
    // The bounce path tries the next best way, down to writing zeroes.
    if (error == -EOPNOTSUPP) note_unsupported(kind, &zero_support_);
    return bounce_->submit(request);
  }
  request->finish(outcome_of(error));
}

}  // namespace ep::block

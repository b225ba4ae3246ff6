// SPDX-License-Identifier: Apache-2.0
#include "block/memory_device.h"

#include <sys/mman.h>

#include <algorithm>
#include <cstring>

#include "base/bytes.h"
#include "block/bounce_path.h"

namespace ep::block {

MemoryDevice::MemoryDevice(uint64_t size_bytes, bool read_only) {
  EP_ASSERT(size_bytes > 0);
  geometry_.size_bytes = align_up(size_bytes, kSectorBytes);
  geometry_.read_only = read_only;
  void* memory = mmap(nullptr, geometry_.size_bytes, PROT_READ | PROT_WRITE,
                      MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  EP_ASSERT(memory != MAP_FAILED);
  bytes_ = static_cast<uint8_t*>(memory);
}

MemoryDevice::~MemoryDevice() { munmap(bytes_, geometry_.size_bytes); }

void MemoryDevice::zero(uint64_t offset, uint64_t length) {
  const uint64_t end = offset + length;
  const uint64_t first_page = std::min(align_up(offset, kPageBytes), end);
  const uint64_t last_page = std::max(first_page, end & ~(kPageBytes - 1));
  std::memset(bytes_ + offset, 0, first_page - offset);
  if (last_page > first_page) {
    const int result = madvise(bytes_ + first_page, last_page - first_page, MADV_DONTNEED);
    EP_ASSERT(result == 0);
  }
  std::memset(bytes_ + last_page, 0, end - last_page);
}

void MemoryDevice::submit(Request* request) {
  if (request->op == Op::kFlush) return request->finish(Outcome::kOk);
  EP_ASSERT(request->length > 0);
  EP_ASSERT(is_aligned(request->offset | request->length, kSectorBytes));
  EP_ASSERT(request->length <= geometry_.size_bytes);
  EP_ASSERT(request->offset <= geometry_.size_bytes - request->length);
  if (geometry_.read_only && request->op != Op::kRead) {
    return request->finish(Outcome::kReadOnly);
  }
  switch (request->op) {
    case Op::kRead:
      copy_to_vector(request->iov, request->iov_count, 0, bytes_ + request->offset,
                     request->length);
      break;
    case Op::kWrite:
      copy_from_vector(request->iov, request->iov_count, 0, bytes_ + request->offset,
                       request->length);
      break;
    case Op::kDiscard:
    case Op::kWriteZeroes:
      zero(request->offset, request->length);
      break;
    case Op::kFlush:
      break;
  }
  request->finish(Outcome::kOk);
}

}  // namespace ep::block

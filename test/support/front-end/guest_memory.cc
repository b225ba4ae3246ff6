// SPDX-License-Identifier: Apache-2.0
#include "front-end/guest_memory.h"

#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstddef>

namespace ep::front_end {

namespace {
constexpr uint64_t kRegionGrain = 2ull << 20;
}  // namespace

GuestMemory::~GuestMemory() {
  if (base_ != nullptr) ::munmap(base_, size_);
}

Status GuestMemory::create(uint64_t bytes, uint32_t regions) {
  if (base_ != nullptr) return Status::error("guest memory exists already");
  if (regions < 1 || regions > kMaxRegions) return Status::error("1 to 8 memory regions");
  uint64_t each = (bytes / regions + kRegionGrain) / kRegionGrain * kRegionGrain;
  size_ = each * regions;
  void* reserved =
      ::mmap(nullptr, size_, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (reserved == MAP_FAILED) return Status::from_errno("reserve guest memory", errno);
  base_ = static_cast<uint8_t*>(reserved);
  for (uint32_t i = 0; i < regions; i++) {
    UniqueFd fd(::memfd_create("front-end-guest", MFD_CLOEXEC));
    if (!fd.valid()) return Status::from_errno("memfd_create", errno);
    if (::ftruncate(fd.get(), static_cast<off_t>(each)) != 0) {
      return Status::from_errno("size guest memory", errno);
    }
    void* at = base_ + i * each;
    if (::mmap(at, each, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, fd.get(), 0) != at) {
      return Status::from_errno("map guest memory", errno);
    }
    regions_.push_back({kGuestBase + i * each, each, reinterpret_cast<uint64_t>(at), 0});
    fds_.push_back(std::move(fd));
  }
  next_ = kGuestBase;
  return {};
}

uint64_t GuestMemory::allocate(uint64_t bytes, uint64_t alignment) {
  uint64_t at = (next_ + alignment - 1) / alignment * alignment;
  if (at + bytes > end()) return 0;
  next_ = at + bytes;
  return at;
}

std::vector<int> GuestMemory::region_fds() const {
  std::vector<int> fds;
  for (const UniqueFd& fd : fds_) fds.push_back(fd.get());
  return fds;
}

MemTable GuestMemory::table(size_t* size) const {
  MemTable table{};
  table.count = static_cast<uint32_t>(regions_.size());
  std::copy(regions_.begin(), regions_.end(), table.regions);
  *size = offsetof(MemTable, regions) + regions_.size() * sizeof(MemRegion);
  return table;
}

Status GuestMemory::truncate(size_t region, uint64_t bytes) {
  if (::ftruncate(fds_[region].get(), static_cast<off_t>(bytes)) != 0) {
    return Status::from_errno("truncate guest memory", errno);
  }
  return {};
}

}  // namespace ep::front_end

// SPDX-License-Identifier: Apache-2.0
#include "nvram/region.h"

#include <fcntl.h>
#include <linux/magic.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/vfs.h>
#include <unistd.h>

#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <fstream>

#include "base/bytes.h"

namespace ep::nvram {

MemoryRegion::MemoryRegion(uint64_t size) {
  size_ = align_up(size, kPageBytes);
  base_ = static_cast<uint8_t*>(std::aligned_alloc(kPageBytes, size_));
  EP_ASSERT(base_ != nullptr);
  std::memset(base_, 0, size_);
}

MemoryRegion::~MemoryRegion() { std::free(base_); }

Result<std::unique_ptr<TmpfsRegion>> TmpfsRegion::open(const std::string& path, uint64_t size,
                                                       bool create) {
  auto region = std::make_unique<TmpfsRegion>();
  region->fd_ =
      ::open(path.c_str(), O_RDWR | O_CLOEXEC | O_NOFOLLOW | (create ? O_CREAT : 0), 0600);
  if (region->fd_ < 0) return Status::from_errno(errno, "opening log buffer " + path);
  struct statfs file_system {};
  if (fstatfs(region->fd_, &file_system) != 0) {
    return Status::from_errno(errno, "asking for the file system of " + path);
  }
  if (file_system.f_type != TMPFS_MAGIC) {
    return Status(Code::kInvalidArgument, "log buffer " + path + " is not on tmpfs");
  }
  if (flock(region->fd_, LOCK_EX | LOCK_NB) != 0) {
    return Status(Code::kBusy, "log buffer " + path + " is in use by another process");
  }
  struct stat about {};
  if (fstat(region->fd_, &about) != 0) return Status::from_errno(errno, "stat of " + path);
  uint64_t have = static_cast<uint64_t>(about.st_size);
  if (create && have != size) {
    if (ftruncate(region->fd_, 0) != 0 || ftruncate(region->fd_, static_cast<off_t>(size)) != 0) {
      return Status::from_errno(errno, "sizing log buffer " + path);
    }
    have = size;
  }
  if (have < kPageBytes || !is_aligned(have, kPageBytes)) {
    return Status(Code::kCorruption, "log buffer " + path + " has an impossible size");
  }
  const int failed = posix_fallocate(region->fd_, 0, static_cast<off_t>(have));
  if (failed != 0) return Status::from_errno(failed, "allocating log buffer " + path);
  void* mapped =
      mmap(nullptr, have, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_POPULATE, region->fd_, 0);
  if (mapped == MAP_FAILED) return Status::from_errno(errno, "mapping log buffer " + path);
  region->base_ = static_cast<uint8_t*>(mapped);
  region->size_ = have;
  return region;
}

TmpfsRegion::~TmpfsRegion() {
  if (base_ != nullptr) munmap(base_, size_);
  if (fd_ >= 0) ::close(fd_);
}

Result<std::string> TmpfsRegion::default_folder(uint64_t bytes) {
  for (const char* folder : {"/run", "/dev/shm"}) {
    struct statfs about {};
    if (statfs(folder, &about) != 0 || about.f_type != TMPFS_MAGIC) continue;
    if (access(folder, W_OK) != 0) continue;
    const uint64_t free = uint64_t{about.f_bavail} * static_cast<uint64_t>(about.f_bsize);
    if (free >= bytes + bytes / 8) return std::string(folder);
  }
  return Status(Code::kNoSpace, "no tmpfs with " + std::to_string(bytes) +
                                    " free bytes at /run or /dev/shm for a log buffer");
}

std::string boot_id() {
  std::ifstream file("/proc/sys/kernel/random/boot_id");
  std::string text;
  file >> text;
  return text;
}

}  // namespace ep::nvram

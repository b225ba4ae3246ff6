// SPDX-License-Identifier: Apache-2.0
#include "nvram/pmem_region.h"

#ifdef EP_WITH_PMEM

#include <fcntl.h>
#include <libpmem.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>

#include "base/bytes.h"
#include "nvram/log_buffer.h"

namespace ep::nvram {

bool pmem_built() { return true; }

Result<std::unique_ptr<PmemRegion>> PmemRegion::open(const Options& options) {
  auto region = std::make_unique<PmemRegion>();
  const std::string& path = options.path;
  region->fd_ =
      ::open(path.c_str(), O_RDWR | O_CLOEXEC | O_NOFOLLOW | (options.create ? O_CREAT : 0), 0600);
  if (region->fd_ < 0) return Status::from_errno(errno, "opening log buffer " + path);
  if (flock(region->fd_, LOCK_EX | LOCK_NB) != 0) {
    return Status(Code::kBusy, "log buffer " + path + " is in use by another process");
  }
  struct stat about {};
  if (fstat(region->fd_, &about) != 0) return Status::from_errno(errno, "stat of " + path);
  region->is_device_ = S_ISCHR(about.st_mode);
  if (!region->is_device_ && !S_ISREG(about.st_mode)) {
    return Status(Code::kInvalidArgument,
                  "log buffer " + path + " is neither a file nor a device of persistent memory");
  }
  size_t length = 0;  // the whole of it
  int flags = 0;
  if (!region->is_device_) {
    const auto have = static_cast<uint64_t>(about.st_size);
    if (options.create && have != options.size) {
      if (ftruncate(region->fd_, 0) != 0) return Status::from_errno(errno, "emptying " + path);
      flags = PMEM_FILE_CREATE;  // sizes and allocates
      length = options.size;
    } else if (have < 2 * kPageBytes || !is_aligned(have, kPageBytes)) {
      return Status(Code::kCorruption, "log buffer " + path + " has an impossible size");
    }
  }
  int is_pmem = 0;
  void* mapped = pmem_map_file(path.c_str(), length, flags, 0600, &region->mapped_, &is_pmem);
  if (mapped == nullptr) {
    const int error = errno;
    return Status::from_errno(
        error, "mapping log buffer " + path + " by libpmem (" + pmem_errormsg() + ")");
  }
  region->base_ = static_cast<uint8_t*>(mapped);
  region->size_ = region->mapped_;
  if (region->is_device_) {
    const uint64_t data_bytes = LogBuffer::fit_data_bytes(region->mapped_);
    if (data_bytes == 0) {
      return Status(Code::kNoSpace, "the device " + path + " is too small for a log buffer");
    }
    region->size_ = LogBuffer::region_bytes(data_bytes);
  }
  region->is_pmem_ = is_pmem != 0;
  region->flush_lines_ = region->is_pmem_ || options.treat_as_pmem;
  return region;
}

PmemRegion::~PmemRegion() {
  if (base_ != nullptr) pmem_unmap(base_, mapped_);
  if (fd_ >= 0) ::close(fd_);
}

void PmemRegion::persist(const void* from, size_t bytes) {
  if (flush_lines_) {
    pmem_persist(from, bytes);
  } else if (pmem_msync(from, bytes) != 0) {
    failed_ = true;
  }
}

}  // namespace ep::nvram

#else

namespace ep::nvram {

bool pmem_built() { return false; }

Result<std::unique_ptr<PmemRegion>> PmemRegion::open(const Options& options) {
  return Status(Code::kUnsupported,
                "log buffer " + options.path + ": this build has no libpmem for persistent memory");
}

PmemRegion::~PmemRegion() = default;

void PmemRegion::persist(const void* from, size_t bytes) {
  (void)from;
  (void)bytes;
}

}  // namespace ep::nvram

#endif

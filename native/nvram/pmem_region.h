// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <memory>
#include <string>

#include "nvram/region.h"

namespace ep::nvram {

/// Whether this build has libpmem.
bool pmem_built();

/// Persistent memory through libpmem: a file on a DAX file system, or a device DAX. A file that is
/// not on persistent memory is mapped too and made durable by msync, which is right and slow: for
/// trials (`note()` says so).
class PmemRegion : public Region {
 public:
  struct Options {
    std::string path;
    /// Of the file; with `create` it is made, or made anew when it has another size. A device DAX
    /// has its own.
    uint64_t size = 0;
    bool create = false;
    /// For tests, as PMEM_IS_PMEM_FORCE=1: flushes cache lines as if it were persistent memory.
    bool treat_as_pmem = false;
  };
  /// kNotFound, kBusy, kCorruption (an impossible size) as TmpfsRegion; kUnsupported in a build
  /// without libpmem.
  static Result<std::unique_ptr<PmemRegion>> open(const Options& options);
  ~PmemRegion() override;

  void persist(const void* from, size_t bytes) override;
  [[nodiscard]] bool survives_power_cut() const override { return true; }
  [[nodiscard]] bool persist_failed() const override { return failed_; }

  [[nodiscard]] bool is_pmem() const { return is_pmem_; }
  [[nodiscard]] bool is_device() const { return is_device_; }

 private:
  int fd_ = -1;  // holds the lock; libpmem maps over a descriptor of its own
  size_t mapped_ = 0;
  bool is_pmem_ = false;
  bool flush_lines_ = false;
  bool is_device_ = false;
  bool failed_ = false;
};

}  // namespace ep::nvram

// SPDX-License-Identifier: Apache-2.0
#pragma once

// Memory that outlives the process: what the log buffer [0045] lives in.

#include <cstdint>
#include <memory>
#include <string>

#include "base/status.h"

namespace ep::nvram {

/// A mapped range. The owner may use it from one thread at a time.
class Region {
 public:
  virtual ~Region() = default;
  [[nodiscard]] uint8_t* base() const { return base_; }
  [[nodiscard]] uint64_t size() const { return size_; }

 protected:
  uint8_t* base_ = nullptr;
  uint64_t size_ = 0;
};

/// A region of a simulation or a test: plain memory, zeroed, that the test keeps over a "crash".
class MemoryRegion : public Region {
 public:
  explicit MemoryRegion(uint64_t size);
  ~MemoryRegion() override;
};

/// A file on tmpfs, allocated whole and mapped shared: survives a crash of the process only.
class TmpfsRegion : public Region {
 public:
  /// Opens the file, with `create` makes one of `size` bytes where there is none (or one of another
  /// size); kNotFound when there is none and create is false. Held under flock while open: kBusy
  /// when another process has it. kInvalidArgument when the folder is not on tmpfs.
  static Result<std::unique_ptr<TmpfsRegion>> open(const std::string& path, uint64_t size,
                                                   bool create);
  ~TmpfsRegion() override;

  /// The first of /run and /dev/shm that statfs calls tmpfs with room for `bytes` (and a margin);
  /// kNoSpace when neither has.
  static Result<std::string> default_folder(uint64_t bytes);

 private:
  int fd_ = -1;
};

/// The kernel's id of this boot as text; empty where there is none.
std::string boot_id();

}  // namespace ep::nvram

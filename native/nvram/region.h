// SPDX-License-Identifier: Apache-2.0
#pragma once

// Memory that outlives the process: what the log buffer [0045] lives in.

#include <cstdint>
#include <memory>
#include <string>

#include "base/status.h"

namespace ep::nvram {

/// A mapped range. The owner may use it from one thread at a time.
///
/// Stores of a killed process are all seen by the next one, in every kind. What a power cut leaves
/// is another matter: nothing, or (survives_power_cut) whatever was handed to persist(), with any
/// part of what was not, by 8 bytes at the least.
class Region {
 public:
  virtual ~Region() = default;
  [[nodiscard]] uint8_t* base() const { return base_; }
  [[nodiscard]] uint64_t size() const { return size_; }

  /// When it returns, these bytes (inside the region) survive a power cut, if the region does at
  /// all. Virtual, so that a simulation can keep durable bytes apart.
  virtual void persist(const void* from, size_t bytes) {
    (void)from;
    (void)bytes;
  }
  /// True for persistent memory.
  [[nodiscard]] virtual bool survives_power_cut() const { return false; }
  /// A persist() did not do what it says (msync failed): nothing in here counts as durable any
  /// more. Stays true until the region is opened again.
  [[nodiscard]] virtual bool persist_failed() const { return false; }

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

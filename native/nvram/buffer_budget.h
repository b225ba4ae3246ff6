// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <mutex>

namespace ep::nvram {

/// The memory that all log buffers of a process may take together: a small ring is every group's
/// due, more is borrowed while there is some. Made by whoever owns the groups, which outlive it
/// not.
///
/// What is done: a ring asks when it is opened and gives back when it is closed. What is not: a
/// ring never grows or shrinks while it is in use, nor when it holds entries that recovery needs;
/// so what one group gives back serves the next one that opens. Bytes are those of whole regions.
/// Thread-safe.
class BufferBudget {
 public:
  explicit BufferBudget(uint64_t total_bytes) : total_(total_bytes) {}
  BufferBudget(const BufferBudget&) = delete;
  BufferBudget& operator=(const BufferBudget&) = delete;

  /// Grants what is left, up to `want`; 0 when that is less than `least`.
  uint64_t reserve(uint64_t want, uint64_t least);
  /// Takes bytes that are in use already, whatever is left: entries that a crash left behind are
  /// not given up for a budget.
  void take(uint64_t bytes);
  void give_back(uint64_t bytes);

  [[nodiscard]] uint64_t total() const { return total_; }
  /// May exceed total() by what was taken.
  [[nodiscard]] uint64_t used() const;

 private:
  const uint64_t total_;
  mutable std::mutex mutex_;
  uint64_t used_ = 0;  // guarded by mutex_
};

}  // namespace ep::nvram

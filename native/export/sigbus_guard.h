// SPDX-License-Identifier: Apache-2.0
#pragma once

// A front-end shares files with us and may truncate them at any time; touching what is no longer
// there raises SIGBUS. The guard turns that into the end of one connection: its handler puts zero
// pages where the fault was, remembers which mapping was hit, and lets execution go on. Whoever
// owns the mapping looks at broken() and drops the connection.
//
// SIGBUS from anywhere else goes to the handler that was installed before (we live in a Node
// process), or to the default action.

#include <sys/types.h>

#include <cstddef>
#include <cstdint>

#include "base/status.h"

namespace ep::exports {

/// Signal dispositions belong to the process, so this is one of its few singletons. All calls from
/// any thread; only remove() of a mapping that nobody touches any more.
class SigbusGuard {
 public:
  /// Installs the handler on first use.
  static SigbusGuard& instance();

  /// Watches over [begin, begin + bytes), whose pages are `page_bytes` large. Returns a slot, or -1
  /// when all are taken.
  int add(const void* begin, size_t bytes, size_t page_bytes);
  void remove(int slot);
  /// True once a part of the mapping has vanished and was replaced.
  [[nodiscard]] bool broken(int slot) const;

  /// Lets SIGBUS reach the calling thread: a fault in a thread that blocks it ends the process,
  /// handler or not. Every thread that touches front-end memory says this once.
  void protect_this_thread();

  /// Declares the calling thread to be rte_vhost's event thread: mappings that the library made for
  /// itself are not in our table, but whatever raises SIGBUS on that thread is guest memory.
  void adopt_event_thread();
  /// Faults repaired so far, anywhere: a cheap hint to look at broken().
  [[nodiscard]] uint64_t faults() const;
  /// Faults on the event thread outside of known mappings so far.
  [[nodiscard]] uint64_t event_thread_faults() const;

 private:
  SigbusGuard();
};

/// A shared, writable mapping of a front-end's file under the guard.
class GuardedMapping {
 public:
  GuardedMapping() = default;
  GuardedMapping(GuardedMapping&& other) noexcept { swap(other); }
  GuardedMapping& operator=(GuardedMapping&& other) noexcept {
    swap(other);
    return *this;
  }
  ~GuardedMapping();

  /// Maps the first offset + bytes bytes of `fd`, which must be a regular file (memfd, tmpfs, huge
  /// pages) that has them; kInvalidArgument otherwise. Does not keep the descriptor.
  static Result<GuardedMapping> map(int fd, uint64_t offset, uint64_t bytes);

  /// The byte at `offset` of the file.
  [[nodiscard]] uint8_t* data() const { return data_; }
  [[nodiscard]] bool broken() const { return SigbusGuard::instance().broken(slot_); }

 private:
  void swap(GuardedMapping& other) noexcept;

  void* address_ = nullptr;
  size_t mapped_bytes_ = 0;
  uint8_t* data_ = nullptr;
  int slot_ = -1;
};

}  // namespace ep::exports

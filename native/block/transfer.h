// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <vector>

#include "block/device.h"
#include "io/io.h"

namespace ep::block {

/// One engine operation carried to its end: a short one goes on behind what was done, an
/// interrupted one is asked again, and a read past the end of a file gives zeroes. Used again and
/// again by its owner; on the engine's thread only. Allocates only when an operation over several
/// buffers came back short.
class Transfer {
 public:
  /// `error` is 0 or a negative errno.
  using OnDone = void (*)(Transfer* transfer, int32_t error);

  /// `alignment`: where a short transfer may go on; 1 for files without O_DIRECT.
  void bind(io::Engine* engine, io::FileId file, uint64_t alignment, OnDone on_done, void* owner);
  /// The file lives in memory: small requests are done on the spot (io::Op::immediate).
  void set_in_memory(bool in_memory) { in_memory_ = in_memory; }
  /// The vector stays the caller's and must stay in place.
  void start(io::Op::Kind kind, uint64_t offset, uint64_t length, const iovec* iov = nullptr,
             uint32_t iov_count = 0);
  [[nodiscard]] void* owner() const { return owner_; }

 private:
  static void completed(io::Op* op, int32_t result);
  void go_on(uint64_t done_now);
  void zero_rest(uint64_t from) const;
  void finish(int32_t error);

  io::Op op_;
  io::Engine* engine_ = nullptr;
  OnDone on_done_ = nullptr;
  void* owner_ = nullptr;
  bool in_memory_ = false;
  uint64_t alignment_ = 1;
  uint64_t offset_ = 0;
  uint64_t length_ = 0;
  uint64_t done_ = 0;
  const iovec* iov_ = nullptr;
  uint32_t iov_count_ = 0;
  uint32_t retries_ = 0;
  std::vector<iovec> rest_;
};

/// The guest's word for a negative errno (or 0).
Outcome outcome_of(int32_t error);

}  // namespace ep::block

// SPDX-License-Identifier: Apache-2.0
#pragma once

// The one shape of a disk inside the process. Doors (vhost-user, NBD) turn what they hear into a
// Request; devices stack: a protected volume is a Device over a primary Device, a test puts a delay
// or error device in between. One behaviour a device.

#include <sys/uio.h>

#include <cstdint>
#include <functional>

#include "base/status.h"

namespace ep::block {

enum class Op : uint8_t { kRead, kWrite, kFlush, kDiscard, kWriteZeroes };

/// What a request came to. Doors translate it to their protocol's word.
enum class Outcome : uint8_t { kOk, kIoError, kUnsupported, kNoSpace, kReadOnly };

/// One request to a device, made by its door or by the device above. The owner keeps it and the
/// memory of `iov` in place until on_done, which is called exactly once, on the reactor's thread,
/// possibly from inside submit(). Ranges were checked by the owner: inside the device, multiples of
/// 512 bytes (Geometry::block_bytes is advice to the guest, not a limit here), length > 0 except
/// for kFlush, and for reads and writes equal to the sum of iov.
struct Request {
  Op op{};
  /// kWriteZeroes: the space may be deallocated.
  bool may_unmap = false;
  Outcome outcome = Outcome::kOk;
  uint32_t iov_count = 0;
  uint64_t offset = 0;
  uint64_t length = 0;
  const iovec* iov = nullptr;
  /// Reads outcome, then owns the request again.
  void (*on_done)(Request* request) = nullptr;
  void* owner = nullptr;
  /// For whoever holds the request at the moment (wait lists); nullptr when handed over.
  Request* next = nullptr;

  void finish(Outcome with) {
    outcome = with;
    on_done(this);
  }
};

struct Geometry {
  uint64_t size_bytes = 0;
  /// Logical block size told to the guest.
  uint32_t block_bytes = 512;
  /// Preferred I/O size told to the guest.
  uint32_t physical_block_bytes = 4096;
  bool read_only = false;
  bool can_discard = true;
  bool can_write_zeroes = true;
};

/// Lives on one reactor; all calls there. Destroyed only when nothing is in flight.
class Device {
 public:
  virtual ~Device() = default;
  [[nodiscard]] virtual Geometry geometry() const = 0;
  /// Requests may complete in any order. kFlush covers what completed before it was submitted.
  virtual void submit(Request* request) = 0;
};

}  // namespace ep::block

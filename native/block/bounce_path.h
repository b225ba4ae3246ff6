// SPDX-License-Identifier: Apache-2.0
#pragma once

// Requests that the kernel cannot take as they are, in pieces of a bounce buffer: memory off the
// alignment of direct I/O, 512-byte ranges on a disk of 4 KiB blocks (read-modify-write), and
// zeroes where neither punching nor zeroing a range is supported.
//
// Two requests that touch different sectors of one block must not read-modify-write it at the same
// time, or one would put back the other's old bytes: such requests wait for each other here.
// Requests on whole blocks need no order among themselves; the layer above does not overlap them.

#include <array>
#include <cstdint>
#include <memory>

#include "block/device.h"
#include "block/transfer.h"
#include "io/io.h"

namespace ep::block {

/// What a file was found to support; shared by both paths of a device.
struct ZeroSupport {
  bool punch = true;
  bool zero_range = true;
};

/// How zeroes for this request are asked for now: false means they have to be written.
bool choose_zero_kind(const Request& request, const ZeroSupport& support, io::Op::Kind* kind);
/// Notes that a kind is not supported.
void note_unsupported(io::Op::Kind kind, ZeroSupport* support);

class BouncePath {
 public:
  static constexpr size_t kBufferBytes = 256 * 1024;
  static constexpr size_t kSlots = 8;

  BouncePath(io::Engine* engine, io::FileId file, uint64_t alignment, ZeroSupport* support);
  ~BouncePath();
  BouncePath(const BouncePath&) = delete;
  BouncePath& operator=(const BouncePath&) = delete;

  /// Any request but a flush. The buffers are allocated with the first one, then kept.
  void submit(Request* request);
  [[nodiscard]] bool idle() const { return active_ == 0 && waiting_head_ == nullptr; }

 private:
  enum class Step : uint8_t { kRead, kReadToModify, kWrite, kZero };
  struct Slot {
    BouncePath* path = nullptr;
    Request* request = nullptr;
    Transfer transfer;
    uint8_t* buffer = nullptr;
    iovec vector{};
    Step step{};
    io::Op::Kind zero_kind{};
    bool write_zeroes = false;  // zeroing is not to be had for this request
    /// Of the request: what is done, in absolute bytes, and what this piece covers.
    uint64_t position = 0;
    uint64_t stop = 0;
    /// Of the transfer: whole blocks.
    uint64_t base = 0;
    uint64_t transfer_bytes = 0;
  };

  struct BufferDeleter {
    void operator()(uint8_t* memory) const;
  };

  [[nodiscard]] uint64_t block_down(uint64_t offset) const { return offset & ~(alignment_ - 1); }
  [[nodiscard]] uint64_t block_up(uint64_t offset) const {
    return block_down(offset + alignment_ - 1);
  }
  [[nodiscard]] bool modifies_partial_blocks(const Request& request) const;
  [[nodiscard]] bool meet(const Request& a, const Request& b) const;
  [[nodiscard]] bool must_wait(const Request& request) const;
  void pump();
  Slot* free_slot();
  void next_piece(Slot* slot);
  void start_write(Slot* slot);
  void transfer_blocks(Slot* slot, Step step, io::Op::Kind kind);
  static void transfer_done(Transfer* transfer, int32_t error);
  void piece_done(Slot* slot, int32_t error);
  void finish(Slot* slot, Outcome outcome);

  io::Engine* const engine_;
  const uint64_t alignment_;
  ZeroSupport* const support_;
  std::array<Slot, kSlots> slots_;
  std::unique_ptr<uint8_t, BufferDeleter> buffers_;
  unsigned active_ = 0;
  Request* waiting_head_ = nullptr;
  Request* waiting_tail_ = nullptr;
};

/// Copies between a contiguous buffer and bytes [from, from + size) of a vector.
void copy_from_vector(const iovec* iov, uint32_t count, uint64_t from, void* to, size_t size);
void copy_to_vector(const iovec* iov, uint32_t count, uint64_t from, const void* bytes,
                    size_t size);

}  // namespace ep::block

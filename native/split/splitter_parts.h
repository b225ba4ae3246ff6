// SPDX-License-Identifier: Apache-2.0
#pragma once

// What a Splitter is made of inside; for its own source files only.

#include <array>
#include <vector>

#include "base/bytes.h"
#include "split/splitter.h"

namespace ep::split {

/// A discard or write-zeroes larger than this becomes several entries.
constexpr uint64_t kNoDataPieceBytesMax = 1024ull * 1024 * 1024;
constexpr uint32_t kPoolBlock = 256;

inline Status gap_status(const format::Gap& gap) {
  return Status(Code::kBusy, "protection is interrupted after LSN " + std::to_string(gap.from_lsn) +
                                 ": " + gap.reason);
}

/// One part of a request: one log entry and one write to the primary.
struct Splitter::Piece {
  block::Request child;
  iovec iov{};
  Parent* parent = nullptr;
  uint64_t lsn = 0;  // 0 in a gap
  uint64_t offset = 0;
  uint64_t length = 0;
  bool waits_for_log = false;
  uint64_t waits_since_ns = 0;
  bool repair_waits = false;  // it failed, and the buffer is too full to say what became of it
  Piece* next_free = nullptr;
};

/// One guest request that changes the volume, or a flush; or the range that a resync has locked.
struct Splitter::Parent {
  struct ParentWaiter : Waiter {
    Parent* parent = nullptr;
  };
  Volume* volume = nullptr;
  block::Request* request = nullptr;
  block::Request flush;
  ParentWaiter waiter;
  drl::DirtyWaiter dirty;
  uint64_t last_lsn = 0;  // of its pieces, drl::kNotLogged when one has none
  uint64_t offset = 0;
  uint64_t length = 0;
  uint64_t next_offset = 0;  // bytes that have become pieces
  uint32_t iov_index = 0;    // where the next piece's data begins
  uint64_t iov_used = 0;
  uint32_t left = 0;  // pieces in flight, +1 while more are to be started
  block::Outcome outcome = block::Outcome::kOk;
  bool waits_for_flush_entry = false;
  bool is_resync = false;  // has no request
  Parent* next_free = nullptr;
  Parent* next_active = nullptr;
  Parent* previous_active = nullptr;
};

/// An entry that no request made, on its way to the secondary.
struct Splitter::OwnEntry : Waiter {
  format::Entry entry;
  uint8_t payload[kSectorBytes] = {};
  bool in_gap_too = false;  // is logged while resyncing as well
  bool ends_gap = false;    // names its own LSN
  Splitter* splitter = nullptr;
  std::function<void(Status, uint64_t, uint64_t)> done;
};

/// A volume's front and the ranges in flight in it. Overlap is looked up in two steps: a table of
/// counters over hashed 64 KiB chunks says "surely none" for nearly every request; only when it
/// cannot, the list of requests in flight is walked.
struct Splitter::Volume : block::Device {
  Volume(Splitter* owner, uint16_t id, block::Device* disk, drl::RegionLog* log)
      : splitter(owner), number(id), primary(disk), regions(log) {}

  [[nodiscard]] block::Geometry geometry() const override;
  void submit(block::Request* request) override;

  void enter(Parent* parent) {
    count(*parent, 1);
    parent->previous_active = nullptr;
    parent->next_active = active;
    if (active != nullptr) active->previous_active = parent;
    active = parent;
  }
  void leave(Parent* parent) {
    count(*parent, -1);
    if (parent->next_active != nullptr)
      parent->next_active->previous_active = parent->previous_active;
    if (parent->previous_active != nullptr) {
      parent->previous_active->next_active = parent->next_active;
    } else {
      active = parent->next_active;
    }
  }
  [[nodiscard]] bool overlaps(const Parent& parent) const {
    if (active == nullptr) return false;
    const uint64_t first = parent.offset >> kChunkShift;
    const uint64_t last = (parent.offset + parent.length - 1) >> kChunkShift;
    if (wide == 0 && last - first < kWideChunks) {
      bool maybe = false;
      for (uint64_t chunk = first; chunk <= last; ++chunk) maybe |= chunks[chunk % kChunks] != 0;
      if (!maybe) return false;
    }
    for (const Parent* other = active; other != nullptr; other = other->next_active) {
      if (other->offset < parent.offset + parent.length &&
          parent.offset < other->offset + other->length) {
        return true;
      }
    }
    return false;
  }

  Splitter* splitter;
  uint16_t number;
  block::Device* primary;
  drl::RegionLog* regions;
  std::vector<Parent*> waiting;  // for a range in flight
  Parent* active = nullptr;
  block::Request clean_flush;
  block::Request checkpoint_flush;
  std::function<void(block::Outcome)> clean_done;
  bool cleaning = false;

 private:
  static constexpr uint32_t kChunkShift = 16;
  static constexpr uint64_t kChunks = 4096;
  static constexpr uint64_t kWideChunks = 64;

  void count(const Parent& parent, int by) {
    const uint64_t first = parent.offset >> kChunkShift;
    const uint64_t last = (parent.offset + parent.length - 1) >> kChunkShift;
    if (last - first >= kWideChunks) {
      wide += by;
      return;
    }
    for (uint64_t chunk = first; chunk <= last; ++chunk) {
      chunks[chunk % kChunks] = static_cast<uint16_t>(chunks[chunk % kChunks] + by);
    }
  }

  std::array<uint16_t, kChunks> chunks{};
  int64_t wide = 0;
};

}  // namespace ep::split

// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <vector>

#include "front-end/channel.h"
#include "front-end/protocol.h"
#include "front-end/status.h"

namespace ep::front_end {

/// The memory of a pretended guest: one or several memfd regions that follow each other without a
/// hole, in guest physical addresses and in ours. A buffer may therefore lie across two regions,
/// which the back-end maps apart: legal, and a good test of its translations.
class GuestMemory {
 public:
  /// Not 0, so that a back-end that mixes up offset and address is found out.
  static constexpr uint64_t kGuestBase = 1ull << 30;

  GuestMemory() = default;
  GuestMemory(const GuestMemory&) = delete;
  GuestMemory& operator=(const GuestMemory&) = delete;
  ~GuestMemory();

  /// Makes `regions` regions of together at least `bytes` bytes.
  Status create(uint64_t bytes, uint32_t regions);

  /// Takes `bytes` from the start of what is free. Never given back. 0 when there is no room.
  uint64_t allocate(uint64_t bytes, uint64_t alignment);

  /// Our pointer to a guest address inside the memory; not checked.
  uint8_t* host(uint64_t guest) const { return base_ + (guest - kGuestBase); }
  /// The address that SET_VRING_ADDR wants for a guest address.
  uint64_t user_address(uint64_t guest) const { return reinterpret_cast<uint64_t>(host(guest)); }
  uint64_t size() const { return size_; }
  uint64_t end() const { return kGuestBase + size_; }

  const std::vector<MemRegion>& regions() const { return regions_; }
  std::vector<int> region_fds() const;
  /// The payload of SET_MEM_TABLE; `*size` is the number of bytes of it to send.
  MemTable table(size_t* size) const;

  /// Cuts the file behind a region. Our own mapping must not be touched past that any more.
  Status truncate(size_t region, uint64_t bytes);

 private:
  uint8_t* base_ = nullptr;
  uint64_t size_ = 0;
  uint64_t next_ = 0;
  std::vector<MemRegion> regions_;
  std::vector<UniqueFd> fds_;
};

}  // namespace ep::front_end

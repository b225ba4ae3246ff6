// SPDX-License-Identifier: Apache-2.0
#pragma once

// virtio-blk without a transport: from a descriptor chain in guest memory to a checked command, and
// the config space. Knows no library, no reactor and no file, so that tests can throw anything at
// it.
//
// Everything a chain says is input. Each descriptor is copied once and only the copy is looked at,
// since a guest may change it after the check.

#include <linux/virtio_blk.h>
#include <sys/uio.h>

#include <array>
#include <cstdint>
#include <string>

#include "base/limits.h"
#include "block/device.h"
#include "export/guest_memory.h"

namespace ep::exports {

/// Header and status beside the data segments.
constexpr uint32_t kChainDescriptorsMax = limits::kRequestSegmentsMax;
constexpr uint32_t kDataSegmentsMax = kChainDescriptorsMax - 2;
/// A buffer that lies across a region border takes two iovecs.
constexpr uint32_t kChainIovecsMax = kChainDescriptorsMax + GuestMemory::kRegionsMax;
/// No driver asks for more at once; it keeps every sum of bytes inside 32 bits.
constexpr uint64_t kRequestDataBytesMax = 1ull << 30;
constexpr uint32_t kIdBytes = VIRTIO_BLK_ID_BYTES;
/// DISCARD and WRITE_ZEROES: what the config space tells the guest, in 512-byte sectors (2 GiB).
constexpr uint32_t kRangeSectorsMax = 1u << 22;

/// What a request is checked against.
struct BlkFacts {
  uint64_t capacity_bytes = 0;
  bool read_only = false;
  bool can_discard = true;
  bool can_write_zeroes = true;
  std::array<uint8_t, kIdBytes> id{};
};

/// Where a chain is read from. `table` are the ring's descriptors in our address space, `size`
/// many.
struct ChainSource {
  const uint8_t* table = nullptr;
  uint16_t size = 0;
  bool indirect_allowed = false;
  const GuestMemory* memory = nullptr;
};

struct BlkCommand {
  enum class Verdict : uint8_t {
    kSubmit,     // to the device: op, may_unmap, offset, length, iov, iov_count
    kAnswer,     // done here: write `status`
    kMalformed,  // refused: write `status` if there is a place for it
  };
  Verdict verdict = Verdict::kMalformed;
  block::Op op{};
  bool may_unmap = false;
  uint8_t status = VIRTIO_BLK_S_IOERR;
  uint64_t offset = 0;
  uint64_t length = 0;
  const iovec* iov = nullptr;
  uint32_t iov_count = 0;
  /// In guest memory; null when the chain has no writable last byte.
  uint8_t* status_byte = nullptr;
  /// Bytes written into the guest's buffers when the command succeeds, the status byte included.
  uint32_t used_bytes = 0;
};

/// Reads the chain that starts at `head` (< source.size) and checks all of it. `iovecs` has room
/// for kChainIovecsMax and is what command->iov points into. Never fails: the verdict says what to
/// do.
void parse_command(const ChainSource& source, const BlkFacts& facts, uint16_t head, iovec* iovecs,
                   BlkCommand* command);

/// The status byte for what a device said.
uint8_t status_of(block::Outcome outcome);

/// GET_ID's answer: at most 20 bytes, padded with zeroes.
std::array<uint8_t, kIdBytes> id_of(const std::string& serial);

/// The feature bits of virtio and virtio-blk offered for such a device (without vhost-user's own).
uint64_t blk_features(const block::Geometry& geometry);

virtio_blk_config blk_config(const block::Geometry& geometry, uint16_t queues, bool write_back);

}  // namespace ep::exports

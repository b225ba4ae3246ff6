// SPDX-License-Identifier: Apache-2.0
#pragma once

// Little-endian loads and stores for the on-disk formats, sizes and alignment, checksums.

#include <cstddef>
#include <cstdint>
#include <cstring>

namespace ep {

static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "formats are little-endian by memcpy");

constexpr uint64_t kSectorBytes = 512;
constexpr uint64_t kPageBytes = 4096;

template <typename T>
inline T load_le(const void* from) {
  T value;
  std::memcpy(&value, from, sizeof value);
  return value;
}

template <typename T>
inline void store_le(void* to, T value) {
  std::memcpy(to, &value, sizeof value);
}

/// Rounds up to a power of two `alignment`.
constexpr uint64_t align_up(uint64_t value, uint64_t alignment) {
  return (value + alignment - 1) & ~(alignment - 1);
}

constexpr bool is_aligned(uint64_t value, uint64_t alignment) {
  return (value & (alignment - 1)) == 0;
}

/// CRC-32 (IEEE 802.3, reflected, as gzip): the one checksum of all formats, because both
/// languages have it at memory speed (ISA-L here, zlib.crc32 in Node). `seed` continues a sum.
uint32_t crc32(const void* data, size_t size, uint32_t seed = 0);

}  // namespace ep

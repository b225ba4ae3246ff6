// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>

#include "front-end/protocol.h"

namespace ep::front_end {

/// The 16 high bits of a stamp: "this sector was written by the random workload".
constexpr uint32_t kPatternMagic = 0xe5d1;

/// Fills one 512-byte sector with the data of sector `sector` of request `id` in a run with `seed`:
/// 128 little-endian words. Word 0 is the id, word 1 is magic << 16 | sector, word 2 the seed, the
/// rest a mulberry32 stream seeded from the three. The README has the whole function;
/// `oracle/pattern.ts` is its twin.
void fill_sector(uint8_t* out, uint32_t seed, uint32_t id, uint32_t sector);

/// Fills `length` bytes (whole sectors) of a request's data.
void fill_request(uint8_t* out, size_t length, uint32_t seed, uint32_t id);

/// True when the sector is what fill_sector writes.
bool sector_matches(const uint8_t* data, uint32_t seed, uint32_t id, uint32_t sector);

struct Stamp {
  uint32_t id;
  uint32_t sector;
  uint32_t seed;
};
/// Reads a sector's stamp; false when it has none. Says nothing about the filler.
bool read_stamp(const uint8_t* data, Stamp* stamp);

}  // namespace ep::front_end

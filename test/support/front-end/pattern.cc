// SPDX-License-Identifier: Apache-2.0
#include "front-end/pattern.h"

#include <cstring>

namespace ep::front_end {

namespace {

constexpr uint32_t kStep = 0x6d2b79f5;
constexpr uint32_t kWords = kSectorBytes / 4;

uint32_t mix(uint32_t x) {
  x ^= x >> 16;
  x *= 0x85ebca6b;
  x ^= x >> 13;
  x *= 0xc2b2ae35;
  return x ^ (x >> 16);
}

/// mulberry32: the value depends on the counter only, so words can be computed in any order.
uint32_t mulberry(uint32_t state) {
  uint32_t t = (state ^ (state >> 15)) * (state | 1);
  t ^= t + (t ^ (t >> 7)) * (t | 61);
  return t ^ (t >> 14);
}

void fill_words(uint32_t* words, uint32_t seed, uint32_t id, uint32_t sector) {
  words[0] = id;
  words[1] = kPatternMagic << 16 | (sector & 0xffff);
  words[2] = seed;
  uint32_t state = mix(mix(mix(seed) + id) + sector);
  for (uint32_t i = 3; i < kWords; i++) {
    state += kStep;
    words[i] = mulberry(state);
  }
}

}  // namespace

void fill_sector(uint8_t* out, uint32_t seed, uint32_t id, uint32_t sector) {
  uint32_t words[kWords];
  fill_words(words, seed, id, sector);
  std::memcpy(out, words, sizeof words);
}

void fill_request(uint8_t* out, size_t length, uint32_t seed, uint32_t id) {
  for (uint32_t sector = 0; sector < length / kSectorBytes; sector++) {
    fill_sector(out + static_cast<size_t>(sector) * kSectorBytes, seed, id, sector);
  }
}

bool sector_matches(const uint8_t* data, uint32_t seed, uint32_t id, uint32_t sector) {
  uint32_t words[kWords];
  fill_words(words, seed, id, sector);
  return std::memcmp(data, words, sizeof words) == 0;
}

bool read_stamp(const uint8_t* data, Stamp* stamp) {
  uint32_t words[3];
  std::memcpy(words, data, sizeof words);
  if (words[1] >> 16 != kPatternMagic) return false;
  *stamp = {words[0], words[1] & 0xffff, words[2]};
  return true;
}

}  // namespace ep::front_end

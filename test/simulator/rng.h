// SPDX-License-Identifier: Apache-2.0
#pragma once

// One small generator, the same on every machine and compiler, and a running hash of what happened.

#include <cstdint>
#include <cstring>
#include <string_view>

namespace ep::sim {

inline uint64_t mix(uint64_t value) {
  value = (value ^ (value >> 30)) * 0xbf58476d1ce4e5b9ull;
  value = (value ^ (value >> 27)) * 0x94d049bb133111ebull;
  return value ^ (value >> 31);
}

/// SplitMix64.
class Rng {
 public:
  explicit Rng(uint64_t seed) : state_(mix(seed + 0x9e3779b97f4a7c15ull)) {}
  uint64_t next() { return mix(state_ += 0x9e3779b97f4a7c15ull); }
  /// Uniform in [0, bound).
  uint64_t below(uint64_t bound) { return next() % bound; }
  /// Uniform in [low, high], both included.
  uint64_t between(uint64_t low, uint64_t high) { return low + next() % (high - low + 1); }
  bool percent(uint64_t chance) { return next() % 100 < chance; }

 private:
  uint64_t state_;
};

/// Everything that a run does goes in here: equal seeds must give equal sums.
class Trace {
 public:
  void add(uint64_t value) { sum_ = mix(sum_ ^ value) + 0x9e3779b97f4a7c15ull; }
  void add(std::string_view text) {
    for (const char c : text) sum_ = (sum_ ^ static_cast<uint8_t>(c)) * 0x100000001b3ull;
    add(text.size());
  }
  [[nodiscard]] uint64_t sum() const { return sum_; }

 private:
  uint64_t sum_ = 0xcbf29ce484222325ull;
};

/// A number that stands for a sector's bytes; 0 for zeroes, so that a fresh disk needs no work.
inline uint64_t sector_tag(const uint8_t* sector) {
  uint64_t words[64];
  std::memcpy(words, sector, sizeof words);
  uint64_t any = 0;
  uint64_t sum = 0x243f6a8885a308d3ull;
  for (const uint64_t word : words) {
    any |= word;
    sum = (sum ^ word) * 0x9e3779b97f4a7c15ull;
    sum ^= sum >> 29;
  }
  return any == 0 ? 0 : sum | 1;
}

}  // namespace ep::sim

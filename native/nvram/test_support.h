// SPDX-License-Identifier: Apache-2.0
#pragma once

// For tests of what lies in a log buffer after a power cut.

#include <gtest/gtest.h>

#include <algorithm>
#include <cstring>
#include <functional>
#include <random>
#include <vector>

#include "nvram/log_buffer.h"

namespace ep::nvram {

/// Persistent memory as it may be at its worst: durable is what was persisted, by whole cache
/// lines, and any 8 bytes of everything else that happen to have been evicted.
class SimPmemRegion : public MemoryRegion {
 public:
  explicit SimPmemRegion(uint64_t size)
      : MemoryRegion(size), durable_(base(), base() + this->size()) {}

  void persist(const void* from, size_t bytes) override {
    if (on_persist) on_persist();
    const auto at = static_cast<uint64_t>(static_cast<const uint8_t*>(from) - base());
    const uint64_t begin = at / 64 * 64;
    const uint64_t end = std::min(align_up(at + bytes, 64), size());
    std::memcpy(durable_.data() + begin, base() + begin, end - begin);
    if (on_persist) on_persist();
  }
  [[nodiscard]] bool survives_power_cut() const override { return true; }

  /// What a power cut now would leave; `to` is a region of the same size.
  void cut(std::mt19937_64& random, Region* to) const {
    std::memcpy(to->base(), durable_.data(), size());
    const uint64_t unit = random() % 2 == 0 ? 8 : 64;
    const uint64_t of_ten = random() % 11;
    for (uint64_t line = 0; line < size(); line += 64) {
      if (std::memcmp(base() + line, durable_.data() + line, 64) == 0) continue;
      for (uint64_t at = line; at < line + 64; at += unit) {
        if (random() % 10 < of_ten) std::memcpy(to->base() + at, base() + at, unit);
      }
    }
  }

  /// Before and after each persist.
  std::function<void()> on_persist;

 private:
  std::vector<uint8_t> durable_;
};

struct ModelEntry {
  uint64_t lsn;
  format::Entry entry;
  std::vector<uint8_t> data;
  PrimaryState primary;
};

inline Uuid group_of(uint8_t value) {
  Uuid group;
  group.bytes.fill(value);
  return group;
}

/// An entry with up to `sectors_max` sectors of data.
inline ModelEntry random_entry(std::mt19937_64& random, uint32_t sectors_max) {
  using format::EntryType;
  ModelEntry made;
  format::Entry& entry = made.entry;
  entry.type = random() % 2 == 0 ? EntryType::kWrite : static_cast<EntryType>(1 + random() % 9);
  entry.volume = static_cast<uint16_t>(random() % 64);
  entry.flags = static_cast<uint8_t>(random() % 4);
  entry.sector = random();
  entry.time_ns = random();
  entry.sectors = entry.type == EntryType::kWrite
                      ? static_cast<uint32_t>(1 + random() % sectors_max)
                      : static_cast<uint32_t>(entry.has_payload() ? 1 : random());
  made.data.resize(uint64_t{entry.payload_sectors()} * kSectorBytes);
  for (size_t i = 0; i < made.data.size(); i += 64) made.data[i] = static_cast<uint8_t>(random());
  entry.data_crc = crc32(made.data.data(), made.data.size());
  made.primary = static_cast<PrimaryState>(random() % 2);
  return made;
}

inline bool has_room(const LogBuffer& buffer, const ModelEntry& made) {
  return buffer.has_room(made.data.size());
}

/// Appends it; has_room was true.
inline uint64_t append(LogBuffer& buffer, const ModelEntry& made) {
  uint8_t* to = buffer.next_data(made.data.size());
  std::copy(made.data.begin(), made.data.end(), to);
  return buffer.append(made.entry, made.primary);
}

inline void expect_same(const BufferedEntry& found, const ModelEntry& made) {
  ASSERT_EQ(found.entry, made.entry) << made.lsn;
  ASSERT_TRUE(std::equal(made.data.begin(), made.data.end(), found.data)) << made.lsn;
}

}  // namespace ep::nvram

// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <string>
#include <unordered_map>
#include <vector>

#include "front-end/journal.h"

namespace ep::front_end {

/// What one sector may hold.
struct SectorValue {
  enum Kind : uint8_t { kZero, kWrite, kAnything };
  /// The request that put it there; 0 for the state before the run.
  uint32_t id = 0;
  /// Of a write: which sector of the request.
  uint16_t sector = 0;
  Kind kind = kZero;
};

/// What must be on one volume, sector by sector, from completed requests alone. Requests that
/// overlapped in time leave several candidates, of which any may be there: of two concurrent
/// writes either may have landed last. A candidate goes when a request that was submitted after
/// its completion completes in its place.
///
/// In-flight writes are the caller's affair: it must not check sectors that a write was in flight
/// for at any moment of the read.
class VolumeModel {
 public:
  /// `journal` gives the ticks of candidates and outlives the model.
  VolumeModel(const Journal* journal, uint64_t sectors, bool known_zero);

  /// The write, discard or write-zeroes of `record` completed. With `discard_any` a discard may
  /// leave what was there, or zeroes.
  void complete(const JournalRecord& record, bool discard_any);

  /// Compares one sector with its candidates.
  bool matches(uint64_t sector, const uint8_t* data, uint32_t seed) const;
  /// The candidates as a JSON array, for a report.
  std::string expected_json(uint64_t sector) const;
  /// Whether anything at all would match.
  bool unknown(uint64_t sector) const;
  std::vector<SectorValue> candidates(uint64_t sector) const;

 private:
  struct Cell {
    SectorValue value;
    bool several = false;  // then `several_` has all of them
  };

  uint32_t complete_tick(const SectorValue& value) const;
  void put(uint64_t sector, const SectorValue& value, uint32_t submit_tick, bool overwrites);

  const Journal* journal_;
  std::vector<Cell> cells_;
  std::unordered_map<uint64_t, std::vector<SectorValue>> several_;
};

/// What a sector looks like, as JSON, for a report.
std::string describe_sector(const uint8_t* data, uint32_t seed);

}  // namespace ep::front_end

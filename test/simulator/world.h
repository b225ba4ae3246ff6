// SPDX-License-Identifier: Apache-2.0
#pragma once

// One seed: a machine, a group on it, and a number of lives with whatever befalls them.

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "nvram/buffer_store.h"
#include "split/splitter.h"

namespace ep::sim {

struct SeedOptions {
  /// Tells on stdout what happens.
  bool verbose = false;
  /// Faults too that are known to break something (README.md).
  bool strict = false;
  // What every seed is to have; without it the seed chooses.
  std::optional<nvram::BufferKind> buffer;
  std::optional<split::Ack> ack;
  std::optional<split::FlushMode> flush;
};

struct SeedReport {
  uint64_t seed = 0;
  std::vector<std::string> failures;
  uint64_t trace = 0;
  // What there was to see.
  uint64_t lives = 0;
  uint64_t crashes = 0;
  uint64_t power_cuts = 0;
  uint64_t recoveries_interrupted = 0;
  uint64_t gaps = 0;
  uint64_t requests = 0;
  uint64_t entries = 0;
  uint64_t redone = 0;
  uint64_t late_requests = 0;
  uint64_t slowest_ns = 0;
};

SeedReport run_seed(uint64_t seed, const SeedOptions& options);

}  // namespace ep::sim

// SPDX-License-Identifier: Apache-2.0
#pragma once

// The deliberate bugs (native/base/mutation.h) one after the other: how many seeds the simulator
// needs for each.

#include <cstdint>
#include <string>

#include "base/mutation.h"

namespace ep::sim {

struct MutationResult {
  MutationInfo info{};
  bool caught = false;
  uint64_t seeds = 0;  // run until it was caught; all of them when it was not
  uint64_t seed = 0;   // the one that failed
  std::string message;
  double seconds = 0;
};

/// Runs seeds from `first` on, at most `seeds`, with that bug, each in a process of its own, until
/// one fails: by a check, an assertion of the product, a crash or a run that never ends.
MutationResult try_mutation(const MutationInfo& info, uint64_t first, uint64_t seeds);

/// All of them, with a table (or JSON) on stdout; false when one was not caught.
bool try_all_mutations(uint64_t first, uint64_t seeds, bool json);

}  // namespace ep::sim

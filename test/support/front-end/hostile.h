// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <cstdio>
#include <string>
#include <vector>

namespace ep::front_end {

struct HostileOptions {
  std::string socket_path;
  /// A name of list_attacks(), or "all".
  std::string attack = "all";
  uint64_t seed = 1;
  /// How many connections each fuzzer makes.
  uint32_t rounds = 20;
  /// Another disk of the same back-end that must live on; empty: none.
  std::string probe_path;
};

struct AttackInfo {
  std::string name;
  std::string what;
  /// A malformed request on a healthy connection: wants a completion with an error within a
  /// second, and a good request to work afterwards. Else the attack only has to end.
  bool expects_error;
};

std::vector<AttackInfo> list_attacks();

/// Runs attacks, one JSON line each. `*known` says whether the name exists. True when every attack
/// met its expectation, and the disk (and the probed one) lived after each.
bool run_hostile(const HostileOptions& options, FILE* out, bool* known);

}  // namespace ep::front_end

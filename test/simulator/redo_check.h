// SPDX-License-Identifier: Apache-2.0
#pragma once

// Redo from a persistent memory buffer after a power cut: the one place where entries that overlap
// are redone together, since none of them is known to have reached a platter. (After the death of a
// process at most the last of overlapping writes can be without its primary.)

#include <cstdint>
#include <string>

namespace ep::sim {

/// One power cut over a buffer that survives it. Empty, or what was wrong with the primary.
std::string check_redo(uint64_t seed);

}  // namespace ep::sim

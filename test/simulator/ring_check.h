// SPDX-License-Identifier: Apache-2.0
#pragma once

// The other thing that outlives a process: a ring's in-flight area, which says after a restart what
// a guest has asked for and was not answered (native/export/inflight.h).

#include <cstdint>
#include <string>

namespace ep::sim {

/// A guest's ring through some deaths, at any step of taking and completing. Empty, or what was
/// wrong with what was resubmitted: not everything that the guest waits for, or not in its order.
std::string check_ring(uint64_t seed);

}  // namespace ep::sim

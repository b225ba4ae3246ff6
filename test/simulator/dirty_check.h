// SPDX-License-Identifier: Apache-2.0
#pragma once

// The dirty region log alone, with deaths between a write of it and its sync, and power cuts soon
// after the next opening: what a whole group meets in one of hundreds of seeds.

#include <cstdint>
#include <string>

namespace ep::sim {

/// A dirty region log through some lives. Empty, or which region a write was let into although the
/// disk did not say dirty.
std::string check_dirty(uint64_t seed);

}  // namespace ep::sim

// SPDX-License-Identifier: Apache-2.0
#pragma once

// Assertions are for our own bugs and stay on in release builds: a storage process that has lost
// track of itself must stop before it writes. Guest, network and disk bytes are input and get a
// Status instead.

namespace ep {
/// Prints the failed condition and its place on stderr, then aborts. Any thread.
[[noreturn]] void assert_failed(const char* condition, const char* file, int line);
}  // namespace ep

#define EP_ASSERT(condition) \
  ((condition) ? static_cast<void>(0) : ::ep::assert_failed(#condition, __FILE__, __LINE__))

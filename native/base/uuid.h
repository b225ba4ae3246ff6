// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <array>
#include <cstdint>
#include <cstring>
#include <string>
#include <string_view>

#include "base/status.h"

namespace ep {

/// 16 bytes in the order of their text; names groups and devices in every file.
struct Uuid {
  std::array<uint8_t, 16> bytes{};
  friend bool operator==(const Uuid&, const Uuid&) = default;

  /// Lower-case text with dashes.
  [[nodiscard]] std::string to_string() const;
  /// Reads the text form (8-4-4-4-12 hex digits); InvalidArgument otherwise.
  static Result<Uuid> parse(std::string_view text);
  /// Version 4, from the system's random source.
  static Uuid random();
};

/// The 16 bytes at `from`, as every file has them.
inline Uuid load_uuid(const uint8_t* from) {
  Uuid uuid;
  std::memcpy(uuid.bytes.data(), from, uuid.bytes.size());
  return uuid;
}

inline void store_uuid(uint8_t* to, const Uuid& uuid) {
  std::memcpy(to, uuid.bytes.data(), uuid.bytes.size());
}

}  // namespace ep

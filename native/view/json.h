// SPDX-License-Identifier: Apache-2.0
#pragma once

// As much JSON as the manifest needs: reading, of text whose checksum already held.

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "base/status.h"

namespace ep::view {

struct JsonValue {
  enum class Kind : uint8_t { kNull, kTruth, kNumber, kText, kList, kObject };
  Kind kind = Kind::kNull;
  bool truth = false;
  /// For numbers that are whole and from 0 to 2^53 - 1.
  std::optional<uint64_t> count;
  std::string text;
  std::vector<JsonValue> items;
  std::vector<std::pair<std::string, JsonValue>> fields;

  /// A field of an object; null when there is none.
  [[nodiscard]] const JsonValue* field(std::string_view name) const;
};

/// kCorruption for anything but one JSON value.
Result<JsonValue> parse_json(std::string_view text);

}  // namespace ep::view

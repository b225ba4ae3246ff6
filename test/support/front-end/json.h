// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <cstdio>
#include <string>
#include <string_view>

namespace ep::front_end {

/// Builds one flat JSON object: what the tool prints per line.
class JsonLine {
 public:
  JsonLine& text(std::string_view name, std::string_view value);
  JsonLine& number(std::string_view name, uint64_t value);
  JsonLine& decimal(std::string_view name, double value);
  JsonLine& boolean(std::string_view name, bool value);
  /// `json` is inserted as it is.
  JsonLine& raw(std::string_view name, std::string_view json);

  std::string str() const { return "{" + body_ + "}"; }
  /// Prints the object as one line and flushes.
  void print(FILE* out) const;

  static std::string quote(std::string_view text);

 private:
  void name(std::string_view name);

  std::string body_;
};

}  // namespace ep::front_end

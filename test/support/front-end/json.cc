// SPDX-License-Identifier: Apache-2.0
#include "front-end/json.h"

namespace ep::front_end {

std::string JsonLine::quote(std::string_view text) {
  std::string out = "\"";
  for (char c : text) {
    if (c == '"' || c == '\\') {
      out += '\\';
      out += c;
    } else if (static_cast<unsigned char>(c) < 0x20) {
      char escaped[8];
      std::snprintf(escaped, sizeof escaped, "\\u%04x", static_cast<unsigned>(c));
      out += escaped;
    } else {
      out += c;
    }
  }
  return out + "\"";
}

void JsonLine::name(std::string_view name) {
  if (!body_.empty()) body_ += ",";
  body_ += quote(name) + ":";
}

JsonLine& JsonLine::text(std::string_view name, std::string_view value) {
  return raw(name, quote(value));
}

JsonLine& JsonLine::number(std::string_view name, uint64_t value) {
  return raw(name, std::to_string(value));
}

JsonLine& JsonLine::decimal(std::string_view name, double value) {
  char text[40];
  std::snprintf(text, sizeof text, "%.3f", value);
  return raw(name, text);
}

JsonLine& JsonLine::boolean(std::string_view name, bool value) {
  return raw(name, value ? "true" : "false");
}

JsonLine& JsonLine::raw(std::string_view field, std::string_view json) {
  name(field);
  body_ += json;
  return *this;
}

void JsonLine::print(FILE* out) const {
  std::string line = str() + "\n";
  std::fwrite(line.data(), 1, line.size(), out);
  std::fflush(out);
}

}  // namespace ep::front_end

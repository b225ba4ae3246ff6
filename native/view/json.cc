// SPDX-License-Identifier: Apache-2.0
#include "view/json.h"

#include <cstring>

namespace ep::view {

namespace {

constexpr int kDepthMax = 64;
constexpr uint64_t kCountMax = (uint64_t{1} << 53) - 1;

class Parser {
 public:
  explicit Parser(std::string_view text) : text_(text) {}

  bool whole(JsonValue& to) {
    if (!value(to, 0)) return false;
    spaces();
    return at_ == text_.size();
  }

 private:
  bool value(JsonValue& to, int depth) {
    spaces();
    if (at_ >= text_.size() || depth > kDepthMax) return false;
    switch (text_[at_]) {
      case '{':
        return object(to, depth);
      case '[':
        return list(to, depth);
      case '"':
        to.kind = JsonValue::Kind::kText;
        return text(to.text);
      case 't':
        to.kind = JsonValue::Kind::kTruth;
        to.truth = true;
        return word("true");
      case 'f':
        to.kind = JsonValue::Kind::kTruth;
        return word("false");
      case 'n':
        return word("null");
      default:
        to.kind = JsonValue::Kind::kNumber;
        return number(to.count);
    }
  }

  bool object(JsonValue& to, int depth) {
    to.kind = JsonValue::Kind::kObject;
    ++at_;
    if (take('}')) return true;
    do {
      spaces();
      auto& [name, content] = to.fields.emplace_back();
      if (!text(name) || !take(':') || !value(content, depth + 1)) return false;
    } while (take(','));
    return take('}');
  }

  bool list(JsonValue& to, int depth) {
    to.kind = JsonValue::Kind::kList;
    ++at_;
    if (take(']')) return true;
    do {
      if (!value(to.items.emplace_back(), depth + 1)) return false;
    } while (take(','));
    return take(']');
  }

  bool text(std::string& to) {
    if (at_ >= text_.size() || text_[at_] != '"') return false;
    for (++at_; at_ < text_.size(); ++at_) {
      const char c = text_[at_];
      if (c == '"') {
        ++at_;
        return true;
      }
      if (static_cast<unsigned char>(c) < 0x20) return false;
      if (c != '\\') {
        to.push_back(c);
      } else if (!escape(to)) {
        return false;
      }
    }
    return false;
  }

  /// Leaves at_ on the escape's last character.
  bool escape(std::string& to) {
    static constexpr char kFrom[] = "\"\\/bfnrt";
    static constexpr char kTo[] = "\"\\/\b\f\n\r\t";
    if (++at_ >= text_.size()) return false;
    if (text_[at_] != 'u') {
      const char* found = std::strchr(kFrom, text_[at_]);
      if (found == nullptr || *found == '\0') return false;
      to.push_back(kTo[found - kFrom]);
      return true;
    }
    uint32_t code = 0;
    if (!hex4(code)) return false;
    if (code >= 0xd800 && code < 0xdc00 && text_.substr(at_ + 1, 2) == "\\u") {
      uint32_t low = 0;
      at_ += 2;
      if (!hex4(low) || low < 0xdc00 || low > 0xdfff) return false;
      code = 0x10000 + ((code - 0xd800) << 10) + (low - 0xdc00);
    }
    put_utf8(code, to);
    return true;
  }

  bool hex4(uint32_t& to) {
    for (int i = 0; i < 4; ++i) {
      if (++at_ >= text_.size()) return false;
      const char c = text_[at_];
      uint32_t digit = 0;
      if (c >= '0' && c <= '9') {
        digit = static_cast<uint32_t>(c - '0');
      } else if ((c | 0x20) >= 'a' && (c | 0x20) <= 'f') {
        digit = static_cast<uint32_t>((c | 0x20) - 'a') + 10;
      } else {
        return false;
      }
      to = to << 4 | digit;
    }
    return true;
  }

  static void put_utf8(uint32_t code, std::string& to) {
    if (code < 0x80) {
      to.push_back(static_cast<char>(code));
      return;
    }
    const int more = code < 0x800 ? 1 : code < 0x10000 ? 2 : 3;
    static constexpr uint32_t kFirst[] = {0, 0xc0, 0xe0, 0xf0};
    to.push_back(static_cast<char>(kFirst[more] | code >> (6 * more)));
    for (int i = more - 1; i >= 0; --i) {
      to.push_back(static_cast<char>(0x80 | ((code >> (6 * i)) & 0x3f)));
    }
  }

  /// Any number; its value only where it is a plain count.
  bool number(std::optional<uint64_t>& to) {
    const size_t start = at_;
    uint64_t sum = 0;
    bool plain = true;
    for (; at_ < text_.size(); ++at_) {
      const char c = text_[at_];
      if (c >= '0' && c <= '9') {
        if (sum <= kCountMax) sum = sum * 10 + static_cast<uint64_t>(c - '0');
      } else if (c == '-' || c == '+' || c == '.' || c == 'e' || c == 'E') {
        plain = false;
      } else {
        break;
      }
    }
    if (at_ == start) return false;
    if (plain && sum <= kCountMax) to = sum;
    return true;
  }

  bool word(std::string_view expected) {
    if (text_.substr(at_, expected.size()) != expected) return false;
    at_ += expected.size();
    return true;
  }

  bool take(char c) {
    spaces();
    if (at_ >= text_.size() || text_[at_] != c) return false;
    ++at_;
    return true;
  }

  void spaces() {
    while (at_ < text_.size() && std::strchr(" \t\r\n", text_[at_]) != nullptr &&
           text_[at_] != '\0') {
      ++at_;
    }
  }

  std::string_view text_;
  size_t at_ = 0;
};

}  // namespace

const JsonValue* JsonValue::field(std::string_view name) const {
  for (const auto& [key, value] : fields) {
    if (key == name) return &value;
  }
  return nullptr;
}

Result<JsonValue> parse_json(std::string_view text) {
  JsonValue value;
  if (!Parser(text).whole(value)) return Status(Code::kCorruption, "no JSON");
  return value;
}

}  // namespace ep::view

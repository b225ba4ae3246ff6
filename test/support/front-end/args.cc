// SPDX-License-Identifier: Apache-2.0
#include "front-end/args.h"

#include <algorithm>
#include <cerrno>
#include <cstdlib>

namespace ep::front_end {

Status Args::parse(const std::vector<std::string>& words, const std::vector<std::string>& valued,
                   const std::vector<std::string>& flags, Args* out) {
  for (size_t i = 0; i < words.size(); i++) {
    const std::string& word = words[i];
    if (word.rfind("--", 0) != 0) return Status::error("unexpected argument " + word);
    const size_t equals = word.find('=');
    const std::string name = word.substr(2, equals == std::string::npos ? equals : equals - 2);
    if (std::find(flags.begin(), flags.end(), name) != flags.end()) {
      if (equals != std::string::npos) return Status::error("--" + name + " takes no value");
      out->values_[name].push_back("");
    } else if (std::find(valued.begin(), valued.end(), name) != valued.end()) {
      if (equals != std::string::npos) {
        out->values_[name].push_back(word.substr(equals + 1));
      } else if (i + 1 < words.size()) {
        out->values_[name].push_back(words[++i]);
      } else {
        return Status::error("--" + name + " needs a value");
      }
    } else {
      return Status::error("unknown option --" + name);
    }
  }
  return {};
}

std::string Args::text(const std::string& name, const std::string& fallback) const {
  auto found = values_.find(name);
  return found == values_.end() ? fallback : found->second.back();
}

std::vector<std::string> Args::all(const std::string& name) const {
  auto found = values_.find(name);
  return found == values_.end() ? std::vector<std::string>{} : found->second;
}

bool parse_size(const std::string& text, uint64_t* value) {
  if (text.empty() || text[0] < '0' || text[0] > '9') return false;
  char* end = nullptr;
  errno = 0;
  unsigned long long number = std::strtoull(text.c_str(), &end, 0);
  if (errno != 0) return false;
  const std::string suffix(end);
  unsigned shift = 0;
  if (suffix == "k" || suffix == "K") shift = 10;
  if (suffix == "M") shift = 20;
  if (suffix == "G") shift = 30;
  if (!suffix.empty() && shift == 0) return false;
  if (number > UINT64_MAX >> shift) return false;
  *value = static_cast<uint64_t>(number) << shift;
  return true;
}

Status Args::number(const std::string& name, uint64_t low, uint64_t high, uint64_t* value) const {
  if (!has(name)) return {};
  uint64_t parsed = 0;
  if (!parse_size(text(name), &parsed) || parsed < low || parsed > high) {
    return Status::error("--" + name + " must be a number from " + std::to_string(low) + " to " +
                         std::to_string(high) + ", not '" + text(name) + "'");
  }
  *value = parsed;
  return {};
}

Status Args::seconds(const std::string& name, double* value) const {
  if (!has(name)) return {};
  const std::string word = text(name);
  char* end = nullptr;
  const double parsed = std::strtod(word.c_str(), &end);
  if (word.empty() || *end != '\0' || !(parsed >= 0) || parsed > 1e6) {
    return Status::error("--" + name + " must be seconds, not '" + word + "'");
  }
  *value = parsed;
  return {};
}

}  // namespace ep::front_end

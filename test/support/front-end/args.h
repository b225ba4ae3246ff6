// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "front-end/status.h"

namespace ep::front_end {

/// `--name value`, `--name=value` and `--flag`, with names known beforehand.
class Args {
 public:
  /// Parses everything after the subcommand. A name that is in neither list is an error.
  static Status parse(const std::vector<std::string>& words, const std::vector<std::string>& valued,
                      const std::vector<std::string>& flags, Args* out);

  bool has(const std::string& name) const { return values_.count(name) != 0; }
  std::string text(const std::string& name, const std::string& fallback = "") const;
  std::vector<std::string> all(const std::string& name) const;

  /// Reads a count or a size (suffix k, M, G: powers of 1024) inside [low, high].
  Status number(const std::string& name, uint64_t low, uint64_t high, uint64_t* value) const;
  Status seconds(const std::string& name, double* value) const;

 private:
  std::map<std::string, std::vector<std::string>> values_;
};

/// "12", "64k", "1M", "2G". False when it is none of these.
bool parse_size(const std::string& text, uint64_t* value);

}  // namespace ep::front_end

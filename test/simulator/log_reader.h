// SPDX-License-Identifier: Apache-2.0
#pragma once

// Reads a group's history as a stranger would, from segment-format.md alone: none of the code that
// wrote it or recovers it. Payloads become tags (rng.h), one a sector. What was read once and has
// not changed since is not read again.

#include <map>
#include <string>
#include <vector>

#include "format/segment.h"
#include "sim_disk.h"

namespace ep::sim {

struct LogEntry {
  uint64_t lsn = 0;
  format::Entry entry;
  /// kWrite: one per sector.
  std::vector<uint64_t> tags;
  /// kMarker: its label; kGap: unused.
  std::string label;
  format::Gap gap;
};

struct LogSegment {
  std::string path;
  uint64_t number = 0;
  uint64_t epoch = 0;
  uint64_t first_lsn = 0;
  bool sealed = false;
  std::vector<LogEntry> entries;
  /// What a sealed file has wrong; empty when it is right.
  std::string problem;
};

class LogReader {
 public:
  /// All segments of a group, by number; `folders` are `<device>/groups/<group>`. Pointers are good
  /// until the next call.
  std::vector<const LogSegment*> read(const Machine& machine,
                                      const std::vector<std::string>& folders);

 private:
  struct Cached {
    uint64_t version = 0;
    LogSegment segment;
  };
  std::map<std::string, Cached> cache_;
};

}  // namespace ep::sim

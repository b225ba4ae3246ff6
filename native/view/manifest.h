// SPDX-License-Identifier: Apache-2.0
#pragma once

// What a group's manifest says of segments, maps and gaps. The control plane writes it (layout:
// src/maps/manifest-format.md) and may be appending while it is read here: a commit counts whole or
// not at all, and nothing is changed.

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/status.h"
#include "base/uuid.h"
#include "io/io.h"

namespace ep::view {

struct ManifestMap {
  uint64_t id = 0;
  Uuid device;
  std::string path;  // below the group's folder on the device
  uint64_t level = 0;
  uint64_t first_lsn = 0;
  uint64_t last_lsn = 0;
};

struct ManifestSegment {
  uint64_t segment = 0;
  Uuid device;
  std::string path;
  uint64_t first_lsn = 0;
  uint64_t last_lsn = 0;
};

/// (from_lsn, to_lsn]
struct ManifestGap {
  uint64_t from_lsn = 0;
  std::optional<uint64_t> to_lsn;  // nothing while it lasts
};

struct Manifest {
  std::vector<ManifestMap> maps;
  std::vector<ManifestSegment> segments;
  std::vector<ManifestGap> gaps;
};

/// Everything up to the last whole commit; of records that replace each other, the last.
/// kCorruption for damage that no unfinished append explains, kUnsupported for another version or
/// an unknown kind of record.
Result<Manifest> parse_manifest(std::string_view content, const Uuid& group);

/// kNotFound when there is none.
Result<Manifest> read_manifest(io::FileSystem& file_system, const std::string& path,
                               const Uuid& group);

}  // namespace ep::view

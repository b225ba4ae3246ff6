// SPDX-License-Identifier: Apache-2.0
#include "view/manifest.h"

#include <algorithm>

#include "base/bytes.h"
#include "view/json.h"

namespace ep::view {

namespace {

/// `<sum> <length> `, both in eight hex digits.
constexpr size_t kPrefixBytes = 18;
constexpr uint64_t kManifestBytesMax = 1024ull * 1024 * 1024;

Status damaged(size_t at, const std::string& what) {
  return Status(Code::kCorruption, "manifest at " + std::to_string(at) + ": " + what);
}

std::optional<uint32_t> hex8(std::string_view text) {
  if (text.size() != 8) return std::nullopt;
  uint32_t value = 0;
  for (const char c : text) {
    uint32_t digit = 0;
    if (c >= '0' && c <= '9') {
      digit = static_cast<uint32_t>(c - '0');
    } else if (c >= 'a' && c <= 'f') {
      digit = static_cast<uint32_t>(c - 'a') + 10;
    } else {
      return std::nullopt;
    }
    value = value << 4 | digit;
  }
  return value;
}

struct Line {
  uint32_t crc = 0;
  std::string_view json;
  size_t end = 0;
};

/// What the prefix says of a line's length with prefix and newline.
std::optional<uint64_t> line_bytes(std::string_view rest) {
  if (rest.size() < kPrefixBytes || rest[8] != ' ' || rest[17] != ' ' || !hex8(rest.substr(0, 8))) {
    return std::nullopt;
  }
  const auto length = hex8(rest.substr(9, 8));
  if (!length) return std::nullopt;
  return kPrefixBytes + uint64_t{*length} + 1;
}

std::optional<Line> good_line(std::string_view content, size_t at, uint32_t seed) {
  const std::string_view rest = content.substr(at);
  const auto bytes = line_bytes(rest);
  if (!bytes || *bytes > rest.size() || rest[*bytes - 1] != '\n') return std::nullopt;
  Line line;
  line.crc = *hex8(rest.substr(0, 8));
  line.json = rest.substr(kPrefixBytes, *bytes - kPrefixBytes - 1);
  line.end = at + *bytes;
  const uint32_t sum = crc32(line.json.data(), line.json.size(), crc32(rest.data() + 9, 8, seed));
  if (sum != line.crc) return std::nullopt;
  return line;
}

/// Whether what starts at `at` is what an append that was not finished left or still leaves: the
/// start of a line that the file ends in, or one that has zeroes from some byte to the end of its
/// 512-byte sector.
bool is_torn(std::string_view content, size_t at) {
  const std::string_view rest = content.substr(at);
  const size_t newline = rest.find('\n');
  if (newline != std::string_view::npos && newline != rest.size() - 1) return false;
  const auto bytes = line_bytes(rest);
  if (bytes && rest.size() > *bytes) return false;
  if (const size_t hole = rest.find('\0'); hole != std::string_view::npos) {
    const size_t sector_end = ((at + hole) / kSectorBytes + 1) * kSectorBytes - at;
    const std::string_view zeroes = rest.substr(hole, sector_end - hole);
    return zeroes.find_first_not_of('\0') == std::string_view::npos;
  }
  if (rest.size() >= kPrefixBytes) {
    return bytes && newline == std::string_view::npos && rest.size() < *bytes;
  }
  for (size_t i = 0; i < rest.size(); ++i) {
    const bool space = i == 8 || i == 17;
    const bool digit = (rest[i] >= '0' && rest[i] <= '9') || (rest[i] >= 'a' && rest[i] <= 'f');
    if (space ? rest[i] != ' ' : !digit) return false;
  }
  return true;
}

bool get(const JsonValue& record, const char* name, uint64_t& to) {
  const JsonValue* value = record.field(name);
  if (value == nullptr || !value->count) return false;
  to = *value->count;
  return true;
}

bool get(const JsonValue& record, const char* name, Uuid& to) {
  const JsonValue* value = record.field(name);
  if (value == nullptr || value->kind != JsonValue::Kind::kText) return false;
  const auto uuid = Uuid::parse(value->text);
  if (uuid) to = *uuid;
  return uuid.is_ok();
}

/// A path below the group's folder, which may not lead out of it.
bool get_path(const JsonValue& record, std::string& to) {
  const JsonValue* value = record.field("path");
  if (value == nullptr || value->kind != JsonValue::Kind::kText) return false;
  to = value->text;
  if (to.empty() || to.front() == '/' || to.find('\0') != std::string::npos) return false;
  return ("/" + to + "/").find("/../") == std::string::npos;
}

template <typename Record, typename Same>
void replace_or_add(std::vector<Record>& records, Record record, Same same) {
  const auto found = std::find_if(records.begin(), records.end(), same);
  if (found == records.end()) {
    records.push_back(std::move(record));
  } else {
    *found = std::move(record);
  }
}

bool add_map(const JsonValue& record, Manifest& to) {
  ManifestMap map;
  if (!get(record, "id", map.id) || !get(record, "device", map.device) ||
      !get_path(record, map.path) || !get(record, "level", map.level) ||
      !get(record, "firstLsn", map.first_lsn) || !get(record, "lastLsn", map.last_lsn)) {
    return false;
  }
  to.maps.push_back(std::move(map));
  return true;
}

bool add_segment(const JsonValue& record, Manifest& to) {
  ManifestSegment segment;
  if (!get(record, "segment", segment.segment) || !get(record, "device", segment.device) ||
      !get_path(record, segment.path) || !get(record, "firstLsn", segment.first_lsn) ||
      !get(record, "lastLsn", segment.last_lsn)) {
    return false;
  }
  to.segments.push_back(std::move(segment));
  return true;
}

bool add_gap(const JsonValue& record, Manifest& to) {
  ManifestGap gap;
  const JsonValue* end = record.field("toLsn");
  if (!get(record, "fromLsn", gap.from_lsn) || end == nullptr) return false;
  if (end->kind != JsonValue::Kind::kNull) {
    if (!end->count) return false;
    gap.to_lsn = *end->count;
  }
  replace_or_add(to.gaps, gap,
                 [&](const ManifestGap& one) { return one.from_lsn == gap.from_lsn; });
  return true;
}

Status add_commit(const JsonValue& commit, size_t at, Manifest& to) {
  const JsonValue* records = commit.field("records");
  if (records == nullptr || records->kind != JsonValue::Kind::kList) {
    return damaged(at, "a line without records");
  }
  for (const JsonValue& record : records->items) {
    const JsonValue* kind = record.field("kind");
    const std::string name = kind == nullptr ? "" : kind->text;
    bool good = true;
    if (name == "map") {
      good = add_map(record, to);
    } else if (name == "segment") {
      good = add_segment(record, to);
    } else if (name == "gap") {
      good = add_gap(record, to);
    } else if (name != "group" && name != "volume" && name != "marker" && name != "unpin" &&
               name != "policy") {
      return Status(Code::kUnsupported, "manifest with a record of unknown kind \"" + name + "\"");
    }
    if (!good) return damaged(at, "a bad record of kind " + name);
  }
  return Status::ok();
}

Status check_header(const JsonValue& header, const Uuid& group) {
  const JsonValue* magic = header.field("magic");
  if (magic == nullptr || magic->text != "EPMANIFEST") {
    return damaged(0, "it is none (wrong magic)");
  }
  uint64_t version = 0;
  if (!get(header, "version", version) || version != 1) {
    return Status(Code::kUnsupported, "manifest of a version that this program does not read");
  }
  Uuid named;
  if (!get(header, "group", named) || named != group) return damaged(0, "it is another group's");
  return Status::ok();
}

/// Keeps the last of the records that `key` says are the same, in one pass.
template <typename Record, typename Key>
void keep_last(std::vector<Record>& records, Key key) {
  std::stable_sort(records.begin(), records.end(),
                   [&](const Record& a, const Record& b) { return key(a) < key(b); });
  size_t kept = 0;
  for (size_t i = 0; i < records.size(); ++i) {
    if (i + 1 < records.size() && key(records[i]) == key(records[i + 1])) continue;
    if (kept != i) records[kept] = std::move(records[i]);
    ++kept;
  }
  records.resize(kept);
}

}  // namespace

Result<Manifest> parse_manifest(std::string_view content, const Uuid& group) {
  Manifest manifest;
  uint32_t crc = 0;
  size_t at = 0;
  while (at < content.size()) {
    const auto line = good_line(content, at, crc);
    if (!line) {
      // The header was synced before the file got its name, so it is never torn.
      if (at != 0 && is_torn(content, at)) break;
      return damaged(at, "a line that is not good");
    }
    const auto value = parse_json(line->json);
    if (!value) return damaged(at, "a line that is no JSON");
    EP_TRY(at == 0 ? check_header(*value, group) : add_commit(*value, at, manifest));
    crc = line->crc;
    at = line->end;
  }
  if (at == 0) return damaged(0, "no header line");
  keep_last(manifest.maps, [](const ManifestMap& map) { return map.id; });
  keep_last(manifest.segments, [](const ManifestSegment& segment) { return segment.segment; });
  return manifest;
}

Result<Manifest> read_manifest(io::FileSystem& file_system, const std::string& path,
                               const Uuid& group) {
  const auto file = file_system.open(path, {.read_only = true});
  if (!file) return file.status();
  const auto info = file_system.info(*file);
  Status status = info.status();
  std::string content;
  if (info && info->size > kManifestBytesMax) {
    status = Status(Code::kCorruption, "manifest of too many bytes");
  } else if (info) {
    content.resize(info->size);
    size_t got = 0;
    status = file_system.read(*file, 0, content.data(), content.size(), &got);
    content.resize(std::min(got, content.size()));
  }
  file_system.close(*file);
  if (!status) return status;
  auto manifest = parse_manifest(content, group);
  if (!manifest) return Status(manifest.status().code(), path + ": " + manifest.status().message());
  return manifest;
}

}  // namespace ep::view

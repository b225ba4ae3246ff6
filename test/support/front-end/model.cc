// SPDX-License-Identifier: Apache-2.0
#include "front-end/model.h"

#include <algorithm>
#include <cstring>

#include "front-end/json.h"
#include "front-end/pattern.h"
#include "front-end/protocol.h"

namespace ep::front_end {

namespace {

bool all_zero(const uint8_t* data) {
  uint64_t any = 0;
  for (uint32_t i = 0; i < kSectorBytes; i += 8) {
    uint64_t word;
    std::memcpy(&word, data + i, sizeof word);
    any |= word;
  }
  return any == 0;
}

bool value_matches(const SectorValue& value, const uint8_t* data, uint32_t seed) {
  switch (value.kind) {
    case SectorValue::kZero:
      return all_zero(data);
    case SectorValue::kWrite:
      return sector_matches(data, seed, value.id, value.sector);
    case SectorValue::kAnything:
      return true;
  }
  return false;
}

}  // namespace

VolumeModel::VolumeModel(const Journal* journal, uint64_t sectors, bool known_zero)
    : journal_(journal), cells_(sectors) {
  if (known_zero) return;
  for (Cell& cell : cells_) cell.value.kind = SectorValue::kAnything;
}

uint32_t VolumeModel::complete_tick(const SectorValue& value) const {
  return value.id == 0 ? 0 : journal_->record(value.id).complete_tick;
}

void VolumeModel::put(uint64_t sector, const SectorValue& value, uint32_t submit_tick,
                      bool overwrites) {
  Cell& cell = cells_[sector];
  if (!cell.several && overwrites && complete_tick(cell.value) < submit_tick) {
    cell.value = value;
    return;
  }
  std::vector<SectorValue> values = candidates(sector);
  if (overwrites) {
    std::erase_if(values, [&](const SectorValue& old) { return complete_tick(old) < submit_tick; });
  }
  values.push_back(value);
  cell.several = values.size() > 1;
  cell.value = value;
  if (cell.several) {
    several_[sector] = std::move(values);
  } else {
    several_.erase(sector);
  }
}

void VolumeModel::complete(const JournalRecord& record, bool discard_any) {
  if (record.status == kStatusUnsupported) return;
  const uint64_t first = record.offset / kSectorBytes;
  const uint64_t count = record.length / kSectorBytes;
  const bool failed = record.status != kStatusOk;
  const bool overwrites = !failed && !(discard_any && record.type == kBlkDiscard);
  for (uint64_t i = 0; i < count; i++) {
    SectorValue value{record.id, static_cast<uint16_t>(i),
                      record.type == kBlkOut ? SectorValue::kWrite : SectorValue::kZero};
    if (failed) value.kind = SectorValue::kAnything;
    put(first + i, value, record.submit_tick, overwrites);
  }
}

std::vector<SectorValue> VolumeModel::candidates(uint64_t sector) const {
  const Cell& cell = cells_[sector];
  if (!cell.several) return {cell.value};
  return several_.at(sector);
}

bool VolumeModel::unknown(uint64_t sector) const {
  const Cell& cell = cells_[sector];
  if (!cell.several) return cell.value.kind == SectorValue::kAnything;
  const auto& values = several_.at(sector);
  return std::any_of(values.begin(), values.end(),
                     [](const SectorValue& v) { return v.kind == SectorValue::kAnything; });
}

bool VolumeModel::matches(uint64_t sector, const uint8_t* data, uint32_t seed) const {
  const Cell& cell = cells_[sector];
  if (!cell.several) return value_matches(cell.value, data, seed);
  const auto& values = several_.at(sector);
  return std::any_of(values.begin(), values.end(),
                     [&](const SectorValue& v) { return value_matches(v, data, seed); });
}

std::string VolumeModel::expected_json(uint64_t sector) const {
  std::string out = "[";
  for (const SectorValue& value : candidates(sector)) {
    if (out.size() > 1) out += ",";
    JsonLine one;
    one.number("id", value.id);
    one.text("kind", value.kind == SectorValue::kZero    ? "zero"
                     : value.kind == SectorValue::kWrite ? "write"
                                                         : "anything");
    if (value.kind == SectorValue::kWrite) one.number("sector", value.sector);
    out += one.str();
  }
  return out + "]";
}

std::string describe_sector(const uint8_t* data, uint32_t seed) {
  JsonLine out;
  Stamp stamp;
  if (all_zero(data)) {
    out.text("kind", "zero");
  } else if (read_stamp(data, &stamp)) {
    const bool whole = sector_matches(data, stamp.seed, stamp.id, stamp.sector);
    out.text("kind", whole ? "write" : "torn").number("id", stamp.id);
    out.number("sector", stamp.sector).number("seed", stamp.seed);
    out.boolean("thisRun", stamp.seed == seed);
  } else {
    out.text("kind", "other");
  }
  return out.str();
}

}  // namespace ep::front_end

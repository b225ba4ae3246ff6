// SPDX-License-Identifier: Apache-2.0
#include "format/group_record.h"

#include <algorithm>
#include <cstring>

#include "base/bytes.h"
#include "base/limits.h"

namespace ep::format {

namespace {
constexpr char kRecordMagic[8] = {'E', 'P', 'G', 'R', 'P', 'R', 'E', 'C'};
constexpr uint32_t kVersion = 1;
constexpr uint32_t kFlagClosed = 1;
constexpr uint32_t kFlagGap = 2;
constexpr uint32_t kFlagGapFromUnknown = 4;
constexpr uint32_t kFlagPaused = 8;
constexpr uint32_t kFlagResyncAll = 16;
constexpr size_t kReasonBytesMax = 254;
constexpr size_t kPrimaryOffset = 512;
constexpr size_t kPrimaryBytes = 32;
static_assert(kPrimaryOffset + limits::kVolumesPerGroupMax * kPrimaryBytes <=
              kGroupRecordSlotBytes);

uint32_t slot_crc(const uint8_t* slot) {
  static constexpr uint8_t kZero[4] = {};
  uint32_t crc = crc32(slot, 12);
  crc = crc32(kZero, 4, crc);
  return crc32(slot + 16, kGroupRecordSlotBytes - 16, crc);
}
}  // namespace

void encode_group_record(const GroupRecord& record, uint8_t* to) {
  EP_ASSERT(record.primaries.size() <= limits::kVolumesPerGroupMax);
  std::memset(to, 0, kGroupRecordSlotBytes);
  std::memcpy(to, kRecordMagic, 8);
  store_le<uint32_t>(to + 8, kVersion);
  std::memcpy(to + 16, record.group.bytes.data(), 16);
  store_le<uint64_t>(to + 32, record.sequence);
  store_le<uint64_t>(to + 40, record.epoch);
  store_le<uint64_t>(to + 48, record.reserved_lsn);
  store_le<uint32_t>(
      to + 56, (record.closed_cleanly ? kFlagClosed : 0) | (record.in_gap ? kFlagGap : 0) |
                   (record.gap_from_unknown ? kFlagGapFromUnknown : 0) |
                   (record.paused ? kFlagPaused : 0) | (record.resync_all ? kFlagResyncAll : 0));
  store_le<uint32_t>(to + 60, static_cast<uint32_t>(record.primaries.size()));
  store_le<uint64_t>(to + 64, record.last_lsn);
  store_le<uint64_t>(to + 72, record.last_time_ns);
  store_le<uint64_t>(to + 80, record.gap.from_lsn);
  store_le<uint64_t>(to + 88, record.gap.from_ns);
  store_le<uint64_t>(to + 96, record.gap.to_lsn);
  store_le<uint64_t>(to + 104, record.gap.to_ns);
  const size_t reason = std::min(record.gap.reason.size(), kReasonBytesMax);
  store_le<uint16_t>(to + 112, static_cast<uint16_t>(reason));
  std::memcpy(to + 114, record.gap.reason.data(), reason);
  uint8_t* at = to + kPrimaryOffset;
  for (const GroupRecord::Primary& primary : record.primaries) {
    store_le<uint16_t>(at, primary.volume);
    store_le<uint64_t>(at + 8, primary.look.size_bytes);
    store_le<uint64_t>(at + 16, primary.look.mtime_ns);
    store_le<uint64_t>(at + 24, primary.look.ctime_ns);
    at += kPrimaryBytes;
  }
  store_le<uint32_t>(to + 12, slot_crc(to));
}

Result<GroupRecord> decode_group_record(std::span<const uint8_t> from) {
  if (from.size() < kGroupRecordSlotBytes)
    return Status(Code::kCorruption, "group record is cut off");
  const uint8_t* at = from.data();
  if (std::all_of(at, at + kGroupRecordSlotBytes, [](uint8_t byte) { return byte == 0; })) {
    return Status(Code::kNotFound, "group record slot was never written");
  }
  if (std::memcmp(at, kRecordMagic, 8) != 0)
    return Status(Code::kCorruption, "no group record here");
  if (load_le<uint32_t>(at + 8) != kVersion) {
    return Status(Code::kUnsupported, "group record of version " +
                                          std::to_string(load_le<uint32_t>(at + 8)) +
                                          ", this program reads 1");
  }
  const uint32_t primaries = load_le<uint32_t>(at + 60);
  const uint16_t reason = load_le<uint16_t>(at + 112);
  if (load_le<uint32_t>(at + 12) != slot_crc(at) || primaries > limits::kVolumesPerGroupMax ||
      reason > kReasonBytesMax) {
    return Status(Code::kCorruption, "group record fails its checksum");
  }
  GroupRecord record;
  std::memcpy(record.group.bytes.data(), at + 16, 16);
  record.sequence = load_le<uint64_t>(at + 32);
  record.epoch = load_le<uint64_t>(at + 40);
  record.reserved_lsn = load_le<uint64_t>(at + 48);
  const uint32_t flags = load_le<uint32_t>(at + 56);
  record.closed_cleanly = (flags & kFlagClosed) != 0;
  record.in_gap = (flags & kFlagGap) != 0;
  record.gap_from_unknown = (flags & kFlagGapFromUnknown) != 0;
  record.paused = (flags & kFlagPaused) != 0;
  record.resync_all = (flags & kFlagResyncAll) != 0;
  record.last_lsn = load_le<uint64_t>(at + 64);
  record.last_time_ns = load_le<uint64_t>(at + 72);
  record.gap.from_lsn = load_le<uint64_t>(at + 80);
  record.gap.from_ns = load_le<uint64_t>(at + 88);
  record.gap.to_lsn = load_le<uint64_t>(at + 96);
  record.gap.to_ns = load_le<uint64_t>(at + 104);
  record.gap.reason.assign(reinterpret_cast<const char*>(at) + 114, reason);
  for (uint32_t i = 0; i < primaries; ++i) {
    const uint8_t* primary = at + kPrimaryOffset + i * kPrimaryBytes;
    record.primaries.push_back({load_le<uint16_t>(primary),
                                {load_le<uint64_t>(primary + 8), load_le<uint64_t>(primary + 16),
                                 load_le<uint64_t>(primary + 24)}});
  }
  return record;
}

}  // namespace ep::format

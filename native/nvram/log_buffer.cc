// SPDX-License-Identifier: Apache-2.0
#include "nvram/log_buffer.h"

#include <algorithm>
#include <atomic>
#include <cstring>

#include "base/limits.h"

namespace ep::nvram {

namespace {

constexpr char kMagic[8] = {'E', 'P', 'L', 'O', 'G', 'B', 'U', 'F'};
constexpr uint32_t kVersion = 1;
constexpr uint64_t kHeaderBytes = kPageBytes;
constexpr uint64_t kStaticBytes = 512;
constexpr uint64_t kSlotBytes = 64;
constexpr uint64_t kBootOffset = 64;
constexpr uint64_t kBootBytes = 40;
constexpr uint64_t kTailOffset = 512;
constexpr uint64_t kStateOffset = 520;
constexpr uint32_t kStateFormatting = 0;
constexpr uint32_t kStateInUse = 1;
constexpr uint32_t kStateRetired = 2;

/// In-place fields are read by the next process after a crash of this one: one store each, not to
/// be moved by the compiler across the stores before it.
template <typename T>
void publish(uint8_t* to, T value) {
  std::atomic_ref<T>(*reinterpret_cast<T*>(to)).store(value, std::memory_order_release);
}

uint32_t header_crc(const uint8_t* header) {
  static constexpr uint8_t kZero[4] = {};
  uint32_t crc = crc32(header, 12);
  crc = crc32(kZero, 4, crc);
  return crc32(header + 16, kStaticBytes - 16, crc);
}

uint32_t slots_for(uint64_t data_bytes) {
  return static_cast<uint32_t>(data_bytes / (1024 * 1024) * limits::kBufferSlotsPerDataMiB);
}

}  // namespace

uint64_t LogBuffer::region_bytes(uint64_t data_bytes) {
  return kHeaderBytes + slots_for(data_bytes) * kSlotBytes + data_bytes;
}

LogBuffer::Found LogBuffer::inspect(const Region& region, const Uuid& group,
                                    const std::string& boot) {
  const uint8_t* header = region.base();
  Found found;
  if (std::memcmp(header, kMagic, 8) != 0) return found;
  found.kind = Found::Kind::kForeign;
  char text[kBootBytes] = {};
  boot.copy(text, kBootBytes - 1);
  if (std::memcmp(header + 16, group.bytes.data(), 16) != 0 ||
      std::memcmp(header + kBootOffset, text, kBootBytes) != 0) {
    return found;
  }
  // Before the sum is looked at: a formatting that was cut short leaves a header that fails it,
  // but magic, group and boot id are rewritten with the bytes that already stood there.
  if (load_le<uint32_t>(header + kStateOffset) == kStateFormatting) {
    found.kind = Found::Kind::kFormatting;
    return found;
  }
  const uint64_t data_bytes = load_le<uint64_t>(header + 48);
  if (load_le<uint32_t>(header + 8) != kVersion ||
      load_le<uint32_t>(header + 12) != header_crc(header) || region.size() < data_bytes ||
      region_bytes(data_bytes) != region.size() ||
      load_le<uint32_t>(header + 40) != slots_for(data_bytes)) {
    return found;
  }
  found.epoch = load_le<uint64_t>(header + 32);
  found.tail_lsn = load_le<uint64_t>(header + kTailOffset);
  switch (load_le<uint32_t>(header + kStateOffset)) {
    case kStateInUse:
      found.kind = Found::Kind::kEntries;
      break;
    case kStateRetired:
      found.kind = Found::Kind::kRetired;
      break;
    default:
      break;
  }
  return found;
}

void LogBuffer::bind(Region* region) {
  header_ = region->base();
  slots_ = load_le<uint32_t>(header_ + 40);
  data_bytes_ = load_le<uint64_t>(header_ + 48);
  epoch_ = load_le<uint64_t>(header_ + 32);
  slot_ring_ = header_ + kHeaderBytes;
  data_ring_ = slot_ring_ + slots_ * kSlotBytes;
}

LogBuffer LogBuffer::attach(Region* region, const Found& found) {
  EP_ASSERT(found.kind == Found::Kind::kEntries);
  LogBuffer buffer;
  buffer.bind(region);
  buffer.tail_lsn_ = found.tail_lsn;
  buffer.head_lsn_ = found.tail_lsn;
  bool first = true;
  while (buffer.head_lsn_ - buffer.tail_lsn_ < buffer.slots_) {
    const uint64_t lsn = buffer.head_lsn_;
    const uint8_t* slot = buffer.slot(lsn);
    if (load_le<uint32_t>(slot) != crc32(slot + 4, 56) || load_le<uint64_t>(slot + 8) != lsn ||
        load_le<uint64_t>(slot + 48) != buffer.epoch_) {
      break;
    }
    const uint64_t position = load_le<uint64_t>(slot + 40);
    const uint8_t type = slot[4];
    if (type < static_cast<uint8_t>(format::EntryType::kWrite) ||
        type > static_cast<uint8_t>(format::EntryType::kUnknown)) {
      break;
    }
    format::Entry entry;
    entry.type = static_cast<format::EntryType>(type);
    entry.sectors = load_le<uint32_t>(slot + 32);
    const uint64_t bytes = uint64_t{entry.payload_sectors()} * kSectorBytes;
    const uint64_t offset = position % buffer.data_bytes_;
    if (bytes > buffer.data_bytes_ - offset) break;
    if (crc32(buffer.data_ring_ + offset, bytes) != load_le<uint32_t>(slot + 36)) break;
    if (first) buffer.tail_position_ = position;
    first = false;
    buffer.head_position_ = position + bytes;
    ++buffer.head_lsn_;
  }
  return buffer;
}

LogBuffer LogBuffer::format(Region* region, const Uuid& group, const std::string& boot,
                            uint64_t epoch, uint64_t first_lsn) {
  uint8_t* header = region->base();
  // The data ring is what is left of the region in whole MiB.
  uint64_t data_bytes = (region->size() - kHeaderBytes) / (1024 * 1024) * (1024 * 1024);
  while (region_bytes(data_bytes) > region->size()) data_bytes -= 1024 * 1024;
  EP_ASSERT(region_bytes(data_bytes) == region->size());
  publish<uint32_t>(header + kStateOffset, kStateFormatting);
  uint8_t fresh[kStaticBytes] = {};
  std::memcpy(fresh, kMagic, 8);
  store_le<uint32_t>(fresh + 8, kVersion);
  std::memcpy(fresh + 16, group.bytes.data(), 16);
  store_le<uint64_t>(fresh + 32, epoch);
  store_le<uint32_t>(fresh + 40, slots_for(data_bytes));
  store_le<uint64_t>(fresh + 48, data_bytes);
  store_le<uint64_t>(fresh + 56, first_lsn);
  boot.copy(reinterpret_cast<char*>(fresh) + kBootOffset, kBootBytes - 1);
  store_le<uint32_t>(fresh + 12, header_crc(fresh));
  // A crash in the middle of this copy leaves state 0 with magic and group in place: kFormatting.
  std::memcpy(header + 64, fresh + 64, kStaticBytes - 64);
  std::memcpy(header, fresh, 64);
  publish<uint64_t>(header + kTailOffset, first_lsn);
  LogBuffer buffer;
  buffer.bind(region);
  buffer.tail_lsn_ = first_lsn;
  buffer.head_lsn_ = first_lsn;
  // Slots of an older run name another epoch and so are never mistaken for ones of this.
  publish<uint32_t>(header + kStateOffset, kStateInUse);
  return buffer;
}

uint8_t* LogBuffer::slot(uint64_t lsn) const { return slot_ring_ + (lsn % slots_) * kSlotBytes; }

uint64_t LogBuffer::position_for(uint64_t bytes) const {
  const uint64_t offset = head_position_ % data_bytes_;
  if (offset + bytes > data_bytes_) return head_position_ + (data_bytes_ - offset);
  return head_position_;
}

bool LogBuffer::has_room(uint64_t bytes) const {
  if (head_lsn_ - tail_lsn_ >= slots_) return false;
  return position_for(bytes) + bytes - tail_position_ <= data_bytes_;
}

uint8_t* LogBuffer::next_data(uint64_t bytes) {
  return data_ring_ + position_for(bytes) % data_bytes_;
}

uint64_t LogBuffer::append(const format::Entry& entry, PrimaryState primary) {
  const uint64_t bytes = uint64_t{entry.payload_sectors()} * kSectorBytes;
  EP_ASSERT(has_room(bytes));
  const uint64_t lsn = head_lsn_;
  const uint64_t position = position_for(bytes);
  uint8_t* to = slot(lsn);
  // An old sum next to new fields must not pass: take it away first.
  publish<uint32_t>(to, 0);
  uint8_t fresh[kSlotBytes] = {};
  fresh[4] = static_cast<uint8_t>(entry.type);
  fresh[5] = entry.flags;
  store_le<uint16_t>(fresh + 6, entry.volume);
  store_le<uint64_t>(fresh + 8, lsn);
  store_le<uint64_t>(fresh + 16, entry.sector);
  store_le<uint64_t>(fresh + 24, entry.time_ns);
  store_le<uint32_t>(fresh + 32, entry.sectors);
  store_le<uint32_t>(fresh + 36, entry.data_crc);
  store_le<uint64_t>(fresh + 40, position);
  store_le<uint64_t>(fresh + 48, epoch_);
  fresh[60] = static_cast<uint8_t>(primary);
  std::memcpy(to + 4, fresh + 4, kSlotBytes - 4);
  publish<uint32_t>(to, crc32(fresh + 4, 56));
  if (tail_lsn_ == head_lsn_) tail_position_ = position;
  head_position_ = position + bytes;
  ++head_lsn_;
  return lsn;
}

BufferedEntry LogBuffer::at(uint64_t lsn) const {
  EP_ASSERT(lsn >= tail_lsn_ && lsn < head_lsn_);
  const uint8_t* from = slot(lsn);
  BufferedEntry found;
  found.entry.type = static_cast<format::EntryType>(from[4]);
  found.entry.flags = from[5];
  found.entry.volume = load_le<uint16_t>(from + 6);
  found.entry.sector = load_le<uint64_t>(from + 16);
  found.entry.time_ns = load_le<uint64_t>(from + 24);
  found.entry.sectors = load_le<uint32_t>(from + 32);
  found.entry.data_crc = load_le<uint32_t>(from + 36);
  found.primary = static_cast<PrimaryState>(from[60]);
  found.data = data_ring_ + load_le<uint64_t>(from + 40) % data_bytes_;
  return found;
}

format::HeldEntry LogBuffer::held(uint64_t lsn) const { return at(lsn); }

uint64_t LogBuffer::bytes_since(uint64_t lsn) const {
  EP_ASSERT(lsn >= tail_lsn_ && lsn <= head_lsn_);
  return lsn == head_lsn_ ? 0 : head_position_ - load_le<uint64_t>(slot(lsn) + 40);
}

void LogBuffer::set_primary_state(uint64_t lsn, PrimaryState state) {
  EP_ASSERT(lsn >= tail_lsn_ && lsn < head_lsn_);
  publish<uint8_t>(slot(lsn) + 60, static_cast<uint8_t>(state));
}

void LogBuffer::release_before(uint64_t lsn) {
  EP_ASSERT(lsn >= tail_lsn_ && lsn <= head_lsn_);
  if (lsn == tail_lsn_) return;
  tail_position_ = lsn == head_lsn_ ? head_position_ : load_le<uint64_t>(slot(lsn) + 40);
  tail_lsn_ = lsn;
  publish<uint64_t>(header_ + kTailOffset, lsn);
}

void LogBuffer::retire() { publish<uint32_t>(header_ + kStateOffset, kStateRetired); }

}  // namespace ep::nvram

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
constexpr uint64_t kStaticBytes = 512;
constexpr uint64_t kSlotBytes = 64;
constexpr uint64_t kBootOffset = 64;
constexpr uint64_t kBootBytes = 40;
constexpr uint64_t kTailOffset = 512;
constexpr uint64_t kStateOffset = 520;
constexpr uint64_t kCheckpointOffset = 528;
constexpr uint64_t kCopyOffset = 536;
constexpr uint64_t kHeaderEnd = 540;
constexpr uint64_t kMiB = 1024 * 1024;
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
  return static_cast<uint32_t>(data_bytes / kMiB * limits::kBufferSlotsPerDataMiB);
}

}  // namespace

uint64_t LogBuffer::region_bytes(uint64_t data_bytes) {
  return kHeaderBytes + slots_for(data_bytes) * kSlotBytes + data_bytes;
}

uint64_t LogBuffer::fit_data_bytes(uint64_t bytes) {
  if (bytes < region_bytes(kMiB)) return 0;
  return (bytes - kHeaderBytes) / (region_bytes(kMiB) - kHeaderBytes) * kMiB;
}

LogBuffer::Found LogBuffer::inspect(const Region& region, const Uuid& group,
                                    const std::string& boot) {
  const bool copy = load_le<uint32_t>(region.base() + kCopyOffset) != 0;
  Found found =
      inspect_page(region.base(), region.size(), group, boot, copy || region.survives_power_cut());
  found.from_mirror = copy;
  return found;
}

LogBuffer::Found LogBuffer::inspect_page(const uint8_t* header, uint64_t size, const Uuid& group,
                                         const std::string& boot, bool any_boot) {
  Found found;
  if (std::memcmp(header, kMagic, 8) != 0) return found;
  found.kind = Found::Kind::kForeign;
  char text[kBootBytes] = {};
  boot.copy(text, kBootBytes - 1);
  // An empty boot id is no boot's: where the kernel tells none, every boot is another.
  found.other_boot = boot.empty() || std::memcmp(header + kBootOffset, text, kBootBytes) != 0;
  if (std::memcmp(header + 16, group.bytes.data(), 16) != 0 || (found.other_boot && !any_boot)) {
    return found;
  }
  // Before the sum is looked at: a formatting that was cut short leaves a header that fails it,
  // but magic and group are rewritten with the bytes that already stood there (and the boot id too,
  // where another boot's is not accepted).
  if (load_le<uint32_t>(header + kStateOffset) == kStateFormatting) {
    found.kind = Found::Kind::kFormatting;
    return found;
  }
  const uint64_t data_bytes = load_le<uint64_t>(header + 48);
  if (load_le<uint32_t>(header + 8) != kVersion ||
      load_le<uint32_t>(header + 12) != header_crc(header) || size < data_bytes ||
      region_bytes(data_bytes) != size || load_le<uint32_t>(header + 40) != slots_for(data_bytes)) {
    return found;
  }
  found.epoch = load_le<uint64_t>(header + 32);
  found.first_lsn = load_le<uint64_t>(header + 56);
  found.tail_lsn = load_le<uint64_t>(header + kTailOffset);
  found.checkpoint = load_le<uint64_t>(header + kCheckpointOffset);
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

std::optional<Uuid> LogBuffer::group_of_page(const uint8_t* page) {
  if (std::memcmp(page, kMagic, 8) != 0 || load_le<uint32_t>(page + 12) != header_crc(page)) {
    return std::nullopt;
  }
  Uuid group;
  std::memcpy(group.bytes.data(), page + 16, 16);
  return group;
}

void LogBuffer::mark_as_copy(uint8_t* page) { store_le<uint32_t>(page + kCopyOffset, 1); }

void LogBuffer::bind(Region* region) {
  region_ = region;
  header_ = region->base();
  slots_ = load_le<uint32_t>(header_ + 40);
  data_bytes_ = load_le<uint64_t>(header_ + 48);
  epoch_ = load_le<uint64_t>(header_ + 32);
  slot_ring_ = header_ + kHeaderBytes;
  data_ring_ = slot_ring_ + slots_ * kSlotBytes;
}

LogBuffer LogBuffer::attach(Region* region, const Found& found, uint64_t from_lsn) {
  EP_ASSERT(found.kind == Found::Kind::kEntries);
  LogBuffer buffer;
  buffer.bind(region);
  buffer.tail_lsn_ = std::max(found.tail_lsn, from_lsn);
  buffer.head_lsn_ = buffer.tail_lsn_;
  bool first = true;
  while (buffer.head_lsn_ - buffer.tail_lsn_ < buffer.slots_) {
    const uint64_t lsn = buffer.head_lsn_;
    uint8_t* slot = buffer.slot(lsn);
    if (load_le<uint32_t>(slot) != crc32(slot + 4, 56) || load_le<uint64_t>(slot + 8) != lsn ||
        load_le<uint64_t>(slot + 48) != buffer.epoch_) {
      break;
    }
    const uint64_t position = load_le<uint64_t>(slot + 40);
    const uint8_t type = slot[4];
    if (type < static_cast<uint8_t>(format::EntryType::kWrite) ||
        type > static_cast<uint8_t>(format::EntryType::kGap)) {
      break;
    }
    format::Entry entry;
    entry.type = static_cast<format::EntryType>(type);
    entry.sectors = load_le<uint32_t>(slot + 32);
    const uint64_t bytes = uint64_t{entry.payload_sectors()} * kSectorBytes;
    const uint64_t offset = position % buffer.data_bytes_;
    if (bytes > buffer.data_bytes_ - offset) break;
    if (crc32(buffer.data_ring_ + offset, bytes) != load_le<uint32_t>(slot + 36)) break;
    // Any value of a damaged byte but kFailed reads as the careful one.
    if (slot[60] > static_cast<uint8_t>(PrimaryState::kFailed) ||
        (found.other_boot && slot[60] == static_cast<uint8_t>(PrimaryState::kDone))) {
      slot[60] = static_cast<uint8_t>(PrimaryState::kPending);
    }
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
  const uint64_t data_bytes = fit_data_bytes(region->size());
  EP_ASSERT(data_bytes != 0 && region_bytes(data_bytes) == region->size());
  publish<uint32_t>(header + kStateOffset, kStateFormatting);
  region->persist(header + kStateOffset, 4);
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
  // A format is only begun when everything before it is safe, on the primaries too.
  publish<uint64_t>(header + kCheckpointOffset, first_lsn - 1);
  publish<uint32_t>(header + kCopyOffset, 0);
  region->persist(header, kHeaderEnd);
  LogBuffer buffer;
  buffer.bind(region);
  buffer.tail_lsn_ = first_lsn;
  buffer.head_lsn_ = first_lsn;
  // Slots of an older run name another epoch and so are never mistaken for ones of this.
  publish<uint32_t>(header + kStateOffset, kStateInUse);
  region->persist(header + kStateOffset, 4);
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
  if (bytes != 0) region_->persist(data_ring_ + position % data_bytes_, bytes);
  uint8_t* to = slot(lsn);
  // An old sum next to new fields must not pass: take it away first. A slot is one cache line,
  // whose stores reach persistent memory in this very order, so that one persist at the end will
  // do.
  publish<uint32_t>(to, 0);
  std::atomic_signal_fence(std::memory_order_seq_cst);
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
  region_->persist(to, kSlotBytes);
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
  uint8_t* to = slot(lsn) + 60;
  publish<uint8_t>(to, static_cast<uint8_t>(state));
  if (state == PrimaryState::kFailed) region_->persist(to, 1);
}

void LogBuffer::release_before(uint64_t lsn) {
  EP_ASSERT(lsn >= tail_lsn_ && lsn <= head_lsn_);
  if (lsn == tail_lsn_) return;
  tail_position_ = lsn == head_lsn_ ? head_position_ : load_le<uint64_t>(slot(lsn) + 40);
  tail_lsn_ = lsn;
  publish<uint64_t>(header_ + kTailOffset, lsn);
  region_->persist(header_ + kTailOffset, 8);
}

void LogBuffer::retire() {
  publish<uint32_t>(header_ + kStateOffset, kStateRetired);
  region_->persist(header_ + kStateOffset, 4);
}

void LogBuffer::set_checkpoint(uint64_t lsn) {
  EP_ASSERT(lsn < head_lsn_);
  if (lsn <= checkpoint()) return;
  publish<uint64_t>(header_ + kCheckpointOffset, lsn);
  region_->persist(header_ + kCheckpointOffset, 8);
}

uint64_t LogBuffer::checkpoint() const { return load_le<uint64_t>(header_ + kCheckpointOffset); }

LogBuffer::Placement LogBuffer::placement(uint64_t lsn) const {
  const BufferedEntry entry = at(lsn);
  const uint8_t* base = region_->base();
  return {static_cast<uint64_t>(slot(lsn) - base), static_cast<uint64_t>(entry.data - base),
          uint64_t{entry.entry.payload_sectors()} * kSectorBytes};
}

}  // namespace ep::nvram

// SPDX-License-Identifier: Apache-2.0
#pragma once

// The NVRAM-style ring in front of the log [0045]: every entry is copied here once, and both
// writes, to the primary and to the segment, go out from this copy. Layout: log-buffer-format.md.
//
// An entry's slot is number `lsn % slots`, so LSNs alone say what is held: [tail, head). Data
// stands in a second ring in the same order, packed by sectors, each entry's in one piece (the end
// of the ring is skipped when an entry does not fit before it). The ring frees from its tail only.

#include <cstdint>
#include <string>

#include "base/status.h"
#include "base/uuid.h"
#include "format/entry_source.h"
#include "nvram/region.h"

namespace ep::nvram {

/// What became of an entry's write to the primary; in the slot, outside its checksum. Stored:
/// values are frozen.
enum class PrimaryState : uint8_t { kPending = 0, kDone = 1, kFailed = 2 };

/// An entry as the buffer holds it, its data in the ring.
struct BufferedEntry : format::HeldEntry {
  PrimaryState primary = PrimaryState::kPending;
};

class LogBuffer : public format::EntrySource {
 public:
  /// Bytes of region for a data ring of `data_bytes`.
  static uint64_t region_bytes(uint64_t data_bytes);

  /// What recovery finds in a region, before it is used again.
  struct Found {
    enum class Kind : uint8_t {
      kNothing,     // no buffer of this group here
      kForeign,     // of another boot or group, or damaged
      kFormatting,  // a formatting did not end: all before it was safe already
      kEntries,     // of epoch `epoch`, holding [tail_lsn, …)
      kRetired,     // given up by a gap
    };
    Kind kind = Kind::kNothing;
    uint64_t epoch = 0;
    uint64_t tail_lsn = 0;
  };
  static Found inspect(const Region& region, const Uuid& group, const std::string& boot);

  /// For recovery: attaches to what inspect found (kEntries) and finds the head by reading slots
  /// from the tail on; an entry counts when slot and data pass their checksums.
  static LogBuffer attach(Region* region, const Found& found);

  /// Starts a new, empty epoch. A crash in the middle leaves kFormatting.
  static LogBuffer format(Region* region, const Uuid& group, const std::string& boot,
                          uint64_t epoch, uint64_t first_lsn);

  [[nodiscard]] uint64_t tail() const { return tail_lsn_; }
  /// One past the last entry.
  [[nodiscard]] uint64_t head() const override { return head_lsn_; }
  [[nodiscard]] uint64_t data_bytes() const override { return data_bytes_; }
  [[nodiscard]] uint64_t used_bytes() const { return head_position_ - tail_position_; }
  [[nodiscard]] uint32_t slots() const { return slots_; }
  [[nodiscard]] uint64_t bytes_since(uint64_t lsn) const override;

  /// Room for one more entry with `bytes` of data (a multiple of 512).
  [[nodiscard]] bool has_room(uint64_t bytes) const;
  /// Where the next entry's data goes; has_room(bytes) was true. Nothing is taken until append.
  [[nodiscard]] uint8_t* next_data(uint64_t bytes);
  /// Publishes the entry at head() whose data stands at next_data(): from here on it survives a
  /// crash of the process. Returns its LSN.
  uint64_t append(const format::Entry& entry, PrimaryState primary);

  /// An entry in [tail, head).
  [[nodiscard]] BufferedEntry at(uint64_t lsn) const;
  [[nodiscard]] format::HeldEntry held(uint64_t lsn) const override;
  void set_primary_state(uint64_t lsn, PrimaryState state);
  /// Frees every entry before `lsn`.
  void release_before(uint64_t lsn);
  /// Marks the buffer as given up; recovery ignores its content from now on.
  void retire();

  LogBuffer(LogBuffer&&) = default;
  LogBuffer& operator=(LogBuffer&&) = default;

 private:
  LogBuffer() = default;
  void bind(Region* region);
  [[nodiscard]] uint8_t* slot(uint64_t lsn) const;
  [[nodiscard]] uint64_t position_for(uint64_t bytes) const;

  uint8_t* header_ = nullptr;
  uint8_t* slot_ring_ = nullptr;
  uint8_t* data_ring_ = nullptr;
  uint32_t slots_ = 0;
  uint64_t data_bytes_ = 0;
  uint64_t epoch_ = 0;
  uint64_t tail_lsn_ = 0;
  uint64_t head_lsn_ = 0;
  uint64_t tail_position_ = 0;  // bytes since the epoch began, as a position modulo data_bytes_
  uint64_t head_position_ = 0;
};

}  // namespace ep::nvram

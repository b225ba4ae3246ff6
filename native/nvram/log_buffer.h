// SPDX-License-Identifier: Apache-2.0
#pragma once

// The NVRAM-style ring in front of the log [0045]: every entry is copied here once, and both
// writes, to the primary and to the segment, go out from this copy. Layout: log-buffer-format.md.
//
// An entry's slot is number `lsn % slots`, so LSNs alone say what is held: [tail, head). Data
// stands in a second ring in the same order, packed by sectors, each entry's in one piece (the end
// of the ring is skipped when an entry does not fit before it). The ring frees from its tail only.
//
// On persistent memory the same calls make things durable, through Region::persist:
//   format             header, then its state
//   append             data, then the slot; both stand behind checksums, so no order of stores can
//                      pass off half an entry, and when append returns the entry survives
//   release_before     the tail, at once: slots and data behind it are used again by the next
//   append set_checkpoint, retire, kFailed   one line each; they are rare kDone              not at
//   all. It says that the primary's write *completed*, which is worth
//                      something after a crash of the process (the kernel has the write, and this
//                      memory has every store), and nothing after a power cut: the drive may have
//                      had it in a cache. Then only the checkpoint counts, and attach says
//                      kPending.
//   (kFailed is worth a line: the guest was told of the error; redoing the write after a power cut
//   would bring back on the primary what was refused.)

#include <cstdint>
#include <optional>
#include <string>

#include "base/bytes.h"
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
      kForeign,     // of another group, or damaged, or of another boot where that matters
      kFormatting,  // a formatting did not end: all before it was safe already
      kEntries,     // of epoch `epoch`, holding [tail_lsn, …)
      kRetired,     // given up by a gap
    };
    Kind kind = Kind::kNothing;
    uint64_t epoch = 0;
    uint64_t first_lsn = 0;
    /// In a mirror's copy as old as the last write of the header; never too high.
    uint64_t tail_lsn = 0;
    /// Every primary is known to be synced past all entries up to here.
    uint64_t checkpoint = 0;
    /// Written in another boot: what was kDone then may not be on the primary now. Only where the
    /// region survives a power cut or was loaded from a mirror; elsewhere that is kForeign.
    bool other_boot = false;
    /// Loaded from a mirror: holds what was committed, and perhaps not the last entries that may
    /// have reached a primary. The log is *not* complete (design 4, "Opening a group").
    bool from_mirror = false;
  };
  static Found inspect(const Region& region, const Uuid& group, const std::string& boot);
  /// The same of a header page alone, of a region of `size` bytes; `any_boot` as for a mirror.
  static Found inspect_page(const uint8_t* page, uint64_t size, const Uuid& group,
                            const std::string& boot, bool any_boot);
  /// The group that a page names, where it is the good header of a buffer.
  static std::optional<Uuid> group_of_page(const uint8_t* page);
  /// Marks a region's header as loaded from a mirror; format takes the mark away.
  static void mark_as_copy(uint8_t* page);
  static constexpr uint64_t kHeaderBytes = kPageBytes;
  /// The largest data ring in whole MiB that fits into `bytes` of region; 0 when none does.
  static uint64_t fit_data_bytes(uint64_t bytes);

  /// For recovery: attaches to what inspect found (kEntries) and finds the head by reading slots
  /// from `from_lsn` on; an entry counts when slot and data pass their checksums. The log has all
  /// before from_lsn, so that neither a stale tail nor what became of older slots matters. The
  /// result holds [max(found.tail_lsn, from_lsn), head): a tail above from_lsn means that entries
  /// are missing which the log once had.
  static LogBuffer attach(Region* region, const Found& found, uint64_t from_lsn);
  /// From the tail on: right wherever the tail is (all but a mirror's copy), when entries that the
  /// log has are still wanted for a redo.
  static LogBuffer attach(Region* region, const Found& found) {
    return attach(region, found, found.tail_lsn);
  }

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
  /// Notes, durably where the region can, that every primary was synced after all its writes up to
  /// `lsn` were done. Only grows. After a crash of the process this is a lower bound only.
  void set_checkpoint(uint64_t lsn);
  [[nodiscard]] uint64_t checkpoint() const;

  /// Where an entry in [tail, head) stands: offsets in the region.
  struct Placement {
    uint64_t slot_offset = 0;
    uint64_t data_offset = 0;
    uint64_t data_bytes = 0;
  };
  [[nodiscard]] Placement placement(uint64_t lsn) const;
  [[nodiscard]] const Region& region() const { return *region_; }
  [[nodiscard]] uint64_t epoch() const { return epoch_; }

  LogBuffer(LogBuffer&&) = default;
  LogBuffer& operator=(LogBuffer&&) = default;

 private:
  LogBuffer() = default;
  void bind(Region* region);
  [[nodiscard]] uint8_t* slot(uint64_t lsn) const;
  [[nodiscard]] uint64_t position_for(uint64_t bytes) const;

  Region* region_ = nullptr;
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

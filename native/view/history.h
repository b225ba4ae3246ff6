// SPDX-License-Identifier: Apache-2.0
#pragma once

// The disk contents that a group's secondary holds: delta maps of what is mapped, segments for the
// rest, composed as far as they are asked for (design 6). Reads alone; nothing is changed, locked
// or waited for.

#include <cstdint>
#include <memory>
#include <vector>

#include "base/status.h"
#include "base/uuid.h"
#include "io/io.h"
#include "log/segment_info.h"

namespace ep::view {

/// History of one group as it stands on the secondary when it is opened: every entry in sealed
/// segments, and in others up to their last good batch. What is logged later is not in it.
class History {
 public:
  struct Input {
    io::FileSystem* file_system = nullptr;
    Uuid group;
    std::vector<log::DeviceFolder> devices;
  };

  /// What reading has cost so far; for figures and tests.
  struct Counters {
    uint64_t maps = 0;      // that are looked into
    uint64_t segments = 0;  // unmapped ones that are looked into
    uint64_t indexes_built = 0;
    uint64_t blocks_read = 0;
    uint64_t tables_read = 0;
    uint64_t data_reads = 0;
    uint64_t data_bytes_read = 0;
  };

  /// Blocking. Finds maps (by the manifests) and the segments that no map covers, and checks that
  /// together they are every LSN from 1 to the newest, but for recorded gaps. Entries above
  /// `through_lsn` do not count; nothing but memory is held for what is not needed.
  /// kCorruption or kIoError when a part is missing or cannot be read, kUnsupported when a part is
  /// of another version and nothing else has what it has. A manifest that is missing, lags behind
  /// or is damaged changes nothing as long as the segments are there.
  static Result<std::unique_ptr<History>> open(const Input& input,
                                               uint64_t through_lsn = ~uint64_t{0});
  ~History();
  History(const History&) = delete;
  History& operator=(const History&) = delete;

  /// Blocking; any thread, one at a time. The newest content of [offset, +length) of a volume, both
  /// multiples of 512; sectors never written are zeroes. `known` (may be null) becomes one bit per
  /// sector: false where history says that the content is not known; such sectors come as zeroes,
  /// and without `known` they are kIoError. Every byte that comes from the log was verified by its
  /// entry's checksum. On failure `to` holds anything.
  Status read(uint16_t volume, uint64_t offset, uint64_t length, uint8_t* to,
              std::vector<bool>* known);

  /// The newest LSN that is in it (at most `through_lsn`), 0 when there is none.
  [[nodiscard]] uint64_t last_lsn() const;
  [[nodiscard]] const Counters& counters() const;

 private:
  class Composition;
  explicit History(std::unique_ptr<Composition> composition);
  std::unique_ptr<Composition> composition_;
};

}  // namespace ep::view

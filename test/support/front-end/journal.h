// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "front-end/channel.h"
#include "front-end/status.h"

namespace ep::front_end {

/// The file's header: 64 bytes, little-endian. The README has both layouts.
struct JournalHeader {
  char magic[8];
  uint32_t version;
  uint32_t header_bytes;
  uint32_t record_bytes;
  uint32_t seed;
  uint32_t first_id;
  uint32_t volumes;
  uint32_t queues;
  /// 1 when the run ended in order and the file holds every request.
  uint32_t complete;
  uint32_t last_tick;
  uint32_t reserved[5];
};
static_assert(sizeof(JournalHeader) == 64);

/// One request. Ticks come from one counter that every submission and every completion advances:
/// A.complete_tick < B.submit_tick says that B was submitted after A's completion was seen.
struct JournalRecord {
  uint32_t id;
  uint8_t type;    // the virtio-blk type
  uint8_t status;  // kStatusPending: never completed
  uint8_t volume;
  uint8_t queue;
  uint64_t offset;
  uint32_t length;
  uint32_t submit_tick;
  uint32_t complete_tick;  // 0: never completed
  uint32_t flags;
};
static_assert(sizeof(JournalRecord) == 32);

/// JournalRecord::flags.
constexpr uint32_t kJournalUnmap = 1;
/// The back-end died and came back while the request was in flight.
constexpr uint32_t kJournalResubmitted = 2;

/// Every request of a run, by id. Kept in memory; written to a file from time to time, so that a
/// reader that looks while the run is paused sees everything.
class Journal {
 public:
  /// An empty path keeps the journal in memory only.
  Status open(const std::string& path, uint32_t seed, uint32_t first_id, uint32_t volumes,
              uint32_t queues);

  JournalRecord& add();
  JournalRecord& record(uint32_t id) { return records_[id - header_.first_id]; }
  const JournalRecord& record(uint32_t id) const { return records_[id - header_.first_id]; }
  size_t size() const { return records_.size(); }
  uint32_t next_id() const { return header_.first_id + static_cast<uint32_t>(records_.size()); }

  uint32_t tick() { return ++header_.last_tick; }
  uint32_t last_tick() const { return header_.last_tick; }

  /// Appends the records that are final (all before the first one still in flight).
  Status write_final_prefix();
  /// Writes everything and says that the file is complete, or that it is not.
  Status close(bool complete);

 private:
  Status write_records(size_t end);
  Status write_header();

  JournalHeader header_{};
  std::vector<JournalRecord> records_;
  size_t written_ = 0;
  UniqueFd file_;
};

}  // namespace ep::front_end

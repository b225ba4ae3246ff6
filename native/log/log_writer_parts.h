// SPDX-License-Identifier: Apache-2.0
#pragma once

// What a LogWriter is made of inside; for its own source files only.

#include "log/batch.h"
#include "log/log_writer.h"

namespace ep::log {

/// A segment file that this run opened.
struct LogWriter::Segment {
  SegmentCursor cursor;
  LogWriter* writer = nullptr;
  uint64_t opened_ns = 0;  // monotonic
  CursorMark published;    // every batch up to here is written
  CursorMark sync_target;
  CursorMark synced;
  bool closing = false;  // takes no more batches
  bool given_up = false;
  bool syncing = false;
  bool sealed = false;  // but not reported: an earlier one is not
  format::SealReason reason{};
  unsigned ops = 0;  // batches and syncs in flight
  uint64_t sync_started_ns = 0;
  uint64_t retry_at_ns = 0;  // sealing or removing failed before
  SegmentInfo info;          // once sealed
  io::Op sync_op;

  [[nodiscard]] bool empty() const { return cursor.empty(); }
  [[nodiscard]] bool all_synced() const { return synced.last_lsn == cursor.last_lsn; }
};

/// A batch on its way, or the memory for one.
struct LogWriter::Batch {
  io::Op op;
  BatchBytes bytes;
  LogWriter* writer = nullptr;
  Segment* segment = nullptr;
  uint64_t first_lsn = 0;
  uint64_t started_ns = 0;
  CursorMark mark;  // of the segment, behind it
  bool done = false;
};

}  // namespace ep::log

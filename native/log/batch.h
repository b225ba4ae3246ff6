// SPDX-License-Identifier: Apache-2.0
#pragma once

// Cutting flush batches: entries of the log buffer become one vectored write at the end of a
// segment. Pure of I/O, so that the writer (asynchronous) and recovery (blocking) cut the same
// bytes.

#include <sys/uio.h>

#include <cstdint>
#include <memory>
#include <vector>

#include "format/entry_source.h"
#include "format/segment.h"
#include "log/segment_file.h"

namespace ep::log {

/// Where a segment ended after one of its batches.
struct CursorMark {
  uint32_t batches = 0;
  uint32_t chain = 0;
  uint64_t end = 0;
  uint64_t last_lsn = 0;
  uint64_t last_time_ns = 0;
  uint64_t data_bytes = 0;
};

/// A segment as far as batches have been cut for it.
struct SegmentCursor {
  NewSegmentFile made;
  Uuid group;
  uint64_t epoch = 0;
  uint32_t chain = 0;
  uint64_t end = 0;  // offset of the next batch; 0 while the header is in no batch
  uint64_t first_lsn = 0;
  uint64_t last_lsn = 0;
  uint64_t first_time_ns = 0;
  uint64_t last_time_ns = 0;
  uint64_t data_bytes = 0;
  std::vector<format::DirectoryEntry> directory;

  [[nodiscard]] bool empty() const { return directory.empty(); }
  [[nodiscard]] uint64_t entries() const { return empty() ? 0 : last_lsn - first_lsn + 1; }
  [[nodiscard]] CursorMark mark() const;
  /// Forgets every batch behind `mark`, which has one at least.
  void cut_back(const CursorMark& mark);
  /// The trailer of what was cut; seal_segment_file adds the directory.
  [[nodiscard]] format::SegmentTrailer trailer(uint64_t sealed_ns, format::SealReason reason) const;
  /// File size, path and `sealed` are the caller's.
  [[nodiscard]] SegmentInfo info() const;
};

/// How many entries, and bytes of batch, come next.
struct BatchPlan {
  uint32_t entries = 0;
  uint64_t table_bytes = 0;
  uint64_t bytes = 0;
};
/// The next batch from `lsn` on, up to the target size.
BatchPlan plan_batch(const format::EntrySource& source, uint64_t lsn);
/// Whether it still fits, with directory and trailer behind it.
bool batch_fits(const SegmentCursor& segment, const BatchPlan& plan);

/// The memory of one batch on its way: table, and the list of pieces to write. Data is written from
/// the buffer itself, which must keep it until then.
class BatchBytes {
 public:
  BatchBytes();
  ~BatchBytes();
  BatchBytes(const BatchBytes&) = delete;
  BatchBytes& operator=(const BatchBytes&) = delete;

  /// Cuts the batch, with the segment's header in front of the first one, and moves the cursor on.
  void cut(SegmentCursor& segment, const format::EntrySource& source, uint64_t lsn,
           const BatchPlan& plan);

  [[nodiscard]] uint64_t offset() const { return offset_; }
  [[nodiscard]] uint64_t size() const { return size_; }
  [[nodiscard]] const std::vector<iovec>& iov() const { return iov_; }

 private:
  uint8_t* staging_;
  std::vector<iovec> iov_;
  uint64_t offset_ = 0;
  uint64_t size_ = 0;
};

}  // namespace ep::log

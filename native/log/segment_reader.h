// SPDX-License-Identifier: Apache-2.0
#pragma once

// Reads one segment file: sealed ones by trailer and directory, others batch by batch up to the
// first that is broken. Blocking, and under no lock: what is read is what has been written.

#include <memory>
#include <string>
#include <vector>

#include "format/segment.h"
#include "io/io.h"

namespace ep::log {

class SegmentReader {
 public:
  /// One batch; everything here is covered by a checksum that was checked.
  struct Batch {
    uint64_t offset = 0;
    uint64_t first_lsn = 0;
    uint32_t entries = 0;
    uint32_t crc = 0;
  };
  struct Table {
    uint64_t first_lsn = 0;
    std::vector<format::Entry> entries;
  };

  /// kNotFound: no such file, or one that has not got its header yet (nothing was ever logged to
  /// it). kCorruption: a damaged header in front of content, or a trailer whose directory is not
  /// good. kInvalidArgument: the segment of another group or number. Payloads of an unsealed
  /// segment are verified here, those of a sealed one are not.
  static Result<std::unique_ptr<SegmentReader>> open(io::FileSystem& file_system,
                                                     const std::string& path, const Uuid& group,
                                                     uint64_t number);
  ~SegmentReader();
  SegmentReader(const SegmentReader&) = delete;
  SegmentReader& operator=(const SegmentReader&) = delete;

  [[nodiscard]] const format::SegmentHeader& header() const { return header_; }
  [[nodiscard]] bool sealed() const { return sealed_; }
  [[nodiscard]] const std::string& path() const { return path_; }
  [[nodiscard]] uint64_t first_lsn() const { return header_.first_lsn; }
  /// One below first_lsn when it holds nothing.
  [[nodiscard]] uint64_t last_lsn() const;
  [[nodiscard]] const std::vector<Batch>& batches() const { return batches_; }

  /// The batch that covers a byte of the file; kCorruption when there is none.
  Result<size_t> batch_of_offset(uint64_t offset) const;
  /// Entries of one batch, all checks done: sums, chain, places of the payloads, ranges.
  Result<Table> read_table(size_t batch) const;
  /// Bytes as they are; kCorruption when the file ends before.
  Status read(uint64_t offset, void* to, size_t size) const;

 private:
  SegmentReader(io::FileSystem& file_system, io::FileId file, std::string path)
      : files_(file_system), file_(file), path_(std::move(path)) {}
  Status start(const Uuid& group, uint64_t number);
  Result<bool> has_content() const;
  Result<bool> read_trailer(format::SegmentTrailer& trailer) const;
  Status read_directory(const format::SegmentTrailer& trailer);
  Status walk();
  /// Header and table at `offset`, which must be batch `number` behind a chain.
  Result<Table> table_at(uint64_t offset, size_t number, uint32_t chain, uint64_t first_lsn,
                         format::BatchHeader& header) const;
  Result<bool> payloads_hold(const Table& table) const;
  [[nodiscard]] Status damaged(uint64_t offset, const std::string& what) const;

  io::FileSystem& files_;
  io::FileId file_;
  std::string path_;
  uint64_t file_bytes_ = 0;
  uint64_t end_ = 0;  // batches stand before this
  format::SegmentHeader header_;
  uint32_t header_crc_ = 0;
  bool sealed_ = false;
  std::vector<Batch> batches_;
};

}  // namespace ep::log

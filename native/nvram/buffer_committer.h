// SPDX-License-Identifier: Apache-2.0
#pragma once

// Group commit of a log buffer into its mirror on an SSD (BufferKind::kFile, design 4): what was
// appended since the last commit is written with O_DIRECT, page by page at the offsets it has in
// the ring, then one fdatasync makes all of it durable. Whoever asks meanwhile is in the next
// commit.
//
//   ring    ...][ committed ][ in flight ][ asked for ][ appended ]
//                          ^ durable_lsn  ^ target     ^ wanted   ^ head
//
// What a power cut leaves: pages of the commit in flight may be on the disk wholly, in part (by
// sectors) or not at all. Entries up to durable_lsn stand in pages that were synced; where such a
// page is written again because new entries share it, the bytes of the old ones are the same in
// both versions, so it does not matter which one each sector has. Newer entries are found when slot
// and data are there (both are under checksums), and the scan ends at the first that is not.
// Entries that left the ring are the log's: their room may be overwritten in any state.
//
// Pages that may change while they are written are written from a copy: slots, and the last page of
// the data, which the next entry continues. (Checksumming file systems and RAID take offence at
// memory that changes under a write.) The data between goes out from the ring.

#include <cstdint>
#include <functional>
#include <memory>
#include <vector>

#include "base/status.h"
#include "io/io.h"
#include "nvram/log_buffer.h"

namespace ep::nvram {

/// On the reactor thread of its group; no allocation after construction.
class BufferCommitter {
 public:
  struct Events {
    /// Every entry up to this LSN is in the mirror, or has left the ring for the log. Only grows.
    /// Called from Engine::reap only; may call want_durable and stop.
    std::function<void(uint64_t lsn)> durable;
    /// A write or sync failed or was short; called once, from Engine::reap. Nothing is written any
    /// more and durable_lsn stays: after a failed fdatasync nobody knows what the file has, and a
    /// second one may well say yes to pages that are lost. The group goes on as with a buffer on
    /// tmpfs: what was asked for becomes durable by the log (LogWriter::want_durable), a crash of
    /// the process still loses nothing, and a power cut is met as without a mirror: any prefix that
    /// is found there is right, what is missing is a gap. Only the next format with a
    /// BufferStore::commit_header that succeeded may start a new committer.
    std::function<void(const Status&)> failed;
  };
  struct Stats {
    uint64_t commits = 0;
    uint64_t bytes = 0;
  };

  /// `mirror` holds the buffer's header already (BufferStore::commit_header) and the buffer is
  /// still empty. All of them outlive the committer.
  BufferCommitter(io::Engine* engine, io::FileId mirror, const LogBuffer* buffer, Events events);
  /// Nothing is in flight any more.
  ~BufferCommitter();
  BufferCommitter(const BufferCommitter&) = delete;
  BufferCommitter& operator=(const BufferCommitter&) = delete;

  /// Every entry up to `lsn` (appended already) is to become durable as soon as can be. Starts a
  /// commit at once when none is in flight: ask once for all that one pass has appended. Ignored
  /// for entries that have left the ring, after a failure, and after stop.
  void want_durable(uint64_t lsn);
  [[nodiscard]] uint64_t durable_lsn() const { return durable_lsn_; }
  [[nodiscard]] bool failed() const { return failed_; }
  [[nodiscard]] const Stats& stats() const { return stats_; }

  /// No new commit begins; one in flight ends, with its event. `quiet` is called when nothing is in
  /// flight any more, at once if so already (from an event: right after it); it may destroy the
  /// committer.
  void stop(std::function<void()> quiet);

 private:
  struct Write {
    io::Op op;
    iovec iov[2];
    uint64_t bytes = 0;
  };

  void start();
  void plan(uint64_t first);
  void add_slots(uint64_t first, uint64_t last);
  void add_data(uint64_t from, uint64_t to, bool last);
  Write& add_write(uint64_t offset);
  static void on_written(io::Op* op, int32_t result);
  static void on_synced(io::Op* op, int32_t result);
  void written(const Write& write, int32_t result);
  void synced(int32_t result);
  void fail();
  void become_quiet();

  io::Engine* engine_;
  io::FileId mirror_;
  const LogBuffer* buffer_;
  Events events_;
  Stats stats_;
  uint64_t wanted_lsn_;
  uint64_t durable_lsn_;
  uint64_t target_lsn_ = 0;  // of the commit in flight
  bool in_flight_ = false;
  bool reporting_ = false;  // inside an event
  bool failed_ = false;
  bool stopping_ = false;
  int32_t error_ = 0;  // of the commit in flight: the first negative errno
  unsigned writes_out_ = 0;
  std::function<void()> quiet_;

  struct Free {
    void operator()(uint8_t* memory) const;
  };
  std::unique_ptr<uint8_t[], Free> staging_;
  uint64_t staged_pages_ = 0;
  std::vector<Write> writes_;  // a fixed pool; the first writes_used_ belong to the commit
  size_t writes_used_ = 0;
  io::Op sync_;
};

}  // namespace ep::nvram

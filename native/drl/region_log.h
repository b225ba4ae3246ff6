// SPDX-License-Identifier: Apache-2.0
#pragma once

// The dirty region log [0043] of one volume: before a write to a clean region of the primary
// starts, the region's bit is durable. Bits are set in batches (one write of the touched pages and
// one sync for everything that waits) and cleared lazily. Layout: drl-format.md.
//
// A region is clean only when nothing is in flight in it, the primary was synced after its last
// write, the log is durable past that write, and no gap covers it. A dirty region whose content the
// log does not have is *uncovered*: it is a resync's to compare it with history and to say that it
// is covered again; only then may it become clean like any other. The clearing walks in two
// steps so that it never waits on anything: begin_clean() names what is idle, the caller syncs the
// primary, end_clean() clears what stayed idle meanwhile.

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "base/uuid.h"
#include "io/io.h"

namespace ep::drl {

/// As the LSN of a write: the log has no entry of it, so that the region is uncovered until a
/// resync.
constexpr uint64_t kNotLogged = ~uint64_t{0};

/// Somebody whose regions are not all durably dirty yet. Embedded in the caller's task.
struct DirtyWaiter {
  void (*on_dirty)(DirtyWaiter* waiter) = nullptr;
  void* owner = nullptr;
  DirtyWaiter* next = nullptr;
};

class RegionLog {
 public:
  /// Region size for a volume: 1 MiB, doubled until at most 2^18 regions are needed.
  static uint64_t region_bytes_for(uint64_t volume_bytes);

  /// Opens or makes the file, blocking. With `fresh` everything starts clean (a new, empty volume);
  /// otherwise a missing or foreign file, or a damaged page, counts as dirty as a whole.
  static Result<std::unique_ptr<RegionLog>> open(io::FileSystem& file_system,
                                                 const std::string& path, const Uuid& group,
                                                 uint16_t volume, uint64_t volume_bytes,
                                                 bool fresh);
  ~RegionLog();

  /// The rest on the reactor's thread; once, before the first write.
  void attach(io::Engine* engine) { engine_ = engine; }

  /// Registers a write in flight. True when every region it touches is durably dirty already, so
  /// that the primary may be written at once; otherwise waiter->on_dirty is called when they are.
  /// A log that cannot be written (its disk failed) counts as lost, which means dirty as a whole:
  /// `failed` is reported and the write goes on.
  bool begin_write(uint64_t offset, uint64_t length, DirtyWaiter* waiter);
  /// The write reached the primary (or failed there). Its entry is `lsn`, or kNotLogged.
  void end_write(uint64_t offset, uint64_t length, uint64_t lsn);

  /// Remembers the dirty regions that are idle now and whose writes are in the log up to
  /// `durable_lsn`; returns how many. The caller then syncs the primary.
  uint32_t begin_clean(uint64_t durable_lsn);
  /// The primary was synced after begin_clean: clears what was not written since. The bits on disk
  /// follow with the next batch.
  void end_clean();
  /// A sync of the primary failed: nothing is cleared.
  void cancel_clean();

  // For a resync.
  /// The log does not have what the dirty regions hold (`all`: nor any other region): from now on
  /// they are uncovered.
  void uncover(bool all);
  /// The first uncovered region from `from` on; regions() when there is none.
  [[nodiscard]] uint32_t next_uncovered(uint32_t from) const;
  /// The log has the region's content again, through `lsn`. Nothing that is not logged may be in
  /// flight in it.
  void cover(uint32_t region, uint64_t lsn);
  [[nodiscard]] uint32_t uncovered_regions() const { return uncovered_count_; }

  [[nodiscard]] bool failed() const { return failed_; }
  /// After a failure: blocking, off the reactor, while nothing else but begin_write and end_write
  /// is called: makes the file anew, everything dirty in it.
  Status rebuild_file();
  /// Then, on the reactor: the log counts again; every region is dirty.
  void rebuilt();

  [[nodiscard]] uint32_t dirty_regions() const { return dirty_count_; }
  [[nodiscard]] uint32_t regions() const { return regions_; }
  [[nodiscard]] uint64_t region_bytes() const { return region_bytes_; }
  [[nodiscard]] bool is_dirty(uint32_t region) const;
  [[nodiscard]] bool idle() const { return !cycle_running_ && waiting_ == nullptr; }
  /// Called when the log could not be written.
  std::function<void(const Status&)> on_failed;

  /// Blocking, after the last asynchronous use: writes everything out.
  Status close_cleanly();

 private:
  struct Region {
    uint32_t in_flight = 0;
    bool dirty = false;
    bool durable = false;  // the bit on disk is set
    bool touched = false;  // written since begin_clean
    bool uncovered = false;
    uint64_t last_lsn = 0;
  };
  struct Cycle;
  RegionLog();

  void set_dirty(uint32_t region);
  void set_uncovered(uint32_t region);
  void encode_header(uint8_t* to) const;
  Status write_whole(bool all_dirty);
  void mark_page(uint32_t region);
  void encode_page(uint32_t page, bool all_dirty, uint8_t* to) const;
  void start_cycle();
  static void on_page_written(io::Op* op, int32_t result);
  static void on_synced(io::Op* op, int32_t result);
  void cycle_written(int32_t result);
  void cycle_done(int32_t result);

  io::FileSystem* file_system_ = nullptr;
  io::Engine* engine_ = nullptr;
  io::FileId file_ = io::kNoFile;
  std::string path_;
  Uuid group_;
  uint16_t volume_ = 0;
  uint64_t region_bytes_ = 0;
  uint32_t region_shift_ = 0;
  uint32_t regions_ = 0;
  uint32_t dirty_count_ = 0;
  uint32_t uncovered_count_ = 0;
  std::vector<Region> region_;
  std::vector<bool> page_changed_;
  std::vector<uint32_t> changed_pages_;
  std::vector<uint32_t> candidates_;

  std::unique_ptr<Cycle> cycle_;
  bool cycle_running_ = false;
  bool failed_ = false;
  DirtyWaiter* waiting_ = nullptr;  // for the cycle that is running or the next
  DirtyWaiter* waiting_tail_ = nullptr;
};

}  // namespace ep::drl

// SPDX-License-Identifier: Apache-2.0
#pragma once

// Where a group's log buffer lives (design 4, "Log buffer"): one interface over three kinds.
//
//   kind     the ring                     survives a crash of    a power cut
//   kTmpfs   a file on tmpfs              the process            nothing
//   kFile    a file on tmpfs, mirrored    the process            what BufferCommitter called
//   durable
//            in a file on an SSD
//   kPmem    persistent memory (libpmem)  the process            every entry
//
// One session of a group:
//
//   store = BufferStore::open(options)        locks; sizes; what is needed keeps its size
//   store->load_mirror()                      kFile after a power cut: the ring from the mirror
//   LogBuffer::inspect / attach / format      recovery, on store->region()
//   store->commit_header()                    after format, before the first entry: blocking
//   BufferCommitter(engine, store->mirror(), &buffer, ...)      kFile only
//   ... buffer.retire(); store->put_away()    a clean close
//
// Size: asked of the budget (buffer_budget.h) at open, at least kBufferDataBytesMin, in whole MiB.
// What a crash left behind keeps its size until it was recovered and closed cleanly: then the file
// is made anew in the size that the configuration and the budget give. Device DAX is taken whole.
// Persistent memory is no part of the budget.

#include <cstdint>
#include <memory>
#include <string>

#include "base/status.h"
#include "base/uuid.h"
#include "io/io.h"
#include "nvram/buffer_budget.h"
#include "nvram/log_buffer.h"
#include "nvram/region.h"

namespace ep::nvram {

enum class BufferKind : uint8_t { kTmpfs, kFile, kPmem };

struct BufferStoreOptions {
  BufferKind kind = BufferKind::kTmpfs;
  /// kTmpfs: the ring's file; empty: looked for in /run and /dev/shm by the group's UUID, where one
  /// stands or where there is room. kFile: the mirror on the SSD; kPmem: file or device. Required.
  std::string path;
  /// kFile: the ring's file; empty as above.
  std::string ring_path;
  /// Wanted; rounded down to MiB, at least kBufferDataBytesMin.
  uint64_t data_bytes = 0;
  Uuid group;
  io::FileSystem* file_system = nullptr;
  std::string boot;
  /// May be null: no bound but the file systems'. Outlives the store.
  BufferBudget* budget = nullptr;
  /// The group is being made: everything must be there. Otherwise a mirror that cannot be had is
  /// noted (mirror_status) and the ring serves alone, as kTmpfs.
  bool create = false;
  /// kPmem, for tests: PmemRegion::Options.
  bool treat_as_pmem = false;
  /// kFile: the wait for a killed process's requests to the mirror.
  uint64_t lock_wait_ns = 60ull * 1'000'000'000;
};

/// Blocking throughout; owned by a group, used by one thread at a time.
class BufferStore {
 public:
  /// kBusy when another process uses it; kAlreadyExists when a path holds another group's buffer
  /// or what is no buffer at all; kNoSpace; kUnsupported (kPmem in a build without libpmem).
  static Result<std::unique_ptr<BufferStore>> open(const BufferStoreOptions& options);
  /// With memory of the caller's, for simulations: kTmpfs and kPmem touch no file then; kFile opens
  /// or makes the mirror at options.path through options.file_system, in the region's size.
  static Result<std::unique_ptr<BufferStore>> for_region(const BufferStoreOptions& options,
                                                         std::unique_ptr<Region> region);
  ~BufferStore();
  BufferStore(const BufferStore&) = delete;
  BufferStore& operator=(const BufferStore&) = delete;

  [[nodiscard]] BufferKind kind() const { return options_.kind; }
  /// What a person would look at: kTmpfs the ring's file, kFile the mirror, kPmem file or device;
  /// empty for a region of the caller's.
  [[nodiscard]] const std::string& path() const { return path_; }
  /// The ring's memory; stays where it is for the store's life.
  [[nodiscard]] Region* region() { return region_.get(); }
  /// True when an entry is durable as soon as it is appended.
  [[nodiscard]] bool survives_power_cut() const {
    return region_->survives_power_cut() && !region_->persist_failed();
  }
  /// kFile: for BufferCommitter; kNoFile for other kinds, or when there is none (mirror_status).
  [[nodiscard]] io::FileId mirror() const { return mirror_; }
  [[nodiscard]] const Status& mirror_status() const { return mirror_status_; }
  /// For people; empty, or why this buffer is slower or weaker than its kind should be.
  [[nodiscard]] const std::string& note() const { return note_; }

  /// kFile: when the ring holds nothing of this boot but the mirror something of the group, reads
  /// the mirror into the ring, so that inspect finds it (Found.from_mirror); true then. A crash
  /// during or after it is met by doing it again. What cannot be read becomes zeroes, and so ends
  /// the scan of attach there.
  Result<bool> load_mirror();

  /// kFile: writes the ring's header to the mirror and syncs. After format and before the first
  /// commit, so that nothing of an older epoch is ever taken for the new one's. When it fails, no
  /// committer may be started in this session; another format may try again. Other kinds: ok.
  Status commit_header();

  /// After a clean close: nothing in here is needed any more. The ring's memory goes back to the
  /// system; the mirror or the persistent memory is kept, allocated, as retired. Region and
  /// mirror are closed afterwards: the LogBuffer must be gone, and only path() may be asked.
  Status put_away();
  /// Removes all files of the store; a device's content is made void. The region is gone.
  Status remove();
  /// The same for a group that is not open. Touches nothing that is not this group's buffer.
  static Status forget(const BufferStoreOptions& options);

 private:
  explicit BufferStore(const BufferStoreOptions& options) : options_(options) {}

  [[nodiscard]] uint64_t wanted_data_bytes() const;
  Status open_parts();
  Status open_ring();
  Status open_pmem();
  Status open_mirror();
  Status check_mirror();
  Status make_mirror(uint64_t size);
  void close_mirror();
  Result<uint64_t> fresh_ring_bytes();
  Status remove_ring();

  BufferStoreOptions options_;
  std::string path_;
  std::string ring_path_;
  std::unique_ptr<Region> region_;
  io::FileId mirror_ = io::kNoFile;
  uint64_t mirror_bytes_ = 0;
  /// Size of a mirror with content that recovery may need, 0 when there is none.
  uint64_t mirror_needed_bytes_ = 0;
  Status mirror_status_;
  std::string note_;
  uint64_t budgeted_bytes_ = 0;
};

}  // namespace ep::nvram

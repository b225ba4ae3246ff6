// SPDX-License-Identifier: Apache-2.0
#pragma once

// FileSystem over system calls; a FileId is the file descriptor, so an Engine over io_uring takes
// it as it is.
//
// Blocking reads and writes of a file under O_DIRECT may have any memory, offset and length: what
// does not fit goes through an aligned bounce buffer and a read-modify-write *under O_DIRECT too*.
// There is no second, buffered path to the same bytes, so nothing can be stale in a page cache.
// Mixed use with the Engine is safe as long as the two do not touch the same aligned block at once.

#include <functional>
#include <mutex>
#include <string>
#include <unordered_map>
#include <vector>

#include "io/io.h"

namespace ep::io {

class PosixFileSystem final : public FileSystem {
 public:
  /// Gets the lines for people ("waiting 5 s for the lock of …"); any thread.
  using Notice = std::function<void(const std::string& message)>;

  /// Without a notice, messages go to stderr.
  explicit PosixFileSystem(Notice notice = nullptr);
  /// Closes what is still open.
  ~PosixFileSystem() override;
  PosixFileSystem(const PosixFileSystem&) = delete;
  PosixFileSystem& operator=(const PosixFileSystem&) = delete;

  Result<FileId> open(const std::string& path, const OpenOptions& options) override;
  void close(FileId file) override;
  Result<FileInfo> info(FileId file) override;
  Status read(FileId file, uint64_t offset, void* to, size_t size, size_t* got) override;
  Status write(FileId file, uint64_t offset, const void* from, size_t size) override;
  /// fsync rather than fdatasync, so that the times a clean close notes survive a power cut too.
  Status sync(FileId file) override;
  Status allocate(FileId file, uint64_t offset, uint64_t length) override;
  Status zero(FileId file, uint64_t offset, uint64_t length) override;
  Status truncate(FileId file, uint64_t size) override;

  Status make_directories(const std::string& path) override;
  Result<std::vector<std::string>> list(const std::string& path) override;
  Status rename(const std::string& from, const std::string& to) override;
  Status remove(const std::string& path) override;
  Status sync_directory(const std::string& path) override;
  Result<SpaceInfo> space(const std::string& path) override;

 private:
  struct OpenFile {
    std::string path;
    bool is_block_device = false;
    bool direct = false;
    uint32_t memory_alignment = 1;
    uint32_t offset_alignment = 1;
    /// What fallocate asks of a block device; 1 for files.
    uint32_t zero_alignment = 1;
  };

  Status lock(int fd, const std::string& path, uint64_t wait_ns) const;
  Result<OpenFile> find(FileId file) const;
  Status read_direct(FileId file, const OpenFile& open, uint64_t offset, void* to, size_t size,
                     size_t* got);
  Status write_direct(FileId file, const OpenFile& open, uint64_t offset, const void* from,
                      size_t size);
  Status write_zeroes(FileId file, uint64_t offset, uint64_t length);
  Status zero_aligned(FileId file, const OpenFile& open, uint64_t offset, uint64_t length);

  Notice notice_;
  mutable std::mutex mutex_;
  /// What open() learned of each descriptor. Guarded by mutex_.
  std::unordered_map<FileId, OpenFile> files_;
};

/// Whether a folder's file system takes a small write and a sync within `bound_ns`; kBusy when it
/// has not by then. What hangs cannot be called back: the try is left behind on a thread of its
/// own, and takes its file away again should it ever end. Real files only.
Status probe_folder(const std::string& folder, uint64_t bound_ns);

}  // namespace ep::io

// SPDX-License-Identifier: Apache-2.0
#pragma once

// The one door to disks and time. Everything above it (log, splitter, recovery, block devices) sees
// files only as FileIds of a FileSystem and asynchronous Ops of an Engine, so that a simulated
// disk and clock can stand in for the kernel. The real one is io_uring (uring_engine.h) with
// PosixFileSystem; nothing outside this folder includes liburing or calls open(2).

#include <sys/uio.h>

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "base/status.h"

namespace ep::io {

/// A file that is open in a FileSystem and may be used in Ops of an Engine that belongs to it.
/// With the real file system it is the file descriptor.
using FileId = int;
constexpr FileId kNoFile = -1;

/// One asynchronous request. The owner fills it, hands it to Engine::submit and leaves it alone,
/// with all memory it points to, until on_complete has been called (on the engine's own thread,
/// from Engine::reap; never from inside submit). on_complete may submit again or free the Op.
struct Op {
  enum class Kind : uint8_t {
    kRead,       // iov → bytes read, may be short at the end of the file
    kWrite,      // iov → bytes written; the engine never continues a short one
    kSyncData,   // fdatasync
    kPunch,      // deallocate [offset, +length): reads as zeroes; size kept
    kZeroRange,  // zero [offset, +length), keeping the allocation where possible; size kept
  };
  Kind kind{};
  FileId file = kNoFile;
  uint64_t offset = 0;
  uint64_t length = 0;         // kPunch, kZeroRange: bytes
  const iovec* iov = nullptr;  // kRead, kWrite
  uint32_t iov_count = 0;
  /// Bytes or 0 on success, a negative errno on failure.
  void (*on_complete)(Op* op, int32_t result) = nullptr;
  void* owner = nullptr;
  Op* next = nullptr;  // the engine's own while submitted
  /// The file lives in memory (FileInfo::in_memory) and the request is a small read or write, or a
  /// sync: nothing waits for a device, and it may be done on the spot in the next reap. The kernel
  /// would hand it to a worker thread, which costs several times the copy.
  bool immediate = false;
};
/// Larger copies are better left to another core.
constexpr uint64_t kImmediateBytesMax = 64 * 1024;

/// Readiness of a descriptor (kick eventfds, sockets): level of readability, reported again and
/// again until cancelled. Only real descriptors can be watched; a simulation has none.
struct Watch {
  int fd = -1;
  void (*on_ready)(Watch* watch) = nullptr;
  void* owner = nullptr;
  /// The engine's own. A Watch may be freed only after Engine::unwatch has called on_gone.
  void (*on_gone)(Watch* watch) = nullptr;
  bool armed = false;
  bool leaving = false;
};

/// The asynchronous side: owned and used by one reactor thread only.
class Engine {
 public:
  virtual ~Engine() = default;
  /// Never fails and never blocks: what the kernel cannot take yet waits in the engine, in order.
  virtual void submit(Op* op) = 0;
  virtual void watch(Watch* watch) = 0;
  /// Asynchronous: watch->on_gone is called from a later reap, after which it may be freed.
  virtual void unwatch(Watch* watch) = 0;
  /// Hands new Ops to the kernel and calls on_complete of all that are done. Waits up to `wait_ns`
  /// for a first one (0: does not wait). Returns how many completions and events were dispatched.
  virtual unsigned reap(uint64_t wait_ns) = 0;
  /// Ops submitted and not completed.
  [[nodiscard]] virtual unsigned in_flight() const = 0;
  /// Nanoseconds of a clock that never jumps; for bounds and timers.
  [[nodiscard]] virtual uint64_t monotonic_ns() const = 0;
  /// Nanoseconds since 1970 UTC; may jump. Log entries take max(last + 1, this).
  [[nodiscard]] virtual uint64_t wall_ns() const = 0;
};

struct OpenOptions {
  bool create = false;
  bool exclusive = false;  // with create: kAlreadyExists when the file is there
  bool read_only = false;
  /// O_DIRECT where the file takes it; FileInfo says what came of it.
  bool direct = false;
  /// flock(LOCK_EX) on this open file description, taken blocking: requests in flight of a killed
  /// process still hold it (design 4). After five seconds of waiting the process log says which
  /// file and who holds it. kBusy when the wait exceeds `lock_wait_ns`.
  bool lock = false;
  uint64_t lock_wait_ns = 60ull * 1000 * 1000 * 1000;
  uint32_t mode = 0600;
};

struct FileInfo {
  uint64_t size = 0;  // bytes; of the device for a block device
  bool is_block_device = false;
  bool in_memory = false;         // on tmpfs
  bool direct = false;            // O_DIRECT is in force
  uint32_t memory_alignment = 1;  // of buffers and …
  uint32_t offset_alignment = 1;  // … of offsets and lengths, for direct I/O
  uint64_t mtime_ns = 0;
  uint64_t ctime_ns = 0;
};

struct SpaceInfo {
  uint64_t total_bytes = 0;
  uint64_t free_bytes = 0;  // for the unprivileged
};

/// The blocking side: opening, recovery, and what runs off the reactor. Any thread; one file must
/// not be used by two threads at once. Errors name the operation and the path.
class FileSystem {
 public:
  virtual ~FileSystem() = default;
  virtual Result<FileId> open(const std::string& path, const OpenOptions& options) = 0;
  virtual void close(FileId file) = 0;
  virtual Result<FileInfo> info(FileId file) = 0;
  /// Reads exactly size bytes; past the end of the file the rest is zeroes and `*got` says how many
  /// bytes the file had.
  virtual Status read(FileId file, uint64_t offset, void* to, size_t size, size_t* got) = 0;
  virtual Status write(FileId file, uint64_t offset, const void* from, size_t size) = 0;
  virtual Status sync(FileId file) = 0;
  /// Real blocks for [offset, +length), growing the file; kNoSpace when there is no room.
  virtual Status allocate(FileId file, uint64_t offset, uint64_t length) = 0;
  /// [offset, +length) reads as zeroes afterwards; deallocated where the file system can.
  virtual Status zero(FileId file, uint64_t offset, uint64_t length) = 0;
  virtual Status truncate(FileId file, uint64_t size) = 0;

  /// Durable when it returns.
  virtual Status make_directories(const std::string& path) = 0;
  /// Names without `.` and `..`, sorted; kNotFound when there is no such directory.
  virtual Result<std::vector<std::string>> list(const std::string& path) = 0;
  virtual Status rename(const std::string& from, const std::string& to) = 0;
  virtual Status remove(const std::string& path) = 0;
  /// Makes creations, renames and removals in this directory durable.
  virtual Status sync_directory(const std::string& path) = 0;
  virtual Result<SpaceInfo> space(const std::string& path) = 0;
};

}  // namespace ep::io

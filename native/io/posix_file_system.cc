// SPDX-License-Identifier: Apache-2.0
#include "io/posix_file_system.h"

#include <dirent.h>
#include <fcntl.h>
#include <linux/falloc.h>
#include <linux/fs.h>
#include <linux/magic.h>
#include <sys/file.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/statfs.h>
#include <sys/statvfs.h>
#include <sys/sysmacros.h>
#include <time.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <future>
#include <memory>
#include <thread>

#include "base/bytes.h"
#include "io/lock_holder.h"

namespace ep::io {

namespace {

constexpr size_t kBounceBytes = 256 * 1024;
constexpr uint32_t kAlignmentWhenUnknown = 4096;
constexpr uint64_t kLockNoticeNs = 5ull * 1000 * 1000 * 1000;
constexpr uint64_t kLockPollNs = 20ull * 1000 * 1000;

struct FreeDeleter {
  void operator()(void* memory) const { std::free(memory); }
};
using AlignedBuffer = std::unique_ptr<uint8_t, FreeDeleter>;

AlignedBuffer make_aligned(size_t size, size_t alignment) {
  void* memory = nullptr;
  const int error = posix_memalign(&memory, std::max<size_t>(alignment, kPageBytes), size);
  EP_ASSERT(error == 0);
  return AlignedBuffer(static_cast<uint8_t*>(memory));
}

uint64_t monotonic_now() {
  timespec now{};
  clock_gettime(CLOCK_MONOTONIC, &now);
  return static_cast<uint64_t>(now.tv_sec) * 1'000'000'000 + static_cast<uint64_t>(now.tv_nsec);
}

Status failed(const char* operation, const std::string& path) {
  return Status::from_errno(errno, std::string(operation) + " " + path);
}

/// Reads until `size` bytes, the end of the file or an error. Past a partial block of a direct file
/// there can only be the end.
ssize_t read_fully(int fd, uint64_t offset, uint8_t* to, size_t size, uint32_t alignment) {
  size_t done = 0;
  while (done < size) {
    const ssize_t got = pread(fd, to + done, size - done, static_cast<off_t>(offset + done));
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) return -1;
    done += static_cast<size_t>(got);
    if (got == 0 || !is_aligned(static_cast<uint64_t>(got), alignment)) break;
  }
  return static_cast<ssize_t>(done);
}

bool write_fully(int fd, uint64_t offset, const uint8_t* from, size_t size, uint32_t alignment) {
  size_t done = 0;
  unsigned without_progress = 0;
  while (done < size) {
    const ssize_t put = pwrite(fd, from + done, size - done, static_cast<off_t>(offset + done));
    if (put < 0 && errno == EINTR) continue;
    if (put < 0) return false;
    // A direct write can only go on at a block's edge; the bytes behind it are written once more.
    const size_t usable = static_cast<size_t>(put) & ~static_cast<size_t>(alignment - 1);
    without_progress = usable == 0 ? without_progress + 1 : 0;
    if (without_progress > 3) {
      errno = EIO;
      return false;
    }
    done += usable;
  }
  return true;
}

struct Alignment {
  bool direct = false;
  uint32_t memory = 1;
  uint32_t offset = 1;
};

/// Asks the kernel (6.1 and newer know), else the device, else tries. `fd` is under O_DIRECT.
Alignment find_alignment(int fd, const struct stat& file) {
#ifdef STATX_DIOALIGN
  struct statx extended {};
  if (statx(fd, "", AT_EMPTY_PATH, STATX_DIOALIGN, &extended) == 0 &&
      (extended.stx_mask & STATX_DIOALIGN) != 0) {
    if (extended.stx_dio_offset_align == 0) return {};
    return {true, std::max(extended.stx_dio_mem_align, 1u), extended.stx_dio_offset_align};
  }
#endif
  if (S_ISBLK(file.st_mode)) {
    int block_bytes = 0;
    if (ioctl(fd, BLKSSZGET, &block_bytes) == 0 && block_bytes > 0) {
      const auto alignment = static_cast<uint32_t>(block_bytes);
      return {true, alignment, alignment};
    }
  } else if (file.st_size > 0) {
    const AlignedBuffer buffer = make_aligned(kPageBytes, kPageBytes);
    if (pread(fd, buffer.get(), kSectorBytes, 0) >= 0) return {true, 512, 512};
  }
  return {true, kAlignmentWhenUnknown, kAlignmentWhenUnknown};
}

/// Not for device nodes, which lie on a tmpfs themselves.
bool is_tmpfs_file(int fd, const struct stat& file) {
  struct statfs system {};
  return S_ISREG(file.st_mode) && fstatfs(fd, &system) == 0 && system.f_type == TMPFS_MAGIC;
}

uint64_t to_ns(const timespec& time) {
  return static_cast<uint64_t>(time.tv_sec) * 1'000'000'000 + static_cast<uint64_t>(time.tv_nsec);
}

}  // namespace

PosixFileSystem::PosixFileSystem(Notice notice) : notice_(std::move(notice)) {
  if (!notice_) {
    notice_ = [](const std::string& message) {
      std::fprintf(stderr, "everpoint: %s\n", message.c_str());
    };
  }
}

PosixFileSystem::~PosixFileSystem() {
  for (const auto& [fd, open_file] : files_) ::close(fd);
}

Result<FileId> PosixFileSystem::open(const std::string& path, const OpenOptions& options) {
  int flags = O_CLOEXEC | O_NOCTTY | (options.read_only ? O_RDONLY : O_RDWR);
  if (options.create) flags |= O_CREAT;
  if (options.create && options.exclusive) flags |= O_EXCL;
  // O_NONBLOCK: a FIFO in place of a file must not hang us. Taken off again below, since the kernel
  // would answer EAGAIN instead of waiting for a request.
  int fd = -1;
  do {
    fd = ::open(path.c_str(), flags | O_NONBLOCK, options.mode);
  } while (fd < 0 && errno == EINTR);
  if (fd < 0) return failed("open", path);
  OpenFile open_file;
  open_file.path = path;
  const auto give_up = [&](Status status) {
    ::close(fd);
    return status;
  };

  struct stat file {};
  if (fstat(fd, &file) != 0) return give_up(failed("fstat", path));
  if (!S_ISREG(file.st_mode) && !S_ISBLK(file.st_mode)) {
    return give_up(Status(Code::kInvalidArgument,
                          "open " + path + ": neither a regular file nor a block device"));
  }
  open_file.is_block_device = S_ISBLK(file.st_mode);
  if (options.lock) {
    const Status locked = lock(fd, path, options.lock_wait_ns);
    if (!locked) return give_up(locked);
  }
  // O_DIRECT is asked for here, not in open(2), which may create a file and then refuse it. tmpfs
  // is memory in any case, and newer kernels only pretend.
  const int plain = fcntl(fd, F_GETFL) & ~(O_NONBLOCK | O_DIRECT);
  if (fcntl(fd, F_SETFL, plain) != 0) return give_up(failed("fcntl", path));
  if (options.direct && !is_tmpfs_file(fd, file) && fcntl(fd, F_SETFL, plain | O_DIRECT) == 0) {
    const Alignment alignment = find_alignment(fd, file);
    const bool usable = alignment.direct && (alignment.offset & (alignment.offset - 1)) == 0 &&
                        (alignment.memory & (alignment.memory - 1)) == 0;
    if (usable) {
      open_file.direct = true;
      open_file.memory_alignment = alignment.memory;
      open_file.offset_alignment = alignment.offset;
    } else if (fcntl(fd, F_SETFL, plain) != 0) {
      return give_up(failed("fcntl", path));
    }
  }
  if (open_file.is_block_device) {
    int block_bytes = 0;
    if (ioctl(fd, BLKSSZGET, &block_bytes) != 0) return give_up(failed("BLKSSZGET", path));
    open_file.zero_alignment = static_cast<uint32_t>(block_bytes);
  }
  const std::lock_guard guard(mutex_);
  files_[fd] = std::move(open_file);
  return fd;
}

/// Tries again and again rather than blocking, so that the wait can be told about and bounded.
Status PosixFileSystem::lock(int fd, const std::string& path, uint64_t wait_ns) const {
  const uint64_t start = monotonic_now();
  bool noticed = false;
  for (;;) {
    if (flock(fd, LOCK_EX | LOCK_NB) == 0) return Status::ok();
    if (errno != EWOULDBLOCK && errno != EINTR) return failed("flock", path);
    const uint64_t waited = monotonic_now() - start;
    if (waited >= wait_ns) {
      return Status(Code::kBusy, "lock " + path + ": held by " + describe_lock_holder(fd));
    }
    if (!noticed && waited >= kLockNoticeNs) {
      noticed = true;
      notice_("waiting for the lock of " + path + ", held by " + describe_lock_holder(fd));
    }
    const uint64_t nap = std::min(kLockPollNs, wait_ns - waited);
    const timespec pause{0, static_cast<long>(nap)};
    nanosleep(&pause, nullptr);
  }
}

Result<PosixFileSystem::OpenFile> PosixFileSystem::find(FileId file) const {
  const std::lock_guard guard(mutex_);
  const auto found = files_.find(file);
  if (found == files_.end()) {
    return Status(Code::kInvalidArgument, "file " + std::to_string(file) + " is not open");
  }
  return found->second;
}

void PosixFileSystem::close(FileId file) {
  {
    const std::lock_guard guard(mutex_);
    const size_t erased = files_.erase(file);
    EP_ASSERT(erased == 1);
  }
  ::close(file);
}

Result<FileInfo> PosixFileSystem::info(FileId file) {
  const auto open_file = find(file);
  if (!open_file) return open_file.status();
  struct stat stat {};
  if (fstat(file, &stat) != 0) return failed("fstat", open_file->path);
  FileInfo info;
  info.is_block_device = open_file->is_block_device;
  info.in_memory = is_tmpfs_file(file, stat);
  info.direct = open_file->direct;
  info.memory_alignment = open_file->memory_alignment;
  info.offset_alignment = open_file->offset_alignment;
  info.mtime_ns = to_ns(stat.st_mtim);
  info.ctime_ns = to_ns(stat.st_ctim);
  info.size = static_cast<uint64_t>(stat.st_size);
  if (info.is_block_device && ioctl(file, BLKGETSIZE64, &info.size) != 0) {
    return failed("BLKGETSIZE64", open_file->path);
  }
  return info;
}

Status PosixFileSystem::read(FileId file, uint64_t offset, void* to, size_t size, size_t* got) {
  const auto open_file = find(file);
  if (!open_file) return open_file.status();
  size_t have = 0;
  auto* bytes = static_cast<uint8_t*>(to);
  if (open_file->direct) {
    EP_TRY(read_direct(file, *open_file, offset, to, size, &have));
  } else {
    const ssize_t result = read_fully(file, offset, bytes, size, 1);
    if (result < 0) return failed("read", open_file->path);
    have = static_cast<size_t>(result);
  }
  std::memset(bytes + have, 0, size - have);
  if (got != nullptr) *got = have;
  return Status::ok();
}

Status PosixFileSystem::read_direct(FileId file, const OpenFile& open, uint64_t offset, void* to,
                                    size_t size, size_t* got) {
  auto* bytes = static_cast<uint8_t*>(to);
  const uint64_t unit = open.offset_alignment;
  *got = 0;
  if (is_aligned(offset | size, unit) &&
      is_aligned(reinterpret_cast<uintptr_t>(to), open.memory_alignment)) {
    const ssize_t result = read_fully(file, offset, bytes, size, open.offset_alignment);
    if (result < 0) return failed("read", open.path);
    *got = static_cast<size_t>(result);
    return Status::ok();
  }
  const size_t bounce_bytes = std::min<uint64_t>(kBounceBytes, align_up(size, unit) + unit);
  const AlignedBuffer bounce = make_aligned(bounce_bytes, open.memory_alignment);
  while (*got < size) {
    const uint64_t position = offset + *got;
    const uint64_t base = position & ~(unit - 1);
    const uint64_t skip = position - base;
    const size_t chunk = std::min<uint64_t>(bounce_bytes, align_up(skip + size - *got, unit));
    const ssize_t result = read_fully(file, base, bounce.get(), chunk, open.offset_alignment);
    if (result < 0) return failed("read", open.path);
    if (static_cast<uint64_t>(result) <= skip) return Status::ok();
    const size_t take = std::min<size_t>(static_cast<size_t>(result) - skip, size - *got);
    std::memcpy(bytes + *got, bounce.get() + skip, take);
    *got += take;
    if (static_cast<size_t>(result) < chunk) return Status::ok();
  }
  return Status::ok();
}

Status PosixFileSystem::write(FileId file, uint64_t offset, const void* from, size_t size) {
  const auto open_file = find(file);
  if (!open_file) return open_file.status();
  if (open_file->direct) return write_direct(file, *open_file, offset, from, size);
  if (!write_fully(file, offset, static_cast<const uint8_t*>(from), size, 1)) {
    return failed("write", open_file->path);
  }
  return Status::ok();
}

Status PosixFileSystem::write_direct(FileId file, const OpenFile& open, uint64_t offset,
                                     const void* from, size_t size) {
  const auto* bytes = static_cast<const uint8_t*>(from);
  const uint64_t unit = open.offset_alignment;
  if (is_aligned(offset | size, unit) &&
      is_aligned(reinterpret_cast<uintptr_t>(from), open.memory_alignment)) {
    if (!write_fully(file, offset, bytes, size, open.offset_alignment)) {
      return failed("write", open.path);
    }
    return Status::ok();
  }
  struct stat before {};
  if (fstat(file, &before) != 0) return failed("fstat", open.path);
  const uint64_t end = offset + size;
  const size_t bounce_bytes = std::min<uint64_t>(kBounceBytes, align_up(size, unit) + unit);
  const AlignedBuffer bounce = make_aligned(bounce_bytes, open.memory_alignment);
  for (uint64_t position = offset; position < end;) {
    const uint64_t base = position & ~(unit - 1);
    const uint64_t chunk = std::min<uint64_t>(bounce_bytes, align_up(end - base, unit));
    const uint64_t stop = std::min(end, base + chunk);
    // Only the first and the last block can hold bytes that are not ours.
    for (const uint64_t edge : {uint64_t{0}, chunk - unit}) {
      const bool covered = position <= base + edge && stop >= base + edge + unit;
      if (covered) continue;
      std::memset(bounce.get() + edge, 0, unit);
      const ssize_t got =
          read_fully(file, base + edge, bounce.get() + edge, unit, open.offset_alignment);
      if (got < 0) return failed("read", open.path);
    }
    std::memcpy(bounce.get() + (position - base), bytes + (position - offset), stop - position);
    if (!write_fully(file, base, bounce.get(), chunk, open.offset_alignment)) {
      return failed("write", open.path);
    }
    position = stop;
  }
  // The padding of the last block must not lengthen a file.
  const uint64_t wanted = std::max(end, static_cast<uint64_t>(before.st_size));
  if (!open.is_block_device && wanted < align_up(end, unit) &&
      ftruncate(file, static_cast<off_t>(wanted)) != 0) {
    return failed("ftruncate", open.path);
  }
  return Status::ok();
}

Status PosixFileSystem::sync(FileId file) {
  if (fsync(file) != 0) {
    const auto open_file = find(file);
    return open_file ? failed("fsync", open_file->path) : open_file.status();
  }
  return Status::ok();
}

Status PosixFileSystem::allocate(FileId file, uint64_t offset, uint64_t length) {
  const auto open_file = find(file);
  if (!open_file) return open_file.status();
  if (length == 0) return Status::ok();
  const auto now = info(file);
  if (!now) return now.status();
  if (open_file->is_block_device) {
    if (offset + length <= now->size) return Status::ok();
    return Status(Code::kNoSpace, "allocate " + open_file->path + ": past the device's end");
  }
  int result = 0;
  do {
    result = fallocate(file, 0, static_cast<off_t>(offset), static_cast<off_t>(length));
  } while (result != 0 && errno == EINTR);
  if (result == 0) return Status::ok();
  if (errno != EOPNOTSUPP) return failed("fallocate", open_file->path);
  // Without fallocate blocks come with writing: what is there is written over itself, the rest as
  // zeroes.
  const AlignedBuffer buffer = make_aligned(kBounceBytes, kPageBytes);
  for (uint64_t position = offset; position < offset + length;) {
    const size_t chunk = std::min<uint64_t>(kBounceBytes, offset + length - position);
    EP_TRY(read(file, position, buffer.get(), chunk, nullptr));
    EP_TRY(write(file, position, buffer.get(), chunk));
    position += chunk;
  }
  return Status::ok();
}

Status PosixFileSystem::write_zeroes(FileId file, uint64_t offset, uint64_t length) {
  const AlignedBuffer buffer = make_aligned(kBounceBytes, kPageBytes);
  std::memset(buffer.get(), 0, kBounceBytes);
  for (uint64_t done = 0; done < length;) {
    const size_t chunk = std::min<uint64_t>(kBounceBytes, length - done);
    EP_TRY(write(file, offset + done, buffer.get(), chunk));
    done += chunk;
  }
  return Status::ok();
}

Status PosixFileSystem::zero_aligned(FileId file, const OpenFile& open, uint64_t offset,
                                     uint64_t length) {
  for (const int mode : {FALLOC_FL_PUNCH_HOLE, FALLOC_FL_ZERO_RANGE}) {
    int result = 0;
    do {
      result = fallocate(file, mode | FALLOC_FL_KEEP_SIZE, static_cast<off_t>(offset),
                         static_cast<off_t>(length));
    } while (result != 0 && errno == EINTR);
    if (result == 0) return Status::ok();
    if (errno != EOPNOTSUPP && errno != EINVAL) return failed("fallocate", open.path);
  }
  return write_zeroes(file, offset, length);
}

Status PosixFileSystem::zero(FileId file, uint64_t offset, uint64_t length) {
  const auto open_file = find(file);
  if (!open_file) return open_file.status();
  const auto now = info(file);
  if (!now) return now.status();
  // Behind its end a file reads as zeroes already.
  const uint64_t end = std::min(offset + length, now->size);
  if (offset >= end) return Status::ok();
  const uint64_t unit = open_file->zero_alignment;
  const uint64_t middle = std::min(align_up(offset, unit), end);
  const uint64_t tail = std::max(middle, end & ~(unit - 1));
  if (middle > offset) EP_TRY(write_zeroes(file, offset, middle - offset));
  if (tail > middle) EP_TRY(zero_aligned(file, *open_file, middle, tail - middle));
  if (end > tail) EP_TRY(write_zeroes(file, tail, end - tail));
  return Status::ok();
}

Status PosixFileSystem::truncate(FileId file, uint64_t size) {
  const auto open_file = find(file);
  if (!open_file) return open_file.status();
  if (open_file->is_block_device) {
    return Status(Code::kUnsupported, "truncate " + open_file->path + ": a block device");
  }
  if (ftruncate(file, static_cast<off_t>(size)) != 0) return failed("ftruncate", open_file->path);
  return Status::ok();
}

Status PosixFileSystem::make_directories(const std::string& path) {
  size_t position = 0;
  do {
    position = path.find('/', position + 1);
    const std::string part = path.substr(0, position);
    if (part.empty()) continue;
    if (mkdir(part.c_str(), 0700) == 0) {
      const size_t slash = part.find_last_of('/', part.size() - 1);
      const std::string parent = slash == std::string::npos ? "." : part.substr(0, slash + 1);
      EP_TRY(sync_directory(parent));
    } else if (errno != EEXIST) {
      return failed("mkdir", part);
    }
  } while (position != std::string::npos);
  struct stat made {};
  if (::stat(path.c_str(), &made) != 0) return failed("stat", path);
  if (!S_ISDIR(made.st_mode)) {
    return Status(Code::kAlreadyExists, "mkdir " + path + ": exists and is not a directory");
  }
  return Status::ok();
}

Result<std::vector<std::string>> PosixFileSystem::list(const std::string& path) {
  DIR* directory = opendir(path.c_str());
  if (directory == nullptr) return failed("opendir", path);
  std::vector<std::string> names;
  for (;;) {
    errno = 0;
    const dirent* entry = readdir(directory);
    if (entry == nullptr) break;
    const std::string_view name = entry->d_name;
    if (name != "." && name != "..") names.emplace_back(name);
  }
  const int error = errno;
  closedir(directory);
  if (error != 0) return Status::from_errno(error, "readdir " + path);
  std::sort(names.begin(), names.end());
  return names;
}

Status PosixFileSystem::rename(const std::string& from, const std::string& to) {
  if (::rename(from.c_str(), to.c_str()) != 0) return failed("rename", from + " to " + to);
  return Status::ok();
}

Status PosixFileSystem::remove(const std::string& path) {
  if (::unlink(path.c_str()) == 0) return Status::ok();
  if (errno == EISDIR && ::rmdir(path.c_str()) == 0) return Status::ok();
  return failed("remove", path);
}

Status PosixFileSystem::sync_directory(const std::string& path) {
  const int fd = ::open(path.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (fd < 0) return failed("open", path);
  const int result = fsync(fd);
  const int error = errno;
  ::close(fd);
  // Some network file systems know no fsync of a directory and are durable without.
  if (result != 0 && error != EINVAL) return Status::from_errno(error, "fsync " + path);
  return Status::ok();
}

Result<SpaceInfo> PosixFileSystem::space(const std::string& path) {
  struct statvfs system {};
  if (statvfs(path.c_str(), &system) != 0) return failed("statvfs", path);
  SpaceInfo space;
  space.total_bytes = static_cast<uint64_t>(system.f_blocks) * system.f_frsize;
  space.free_bytes = static_cast<uint64_t>(system.f_bavail) * system.f_frsize;
  return space;
}

namespace {
Status write_and_sync(const std::string& path) {
  PosixFileSystem files;
  auto file = files.open(path, {.create = true});
  if (!file) return file.status();
  const char text[] = "everpoint\n";
  Status status = files.write(*file, 0, text, sizeof text - 1);
  if (status) status = files.sync(*file);
  files.close(*file);
  const Status removed = files.remove(path);
  return status ? removed : status;
}
}  // namespace

Status probe_folder(const std::string& folder, uint64_t bound_ns) {
  auto answer = std::make_shared<std::promise<Status>>();
  std::future<Status> answered = answer->get_future();
  const std::string path = folder + "/probe-" + std::to_string(getpid());
  std::thread([path, answer] { answer->set_value(write_and_sync(path)); }).detach();
  if (answered.wait_for(std::chrono::nanoseconds(bound_ns)) != std::future_status::ready) {
    return Status(Code::kBusy, folder + " did not take a small write within " +
                                   std::to_string(bound_ns / 1'000'000'000) + " s");
  }
  return answered.get();
}

}  // namespace ep::io

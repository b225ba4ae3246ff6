// SPDX-License-Identifier: Apache-2.0
#include "nvram/buffer_store.h"

#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <optional>

#include "base/limits.h"
#include "nvram/pmem_region.h"

namespace ep::nvram {

namespace {

using Found = LogBuffer::Found;
using Kind = LogBuffer::Found::Kind;

constexpr uint64_t kBytesPerMiB = 1024 * 1024;
constexpr uint64_t kChunkBytes = kBytesPerMiB;

struct FreeMemory {
  void operator()(uint8_t* memory) const { std::free(memory); }
};
using AlignedMemory = std::unique_ptr<uint8_t[], FreeMemory>;

AlignedMemory aligned_memory(uint64_t bytes) {
  AlignedMemory memory(static_cast<uint8_t*>(std::aligned_alloc(kPageBytes, bytes)));
  EP_ASSERT(memory != nullptr);
  std::memset(memory.get(), 0, bytes);
  return memory;
}

std::string folder_of(const std::string& path) {
  const size_t slash = path.find_last_of('/');
  if (slash == std::string::npos) return ".";
  return slash == 0 ? "/" : path.substr(0, slash);
}

/// A buffer that an earlier run left under the group's name, or an empty string.
std::string standing_ring(const Uuid& group) {
  for (const char* folder : {"/run", "/dev/shm"}) {
    std::string path = folder + ("/everpoint-" + group.to_string()) + ".logbuffer";
    if (access(path.c_str(), F_OK) == 0) return path;
  }
  return "";
}

/// What recovery may still want: then size and content stay.
bool is_needed(const Found& found) {
  return found.kind == Kind::kEntries || found.kind == Kind::kFormatting;
}

/// Refuses what is not this group's to overwrite: a configuration that names the wrong file.
Status check_owner(const uint8_t* page, const Uuid& group, const std::string& path) {
  const std::optional<Uuid> owner = LogBuffer::group_of_page(page);
  if (owner && *owner != group) {
    return Status(Code::kAlreadyExists,
                  "log buffer " + path + " belongs to group " + owner->to_string());
  }
  return Status::ok();
}

/// The same of a file that a person named: it may be anything.
Status check_is_buffer(const uint8_t* page, const Uuid& group, const std::string& path) {
  EP_TRY(check_owner(page, group, path));
  const bool empty = std::all_of(page, page + kPageBytes, [](uint8_t byte) { return byte == 0; });
  // Without a file's size, another boot's or a damaged header still shows by its magic.
  if (!empty && LogBuffer::inspect_page(page, 0, group, "", true).kind == Kind::kNothing) {
    return Status(Code::kAlreadyExists, path + " holds something that is no log buffer");
  }
  return Status::ok();
}

}  // namespace

uint64_t BufferStore::wanted_data_bytes() const {
  return std::max(options_.data_bytes / kBytesPerMiB * kBytesPerMiB, limits::kBufferDataBytesMin);
}

Result<std::unique_ptr<BufferStore>> BufferStore::open(const BufferStoreOptions& options) {
  if (options.kind != BufferKind::kTmpfs && options.path.empty()) {
    return Status(Code::kInvalidArgument, "a log buffer of this kind needs a path");
  }
  std::unique_ptr<BufferStore> store(new BufferStore(options));
  EP_TRY(store->open_parts());
  return store;
}

Status BufferStore::open_parts() {
  if (options_.kind == BufferKind::kPmem) {
    path_ = options_.path;
    return open_pmem();
  }
  ring_path_ = options_.kind == BufferKind::kTmpfs ? options_.path : options_.ring_path;
  if (options_.kind == BufferKind::kFile) EP_TRY(open_mirror());
  EP_TRY(open_ring());
  path_ = options_.kind == BufferKind::kFile ? options_.path : ring_path_;
  return options_.kind == BufferKind::kFile ? check_mirror() : Status::ok();
}

Result<std::unique_ptr<BufferStore>> BufferStore::for_region(const BufferStoreOptions& options,
                                                             std::unique_ptr<Region> region) {
  std::unique_ptr<BufferStore> store(new BufferStore(options));
  store->region_ = std::move(region);
  if (options.kind == BufferKind::kFile) {
    store->path_ = options.path;
    EP_TRY(store->open_mirror());
    EP_TRY(store->check_mirror());
  }
  return store;
}

BufferStore::~BufferStore() {
  close_mirror();
  if (budgeted_bytes_ != 0) options_.budget->give_back(budgeted_bytes_);
}

// ---- the ring ---------------------------------------------------------------------------------

Result<uint64_t> BufferStore::fresh_ring_bytes() {
  const uint64_t want = LogBuffer::region_bytes(wanted_data_bytes());
  if (options_.budget == nullptr) return want;
  const uint64_t least = LogBuffer::region_bytes(limits::kBufferDataBytesMin);
  const uint64_t granted = options_.budget->reserve(want, least);
  if (granted == 0) {
    return Status(Code::kNoSpace, "all " + std::to_string(options_.budget->total()) +
                                      " bytes for log buffers are in use");
  }
  budgeted_bytes_ = LogBuffer::region_bytes(LogBuffer::fit_data_bytes(granted));
  if (granted != budgeted_bytes_) options_.budget->give_back(granted - budgeted_bytes_);
  return budgeted_bytes_;
}

Status BufferStore::open_ring() {
  if (ring_path_.empty()) ring_path_ = standing_ring(options_.group);
  std::unique_ptr<TmpfsRegion> ring;
  if (!ring_path_.empty()) {
    auto standing = TmpfsRegion::open(ring_path_, 0, false);
    if (standing) {
      ring = std::move(*standing);
    } else if (standing.status().code() != Code::kNotFound &&
               standing.status().code() != Code::kCorruption) {
      return standing.status();
    }
  }
  if (ring) {
    EP_TRY(check_owner(ring->base(), options_.group, ring_path_));
    const Found found = LogBuffer::inspect(*ring, options_.group, options_.boot);
    // A copy of a mirror is needed as far as the mirror is, which has it still.
    if (is_needed(found) && !(found.from_mirror && mirror_needed_bytes_ != 0)) {
      mirror_needed_bytes_ = 0;
      budgeted_bytes_ = options_.budget != nullptr ? ring->size() : 0;
      if (budgeted_bytes_ != 0) options_.budget->take(budgeted_bytes_);
      region_ = std::move(ring);
      return Status::ok();
    }
  }
  uint64_t bytes = mirror_needed_bytes_;
  if (bytes == 0) {
    const auto fresh = fresh_ring_bytes();
    if (!fresh) return fresh.status();
    bytes = *fresh;
  } else if (options_.budget != nullptr) {
    budgeted_bytes_ = bytes;
    options_.budget->take(bytes);
  }
  if (!ring || ring->size() != bytes) {
    ring.reset();
    if (ring_path_.empty()) {
      auto folder = TmpfsRegion::default_folder(bytes);
      if (!folder) return folder.status();
      ring_path_ = *folder + "/everpoint-" + options_.group.to_string() + ".logbuffer";
    }
    auto made = TmpfsRegion::open(ring_path_, bytes, true);
    if (!made) return made.status();
    ring = std::move(*made);
  }
  region_ = std::move(ring);
  return Status::ok();
}

Status BufferStore::open_pmem() {
  PmemRegion::Options wanted;
  wanted.path = options_.path;
  wanted.size = LogBuffer::region_bytes(wanted_data_bytes());
  wanted.treat_as_pmem = options_.treat_as_pmem;
  auto region = PmemRegion::open(wanted);
  bool make = !region && (region.status().code() == Code::kNotFound ||
                          region.status().code() == Code::kCorruption);
  if (!region && region.status().code() == Code::kCorruption) {
    // Cut short while it was made, or no buffer at all: only what is empty is taken over.
    struct stat about {};
    if (stat(options_.path.c_str(), &about) != 0 || about.st_size != 0) return region.status();
  }
  if (region) {
    const uint8_t* page = (*region)->base();
    EP_TRY(check_is_buffer(page, options_.group, options_.path));
    const Found found = LogBuffer::inspect(**region, options_.group, options_.boot);
    make = !is_needed(found) && !(*region)->is_device() && (*region)->size() != wanted.size;
    if (make) region->reset();
  }
  if (make) {
    wanted.create = true;
    region = PmemRegion::open(wanted);
    if (region) EP_TRY(options_.file_system->sync_directory(folder_of(options_.path)));
  }
  if (!region) return region.status();
  if (!(*region)->is_pmem() && !options_.treat_as_pmem) {
    note_ = options_.path + " is not persistent memory: every log entry waits for an msync";
  }
  region_ = std::move(*region);
  return Status::ok();
}

// ---- the mirror -------------------------------------------------------------------------------

/// Opens the mirror and finds out whether recovery may need it. Trouble other than a second user is
/// noted, unless the group is being made.
Status BufferStore::open_mirror() {
  io::FileSystem& files = *options_.file_system;
  const auto look = [&]() -> Status {
    auto file = files.open(
        options_.path,
        {.create = true, .direct = true, .lock = true, .lock_wait_ns = options_.lock_wait_ns});
    if (!file) return file.status();
    mirror_ = *file;
    const auto info = files.info(mirror_);
    if (!info) return info.status();
    if (info->is_block_device) {
      return Status(Code::kInvalidArgument, "log buffer " + options_.path + " must be a file");
    }
    mirror_bytes_ = info->size;
    if (mirror_bytes_ == 0) return Status::ok();
    const AlignedMemory page = aligned_memory(kPageBytes);
    size_t got = 0;
    EP_TRY(files.read(mirror_, 0, page.get(), kPageBytes, &got));
    EP_TRY(check_is_buffer(page.get(), options_.group, options_.path));
    if (is_needed(LogBuffer::inspect_page(page.get(), mirror_bytes_, options_.group, options_.boot,
                                          true))) {
      mirror_needed_bytes_ = mirror_bytes_;
    }
    return Status::ok();
  };
  const Status status = look();
  if (status) return status;
  close_mirror();
  if (options_.create || status.code() == Code::kBusy) return status;
  mirror_status_ = status;
  note_ = "the log buffer does not survive a power cut: " + status.message();
  return Status::ok();
}

/// With the ring's size known: a mirror of another size is made anew.
Status BufferStore::check_mirror() {
  if (mirror_ == io::kNoFile || mirror_bytes_ == region_->size()) return Status::ok();
  mirror_needed_bytes_ = 0;
  const Status status = make_mirror(region_->size());
  if (status) return status;
  close_mirror();
  if (options_.create) return status;
  mirror_status_ = status;
  note_ = "the log buffer does not survive a power cut: " + status.message();
  return Status::ok();
}

void BufferStore::close_mirror() {
  if (mirror_ != io::kNoFile) options_.file_system->close(mirror_);
  mirror_ = io::kNoFile;
}

/// Written through once, so that no commit has to wait for the file system to turn blocks that are
/// only allocated into written ones.
Status BufferStore::make_mirror(uint64_t size) {
  io::FileSystem& files = *options_.file_system;
  const AlignedMemory zeroes = aligned_memory(kChunkBytes);
  EP_TRY(files.truncate(mirror_, 0));
  EP_TRY(files.allocate(mirror_, 0, size));
  for (uint64_t at = 0; at < size; at += kChunkBytes) {
    EP_TRY(files.write(mirror_, at, zeroes.get(), std::min(kChunkBytes, size - at)));
  }
  EP_TRY(files.sync(mirror_));
  EP_TRY(files.sync_directory(folder_of(options_.path)));
  mirror_bytes_ = size;
  return Status::ok();
}

Result<bool> BufferStore::load_mirror() {
  if (mirror_ == io::kNoFile) return false;
  const Found held = LogBuffer::inspect(*region_, options_.group, options_.boot);
  if (!held.from_mirror && held.kind != Kind::kNothing && held.kind != Kind::kForeign) return false;
  io::FileSystem& files = *options_.file_system;
  const AlignedMemory page = aligned_memory(kPageBytes);
  size_t got = 0;
  EP_TRY(files.read(mirror_, 0, page.get(), kPageBytes, &got));
  const Found there =
      LogBuffer::inspect_page(page.get(), region_->size(), options_.group, options_.boot, true);
  if (!is_needed(there)) return false;
  uint8_t* base = region_->base();
  // The header goes first and comes last: a crash in between leaves nothing that anyone believes.
  std::memset(base, 0, kPageBytes);
  for (uint64_t at = kPageBytes; at < region_->size();) {
    const uint64_t size = std::min(kChunkBytes, region_->size() - at);
    if (!files.read(mirror_, at, base + at, size, &got)) {
      // Page by page, and zeroes for what is lost: no entry of it passes its checksum.
      for (uint64_t each = at; each < at + size; each += kPageBytes) {
        if (!files.read(mirror_, each, base + each, kPageBytes, &got)) {
          std::memset(base + each, 0, kPageBytes);
        }
      }
    }
    at += size;
  }
  LogBuffer::mark_as_copy(page.get());
  std::memcpy(base, page.get(), kPageBytes);
  return true;
}

Status BufferStore::commit_header() {
  if (options_.kind != BufferKind::kFile) return Status::ok();
  if (mirror_ == io::kNoFile) return mirror_status_;
  EP_TRY(options_.file_system->write(mirror_, 0, region_->base(), LogBuffer::kHeaderBytes));
  return options_.file_system->sync(mirror_);
}

// ---- the end ----------------------------------------------------------------------------------

Status BufferStore::remove_ring() {
  region_.reset();
  if (ring_path_.empty()) return Status::ok();
  const Status status = options_.file_system->remove(ring_path_);
  return status.code() == Code::kNotFound ? Status::ok() : status;
}

Status BufferStore::put_away() {
  const Found found = LogBuffer::inspect(*region_, options_.group, options_.boot);
  if (found.kind == Kind::kEntries) LogBuffer::attach(region_.get(), found).retire();
  const Status retired = mirror_ != io::kNoFile ? commit_header() : Status::ok();
  close_mirror();
  if (options_.kind == BufferKind::kPmem) {
    region_.reset();
    return Status::ok();
  }
  const Status removed = remove_ring();
  return retired ? removed : retired;
}

Status BufferStore::remove() {
  auto* pmem = dynamic_cast<PmemRegion*>(region_.get());
  if (pmem != nullptr && pmem->is_device()) {
    std::memset(pmem->base(), 0, LogBuffer::kHeaderBytes);
    pmem->persist(pmem->base(), LogBuffer::kHeaderBytes);
    region_.reset();
    return Status::ok();
  }
  Status status = remove_ring();
  if (mirror_ != io::kNoFile || pmem != nullptr) {
    close_mirror();
    Status removed = options_.file_system->remove(options_.path);
    if (removed) removed = options_.file_system->sync_directory(folder_of(options_.path));
    if (status) status = removed;
  }
  return status;
}

Status BufferStore::forget(const BufferStoreOptions& options) {
  io::FileSystem& files = *options.file_system;
  const auto remove_ours = [&](const std::string& path) -> Status {
    {
      auto file = files.open(path, {.read_only = true});
      if (!file) {
        return file.status().code() == Code::kNotFound ? Status::ok() : file.status();
      }
      const AlignedMemory page = aligned_memory(kPageBytes);
      size_t got = 0;
      Status status = files.read(*file, 0, page.get(), kPageBytes, &got);
      files.close(*file);
      if (status) status = check_is_buffer(page.get(), options.group, path);
      EP_TRY(status);
    }
    return files.remove(path);
  };
  if (options.kind == BufferKind::kPmem) {
    struct stat about {};
    if (stat(options.path.c_str(), &about) == 0 && S_ISCHR(about.st_mode)) {
      auto region = PmemRegion::open({.path = options.path});
      if (!region) return region.status();
      EP_TRY(check_is_buffer((*region)->base(), options.group, options.path));
      std::memset((*region)->base(), 0, LogBuffer::kHeaderBytes);
      (*region)->persist((*region)->base(), LogBuffer::kHeaderBytes);
      return Status::ok();
    }
    return remove_ours(options.path);
  }
  const std::string& named = options.kind == BufferKind::kTmpfs ? options.path : options.ring_path;
  const std::string ring = named.empty() ? standing_ring(options.group) : named;
  Status status = ring.empty() ? Status::ok() : remove_ours(ring);
  if (options.kind == BufferKind::kFile) {
    const Status mirror = remove_ours(options.path);
    if (status) status = mirror;
  }
  return status;
}

}  // namespace ep::nvram

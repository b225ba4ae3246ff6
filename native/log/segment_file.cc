// SPDX-License-Identifier: Apache-2.0
#include "log/segment_file.h"

#include <algorithm>

#include "base/limits.h"

namespace ep::log {

namespace {

std::string parent_of(const std::string& path) { return path.substr(0, path.find_last_of('/')); }

/// Real blocks for up to `bytes`; what free space promises a quota or the file system's own needs
/// may refuse, so it is asked for less and less. Returns how many it got.
Result<uint64_t> allocate_up_to(io::FileSystem& file_system, io::FileId file, uint64_t bytes) {
  for (;;) {
    const Status status = file_system.allocate(file, 0, bytes);
    if (status) return bytes;
    const uint64_t half = bytes / 2 & ~(kPageBytes - 1);
    if (status.code() != Code::kNoSpace || half < limits::kSegmentBytesMin) return status;
    // What was allocated before it failed goes back.
    EP_TRY(file_system.truncate(file, 0));
    bytes = half;
  }
}

}  // namespace

Result<NewSegmentFile> make_segment_file(io::FileSystem& file_system, const DeviceFolder& device,
                                         uint64_t number, uint64_t bytes, uint64_t wall_ns,
                                         std::string* left) {
  auto space = file_system.space(device.folder);
  if (!space) return space.status();
  bytes = std::min(bytes, space->free_bytes / 2) & ~(kPageBytes - 1);
  if (bytes < limits::kSegmentBytesMin) {
    return Status(Code::kNoSpace, "device folder " + device.folder + " has " +
                                      std::to_string(space->free_bytes) + " bytes free");
  }
  NewSegmentFile made;
  made.device = &device;
  made.number = number;
  made.created_ns = wall_ns;
  made.absolute_path = device.folder + "/" + format::segment_relative_path(number, wall_ns);
  const std::string day = parent_of(made.absolute_path);
  EP_TRY(file_system.make_directories(day));
  io::OpenOptions options{.create = true, .exclusive = true, .direct = true, .lock = true};
  auto file = file_system.open(made.absolute_path, options);
  if (!file) return file.status();
  auto info = file_system.info(*file);
  if (info && (info->offset_alignment > kSectorBytes || info->memory_alignment > kSectorBytes)) {
    // Batches are packed by sectors of 512 bytes; a coarser device takes them through its cache.
    file_system.close(*file);
    options.direct = false;
    options.exclusive = false;
    file = file_system.open(made.absolute_path, options);
    if (!file) return file.status();
  }
  made.file = *file;
  made.in_memory = info && info->in_memory;
  const auto allocated = allocate_up_to(file_system, made.file, bytes);
  Status status = allocated.status();
  if (allocated) made.capacity_bytes = *allocated;
  if (status) status = file_system.sync(made.file);
  if (status) status = file_system.sync_directory(day);
  if (status) status = file_system.sync_directory(parent_of(day));
  if (!status) {
    file_system.close(made.file);
    // An empty segment that stays behind for good is removed at the next open.
    const bool removed = file_system.remove(made.absolute_path).is_ok();
    if (!removed && left != nullptr) *left = made.absolute_path;
    return status;
  }
  return made;
}

Result<NewSegmentFile> make_segment_file(io::FileSystem& file_system,
                                         const std::vector<DeviceFolder>& devices, uint64_t number,
                                         uint64_t bytes, uint64_t wall_ns) {
  Status last(Code::kNoSpace, "the group has no device for its log");
  for (const DeviceFolder& device : devices) {
    auto made = make_segment_file(file_system, device, number, bytes, wall_ns);
    if (made) return made;
    last = made.status();
  }
  return last;
}

Result<uint64_t> seal_segment_file(io::FileSystem& file_system, io::FileId file,
                                   const std::vector<format::DirectoryEntry>& directory,
                                   uint64_t end_offset, format::SegmentTrailer trailer) {
  const uint64_t directory_bytes = directory.size() * format::kDirectoryEntryBytes;
  const uint64_t padded = align_up(directory_bytes, kPageBytes);
  std::vector<uint8_t> index(padded);
  for (size_t i = 0; i < directory.size(); ++i) {
    format::encode_directory_entry(directory[i], index.data() + i * format::kDirectoryEntryBytes);
  }
  trailer.directory_offset = end_offset;
  trailer.directory_crc = crc32(index.data(), directory_bytes);
  trailer.batches = static_cast<uint32_t>(directory.size());
  // Two syncs: a trailer that survives a power cut says that all before it did.
  EP_TRY(file_system.write(file, end_offset, index.data(), index.size()));
  EP_TRY(file_system.sync(file));
  uint8_t page[format::kSegmentTrailerBytes];
  format::encode_segment_trailer(trailer, page);
  EP_TRY(file_system.write(file, end_offset + padded, page, sizeof page));
  const uint64_t size = end_offset + padded + sizeof page;
  EP_TRY(file_system.truncate(file, size));
  EP_TRY(file_system.sync(file));
  return size;
}

std::string path_below_device(const DeviceFolder& device, const std::string& absolute_path) {
  // folder is <root>/groups/<group>: cut the root.
  const size_t group = device.folder.find_last_of('/');
  const size_t groups = device.folder.find_last_of('/', group - 1);
  return absolute_path.substr(groups + 1);
}

}  // namespace ep::log

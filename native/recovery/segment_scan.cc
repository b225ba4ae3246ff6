// SPDX-License-Identifier: Apache-2.0
#include "recovery/segment_scan.h"

#include <algorithm>

#include "base/bytes.h"
#include "base/mutation.h"

namespace ep::recovery {

using format::BatchHeader;
using log::SegmentInfo;

namespace {

/// Reads one file and remembers the first failure: "could not be read" must never be taken for "is
/// not there", since what is not there is cut off or removed afterwards.
class Reader {
 public:
  Reader(io::FileSystem& file_system, io::FileId file) : files_(file_system), file_(file) {}

  /// False when the file ends early or cannot be read.
  bool read(uint64_t offset, std::vector<uint8_t>& to, size_t size) {
    to.resize(size);
    size_t got = 0;
    const Status status = files_.read(file_, offset, to.data(), size, &got);
    if (!status && failure_) failure_ = status;
    return status && got == size;
  }
  [[nodiscard]] const Status& failure() const { return failure_; }

 private:
  io::FileSystem& files_;
  io::FileId file_;
  Status failure_;
};

bool read_trailer(Reader& reader, uint64_t file_bytes, const format::SegmentHeader& header,
                  ScannedSegment& segment) {
  if (file_bytes < format::kSegmentHeaderBytes + format::kSegmentTrailerBytes) return false;
  std::vector<uint8_t> page;
  const uint64_t at = file_bytes - format::kSegmentTrailerBytes;
  if (!reader.read(at, page, format::kSegmentTrailerBytes)) return false;
  const auto trailer = format::decode_segment_trailer(page);
  if (!trailer || trailer->group != header.group || trailer->segment != header.segment ||
      trailer->epoch != header.epoch || trailer->first_lsn != header.first_lsn) {
    return false;
  }
  SegmentInfo& info = segment.info;
  info.last_lsn = trailer->last_lsn;
  info.first_time_ns = trailer->first_time_ns;
  info.last_time_ns = trailer->last_time_ns;
  info.entries = trailer->entries;
  info.data_bytes = trailer->data_bytes;
  info.sealed = true;
  return true;
}

/// Reads and checks the batch at cursor.end; false when there is no good one.
bool scan_batch(Reader& reader, uint64_t file_bytes, log::SegmentCursor& cursor) {
  std::vector<uint8_t> bytes;
  if (cursor.end + format::kBatchHeaderBytes > file_bytes ||
      !reader.read(cursor.end, bytes, format::kBatchHeaderBytes)) {
    return false;
  }
  const auto header = format::decode_batch_header(bytes);
  const uint64_t next_lsn = cursor.empty() ? cursor.first_lsn : cursor.last_lsn + 1;
  if (!header || header->group != cursor.group || header->segment != cursor.made.number ||
      header->epoch != cursor.epoch || header->chain != cursor.chain ||
      header->batch != cursor.directory.size() || header->first_lsn != next_lsn ||
      cursor.end + header->bytes() > file_bytes ||
      uint64_t{header->data_sector} * kSectorBytes !=
          cursor.end + align_up(header->table_bytes(), kSectorBytes)) {
    return false;
  }
  if (!reader.read(cursor.end, bytes, header->bytes()) ||
      !format::check_batch_table(*header, bytes)) {
    return false;
  }
  uint64_t address = header->data_sector;
  uint64_t first_time = 0;
  uint64_t last_time = 0;
  for (uint32_t i = 0; i < header->entries; ++i) {
    const auto entry = format::decode_entry(bytes.data() + format::kBatchHeaderBytes +
                                            uint64_t{i} * format::kEntryBytes);
    if (!entry) return false;
    if (i == 0) first_time = entry->time_ns;
    last_time = entry->time_ns;
    const uint64_t sectors = entry->payload_sectors();
    if (sectors == 0) continue;
    const uint64_t offset = address * kSectorBytes - cursor.end;
    if (entry->address != address || offset + sectors * kSectorBytes > bytes.size() ||
        crc32(bytes.data() + offset, sectors * kSectorBytes) != entry->data_crc) {
      return false;
    }
    address += sectors;
  }
  if (cursor.empty()) cursor.first_time_ns = first_time;
  cursor.last_time_ns = last_time;
  cursor.chain = header->crc;
  cursor.directory.push_back({static_cast<uint32_t>(cursor.end / kPageBytes), header->entries,
                              header->crc, static_cast<uint32_t>(next_lsn - cursor.first_lsn)});
  cursor.end += header->bytes();
  cursor.data_bytes += uint64_t{header->data_sectors} * kSectorBytes;
  cursor.last_lsn = next_lsn + header->entries - 1;
  return true;
}

/// Reads the batches one by one into cursor and marks.
void scan_batches(Reader& reader, uint64_t file_bytes, const format::SegmentHeader& header,
                  uint32_t header_crc, ScannedSegment& segment) {
  log::SegmentCursor& cursor = segment.cursor;
  cursor.made = {io::kNoFile,    segment.device,    segment.absolute_path,
                 header.segment, header.created_ns, header.capacity_bytes};
  cursor.group = header.group;
  cursor.epoch = header.epoch;
  cursor.chain = header_crc;
  cursor.end = format::kSegmentHeaderBytes;
  cursor.first_lsn = header.first_lsn;
  while (scan_batch(reader, file_bytes, cursor)) segment.marks.push_back(cursor.mark());
}

/// Behind a header that cannot be read: is there anything worth keeping?
bool has_content(Reader& reader, uint64_t file_bytes) {
  std::vector<uint8_t> bytes;
  if (file_bytes >= format::kSegmentHeaderBytes + format::kSegmentTrailerBytes &&
      reader.read(file_bytes - format::kSegmentTrailerBytes, bytes, format::kSegmentTrailerBytes) &&
      format::decode_segment_trailer(bytes)) {
    return true;
  }
  if (!reader.read(format::kSegmentHeaderBytes, bytes, format::kBatchHeaderBytes)) return false;
  const auto batch = format::decode_batch_header(bytes);
  return batch && batch->bytes() <= file_bytes &&
         reader.read(format::kSegmentHeaderBytes, bytes, batch->table_bytes()) &&
         format::check_batch_table(*batch, bytes);
}

/// False when the file is not a segment of the group.
Result<bool> read_segment(Reader& reader, const Result<io::FileInfo>& info, const Uuid& group,
                          ScannedSegment& segment) {
  if (!info) return info.status();
  if (info->size < format::kSegmentHeaderBytes) return true;
  std::vector<uint8_t> page;
  if (!reader.read(0, page, format::kSegmentHeaderBytes)) return false;
  uint32_t crc = 0;
  const auto header = format::decode_segment_header(page, &crc);
  if (header.status().code() == Code::kUnsupported) {
    return Status(Code::kUnsupported, segment.absolute_path + ": " + header.status().message());
  }
  // Allocated ahead and never used, or its first write did not get through: nothing to lose.
  if (!header) return !has_content(reader, info->size);
  if (header->group != group || header->segment != segment.info.segment) return false;
  segment.info.epoch = header->epoch;
  segment.info.first_lsn = header->first_lsn;
  segment.info.last_lsn = header->first_lsn - 1;
  segment.info.file_bytes = info->size;
  if (read_trailer(reader, info->size, *header, segment)) return true;
  scan_batches(reader, info->size, *header, crc, segment);
  if (!segment.cursor.empty()) segment.info = segment.cursor.info();
  return true;
}

/// False when the file is not a segment of the group.
Result<bool> scan_file(io::FileSystem& file_system, const Uuid& group, ScannedSegment& segment) {
  // Under its lock: what a killed process still has in flight on this file ends first (design 4).
  auto file = file_system.open(segment.absolute_path, {.read_only = true, .lock = true});
  if (!file) return file.status();
  Reader reader(file_system, *file);
  const auto ours = read_segment(reader, file_system.info(*file), group, segment);
  file_system.close(*file);
  if (!reader.failure()) return reader.failure();
  return ours;
}

/// The marks of a sealed segment, which is otherwise known by its trailer.
Status read_marks(io::FileSystem& file_system, ScannedSegment& segment) {
  auto file = file_system.open(segment.absolute_path, {.read_only = true, .lock = true});
  if (!file) return file.status();
  Reader reader(file_system, *file);
  std::vector<uint8_t> page;
  uint32_t crc = 0;
  Status status(Code::kCorruption, segment.absolute_path + ": its header has changed");
  if (reader.read(0, page, format::kSegmentHeaderBytes)) {
    if (const auto header = format::decode_segment_header(page, &crc)) {
      scan_batches(reader, segment.info.file_bytes, *header, crc, segment);
      status = Status::ok();
    }
  }
  file_system.close(*file);
  return reader.failure() ? status : reader.failure();
}

/// Only what stands before `lsn` counts.
void cut_before(ScannedSegment& segment, uint64_t lsn) {
  SegmentInfo& info = segment.info;
  while (!segment.marks.empty() && segment.marks.back().last_lsn >= lsn) segment.marks.pop_back();
  segment.overlapped = true;
  if (segment.marks.empty()) {
    segment.cursor = {};
    info.last_lsn = info.first_lsn - 1;
    info.entries = 0;
    info.data_bytes = 0;
    return;
  }
  const log::CursorMark& mark = segment.marks.back();
  segment.cursor.cut_back(mark);
  info.last_lsn = mark.last_lsn;
  info.last_time_ns = mark.last_time_ns;
  info.entries = mark.last_lsn - info.first_lsn + 1;
  info.data_bytes = mark.data_bytes;
  if (!info.sealed) info.file_bytes = mark.end;
}

class Scan {
 public:
  Scan(io::FileSystem& file_system, const Uuid& group) : files_(file_system), group_(group) {}

  void look_at(const log::DeviceFolder& device) {
    const std::string log_folder = device.folder + "/log";
    const auto days = files_.list(log_folder);
    if (!days) {
      // A device that was added and has no segment yet has its folder all the same.
      if (days.status().code() == Code::kNotFound && files_.list(device.folder)) return;
      note(&device, days.status());
      return;
    }
    for (const std::string& day : *days) {
      const auto names = files_.list(log_folder + "/" + day);
      if (!names) {
        // Whatever is not a folder is none of ours.
        if (names.status().code() != Code::kInvalidArgument) note(&device, names.status());
        continue;
      }
      for (const std::string& name : *names) {
        const auto number = format::parse_segment_name(name);
        if (!number) continue;
        ScannedSegment segment;
        segment.device = &device;
        segment.absolute_path = log_folder + "/" + day + "/" + name;
        segment.info.segment = *number;
        segment.info.device = device.device;
        segment.info.path = log::path_below_device(device, segment.absolute_path);
        add(std::move(segment));
      }
    }
  }

  /// After the last device: the higher number counts.
  SegmentScan finish() {
    std::stable_sort(result_.segments.begin(), result_.segments.end(),
                     [](const ScannedSegment& a, const ScannedSegment& b) {
                       return a.info.segment < b.info.segment;
                     });
    uint64_t limit = ~uint64_t{0};
    for (auto at = result_.segments.rbegin(); at != result_.segments.rend(); ++at) {
      if (at->ignored || at->info.entries == 0) continue;
      const uint64_t first = at->info.first_lsn;
      if (at->info.last_lsn >= limit) {
        if (at->info.sealed) {
          if (const Status status = read_marks(files_, *at); !status) {
            note(at->device, status);
            at->ignored = true;
            continue;
          }
        }
        cut_before(*at, limit);
      }
      limit = std::min(limit, first);
    }
    return std::move(result_);
  }

 private:
  void add(ScannedSegment segment) {
    const auto ours = scan_file(files_, group_, segment);
    if (!ours) {
      note(segment.device, ours.status());
      // What was read of it before is not to be relied on either.
      ScannedSegment unread;
      unread.device = segment.device;
      unread.absolute_path = segment.absolute_path;
      unread.info.segment = segment.info.segment;
      unread.info.device = segment.info.device;
      unread.info.path = segment.info.path;
      segment = std::move(unread);
    }
    segment.ignored = !ours || !*ours;
    result_.segments.push_back(std::move(segment));
  }

  void note(const log::DeviceFolder* device, const Status& status) {
    for (DeviceProblem& problem : result_.problems) {
      if (problem.device != device) continue;
      // That one must not be lost behind another.
      if (status.code() == Code::kUnsupported) problem.status = status;
      return;
    }
    result_.problems.push_back({device, status});
  }

  io::FileSystem& files_;
  const Uuid& group_;
  SegmentScan result_;
};

}  // namespace

SegmentScan scan_segments(io::FileSystem& file_system,
                          const std::vector<log::DeviceFolder>& devices, const Uuid& group) {
  Scan scan(file_system, group);
  for (const log::DeviceFolder& device : devices) scan.look_at(device);
  return scan.finish();
}

namespace {

Status write_again(io::FileSystem& file_system, io::FileId file, uint64_t from, uint64_t end) {
  std::vector<uint8_t> bytes;
  while (from < end) {
    bytes.resize(std::min<uint64_t>(end - from, 1024 * 1024));
    size_t got = 0;
    EP_TRY(file_system.read(file, from, bytes.data(), bytes.size(), &got));
    if (got != bytes.size()) return {Code::kIoError, "a log segment has become shorter"};
    EP_TRY(file_system.write(file, from, bytes.data(), bytes.size()));
    from += bytes.size();
  }
  return Status::ok();
}

/// Where the first batch with an LSN from `lsn` on begins.
uint64_t offset_of(const ScannedSegment& segment, uint64_t lsn) {
  uint64_t offset = format::kSegmentHeaderBytes;
  for (const log::CursorMark& mark : segment.marks) {
    if (mark.last_lsn >= lsn) break;
    offset = mark.end;
  }
  return offset;
}

Status make_durable(io::FileSystem& file_system, io::FileId file, const ScannedSegment& segment,
                    uint64_t suspect_lsn) {
  if (!mutated(Mutation::kSealWithoutRewrite)) {
    EP_TRY(write_again(file_system, file, 0, format::kSegmentHeaderBytes));
    EP_TRY(write_again(file_system, file, offset_of(segment, suspect_lsn), segment.cursor.end));
  }
  return file_system.sync(file);
}

}  // namespace

Status seal_scanned(io::FileSystem& file_system, ScannedSegment& segment, uint64_t suspect_lsn,
                    uint64_t wall_ns) {
  auto file = file_system.open(segment.absolute_path, {.lock = true});
  if (!file) return file.status();
  // Before the trailer stands: a recovery that dies here leaves a segment that the next one takes
  // for sealed and safe.
  if (const Status durable = make_durable(file_system, *file, segment, suspect_lsn); !durable) {
    file_system.close(*file);
    return durable;
  }
  const auto size =
      log::seal_segment_file(file_system, *file, segment.cursor.directory, segment.cursor.end,
                             segment.cursor.trailer(wall_ns, format::SealReason::kRecovery));
  file_system.close(*file);
  if (!size) return size.status();
  segment.info.file_bytes = *size;
  segment.info.sealed = true;
  return Status::ok();
}

std::vector<log::SegmentInfo> close_out(io::FileSystem& file_system,
                                        const std::vector<log::DeviceFolder>& devices,
                                        const Uuid& group, uint64_t wall_ns) {
  std::vector<log::SegmentInfo> list;
  for (ScannedSegment& segment : scan_segments(file_system, devices, group).segments) {
    if (segment.ignored || segment.info.entries == 0) continue;
    if (!segment.info.sealed) (void)seal_scanned(file_system, segment, 0, wall_ns).is_ok();
    list.push_back(segment.info);
  }
  return list;
}

}  // namespace ep::recovery

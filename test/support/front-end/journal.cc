// SPDX-License-Identifier: Apache-2.0
#include "front-end/journal.h"

#include <fcntl.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

#include "front-end/protocol.h"

namespace ep::front_end {

namespace {

Status write_at(int fd, const void* bytes, size_t size, uint64_t offset) {
  const auto* at = static_cast<const uint8_t*>(bytes);
  while (size > 0) {
    ssize_t done = ::pwrite(fd, at, size, static_cast<off_t>(offset));
    if (done < 0 && errno == EINTR) continue;
    if (done <= 0) return Status::from_errno("write the journal", errno);
    at += done;
    offset += static_cast<uint64_t>(done);
    size -= static_cast<size_t>(done);
  }
  return {};
}

}  // namespace

Status Journal::open(const std::string& path, uint32_t seed, uint32_t first_id, uint32_t volumes,
                     uint32_t queues) {
  std::memcpy(header_.magic, "EPJOURN1", sizeof header_.magic);
  header_.version = 1;
  header_.header_bytes = sizeof(JournalHeader);
  header_.record_bytes = sizeof(JournalRecord);
  header_.seed = seed;
  header_.first_id = first_id;
  header_.volumes = volumes;
  header_.queues = queues;
  if (path.empty()) return {};
  file_ = UniqueFd(::open(path.c_str(), O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0644));
  if (!file_.valid()) return Status::from_errno("open " + path, errno);
  return write_header();
}

JournalRecord& Journal::add() {
  const uint32_t id = next_id();
  JournalRecord& record = records_.emplace_back();
  record.id = id;
  record.status = kStatusPending;
  return record;
}

Status Journal::write_records(size_t end) {
  if (!file_.valid() || end <= written_) return {};
  const uint64_t offset = sizeof(JournalHeader) + written_ * sizeof(JournalRecord);
  FRONT_END_TRY(write_at(file_.get(), records_.data() + written_,
                         (end - written_) * sizeof(JournalRecord), offset));
  written_ = end;
  return {};
}

Status Journal::write_header() {
  if (!file_.valid()) return {};
  return write_at(file_.get(), &header_, sizeof header_, 0);
}

Status Journal::write_final_prefix() {
  size_t end = written_;
  while (end < records_.size() && records_[end].complete_tick != 0) end++;
  FRONT_END_TRY(write_records(end));
  return write_header();
}

Status Journal::close(bool complete) {
  FRONT_END_TRY(write_records(records_.size()));
  header_.complete = complete ? 1 : 0;
  return write_header();
}

}  // namespace ep::front_end

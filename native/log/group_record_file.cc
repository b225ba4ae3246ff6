// SPDX-License-Identifier: Apache-2.0
#include "log/group_record_file.h"

#include <cerrno>
#include <cstdlib>

#include "base/bytes.h"

namespace ep::log {

using format::GroupRecord;
using format::kGroupRecordFileBytes;
using format::kGroupRecordSlotBytes;

void GroupRecordFile::Free::operator()(uint8_t* memory) const { std::free(memory); }

Result<std::unique_ptr<GroupRecordFile>> GroupRecordFile::open(io::FileSystem& file_system,
                                                               const std::string& path,
                                                               const Uuid& group,
                                                               uint64_t lock_wait_ns) {
  std::unique_ptr<GroupRecordFile> record(new GroupRecordFile);
  record->file_system_ = &file_system;
  record->page_.reset(static_cast<uint8_t*>(std::aligned_alloc(kPageBytes, kGroupRecordFileBytes)));
  auto file = file_system.open(path, {.create = true, .lock = true, .lock_wait_ns = lock_wait_ns});
  if (!file) return file.status();
  record->file_ = *file;
  size_t got = 0;
  EP_TRY(file_system.read(record->file_, 0, record->page_.get(), kGroupRecordFileBytes, &got));
  for (int slot = 0; slot < 2; ++slot) {
    auto decoded = format::decode_group_record(
        {record->page_.get() + slot * kGroupRecordSlotBytes, kGroupRecordSlotBytes});
    if (decoded) {
      if (decoded->group != group) {
        return Status(Code::kCorruption, "group record " + path + " belongs to another group");
      }
      if (!record->existed_ || decoded->sequence > record->current_.sequence) {
        record->current_ = *decoded;
      }
      record->existed_ = true;
    } else if (decoded.status().code() == Code::kUnsupported) {
      return Status(Code::kUnsupported, path + ": " + decoded.status().message());
    }
  }
  record->current_.group = group;
  return record;
}

GroupRecordFile::~GroupRecordFile() {
  EP_ASSERT(queue_.empty());
  if (file_ != io::kNoFile) file_system_->close(file_);
}

void GroupRecordFile::encode_next(const GroupRecord& record) {
  next_ = record;
  next_.sequence = current_.sequence + 1;
  format::encode_group_record(next_, page_.get());
}

Status GroupRecordFile::save(const GroupRecord& record) {
  EP_ASSERT(queue_.empty());
  encode_next(record);
  EP_TRY(file_system_->write(file_, (next_.sequence % 2) * kGroupRecordSlotBytes, page_.get(),
                             kGroupRecordSlotBytes));
  EP_TRY(file_system_->sync(file_));
  current_ = next_;
  existed_ = true;
  return Status::ok();
}

void GroupRecordFile::save_async(io::Engine& engine, const GroupRecord& record,
                                 std::function<void(int32_t)> done) {
  engine_ = &engine;
  queue_.push_back({record, std::move(done)});
  if (queue_.size() == 1) start_next();
}

void GroupRecordFile::start_next() {
  encode_next(queue_.front().record);
  iov_ = {page_.get(), kGroupRecordSlotBytes};
  op_ = io::Op{};
  op_.kind = io::Op::Kind::kWrite;
  op_.file = file_;
  op_.offset = (next_.sequence % 2) * kGroupRecordSlotBytes;
  op_.iov = &iov_;
  op_.iov_count = 1;
  op_.on_complete = on_written;
  op_.owner = this;
  engine_->submit(&op_);
}

void GroupRecordFile::on_written(io::Op* op, int32_t result) {
  auto* self = static_cast<GroupRecordFile*>(op->owner);
  if (result != static_cast<int32_t>(kGroupRecordSlotBytes)) {
    self->finish(result < 0 ? result : -EIO);
    return;
  }
  op->kind = io::Op::Kind::kSyncData;
  op->iov_count = 0;
  op->on_complete = on_synced;
  self->engine_->submit(op);
}

void GroupRecordFile::on_synced(io::Op* op, int32_t result) {
  static_cast<GroupRecordFile*>(op->owner)->finish(result);
}

void GroupRecordFile::finish(int32_t result) {
  if (result == 0) {
    current_ = next_;
    existed_ = true;
  }
  const std::function<void(int32_t)> done = std::move(queue_.front().done);
  queue_.erase(queue_.begin());
  if (!queue_.empty()) start_next();
  done(result);
}

}  // namespace ep::log

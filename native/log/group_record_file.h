// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <array>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "format/group_record.h"
#include "io/io.h"

namespace ep::log {

/// The group record on disk, held under lock while open: it is also what keeps a second process
/// away from the group. Opened and used blocking by recovery, then asynchronously by the group's
/// reactor; never both at a time.
class GroupRecordFile {
 public:
  /// Opens or makes the file. `lock_wait_ns` bounds the wait for a process that is just ending.
  static Result<std::unique_ptr<GroupRecordFile>> open(io::FileSystem& file_system,
                                                       const std::string& path, const Uuid& group,
                                                       uint64_t lock_wait_ns);
  ~GroupRecordFile();

  /// False for a file that was just made or holds no good slot; `current` is then all defaults.
  [[nodiscard]] bool existed() const { return existed_; }
  [[nodiscard]] const format::GroupRecord& current() const { return current_; }

  /// Blocking: durable when it returns ok.
  Status save(const format::GroupRecord& record);

  /// Asynchronous on the engine's thread: `done(0 or negative errno)` when durable. Saves are done
  /// in the order asked; each must contain what the ones before it said.
  void save_async(io::Engine& engine, const format::GroupRecord& record,
                  std::function<void(int32_t)> done);
  [[nodiscard]] bool busy() const { return !queue_.empty(); }

 private:
  GroupRecordFile() = default;
  void encode_next(const format::GroupRecord& record);
  void start_next();
  static void on_written(io::Op* op, int32_t result);
  static void on_synced(io::Op* op, int32_t result);
  void finish(int32_t result);

  io::FileSystem* file_system_ = nullptr;
  io::Engine* engine_ = nullptr;
  io::FileId file_ = io::kNoFile;
  bool existed_ = false;
  format::GroupRecord current_;
  /// On its way. After a failed save the next one goes to the same slot again: the other holds the
  /// last good record.
  format::GroupRecord next_;
  struct Free {
    void operator()(uint8_t* memory) const;
  };
  std::unique_ptr<uint8_t[], Free> page_;
  iovec iov_{};
  io::Op op_;
  struct Pending {
    format::GroupRecord record;
    std::function<void(int32_t)> done;
  };
  std::vector<Pending> queue_;
};

}  // namespace ep::log

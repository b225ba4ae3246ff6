// SPDX-License-Identifier: Apache-2.0
#pragma once

// A file or block device as a Device: opened and locked through the FileSystem, served through the
// Engine (io_uring, or a simulation).
//
// A request whose memory, offset and length suit the file goes to the kernel as it is, without a
// copy and without an allocation, in a context from a pool; when the pool is empty it waits. The
// rest takes the bounce path (bounce_path.h).
//
// Sizes: a file that is no multiple of 512 bytes is offered rounded up; its tail reads as zeroes,
// and writing the tail lengthens it. Where O_DIRECT asks for larger blocks than the size is a
// multiple of, the file is used without O_DIRECT, since whole blocks at its end would lengthen it
// further.
//
// Discards leave zeroes, always (design 4, step 9): punch, else zero the range, else write zeroes.

#include <memory>
#include <string>
#include <vector>

#include "block/bounce_path.h"
#include "block/device.h"
#include "block/transfer.h"
#include "io/io.h"

namespace ep::block {

struct UringDeviceOptions {
  std::string path;
  /// Makes the file, sparse and `size_bytes` long, when it is missing or empty.
  bool create = false;
  /// 0: as large as it is. Otherwise a file of another size is refused.
  uint64_t size_bytes = 0;
  bool read_only = false;
  /// Block sizes told to the guest; 0: the device's own logical block, 512 for files.
  uint32_t block_bytes = 0;
  uint32_t physical_block_bytes = 4096;
  bool direct = true;
  bool lock = true;
  uint64_t lock_wait_ns = 60ull * 1000 * 1000 * 1000;
  /// Requests inside the engine at once; more wait here.
  unsigned queue_depth = 256;
  /// For tests: treat the file as if direct I/O asked for blocks of this many bytes.
  uint32_t force_offset_alignment = 0;
};

class UringDevice final : public Device {
 public:
  /// Off the reactor or on it, before the first request. `files` and `engine` must outlive the
  /// device and belong together.
  static Result<std::unique_ptr<UringDevice>> open(io::FileSystem& files, io::Engine& engine,
                                                   const UringDeviceOptions& options);
  ~UringDevice() override;
  UringDevice(const UringDevice&) = delete;
  UringDevice& operator=(const UringDevice&) = delete;

  [[nodiscard]] Geometry geometry() const override { return geometry_; }
  void submit(Request* request) override;

  /// The open and locked file, for recovery's blocking reads and writes before serving starts.
  [[nodiscard]] io::FileId file() const { return file_; }
  /// Size and times as found when opened, before anything was written (design 4: a clean close
  /// notes them).
  [[nodiscard]] const io::FileInfo& opened_info() const { return opened_info_; }
  /// The same, now. Blocking.
  Result<io::FileInfo> info() const { return files_.info(file_); }
  /// Whether O_DIRECT is in force.
  [[nodiscard]] bool direct() const { return direct_; }

 private:
  struct Context {
    UringDevice* device = nullptr;
    Request* request = nullptr;
    Context* next_free = nullptr;
    Transfer transfer;
    io::Op::Kind kind{};
  };

  UringDevice(io::FileSystem& files, io::Engine& engine, io::FileId file);
  Status prepare(const UringDeviceOptions& options);
  [[nodiscard]] bool fits_kernel(const Request& request) const;
  void start(Context* context, Request* request);
  static void transfer_done(Transfer* transfer, int32_t error);
  void done(Context* context, int32_t error);

  io::FileSystem& files_;
  io::Engine& engine_;
  const io::FileId file_;
  io::FileInfo opened_info_;
  Geometry geometry_;
  bool direct_ = false;
  uint64_t offset_alignment_ = 1;
  /// Of buffers' addresses, and at least 512 of their lengths; 1 without O_DIRECT.
  uint64_t memory_alignment_ = 1;
  ZeroSupport zero_support_;
  std::unique_ptr<BouncePath> bounce_;
  std::vector<Context> contexts_;
  Context* free_contexts_ = nullptr;
  unsigned busy_contexts_ = 0;
  Request* waiting_head_ = nullptr;
  Request* waiting_tail_ = nullptr;
};

}  // namespace ep::block

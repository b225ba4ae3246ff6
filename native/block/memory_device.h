// SPDX-License-Identifier: Apache-2.0
#pragma once

// A disk in memory, zeroes at first. Completes inside submit(). Pages are taken as they are
// touched, so a large one costs little; discarded whole pages go back.

#include <cstdint>

#include "block/device.h"

namespace ep::block {

class MemoryDevice final : public Device {
 public:
  explicit MemoryDevice(uint64_t size_bytes, bool read_only = false);
  ~MemoryDevice() override;
  MemoryDevice(const MemoryDevice&) = delete;
  MemoryDevice& operator=(const MemoryDevice&) = delete;

  [[nodiscard]] Geometry geometry() const override { return geometry_; }
  void submit(Request* request) override;

  /// The bytes themselves, for tests.
  [[nodiscard]] uint8_t* bytes() { return bytes_; }

 private:
  void zero(uint64_t offset, uint64_t length);

  Geometry geometry_;
  uint8_t* bytes_ = nullptr;
};

}  // namespace ep::block

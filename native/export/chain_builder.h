// SPDX-License-Identifier: Apache-2.0
#pragma once

// For this folder's tests: a pretended guest's memory and descriptor table, written by hand.

#include <gtest/gtest.h>
#include <linux/virtio_blk.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cstring>
#include <memory>
#include <vector>

#include "export/guest_memory.h"

namespace ep::exports {

struct TestDescriptor {
  uint64_t address;
  uint32_t length;
  uint16_t flags;
  uint16_t next;
};
static_assert(sizeof(TestDescriptor) == 16);

constexpr uint16_t kNext = 1;
constexpr uint16_t kWrite = 2;
constexpr uint16_t kIndirect = 4;

/// `regions` memfds of `region_bytes` each that follow each other in guest addresses, but not in
/// ours.
class TestGuest {
 public:
  static constexpr uint64_t kBase = 0x40000000;
  static constexpr uint64_t kUserBase = 0x7000000000;

  explicit TestGuest(uint64_t region_bytes = 1 << 20, uint32_t regions = 2)
      : region_bytes_(region_bytes) {
    std::vector<GuestRegionSpec> specs;
    for (uint32_t i = 0; i < regions; ++i) {
      const int fd = memfd_create("test-guest", MFD_CLOEXEC);
      EXPECT_EQ(ftruncate(fd, static_cast<off_t>(region_bytes)), 0);
      fds_.push_back(fd);
      specs.push_back({kBase + i * region_bytes, region_bytes, kUserBase + i * region_bytes, 0});
    }
    auto made = GuestMemory::create(specs, fds_);
    EXPECT_TRUE(made.is_ok()) << made.status().to_string();
    memory_ = *made;
  }
  ~TestGuest() {
    for (const int fd : fds_) close(fd);
  }
  TestGuest(const TestGuest&) = delete;
  TestGuest& operator=(const TestGuest&) = delete;

  [[nodiscard]] const GuestMemory& memory() const { return *memory_; }
  [[nodiscard]] std::shared_ptr<const GuestMemory> shared() const { return memory_; }
  [[nodiscard]] uint64_t end() const { return kBase + region_bytes_ * fds_.size(); }
  [[nodiscard]] uint64_t border() const { return kBase + region_bytes_; }
  [[nodiscard]] int fd(size_t region) const { return fds_[region]; }
  uint8_t* host(uint64_t guest) {
    uint64_t one = 1;
    return memory_->translate(guest, &one);
  }
  void write(uint64_t guest, const void* from, uint64_t bytes) {
    for (uint64_t i = 0; i < bytes; ++i) {
      *host(guest + i) = static_cast<const uint8_t*>(from)[i];
    }
  }
  void header(uint64_t guest, uint32_t type, uint64_t sector) {
    const virtio_blk_outhdr header{type, 0, sector};
    write(guest, &header, sizeof header);
  }

 private:
  const uint64_t region_bytes_;
  std::vector<int> fds_;
  std::shared_ptr<const GuestMemory> memory_;
};

}  // namespace ep::exports

// SPDX-License-Identifier: Apache-2.0
#pragma once

// A guest's memory as its front-end described it: a table of regions, each mapped by us. The
// library has mappings of its own; ours live as long as a request needs them, whatever the library
// frees meanwhile, and stand under the SIGBUS guard.

#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "base/status.h"
#include "export/sigbus_guard.h"

namespace ep::exports {

struct GuestRegionSpec {
  uint64_t guest_address = 0;
  uint64_t bytes = 0;
  /// Where the front-end has it mapped; rings are named by these addresses.
  uint64_t user_address = 0;
  uint64_t file_offset = 0;
};

/// Unchanging once made, so that queues on a reactor may use it while the next one is being built.
class GuestMemory {
 public:
  static constexpr size_t kRegionsMax = 8;

  /// Maps all regions; the descriptors stay the caller's. kInvalidArgument for regions that are
  /// empty, overlap, overflow, or claim more than their file has.
  static Result<std::shared_ptr<const GuestMemory>> create(std::span<const GuestRegionSpec> regions,
                                                           std::span<const int> fds);

  /// Our pointer to a guest address, and in `*bytes` how many of the bytes wanted follow it: fewer
  /// when the region ends first. Null (and 0) when nothing is there.
  uint8_t* translate(uint64_t guest_address, uint64_t* bytes) const {
    for (const Region& region : regions_) {
      const uint64_t offset = guest_address - region.spec.guest_address;
      if (offset >= region.spec.bytes) continue;  // also when the address lies before the region
      if (*bytes > region.spec.bytes - offset) *bytes = region.spec.bytes - offset;
      return region.mapping.data() + offset;
    }
    *bytes = 0;
    return nullptr;
  }

  /// Copies `bytes` bytes from guest memory, across regions where they follow each other. False
  /// when some are not there.
  bool read(uint64_t guest_address, void* to, uint64_t bytes) const;

  /// Our pointer to `bytes` bytes at a front-end's address, or null when they do not lie in one
  /// region.
  [[nodiscard]] uint8_t* translate_user(uint64_t user_address, uint64_t bytes) const;

  /// True once the front-end took a part of it away.
  [[nodiscard]] bool broken() const;

 private:
  struct Region {
    GuestRegionSpec spec;
    GuardedMapping mapping;
  };
  std::vector<Region> regions_;
};

}  // namespace ep::exports

// SPDX-License-Identifier: Apache-2.0
#include "export/guest_memory.h"

#include <cstring>

namespace ep::exports {

namespace {

bool overflows(uint64_t start, uint64_t bytes) { return start + bytes < start; }

bool overlap(uint64_t a, uint64_t a_bytes, uint64_t b, uint64_t b_bytes) {
  return a < b + b_bytes && b < a + a_bytes;
}

Status check(std::span<const GuestRegionSpec> regions) {
  for (size_t i = 0; i < regions.size(); ++i) {
    const GuestRegionSpec& region = regions[i];
    if (region.bytes == 0 || overflows(region.guest_address, region.bytes) ||
        overflows(region.user_address, region.bytes) ||
        overflows(region.file_offset, region.bytes)) {
      return Status(Code::kInvalidArgument, "a guest memory region is empty or overflows");
    }
    for (size_t k = 0; k < i; ++k) {
      if (overlap(region.guest_address, region.bytes, regions[k].guest_address, regions[k].bytes) ||
          overlap(region.user_address, region.bytes, regions[k].user_address, regions[k].bytes)) {
        return Status(Code::kInvalidArgument, "guest memory regions overlap");
      }
    }
  }
  return Status::ok();
}

}  // namespace

Result<std::shared_ptr<const GuestMemory>> GuestMemory::create(
    std::span<const GuestRegionSpec> regions, std::span<const int> fds) {
  if (regions.size() > kRegionsMax || regions.size() != fds.size()) {
    return Status(Code::kInvalidArgument, "wrong number of guest memory regions");
  }
  EP_TRY(check(regions));
  auto memory = std::make_shared<GuestMemory>();
  for (size_t i = 0; i < regions.size(); ++i) {
    auto mapping = GuardedMapping::map(fds[i], regions[i].file_offset, regions[i].bytes);
    if (!mapping) return mapping.status();
    memory->regions_.push_back({regions[i], std::move(*mapping)});
  }
  return std::shared_ptr<const GuestMemory>(std::move(memory));
}

bool GuestMemory::read(uint64_t guest_address, void* to, uint64_t bytes) const {
  auto* out = static_cast<uint8_t*>(to);
  while (bytes > 0) {
    uint64_t here = bytes;
    const uint8_t* from = translate(guest_address, &here);
    if (from == nullptr) return false;
    std::memcpy(out, from, here);
    out += here;
    guest_address += here;
    bytes -= here;
  }
  return true;
}

uint8_t* GuestMemory::translate_user(uint64_t user_address, uint64_t bytes) const {
  for (const Region& region : regions_) {
    const uint64_t offset = user_address - region.spec.user_address;
    if (offset < region.spec.bytes && bytes <= region.spec.bytes - offset) {
      return region.mapping.data() + offset;
    }
  }
  return nullptr;
}

bool GuestMemory::broken() const {
  for (const Region& region : regions_) {
    if (region.mapping.broken()) return true;
  }
  return false;
}

}  // namespace ep::exports

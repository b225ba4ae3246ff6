// SPDX-License-Identifier: Apache-2.0
#pragma once

// vhost-user messages as rte_vhost hands them to an external handler. The handler gets a pointer to
// the library's own structure, of which only the wire part is public; the descriptors behind it are
// not. Their place is that of DPDK 22.11, and rte_vhost_library.cc refuses to be built with
// another.

#include <array>
#include <cstddef>
#include <cstdint>

namespace ep::exports {

enum class VhostRequest : uint32_t {
  kGetFeatures = 1,
  kSetFeatures = 2,
  kSetOwner = 3,
  kResetOwner = 4,
  kSetMemTable = 5,
  kSetVringNum = 8,
  kSetVringAddr = 9,
  kSetVringBase = 10,
  kGetVringBase = 11,
  kSetVringKick = 12,
  kSetVringCall = 13,
  kSetVringErr = 14,
  kGetProtocolFeatures = 15,
  kSetProtocolFeatures = 16,
  kGetQueueNum = 17,
  kSetVringEnable = 18,
  kSetBackendRequestFd = 21,
  kGetConfig = 24,
  kSetConfig = 25,
  kGetInflightFd = 31,
  kSetInflightFd = 32,
};

/// From us to the front-end, on the channel of kSetBackendRequestFd.
constexpr uint32_t kBackendConfigChange = 2;

constexpr uint32_t kMessageVersion = 1;
constexpr uint64_t kVringIndexMask = 0xff;
constexpr uint64_t kVringNoFd = 1ull << 8;
constexpr size_t kConfigBytesMax = 256;
constexpr size_t kMessageFdsMax = 8;

struct VringState {
  uint32_t index;
  uint32_t num;
};

struct VringAddresses {
  uint32_t index;
  uint32_t flags;
  uint64_t descriptors;
  uint64_t used;
  uint64_t available;
  uint64_t log;
};

struct MemoryRegionMessage {
  uint64_t guest_address;
  uint64_t bytes;
  uint64_t user_address;
  uint64_t file_offset;
};

struct MemoryTableMessage {
  uint32_t count;
  uint32_t padding;
  MemoryRegionMessage regions[kMessageFdsMax];
};

struct ConfigMessage {
  uint32_t offset;
  uint32_t bytes;
  uint32_t flags;
  uint8_t region[kConfigBytesMax];
};
constexpr uint32_t kConfigHeaderBytes = offsetof(ConfigMessage, region);

struct InflightMessage {
  uint64_t mmap_bytes;
  uint64_t mmap_offset;
  uint16_t queues;
  uint16_t queue_size;
};

struct __attribute__((packed)) VhostMessage {
  uint32_t request;
  uint32_t flags;
  uint32_t bytes;
  union __attribute__((packed)) {
    uint64_t number;
    VringState state;
    VringAddresses addresses;
    MemoryTableMessage memory;
    ConfigMessage config;
    InflightMessage inflight;
    uint8_t room[632];
  } payload;
  int fds[kMessageFdsMax];
  int fd_count;
};
static_assert(sizeof(MemoryRegionMessage) == 32);
static_assert(offsetof(VhostMessage, payload) == 12);
static_assert(offsetof(VhostMessage, fds) == 644);

}  // namespace ep::exports

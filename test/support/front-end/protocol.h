// SPDX-License-Identifier: Apache-2.0
//
// The vhost-user wire format and the virtio-blk constants, seen from the front-end.
// Facts are those of QEMU's docs/interop/vhost-user.rst and of the virtio 1.2 text.
#pragma once

#include <cstdint>

namespace ep::front_end {

enum Request : uint32_t {
  kGetFeatures = 1,
  kSetFeatures = 2,
  kSetOwner = 3,
  kResetOwner = 4,
  kSetMemTable = 5,
  kSetLogBase = 6,
  kSetLogFd = 7,
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
  kGetConfig = 24,
  kSetConfig = 25,
  kGetInflightFd = 31,
  kSetInflightFd = 32,
};

constexpr uint32_t kFlagVersion = 0x1;
constexpr uint32_t kFlagReply = 0x4;
constexpr uint32_t kFlagNeedReply = 0x8;

/// Protocol feature bits (GET_PROTOCOL_FEATURES).
constexpr uint64_t kProtocolMq = 1ull << 0;
constexpr uint64_t kProtocolReplyAck = 1ull << 3;
constexpr uint64_t kProtocolConfig = 1ull << 9;
constexpr uint64_t kProtocolInflight = 1ull << 12;

/// Device feature bits (GET_FEATURES).
constexpr uint64_t kFeatureSegMax = 1ull << 2;
constexpr uint64_t kFeatureReadOnly = 1ull << 5;
constexpr uint64_t kFeatureBlkSize = 1ull << 6;
constexpr uint64_t kFeatureFlush = 1ull << 9;
constexpr uint64_t kFeatureTopology = 1ull << 10;
constexpr uint64_t kFeatureConfigWce = 1ull << 11;
constexpr uint64_t kFeatureMq = 1ull << 12;
constexpr uint64_t kFeatureDiscard = 1ull << 13;
constexpr uint64_t kFeatureWriteZeroes = 1ull << 14;
constexpr uint64_t kFeatureIndirect = 1ull << 28;
constexpr uint64_t kFeatureEventIdx = 1ull << 29;
constexpr uint64_t kFeatureProtocol = 1ull << 30;
constexpr uint64_t kFeatureVersion1 = 1ull << 32;

/// virtio-blk request types.
constexpr uint32_t kBlkIn = 0;
constexpr uint32_t kBlkOut = 1;
constexpr uint32_t kBlkFlush = 4;
constexpr uint32_t kBlkGetId = 8;
constexpr uint32_t kBlkDiscard = 11;
constexpr uint32_t kBlkWriteZeroes = 13;

constexpr uint8_t kStatusOk = 0;
constexpr uint8_t kStatusIoError = 1;
constexpr uint8_t kStatusUnsupported = 2;
/// What the front-end puts into the status byte before it submits; a back-end never writes it.
constexpr uint8_t kStatusPending = 0xff;

constexpr uint16_t kDescNext = 1;
constexpr uint16_t kDescWrite = 2;
constexpr uint16_t kDescIndirect = 4;
constexpr uint16_t kAvailNoInterrupt = 1;
constexpr uint16_t kUsedNoNotify = 1;

constexpr uint32_t kSectorBytes = 512;
constexpr uint32_t kMaxRegions = 8;
constexpr uint32_t kMaxFds = 32;
/// The bit of the u64 of SET_VRING_KICK and SET_VRING_CALL that says "no descriptor sent".
constexpr uint64_t kVringNoFd = 1ull << 8;

struct MessageHeader {
  uint32_t request;
  uint32_t flags;
  uint32_t size;
};
static_assert(sizeof(MessageHeader) == 12);

struct VringState {
  uint32_t index;
  uint32_t num;
};

struct VringAddr {
  uint32_t index;
  uint32_t flags;
  uint64_t desc;
  uint64_t used;
  uint64_t avail;
  uint64_t log;
};

struct MemRegion {
  uint64_t guest_addr;
  uint64_t size;
  uint64_t user_addr;
  uint64_t mmap_offset;
};

struct MemTable {
  uint32_t count;
  uint32_t padding;
  MemRegion regions[kMaxRegions];
};

struct InflightInfo {
  uint64_t mmap_size;
  uint64_t mmap_offset;
  uint16_t num_queues;
  uint16_t queue_size;
} __attribute__((packed));
static_assert(sizeof(InflightInfo) == 20);

struct ConfigHeader {
  uint32_t offset;
  uint32_t size;
  uint32_t flags;
};

/// The part of virtio_blk_config that block features up to WRITE_ZEROES define.
struct BlkConfig {
  uint64_t capacity;
  uint32_t size_max;
  uint32_t seg_max;
  uint16_t cylinders;
  uint8_t heads;
  uint8_t sectors;
  uint32_t blk_size;
  uint8_t physical_block_exp;
  uint8_t alignment_offset;
  uint16_t min_io_size;
  uint32_t opt_io_size;
  uint8_t wce;
  uint8_t unused;
  uint16_t num_queues;
  uint32_t max_discard_sectors;
  uint32_t max_discard_seg;
  uint32_t discard_sector_alignment;
  uint32_t max_write_zeroes_sectors;
  uint32_t max_write_zeroes_seg;
  uint8_t write_zeroes_may_unmap;
  uint8_t unused1[3];
} __attribute__((packed));
static_assert(sizeof(BlkConfig) == 60);

struct Descriptor {
  uint64_t addr;
  uint32_t len;
  uint16_t flags;
  uint16_t next;
};
static_assert(sizeof(Descriptor) == 16);

struct UsedElement {
  uint32_t id;
  uint32_t len;
};

struct BlkHeader {
  uint32_t type;
  uint32_t reserved;
  uint64_t sector;
};

/// The payload of DISCARD and WRITE_ZEROES.
struct BlkRange {
  uint64_t sector;
  uint32_t sectors;
  uint32_t flags;
};
constexpr uint32_t kRangeUnmap = 1;

}  // namespace ep::front_end

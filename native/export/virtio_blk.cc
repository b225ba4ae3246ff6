// SPDX-License-Identifier: Apache-2.0
#define VIRTIO_RING_NO_LEGACY  // leaves helpers out that are not C++
#include "export/virtio_blk.h"

#include <linux/virtio_config.h>
#include <linux/virtio_ring.h>

#include <algorithm>
#include <bit>
#include <cstring>

namespace ep::exports {

namespace {

constexpr uint32_t kHeaderBytes = 16;
constexpr uint32_t kDescriptorBytes = 16;
static_assert(sizeof(vring_desc) == kDescriptorBytes);
static_assert(sizeof(virtio_blk_outhdr) == kHeaderBytes);

/// Buffers of one direction, as iovecs one behind the other.
struct Side {
  iovec* iov = nullptr;
  uint32_t count = 0;
  uint64_t bytes = 0;
};

/// The walk along one chain. First the buffers the device reads, then those it writes.
class ChainWalk {
 public:
  ChainWalk(const ChainSource& source, iovec* iovecs) : source_(source), iovecs_(iovecs) {}

  /// False when the chain's structure is broken, so that its end was not reached.
  bool run(uint16_t head);
  /// Every buffer was translated and stands in the right order.
  [[nodiscard]] bool buffers_ok() const { return buffers_ok_; }
  [[nodiscard]] Side readable() const { return {iovecs_, readable_count_, readable_bytes_}; }
  [[nodiscard]] Side writable() const {
    return {iovecs_ + readable_count_, iov_count_ - readable_count_, writable_bytes_};
  }
  /// The last byte of the last writable buffer, or null.
  [[nodiscard]] uint8_t* last_writable_byte() const;

 private:
  bool fetch(uint32_t index, vring_desc* descriptor) const;
  bool enter_table(const vring_desc& descriptor);
  void take_buffer(const vring_desc& descriptor);

  const ChainSource& source_;
  iovec* iovecs_;
  bool in_table_ = false;
  uint64_t table_address_ = 0;
  uint32_t table_size_ = 0;
  bool buffers_ok_ = true;
  bool has_writable_ = false;
  uint64_t last_writable_address_ = 0;
  uint32_t iov_count_ = 0;
  uint32_t readable_count_ = 0;
  uint64_t readable_bytes_ = 0;
  uint64_t writable_bytes_ = 0;
};

bool ChainWalk::fetch(uint32_t index, vring_desc* descriptor) const {
  if (in_table_) {
    if (index >= table_size_) return false;
    const uint64_t address = table_address_ + uint64_t{index} * kDescriptorBytes;
    if (!source_.memory->read(address, descriptor, kDescriptorBytes)) return false;
  } else {
    if (index >= source_.size) return false;
    std::memcpy(descriptor, source_.table + uint64_t{index} * kDescriptorBytes, kDescriptorBytes);
  }
  // From here on the copy is what counts: the compiler must not look at guest memory again.
  asm volatile("" : : "r"(descriptor) : "memory");
  return true;
}

bool ChainWalk::enter_table(const vring_desc& descriptor) {
  // Neither nested nor chained on, whole descriptors, at least one; the walk is bounded anyway.
  if (!source_.indirect_allowed || in_table_ || (descriptor.flags & VRING_DESC_F_NEXT) != 0 ||
      descriptor.len == 0 || descriptor.len % kDescriptorBytes != 0 ||
      descriptor.addr + descriptor.len < descriptor.addr) {
    return false;
  }
  in_table_ = true;
  table_address_ = descriptor.addr;
  table_size_ = descriptor.len / kDescriptorBytes;
  return true;
}

void ChainWalk::take_buffer(const vring_desc& descriptor) {
  const bool writable = (descriptor.flags & VRING_DESC_F_WRITE) != 0;
  if (descriptor.len == 0 || descriptor.addr + descriptor.len < descriptor.addr ||
      (!writable && has_writable_)) {
    buffers_ok_ = false;
    return;
  }
  if (writable) {
    has_writable_ = true;
    last_writable_address_ = descriptor.addr + descriptor.len - 1;
  }
  if (!buffers_ok_) return;

  uint64_t address = descriptor.addr;
  uint64_t left = descriptor.len;
  while (left > 0) {
    uint64_t here = left;
    uint8_t* pointer = source_.memory->translate(address, &here);
    if (pointer == nullptr || iov_count_ == kChainIovecsMax) {
      buffers_ok_ = false;
      return;
    }
    iovecs_[iov_count_++] = {pointer, here};
    address += here;
    left -= here;
  }
  if (writable) {
    writable_bytes_ += descriptor.len;
  } else {
    readable_bytes_ += descriptor.len;
    readable_count_ = iov_count_;
  }
}

bool ChainWalk::run(uint16_t head) {
  uint32_t index = head;
  // A chain longer than the longest legal one is a loop, or as good as one.
  for (uint32_t buffers = 0; buffers < kChainDescriptorsMax;) {
    vring_desc descriptor;
    if (!fetch(index, &descriptor)) return false;
    if ((descriptor.flags & VRING_DESC_F_INDIRECT) != 0) {
      if (!enter_table(descriptor)) return false;  // as it does the second time
      index = 0;
      continue;
    }
    take_buffer(descriptor);
    ++buffers;
    if ((descriptor.flags & VRING_DESC_F_NEXT) == 0) return true;
    index = descriptor.next;
  }
  return false;
}

uint8_t* ChainWalk::last_writable_byte() const {
  if (!has_writable_) return nullptr;
  uint64_t one = 1;
  return source_.memory->translate(last_writable_address_, &one);
}

/// Copies `bytes` bytes off the front of a side that has them.
void take_front(Side* side, void* to, uint64_t bytes) {
  auto* out = static_cast<uint8_t*>(to);
  side->bytes -= bytes;
  while (bytes > 0) {
    const uint64_t here = std::min<uint64_t>(bytes, side->iov->iov_len);
    std::memcpy(out, side->iov->iov_base, here);
    out += here;
    bytes -= here;
    side->iov->iov_base = static_cast<uint8_t*>(side->iov->iov_base) + here;
    side->iov->iov_len -= here;
    if (side->iov->iov_len == 0) {
      ++side->iov;
      --side->count;
    }
  }
  asm volatile("" : : "r"(to) : "memory");
}

/// Takes the status byte off the end of a side that is not empty.
void drop_last_byte(Side* side) {
  side->bytes -= 1;
  iovec& last = side->iov[side->count - 1];
  last.iov_len -= 1;
  if (last.iov_len == 0) --side->count;
}

void answer(BlkCommand* command, uint8_t status, uint32_t used_bytes = 1) {
  command->verdict = BlkCommand::Verdict::kAnswer;
  command->status = status;
  command->used_bytes = used_bytes;
}

void refuse(BlkCommand* command, uint8_t status) {
  command->verdict = BlkCommand::Verdict::kMalformed;
  command->status = status;
  command->used_bytes = command->status_byte != nullptr ? 1 : 0;
}

void submit(BlkCommand* command, block::Op op, uint64_t offset, uint64_t length) {
  command->verdict = BlkCommand::Verdict::kSubmit;
  command->op = op;
  command->offset = offset;
  command->length = length;
  command->used_bytes = 1;
}

bool range_ok(const BlkFacts& facts, uint64_t sector, uint64_t sectors) {
  const uint64_t capacity = facts.capacity_bytes / kSectorBytes;
  return sector <= capacity && sectors <= capacity - sector;
}

void parse_transfer(const BlkFacts& facts, uint64_t sector, bool write, const Side& data,
                    const Side& other, BlkCommand* command) {
  if (other.bytes != 0 || data.bytes == 0 || data.bytes % kSectorBytes != 0 ||
      data.bytes > kRequestDataBytesMax || !range_ok(facts, sector, data.bytes / kSectorBytes)) {
    return refuse(command, VIRTIO_BLK_S_IOERR);
  }
  if (write && facts.read_only) return answer(command, VIRTIO_BLK_S_IOERR);
  submit(command, write ? block::Op::kWrite : block::Op::kRead, sector * kSectorBytes, data.bytes);
  command->iov = data.iov;
  command->iov_count = data.count;
  if (!write) command->used_bytes += static_cast<uint32_t>(data.bytes);
}

void parse_range(const BlkFacts& facts, bool discard, Side* data, const Side& other,
                 BlkCommand* command) {
  if (!(discard ? facts.can_discard : facts.can_write_zeroes)) {
    return answer(command, VIRTIO_BLK_S_UNSUPP);
  }
  constexpr uint64_t kRangeBytes = sizeof(virtio_blk_discard_write_zeroes);
  static_assert(kRangeBytes == 16);
  if (other.bytes != 0 || data->bytes == 0 || data->bytes % kRangeBytes != 0) {
    return refuse(command, VIRTIO_BLK_S_IOERR);
  }
  // The config space says one segment.
  if (data->bytes != kRangeBytes) return refuse(command, VIRTIO_BLK_S_UNSUPP);
  virtio_blk_discard_write_zeroes range;
  take_front(data, &range, kRangeBytes);
  const uint32_t known = discard ? 0 : VIRTIO_BLK_WRITE_ZEROES_FLAG_UNMAP;
  if ((range.flags & ~known) != 0) return refuse(command, VIRTIO_BLK_S_UNSUPP);
  if (!range_ok(facts, range.sector, range.num_sectors)) {
    return refuse(command, VIRTIO_BLK_S_IOERR);
  }
  if (facts.read_only) return answer(command, VIRTIO_BLK_S_IOERR);
  if (range.num_sectors == 0) return answer(command, VIRTIO_BLK_S_OK);
  submit(command, discard ? block::Op::kDiscard : block::Op::kWriteZeroes,
         range.sector * kSectorBytes, uint64_t{range.num_sectors} * kSectorBytes);
  command->may_unmap = (range.flags & VIRTIO_BLK_WRITE_ZEROES_FLAG_UNMAP) != 0;
}

void answer_id(const BlkFacts& facts, const Side& buffers, BlkCommand* command) {
  if (buffers.bytes == 0) return refuse(command, VIRTIO_BLK_S_IOERR);
  const uint8_t* from = facts.id.data();
  uint64_t left = std::min<uint64_t>(kIdBytes, buffers.bytes);
  const auto written = static_cast<uint32_t>(left);
  for (uint32_t i = 0; left > 0; ++i) {
    const uint64_t here = std::min<uint64_t>(left, buffers.iov[i].iov_len);
    std::memcpy(buffers.iov[i].iov_base, from, here);
    from += here;
    left -= here;
  }
  answer(command, VIRTIO_BLK_S_OK, written + 1);
}

}  // namespace

void parse_command(const ChainSource& source, const BlkFacts& facts, uint16_t head, iovec* iovecs,
                   BlkCommand* command) {
  *command = BlkCommand{};
  ChainWalk walk(source, iovecs);
  if (!walk.run(head)) return refuse(command, VIRTIO_BLK_S_IOERR);
  command->status_byte = walk.last_writable_byte();
  Side readable = walk.readable();
  Side writable = walk.writable();
  if (!walk.buffers_ok() || command->status_byte == nullptr || readable.bytes < kHeaderBytes) {
    return refuse(command, VIRTIO_BLK_S_IOERR);
  }
  virtio_blk_outhdr header;
  take_front(&readable, &header, kHeaderBytes);
  drop_last_byte(&writable);

  switch (header.type) {
    case VIRTIO_BLK_T_IN:
      return parse_transfer(facts, header.sector, false, writable, readable, command);
    case VIRTIO_BLK_T_OUT:
      return parse_transfer(facts, header.sector, true, readable, writable, command);
    case VIRTIO_BLK_T_FLUSH:
      return submit(command, block::Op::kFlush, 0, 0);
    case VIRTIO_BLK_T_GET_ID:
      return answer_id(facts, writable, command);
    case VIRTIO_BLK_T_DISCARD:
      return parse_range(facts, true, &readable, writable, command);
    case VIRTIO_BLK_T_WRITE_ZEROES:
      return parse_range(facts, false, &readable, writable, command);
    default:
      return refuse(command, VIRTIO_BLK_S_UNSUPP);
  }
}

uint8_t status_of(block::Outcome outcome) {
  switch (outcome) {
    case block::Outcome::kOk:
      return VIRTIO_BLK_S_OK;
    case block::Outcome::kUnsupported:
      return VIRTIO_BLK_S_UNSUPP;
    case block::Outcome::kIoError:
    case block::Outcome::kNoSpace:
    case block::Outcome::kReadOnly:
      break;
  }
  return VIRTIO_BLK_S_IOERR;
}

std::array<uint8_t, kIdBytes> id_of(const std::string& serial) {
  std::array<uint8_t, kIdBytes> id{};
  std::memcpy(id.data(), serial.data(), std::min<size_t>(serial.size(), id.size()));
  return id;
}

uint64_t blk_features(const block::Geometry& geometry) {
  uint64_t bits = 1ull << VIRTIO_BLK_F_SEG_MAX | 1ull << VIRTIO_BLK_F_BLK_SIZE |
                  1ull << VIRTIO_BLK_F_TOPOLOGY | 1ull << VIRTIO_BLK_F_FLUSH |
                  1ull << VIRTIO_BLK_F_CONFIG_WCE | 1ull << VIRTIO_BLK_F_MQ |
                  1ull << VIRTIO_RING_F_INDIRECT_DESC | 1ull << VIRTIO_RING_F_EVENT_IDX |
                  1ull << VIRTIO_F_VERSION_1;
  if (geometry.read_only) {
    bits |= 1ull << VIRTIO_BLK_F_RO;
  } else {
    if (geometry.can_discard) bits |= 1ull << VIRTIO_BLK_F_DISCARD;
    if (geometry.can_write_zeroes) bits |= 1ull << VIRTIO_BLK_F_WRITE_ZEROES;
  }
  return bits;
}

virtio_blk_config blk_config(const block::Geometry& geometry, uint16_t queues, bool write_back) {
  virtio_blk_config config{};
  const uint32_t block_bytes = std::max<uint32_t>(geometry.block_bytes, kSectorBytes);
  const uint32_t physical = std::max(geometry.physical_block_bytes, block_bytes);
  config.capacity = geometry.size_bytes / kSectorBytes;
  config.seg_max = kDataSegmentsMax;
  config.blk_size = block_bytes;
  config.physical_block_exp = static_cast<uint8_t>(std::bit_width(physical / block_bytes) - 1);
  config.min_io_size = static_cast<uint16_t>(physical / block_bytes);
  config.wce = write_back ? 1 : 0;
  config.num_queues = queues;
  const uint32_t sectors_per_block = block_bytes / kSectorBytes;
  config.max_discard_sectors = kRangeSectorsMax;
  config.max_discard_seg = 1;
  config.discard_sector_alignment = std::max(physical / 512u, sectors_per_block);
  config.max_write_zeroes_sectors = kRangeSectorsMax;
  config.max_write_zeroes_seg = 1;
  config.write_zeroes_may_unmap = 1;
  return config;
}

}  // namespace ep::exports

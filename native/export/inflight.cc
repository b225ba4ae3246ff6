// SPDX-License-Identifier: Apache-2.0
#include "export/inflight.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstddef>

#include "base/bytes.h"
#include "base/limits.h"
#include "base/mutation.h"

namespace ep::exports {

namespace {

constexpr uint64_t kQueueAlignment = 64;
constexpr uint16_t kVersion = 1;

struct DescriptorState {
  uint8_t inflight;
  uint8_t padding[5];
  uint16_t next;
  uint64_t counter;
};
static_assert(sizeof(DescriptorState) == 16);

struct QueueHeader {
  uint64_t features;
  uint16_t version;
  uint16_t descriptors;
  uint16_t last_head;
  uint16_t used_idx;
};
static_assert(sizeof(QueueHeader) == 16);

constexpr uint64_t queue_bytes(uint16_t queue_size) {
  return align_up(sizeof(QueueHeader) + sizeof(DescriptorState) * queue_size, kQueueAlignment);
}

QueueHeader* header_of(uint8_t* base) { return reinterpret_cast<QueueHeader*>(base); }

DescriptorState* states_of(uint8_t* base) {
  return reinterpret_cast<DescriptorState*>(base + sizeof(QueueHeader));
}

// The other side may look at, and change, every byte at any time. Release stores keep the order
// that recover() relies on; on this process's own death only program order counts.
template <typename T>
T load(const T* from) {
  return __atomic_load_n(from, __ATOMIC_ACQUIRE);
}
template <typename T>
void store(T* to, T value) {
  __atomic_store_n(to, value, __ATOMIC_RELEASE);
}

}  // namespace

Status InflightQueue::recover(uint16_t used_idx, uint16_t ring_size, std::vector<uint16_t>* heads) {
  heads->clear();
  if (ring_size > descriptors_) {
    return Status(Code::kCorruption, "the in-flight area is smaller than the ring");
  }
  QueueHeader* header = header_of(base_);
  DescriptorState* states = states_of(base_);
  const uint16_t version = load(&header->version);
  if (version == 0) {
    store(&header->descriptors, descriptors_);
    store(&header->used_idx, used_idx);
    store(&header->version, kVersion);
    return Status::ok();
  }
  if (version != kVersion || load(&header->descriptors) != descriptors_) {
    return Status(Code::kCorruption, "the in-flight area is not one of ours");
  }
  if (load(&header->used_idx) != used_idx) {
    // Death came between publishing the last completion and noting it.
    const uint16_t last = load(&header->last_head);
    if (last < ring_size) store(&states[last].inflight, uint8_t{0});
    store(&header->used_idx, used_idx);
  }

  struct Entry {
    uint64_t counter;
    uint16_t head;
  };
  std::vector<Entry> entries;
  for (uint16_t head = 0; head < ring_size; ++head) {
    if (load(&states[head].inflight) != 1) continue;
    entries.push_back({load(&states[head].counter), head});
  }
  std::sort(entries.begin(), entries.end(),
            [](const Entry& a, const Entry& b) { return a.counter < b.counter; });
  counter_ = entries.empty() ? 0 : entries.back().counter + 1;
  if (mutated(Mutation::kResubmitNewestFirst)) std::reverse(entries.begin(), entries.end());
  heads->reserve(entries.size());
  for (const Entry& entry : entries) heads->push_back(entry.head);
  return Status::ok();
}

void InflightQueue::forget() {
  for (uint16_t head = 0; head < descriptors_; ++head) {
    store(&states_of(base_)[head].inflight, uint8_t{0});
  }
}

void InflightQueue::taken(uint16_t head) {
  DescriptorState& state = states_of(base_)[head];
  store(&state.counter, counter_++);
  store(&state.inflight, uint8_t{1});
}

void InflightQueue::completing(uint16_t head) { store(&header_of(base_)->last_head, head); }

void InflightQueue::completed(uint16_t head, uint16_t used_idx) {
  store(&states_of(base_)[head].inflight, uint8_t{0});
  store(&header_of(base_)->used_idx, used_idx);
}

uint64_t InflightArea::bytes_needed(uint16_t queues, uint16_t queue_size) {
  return queue_bytes(queue_size) * queues;
}

Result<std::shared_ptr<InflightArea>> InflightArea::create(uint16_t queues, uint16_t queue_size,
                                                           int* fd) {
  const int memfd = memfd_create("everpoint-inflight", MFD_CLOEXEC | MFD_ALLOW_SEALING);
  if (memfd < 0) return Status::from_errno(errno, "memfd_create for the in-flight area");
  const InflightShape shape{bytes_needed(queues, queue_size), 0, queues, queue_size};
  if (ftruncate(memfd, static_cast<off_t>(shape.bytes)) != 0 ||
      fcntl(memfd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL) != 0) {
    const int error = errno;
    close(memfd);
    return Status::from_errno(error, "sizing the in-flight area");
  }
  auto area = map(memfd, shape);
  if (!area) {
    close(memfd);
    return area.status();
  }
  *fd = memfd;
  return area;
}

Result<std::shared_ptr<InflightArea>> InflightArea::map(int fd, const InflightShape& shape) {
  if (shape.queues == 0 || shape.queues > limits::kQueuesPerExportMax || shape.queue_size == 0 ||
      shape.queue_size > limits::kQueueSizeMax || !is_aligned(shape.offset, kPageBytes) ||
      shape.bytes < bytes_needed(shape.queues, shape.queue_size)) {
    return Status(Code::kInvalidArgument, "an in-flight area of an impossible shape");
  }
  auto mapping = GuardedMapping::map(fd, shape.offset, shape.bytes);
  if (!mapping) return mapping.status();
  auto area = std::make_shared<InflightArea>();
  area->shape_ = shape;
  area->mapping_ = std::move(*mapping);
  return area;
}

InflightQueue InflightArea::queue(uint16_t index) const {
  if (index >= shape_.queues) return {};
  return {mapping_.data() + queue_bytes(shape_.queue_size) * index, shape_.queue_size};
}

}  // namespace ep::exports

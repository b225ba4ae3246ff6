// SPDX-License-Identifier: Apache-2.0
#include "front-end/fake_back_end.h"

#include <poll.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

namespace ep::front_end {

namespace {

/// The in-flight area of a split queue, as the vhost-user document lays it out.
struct InflightEntry {
  uint8_t inflight;
  uint8_t padding[5];
  uint16_t next;
  uint64_t counter;
};
struct InflightQueue {
  uint64_t features;
  uint16_t version;
  uint16_t desc_num;
  uint16_t last_batch_head;
  uint16_t used_idx;
};
static_assert(sizeof(InflightEntry) == 16 && sizeof(InflightQueue) == 16);

size_t inflight_queue_bytes(uint16_t queue_size) {
  return sizeof(InflightQueue) + queue_size * sizeof(InflightEntry);
}

void copy_in(const std::vector<std::span<uint8_t>>& from, size_t skip, uint8_t* to, size_t size) {
  for (const auto& part : from) {
    if (skip >= part.size()) {
      skip -= part.size();
      continue;
    }
    const size_t count = std::min(part.size() - skip, size);
    std::memcpy(to, part.data() + skip, count);
    to += count;
    size -= count;
    skip = 0;
  }
}

void copy_out(const std::vector<std::span<uint8_t>>& to, size_t skip, const uint8_t* from,
              size_t size) {
  for (const auto& part : to) {
    if (skip >= part.size()) {
      skip -= part.size();
      continue;
    }
    const size_t count = std::min(part.size() - skip, size);
    std::memcpy(part.data() + skip, from, count);
    from += count;
    size -= count;
    skip = 0;
  }
}

size_t total(const std::vector<std::span<uint8_t>>& parts) {
  size_t sum = 0;
  for (const auto& part : parts) sum += part.size();
  return sum;
}

template <typename T>
T payload_as(const Message& message) {
  T value{};
  if (message.payload.empty()) return value;
  std::memcpy(&value, message.payload.data(), std::min(sizeof value, message.payload.size()));
  return value;
}

}  // namespace

struct FakeBackEnd::Region {
  MemRegion wire;
  uint8_t* mapped;
};

struct FakeBackEnd::Queue {
  uint16_t size = 0;
  uint16_t last_avail = 0;
  uint16_t used_idx = 0;
  bool enabled = false;
  bool resubmitted = false;
  Descriptor* desc = nullptr;
  uint16_t* avail = nullptr;
  uint16_t* used = nullptr;
  UniqueFd kick;
  UniqueFd call;
  std::vector<uint16_t> held;
  InflightQueue* state = nullptr;

  InflightEntry* entries() const { return reinterpret_cast<InflightEntry*>(state + 1); }
};

FakeBackEnd::FakeBackEnd(Options options, std::vector<uint8_t>* disk)
    : options_(std::move(options)), disk_(disk) {}

FakeBackEnd::~FakeBackEnd() { stop(); }

Status FakeBackEnd::start() {
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  if (options_.socket_path.size() >= sizeof address.sun_path) {
    return Status::error("socket path is too long");
  }
  std::strcpy(address.sun_path, options_.socket_path.c_str());
  ::unlink(address.sun_path);
  listener_ = UniqueFd(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
  wake_ = UniqueFd(::eventfd(0, EFD_CLOEXEC));
  if (::bind(listener_.get(), reinterpret_cast<sockaddr*>(&address), sizeof address) != 0 ||
      ::listen(listener_.get(), 4) != 0) {
    return Status::from_errno("listen on " + options_.socket_path, errno);
  }
  thread_ = std::thread([this] { serve(); });
  return {};
}

void FakeBackEnd::stop() {
  if (!thread_.joinable()) return;
  stop_ = true;
  const uint64_t one = 1;
  [[maybe_unused]] ssize_t written = ::write(wake_.get(), &one, sizeof one);
  thread_.join();
  ::unlink(options_.socket_path.c_str());
}

void FakeBackEnd::serve() {
  while (!stop_ && !dead_) {
    pollfd fds[2] = {{listener_.get(), POLLIN, 0}, {wake_.get(), POLLIN, 0}};
    if (::poll(fds, 2, -1) <= 0 || (fds[0].revents & POLLIN) == 0) continue;
    UniqueFd socket(::accept4(listener_.get(), nullptr, nullptr, SOCK_CLOEXEC | SOCK_NONBLOCK));
    if (!socket.valid()) continue;
    channel_ = std::make_unique<Channel>(std::move(socket));
    queues_.clear();
    queues_.resize(options_.queues);
    serve_connection();
    channel_.reset();
    for (Region& region : regions_) ::munmap(region.mapped, region.wire.size);
    regions_.clear();
    if (inflight_ != nullptr) ::munmap(inflight_, inflight_size_);
    inflight_ = nullptr;
    inflight_fd_.reset();
  }
  listener_.reset();
}

void FakeBackEnd::serve_connection() {
  while (!stop_ && !dead_) {
    std::vector<pollfd> fds = {{channel_->fd(), POLLIN, 0}, {wake_.get(), POLLIN, 0}};
    for (const Queue& queue : queues_) {
      if (queue.enabled && queue.kick.valid()) fds.push_back({queue.kick.get(), POLLIN, 0});
    }
    // Held requests are completed when nothing new comes for a moment.
    const int ready = ::poll(fds.data(), fds.size(), 1);
    if (ready > 0 && fds[0].revents != 0) {
      Message message;
      if (!channel_->receive(&message, 1000).ok() || !handle(&message)) return;
    }
    for (size_t q = 0; q < queues_.size(); q++) {
      if (!queues_[q].enabled || queues_[q].desc == nullptr) continue;
      uint64_t count;
      pollfd kick{queues_[q].kick.get(), POLLIN, 0};
      if (::poll(&kick, 1, 0) > 0) {
        [[maybe_unused]] ssize_t got = ::read(queues_[q].kick.get(), &count, sizeof count);
      }
      process(q);
      if (ready == 0) complete_held(q);
    }
  }
}

void FakeBackEnd::reply(const Message& to, const void* payload, size_t size,
                        std::span<const int> fds) {
  // A front-end that is gone shows at the next receive.
  (void)channel_->send(to.header.request, kFlagReply, payload, size, fds);
}

bool FakeBackEnd::handle(Message* message) {
  const auto state = payload_as<VringState>(*message);
  const auto word = payload_as<uint64_t>(*message);
  bool answered = true;
  switch (message->header.request) {
    case kGetFeatures: {
      const uint64_t features = kFeatureVersion1 | kFeatureProtocol | kFeatureFlush |
                                kFeatureDiscard | kFeatureWriteZeroes | kFeatureIndirect |
                                kFeatureEventIdx | kFeatureMq;
      reply(*message, &features, sizeof features);
      break;
    }
    case kGetProtocolFeatures: {
      uint64_t features = kProtocolMq | kProtocolConfig | kProtocolReplyAck;
      if (options_.inflight) features |= kProtocolInflight;
      reply(*message, &features, sizeof features);
      break;
    }
    case kGetQueueNum: {
      const uint64_t queues = options_.queues;
      reply(*message, &queues, sizeof queues);
      break;
    }
    case kGetConfig: {
      BlkConfig config{};
      config.capacity = disk_->size() / kSectorBytes;
      config.num_queues = options_.queues;
      std::vector<uint8_t> answer = message->payload;
      std::memcpy(answer.data() + sizeof(ConfigHeader), &config,
                  std::min(sizeof config, answer.size() - sizeof(ConfigHeader)));
      reply(*message, answer.data(), answer.size());
      break;
    }
    case kGetInflightFd: {
      auto info = payload_as<InflightInfo>(*message);
      info.mmap_size = inflight_queue_bytes(info.queue_size) * info.num_queues;
      UniqueFd area(::memfd_create("fake-inflight", MFD_CLOEXEC));
      if (::ftruncate(area.get(), static_cast<off_t>(info.mmap_size)) != 0) return false;
      const int fd = area.get();
      reply(*message, &info, sizeof info, {&fd, 1});
      break;
    }
    case kGetVringBase: {
      complete_held(state.index);
      queues_[state.index].enabled = false;
      const VringState answer{state.index, queues_[state.index].last_avail};
      reply(*message, &answer, sizeof answer);
      break;
    }
    default:
      answered = false;
  }
  if (answered) return true;
  switch (message->header.request) {
    case kSetFeatures:
      features_ = word;
      break;
    case kSetMemTable:
      set_mem_table(message);
      break;
    case kSetInflightFd:
      set_inflight(message);
      break;
    case kSetVringNum:
      queues_[state.index].size = static_cast<uint16_t>(state.num);
      break;
    case kSetVringBase:
      queues_[state.index].last_avail = static_cast<uint16_t>(state.num);
      break;
    case kSetVringAddr: {
      const auto addr = payload_as<VringAddr>(*message);
      Queue& queue = queues_[addr.index];
      queue.desc = reinterpret_cast<Descriptor*>(from_user(addr.desc));
      queue.avail = reinterpret_cast<uint16_t*>(from_user(addr.avail));
      queue.used = reinterpret_cast<uint16_t*>(from_user(addr.used));
      break;
    }
    case kSetVringKick:
      if (!message->fds.empty()) queues_[word & 0xff].kick = std::move(message->fds[0]);
      break;
    case kSetVringCall:
      if (!message->fds.empty()) queues_[word & 0xff].call = std::move(message->fds[0]);
      break;
    case kSetVringEnable:
      queues_[state.index].enabled = state.num != 0;
      if (state.num != 0) start_queue(state.index);
      break;
    default:
      break;
  }
  if ((message->header.flags & kFlagNeedReply) != 0) {
    const uint64_t fine = 0;
    reply(*message, &fine, sizeof fine);
  }
  return true;
}

void FakeBackEnd::set_mem_table(Message* message) {
  const auto table = payload_as<MemTable>(*message);
  for (uint32_t i = 0; i < table.count; i++) {
    void* at = ::mmap(nullptr, table.regions[i].size, PROT_READ | PROT_WRITE, MAP_SHARED,
                      message->fds[i].get(), static_cast<off_t>(table.regions[i].mmap_offset));
    if (at != MAP_FAILED) regions_.push_back({table.regions[i], static_cast<uint8_t*>(at)});
  }
}

void FakeBackEnd::set_inflight(Message* message) {
  const auto info = payload_as<InflightInfo>(*message);
  inflight_fd_ = std::move(message->fds[0]);
  inflight_size_ = info.mmap_size;
  inflight_queue_size_ = info.queue_size;
  void* at = ::mmap(nullptr, info.mmap_size, PROT_READ | PROT_WRITE, MAP_SHARED, inflight_fd_.get(),
                    static_cast<off_t>(info.mmap_offset));
  inflight_ = at == MAP_FAILED ? nullptr : static_cast<uint8_t*>(at);
}

uint8_t* FakeBackEnd::from_user(uint64_t user) const {
  for (const Region& region : regions_) {
    const uint64_t offset = user - region.wire.user_addr;
    if (offset < region.wire.size) return region.mapped + offset;
  }
  return nullptr;
}

std::vector<std::span<uint8_t>> FakeBackEnd::from_guest(uint64_t guest, uint64_t length) const {
  std::vector<std::span<uint8_t>> parts;
  while (length > 0) {
    const size_t before = parts.size();
    for (const Region& region : regions_) {
      const uint64_t offset = guest - region.wire.guest_addr;
      if (offset >= region.wire.size) continue;
      const uint64_t count = std::min(length, region.wire.size - offset);
      parts.push_back({region.mapped + offset, count});
      guest += count;
      length -= count;
      break;
    }
    if (parts.size() == before) return {};
  }
  return parts;
}

void FakeBackEnd::start_queue(size_t index) {
  Queue& queue = queues_[index];
  queue.used_idx = __atomic_load_n(&queue.used[1], __ATOMIC_ACQUIRE);
  if (inflight_ == nullptr || queue.resubmitted) return;
  queue.resubmitted = true;
  queue.state = reinterpret_cast<InflightQueue*>(
      inflight_ + index * inflight_queue_bytes(inflight_queue_size_));
  resubmit(index);
}

void FakeBackEnd::resubmit(size_t index) {
  Queue& queue = queues_[index];
  InflightQueue& state = *queue.state;
  InflightEntry* entries = queue.entries();
  if (state.version == 0) {
    state.version = 1;
    state.desc_num = queue.size;
    state.used_idx = queue.used_idx;
    return;
  }
  // Died between the used index and clearing the entry: that request is done.
  if (state.used_idx != queue.used_idx) {
    entries[state.last_batch_head].inflight = 0;
    state.used_idx = queue.used_idx;
  }
  std::vector<uint16_t> again;
  for (uint16_t i = 0; i < queue.size; i++) {
    if (entries[i].inflight == 0) continue;
    again.push_back(i);
    counter_ = std::max(counter_, entries[i].counter + 1);
  }
  std::sort(again.begin(), again.end(),
            [&](uint16_t a, uint16_t b) { return entries[a].counter < entries[b].counter; });
  queue.last_avail = static_cast<uint16_t>(queue.used_idx + again.size());
  if (options_.faults.forget_inflight) return;
  resubmitted_ += again.size();
  for (uint16_t head : again) queue.held.push_back(head);
}

void FakeBackEnd::process(size_t index) {
  Queue& queue = queues_[index];
  uint16_t* avail_ring = queue.avail + 2;
  while (!dead_ && __atomic_load_n(&queue.avail[1], __ATOMIC_ACQUIRE) != queue.last_avail) {
    const uint16_t head = avail_ring[queue.last_avail & (queue.size - 1)];
    queue.last_avail++;
    if (queue.state != nullptr) {
      queue.entries()[head].counter = counter_++;
      queue.entries()[head].inflight = 1;
    }
    queue.held.push_back(head);
    if (queue.held.size() >= options_.reverse_window) complete_held(index);
  }
  // Wants every kick: avail_event right at the last index taken.
  if ((features_ & kFeatureEventIdx) != 0) {
    auto* used_ring = reinterpret_cast<UsedElement*>(queue.used + 2);
    __atomic_store_n(reinterpret_cast<uint16_t*>(used_ring + queue.size), queue.last_avail,
                     __ATOMIC_RELAXED);
  }
}

void FakeBackEnd::complete_held(size_t index) {
  Queue& queue = queues_[index];
  while (!queue.held.empty() && !dead_) {
    const uint16_t head = queue.held.back();
    queue.held.pop_back();
    execute(index, head);
    if (options_.die_after != 0 && ++completions_ >= options_.die_after) dead_ = true;
  }
  const uint64_t one = 1;
  if (queue.call.valid()) {
    [[maybe_unused]] ssize_t written = ::write(queue.call.get(), &one, sizeof one);
  }
}

bool FakeBackEnd::gather(Queue& queue, uint16_t head, std::vector<std::span<uint8_t>>* readable,
                         std::vector<std::span<uint8_t>>* writable) {
  const Descriptor* table = queue.desc;
  uint16_t at = head;
  if ((table[at].flags & kDescIndirect) != 0) {
    const auto parts = from_guest(table[at].addr, table[at].len);
    if (parts.size() != 1) return false;
    table = reinterpret_cast<const Descriptor*>(parts[0].data());
    at = 0;
  }
  for (;;) {
    const Descriptor& d = table[at];
    auto* list = (d.flags & kDescWrite) != 0 ? writable : readable;
    for (auto& part : from_guest(d.addr, d.len)) list->push_back(part);
    if ((d.flags & kDescNext) == 0) return !readable->empty() && !writable->empty();
    at = d.next;
  }
}

void FakeBackEnd::execute(size_t index, uint16_t head) {
  Queue& queue = queues_[index];
  std::vector<std::span<uint8_t>> readable;
  std::vector<std::span<uint8_t>> writable;
  uint32_t written = 0;
  if (gather(queue, head, &readable, &writable)) {
    const uint8_t status = run_request(readable, writable, &written);
    copy_out(writable, total(writable) - 1, &status, 1);
    written++;
  }
  auto* used_ring = reinterpret_cast<UsedElement*>(queue.used + 2);
  for (int times = options_.faults.complete_twice && completions_ % 16 == 15 ? 2 : 1; times > 0;
       times--) {
    used_ring[queue.used_idx & (queue.size - 1)] = {head, written};
    queue.used_idx++;
    if (queue.state != nullptr) queue.state->last_batch_head = head;
    __atomic_store_n(&queue.used[1], queue.used_idx, __ATOMIC_RELEASE);
  }
  if (queue.state != nullptr) {
    queue.entries()[head].inflight = 0;
    queue.state->used_idx = queue.used_idx;
  }
  if (options_.die_after == 0) completions_++;
}

uint8_t FakeBackEnd::run_request(const std::vector<std::span<uint8_t>>& readable,
                                 const std::vector<std::span<uint8_t>>& writable,
                                 uint32_t* written) {
  BlkHeader header{};
  copy_in(readable, 0, reinterpret_cast<uint8_t*>(&header), sizeof header);
  const uint64_t offset = header.sector * kSectorBytes;
  const size_t out = total(readable) - sizeof header;
  const size_t in = total(writable) - 1;
  switch (header.type) {
    case kBlkIn:
      if (offset + in > disk_->size()) return kStatusIoError;
      copy_out(writable, 0, disk_->data() + offset, in);
      if (options_.faults.corrupt_reads) {
        const uint8_t bad = 0x77;
        copy_out(writable, in / 2, &bad, 1);
      }
      *written = static_cast<uint32_t>(in);
      return kStatusOk;
    case kBlkOut:
      if (offset + out > disk_->size()) return kStatusIoError;
      if (options_.faults.lose_writes && writes_++ % 4 == 3) return kStatusOk;
      copy_in(readable, sizeof header, disk_->data() + offset, out);
      return kStatusOk;
    case kBlkFlush:
      return kStatusOk;
    case kBlkGetId:
      copy_out(writable, 0, reinterpret_cast<const uint8_t*>("fake-back-end-serial"), in);
      *written = static_cast<uint32_t>(in);
      return kStatusOk;
    case kBlkDiscard:
    case kBlkWriteZeroes: {
      BlkRange range{};
      copy_in(readable, sizeof header, reinterpret_cast<uint8_t*>(&range), sizeof range);
      if ((range.sector + range.sectors) * kSectorBytes > disk_->size()) return kStatusIoError;
      std::memset(disk_->data() + range.sector * kSectorBytes, 0,
                  static_cast<size_t>(range.sectors) * kSectorBytes);
      return kStatusOk;
    }
    default:
      return kStatusUnsupported;
  }
}

}  // namespace ep::front_end

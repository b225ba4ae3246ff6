// SPDX-License-Identifier: Apache-2.0
//
// Attacks drawn from a seed.
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>

#include "front-end/hostile_internal.h"

namespace ep::front_end {

namespace {

uint64_t interesting(Random& random) {
  constexpr uint64_t kValues[] = {
      0,          1,          2,   15,         16,         17,         127,   128,    129,   255,
      256,        511,        512, 513,        4095,       4096,       32767, 32768,  65535, 65536,
      0x7fffffff, 0x80000000, ~0u, 1ull << 32, 1ull << 55, 1ull << 63, ~0ull, ~511ull};
  switch (random.below(4)) {
    case 0:
      return random.next();
    case 1:
      return random.below(256);
    default:
      return kValues[random.below(std::size(kValues))];
  }
}

uint64_t guest_address(RawRequest& raw, Random& random) {
  switch (random.below(6)) {
    case 0:
      return interesting(random);
    case 1:
      return raw.end_of_memory() - random.below(5000);
    case 2:
      return raw.header_guest;
    case 3:
      return raw.status_guest;
    default:
      return raw.data + random.below(RawRequest::kDataBytes);
  }
}

UniqueFd some_fd(Random& random) {
  if (random.one_in(2)) return UniqueFd(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
  UniqueFd file(::memfd_create("fuzz", MFD_CLOEXEC));
  if (!file.valid() || ::ftruncate(file.get(), static_cast<off_t>(random.below(4) * 4096)) != 0) {
    return UniqueFd(::eventfd(0, EFD_CLOEXEC));
  }
  return file;
}

Outcome fuzz_messages(const std::string& path, Random& random) {
  Channel channel;
  if (!channel.connect(path).ok()) return Outcome::kDisconnected;
  const uint64_t count = 1 + random.below(40);
  for (uint64_t i = 0; i < count && !channel.peer_gone(); i++) {
    std::vector<uint8_t> payload(random.one_in(3) ? random.below(400) : 8 * random.below(8));
    for (size_t at = 0; at + 4 <= payload.size(); at += 4) {
      const auto value = static_cast<uint32_t>(interesting(random));
      std::memcpy(payload.data() + at, &value, sizeof value);
    }
    std::vector<UniqueFd> owned(random.below(4));
    std::vector<int> fds;
    for (UniqueFd& fd : owned) {
      fd = some_fd(random);
      fds.push_back(fd.get());
    }
    MessageHeader header{static_cast<uint32_t>(random.below(44)), kFlagVersion,
                         static_cast<uint32_t>(payload.size())};
    if (random.one_in(4)) header.flags |= kFlagNeedReply;
    if (random.one_in(20)) header.flags = static_cast<uint32_t>(interesting(random));
    if (random.one_in(20)) header.size = static_cast<uint32_t>(interesting(random));
    std::vector<uint8_t> bytes(sizeof header + payload.size());
    std::memcpy(bytes.data(), &header, sizeof header);
    if (!payload.empty()) {
      std::memcpy(bytes.data() + sizeof header, payload.data(), payload.size());
    }
    if (!channel.send_raw(bytes.data(), bytes.size(), fds).ok()) break;
  }
  return settle(channel, 200);
}

/// An orderly set-up in which one to three fields have another value.
Outcome fuzz_set_up(const std::string& path, Random& random) {
  ClientOptions options;
  options.socket_path = path;
  VhostUserClient client(options);
  if (!client.connect().ok() || !client.create_memory().ok()) return Outcome::kDisconnected;
  if (random.one_in(2) && !client.set_up_inflight().ok()) return Outcome::kDisconnected;
  SetUp s(client);
  const uint64_t changes = 1 + random.below(3);
  for (uint64_t i = 0; i < changes; i++) {
    const uint64_t v = interesting(random);
    const auto v32 = static_cast<uint32_t>(v);
    MemRegion& region = s.table.regions[0];
    uint64_t* const wide[] = {&s.features,       &region.guest_addr,  &region.size,
                              &region.user_addr, &region.mmap_offset, &s.addr.desc,
                              &s.addr.used,      &s.addr.avail,       &s.addr.log,
                              &s.kick_index,     &s.call_index};
    uint32_t* const narrow[] = {&s.table.count, &s.num.index,    &s.num.num,
                                &s.base.index,  &s.base.num,     &s.addr.index,
                                &s.addr.flags,  &s.enable.index, &s.enable.num};
    const uint64_t pick = random.below(std::size(wide) + std::size(narrow));
    if (pick < std::size(wide)) {
      *wide[pick] = random.one_in(2) ? *wide[pick] + v32 % 8192 : v;
    } else {
      *narrow[pick - std::size(wide)] = v32;
    }
  }
  soft_start(client.channel(), s);
  client.ring(0).raw_push(static_cast<uint16_t>(interesting(random)));
  client.ring(0).publish();
  client.kick(0);
  pause_ms(5);
  return settle(client.channel(), 300);
}

/// A healthy connection with random chains in its ring.
Outcome fuzz_descriptors(const std::string& path, Random& random) {
  RawRequest raw(path);
  if (!raw.open().ok()) return Outcome::kDisconnected;
  Outcome last = Outcome::kNoAnswer;
  for (int round = 0; round < 8; round++) {
    constexpr uint32_t kTypes[] = {kBlkIn,    kBlkOut,     kBlkFlush,
                                   kBlkGetId, kBlkDiscard, kBlkWriteZeroes};
    raw.header(random.one_in(8) ? static_cast<uint32_t>(interesting(random))
                                : kTypes[random.below(std::size(kTypes))],
               random.one_in(2) ? random.below(64) : interesting(random));
    for (uint16_t i = 0; i < RawRequest::kDescriptors; i++) {
      const auto flags =
          static_cast<uint16_t>(random.one_in(10) ? interesting(random) : random.below(4));
      const auto next =
          random.one_in(5)
              ? static_cast<uint16_t>(interesting(random))
              : raw.absolute(static_cast<uint16_t>(random.below(RawRequest::kDescriptors)));
      raw.descriptor(i, guest_address(raw, random), static_cast<uint32_t>(interesting(random)),
                     flags, next);
      const auto table_next = static_cast<uint16_t>(random.below(48));
      raw.table_entry(i, {guest_address(raw, random), static_cast<uint32_t>(interesting(random)),
                          flags, table_next});
    }
    if (random.one_in(3)) {
      raw.descriptor(0, raw.table, static_cast<uint32_t>(16 * random.below(45)), kDescIndirect, 0);
    }
    if (random.one_in(2)) {
      // Half right gets further than all wrong.
      raw.descriptor(0, raw.header_guest, 16, kDescNext, raw.absolute(1));
    }
    raw.push({0});
    const Outcome outcome = raw.wait(50);
    if (outcome != Outcome::kNoAnswer) last = outcome;
    if (outcome == Outcome::kDisconnected) break;
  }
  return last;
}

/// A healthy connection whose ring pages are overwritten with random bytes.
Outcome fuzz_rings(const std::string& path, Random& random) {
  RawRequest raw(path);
  if (!raw.open().ok()) return Outcome::kDisconnected;
  raw.io_chain(kBlkIn, 0, raw.data, 4096);
  GuestMemory& memory = raw.device.client().memory();
  for (int round = 0; round < 50; round++) {
    const uint64_t parts[] = {raw.ring().descriptor_guest(), raw.ring().avail_guest(),
                              raw.ring().used_guest()};
    uint8_t* at = memory.host(parts[random.below(3)]) + random.below(300);
    const uint64_t value = interesting(random);
    std::memcpy(at, &value, sizeof value);
    if (random.one_in(3)) raw.push({0});
    raw.device.client().kick(0);
  }
  pause_ms(10);
  return settle(raw.device.client().channel(), 300);
}

}  // namespace

std::vector<ProtocolAttack> fuzz_attacks() {
  return {{"fuzz_messages", "random messages", fuzz_messages, true},
          {"fuzz_set_up", "a set-up with random changes", fuzz_set_up, true},
          {"fuzz_descriptors", "random chains", fuzz_descriptors, true},
          {"fuzz_rings", "random bytes over the rings", fuzz_rings, true}};
}

}  // namespace ep::front_end

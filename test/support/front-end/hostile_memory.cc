// SPDX-License-Identifier: Apache-2.0
//
// Attacks with shared memory: memory tables that lie, files cut under the back-end's feet, spoilt
// in-flight areas, ring indexes that jump, one head given twice.
#include <sys/mman.h>
#include <unistd.h>

#include <cstddef>
#include <cstring>

#include "front-end/hostile_internal.h"

namespace ep::front_end {

namespace {

UniqueFd memory_file(uint64_t bytes) {
  UniqueFd fd(::memfd_create("hostile", MFD_CLOEXEC));
  if (fd.valid() && ::ftruncate(fd.get(), static_cast<off_t>(bytes)) != 0) fd.reset();
  return fd;
}

/// A memory table changed by `spoil`, then rings and a kick as if all were well.
Outcome spoilt_table(const std::string& path, const std::function<void(SetUp&)>& spoil) {
  VhostUserClient client(small_client(path));
  if (!client.connect().ok() || !client.create_memory().ok()) return Outcome::kDisconnected;
  SetUp set_up(client);
  spoil(set_up);
  soft_start(client.channel(), set_up);
  client.ring(0).raw_push(0);
  client.ring(0).publish();
  client.kick(0);
  pause_ms(20);
  return settle(client.channel());
}

void add_tables(std::vector<ProtocolAttack>* out) {
  auto add = [&](const char* name, const char* what, std::function<void(SetUp&)> spoil) {
    out->push_back(
        {name, what, [=](const std::string& path, Random&) { return spoilt_table(path, spoil); }});
  };
  out->push_back({"mem_table_short_file", "a region larger than its file",
                  [](const std::string& path, Random&) {
                    UniqueFd file = memory_file(4096);
                    return spoilt_table(path, [&](SetUp& s) { s.table_fds = {file.get()}; });
                  }});
  out->push_back({"mem_table_empty_file", "a region whose file is empty",
                  [](const std::string& path, Random&) {
                    UniqueFd file = memory_file(0);
                    return spoilt_table(path, [&](SetUp& s) { s.table_fds = {file.get()}; });
                  }});
  out->push_back({"mem_table_pipe", "a pipe as guest memory", [](const std::string& path, Random&) {
                    int ends[2];
                    if (::pipe(ends) != 0) return Outcome::kNoAnswer;
                    UniqueFd a(ends[0]);
                    UniqueFd b(ends[1]);
                    return spoilt_table(path, [&](SetUp& s) { s.table_fds = {a.get()}; });
                  }});
  add("mem_table_no_regions", "a table without regions", [](SetUp& s) {
    s.table.count = 0;
    s.table_size = 8;
    s.table_fds.clear();
  });
  add("mem_table_too_many_regions", "a table that claims 4 billion regions",
      [](SetUp& s) { s.table.count = 0xffffffff; });
  add("mem_table_more_than_sent", "a table that claims 8 regions and has one",
      [](SetUp& s) { s.table.count = 8; });
  add("mem_table_size_zero", "a region of 0 bytes", [](SetUp& s) { s.table.regions[0].size = 0; });
  add("mem_table_size_huge", "a region of 2^64 - 4096 bytes",
      [](SetUp& s) { s.table.regions[0].size = ~uint64_t{4095}; });
  add("mem_table_wraps", "a region whose guest addresses wrap",
      [](SetUp& s) { s.table.regions[0].guest_addr = ~uint64_t{0} - 4095; });
  add("mem_table_user_wraps", "a region whose user addresses wrap",
      [](SetUp& s) { s.table.regions[0].user_addr = ~uint64_t{0} - 4095; });
  add("mem_table_offset_huge", "a region at an offset far behind its file",
      [](SetUp& s) { s.table.regions[0].mmap_offset = uint64_t{1} << 40; });
  add("mem_table_offset_wraps", "a region whose offset and size overflow",
      [](SetUp& s) { s.table.regions[0].mmap_offset = ~uint64_t{0} - 4095; });
  add("mem_table_offset_odd", "a region at an odd offset",
      [](SetUp& s) { s.table.regions[0].mmap_offset = 1; });
  add("mem_table_overlap", "two regions at the same guest addresses", [](SetUp& s) {
    s.table.count = 2;
    s.table.regions[1] = s.table.regions[0];
    s.table_fds.push_back(s.table_fds[0]);
    s.table_size = offsetof(MemTable, regions) + 2 * sizeof(MemRegion);
  });
}

/// Requests into memory whose file is cut to `keep` bytes, before or after the back-end saw them.
Outcome truncate_under_load(const std::string& path, size_t region, uint64_t keep, bool before) {
  RawRequest raw(path, 2);
  if (!raw.open().ok()) return Outcome::kDisconnected;
  GuestMemory& memory = raw.device.client().memory();
  // Headers, rings and status are in region 0, the data in region 1.
  const uint64_t data = memory.regions()[1].guest_addr;
  raw.header(kBlkOut, 0);
  for (uint16_t i = 0; i < 12; i++) {
    const uint16_t at = static_cast<uint16_t>(i * 3);
    raw.descriptor(at, raw.header_guest, 16, kDescNext, raw.absolute(at + 1));
    raw.descriptor(at + 1, data + i * 65536, 65536, kDescNext, raw.absolute(at + 2));
    raw.descriptor(at + 2, raw.status_guest, 1, kDescWrite, 0);
  }
  if (before && !memory.truncate(region, keep).ok()) return Outcome::kNoAnswer;
  if (!before || region != 0) {
    raw.push({0, 3, 6, 9, 12, 15, 18, 21, 24, 27, 30, 33});
  } else {
    raw.device.client().kick(0);
  }
  if (!before && !memory.truncate(region, keep).ok()) return Outcome::kNoAnswer;
  raw.device.client().kick(0);
  // Our own rings may be gone now: they are not touched again.
  pause_ms(50);
  raw.device.client().kick(0);
  return settle(raw.device.client().channel());
}

void add_truncations(std::vector<ProtocolAttack>* out) {
  auto add = [&](const char* name, const char* what, size_t region, uint64_t keep, bool before) {
    out->push_back({name, what, [=](const std::string& path, Random&) {
                      return truncate_under_load(path, region, keep, before);
                    }});
  };
  add("truncate_data_in_flight", "data memory cut to nothing while requests are in flight", 1, 0,
      false);
  add("truncate_data_before", "data memory cut to nothing before requests that use it", 1, 0, true);
  add("truncate_data_partly", "data memory cut to 100 KiB", 1, 100 << 10, false);
  add("truncate_rings_in_flight", "ring memory cut to nothing while requests are in flight", 0, 0,
      false);
  add("truncate_rings_idle", "ring memory cut to nothing, then a kick", 0, 0, true);
  add("truncate_rings_partly", "ring memory cut to its first page", 0, 4096, false);
}

/// SET_INFLIGHT_FD with `info` and a file of `bytes` bytes (or none), then a start and a request.
Outcome spoilt_inflight(const std::string& path, const InflightInfo& info, int64_t bytes) {
  RawRequest raw(path);
  VhostUserClient& client = raw.device.client();
  if (!client.connect().ok() || !client.create_memory().ok()) return Outcome::kDisconnected;
  if ((client.protocol_features() & kProtocolInflight) == 0) return settle(client.channel());
  UniqueFd file;
  std::vector<int> fds;
  if (bytes >= 0) {
    file = memory_file(static_cast<uint64_t>(bytes));
    fds = {file.get()};
  }
  (void)client.channel().send(kSetInflightFd, 0, &info, sizeof info, fds);
  soft_start(client.channel(), SetUp(client));
  client.ring(0).raw_push(0);
  client.ring(0).publish();
  client.kick(0);
  pause_ms(20);
  return settle(client.channel());
}

/// A real area, filled with random bytes before the back-end reads what to resubmit, or cut while
/// it is in use.
Outcome real_inflight(const std::string& path, Random& random, bool garbage, bool cut) {
  RawRequest raw(path);
  VhostUserClient& client = raw.device.client();
  if (!client.connect().ok() || !client.create_memory().ok() || !client.set_up_inflight().ok()) {
    return Outcome::kDisconnected;
  }
  if (!client.inflight_active()) return settle(client.channel());
  const size_t size = client.inflight_info().mmap_size;
  if (garbage) {
    std::vector<uint8_t> bytes(size);
    for (uint8_t& byte : bytes) byte = static_cast<uint8_t>(random.next());
    if (random.one_in(2)) {
      // A plausible head (features, version 1, ring size), so that the rest is believed.
      const uint64_t zero = 0;
      const uint16_t plausible[2] = {1, client.options().queue_size};
      std::memcpy(bytes.data(), &zero, sizeof zero);
      std::memcpy(bytes.data() + 8, plausible, sizeof plausible);
    }
    const auto offset = static_cast<off_t>(client.inflight_info().mmap_offset);
    if (::pwrite(client.inflight_fd(), bytes.data(), size, offset) < 0) return Outcome::kNoAnswer;
    const int fd = client.inflight_fd();
    (void)client.channel().send(kSetInflightFd, 0, &client.inflight_info(), sizeof(InflightInfo),
                                {&fd, 1});
  }
  soft_start(client.channel(), SetUp(client));
  client.kick(0);
  pause_ms(10);
  // A sealed area cannot be cut: then there is nothing to attack.
  if (cut) [[maybe_unused]]
    int refused = ::ftruncate(client.inflight_fd(), 0);
  client.ring(0).raw_push(0);
  client.ring(0).publish();
  client.kick(0);
  pause_ms(20);
  return settle(client.channel());
}

void add_inflight(std::vector<ProtocolAttack>* out) {
  auto add = [&](const char* name, const char* what, InflightInfo info, int64_t bytes) {
    out->push_back({name, what, [=](const std::string& path, Random&) {
                      return spoilt_inflight(path, info, bytes);
                    }});
  };
  add("inflight_short_file", "an in-flight area larger than its file", {1 << 20, 0, 1, 128}, 4096);
  add("inflight_empty_file", "an in-flight area in an empty file", {4096, 0, 1, 128}, 0);
  add("inflight_no_fd", "SET_INFLIGHT_FD without a descriptor", {4096, 0, 1, 128}, -1);
  add("inflight_too_small", "an in-flight area too small for its ring", {16, 0, 1, 128}, 4096);
  add("inflight_huge", "an in-flight area of 2^64 - 1 bytes", {~uint64_t{0}, 0, 1, 128}, 4096);
  add("inflight_offset", "an in-flight area far behind its file", {4096, 1ull << 40, 1, 128}, 4096);
  add("inflight_many_queues", "an in-flight area for 65535 queues of 65535",
      {8192, 0, 65535, 65535}, 8192);
  add("inflight_zero", "an in-flight area for no queues of no size", {4096, 0, 0, 0}, 4096);
  out->push_back({"get_inflight_absurd", "GET_INFLIGHT_FD for 65535 queues of 65535",
                  [](const std::string& path, Random&) {
                    VhostUserClient client(small_client(path));
                    if (!client.connect().ok()) return Outcome::kDisconnected;
                    for (uint16_t n : {uint16_t{65535}, uint16_t{0}, uint16_t{1024}}) {
                      const InflightInfo ask{0, 0, n, n};
                      (void)client.channel().send(kGetInflightFd, 0, &ask, sizeof ask);
                      pause_ms(5);
                    }
                    return settle(client.channel());
                  }});
  out->push_back({"inflight_garbage", "an in-flight area full of random bytes",
                  [](const std::string& path, Random& random) {
                    return real_inflight(path, random, true, false);
                  },
                  true});
  out->push_back({"inflight_truncated", "an in-flight area cut to nothing while in use",
                  [](const std::string& path, Random& random) {
                    return real_inflight(path, random, false, true);
                  }});
}

/// On a healthy connection: `harm` spoils ring indexes; a request was put into descriptor 0.
Outcome on_ring(const std::string& path, const std::function<void(RawRequest&)>& harm) {
  RawRequest raw(path);
  if (!raw.open().ok()) return Outcome::kDisconnected;
  raw.io_chain(kBlkIn, 0, raw.data, 4096);
  harm(raw);
  return raw.wait(300);
}

void add_indexes(std::vector<ProtocolAttack>* out) {
  auto add = [&](const char* name, const char* what, std::function<void(RawRequest&)> harm) {
    out->push_back(
        {name, what, [=](const std::string& path, Random&) { return on_ring(path, harm); }});
  };
  for (const auto& [name, jump] :
       {std::pair{"avail_idx_jump", 129}, {"avail_idx_far", 0x8000}, {"avail_idx_back", -1}}) {
    const int by = jump;
    add(name, "an available index further on than the ring is long", [=](RawRequest& r) {
      r.push({0});
      r.ring().raw_set_avail_idx(static_cast<uint16_t>(r.ring().avail_idx() + by));
      r.device.client().kick(0);
    });
  }
  add("avail_head_out_of_range", "a head past the descriptor table",
      [](RawRequest& r) { r.push({static_cast<uint16_t>(r.ring().size())}); });
  add("avail_head_max", "head 65535",
      [](RawRequest& r) { r.push({static_cast<uint16_t>(0xffff - r.base)}); });
  add("head_twice", "one head given twice before it completed", [](RawRequest& r) {
    r.io_chain(kBlkOut, 0, r.data, RawRequest::kDataBytes);
    r.push({0, 0});
  });
  add("head_many_times", "one head given 100 times", [](RawRequest& r) {
    for (int i = 0; i < 100; i++) r.ring().raw_push(r.base);
    r.push({0});
  });
  add("descriptor_changes", "descriptors that change while the request is looked at",
      [](RawRequest& r) {
        for (int i = 0; i < 64; i++) {
          r.push({0});
          for (int k = 0; k < 2000; k++) {
            r.descriptor(1, (k & 1) != 0 ? r.data : r.end_of_memory() - 512, 4096,
                         kDescNext | kDescWrite, r.absolute((k & 2) != 0 ? 2 : 1));
          }
          r.io_chain(kBlkIn, 0, r.data, 4096);
          r.wait(100);
        }
        r.push({0});
      });
  out->push_back({"close_in_flight", "a connection that ends with requests in flight",
                  [](const std::string& path, Random&) {
                    RawRequest raw(path);
                    if (!raw.open().ok()) return Outcome::kDisconnected;
                    raw.io_chain(kBlkOut, 0, raw.data, RawRequest::kDataBytes);
                    raw.push({0});
                    raw.device.client().disconnect();
                    return Outcome::kDisconnected;
                  }});
}

}  // namespace

std::vector<ProtocolAttack> memory_attacks() {
  std::vector<ProtocolAttack> all;
  add_tables(&all);
  add_truncations(&all);
  add_inflight(&all);
  add_indexes(&all);
  return all;
}

}  // namespace ep::front_end

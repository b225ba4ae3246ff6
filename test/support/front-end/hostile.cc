// SPDX-License-Identifier: Apache-2.0
#include "front-end/hostile.h"

#include <poll.h>
#include <time.h>

#include <cstring>

#include "front-end/hostile_internal.h"
#include "front-end/json.h"
#include "front-end/probe.h"

namespace ep::front_end {

namespace {

BlkDeviceOptions raw_options(const std::string& socket_path, uint32_t regions, bool indirect) {
  BlkDeviceOptions options;
  options.client.socket_path = socket_path;
  options.client.regions = regions;
  options.client.indirect = indirect;
  options.client.data_bytes = 4 << 20;
  options.depth = 4;
  options.max_bytes = 4096;
  return options;
}

/// A disk may need a moment: rte_vhost notices a closed connection, and a new one, late.
bool alive(const std::string& path, std::string* why) {
  for (int attempt = 0; attempt < 30; attempt++) {
    ProbeResult result;
    Status status = probe(path, 0, 3000, &result);
    if (status.ok()) return true;
    *why = status.message();
    pause_ms(100);
  }
  return false;
}

struct Report {
  std::string name;
  Outcome outcome = Outcome::kNoAnswer;
  bool expects_error = false;
  bool tried_good = false;
  bool good = false;
  std::string note;
  uint8_t status = kStatusPending;
};

bool finish(const HostileOptions& options, FILE* out, const Report& report) {
  std::string why;
  const bool disk = alive(options.socket_path, &why);
  std::string other_why;
  const bool other = options.probe_path.empty() || alive(options.probe_path, &other_why);
  bool ok = disk && other;
  if (report.expects_error) {
    ok = ok && report.outcome == Outcome::kCompletedError && report.good;
  }
  JsonLine line;
  line.text("attack", report.name).boolean("ok", ok);
  line.text("outcome", outcome_name(report.outcome));
  if (report.status != kStatusPending) line.number("status", report.status);
  if (report.tried_good) line.boolean("goodRequestAfter", report.good);
  line.boolean("diskAlive", disk);
  if (!disk) line.text("diskError", why);
  if (!options.probe_path.empty()) line.boolean("otherAlive", other);
  if (!other) line.text("otherError", other_why);
  if (!report.note.empty()) line.text("note", report.note);
  line.print(out);
  return ok;
}

bool run_request_attack(const HostileOptions& options, FILE* out, const RequestAttack& attack) {
  Report report;
  report.name = attack.name;
  report.expects_error = attack.expects_error;
  {
    RawRequest raw(options.socket_path, 1, !attack.no_indirect);
    Status status = raw.open();
    if (!status.ok()) {
      report.note = status.message();
      return finish(options, out, report) && false;
    }
    attack.build(raw);
    raw.push({0});
    report.outcome = raw.wait(1000);
    report.status = raw.last_status;
    if (raw.violation) report.note = "completion of a head that was not in flight";
    if (report.outcome != Outcome::kDisconnected) {
      report.tried_good = true;
      Status good = check_good_request(&raw.device, 0, 0, 2000);
      report.good = good.ok();
      if (!good.ok() && report.note.empty()) report.note = good.message();
    }
  }
  return finish(options, out, report);
}

bool run_protocol_attack(const HostileOptions& options, FILE* out, const ProtocolAttack& attack) {
  bool ok = true;
  const uint32_t rounds = attack.fuzzer ? options.rounds : 1;
  for (uint32_t round = 0; round < rounds; round++) {
    Random random(options.seed * 1000003 + round);
    Report report;
    report.name = attack.name;
    if (attack.fuzzer) report.note = "round " + std::to_string(round);
    report.outcome = attack.run(options.socket_path, random);
    ok &= finish(options, out, report);
  }
  return ok;
}

std::vector<ProtocolAttack> protocol_attacks() {
  std::vector<ProtocolAttack> all = message_attacks();
  for (auto& attack : memory_attacks()) all.push_back(attack);
  for (auto& attack : fuzz_attacks()) all.push_back(attack);
  return all;
}

}  // namespace

const char* outcome_name(Outcome outcome) {
  switch (outcome) {
    case Outcome::kCompletedError:
      return "completed_error";
    case Outcome::kCompletedOk:
      return "completed_ok";
    case Outcome::kAnswered:
      return "answered";
    case Outcome::kDisconnected:
      return "disconnected";
    case Outcome::kNoAnswer:
      return "no_answer";
  }
  return "?";
}

void pause_ms(int ms) {
  timespec time{ms / 1000, (ms % 1000) * 1000000L};
  ::nanosleep(&time, nullptr);
}

RawRequest::RawRequest(const std::string& socket_path, uint32_t regions, bool indirect)
    : device(raw_options(socket_path, regions, indirect)) {}

Status RawRequest::open() {
  FRONT_END_TRY(device.open());
  GuestMemory& memory = device.client().memory();
  base = ring().raw_reserve(kDescriptors);
  header_guest = memory.allocate(sizeof(BlkHeader), 64);
  status_guest = memory.allocate(64, 64);
  data = memory.allocate(kDataBytes, 4096);
  table = memory.allocate(kDataBytes, 4096);
  if (table == 0) return Status::error("guest memory is too small");
  capacity = device.client().config().capacity;
  std::memset(memory.host(status_guest), kStatusPending, 64);
  std::memset(memory.host(data), 0x5a, kDataBytes);
  return {};
}

void RawRequest::header(uint32_t type, uint64_t sector) const {
  const BlkHeader value{type, 0, sector};
  auto& memory = const_cast<BlkDevice&>(device).client().memory();
  std::memcpy(memory.host(header_guest), &value, sizeof value);
}

void RawRequest::descriptor(uint16_t index, uint64_t guest, uint32_t length, uint16_t flags,
                            uint16_t next) {
  ring().descriptors()[absolute(index)] = {guest, length, flags, next};
}

void RawRequest::chain(std::initializer_list<Segment> segments) {
  uint16_t index = 0;
  for (const Segment& segment : segments) {
    const bool last = index + 1u == segments.size();
    const int flags = (last ? 0 : kDescNext) | (segment.device_writes ? kDescWrite : 0);
    descriptor(index, segment.guest, segment.length, static_cast<uint16_t>(flags),
               last ? uint16_t{0} : absolute(static_cast<uint16_t>(index + 1)));
    index++;
  }
}

void RawRequest::table_entry(uint16_t index, const Descriptor& value) const {
  auto& memory = const_cast<BlkDevice&>(device).client().memory();
  std::memcpy(memory.host(table + index * sizeof value), &value, sizeof value);
}

void RawRequest::io_chain(uint32_t type, uint64_t sector, uint64_t guest, uint32_t length) {
  header(type, sector);
  chain({header_segment(), {guest, length, type == kBlkIn}, status_segment()});
}

void RawRequest::range_chain(uint32_t type, std::initializer_list<BlkRange> ranges,
                             uint32_t bytes) {
  uint64_t at = data;
  for (const BlkRange& range : ranges) {
    std::memcpy(device.client().memory().host(at), &range, sizeof range);
    at += sizeof range;
  }
  header(type, 0);
  chain({header_segment(), {data, bytes, false}, status_segment()});
}

void RawRequest::push(std::initializer_list<uint16_t> heads) {
  for (uint16_t head : heads) {
    const uint16_t at = absolute(head);
    ring().raw_push(at);
    if (at < ring().size()) ring().raw_expect(at);
  }
  ring().publish();
  device.client().kick(0);
}

Outcome RawRequest::wait(int timeout_ms) {
  const uint64_t deadline = BlkDevice::now_ns() + static_cast<uint64_t>(timeout_ms) * 1000000;
  while (BlkDevice::now_ns() < deadline) {
    UsedElement element;
    if (ring().poll(&element, &violation)) {
      if (violation) return Outcome::kCompletedOk;
      last_status = *device.client().memory().host(status_guest);
      return last_status == kStatusOk ? Outcome::kCompletedOk : Outcome::kCompletedError;
    }
    if (device.client().lost()) return Outcome::kDisconnected;
    const uint16_t queue = 0;
    device.wait_for_interrupt({&queue, 1}, 5);
  }
  return Outcome::kNoAnswer;
}

SetUp::SetUp(VhostUserClient& client) : features(client.features()) {
  GuestMemory& memory = client.memory();
  SplitRing& ring = client.ring(0);
  table = memory.table(&table_size);
  table_fds = memory.region_fds();
  num.num = ring.size();
  addr.desc = memory.user_address(ring.descriptor_guest());
  addr.avail = memory.user_address(ring.avail_guest());
  addr.used = memory.user_address(ring.used_guest());
  kick_fds = {client.kick_fd(0)};
  call_fds = {client.call_fd(0)};
  enable.num = 1;
}

void soft_start(Channel& channel, const SetUp& s) {
  // Errors are what is asked for: a back-end may close at any of these.
  (void)channel.send(kSetFeatures, 0, &s.features, sizeof s.features);
  (void)channel.send(kSetMemTable, 0, &s.table, s.table_size, s.table_fds);
  (void)channel.send(kSetVringNum, 0, &s.num, sizeof s.num);
  (void)channel.send(kSetVringBase, 0, &s.base, sizeof s.base);
  (void)channel.send(kSetVringAddr, 0, &s.addr, sizeof s.addr);
  (void)channel.send(kSetVringCall, 0, &s.call_index, sizeof s.call_index, s.call_fds);
  (void)channel.send(kSetVringKick, 0, &s.kick_index, sizeof s.kick_index, s.kick_fds);
  (void)channel.send(kSetVringEnable, 0, &s.enable, sizeof s.enable);
}

ClientOptions small_client(const std::string& path) {
  ClientOptions options;
  options.socket_path = path;
  return options;
}

Outcome settle(Channel& channel, int timeout_ms) {
  if (!channel.send(kGetFeatures, 0, nullptr, 0).ok()) return Outcome::kDisconnected;
  for (int i = 0; i < 64; i++) {
    Message message;
    Status status = channel.receive(&message, timeout_ms);
    if (!status.ok()) {
      return status.message() == "timed out" && !channel.peer_gone() ? Outcome::kNoAnswer
                                                                     : Outcome::kDisconnected;
    }
    if (message.header.request == kGetFeatures) break;
  }
  return Outcome::kAnswered;
}

std::vector<AttackInfo> list_attacks() {
  std::vector<AttackInfo> out;
  for (const auto& attack : request_attacks()) {
    out.push_back({attack.name, attack.what, attack.expects_error});
  }
  for (const auto& attack : protocol_attacks()) out.push_back({attack.name, attack.what, false});
  return out;
}

bool run_hostile(const HostileOptions& options, FILE* out, bool* known) {
  *known = false;
  bool ok = true;
  uint32_t failed = 0;
  uint32_t ran = 0;
  const bool all = options.attack == "all";
  auto count = [&](bool good) {
    *known = true;
    ran++;
    failed += good ? 0 : 1;
    ok = ok && good;
  };
  for (const auto& attack : request_attacks()) {
    if (all || options.attack == attack.name) count(run_request_attack(options, out, attack));
  }
  for (const auto& attack : protocol_attacks()) {
    if (all || options.attack == attack.name) count(run_protocol_attack(options, out, attack));
  }
  if (*known) {
    JsonLine()
        .text("event", "done")
        .boolean("ok", ok)
        .number("attacks", ran)
        .number("failed", failed)
        .print(out);
  }
  return ok;
}

}  // namespace ep::front_end

// SPDX-License-Identifier: Apache-2.0
//
// Attacks with vhost-user messages: halves, sizes, unknown ones, descriptors too many and too few,
// bad ring numbers and addresses.
#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cstring>

#include "front-end/hostile_internal.h"

namespace ep::front_end {

namespace {

/// Connects to do harm with bare messages.
Outcome bare(const std::string& path, const std::function<void(Channel&)>& harm) {
  Channel channel;
  if (!channel.connect(path).ok()) return Outcome::kDisconnected;
  harm(channel);
  return settle(channel);
}

/// Negotiates in order, then starts with a set-up that `spoil` changed, and has the back-end look.
Outcome spoilt_start(const std::string& path, const std::function<void(SetUp&)>& spoil) {
  VhostUserClient client(small_client(path));
  if (!client.connect().ok() || !client.create_memory().ok()) return Outcome::kDisconnected;
  SetUp set_up(client);
  spoil(set_up);
  soft_start(client.channel(), set_up);
  // Something to take, if the back-end believes in the ring.
  client.ring(0).raw_push(0);
  client.ring(0).publish();
  client.kick(0);
  const Outcome outcome = settle(client.channel());
  pause_ms(20);
  client.kick(0);
  pause_ms(10);
  return outcome;
}

void add_framing(std::vector<ProtocolAttack>* out) {
  auto add = [&](const char* name, const char* what, auto harm) {
    out->push_back({name, what, [=](const std::string& path, Random& random) {
                      return bare(path, [&](Channel& c) { harm(c, random); });
                    }});
  };
  add("half_header", "5 bytes of a header, then the connection closes", [](Channel& c, Random&) {
    (void)c.send_raw("\x01\x00\x00\x00\x01", 5);
    c.close();
  });
  add("half_payload", "a header that promises 8 bytes, 3 bytes, then the connection closes",
      [](Channel& c, Random&) {
        const MessageHeader header{kSetFeatures, kFlagVersion, 8};
        (void)c.send_raw(&header, sizeof header);
        (void)c.send_raw("abc", 3);
        pause_ms(20);
        c.close();
      });
  add("huge_size", "a header that promises 4 GiB - 1", [](Channel& c, Random&) {
    const MessageHeader header{kSetFeatures, kFlagVersion, 0xffffffff};
    (void)c.send_raw(&header, sizeof header);
    (void)c.send_raw("abcdefgh", 8);
  });
  add("large_size", "a message of 64 KiB", [](Channel& c, Random&) {
    const std::vector<uint8_t> bytes(65536, 0x41);
    (void)c.send(kSetMemTable, 0, bytes.data(), bytes.size());
  });
  add("unknown_request", "requests that do not exist", [](Channel& c, Random& random) {
    for (uint32_t request : {0u, 45u, 63u, 255u, 0x80000000u, 0xffffffffu}) {
      const uint64_t value = random.next();
      (void)c.send(request, kFlagNeedReply, &value, sizeof value);
      pause_ms(2);
    }
  });
  add("wrong_version", "version 2 in the flags", [](Channel& c, Random&) {
    const MessageHeader header{kGetFeatures, 2, 0};
    (void)c.send_raw(&header, sizeof header);
  });
  add("reply_flag", "a request that says it is a reply", [](Channel& c, Random&) {
    const MessageHeader header{kGetFeatures, kFlagVersion | kFlagReply, 0};
    (void)c.send_raw(&header, sizeof header);
  });
  add("wrong_payload_size", "every request with a payload one byte short", [](Channel& c, Random&) {
    for (uint32_t request = 1; request <= 41 && !c.peer_gone(); request++) {
      const uint8_t bytes[7] = {};
      (void)c.send(request, 0, bytes, sizeof bytes);
      pause_ms(1);
    }
  });
  add("get_config_absurd", "GET_CONFIG with offsets and sizes that overflow",
      [](Channel& c, Random&) {
        const ConfigHeader asks[] = {
            {0, 0, 0}, {0, 256, 0}, {0xfffffff0, 0x20, 0}, {60, 0xffffffff, 0}, {255, 255, 7}};
        for (const ConfigHeader& ask : asks) {
          uint8_t bytes[sizeof ask + 256] = {};
          std::memcpy(bytes, &ask, sizeof ask);
          (void)c.send(kGetConfig, 0, bytes, sizeof bytes);
          (void)c.send(kGetConfig, 0, bytes, sizeof ask);
          pause_ms(2);
        }
      });
  add("set_config", "SET_CONFIG of everything", [](Channel& c, Random&) {
    uint8_t bytes[sizeof(ConfigHeader) + 256];
    std::memset(bytes, 0xff, sizeof bytes);
    const ConfigHeader header{0, 256, 0};
    std::memcpy(bytes, &header, sizeof header);
    (void)c.send(kSetConfig, kFlagNeedReply, bytes, sizeof bytes);
  });
  add("reset_owner", "RESET_OWNER before SET_OWNER, and twice", [](Channel& c, Random&) {
    for (int i = 0; i < 2; i++) (void)c.send(kResetOwner, 0, nullptr, 0);
    (void)c.send(kSetOwner, 0, nullptr, 0);
    (void)c.send(kResetOwner, 0, nullptr, 0);
  });
  add("all_features", "features and protocol features that were never offered",
      [](Channel& c, Random&) {
        const uint64_t all = ~uint64_t{0};
        (void)c.send(kSetProtocolFeatures, 0, &all, sizeof all);
        (void)c.send(kSetFeatures, 0, &all, sizeof all);
      });
  add("get_vring_base_early", "GET_VRING_BASE of rings that do not exist", [](Channel& c, Random&) {
    for (uint32_t index : {0u, 1u, 127u, 65535u, 0xffffffffu}) {
      const VringState state{index, 0};
      (void)c.send(kGetVringBase, 0, &state, sizeof state);
      pause_ms(2);
    }
  });
  add("close_at_once", "a connection that closes without a word",
      [](Channel& c, Random&) { c.close(); });
}

void add_fds(std::vector<ProtocolAttack>* out) {
  out->push_back({"missing_fds", "messages that need a descriptor and have none",
                  [](const std::string& path, Random&) {
                    return spoilt_start(path, [](SetUp& s) {
                      s.kick_fds.clear();
                      s.call_fds.clear();
                    });
                  }});
  out->push_back({"mem_table_no_fds", "SET_MEM_TABLE without descriptors",
                  [](const std::string& path, Random&) {
                    return spoilt_start(path, [](SetUp& s) { s.table_fds.clear(); });
                  }});
  out->push_back({"extra_fds", "messages with more descriptors than they may have",
                  [](const std::string& path, Random&) {
                    return spoilt_start(path, [](SetUp& s) {
                      while (s.table_fds.size() < 8) s.table_fds.push_back(s.kick_fds[0]);
                      while (s.kick_fds.size() < 8) s.kick_fds.push_back(s.kick_fds[0]);
                      while (s.call_fds.size() < 8) s.call_fds.push_back(s.call_fds[0]);
                    });
                  }});
  out->push_back(
      {"too_many_fds", "GET_FEATURES with 32 descriptors", [](const std::string& path, Random&) {
         return bare(path, [](Channel& c) {
           const std::vector<int> fds(32, c.fd());
           (void)c.send(kGetFeatures, 0, nullptr, 0, fds);
         });
       }});
  out->push_back({"kick_is_a_file", "a plain file as the kick descriptor",
                  [](const std::string& path, Random&) {
                    UniqueFd file(::memfd_create("not-an-eventfd", MFD_CLOEXEC));
                    return spoilt_start(path, [&](SetUp& s) { s.kick_fds = {file.get()}; });
                  }});
  out->push_back({"call_is_a_full_pipe", "a call descriptor that blocks when written",
                  [](const std::string& path, Random&) {
                    int ends[2];
                    if (::pipe2(ends, O_CLOEXEC) != 0) return Outcome::kNoAnswer;
                    UniqueFd read_end(ends[0]);
                    UniqueFd write_end(ends[1]);
                    ::fcntl(ends[1], F_SETFL, O_NONBLOCK);
                    const std::vector<char> filler(65536);
                    while (::write(ends[1], filler.data(), filler.size()) > 0) {
                    }
                    ::fcntl(ends[1], F_SETFL, 0);
                    return spoilt_start(path, [&](SetUp& s) { s.call_fds = {write_end.get()}; });
                  }});
}

void add_rings(std::vector<ProtocolAttack>* out) {
  auto add = [&](const std::string& name, const char* what, std::function<void(SetUp&)> spoil) {
    out->push_back(
        {name, what, [=](const std::string& path, Random&) { return spoilt_start(path, spoil); }});
  };
  for (uint32_t size : {0u, 3u, 100u, 32768u, 65535u, 65536u, 0xffffffffu}) {
    add("ring_size_" + std::to_string(size), "SET_VRING_NUM with a size that is none, or too large",
        [=](SetUp& s) { s.num.num = size; });
  }
  for (uint32_t index : {1u, 63u, 64u, 127u, 128u, 255u, 256u, 65535u, 0xffffffffu}) {
    add("ring_index_" + std::to_string(index), "the set-up of a ring with a high number",
        [=](SetUp& s) {
          s.num.index = s.base.index = s.addr.index = s.enable.index = index;
          s.kick_index = s.call_index = index & 0xff;
        });
  }
  add("ring_outside", "ring addresses outside the memory table",
      [](SetUp& s) { s.addr.desc = s.addr.used = s.addr.avail = 0x10000; });
  add("ring_null", "ring addresses 0",
      [](SetUp& s) { s.addr.desc = s.addr.used = s.addr.avail = 0; });
  add("ring_past_end", "rings that start inside the memory and end outside", [](SetUp& s) {
    const uint64_t end = s.table.regions[0].user_addr + s.table.regions[0].size;
    s.addr.desc = s.addr.used = s.addr.avail = end - 64;
  });
  add("ring_wraps", "ring addresses that wrap",
      [](SetUp& s) { s.addr.desc = s.addr.used = s.addr.avail = ~uint64_t{0} - 15; });
  add("ring_misaligned", "ring addresses with odd alignment", [](SetUp& s) {
    s.addr.desc += 1;
    s.addr.used += 1;
    s.addr.avail += 1;
  });
  add("ring_overlap", "three parts of a ring at one address",
      [](SetUp& s) { s.addr.avail = s.addr.used = s.addr.desc; });
  add("ring_log_flag", "logging asked for in SET_VRING_ADDR", [](SetUp& s) {
    s.addr.flags = 1;
    s.addr.log = 0x1000;
  });
  for (uint32_t base : {1u, 0x7fffu, 0xffffu, 0x10000u, 0xdeadbeefu}) {
    add("ring_base_" + std::to_string(base), "SET_VRING_BASE far from the ring's index",
        [=](SetUp& s) { s.base.num = base; });
  }
  add("kick_no_fd", "the polling mode bit in SET_VRING_KICK", [](SetUp& s) {
    s.kick_index |= kVringNoFd;
    s.kick_fds.clear();
  });
}

/// The set-up cut off after each of its messages in turn, one connection each.
Outcome close_in_the_middle(const std::string& path, Random&) {
  for (int steps = 0; steps < 9; steps++) {
    VhostUserClient client(small_client(path));
    if (!client.connect().ok() || !client.create_memory().ok()) return Outcome::kDisconnected;
    const std::function<Status()> messages[] = {
        [&] { return client.set_up_inflight(); }, [&] { return client.set_features(); },
        [&] { return client.set_mem_table(); },   [&] { return client.set_up_vring(0); },
        [&] { return client.enable_vring(0); },
    };
    for (int i = 0; i < steps && i < 5; i++) {
      if (!messages[i]().ok()) break;
    }
    if (steps > 5) client.kick(0);
    if (steps == 7) {
      const VringState stop{0, 0};
      (void)client.channel().send(kGetVringBase, 0, &stop, sizeof stop);
    }
    if (steps == 8) (void)client.channel().send_raw("\x05\x00\x00", 3);
    client.disconnect();
  }
  return Outcome::kDisconnected;
}

Outcome wrong_order(const std::string& path, Random&) {
  VhostUserClient client(small_client(path));
  if (!client.connect().ok() || !client.create_memory().ok()) return Outcome::kDisconnected;
  const SetUp s(client);
  Channel& c = client.channel();
  (void)c.send(kSetVringEnable, 0, &s.enable, sizeof s.enable);
  (void)c.send(kSetVringKick, 0, &s.kick_index, sizeof s.kick_index, s.kick_fds);
  client.kick(0);
  (void)c.send(kSetVringAddr, 0, &s.addr, sizeof s.addr);
  (void)c.send(kSetVringNum, 0, &s.num, sizeof s.num);
  (void)c.send(kSetVringCall, 0, &s.call_index, sizeof s.call_index, s.call_fds);
  (void)c.send(kSetMemTable, 0, &s.table, s.table_size, s.table_fds);
  (void)c.send(kSetFeatures, 0, &s.features, sizeof s.features);
  client.kick(0);
  return settle(c);
}

Outcome set_up_twice(const std::string& path, Random&) {
  VhostUserClient client(small_client(path));
  if (!client.connect().ok() || !client.start().ok()) return Outcome::kDisconnected;
  SetUp s(client);
  for (int i = 0; i < 3; i++) {
    soft_start(client.channel(), s);
    // Another size under the running ring.
    s.num.num = s.num.num == 128 ? 16 : 128;
    client.kick(0);
  }
  return settle(client.channel());
}

}  // namespace

std::vector<ProtocolAttack> message_attacks() {
  std::vector<ProtocolAttack> all;
  add_framing(&all);
  add_fds(&all);
  add_rings(&all);
  all.push_back({"close_in_the_middle", "a connection that ends after each step of the set-up",
                 close_in_the_middle});
  all.push_back({"wrong_order", "the set-up backwards", wrong_order});
  all.push_back({"set_up_twice", "the set-up again over running rings", set_up_twice});
  return all;
}

}  // namespace ep::front_end

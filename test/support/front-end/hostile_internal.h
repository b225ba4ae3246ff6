// SPDX-License-Identifier: Apache-2.0
//
// What the attack files share; used by hostile*.cc only.
#pragma once

#include <functional>
#include <initializer_list>
#include <string>
#include <vector>

#include "front-end/blk_device.h"
#include "front-end/hostile.h"
#include "front-end/random.h"

namespace ep::front_end {

enum class Outcome {
  kCompletedError,  // a completion with an error status, or with none written
  kCompletedOk,     // a completion that claims success
  kAnswered,        // no completion was due; the connection still answers
  kDisconnected,
  kNoAnswer,
};
const char* outcome_name(Outcome outcome);

/// A healthy connection with buffers and descriptors that are filled by hand. The last descriptors
/// of ring 0 are ours: indexes here are relative to the first of them.
class RawRequest {
 public:
  static constexpr uint16_t kDescriptors = 40;
  static constexpr uint32_t kDataBytes = 64 << 10;

  explicit RawRequest(const std::string& socket_path, uint32_t regions = 1, bool indirect = true);

  Status open();

  void header(uint32_t type, uint64_t sector) const;
  void descriptor(uint16_t index, uint64_t guest, uint32_t length, uint16_t flags, uint16_t next);
  /// Writes `segments` as one orderly chain from descriptor 0 on.
  void chain(std::initializer_list<Segment> segments);
  void table_entry(uint16_t index, const Descriptor& descriptor) const;
  /// header(read or write of `length` bytes at sector 0) and its orderly chain.
  void io_chain(uint32_t type, uint64_t sector, uint64_t data, uint32_t length);
  /// DISCARD or WRITE_ZEROES with the given ranges as payload of `bytes` bytes.
  void range_chain(uint32_t type, std::initializer_list<BlkRange> ranges, uint32_t bytes);

  Segment header_segment() const { return {header_guest, sizeof(BlkHeader), false}; }
  Segment status_segment() const { return {status_guest, 1, true}; }

  /// Shows `heads` to the back-end and kicks.
  void push(std::initializer_list<uint16_t> heads);
  /// Waits for one completion of a pushed head.
  Outcome wait(int timeout_ms);

  uint16_t absolute(uint16_t index) const { return static_cast<uint16_t>(base + index); }
  SplitRing& ring() { return device.client().ring(0); }
  uint64_t end_of_memory() { return device.client().memory().end(); }
  uint64_t capacity_sectors() const { return capacity; }

  BlkDevice device;
  uint16_t base = 0;
  uint64_t header_guest = 0;
  uint64_t status_guest = 0;
  uint64_t data = 0;
  uint64_t table = 0;
  uint64_t capacity = 0;
  uint8_t last_status = kStatusPending;
  bool violation = false;
};

/// A malformed request: fills the chain from descriptor 0; the runner pushes it.
struct RequestAttack {
  std::string name;
  std::string what;
  bool expects_error;
  std::function<void(RawRequest&)> build;
  /// Without INDIRECT_DESC negotiated.
  bool no_indirect = false;
};
std::vector<RequestAttack> request_attacks();

/// Anything else: opens its own connection.
struct ProtocolAttack {
  std::string name;
  std::string what;
  std::function<Outcome(const std::string& socket_path, Random& random)> run;
  bool fuzzer = false;
};
std::vector<ProtocolAttack> message_attacks();
std::vector<ProtocolAttack> memory_attacks();
std::vector<ProtocolAttack> fuzz_attacks();

/// The messages of a set-up, to be spoilt. `soft_start` sends them without waiting for answers.
struct SetUp {
  explicit SetUp(VhostUserClient& client);

  uint64_t features;
  MemTable table{};
  size_t table_size = 0;
  std::vector<int> table_fds;
  VringState num{};
  VringState base{};
  VringAddr addr{};
  uint64_t kick_index = 0;
  std::vector<int> kick_fds;
  uint64_t call_index = 0;
  std::vector<int> call_fds;
  VringState enable{};
};
void soft_start(Channel& channel, const SetUp& set_up);

/// Whether the connection still answers after what was done to it.
Outcome settle(Channel& channel, int timeout_ms = 1000);

/// Options of a front-end that has nothing but a socket.
ClientOptions small_client(const std::string& path);

/// Lets the back-end's threads look at what was put before them.
void pause_ms(int ms);

}  // namespace ep::front_end

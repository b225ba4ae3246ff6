// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "front-end/channel.h"
#include "front-end/protocol.h"
#include "front-end/status.h"

namespace ep::front_end {

/// What a FakeBackEnd does wrong, to see whether the front-end notices.
struct FakeFaults {
  bool complete_twice = false;
  bool corrupt_reads = false;
  /// Writes are answered and not done, one in four.
  bool lose_writes = false;
  /// After a restart nothing is resubmitted from the in-flight area.
  bool forget_inflight = false;
};

/// A small vhost-user-blk back-end in a thread, for the front-end's own tests: memory disk, in
/// order or reversed completions, in-flight area with resubmission, sudden death. It trusts its
/// front-end; it is no example for a real one.
class FakeBackEnd {
 public:
  struct Options {
    std::string socket_path;
    uint16_t queues = 2;
    bool inflight = true;
    /// Takes up to this many requests of a queue before it completes any, then completes the last
    /// one first.
    uint32_t reverse_window = 1;
    /// Dies (closes the connection, completes nothing more) after so many completions; 0: never.
    uint64_t die_after = 0;
    FakeFaults faults;
  };

  /// `disk` outlives the back-end: the next one goes on with it.
  FakeBackEnd(Options options, std::vector<uint8_t>* disk);
  ~FakeBackEnd();

  Status start();
  void stop();
  /// True once die_after struck.
  bool dead() const { return dead_; }
  uint64_t resubmitted() const { return resubmitted_; }

 private:
  struct Queue;
  struct Region;
  struct Pending;

  void serve();
  void serve_connection();
  bool handle(Message* message);
  void set_mem_table(Message* message);
  void set_inflight(Message* message);
  void reply(const Message& to, const void* payload, size_t size, std::span<const int> fds = {});
  void start_queue(size_t index);
  void resubmit(size_t index);
  void process(size_t index);
  void complete_held(size_t index);
  void execute(size_t index, uint16_t head);
  bool gather(Queue& queue, uint16_t head, std::vector<std::span<uint8_t>>* readable,
              std::vector<std::span<uint8_t>>* writable);
  uint8_t run_request(const std::vector<std::span<uint8_t>>& readable,
                      const std::vector<std::span<uint8_t>>& writable, uint32_t* written);
  uint8_t* from_user(uint64_t user) const;
  std::vector<std::span<uint8_t>> from_guest(uint64_t guest, uint64_t length) const;

  Options options_;
  std::vector<uint8_t>* disk_;
  UniqueFd listener_;
  UniqueFd wake_;
  std::unique_ptr<Channel> channel_;
  std::vector<Region> regions_;
  std::vector<Queue> queues_;
  UniqueFd inflight_fd_;
  uint8_t* inflight_ = nullptr;
  uint64_t inflight_size_ = 0;
  uint16_t inflight_queue_size_ = 0;
  uint64_t features_ = 0;
  uint64_t counter_ = 0;
  uint64_t completions_ = 0;
  uint64_t writes_ = 0;
  std::atomic<bool> dead_ = false;
  std::atomic<bool> stop_ = false;
  std::atomic<uint64_t> resubmitted_ = 0;
  std::thread thread_;
};

}  // namespace ep::front_end

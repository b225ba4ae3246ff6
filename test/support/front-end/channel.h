// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "front-end/protocol.h"
#include "front-end/status.h"

namespace ep::front_end {

/// Owns one file descriptor.
class UniqueFd {
 public:
  UniqueFd() = default;
  explicit UniqueFd(int fd) : fd_(fd) {}
  UniqueFd(UniqueFd&& other) noexcept : fd_(other.release()) {}
  UniqueFd& operator=(UniqueFd&& other) noexcept;
  ~UniqueFd() { reset(); }

  int get() const { return fd_; }
  bool valid() const { return fd_ >= 0; }
  int release();
  void reset(int fd = -1);

 private:
  int fd_ = -1;
};

/// A message as it came from the peer.
struct Message {
  MessageHeader header{};
  std::vector<uint8_t> payload;
  std::vector<UniqueFd> fds;
};

/// The unix socket of a vhost-user connection, one message at a time. Used by the well-behaved
/// client and, through send_raw, by attacks. Never raises SIGPIPE.
class Channel {
 public:
  Channel() = default;
  /// Takes over a connected socket (the back-end's side in tests).
  explicit Channel(UniqueFd socket) : socket_(std::move(socket)) {}

  Status connect(const std::string& path);
  void close() { socket_.reset(); }
  bool is_open() const { return socket_.valid(); }
  int fd() const { return socket_.get(); }

  /// Sends one message with the version flag set and `flags` added.
  Status send(uint32_t request, uint32_t flags, const void* payload, size_t size,
              std::span<const int> fds = {});
  /// Sends bytes as they are.
  Status send_raw(const void* bytes, size_t size, std::span<const int> fds = {});
  /// Waits for one whole message. The error says "timed out" or "closed by the peer".
  Status receive(Message* message, int timeout_ms);

  /// Sends a request that has an answer and waits for that answer.
  Status call(uint32_t request, const void* payload, size_t size, Message* reply,
              int timeout_ms = 10000);
  /// Like call, for an answer that is one u64.
  Status call_u64(uint32_t request, uint64_t* value);
  /// Sends a request without an answer; with `want_ack` asks for the REPLY_ACK and checks it.
  Status command(uint32_t request, const void* payload, size_t size, bool want_ack,
                 std::span<const int> fds = {});

  /// True when the peer closed or died. Does not block.
  bool peer_gone() const;

 private:
  Status receive_bytes(void* bytes, size_t size, int timeout_ms, std::vector<UniqueFd>* fds);

  UniqueFd socket_;
};

}  // namespace ep::front_end

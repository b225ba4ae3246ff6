// SPDX-License-Identifier: Apache-2.0
#include "front-end/channel.h"

#include <poll.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <cerrno>
#include <chrono>
#include <cstring>

namespace ep::front_end {

namespace {

/// Larger payloads do not exist in the protocol; a peer that claims one is broken.
constexpr uint32_t kMaxPayload = 4096;

int64_t now_ms() {
  return std::chrono::duration_cast<std::chrono::milliseconds>(
             std::chrono::steady_clock::now().time_since_epoch())
      .count();
}

}  // namespace

Status Status::from_errno(const std::string& what, int errno_value) {
  return error(what + ": " + std::strerror(errno_value));
}

UniqueFd& UniqueFd::operator=(UniqueFd&& other) noexcept {
  if (this != &other) reset(other.release());
  return *this;
}

int UniqueFd::release() {
  int fd = fd_;
  fd_ = -1;
  return fd;
}

void UniqueFd::reset(int fd) {
  if (fd_ >= 0) ::close(fd_);
  fd_ = fd;
}

Status Channel::connect(const std::string& path) {
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  if (path.size() >= sizeof address.sun_path) {
    return Status::error("socket path is longer than 107 bytes: " + path);
  }
  std::memcpy(address.sun_path, path.c_str(), path.size() + 1);
  UniqueFd fd(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  if (!fd.valid()) return Status::from_errno("socket", errno);
  if (::connect(fd.get(), reinterpret_cast<sockaddr*>(&address), sizeof address) != 0) {
    return Status::from_errno("connect to " + path, errno);
  }
  socket_ = std::move(fd);
  return {};
}

Status Channel::send(uint32_t request, uint32_t flags, const void* payload, size_t size,
                     std::span<const int> fds) {
  std::vector<uint8_t> bytes(sizeof(MessageHeader) + size);
  MessageHeader header{request, kFlagVersion | flags, static_cast<uint32_t>(size)};
  std::memcpy(bytes.data(), &header, sizeof header);
  if (size > 0) std::memcpy(bytes.data() + sizeof header, payload, size);
  return send_raw(bytes.data(), bytes.size(), fds);
}

Status Channel::send_raw(const void* bytes, size_t size, std::span<const int> fds) {
  if (!is_open()) return Status::error("connection is closed");
  const auto* at = static_cast<const uint8_t*>(bytes);
  alignas(cmsghdr) char control[CMSG_SPACE(sizeof(int) * kMaxFds)] = {};
  if (fds.size() > kMaxFds) return Status::error("too many descriptors for one message");
  while (size > 0) {
    iovec part{const_cast<uint8_t*>(at), size};
    msghdr message{};
    message.msg_iov = &part;
    message.msg_iovlen = 1;
    if (!fds.empty()) {
      message.msg_control = control;
      message.msg_controllen = CMSG_SPACE(fds.size_bytes());
      cmsghdr* cmsg = CMSG_FIRSTHDR(&message);
      cmsg->cmsg_level = SOL_SOCKET;
      cmsg->cmsg_type = SCM_RIGHTS;
      cmsg->cmsg_len = CMSG_LEN(fds.size_bytes());
      std::memcpy(CMSG_DATA(cmsg), fds.data(), fds.size_bytes());
    }
    ssize_t sent = ::sendmsg(socket_.get(), &message, MSG_NOSIGNAL);
    if (sent < 0) {
      if (errno == EINTR) continue;
      if (errno != EAGAIN) return Status::from_errno("send", errno);
      pollfd wait{socket_.get(), POLLOUT, 0};
      if (::poll(&wait, 1, 5000) <= 0) return Status::error("send timed out");
      continue;
    }
    at += sent;
    size -= static_cast<size_t>(sent);
    fds = {};
  }
  return {};
}

Status Channel::receive_bytes(void* bytes, size_t size, int timeout_ms,
                              std::vector<UniqueFd>* fds) {
  if (!is_open()) return Status::error("connection is closed");
  auto* at = static_cast<uint8_t*>(bytes);
  int64_t deadline = now_ms() + timeout_ms;
  while (size > 0) {
    alignas(cmsghdr) char control[CMSG_SPACE(sizeof(int) * kMaxFds)];
    iovec part{at, size};
    msghdr message{};
    message.msg_iov = &part;
    message.msg_iovlen = 1;
    message.msg_control = control;
    message.msg_controllen = sizeof control;
    ssize_t got = ::recvmsg(socket_.get(), &message, MSG_CMSG_CLOEXEC);
    if (got < 0) {
      if (errno == EINTR) continue;
      if (errno != EAGAIN) return Status::from_errno("receive", errno);
      int64_t left = deadline - now_ms();
      pollfd wait{socket_.get(), POLLIN, 0};
      if (left <= 0 || ::poll(&wait, 1, static_cast<int>(left)) == 0) {
        return Status::error("timed out");
      }
      continue;
    }
    if (got == 0) return Status::error("closed by the peer");
    for (cmsghdr* c = CMSG_FIRSTHDR(&message); c != nullptr; c = CMSG_NXTHDR(&message, c)) {
      if (c->cmsg_level != SOL_SOCKET || c->cmsg_type != SCM_RIGHTS) continue;
      size_t count = (c->cmsg_len - CMSG_LEN(0)) / sizeof(int);
      for (size_t i = 0; i < count; i++) {
        int fd;
        std::memcpy(&fd, CMSG_DATA(c) + i * sizeof fd, sizeof fd);
        fds->emplace_back(fd);
      }
    }
    at += got;
    size -= static_cast<size_t>(got);
  }
  return {};
}

Status Channel::receive(Message* message, int timeout_ms) {
  message->payload.clear();
  message->fds.clear();
  FRONT_END_TRY(receive_bytes(&message->header, sizeof message->header, timeout_ms, &message->fds));
  if (message->header.size > kMaxPayload) {
    return Status::error("peer sent a message of " + std::to_string(message->header.size) +
                         " bytes");
  }
  message->payload.resize(message->header.size);
  return receive_bytes(message->payload.data(), message->payload.size(), timeout_ms, &message->fds);
}

Status Channel::call(uint32_t request, const void* payload, size_t size, Message* reply,
                     int timeout_ms) {
  FRONT_END_TRY(send(request, 0, payload, size));
  FRONT_END_TRY(receive(reply, timeout_ms));
  if (reply->header.request != request || (reply->header.flags & kFlagReply) == 0) {
    return Status::error("answer to request " + std::to_string(request) + " has request " +
                         std::to_string(reply->header.request) + " and flags " +
                         std::to_string(reply->header.flags));
  }
  return {};
}

Status Channel::call_u64(uint32_t request, uint64_t* value) {
  Message reply;
  FRONT_END_TRY(call(request, nullptr, 0, &reply));
  if (reply.payload.size() != sizeof *value) {
    return Status::error("answer to request " + std::to_string(request) + " is not one u64");
  }
  std::memcpy(value, reply.payload.data(), sizeof *value);
  return {};
}

Status Channel::command(uint32_t request, const void* payload, size_t size, bool want_ack,
                        std::span<const int> fds) {
  FRONT_END_TRY(send(request, want_ack ? kFlagNeedReply : 0, payload, size, fds));
  if (!want_ack) return {};
  Message reply;
  FRONT_END_TRY(receive(&reply, 10000));
  uint64_t refused = 0;
  if (reply.header.request != request || reply.payload.size() != sizeof refused) {
    return Status::error("bad acknowledgement of request " + std::to_string(request));
  }
  std::memcpy(&refused, reply.payload.data(), sizeof refused);
  if (refused != 0) {
    return Status::error("back-end refused request " + std::to_string(request));
  }
  return {};
}

bool Channel::peer_gone() const {
  if (!is_open()) return true;
  pollfd look{socket_.get(), POLLIN | POLLRDHUP, 0};
  if (::poll(&look, 1, 0) <= 0) return false;
  return (look.revents & (POLLHUP | POLLRDHUP | POLLERR)) != 0;
}

}  // namespace ep::front_end

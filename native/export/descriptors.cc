// SPDX-License-Identifier: Apache-2.0
#include "export/descriptors.h"

#include <dirent.h>
#include <fcntl.h>
#include <poll.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <sys/un.h>
#include <unistd.h>

#include <cstdlib>
#include <cstring>
#include <memory>

namespace ep::exports {

bool is_eventfd(int fd) {
  char target[64] = {};
  const std::string link = "/proc/self/fd/" + std::to_string(fd);
  const ssize_t got = readlink(link.c_str(), target, sizeof target - 1);
  return got > 0 && std::strcmp(target, "anon_inode:[eventfd]") == 0;
}

int duplicate(int fd) { return fd < 0 ? -1 : fcntl(fd, F_DUPFD_CLOEXEC, 0); }

int find_socket(const std::string& path, bool listening) {
  const std::unique_ptr<DIR, int (*)(DIR*)> folder(opendir("/proc/self/fd"), closedir);
  if (folder == nullptr) return -1;
  while (const dirent* entry = readdir(folder.get())) {
    if (entry->d_name[0] == '.') continue;
    const int fd = std::atoi(entry->d_name);
    sockaddr_un name{};
    socklen_t name_bytes = sizeof name;
    if (getsockname(fd, reinterpret_cast<sockaddr*>(&name), &name_bytes) != 0 ||
        name.sun_family != AF_UNIX || name_bytes <= offsetof(sockaddr_un, sun_path)) {
      continue;
    }
    const size_t path_bytes = strnlen(name.sun_path, sizeof name.sun_path);
    if (path != std::string_view(name.sun_path, path_bytes)) continue;
    int accepts = 0;
    socklen_t accepts_bytes = sizeof accepts;
    getsockopt(fd, SOL_SOCKET, SO_ACCEPTCONN, &accepts, &accepts_bytes);
    if ((accepts != 0) == listening && (listening || !is_hung_up(fd))) return fd;
  }
  return -1;
}

bool is_hung_up(int socket) {
  pollfd about{socket, POLLRDHUP, 0};
  return poll(&about, 1, 0) > 0 && (about.revents & (POLLRDHUP | POLLHUP | POLLERR)) != 0;
}

void limit_socket_waits(int socket, int seconds) {
  const timeval limit{seconds, 0};
  setsockopt(socket, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof limit);
  setsockopt(socket, SOL_SOCKET, SO_SNDTIMEO, &limit, sizeof limit);
}

void close_on_exec(int fd) { fcntl(fd, F_SETFD, FD_CLOEXEC); }

}  // namespace ep::exports

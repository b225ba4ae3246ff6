// SPDX-License-Identifier: Apache-2.0
#include "io/lock_holder.h"

#include <sys/stat.h>
#include <sys/sysmacros.h>

#include <cinttypes>
#include <cstdio>
#include <fstream>
#include <string>

namespace ep::io {

std::string describe_lock_holder(int fd) {
  struct stat file {};
  if (fstat(fd, &file) != 0) return "an unknown process";
  std::ifstream locks("/proc/locks");
  std::string line;
  // "1: FLOCK  ADVISORY  WRITE 1234 fe:00:5678 0 EOF"; waiters have "->" after the number.
  while (std::getline(locks, line)) {
    char kind[16];
    long pid = 0;
    unsigned major_number = 0;
    unsigned minor_number = 0;
    uint64_t inode = 0;
    const int fields = std::sscanf(line.c_str(), "%*[0-9]: %15s %*s %*s %ld %x:%x:%" SCNu64, kind,
                                   &pid, &major_number, &minor_number, &inode);
    if (fields != 5 || std::string(kind) != "FLOCK" || inode != file.st_ino) continue;
    if (makedev(major_number, minor_number) != file.st_dev) continue;
    if (pid <= 0) break;
    std::string command;
    std::ifstream comm("/proc/" + std::to_string(pid) + "/comm");
    if (!std::getline(comm, command)) {
      // Its requests in flight keep the file open until they end.
      return "process " + std::to_string(pid) + " (ended, its requests are still in flight)";
    }
    return "process " + std::to_string(pid) + " (" + command + ")";
  }
  return "a process that /proc/locks does not name (another container, or one that just ended)";
}

}  // namespace ep::io

// SPDX-License-Identifier: Apache-2.0

// Serves one raw file over vhost-user-blk without any protection: the same door, reactor and block
// device as the data plane's, and nothing between them. What a bench compares protection with.
//
//   everpoint-plain-export --file FILE --socket PATH [--queues N]
//
// Prints "ready" when it listens; SIGTERM or SIGINT ends it.

#include <signal.h>

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <string>

#include "block/uring_device.h"
#include "export/vhost_user_blk.h"
#include "io/posix_file_system.h"
#include "io/uring_engine.h"

namespace {

int fail(const ep::Status& status) {
  std::fprintf(stderr, "everpoint-plain-export: %s\n", status.to_string().c_str());
  return 1;
}

int serve(const std::string& file, const std::string& socket, uint32_t queues) {
  // Before any thread, so that none of them takes the signal.
  sigset_t ends;
  sigemptyset(&ends);
  sigaddset(&ends, SIGTERM);
  sigaddset(&ends, SIGINT);
  sigprocmask(SIG_BLOCK, &ends, nullptr);

  ep::io::PosixFileSystem files;
  ep::reactor::Reactor reactor;
  const ep::Status started = reactor.start([] { return ep::io::make_uring_engine(); });
  if (!started) return fail(started);
  ep::block::UringDeviceOptions options;
  options.path = file;
  auto device = ep::block::UringDevice::open(files, reactor.engine(), options);
  if (!device) return fail(device.status());
  ep::exports::VhostUserBlkOptions door_options;
  door_options.path = socket;
  door_options.queues = queues;
  door_options.serial = "plain";
  auto door = ep::exports::VhostUserBlk::create(door_options, &reactor, device->get());
  if (!door) return fail(door.status());
  std::puts("ready");
  std::fflush(stdout);
  int signal = 0;
  sigwait(&ends, &signal);
  (*door)->stop();
  door->reset();
  reactor.call([&device] { device->reset(); });
  reactor.stop();
  return 0;
}

}  // namespace

int main(int argc, char** argv) {
  std::string file;
  std::string socket;
  uint32_t queues = 1;
  for (int i = 1; i + 1 < argc; i += 2) {
    const std::string name = argv[i];
    if (name == "--file") file = argv[i + 1];
    if (name == "--socket") socket = argv[i + 1];
    if (name == "--queues") queues = static_cast<uint32_t>(std::atoi(argv[i + 1]));
  }
  if (file.empty() || socket.empty() || queues == 0 || argc % 2 == 0) {
    std::fprintf(stderr, "usage: everpoint-plain-export --file FILE --socket PATH [--queues N]\n");
    return 2;
  }
  return serve(file, socket, queues);
}

// SPDX-License-Identifier: Apache-2.0
#include "export/eal.h"

#include <rte_eal.h>
#include <rte_errno.h>
#include <unistd.h>

#include <string>
#include <thread>
#include <vector>

namespace ep::exports {

namespace {

Status start_eal() {
  const long cpus = sysconf(_SC_NPROCESSORS_CONF);
  // One logical core that may run on every CPU: EAL wants to pin somebody, so it pins to all.
  const std::string lcores = "0@(0-" + std::to_string(cpus > 1 ? cpus - 1 : 0) + ")";
  std::vector<std::string> words = {
      "everpoint",
      "--no-huge",
      "--no-pci",
      "--no-telemetry",
      "--no-shconf",
      // The library's own heap, in MiB: some 40 KiB for a queue of 1024 and 120 KiB a connection.
      // Reserved at once, touched as it is used.
      "-m",
      "64",
      "--lcores",
      cpus > 1 ? lcores : "0@0",
      // A hostile peer chooses how often the library complains; refusals are counted in the stats.
      "--log-level=*:critical",
  };
  std::vector<char*> arguments;
  arguments.reserve(words.size() + 1);
  for (std::string& word : words) arguments.push_back(word.data());
  arguments.push_back(nullptr);
  const int result = rte_eal_init(static_cast<int>(words.size()), arguments.data());
  if (result >= 0) return Status::ok();
  return Status::from_errno(rte_errno > 0 ? rte_errno : EINVAL, "start DPDK's environment (EAL)");
}

}  // namespace

Status ensure_eal() {
  static const Status outcome = [] {
    Status status;
    std::thread([&status] { status = start_eal(); }).join();
    return status;
  }();
  return outcome;
}

}  // namespace ep::exports

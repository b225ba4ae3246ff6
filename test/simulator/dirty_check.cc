// SPDX-License-Identifier: Apache-2.0
#include "dirty_check.h"

#include <deque>
#include <memory>
#include <set>
#include <vector>

#include "base/limits.h"
#include "drl/region_log.h"
#include "reactor/reactor.h"
#include "rng.h"
#include "sim_disk.h"

namespace ep::sim {

namespace {

constexpr uint32_t kRegions = 24;

/// A process that only has a region log. Once dead it stays reachable: what was in flight may not
/// be destroyed.
struct Holder {
  struct Write : drl::DirtyWaiter {
    std::set<uint32_t>* let_in = nullptr;
    uint32_t region = 0;
  };
  explicit Holder(Machine& machine) : process(machine) {
    reactor.adopt(&process, [this](std::function<void()> work, std::function<void()> done) {
      process.offload(std::move(work), std::move(done));
    });
    process.set_post([this](std::function<void()> task) { reactor.post(std::move(task)); });
  }
  Process process;
  reactor::Reactor reactor;
  std::unique_ptr<drl::RegionLog> log;
  std::deque<Write> writes;
};

void bury(std::shared_ptr<void> dead) {
  static auto* graveyard = new std::vector<std::shared_ptr<void>>;
  graveyard->push_back(std::move(dead));
}

}  // namespace

std::string check_dirty(uint64_t seed) {
  Rng random(mix(seed) ^ 0xd127);
  auto machine = std::make_shared<Machine>(mix(seed) + 13);
  DeviceSpec state;
  state.root = "/state";
  state.sync_max_ns = 3'000'000;
  machine->add_device(state);
  const Uuid group{};
  std::set<uint32_t> let_in;
  bury(machine);
  for (int life = 0; life < 6; ++life) {
    auto holder = std::make_shared<Holder>(*machine);
    bury(holder);
    auto log = drl::RegionLog::open(holder->process, "/state/volume.drl", group, 0,
                                    kRegions * limits::kDirtyRegionBytesMin, life == 0);
    if (!log) return "a dirty region log cannot be opened: " + log.status().to_string();
    holder->log = std::move(*log);
    holder->log->attach(&holder->process);
    for (const uint32_t region : let_in) {
      if (holder->log->is_dirty(region)) continue;
      return "region " + std::to_string(region) + " was written, but its region log says clean";
    }
    const uint64_t writes = random.below(4);
    for (uint64_t i = 0; i < writes; ++i) {
      Holder::Write& write = holder->writes.emplace_back();
      write.let_in = &let_in;
      // Often one that an earlier life wanted as well.
      write.region = static_cast<uint32_t>(random.below(random.percent(60) ? 3 : kRegions));
      write.on_dirty = [](drl::DirtyWaiter* waiter) {
        auto* done = static_cast<Holder::Write*>(waiter);
        done->let_in->insert(done->region);
      };
      const uint64_t offset = write.region * limits::kDirtyRegionBytesMin;
      if (holder->log->begin_write(offset, 4096, &write)) let_in.insert(write.region);
      const uint64_t passes = random.below(3);
      for (uint64_t pass = 0; pass < passes; ++pass) {
        holder->reactor.run_once(random.below(1'000'000));
      }
    }
    for (uint64_t pass = random.below(6); pass > 0; --pass) holder->reactor.run_once(300'000);
    holder->process.end();
    if (random.percent(40)) machine->power_cut();
  }
  return {};
}

}  // namespace ep::sim

// SPDX-License-Identifier: Apache-2.0
#pragma once

// For tests: holds back requests, so that they complete late and out of order. Two ways, which may
// be used together: a random delay for each request from a seeded generator, through the reactor's
// timers; and hold(), which parks requests until a test releases them in the order it wants.
//
// A request may be held before it reaches the device below (`Where::kBefore`: its effect comes late
// too) or when it is done there (`Where::kAfter`: only the answer comes late).
//
// It does not delay by size or by rate, and lets a flush overtake: that is what a disk may do.

#include <cstdint>
#include <deque>
#include <random>
#include <vector>

#include "block/device.h"
#include "reactor/reactor.h"

namespace ep::block {

struct DelayOptions {
  enum class Where : uint8_t { kBefore, kAfter };
  Where where = Where::kAfter;
  uint64_t seed = 1;
  /// Uniform between the two, both included; 0 and 0: no timer at all.
  uint64_t min_ns = 0;
  uint64_t max_ns = 0;
};

enum class ReleaseOrder : uint8_t { kOldestFirst, kNewestFirst, kRandom };

class DelayDevice final : public Device {
 public:
  /// Borrows both. `reactor` may be nullptr when max_ns is 0.
  DelayDevice(Device& inner, reactor::Reactor* reactor, const DelayOptions& options);
  ~DelayDevice() override;
  DelayDevice(const DelayDevice&) = delete;
  DelayDevice& operator=(const DelayDevice&) = delete;

  [[nodiscard]] Geometry geometry() const override { return inner_.geometry(); }
  void submit(Request* request) override;

  /// From now on requests are parked until they are released.
  void hold() { holding_ = true; }
  /// Ends holding and releases what is parked.
  void resume(ReleaseOrder order = ReleaseOrder::kOldestFirst);
  [[nodiscard]] size_t held() const { return held_.size(); }
  /// The parked request at `index`, oldest first; for choosing which to release.
  [[nodiscard]] const Request& held_at(size_t index) const { return *held_.at(index)->outer; }
  void release(size_t index);
  /// Releases what is parked now and goes on holding.
  void release_all(ReleaseOrder order);

 private:
  struct Slot {
    DelayDevice* device = nullptr;
    Request inner;
    Request* outer = nullptr;
    reactor::Timer timer;
  };

  void arrive(Slot* slot);
  void let_go(Slot* slot);
  void complete(Slot* slot);

  Device& inner_;
  reactor::Reactor* const reactor_;
  const DelayOptions options_;
  std::mt19937_64 random_;
  bool holding_ = false;
  std::deque<Slot> slots_;  // a deque: slots keep their addresses
  std::vector<Slot*> free_;
  std::vector<Slot*> held_;
};

}  // namespace ep::block

// SPDX-License-Identifier: Apache-2.0
#include "block/delay_device.h"

#include <algorithm>

namespace ep::block {

DelayDevice::DelayDevice(Device& inner, reactor::Reactor* reactor, const DelayOptions& options)
    : inner_(inner), reactor_(reactor), options_(options), random_(options.seed) {
  EP_ASSERT(options.min_ns <= options.max_ns);
  EP_ASSERT(options.max_ns == 0 || reactor != nullptr);
}

DelayDevice::~DelayDevice() { EP_ASSERT(free_.size() == slots_.size()); }

void DelayDevice::submit(Request* request) {
  if (free_.empty()) {
    slots_.emplace_back();
    slots_.back().device = this;
    free_.push_back(&slots_.back());
  }
  Slot* slot = free_.back();
  free_.pop_back();
  slot->outer = request;
  slot->inner = *request;
  slot->inner.next = nullptr;
  slot->inner.owner = slot;
  slot->inner.on_done = [](Request* inner) {
    auto* done = static_cast<Slot*>(inner->owner);
    if (done->device->options_.where == DelayOptions::Where::kAfter) {
      done->device->arrive(done);
    } else {
      done->device->complete(done);
    }
  };
  if (options_.where == DelayOptions::Where::kBefore) {
    arrive(slot);
  } else {
    inner_.submit(&slot->inner);
  }
}

/// Where a request is held back: parked, or on a timer, or not at all.
void DelayDevice::arrive(Slot* slot) {
  if (holding_) {
    held_.push_back(slot);
    return;
  }
  if (options_.max_ns == 0) return let_go(slot);
  const uint64_t delay =
      std::uniform_int_distribution<uint64_t>(options_.min_ns, options_.max_ns)(random_);
  slot->timer.on_fire = [this, slot] {
    if (holding_) {
      held_.push_back(slot);
    } else {
      let_go(slot);
    }
  };
  reactor_->arm_timer(&slot->timer, reactor_->now_ns() + delay);
}

void DelayDevice::let_go(Slot* slot) {
  if (options_.where == DelayOptions::Where::kBefore) {
    inner_.submit(&slot->inner);
  } else {
    complete(slot);
  }
}

void DelayDevice::complete(Slot* slot) {
  Request* outer = slot->outer;
  const Outcome outcome = slot->inner.outcome;
  slot->outer = nullptr;
  free_.push_back(slot);
  outer->finish(outcome);
}

void DelayDevice::release(size_t index) {
  EP_ASSERT(index < held_.size());
  Slot* slot = held_[index];
  held_.erase(held_.begin() + static_cast<std::ptrdiff_t>(index));
  let_go(slot);
}

void DelayDevice::release_all(ReleaseOrder order) {
  std::vector<Slot*> now;
  now.swap(held_);
  if (order == ReleaseOrder::kNewestFirst) std::reverse(now.begin(), now.end());
  if (order == ReleaseOrder::kRandom) std::shuffle(now.begin(), now.end(), random_);
  for (Slot* slot : now) let_go(slot);
}

void DelayDevice::resume(ReleaseOrder order) {
  holding_ = false;
  release_all(order);
}

}  // namespace ep::block

// SPDX-License-Identifier: Apache-2.0
#include "block/error_device.h"

#include <algorithm>

namespace ep::block {

namespace {

bool touches(const ErrorRule& rule, const Request& request) {
  if (!rule.ops.empty() &&
      std::find(rule.ops.begin(), rule.ops.end(), request.op) == rule.ops.end()) {
    return false;
  }
  if (rule.offset == 0 && rule.length == UINT64_MAX) return true;
  if (request.op == Op::kFlush) return false;
  return request.offset + request.length > rule.offset &&
         (request.offset < rule.offset || request.offset - rule.offset < rule.length);
}

}  // namespace

ErrorDevice::~ErrorDevice() { EP_ASSERT(free_.size() == slots_.size()); }

uint64_t ErrorDevice::add_rule(const ErrorRule& rule) {
  rules_.push_back({next_id_, rule});
  return next_id_++;
}

void ErrorDevice::remove_rule(uint64_t id) {
  std::erase_if(rules_, [id](const ActiveRule& active) { return active.id == id; });
}

ErrorDevice::ActiveRule* ErrorDevice::match(const Request& request) {
  for (ActiveRule& active : rules_) {
    ErrorRule& rule = active.rule;
    if (rule.times == 0 || !touches(rule, request)) continue;
    if (rule.skip > 0) {
      --rule.skip;
      continue;
    }
    if (rule.times != ErrorRule::kAlways) --rule.times;
    return &active;
  }
  return nullptr;
}

void ErrorDevice::submit(Request* request) {
  const ActiveRule* active = match(*request);
  if (active == nullptr) return inner_.submit(request);
  ++failed_;
  if (!active->rule.after) return request->finish(active->rule.outcome);
  submit_to_fail(request, active->rule.outcome);
}

void ErrorDevice::submit_to_fail(Request* request, Outcome outcome) {
  if (free_.empty()) {
    slots_.emplace_back();
    slots_.back().device = this;
    free_.push_back(&slots_.back());
  }
  Slot* slot = free_.back();
  free_.pop_back();
  slot->outer = request;
  slot->outcome = outcome;
  slot->inner = *request;
  slot->inner.next = nullptr;
  slot->inner.owner = slot;
  slot->inner.on_done = [](Request* inner) {
    auto* done = static_cast<Slot*>(inner->owner);
    Request* outer = done->outer;
    done->outer = nullptr;
    done->device->free_.push_back(done);
    outer->finish(done->outcome);
  };
  inner_.submit(&slot->inner);
}

}  // namespace ep::block

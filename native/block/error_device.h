// SPDX-License-Identifier: Apache-2.0
#pragma once

// For tests: fails chosen requests. A rule names operations, a range, how many matching requests to
// let pass first and how many to fail; the first matching rule decides. A failing request either
// never reaches the device below, or reaches it and fails all the same (`after`): a disk may have
// written what it reports as failed.

#include <cstdint>
#include <deque>
#include <vector>

#include "block/device.h"

namespace ep::block {

struct ErrorRule {
  static constexpr uint64_t kAlways = UINT64_MAX;
  /// Empty: every operation.
  std::vector<Op> ops;
  /// Any touch of [offset, +length). Flushes match only a rule for the whole disk.
  uint64_t offset = 0;
  uint64_t length = UINT64_MAX;
  Outcome outcome = Outcome::kIoError;
  uint64_t skip = 0;
  uint64_t times = kAlways;
  bool after = false;
};

class ErrorDevice final : public Device {
 public:
  /// Borrows `inner`.
  explicit ErrorDevice(Device& inner) : inner_(inner) {}
  ~ErrorDevice() override;
  ErrorDevice(const ErrorDevice&) = delete;
  ErrorDevice& operator=(const ErrorDevice&) = delete;

  [[nodiscard]] Geometry geometry() const override { return inner_.geometry(); }
  void submit(Request* request) override;

  /// Returns a number for remove_rule.
  uint64_t add_rule(const ErrorRule& rule);
  void remove_rule(uint64_t id);
  void clear_rules() { rules_.clear(); }
  /// Requests failed so far.
  [[nodiscard]] uint64_t failed() const { return failed_; }

 private:
  struct ActiveRule {
    uint64_t id;
    ErrorRule rule;
  };
  struct Slot {
    ErrorDevice* device = nullptr;
    Request inner;
    Request* outer = nullptr;
    Outcome outcome{};
  };

  /// The rule that fails this request, or nullptr; uses up counts.
  ActiveRule* match(const Request& request);
  void submit_to_fail(Request* request, Outcome outcome);

  Device& inner_;
  std::vector<ActiveRule> rules_;
  uint64_t next_id_ = 1;
  uint64_t failed_ = 0;
  std::deque<Slot> slots_;  // a deque: slots keep their addresses
  std::vector<Slot*> free_;
};

}  // namespace ep::block

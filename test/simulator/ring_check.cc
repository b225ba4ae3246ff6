// SPDX-License-Identifier: Apache-2.0
#include "ring_check.h"

#include <algorithm>
#include <vector>

#include "base/bytes.h"
#include "export/inflight.h"
#include "rng.h"

namespace ep::sim {

namespace {

constexpr uint16_t kDescriptors = 16;

std::string text_of(const std::vector<uint16_t>& heads) {
  std::string text;
  for (const uint16_t head : heads) text += " " + std::to_string(head);
  return text.empty() ? " none" : text;
}

}  // namespace

std::string check_ring(uint64_t seed) {
  Rng random(mix(seed) ^ 0x41a6);
  std::vector<uint64_t> area(exports::InflightArea::bytes_needed(1, kDescriptors) /
                             sizeof(uint64_t));
  std::vector<uint16_t> free;
  for (uint16_t head = 0; head < kDescriptors; ++head) free.push_back(head);
  std::vector<uint16_t> waiting;  // what the guest has asked for, oldest first
  uint16_t used_idx = 0;
  for (int life = 0; life < 6; ++life) {
    exports::InflightQueue queue(reinterpret_cast<uint8_t*>(area.data()), kDescriptors);
    std::vector<uint16_t> heads;
    const Status status = queue.recover(used_idx, kDescriptors, &heads);
    if (!status) return "a ring's in-flight area is not good any more: " + status.to_string();
    if (heads != waiting) {
      return "a ring's requests were resubmitted as" + text_of(heads) + ", the guest waits for" +
             text_of(waiting);
    }
    const uint64_t steps = random.below(40);
    for (uint64_t step = 0; step < steps; ++step) {
      const bool last = step + 1 == steps;
      if (waiting.empty() || (!free.empty() && random.percent(60))) {
        const size_t at = random.below(free.size());
        queue.taken(free[at]);
        waiting.push_back(free[at]);
        free.erase(free.begin() + static_cast<ptrdiff_t>(at));
        continue;
      }
      // In any order; at the end a death may come between two of the steps.
      const size_t at = random.below(waiting.size());
      const uint16_t head = waiting[at];
      queue.completing(head);
      if (last && random.percent(30)) break;
      ++used_idx;
      waiting.erase(waiting.begin() + static_cast<ptrdiff_t>(at));
      free.push_back(head);
      if (last && random.percent(50)) break;
      queue.completed(head, used_idx);
    }
  }
  return {};
}

}  // namespace ep::sim

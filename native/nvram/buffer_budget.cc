// SPDX-License-Identifier: Apache-2.0
#include "nvram/buffer_budget.h"

#include <algorithm>

#include "base/assert.h"

namespace ep::nvram {

uint64_t BufferBudget::reserve(uint64_t want, uint64_t least) {
  const std::lock_guard lock(mutex_);
  const uint64_t left = used_ < total_ ? total_ - used_ : 0;
  const uint64_t granted = std::min(want, left);
  if (granted == 0 || granted < least) return 0;
  used_ += granted;
  return granted;
}

void BufferBudget::take(uint64_t bytes) {
  const std::lock_guard lock(mutex_);
  used_ += bytes;
}

void BufferBudget::give_back(uint64_t bytes) {
  const std::lock_guard lock(mutex_);
  EP_ASSERT(bytes <= used_);
  used_ -= bytes;
}

uint64_t BufferBudget::used() const {
  const std::lock_guard lock(mutex_);
  return used_;
}

}  // namespace ep::nvram

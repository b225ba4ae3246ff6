// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <list>
#include <memory>
#include <unordered_map>

namespace ep::view {

/// Values of bounded weight; what was used longest ago is forgotten first. A value that somebody
/// still holds lives on. The newest one is kept whatever it weighs.
template <typename Value>
class LruCache {
 public:
  explicit LruCache(uint64_t weight_max) : weight_max_(weight_max) {}

  [[nodiscard]] std::shared_ptr<const Value> get(uint64_t key) {
    const auto found = places_.find(key);
    if (found == places_.end()) return nullptr;
    order_.splice(order_.begin(), order_, found->second);
    return found->second->value;
  }

  void put(uint64_t key, std::shared_ptr<const Value> value, uint64_t weight) {
    drop(key);
    order_.push_front({key, weight, std::move(value)});
    places_[key] = order_.begin();
    weight_ += weight;
    while (weight_ > weight_max_ && order_.size() > 1) drop(order_.back().key);
  }

 private:
  struct Held {
    uint64_t key;
    uint64_t weight;
    std::shared_ptr<const Value> value;
  };

  void drop(uint64_t key) {
    const auto found = places_.find(key);
    if (found == places_.end()) return;
    weight_ -= found->second->weight;
    order_.erase(found->second);
    places_.erase(found);
  }

  uint64_t weight_max_;
  uint64_t weight_ = 0;
  std::list<Held> order_;  // newest first
  std::unordered_map<uint64_t, typename std::list<Held>::iterator> places_;
};

}  // namespace ep::view

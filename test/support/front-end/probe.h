// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <string>

#include "front-end/blk_device.h"
#include "front-end/status.h"

namespace ep::front_end {

struct ProbeResult {
  uint64_t capacity = 0;
  uint64_t device_features = 0;
  uint64_t protocol_features = 0;
  uint64_t queues = 0;
  bool inflight = false;
  std::string serial;
};

/// Proves that a disk lives: connects, reads the config, GET_ID, writes one block at `offset`,
/// reads it back and compares, flushes, stops in order. A read-only disk is only read.
Status probe(const std::string& socket_path, uint64_t offset, int timeout_ms, ProbeResult* result);

/// The same requests on a device that is open already: one good write + read + flush on `queue`.
Status check_good_request(BlkDevice* device, uint16_t queue, uint64_t offset, int timeout_ms);

}  // namespace ep::front_end

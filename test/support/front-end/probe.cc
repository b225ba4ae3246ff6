// SPDX-License-Identifier: Apache-2.0
#include "front-end/probe.h"

#include <cstring>
#include <vector>

#include "front-end/random.h"

namespace ep::front_end {

namespace {

constexpr uint32_t kProbeBytes = 4096;

Status expect_ok(const Slot& slot, const char* what) {
  if (slot.status == kStatusOk) return {};
  return Status::error(std::string(what) + " ended with status " + std::to_string(slot.status));
}

Status good_requests(BlkDevice* device, Slot* slot, uint64_t offset, int timeout_ms) {
  const uint64_t sector = offset / kSectorBytes;
  const bool writable = !device->client().has(kFeatureReadOnly);
  std::vector<uint8_t> wanted(kProbeBytes);
  Random random(BlkDevice::now_ns());
  for (uint8_t& byte : wanted) byte = static_cast<uint8_t>(random.next());
  if (writable) {
    std::memcpy(slot->data, wanted.data(), kProbeBytes);
    FRONT_END_TRY(device->submit_and_wait(slot, {kBlkOut, sector, kProbeBytes, {}}, timeout_ms));
    FRONT_END_TRY(expect_ok(*slot, "write"));
  }
  std::memset(slot->data, 0xa5, kProbeBytes);
  FRONT_END_TRY(device->submit_and_wait(slot, {kBlkIn, sector, kProbeBytes, {}}, timeout_ms));
  FRONT_END_TRY(expect_ok(*slot, "read"));
  if (writable && std::memcmp(slot->data, wanted.data(), kProbeBytes) != 0) {
    return Status::error("read returned other bytes than were written");
  }
  if (!device->client().has(kFeatureFlush)) return {};
  FRONT_END_TRY(device->submit_and_wait(slot, {kBlkFlush, 0, 0, {}}, timeout_ms));
  return expect_ok(*slot, "flush");
}

}  // namespace

Status check_good_request(BlkDevice* device, uint16_t queue, uint64_t offset, int timeout_ms) {
  Slot* slot = device->acquire(queue);
  if (slot == nullptr) return Status::error("no free slot");
  FRONT_END_TRY(good_requests(device, slot, offset, timeout_ms));
  device->release(slot);
  if (!device->violations().empty()) return Status::error(device->violations().front());
  return {};
}

Status probe(const std::string& socket_path, uint64_t offset, int timeout_ms, ProbeResult* result) {
  BlkDeviceOptions options;
  options.client.socket_path = socket_path;
  options.depth = 2;
  options.max_bytes = kProbeBytes;
  BlkDevice device(options);
  FRONT_END_TRY(device.open());
  const VhostUserClient& client = device.client();
  result->capacity = device.capacity();
  result->device_features = client.device_features();
  result->protocol_features = client.protocol_features();
  result->queues = client.queue_limit();
  result->inflight = client.inflight_active();
  if (offset % kSectorBytes != 0 || offset + kProbeBytes > device.capacity()) {
    return Status::error("the probe's block does not lie on the disk");
  }
  Slot* slot = device.acquire(0);
  std::memset(slot->data, 0, 20);
  FRONT_END_TRY(device.submit_and_wait(slot, {kBlkGetId, 0, 20, {}}, timeout_ms));
  if (slot->status == kStatusOk) {
    const char* id = reinterpret_cast<const char*>(slot->data);
    result->serial.assign(id, ::strnlen(id, 20));
  }
  device.release(slot);
  FRONT_END_TRY(check_good_request(&device, 0, offset, timeout_ms));
  return device.client().stop();
}

}  // namespace ep::front_end

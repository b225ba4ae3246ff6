// SPDX-License-Identifier: Apache-2.0
#pragma once

// Every bound of the data plane in one place, with the relations between them proven here.

#include <cstddef>
#include <cstdint>

#include "base/bytes.h"

namespace ep::limits {

constexpr uint32_t kVolumesPerGroupMax = 64;
constexpr uint32_t kDevicesPerGroupMax = 16;
constexpr uint32_t kQueuesPerExportMax = 64;
constexpr uint32_t kQueueSizeMax = 1024;
/// Data descriptors of one guest request.
constexpr uint32_t kRequestSegmentsMax = 128;
/// Requests that one queue may start in one pass of its reactor, so that no queue starves another.
constexpr uint32_t kQueueRequestsPerPassMax = 128;
/// A vhost-user or NBD socket's path, its final NUL left out (sockaddr_un).
constexpr size_t kSocketPathBytesMax = 107;

#ifdef EP_SMALL_LIMITS
// The simulator's build: everything comes to its bounds with little data.
constexpr uint64_t kEntryDataBytesMax = 1024 * 1024;
constexpr uint64_t kBatchDataBytesTarget = 128 * 1024;
constexpr uint32_t kBatchEntriesMax = 64;
constexpr uint64_t kSegmentBytesMin = 3ull * 1024 * 1024;
constexpr uint64_t kBufferDataBytesMin = 2ull * 1024 * 1024;
constexpr uint64_t kLsnReserveStep = 1024;
constexpr uint64_t kDirtyRegionBytesMin = 64 * 1024;
#else
/// A guest write larger than this becomes several log entries.
constexpr uint64_t kEntryDataBytesMax = 4 * 1024 * 1024;
/// A flush batch is closed at this many bytes of guest data (the last entry may pass it).
constexpr uint64_t kBatchDataBytesTarget = 1024 * 1024;
constexpr uint32_t kBatchEntriesMax = 4096;
constexpr uint64_t kSegmentBytesMin = 8ull * 1024 * 1024;
constexpr uint64_t kBufferDataBytesMin = 16ull * 1024 * 1024;
/// LSNs are reserved durably in steps of this many; half a step ahead the next one is ordered.
constexpr uint64_t kLsnReserveStep = 1ull << 20;
/// A region of the dirty region log, for a small volume.
constexpr uint64_t kDirtyRegionBytesMin = 1024 * 1024;
#endif
constexpr uint32_t kBatchesInFlightMax = 2;

constexpr uint64_t kSegmentBytesMax = 1024ull * 1024 * 1024;
constexpr uint32_t kSegmentEntriesMax = 1u << 22;

constexpr uint64_t kBufferSlotsPerDataMiB = 512;

constexpr size_t kMarkerLabelBytesMax = 255;
constexpr size_t kVolumeNameBytesMax = 64;

static_assert(kBatchDataBytesTarget + kEntryDataBytesMax + 1024 * 1024 < kSegmentBytesMin);
static_assert(2 * kEntryDataBytesMax <= kBufferDataBytesMin);
static_assert(is_aligned(kEntryDataBytesMax, kPageBytes));

}  // namespace ep::limits

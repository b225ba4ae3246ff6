// SPDX-License-Identifier: Apache-2.0
#pragma once

// Extents as everything in this folder passes them on, and the bounds on what is held in memory.

#include <cstdint>
#include <vector>

#include "format/map.h"

namespace ep::view {

/// In memory an extent is what a map has. In `source` stands, besides kMapZero and kMapUnknown,
/// whatever the list that it is in says: a map's table index, or a slot of SegmentStore.
using Extent = format::MapExtent;

inline uint64_t end_of(const Extent& extent) { return extent.position + extent.sectors; }

/// Unmapped segments by place; a gigabyte of 4 KiB writes takes 6 MiB.
constexpr uint64_t kIndexCacheBytes = 256ull * 1024 * 1024;
/// Decoded blocks of maps; one takes up to 250 KiB.
constexpr uint64_t kBlockCacheBytes = 64ull * 1024 * 1024;
constexpr uint64_t kTableCacheBytes = 32ull * 1024 * 1024;
/// Verified payloads of which only a part was wanted.
constexpr uint64_t kPayloadCacheBytes = 32ull * 1024 * 1024;
/// Files that are held open, maps and segments each.
constexpr uint64_t kOpenFilesMax = 64;
/// One look at the pieces; bounds what is gathered before it is read.
constexpr uint64_t kWindowSectors = 8192;
/// One read of neighbouring payloads, and how much unneeded is read along between them.
constexpr uint64_t kReadBytesMax = 4ull * 1024 * 1024;
constexpr uint64_t kReadHoleBytesMax = 16 * 1024;

}  // namespace ep::view

// SPDX-License-Identifier: Apache-2.0
#include "base/bytes.h"

#include <isa-l/crc.h>

namespace ep {

uint32_t crc32(const void* data, size_t size, uint32_t seed) {
  return crc32_gzip_refl(seed, static_cast<const unsigned char*>(data), size);
}

}  // namespace ep

// SPDX-License-Identifier: Apache-2.0
#pragma once

// For the tests of this folder: requests that own their memory, and temporary directories.

#include <stdlib.h>
#include <sys/uio.h>

#include <algorithm>
#include <cstring>
#include <deque>
#include <filesystem>
#include <functional>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "base/assert.h"
#include "base/bytes.h"
#include "block/device.h"

namespace ep::block {

class TempDirectory {
 public:
  /// Under `parent`, or the system's temporary directory.
  explicit TempDirectory(const std::string& parent = "") {
    const std::string base =
        parent.empty() ? std::filesystem::temp_directory_path().string() : parent;
    std::string pattern = base + "/everpoint-test-XXXXXX";
    EP_ASSERT(mkdtemp(pattern.data()) != nullptr);
    path_ = pattern;
  }
  ~TempDirectory() {
    std::error_code ignored;
    std::filesystem::remove_all(path_, ignored);
  }
  TempDirectory(const TempDirectory&) = delete;
  TempDirectory& operator=(const TempDirectory&) = delete;
  [[nodiscard]] const std::string& path() const { return path_; }

 private:
  std::string path_;
};

/// A Request with its memory. Must stay in place once submitted (a deque keeps it there).
struct TestRequest {
  Request request;
  std::vector<iovec> vectors;
  std::shared_ptr<uint8_t> memory;
  bool done = false;
  int times_done = 0;
  std::function<void(TestRequest*)> then;

  static std::shared_ptr<uint8_t> aligned(size_t size) {
    void* memory = nullptr;
    EP_ASSERT(posix_memalign(&memory, kPageBytes, std::max<size_t>(size, kPageBytes)) == 0);
    std::memset(memory, 0xa5, std::max<size_t>(size, kPageBytes));
    return std::shared_ptr<uint8_t>(static_cast<uint8_t*>(memory), free);
  }

  static bool has_data(Op op) { return op == Op::kRead || op == Op::kWrite; }

  /// One page-aligned buffer.
  static TestRequest contiguous(Op op, uint64_t offset, uint64_t length) {
    TestRequest made;
    made.request.op = op;
    made.request.offset = offset;
    made.request.length = length;
    if (has_data(op)) {
      made.memory = aligned(length);
      made.vectors.push_back({made.memory.get(), length});
    }
    return made;
  }

  /// Random place, length and memory within [offset, +span).
  static TestRequest scattered(Op op, uint64_t offset, uint64_t span, std::mt19937_64& random) {
    uint64_t length = (1 + random() % (random() % 8 == 0 ? 600 : 24)) * kSectorBytes;
    length = std::min(length, span);
    const uint64_t start = random() % ((span - length) / kSectorBytes + 1) * kSectorBytes;
    return scattered_exactly(op, offset + start, length, random);
  }

  /// Some pages, some sectors, some odd addresses and lengths.
  static TestRequest scattered_exactly(Op op, uint64_t offset, uint64_t length,
                                       std::mt19937_64& random) {
    TestRequest made;
    made.request.op = op;
    made.request.offset = offset;
    made.request.length = length;
    made.request.may_unmap = random() % 2 == 0;
    if (op == Op::kFlush) made.request.offset = made.request.length = 0;
    if (!has_data(op)) return made;
    const uint64_t style = random() % 3;
    const uint64_t grain = style == 0 ? kPageBytes : style == 1 ? kSectorBytes : 1;
    made.memory = aligned(2 * length + 16 * kPageBytes);
    uint64_t place = style == 2 ? random() % 7 : 0;
    for (uint64_t left = length; left > 0;) {
      const bool last = made.vectors.size() == 7 || random() % 4 == 0;
      uint64_t part = last ? left : std::min(left, align_up(1 + random() % left, grain));
      part = std::min(part, left);
      made.vectors.push_back({made.memory.get() + place, part});
      left -= part;
      place = align_up(place + part + random() % 3 * (grain == 1 ? 1 : 0), grain);
    }
    if (op == Op::kWrite) made.fill(random);
    return made;
  }

  TestRequest with_op(Op op) const {
    TestRequest copy;
    copy.request.op = op;
    copy.request.offset = request.offset;
    copy.request.length = request.length;
    copy.vectors = vectors;
    copy.memory = memory;
    return copy;
  }

  void fill(std::mt19937_64& random) {
    for (const iovec& part : vectors) {
      auto* to = static_cast<uint8_t*>(part.iov_base);
      for (size_t i = 0; i < part.iov_len; ++i) to[i] = static_cast<uint8_t>(random());
    }
  }

  [[nodiscard]] std::vector<uint8_t> bytes() const {
    std::vector<uint8_t> all;
    for (const iovec& part : vectors) {
      const auto* from = static_cast<const uint8_t*>(part.iov_base);
      all.insert(all.end(), from, from + part.iov_len);
    }
    return all;
  }

  void submit(Device& device) {
    request.iov = vectors.data();
    request.iov_count = static_cast<uint32_t>(vectors.size());
    request.owner = this;
    request.on_done = [](Request* finished) {
      auto* self = static_cast<TestRequest*>(finished->owner);
      self->done = true;
      ++self->times_done;
      if (self->then) self->then(self);
    };
    device.submit(&request);
  }
};

}  // namespace ep::block

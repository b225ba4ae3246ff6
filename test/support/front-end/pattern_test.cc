// SPDX-License-Identifier: Apache-2.0
#include "front-end/pattern.h"

#include <gtest/gtest.h>

#include <string>
#include <vector>

namespace ep::front_end {
namespace {

std::string hex(const uint8_t* data, size_t size) {
  std::string out;
  for (size_t i = 0; i < size; i++) {
    out += "0123456789abcdef"[data[i] >> 4];
    out += "0123456789abcdef"[data[i] & 15];
  }
  return out;
}

// The same vectors are in oracle/pattern.spec.ts: both sides must agree on them.
TEST(Pattern, GoldenVector) {
  uint8_t data[kSectorBytes];
  fill_sector(data, 7, 42, 3);
  EXPECT_EQ(hex(data, 64),
            "2a0000000300d1e507000000cf0f120afe52b0ed3e698bc6179acb4067c5bde3"
            "f0d6b8064fdd21a4ea4eca3dd1c70ff90e23c6ad66c3279abc987cd4f1f50c35");
  EXPECT_EQ(hex(data + 480, 32),
            "5120906b507ab99ceba594ac49ecc6cc9bb081be86922cfdde49e6efeb9e7467");
  fill_sector(data, 4294967295u, 4000000000u, 2047);
  EXPECT_EQ(hex(data + 480, 32),
            "b73f9ebc0e797a8a0ddd2b8d49759c0fee05ade91b1f3342f490168adfb157db");
}

TEST(Pattern, StampSaysWhoWrote) {
  std::vector<uint8_t> data(4 * kSectorBytes);
  fill_request(data.data(), data.size(), 9, 77);
  Stamp stamp;
  ASSERT_TRUE(read_stamp(data.data() + 2 * kSectorBytes, &stamp));
  EXPECT_EQ(stamp.id, 77u);
  EXPECT_EQ(stamp.sector, 2u);
  EXPECT_EQ(stamp.seed, 9u);
  EXPECT_TRUE(sector_matches(data.data() + 2 * kSectorBytes, 9, 77, 2));
  EXPECT_FALSE(sector_matches(data.data() + 2 * kSectorBytes, 9, 77, 1));
  data[3 * kSectorBytes - 1] ^= 1;
  EXPECT_FALSE(sector_matches(data.data() + 2 * kSectorBytes, 9, 77, 2));
  const std::vector<uint8_t> zero(kSectorBytes);
  EXPECT_FALSE(read_stamp(zero.data(), &stamp));
}

}  // namespace
}  // namespace ep::front_end

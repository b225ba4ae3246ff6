// SPDX-License-Identifier: Apache-2.0
#include <gtest/gtest.h>

#include <cerrno>
#include <memory>
#include <set>
#include <vector>

#include "base/bytes.h"
#include "base/limits.h"
#include "base/status.h"
#include "base/uuid.h"

namespace ep {
namespace {

TEST(Status, DefaultIsOkAndSaysSo) {
  const Status status;
  EXPECT_TRUE(status.is_ok());
  EXPECT_TRUE(static_cast<bool>(status));
  EXPECT_EQ(status.to_string(), "OK");
}

TEST(Status, ErrnosBecomeCodesAndKeepTheOperation) {
  const struct {
    int error;
    Code code;
  } cases[] = {{ENOENT, Code::kNotFound},
               {ENOSPC, Code::kNoSpace},
               {EDQUOT, Code::kNoSpace},
               {EEXIST, Code::kAlreadyExists},
               {EBUSY, Code::kBusy},
               {EINVAL, Code::kInvalidArgument},
               {EOPNOTSUPP, Code::kUnsupported},
               {ECANCELED, Code::kCancelled},
               {EIO, Code::kIoError},
               {EACCES, Code::kIoError}};
  for (const auto& one : cases) {
    const Status status = Status::from_errno(one.error, "open /a/b");
    EXPECT_EQ(status.code(), one.code) << one.error;
    EXPECT_EQ(status.message().rfind("open /a/b: ", 0), 0u) << status.message();
    EXPECT_NE(status.to_string().find(code_name(one.code)), std::string::npos);
  }
}

TEST(Status, EveryCodeHasItsOwnName) {
  std::set<std::string> names;
  for (int code = 0; code <= static_cast<int>(Code::kConflict); ++code) {
    names.insert(code_name(static_cast<Code>(code)));
  }
  EXPECT_EQ(names.size(), static_cast<size_t>(Code::kConflict) + 1);
  EXPECT_EQ(names.count("UNKNOWN"), 0u);
}

Status fails_at(int step, int* reached) {
  *reached = 1;
  EP_TRY(step == 1 ? Status(Code::kBusy, "one") : Status::ok());
  *reached = 2;
  EP_TRY(step == 2 ? Status(Code::kNoSpace, "two") : Status::ok());
  *reached = 3;
  return Status::ok();
}

TEST(Status, TryReturnsTheFirstFailure) {
  int reached = 0;
  EXPECT_EQ(fails_at(1, &reached).code(), Code::kBusy);
  EXPECT_EQ(reached, 1);
  EXPECT_EQ(fails_at(2, &reached).message(), "two");
  EXPECT_EQ(reached, 2);
  EXPECT_TRUE(fails_at(0, &reached).is_ok());
  EXPECT_EQ(reached, 3);
}

TEST(Result, HoldsAValueOrTheReason) {
  Result<std::unique_ptr<int>> good(std::make_unique<int>(7));
  ASSERT_TRUE(good.is_ok());
  const std::unique_ptr<int> taken = std::move(*good);
  EXPECT_EQ(*taken, 7);
  const Result<int> bad(Status(Code::kNotFound, "gone"));
  EXPECT_FALSE(bad.is_ok());
  EXPECT_EQ(bad.status().code(), Code::kNotFound);
}

TEST(AssertDeathTest, StopsTheProcessAndNamesTheCondition) {
  EXPECT_DEATH(EP_ASSERT(1 + 1 == 3), "assertion failed: 1 \\+ 1 == 3");
  const Result<int> bad(Status(Code::kNotFound, "gone"));
  EXPECT_DEATH((void)bad.value(), "assertion failed");
}

TEST(Bytes, LittleEndianAtAnyAddress) {
  uint8_t bytes[16] = {};
  store_le<uint32_t>(bytes + 1, 0x04030201);
  EXPECT_EQ(bytes[1], 1);
  EXPECT_EQ(bytes[4], 4);
  store_le<uint64_t>(bytes + 5, 0x1122334455667788);
  EXPECT_EQ(load_le<uint64_t>(bytes + 5), 0x1122334455667788u);
  EXPECT_EQ(load_le<uint32_t>(bytes + 1), 0x04030201u);
}

TEST(Bytes, Alignment) {
  EXPECT_EQ(align_up(0, 512), 0u);
  EXPECT_EQ(align_up(1, 512), 512u);
  EXPECT_EQ(align_up(512, 512), 512u);
  EXPECT_EQ(align_up(4097, 4096), 8192u);
  EXPECT_TRUE(is_aligned(8192, 4096));
  EXPECT_FALSE(is_aligned(8192 + 512, 4096));
}

TEST(Bytes, Crc32IsTheOneOfGzip) {
  // The check value of CRC-32/ISO-HDLC, which zlib.crc32 gives too.
  EXPECT_EQ(crc32("123456789", 9), 0xcbf43926u);
  EXPECT_EQ(crc32("", 0), 0u);
  const uint32_t first = crc32("1234", 4);
  EXPECT_EQ(crc32("56789", 5, first), 0xcbf43926u);
  std::vector<uint8_t> zeroes(1 << 20);
  EXPECT_EQ(crc32(zeroes.data(), zeroes.size()), 0xa738ea1cu);
}

TEST(Uuid, TextAndBack) {
  const auto uuid = Uuid::parse("00112233-4455-6677-8899-aAbBcCdDeEfF");
  ASSERT_TRUE(uuid.is_ok());
  EXPECT_EQ(uuid->bytes[0], 0x00);
  EXPECT_EQ(uuid->bytes[15], 0xff);
  EXPECT_EQ(uuid->to_string(), "00112233-4455-6677-8899-aabbccddeeff");
}

TEST(Uuid, RefusesWhatIsNone) {
  for (const char* text :
       {"", "00112233", "00112233-4455-6677-8899-aabbccddeef",
        "00112233-4455-6677-8899-aabbccddeefff", "00112233x4455-6677-8899-aabbccddeeff",
        "g0112233-4455-6677-8899-aabbccddeeff", "0011223-34455-6677-8899-aabbccddeeff",
        "{0112233-4455-6677-8899-aabbccddeef}"}) {
    EXPECT_EQ(Uuid::parse(text).status().code(), Code::kInvalidArgument) << text;
  }
}

TEST(Uuid, RandomOnesAreVersion4AndDiffer) {
  std::set<std::string> seen;
  for (int i = 0; i < 100; ++i) {
    const std::string text = Uuid::random().to_string();
    EXPECT_EQ(text[14], '4');
    EXPECT_NE(std::string("89ab").find(text[19]), std::string::npos);
    seen.insert(text);
  }
  EXPECT_EQ(seen.size(), 100u);
}

}  // namespace
}  // namespace ep

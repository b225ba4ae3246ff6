// SPDX-License-Identifier: Apache-2.0
#include "view/manifest.h"

#include <gtest/gtest.h>

#include <fstream>
#include <iterator>

#include "base/bytes.h"
#include "view/json.h"

namespace ep::view {
namespace {

const Uuid kGroup = Uuid::parse("01234567-89ab-4cde-8f01-23456789abcd").value();

std::string golden() {
  std::ifstream file(std::string(EP_SOURCE_DIR) + "/test/golden/manifest-1.txt", std::ios::binary);
  return std::string(std::istreambuf_iterator<char>(file), {});
}

TEST(Manifest, TheGoldenOneIsReadAsItsRecords) {
  const auto manifest = parse_manifest(golden(), kGroup);
  ASSERT_TRUE(manifest) << manifest.status().to_string();
  ASSERT_EQ(manifest->segments.size(), 1u);
  EXPECT_EQ(manifest->segments[0].segment, 7u);
  EXPECT_EQ(manifest->segments[0].path, "log/2026-01-01/0000000000000007.eplog");
  EXPECT_EQ(manifest->segments[0].first_lsn, 1001u);
  EXPECT_EQ(manifest->segments[0].last_lsn, 1011u);
  ASSERT_EQ(manifest->maps.size(), 1u);
  EXPECT_EQ(manifest->maps[0].id, 12u);
  EXPECT_EQ(manifest->maps[0].device.to_string(), "fedcba98-7654-4321-8fed-cba987654321");
  EXPECT_EQ(manifest->maps[0].path, "maps/000000000000000c.epmap");
  EXPECT_EQ(manifest->maps[0].last_lsn, 1011u);
  ASSERT_EQ(manifest->gaps.size(), 1u);
  EXPECT_EQ(manifest->gaps[0].from_lsn, 1011u);
  EXPECT_FALSE(manifest->gaps[0].to_lsn);
  EXPECT_EQ(parse_manifest(golden(), Uuid()).status().code(), Code::kCorruption);
}

/// While somebody appends, or after a crash: whole commits, never a half.
TEST(Manifest, ATornTailIsLeftOut) {
  const std::string whole = golden();
  const size_t header = whole.find('\n') + 1;
  const size_t second = whole.find('\n', whole.find('\n', header) + 1) + 1;
  for (size_t size = header; size < whole.size(); ++size) {
    const auto manifest = parse_manifest(whole.substr(0, size), kGroup);
    ASSERT_TRUE(manifest) << size << ": " << manifest.status().to_string();
    EXPECT_EQ(manifest->maps.size(), size >= second ? 1u : 0u);
    EXPECT_EQ(manifest->segments.size(), manifest->maps.size());
    EXPECT_EQ(manifest->gaps.size(), 0u);
  }
  for (size_t size = 0; size < header; ++size) {
    EXPECT_EQ(parse_manifest(whole.substr(0, size), kGroup).status().code(), Code::kCorruption);
  }
  // Sectors of the last line that never got their bytes.
  for (size_t hole = second + 1; hole < whole.size() - 1; ++hole) {
    std::string torn = whole;
    const size_t end = std::min(torn.size(), (hole / 512 + 1) * 512);
    std::fill(torn.begin() + static_cast<ptrdiff_t>(hole),
              torn.begin() + static_cast<ptrdiff_t>(end), '\0');
    const auto manifest = parse_manifest(torn, kGroup);
    ASSERT_TRUE(manifest) << hole;
    EXPECT_EQ(manifest->gaps.size(), 0u);
    EXPECT_EQ(manifest->maps.size(), 1u);
  }
}

TEST(Manifest, EveryChangedByteIsDamage) {
  const std::string whole = golden();
  for (size_t i = 0; i < whole.size(); ++i) {
    std::string changed = whole;
    changed[i] = static_cast<char>(changed[i] ^ 1);
    EXPECT_EQ(parse_manifest(changed, kGroup).status().code(), Code::kCorruption) << i;
  }
  const size_t line = whole.find('\n') + 1;
  const size_t next = whole.find('\n', line) + 1;
  EXPECT_FALSE(parse_manifest(whole.substr(0, line) + whole.substr(next), kGroup));
  EXPECT_FALSE(parse_manifest(whole.substr(0, next) + whole.substr(line), kGroup));
}

std::string with(const std::string& records) {
  std::string content;
  uint32_t crc = 0;
  for (const std::string& json :
       {"{\"magic\":\"EPMANIFEST\",\"version\":1,\"group\":\"" + kGroup.to_string() + "\"}",
        "{\"records\":[" + records + "]}"}) {
    char text[9];
    std::snprintf(text, sizeof text, "%08zx", json.size());
    const std::string length = text;
    crc = crc32(json.data(), json.size(), crc32(length.data(), 8, crc));
    std::snprintf(text, sizeof text, "%08x", crc);
    content += std::string(text) + " " + length + " " + json + "\n";
  }
  return content;
}

TEST(Manifest, RecordsAreChecked) {
  const auto code = [](const std::string& records) {
    return parse_manifest(with(records), kGroup).status().code();
  };
  const std::string gap = R"({"kind":"gap","fromLsn":5,"toLsn":)";
  const auto twice = parse_manifest(with(gap + "null}," + gap + "9}"), kGroup);
  ASSERT_TRUE(twice);
  ASSERT_EQ(twice->gaps.size(), 1u);
  EXPECT_EQ(twice->gaps[0].to_lsn, 9u);
  EXPECT_EQ(code(R"({"kind":"unpin","label":"ü\u00fc \"x\" \ud83d\ude00","more":[1.5e3,-2,{}]})"),
            Code::kOk);
  EXPECT_EQ(code(R"({"kind":"new"})"), Code::kUnsupported);
  EXPECT_EQ(code(gap + "-1}"), Code::kCorruption);
  EXPECT_EQ(code(gap + "9007199254740992}"), Code::kCorruption);
  EXPECT_EQ(code(R"({"kind":"gap","fromLsn":5})"), Code::kCorruption);
  const std::string map = R"({"kind":"map","id":1,"device":"01234567-89ab-4cde-8f01-23456789abcd",)"
                          R"("level":0,"firstLsn":1,"lastLsn":2,"path":)";
  EXPECT_EQ(code(map + R"("maps/1"})"), Code::kOk);
  EXPECT_EQ(code(map + R"("../1"})"), Code::kCorruption);
  EXPECT_EQ(code(map + R"("maps/../../1"})"), Code::kCorruption);
  EXPECT_EQ(code(map + R"("/maps/1"})"), Code::kCorruption);
}

TEST(Json, WhatIsNoneIsRefused) {
  for (const char* bad : {"", "{", "[1,]", "{\"a\"}", "{\"a\":1,}", "\"a", "\"\\x\"", "\"\\u12\"",
                          "tru", "1 2", "[\"\\ud83d\\u0020\"]", "\x01"}) {
    EXPECT_FALSE(parse_json(bad)) << bad;
  }
  EXPECT_FALSE(parse_json(std::string(100000, '[')));
  const auto value = parse_json(" { \"a\" : [ true , null , 12 , \"x\\n\\u20ac\" ] } ");
  ASSERT_TRUE(value);
  const JsonValue* list = value->field("a");
  ASSERT_NE(list, nullptr);
  ASSERT_EQ(list->items.size(), 4u);
  EXPECT_TRUE(list->items[0].truth);
  EXPECT_EQ(list->items[2].count, 12u);
  EXPECT_EQ(list->items[3].text, "x\n€");
}

}  // namespace
}  // namespace ep::view

// SPDX-License-Identifier: Apache-2.0
#include "format/segment.h"

#include <gtest/gtest.h>

#include <cstdlib>
#include <random>
#include <vector>

#include "format/group_record.h"

namespace ep::format {
namespace {

uint64_t first_seed() {
  const char* text = std::getenv("EP_TEST_SEED");
  return text == nullptr ? 1 : std::strtoull(text, nullptr, 0);
}

Uuid random_uuid(std::mt19937_64& random) {
  Uuid uuid;
  for (uint8_t& byte : uuid.bytes) byte = static_cast<uint8_t>(random());
  return uuid;
}

/// Flips one bit in each byte of `page` in turn; `good` must notice every one.
template <typename Good>
void expect_every_flip_noticed(std::vector<uint8_t> page, Good good) {
  ASSERT_TRUE(good(page));
  for (size_t at = 0; at < page.size(); ++at) {
    page[at] ^= static_cast<uint8_t>(1u << (at % 8));
    EXPECT_FALSE(good(page)) << "byte " << at;
    page[at] ^= static_cast<uint8_t>(1u << (at % 8));
  }
}

TEST(SegmentFormat, HeaderRoundTripAndDamage) {
  std::mt19937_64 random(first_seed());
  SegmentHeader header{
      random_uuid(random), random_uuid(random), random(), random(), random(), random(), random()};
  std::vector<uint8_t> page(kSegmentHeaderBytes);
  const uint32_t crc = encode_segment_header(header, page.data());
  uint32_t read_crc = 0;
  const auto read = decode_segment_header(page, &read_crc);
  ASSERT_TRUE(read);
  EXPECT_EQ(read_crc, crc);
  EXPECT_EQ(read->group, header.group);
  EXPECT_EQ(read->device, header.device);
  EXPECT_EQ(read->segment, header.segment);
  EXPECT_EQ(read->epoch, header.epoch);
  EXPECT_EQ(read->first_lsn, header.first_lsn);
  EXPECT_EQ(read->created_ns, header.created_ns);
  EXPECT_EQ(read->capacity_bytes, header.capacity_bytes);
  expect_every_flip_noticed(
      page, [](const auto& bytes) { return decode_segment_header(bytes, nullptr).is_ok(); });
  for (size_t size = 0; size < page.size(); size += 97) {
    EXPECT_FALSE(decode_segment_header({page.data(), size}, nullptr));
  }
  store_le<uint32_t>(page.data() + 8, kSegmentVersion + 1);
  EXPECT_EQ(decode_segment_header(page, nullptr).status().code(), Code::kUnsupported);
}

TEST(SegmentFormat, TrailerRoundTripAndDamage) {
  std::mt19937_64 random(first_seed());
  SegmentTrailer trailer;
  trailer.group = random_uuid(random);
  trailer.device = random_uuid(random);
  trailer.segment = random();
  trailer.epoch = random();
  trailer.first_lsn = random() >> 1;
  trailer.entries = 1 + random() % 100000;
  trailer.last_lsn = trailer.first_lsn + trailer.entries - 1;
  trailer.first_time_ns = random();
  trailer.last_time_ns = random();
  trailer.directory_offset = random();
  trailer.directory_crc = static_cast<uint32_t>(random());
  trailer.batches = static_cast<uint32_t>(random());
  trailer.data_bytes = random();
  trailer.sealed_ns = random();
  trailer.last_chain = static_cast<uint32_t>(random());
  trailer.reason = SealReason::kGap;
  std::vector<uint8_t> page(kSegmentTrailerBytes);
  encode_segment_trailer(trailer, page.data());
  const auto read = decode_segment_trailer(page);
  ASSERT_TRUE(read);
  std::vector<uint8_t> again(kSegmentTrailerBytes);
  encode_segment_trailer(*read, again.data());
  EXPECT_EQ(again, page);
  EXPECT_EQ(read->data_bytes, trailer.data_bytes);
  EXPECT_EQ(read->directory_crc, trailer.directory_crc);
  EXPECT_EQ(read->reason, trailer.reason);
  expect_every_flip_noticed(
      page, [](const auto& bytes) { return decode_segment_trailer(bytes).is_ok(); });
  store_le<uint32_t>(page.data() + 8, 2);
  EXPECT_EQ(decode_segment_trailer(page).status().code(), Code::kUnsupported);
  trailer.last_lsn += 1;  // no longer what `entries` says
  encode_segment_trailer(trailer, page.data());
  EXPECT_FALSE(decode_segment_trailer(page));
}

TEST(SegmentFormat, BatchRoundTripAndDamage) {
  std::mt19937_64 random(first_seed());
  for (const uint32_t entries : {1u, 7u, 128u, limits::kBatchEntriesMax}) {
    BatchHeader header;
    header.chain = static_cast<uint32_t>(random());
    header.entries = entries;
    header.group = random_uuid(random);
    header.segment = random();
    header.epoch = random();
    header.batch = static_cast<uint32_t>(random());
    header.first_lsn = random();
    header.data_sector = static_cast<uint32_t>(random());
    header.data_sectors = 3;
    std::vector<uint8_t> bytes(header.table_bytes());
    header.pages = static_cast<uint32_t>(
        align_up(align_up(bytes.size(), 512) + 3 * 512, kPageBytes) / kPageBytes);
    for (size_t i = kBatchHeaderBytes; i < bytes.size(); ++i)
      bytes[i] = static_cast<uint8_t>(random());
    const uint32_t crc = encode_batch_header(header, bytes.data());
    const auto read = decode_batch_header(bytes);
    ASSERT_TRUE(read);
    EXPECT_EQ(read->crc, crc);
    EXPECT_EQ(read->chain, header.chain);
    EXPECT_EQ(read->group, header.group);
    EXPECT_EQ(read->segment, header.segment);
    EXPECT_EQ(read->epoch, header.epoch);
    EXPECT_EQ(read->batch, header.batch);
    EXPECT_EQ(read->first_lsn, header.first_lsn);
    EXPECT_EQ(read->data_sector, header.data_sector);
    EXPECT_EQ(read->pages, header.pages);
    if (entries > 200) continue;  // a flip in each of many bytes takes long and shows no more
    expect_every_flip_noticed(bytes, [](const auto& damaged) {
      const auto decoded = decode_batch_header(damaged);
      return decoded && check_batch_table(*decoded, damaged);
    });
    EXPECT_FALSE(check_batch_table(*read, {bytes.data(), bytes.size() - 1}));
  }
}

TEST(SegmentFormat, ImpossibleBatchSizesAreRefused) {
  BatchHeader header;
  std::vector<uint8_t> bytes(kBatchHeaderBytes + kEntryBytes);
  const auto refused = [&](uint32_t entries, uint32_t pages, uint32_t sectors) {
    header.entries = 1;
    header.pages = 1;
    encode_batch_header(header, bytes.data());
    store_le<uint32_t>(bytes.data() + 12, entries);
    store_le<uint32_t>(bytes.data() + 52, pages);
    store_le<uint32_t>(bytes.data() + 68, sectors);
    return !decode_batch_header(bytes);
  };
  EXPECT_FALSE(refused(1, 1, 7));
  EXPECT_TRUE(refused(0, 1, 0));
  EXPECT_TRUE(refused(1, 0, 0));
  EXPECT_TRUE(refused(1, 1, 8));
  EXPECT_TRUE(refused(1, 1, 0xffffffffu));
  EXPECT_TRUE(refused(limits::kBatchEntriesMax + 1, 0xffffffffu, 0));
  EXPECT_TRUE(refused(0xffffffffu, 1, 0));
  EXPECT_FALSE(decode_batch_header({bytes.data(), kBatchHeaderBytes - 1}));
}

TEST(SegmentFormat, EntriesRoundTrip) {
  std::mt19937_64 random(first_seed());
  for (int i = 0; i < 2000; ++i) {
    Entry entry;
    entry.type = static_cast<EntryType>(1 + random() % 8);
    entry.flags = static_cast<uint8_t>(random() % 4);
    entry.volume = static_cast<uint16_t>(random() % limits::kVolumesPerGroupMax);
    entry.sectors = static_cast<uint32_t>(random());
    entry.sector = random();
    entry.time_ns = random();
    entry.data_crc = static_cast<uint32_t>(random());
    entry.address = static_cast<uint32_t>(random());
    uint8_t bytes[kEntryBytes];
    encode_entry(entry, bytes);
    const auto read = decode_entry(bytes);
    ASSERT_TRUE(read);
    EXPECT_EQ(*read, entry);
  }
}

TEST(SegmentFormat, UnknownEntriesAreRefused) {
  uint8_t bytes[kEntryBytes] = {};
  for (int type = 0; type < 256; ++type) {
    bytes[0] = static_cast<uint8_t>(type);
    EXPECT_EQ(decode_entry(bytes).is_ok(), type >= 1 && type <= 9) << type;
  }
  bytes[0] = 1;
  for (int flags = 0; flags < 256; ++flags) {
    bytes[1] = static_cast<uint8_t>(flags);
    EXPECT_EQ(decode_entry(bytes).is_ok(), flags < 4) << flags;
  }
  bytes[1] = 0;
  store_le<uint16_t>(bytes + 2, limits::kVolumesPerGroupMax);
  EXPECT_FALSE(decode_entry(bytes));
}

TEST(SegmentFormat, MarkersAndGeometry) {
  uint8_t sector[kSectorBytes];
  for (const size_t size : {size_t{1}, size_t{64}, limits::kMarkerLabelBytesMax}) {
    const MarkerPayload marker{kKeepForever, std::string(size, 'm')};
    ASSERT_TRUE(encode_marker(marker, sector));
    const auto read = decode_marker(sector);
    ASSERT_TRUE(read);
    EXPECT_EQ(read->label, marker.label);
    EXPECT_EQ(read->keep_until_ns, kKeepForever);
  }
  EXPECT_FALSE(encode_marker({0, ""}, sector));
  EXPECT_FALSE(encode_marker({0, std::string(limits::kMarkerLabelBytesMax + 1, 'm')}, sector));
  const GeometryPayload geometry{GeometryAction::kGrow, 4096, 1ull << 40, "system"};
  ASSERT_TRUE(encode_geometry(geometry, sector));
  const auto read = decode_geometry(sector);
  ASSERT_TRUE(read);
  EXPECT_EQ(read->action, geometry.action);
  EXPECT_EQ(read->block_bytes, geometry.block_bytes);
  EXPECT_EQ(read->size_bytes, geometry.size_bytes);
  EXPECT_EQ(read->name, geometry.name);
  EXPECT_FALSE(encode_geometry({GeometryAction::kAdd, 512, 1, ""}, sector));
  EXPECT_FALSE(encode_geometry({GeometryAction::kAdd, 512, 1, std::string(65, 'n')}, sector));
  EXPECT_FALSE(decode_geometry({sector, 511}));
  EXPECT_FALSE(decode_marker({sector, 511}));
}

TEST(SegmentFormat, Gaps) {
  uint8_t sector[kSectorBytes];
  const Gap gap{41, 1'000, 99, 2'000, std::string(600, 'r')};
  encode_gap(gap, sector);
  const auto read = decode_gap(sector);
  ASSERT_TRUE(read);
  EXPECT_EQ(read->from_lsn, 41u);
  EXPECT_EQ(read->from_ns, 1'000u);
  EXPECT_EQ(read->to_lsn, 99u);
  EXPECT_EQ(read->to_ns, 2'000u);
  EXPECT_EQ(read->reason, gap.reason.substr(0, 472));
  store_le<uint64_t>(sector + 16, 41);  // it ends where it begins
  EXPECT_FALSE(decode_gap(sector));
  EXPECT_FALSE(decode_gap(std::span<const uint8_t>(sector, 100)));
}

TEST(SegmentFormat, NoiseNeverCrashesADecoder) {
  std::mt19937_64 random(first_seed());
  std::vector<uint8_t> bytes(kPageBytes);
  for (int round = 0; round < 300; ++round) {
    for (uint8_t& byte : bytes) byte = static_cast<uint8_t>(random());
    // Half of them pass the magic, so that more is looked at.
    if (round % 2 == 0) std::memcpy(bytes.data(), "EPBT", 4);
    (void)decode_entry(bytes.data()).is_ok();
    (void)decode_marker(bytes).is_ok();
    (void)decode_geometry(bytes).is_ok();
    EXPECT_FALSE(decode_segment_header(bytes, nullptr));
    EXPECT_FALSE(decode_segment_trailer(bytes));
    EXPECT_FALSE(decode_group_record(bytes));
    if (const auto batch = decode_batch_header(bytes)) {
      EXPECT_FALSE(check_batch_table(*batch, bytes));
    }
  }
}

TEST(SegmentFormat, Names) {
  EXPECT_EQ(segment_relative_path(0x2a, 1'700'000'000'000'000'000ull),
            "log/2023-11-14/000000000000002a.eplog");
  EXPECT_EQ(parse_segment_name("000000000000002a.eplog"), 0x2a);
  EXPECT_EQ(parse_segment_name("ffffffffffffffff.eplog"), ~uint64_t{0});
  for (const char* name : {"", "2a.eplog", "000000000000002A.eplog", "000000000000002g.eplog",
                           "000000000000002a.eplo", "000000000000002a.eplog~"}) {
    EXPECT_FALSE(parse_segment_name(name)) << name;
  }
}

TEST(GroupRecordFormat, RoundTripAndDamage) {
  std::mt19937_64 random(first_seed());
  GroupRecord record;
  record.group = random_uuid(random);
  record.sequence = random();
  record.epoch = random();
  record.reserved_lsn = random();
  record.closed_cleanly = true;
  record.last_lsn = random();
  record.last_time_ns = random();
  record.in_gap = true;
  record.gap = {random(), random(), random(), random(), "a disk that was full"};
  for (uint16_t volume = 0; volume < limits::kVolumesPerGroupMax; ++volume) {
    record.primaries.push_back({volume, {random(), random(), random()}});
  }
  std::vector<uint8_t> slot(kGroupRecordSlotBytes);
  encode_group_record(record, slot.data());
  const auto read = decode_group_record(slot);
  ASSERT_TRUE(read);
  std::vector<uint8_t> again(kGroupRecordSlotBytes);
  encode_group_record(*read, again.data());
  EXPECT_EQ(again, slot);
  EXPECT_EQ(read->gap.reason, record.gap.reason);
  EXPECT_EQ(read->gap.from_lsn, record.gap.from_lsn);
  EXPECT_TRUE(read->in_gap && read->closed_cleanly);
  ASSERT_EQ(read->primaries.size(), record.primaries.size());
  EXPECT_EQ(read->primaries.back().look, record.primaries.back().look);
  expect_every_flip_noticed(slot,
                            [](const auto& bytes) { return decode_group_record(bytes).is_ok(); });
  std::vector<uint8_t> zeroes(kGroupRecordSlotBytes);
  EXPECT_EQ(decode_group_record(zeroes).status().code(), Code::kNotFound);
  store_le<uint32_t>(slot.data() + 8, 2);
  EXPECT_EQ(decode_group_record(slot).status().code(), Code::kUnsupported);
  record.gap.reason = std::string(1000, 'r');
  encode_group_record(record, slot.data());
  EXPECT_EQ(decode_group_record(slot)->gap.reason.size(), 254u);
}

}  // namespace
}  // namespace ep::format

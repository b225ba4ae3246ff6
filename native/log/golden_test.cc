// SPDX-License-Identifier: Apache-2.0

// The golden segments (test/golden/segment-*.eplog), which src/maps reads too: made again through
// the writer's own code and compared byte for byte. EP_WRITE_GOLDEN=1 writes them.

#include <gtest/gtest.h>

#include <cstdlib>
#include <deque>
#include <fstream>

#include "block/test_support.h"
#include "io/posix_file_system.h"
#include "log/batch.h"
#include "log/test_support.h"

namespace ep::log {
namespace {

using format::Entry;
using format::EntryType;

/// Entries in plain memory, for ever.
class ListSource : public format::EntrySource {
 public:
  explicit ListSource(uint64_t first) : first_(first) {}
  void add(Entry entry, std::vector<uint8_t> data) {
    entry.time_ns = 1'700'000'000'000'000'000 + 1'000 * (first_ + entries_.size());
    entry.data_crc = data.empty() ? 0 : crc32(data.data(), data.size());
    entries_.push_back({entry, std::move(data)});
  }
  [[nodiscard]] uint64_t head() const override { return first_ + entries_.size(); }
  [[nodiscard]] format::HeldEntry held(uint64_t lsn) const override {
    const auto& [entry, data] = entries_[lsn - first_];
    return {entry, const_cast<uint8_t*>(data.data())};
  }
  [[nodiscard]] uint64_t bytes_since(uint64_t lsn) const override {
    uint64_t sum = 0;
    for (; lsn < head(); ++lsn) sum += entries_[lsn - first_].second.size();
    return sum;
  }
  [[nodiscard]] uint64_t data_bytes() const override { return ~uint64_t{0}; }

 private:
  uint64_t first_;
  std::deque<std::pair<Entry, std::vector<uint8_t>>> entries_;
};

Entry entry_of(EntryType type, uint16_t volume, uint64_t sector, uint32_t sectors,
               uint8_t flags = 0) {
  Entry entry;
  entry.type = type;
  entry.flags = flags;
  entry.volume = volume;
  entry.sector = sector;
  entry.sectors = sectors;
  return entry;
}

std::vector<uint8_t> pattern(uint32_t sectors, uint8_t start) {
  std::vector<uint8_t> bytes(sectors * kSectorBytes);
  for (size_t i = 0; i < bytes.size(); ++i) bytes[i] = static_cast<uint8_t>(start + i / 512 + i);
  return bytes;
}

/// One of each kind, with overlaps and odd places; three batches.
void fill(ListSource& source, int batch) {
  std::vector<uint8_t> sector(kSectorBytes);
  if (batch == 0) {
    EXPECT_TRUE(format::encode_geometry(
        {format::GeometryAction::kAdd, 512, 16ull * 1024 * 1024, "system"}, sector.data()));
    source.add(entry_of(EntryType::kGeometry, 0, 0, 1), sector);
    EXPECT_TRUE(format::encode_geometry(
        {format::GeometryAction::kAdd, 4096, 8ull * 1024 * 1024, "data"}, sector.data()));
    source.add(entry_of(EntryType::kGeometry, 1, 0, 1), sector);
    source.add(entry_of(EntryType::kWrite, 0, 0, 8), pattern(8, 1));
    source.add(entry_of(EntryType::kWrite, 1, 63, 1), pattern(1, 2));
  } else if (batch == 1) {
    source.add(entry_of(EntryType::kWrite, 0, 5, 6), pattern(6, 3));
    source.add(entry_of(EntryType::kDiscard, 0, 2, 2), {});
    source.add(entry_of(EntryType::kWriteZeroes, 1, 60, 16), {});
    source.add(entry_of(EntryType::kFlush, 0, 107, 0), {});
    EXPECT_TRUE(
        format::encode_marker({format::kKeepForever, "before the upgrade ✓"}, sector.data()));
    source.add(entry_of(EntryType::kMarker, 0, 0, 1), sector);
  } else {
    source.add(entry_of(EntryType::kWrite, 1, 100, 3), pattern(3, 4));
    source.add(entry_of(EntryType::kError, 1, 110, 0), {});
    source.add(entry_of(EntryType::kWrite, 1, 100, 2, format::kEntryFlagResync), pattern(2, 5));
    source.add(entry_of(EntryType::kUnknown, 1, 102, 1), {});
  }
}

/// What must be: LSNs 101 to 113, as filled above.
struct Made {
  std::vector<uint8_t> sealed;
  std::vector<uint8_t> active;
};

Made make() {
  block::TempDirectory directory;
  io::PosixFileSystem files;
  DeviceFolder device{*Uuid::parse("0badcafe-0000-4000-8000-000000000002"),
                      directory.path() + "/groups/golden"};
  Made made;
  for (const bool sealed : {true, false}) {
    const std::string path = directory.path() + (sealed ? "/sealed" : "/active");
    auto file = files.open(path, {.create = true});
    EXPECT_TRUE(file);
    SegmentCursor cursor;
    cursor.made = {*file, &device, path, sealed ? 7u : 8u, 1'700'000'000'000'000'000, 65536};
    cursor.group = *Uuid::parse("0badcafe-0000-4000-8000-000000000001");
    cursor.epoch = 3;
    ListSource source(101);
    BatchBytes bytes;
    uint64_t good_end = 0;
    for (int batch = 0; batch < 3; ++batch) {
      const uint64_t lsn = source.head();
      fill(source, batch);
      const BatchPlan plan = plan_batch(source, lsn);
      EXPECT_TRUE(batch_fits(cursor, plan));
      bytes.cut(cursor, source, lsn, plan);
      uint64_t offset = bytes.offset();
      for (const iovec& part : bytes.iov()) {
        EXPECT_TRUE(files.write(*file, offset, part.iov_base, part.iov_len));
        offset += part.iov_len;
      }
      if (batch == 1) good_end = offset;
    }
    if (sealed) {
      EXPECT_TRUE(seal_segment_file(
          files, *file, cursor.directory, cursor.end,
          cursor.trailer(1'700'000'001'000'000'000, format::SealReason::kRequest)));
    } else {
      // The third batch was torn: its table is there, its last data is not.
      EXPECT_TRUE(files.truncate(*file, good_end + 1024));
      EXPECT_TRUE(files.truncate(*file, good_end + 2 * kPageBytes));
    }
    files.close(*file);
    (sealed ? made.sealed : made.active) = read_whole(path);
  }
  return made;
}

void compare(const std::vector<uint8_t>& made, const std::string& name) {
  const std::string path = std::string(EP_SOURCE_DIR) + "/test/golden/" + name;
  if (std::getenv("EP_WRITE_GOLDEN") != nullptr) {
    std::ofstream(path, std::ios::binary)
        .write(reinterpret_cast<const char*>(made.data()),
               static_cast<std::streamsize>(made.size()));
  }
  ASSERT_TRUE(std::filesystem::exists(path)) << path;
  EXPECT_LT(made.size(), 65536u);
  EXPECT_TRUE(made == read_whole(path)) << name << " is not what the writer makes now";
}

TEST(Golden, SegmentsAreWhatTheWriterMakes) {
  const Made made = make();
  compare(made.sealed, "segment-sealed.eplog");
  compare(made.active, "segment-active.eplog");
}

TEST(Golden, SegmentsReadAsWritten) {
  const std::string folder = std::string(EP_SOURCE_DIR) + "/test/golden/";
  const ReadSegment sealed = read_segment(folder + "segment-sealed.eplog");
  EXPECT_TRUE(sealed.sealed);
  EXPECT_EQ(sealed.problem, "");
  ASSERT_EQ(sealed.entries.size(), 13u);
  const ReadSegment active = read_segment(folder + "segment-active.eplog");
  EXPECT_FALSE(active.sealed);
  ASSERT_EQ(active.entries.size(), 9u);
  for (size_t i = 0; i < active.entries.size(); ++i) {
    EXPECT_EQ(active.entries[i].lsn, 101 + i);
    EXPECT_EQ(active.entries[i].data, sealed.entries[i].data);
    EXPECT_EQ(active.entries[i].entry.sector, sealed.entries[i].entry.sector);
  }
  EXPECT_EQ(sealed.entries[2].data, pattern(8, 1));
  EXPECT_EQ(sealed.entries[8].entry.type, EntryType::kMarker);
  EXPECT_EQ(format::decode_marker(sealed.entries[8].data)->label, "before the upgrade ✓");
  EXPECT_EQ(sealed.entries[12].entry.type, EntryType::kUnknown);
}

}  // namespace
}  // namespace ep::log

// SPDX-License-Identifier: Apache-2.0

// History against the naive model: every entry replayed, one at a time, sector by sector.

#include "view/history.h"

#include <gtest/gtest.h>

#include <chrono>
#include <filesystem>
#include <fstream>
#include <set>

#include "block/test_support.h"
#include "io/posix_file_system.h"
#include "io/test_support.h"
#include "view/test_support.h"

namespace ep::view {
namespace {

using format::Entry;
using format::EntryType;
using Bytes = std::vector<uint8_t>;

struct Logged {
  Entry entry;
  Bytes data;
};

/// Where writes go: close together, over a region's border, and in the far.
struct Area {
  uint16_t volume;
  uint64_t sector;
  uint64_t sectors;
};
const Area kAreas[] = {{0, 0, 700},
                       {0, format::kRegionSectors - 60, 120},
                       {0, 9 * format::kRegionSectors + 5, 9000},
                       {3, 0, 90},
                       {63, format::kVolumeSectorsMax - 50, 50}};

/// A group's secondary as a test makes it, and what it holds.
class World {
 public:
  explicit World(uint64_t seed) : random(seed) {
    group = Uuid::parse("11111111-2222-4333-8444-555555555555").value();
    for (int i = 0; i < 2; ++i) {
      const std::string text = "aaaaaaaa-0000-4000-8000-00000000000" + std::to_string(i + 1);
      devices.push_back(
          {Uuid::parse(text).value(),
           directory.path() + "/device-" + std::to_string(i) + "/groups/" + group.to_string()});
      std::filesystem::create_directories(devices.back().folder);
    }
    keeper = std::make_unique<TestMapKeeper>(files, group, devices);
  }

  uint64_t below(uint64_t bound) { return random() % bound; }
  bool chance(int percent) { return below(100) < static_cast<uint64_t>(percent); }

  Bytes random_data(uint64_t sectors) {
    Bytes data(sectors * kSectorBytes);
    for (size_t i = 0; i < data.size(); i += 8) store_le<uint64_t>(data.data() + i, random());
    return data;
  }

  Logged random_entry() {
    Logged logged;
    Entry& entry = logged.entry;
    const uint64_t kind = below(100);
    if (kind < 5) {
      entry.type = EntryType::kFlush;
      return logged;
    }
    if (kind < 8) {
      entry.type = EntryType::kMarker;
      entry.sectors = 1;
      logged.data.resize(kSectorBytes);
      EXPECT_TRUE(format::encode_marker({0, "a marker"}, logged.data.data()));
      return logged;
    }
    const Area& area = kAreas[below(std::size(kAreas))];
    const uint64_t start = below(area.sectors);
    const uint64_t most = kind < 88 ? 40 : 4000;
    entry.volume = area.volume;
    entry.sector = area.sector + start;
    entry.sectors = static_cast<uint32_t>(1 + below(std::min(most, area.sectors - start)));
    entry.type = kind < 88   ? EntryType::kWrite
                 : kind < 92 ? EntryType::kDiscard
                 : kind < 96 ? EntryType::kWriteZeroes
                             : EntryType::kUnknown;
    if (entry.type == EntryType::kWrite) logged.data = random_data(entry.sectors);
    return logged;
  }

  Logged gap_entry(uint64_t from, uint64_t to) {
    Logged logged;
    logged.entry.type = EntryType::kGap;
    logged.entry.sectors = 1;
    logged.data.resize(kSectorBytes);
    format::encode_gap({from, 1, to, to == 0 ? 0u : 2u, "test"}, logged.data.data());
    return logged;
  }

  /// Writes LSNs [first, last] of the log as a segment; those from `given_up` on as other content,
  /// which does not count.
  void write_segment(uint64_t first, uint64_t last, uint64_t given_up, bool seal) {
    TestEntries entries(first);
    for (uint64_t lsn = first; lsn <= last; ++lsn) {
      const bool counts = lsn < given_up || given_up_alike;
      const Logged logged = counts ? log.at(lsn) : random_entry();
      entries.add(logged.entry, logged.data);
    }
    const log::DeviceFolder& device = devices[below(devices.size())];
    auto written = write_test_segment(files, device, group, ++last_segment, 1, entries, first, last,
                                      seal, 1 + static_cast<uint32_t>(below(30)), random);
    ASSERT_TRUE(written) << written.status().to_string();
    segments.push_back({*written, std::min(last, given_up - 1)});
  }

  /// A random log in segments, some of which were given up, some behind gaps.
  void write_log(uint64_t entries, bool gaps) {
    uint64_t lsn = 1;
    uint64_t done = 0;
    uint64_t first = 1;
    while (done < entries) {
      const uint64_t count = std::min(entries - done, 10 + below(80));
      for (uint64_t i = 0; i < count; ++i) log[lsn++] = random_entry();
      done += count;
      const bool newest = done >= entries;
      if (gaps && chance(25) && !newest) {
        write_segment(first, lsn - 1, ~uint64_t{0}, chance(90));
        const uint64_t from = lsn - 1;
        first = lsn += below(2000);
        log[lsn++] = gap_entry(from, 0);
        for (uint64_t i = below(9); i > 0; --i) log[lsn++] = random_entry();
        log[lsn] = gap_entry(from, lsn);
        if (chance(50)) keeper->manifest().add_gap(from, lsn);
        ++lsn;
      } else if (chance(20) && !newest && lsn - first > 3) {
        // The segment fails: the next one starts at or before its end.
        const uint64_t next = lsn - below(std::min<uint64_t>(lsn - first, 20));
        write_segment(first, lsn - 1, next, chance(50));
        first = next;
      } else {
        write_segment(first, lsn - 1, ~uint64_t{0}, newest ? chance(50) : chance(95));
        first = lsn;
      }
    }
  }

  /// Maps of random segments, some in two parts, and maps of maps; the manifest knows of all maps,
  /// and of some segments.
  void write_maps() {
    for (const auto& [segment, last] : segments) {
      if (!segment.info.sealed || !chance(70) || last < segment.info.first_lsn) continue;
      const uint64_t first = segment.info.first_lsn;
      const auto entry_of = [&, &addresses = segment.addresses](uint64_t lsn) {
        Entry entry = log.at(lsn).entry;
        entry.address = addresses[lsn - first];
        return entry;
      };
      const uint64_t cut = chance(30) ? first + below(last - first + 1) : last;
      ASSERT_TRUE(keeper->map_segment(segment.info, first, cut, entry_of, below(2), block_bytes()));
      if (cut < last) {
        ASSERT_TRUE(
            keeper->map_segment(segment.info, cut + 1, last, entry_of, below(2), block_bytes()));
      }
      if (chance(80)) keeper->manifest().add_segment(segment.info, segment.path);
      if (chance(50)) {
        ASSERT_TRUE(keeper->manifest().commit());
      }
    }
    for (int tries = 0; tries < 12; ++tries) {
      const size_t maps = keeper->maps().size();
      if (maps < 2) break;
      const size_t from = below(maps);
      size_t count = 1;
      while (from + count < maps && follows(from + count - 1) && chance(80)) ++count;
      if (count < 2) continue;
      ASSERT_TRUE(keeper->merge(from, count, below(2), block_bytes()));
      // Its children may be gone, although the manifest names them.
      for (size_t i = from; i < from + count; ++i) {
        if (chance(30)) std::filesystem::remove(keeper->absolute_path(keeper->maps()[i]));
      }
    }
    ASSERT_TRUE(keeper->manifest().commit());
  }
  size_t block_bytes() { return chance(50) ? 100 + below(400) : 32 * 1024; }

  /// Whether the map behind `map` in the list goes on where it ends, a gap between them or not.
  bool follows(size_t map) {
    const uint64_t last = keeper->maps()[map].header.last_lsn;
    const uint64_t next = keeper->maps()[map + 1].header.first_lsn;
    return next > last && log.upper_bound(last)->first == next;
  }

  History::Input input() { return {&files, group, devices}; }

  /// Sectors as they are after a number of entries; what is not in it was never written.
  struct Sector {
    const uint8_t* data = nullptr;  // null: zeroes
    bool known = true;
  };
  using State = std::map<uint64_t, Sector>;
  State replay(uint64_t through) {
    State state;
    for (const auto& [lsn, logged] : log) {
      if (lsn > through) break;
      const Entry& entry = logged.entry;
      const bool write = entry.type == EntryType::kWrite;
      if (!write && entry.type != EntryType::kDiscard && entry.type != EntryType::kWriteZeroes &&
          entry.type != EntryType::kUnknown) {
        continue;
      }
      for (uint64_t i = 0; i < entry.sectors; ++i) {
        state[format::position_of(entry.volume, entry.sector + i)] = {
            write ? logged.data.data() + i * kSectorBytes : nullptr,
            entry.type != EntryType::kUnknown};
      }
    }
    return state;
  }

  /// Reads a random range and compares. An empty status is what the read gave, when it failed.
  Status check(History& history, const State& state, const Area& area) {
    Bytes content(area.sectors * kSectorBytes, 0xa5);
    std::vector<bool> known;
    EP_TRY(history.read(area.volume, area.sector * kSectorBytes, content.size(), content.data(),
                        &known));
    EXPECT_EQ(known.size(), area.sectors);
    static const Bytes zeroes(kSectorBytes);
    for (uint64_t i = 0; i < area.sectors; ++i) {
      const auto found = state.find(format::position_of(area.volume, area.sector + i));
      const Sector expected = found == state.end() ? Sector{} : found->second;
      const uint8_t* bytes = expected.data != nullptr ? expected.data : zeroes.data();
      const bool right = known[i] == expected.known &&
                         std::memcmp(content.data() + i * kSectorBytes, bytes, kSectorBytes) == 0;
      EXPECT_TRUE(right) << "volume " << area.volume << " sector " << area.sector + i;
      if (!right) break;
    }
    return Status::ok();
  }

  Area random_range() {
    const Area& area = kAreas[below(std::size(kAreas))];
    const uint64_t from = area.sector + below(area.sectors) - std::min(area.sector, below(200));
    const uint64_t most =
        std::min<uint64_t>(chance(20) ? 20000 : 300, format::kVolumeSectorsMax - from);
    return {area.volume, from, 1 + below(most)};
  }

  uint64_t last_at(uint64_t through) {
    auto behind = log.upper_bound(through);
    return behind == log.begin() ? 0 : std::prev(behind)->first;
  }

  std::mt19937_64 random;
  block::TempDirectory directory;
  io::PosixFileSystem files;
  Uuid group;
  std::vector<log::DeviceFolder> devices;
  std::map<uint64_t, Logged> log;
  /// With the last LSN that counts.
  std::vector<std::pair<TestSegment, uint64_t>> segments;
  std::unique_ptr<TestMapKeeper> keeper;
  uint64_t last_segment = 0;
  /// What was given up holds the same entries, as it does in real life.
  bool given_up_alike = false;
};

std::vector<uint64_t> seeds(uint64_t count) {
  if (const auto asked = io::asked_seed()) return {*asked};
  std::vector<uint64_t> all;
  for (uint64_t seed = 1; seed < count; ++seed) all.push_back(seed);
  all.push_back(std::random_device{}());
  return all;
}

TEST(History, IsTheNaiveReplayAtAnyLsn) {
  uint64_t maps = 0;
  uint64_t segments = 0;
  for (const uint64_t seed : seeds(16)) {
    SCOPED_TRACE("EP_TEST_SEED=" + std::to_string(seed));
    World world(seed);
    world.write_log(150 + world.below(500), true);
    world.write_maps();
    const uint64_t newest = world.log.rbegin()->first;
    for (int i = 0; i < 6; ++i) {
      const uint64_t through = i == 0 ? ~uint64_t{0} : world.below(newest + 2);
      auto history = History::open(world.input(), through);
      ASSERT_TRUE(history) << history.status().to_string();
      EXPECT_EQ((*history)->last_lsn(), world.last_at(through));
      maps += (*history)->counters().maps;
      segments += (*history)->counters().segments;
      const World::State state = world.replay(through);
      for (const Area& area : kAreas) EXPECT_TRUE(world.check(**history, state, area));
      for (int k = 0; k < 12 && !testing::Test::HasFailure(); ++k) {
        const Status status = world.check(**history, state, world.random_range());
        EXPECT_TRUE(status) << status.to_string();
      }
    }
    if (testing::Test::HasFailure()) return;
  }
  if (io::asked_seed()) return;
  EXPECT_GT(maps, 100u);
  EXPECT_GT(segments, 100u);
}

TEST(History, IsTheSameFromSegmentsAlone) {
  for (const uint64_t seed : seeds(6)) {
    SCOPED_TRACE("EP_TEST_SEED=" + std::to_string(seed));
    World world(seed);
    world.write_log(300, true);
    world.write_maps();
    const World::State state = world.replay(~uint64_t{0});
    // A manifest that is damaged, one that stops early, and none.
    const std::string& path = world.keeper->manifest().path();
    const std::string whole = world.keeper->manifest().content();
    std::string damaged = whole;
    damaged[damaged.size() / 2] ^= 0x20;
    const std::string lagging = whole.substr(0, whole.find('\n', whole.size() / 2) + 1);
    for (const std::string& content : {damaged, lagging, std::string()}) {
      std::filesystem::remove(path);
      if (!content.empty()) std::ofstream(path, std::ios::binary) << content;
      auto history = History::open(world.input());
      ASSERT_TRUE(history) << history.status().to_string();
      EXPECT_EQ((*history)->last_lsn(), world.log.rbegin()->first);
      if (content.empty() || content == damaged) {
        EXPECT_EQ((*history)->counters().maps, 0u);
      }
      for (const Area& area : kAreas) EXPECT_TRUE(world.check(**history, state, area));
    }
    if (testing::Test::HasFailure()) return;
  }
}

TEST(History, AnEmptySecondaryReadsAsZeroes) {
  World world(1);
  auto history = History::open(world.input());
  ASSERT_TRUE(history);
  EXPECT_EQ((*history)->last_lsn(), 0u);
  EXPECT_TRUE(world.check(**history, {}, {5, 77, 10000}));
  Bytes one(512);
  EXPECT_EQ((*history)->read(0, 1, 512, one.data(), nullptr).code(), Code::kInvalidArgument);
  EXPECT_EQ((*history)->read(0, format::kVolumeSectorsMax * 512, 512, one.data(), nullptr).code(),
            Code::kInvalidArgument);
}

TEST(History, MissingLsnsAreRefusedOutsideGaps) {
  World world(7);
  for (uint64_t lsn = 1; lsn <= 30; ++lsn) world.log[lsn] = world.random_entry();
  world.write_segment(1, 10, ~uint64_t{0}, true);
  world.write_segment(11, 20, ~uint64_t{0}, true);
  world.write_segment(21, 30, ~uint64_t{0}, true);
  ASSERT_TRUE(History::open(world.input()));
  std::filesystem::remove(world.segments[1].first.absolute_path);
  EXPECT_EQ(History::open(world.input()).status().code(), Code::kCorruption);
  EXPECT_TRUE(History::open(world.input(), 10));
  world.keeper->manifest().add_gap(9, 20);
  ASSERT_TRUE(world.keeper->manifest().commit());
  ASSERT_TRUE(History::open(world.input()));
  // A gap that only lasts does not excuse what the log itself does not say.
  world.keeper->manifest().add_gap(9, 0);
  ASSERT_TRUE(world.keeper->manifest().commit());
  EXPECT_EQ(History::open(world.input()).status().code(), Code::kCorruption);
  // The newest one gone: nothing but the manifest knows.
  std::filesystem::remove(world.segments[2].first.absolute_path);
  EXPECT_TRUE(History::open(world.input()));
  const TestSegment& last = world.segments[2].first;
  world.keeper->manifest().add_gap(9, 20);
  world.keeper->manifest().add_segment(last.info, last.path);
  ASSERT_TRUE(world.keeper->manifest().commit());
  EXPECT_EQ(History::open(world.input()).status().code(), Code::kCorruption);
}

TEST(History, UnknownContentIsAnErrorForWhoDoesNotAsk) {
  World world(3);
  Logged unknown;
  unknown.entry.type = EntryType::kUnknown;
  unknown.entry.sector = 8;
  unknown.entry.sectors = 8;
  world.log[1] = unknown;
  world.write_segment(1, 1, ~uint64_t{0}, true);
  auto history = History::open(world.input());
  ASSERT_TRUE(history);
  Bytes content(16 * 512);
  EXPECT_EQ((*history)->read(0, 0, content.size(), content.data(), nullptr).code(), Code::kIoError);
  EXPECT_TRUE((*history)->read(0, 0, 8 * 512, content.data(), nullptr));
}

/// Changes some bytes of a file; false when they are as before.
bool damage(World& world, const std::string& path, std::string& how) {
  std::fstream file(path, std::ios::in | std::ios::out | std::ios::binary | std::ios::ate);
  const auto size = static_cast<uint64_t>(file.tellg());
  if (size == 0) return false;
  const uint64_t at = world.below(size);
  const uint64_t length =
      world.chance(70) ? 1 : std::min<uint64_t>(size - at, 1 + world.below(600));
  Bytes bytes(length);
  file.seekg(static_cast<std::streamoff>(at));
  file.read(reinterpret_cast<char*>(bytes.data()), static_cast<std::streamsize>(length));
  const Bytes before = bytes;
  for (uint8_t& byte : bytes) {
    byte = length == 1 ? static_cast<uint8_t>(byte ^ 1 << world.below(8))
                       : static_cast<uint8_t>(world.random());
  }
  file.seekp(static_cast<std::streamoff>(at));
  file.write(reinterpret_cast<const char*>(bytes.data()), static_cast<std::streamsize>(length));
  how = path + " at " + std::to_string(at) + " + " + std::to_string(length);
  return bytes != before;
}

TEST(History, DamageIsAnErrorOrHasNoEffect) {
  uint64_t refused = 0;
  uint64_t failed = 0;
  uint64_t right = 0;
  uint64_t shorter = 0;
  for (const uint64_t seed : seeds(6)) {
    SCOPED_TRACE("EP_TEST_SEED=" + std::to_string(seed));
    World world(seed);
    world.given_up_alike = true;
    world.write_log(200, true);
    world.write_maps();
    std::vector<std::string> paths;
    for (const auto& each : std::filesystem::recursive_directory_iterator(world.directory.path())) {
      if (each.is_regular_file()) paths.push_back(each.path().string());
    }
    std::map<uint64_t, World::State> states;
    const uint64_t newest = world.log.rbegin()->first;
    for (int round = 0; round < 120 && !testing::Test::HasFailure(); ++round) {
      const std::string& path = paths[world.below(paths.size())];
      const std::string kept = world.directory.path() + "/kept";
      std::filesystem::copy_file(path, kept, std::filesystem::copy_options::overwrite_existing);
      std::string how;
      if (world.chance(5)) {
        std::filesystem::resize_file(path, world.below(std::filesystem::file_size(path)));
        how = path + " cut";
      } else if (!damage(world, path, how)) {
        continue;
      }
      SCOPED_TRACE(how);
      auto history = History::open(world.input());
      if (!history) {
        ++refused;
        EXPECT_NE(history.status().code(), Code::kIoError) << history.status().to_string();
      } else {
        const uint64_t last = (*history)->last_lsn();
        // The end of a segment that is not sealed is where its batches stop being good: of the
        // newest one that is not distinguishable from a write that a crash tore.
        if (last != newest) {
          ++shorter;
          EXPECT_EQ(path, world.segments.back().first.absolute_path);
        }
        if (!states.contains(last)) states[last] = world.replay(last);
        for (const Area& area : kAreas) {
          const Status status = world.check(**history, states[last], area);
          ++(status ? right : failed);
        }
      }
      std::filesystem::copy_file(kept, path, std::filesystem::copy_options::overwrite_existing);
    }
    auto history = History::open(world.input());
    ASSERT_TRUE(history) << history.status().to_string();
    if (testing::Test::HasFailure()) return;
  }
  std::printf("refused at open %llu, reads refused %llu, reads right %llu, tail cut %llu\n",
              static_cast<unsigned long long>(refused), static_cast<unsigned long long>(failed),
              static_cast<unsigned long long>(right), static_cast<unsigned long long>(shorter));
  if (io::asked_seed()) return;
  EXPECT_GT(refused, 0u);
  EXPECT_GT(failed, 0u);
  EXPECT_GT(right, 0u);
}

/// What reading costs: random 4 KiB writes over a volume in four segments, three of them mapped.
TEST(History, FiguresOfReading) {
  constexpr uint64_t kVolumeBytes = 64ull * 1024 * 1024;
  constexpr uint64_t kWrites = 4 * 6000;
  World world(1);
  Bytes data(4096);
  for (uint64_t lsn = 1; lsn <= kWrites; ++lsn) {
    Logged& logged = world.log[lsn];
    logged.entry.type = EntryType::kWrite;
    logged.entry.sector = world.below(kVolumeBytes / 4096) * 8;
    logged.entry.sectors = 8;
    store_le<uint64_t>(data.data(), lsn);
    logged.data = data;
  }
  for (uint64_t first = 1; first < kWrites; first += 6000) {
    TestEntries entries(first);
    for (uint64_t i = first; i < first + 6000; ++i) {
      entries.add(world.log.at(i).entry, world.log.at(i).data);
    }
    auto written =
        write_test_segment(world.files, world.devices[0], world.group, ++world.last_segment, 1,
                           entries, first, first + 5999, true, 256, world.random);
    ASSERT_TRUE(written);
    const auto entry_of = [&](uint64_t lsn) {
      Entry entry = world.log.at(lsn).entry;
      entry.address = written->addresses[lsn - first];
      return entry;
    };
    if (first + 6000 > kWrites) break;
    ASSERT_TRUE(world.keeper->map_segment(written->info, first, first + 5999, entry_of, 0, 32704));
    world.keeper->manifest().add_segment(written->info, written->path);
  }
  ASSERT_TRUE(world.keeper->manifest().commit());
  const auto now = [] {
    return std::chrono::duration<double, std::micro>(
               std::chrono::steady_clock::now().time_since_epoch())
        .count();
  };
  const double start = now();
  auto opened = History::open(world.input());
  ASSERT_TRUE(opened);
  History& history = **opened;
  const double at_open = now();
  Bytes content(1024 * 1024);
  ASSERT_TRUE(history.read(0, 0, 4096, content.data(), nullptr));
  const double at_first = now();
  for (uint64_t at = 0; at < kVolumeBytes; at += content.size()) {
    ASSERT_TRUE(history.read(0, at, content.size(), content.data(), nullptr));
  }
  const double at_all = now();
  const History::Counters whole = history.counters();
  for (int i = 0; i < 5000; ++i) {
    const uint64_t page = world.below(kVolumeBytes / 4096);
    ASSERT_TRUE(history.read(0, page * 4096, 4096, content.data(), nullptr));
  }
  const double at_end = now();
  std::printf(
      "open %.0f us, first read (with the index of %llu entries) %.0f us, sequential %.0f "
      "us/MiB, random 4 KiB %.1f us; sequential: %.2f reads and %.0f KiB read per MiB, "
      "%llu blocks, %llu tables\n",
      at_open - start, 6000ull, at_first - at_open, (at_all - at_first) / 64,
      (at_end - at_all) / 5000, static_cast<double>(whole.data_reads) / 64,
      static_cast<double>(whole.data_bytes_read) / 64 / 1024,
      static_cast<unsigned long long>(whole.blocks_read),
      static_cast<unsigned long long>(whole.tables_read));
  EXPECT_EQ(whole.maps, 3u);
  EXPECT_EQ(whole.segments, 1u);
  EXPECT_EQ(whole.indexes_built, 1u);
  EXPECT_LE(whole.blocks_read, 12u);
  EXPECT_LE(whole.data_bytes_read, 2 * kVolumeBytes);
}

}  // namespace
}  // namespace ep::view

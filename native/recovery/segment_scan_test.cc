// SPDX-License-Identifier: Apache-2.0
#include "recovery/segment_scan.h"

#include <gtest/gtest.h>

#include "log/fault_support.h"

namespace ep::recovery {
namespace {

using log::FaultyDevice;
using log::ReadSegment;
using log::Troubled;

/// Segments made by hand on two devices: number, first LSN, entries of each batch.
class Made {
 public:
  Made() : directory("/dev/shm") {
    group.bytes.fill(9);
    for (int i = 0; i < 2; ++i) {
      Uuid device;
      device.bytes.fill(static_cast<uint8_t>(0xd0 + i));
      devices.push_back(
          {device, directory.path() + "/d" + std::to_string(i) + "/groups/" + group.to_string()});
      std::filesystem::create_directories(devices.back().folder + "/log");
    }
    for (int i = 0; i < 100; ++i) source.add(1 + i % 5, i);
  }

  std::string add(size_t device, uint64_t number, uint64_t first_lsn,
                  const std::vector<uint32_t>& batches, bool sealed) {
    auto made = log::make_segment_file(files, devices[device], number, limits::kSegmentBytesMin,
                                       1'700'000'000'000'000'000);
    EXPECT_TRUE(made);
    log::SegmentCursor cursor;
    cursor.made = *made;
    cursor.group = group;
    cursor.epoch = 1;
    log::BatchBytes bytes;
    uint64_t lsn = first_lsn;
    for (const uint32_t entries : batches) {
      log::BatchPlan plan = log::plan_batch(source, lsn);
      plan.entries = entries;
      plan.table_bytes = align_up(format::kBatchHeaderBytes + entries * format::kEntryBytes, 512);
      uint64_t data = 0;
      for (uint32_t i = 0; i < entries; ++i) data += source.entry(lsn + i).sectors * 512;
      plan.bytes = align_up(plan.table_bytes + data, 4096);
      bytes.cut(cursor, source, lsn, plan);
      uint64_t offset = bytes.offset();
      for (const iovec& part : bytes.iov()) {
        EXPECT_TRUE(files.write(made->file, offset, part.iov_base, part.iov_len));
        offset += part.iov_len;
      }
      lsn += entries;
    }
    if (sealed) {
      EXPECT_TRUE(log::seal_segment_file(files, made->file, cursor.directory, cursor.end,
                                         cursor.trailer(1, format::SealReason::kSize)));
    }
    files.close(made->file);
    return made->absolute_path;
  }

  block::TempDirectory directory;
  io::TestFileSystem files;
  Uuid group;
  std::vector<log::DeviceFolder> devices;
  log::SpoilingSource source;
};

void expect_info(const ScannedSegment& segment, const Made& made, uint64_t number, uint64_t first,
                 uint64_t last) {
  SCOPED_TRACE(number);
  EXPECT_EQ(segment.info.segment, number);
  EXPECT_EQ(segment.info.first_lsn, first);
  EXPECT_EQ(segment.info.last_lsn, last);
  EXPECT_EQ(segment.info.entries, last + 1 - first);
  uint64_t data = 0;
  for (uint64_t lsn = first; lsn <= last; ++lsn) data += made.source.entry(lsn).sectors * 512;
  EXPECT_EQ(segment.info.data_bytes, data);
  if (last >= first) {
    EXPECT_EQ(segment.info.last_time_ns, made.source.entry(last).time_ns);
  }
}

TEST(SegmentScan, TheHigherNumberCountsFromItsFirstLsn) {
  for (const bool sealed : {false, true}) {
    SCOPED_TRACE(sealed);
    Made made;
    const std::string path = made.add(0, 1, 1, {3, 4, 5}, sealed);  // 1–3, 4–7, 8–12
    made.add(0, 2, 13, {6}, sealed);                                // covered wholly
    made.add(1, 3, 8, {2, 20}, sealed);
    const auto size = std::filesystem::file_size(path);
    SegmentScan scan = scan_segments(made.files, made.devices, made.group);
    EXPECT_TRUE(scan.problems.empty());
    ASSERT_EQ(scan.segments.size(), 3u);
    expect_info(scan.segments[0], made, 1, 1, 7);
    expect_info(scan.segments[1], made, 2, 13, 12);
    expect_info(scan.segments[2], made, 3, 8, 29);
    EXPECT_TRUE(scan.segments[0].overlapped && scan.segments[1].overlapped);
    EXPECT_FALSE(scan.segments[2].overlapped);
    if (sealed) {
      EXPECT_EQ(std::filesystem::file_size(path), size) << "maps may name what stands in it";
      continue;
    }
    ASSERT_TRUE(seal_scanned(made.files, scan.segments[0], 0, 5));
    const ReadSegment read = log::read_segment(path);
    EXPECT_TRUE(read.sealed);
    EXPECT_EQ(read.problem, "");
    ASSERT_EQ(read.entries.size(), 7u);
    EXPECT_EQ(read.entries.back().lsn, 7u);
    EXPECT_EQ(std::filesystem::file_size(path), scan.segments[0].info.file_bytes);
    SegmentScan again = scan_segments(made.files, made.devices, made.group);
    expect_info(again.segments[0], made, 1, 1, 7);
    EXPECT_TRUE(again.segments[0].info.sealed);
    EXPECT_FALSE(again.segments[0].overlapped);
  }
}

TEST(SegmentScan, AnEmptySegmentCountsForNothing) {
  Made made;
  made.add(0, 1, 1, {3, 4}, false);
  made.add(1, 2, 4, {}, false);
  const SegmentScan scan = scan_segments(made.files, made.devices, made.group);
  ASSERT_EQ(scan.segments.size(), 2u);
  expect_info(scan.segments[0], made, 1, 1, 7);
  EXPECT_EQ(scan.segments[1].info.entries, 0u);
}

TEST(SegmentScan, ALostDeviceLeavesTheOthersInService) {
  Made made;
  made.add(0, 1, 1, {3}, true);
  made.add(1, 2, 4, {3}, true);
  std::filesystem::rename(made.devices[0].folder, made.directory.path() + "/away");
  const SegmentScan scan = scan_segments(made.files, made.devices, made.group);
  ASSERT_EQ(scan.problems.size(), 1u);
  EXPECT_EQ(scan.problems[0].device, &made.devices[0]);
  EXPECT_EQ(scan.problems[0].status.code(), Code::kNotFound);
  ASSERT_EQ(scan.segments.size(), 1u);
  expect_info(scan.segments[0], made, 2, 4, 6);

  // Its folder is there, but never had a segment: nothing is wrong.
  std::filesystem::create_directories(made.devices[0].folder);
  EXPECT_TRUE(scan_segments(made.files, made.devices, made.group).problems.empty());
}

TEST(SegmentScan, WhatCannotBeReadIsAProblemOfItsDeviceAndIsLeftAlone) {
  Made made;
  made.add(0, 1, 1, {3}, false);
  made.add(0, 2, 4, {3}, false);
  made.add(1, 3, 7, {3}, false);
  int call = 0;
  const uint64_t before = made.files.calls;
  ASSERT_TRUE(scan_segments(made.files, made.devices, made.group).problems.empty());
  const auto calls = static_cast<int>(made.files.calls - before);
  for (int fail_at = 0; fail_at < calls; ++fail_at) {
    SCOPED_TRACE(fail_at);
    call = 0;
    made.files.fail_if = [&](const char*) { return call++ == fail_at; };
    const SegmentScan scan = scan_segments(made.files, made.devices, made.group);
    ASSERT_EQ(scan.problems.size(), 1u) << "a fault that nobody hears of";
    EXPECT_EQ(scan.problems[0].status.code(), Code::kIoError);
    // The other device is known wholly.
    const log::DeviceFolder* bad = scan.problems[0].device;
    std::set<uint64_t> good;
    for (const ScannedSegment& segment : scan.segments) {
      if (segment.device != bad || !segment.ignored) {
        EXPECT_EQ(segment.info.entries, 3u);
        EXPECT_FALSE(segment.ignored);
      } else {
        EXPECT_EQ(segment.info.entries, 0u);
      }
      good.insert(segment.info.segment);
    }
    if (bad == &made.devices[0]) {
      EXPECT_TRUE(good.contains(3));
    } else {
      EXPECT_TRUE(good.contains(1) && good.contains(2));
    }
  }
}

/// The power fails now, and the group is opened: scanned, sealed, and scanned again.
void check_cut(Troubled& log, int& overlapped) {
  const std::string cut = log.cut_power(true);
  io::TestFileSystem files;
  auto devices = log.folders;
  for (size_t i = 0; i < devices.size(); ++i) {
    devices[i].folder = log.folder(cut, i);
    std::filesystem::create_directories(devices[i].folder);
  }
  for (const bool after_sealing : {false, true}) {
    SCOPED_TRACE(after_sealing);
    SegmentScan scan = scan_segments(files, devices, log.group);
    EXPECT_TRUE(scan.problems.empty());
    uint64_t last = 0;
    bool hole = false;
    for (ScannedSegment& segment : scan.segments) {
      EXPECT_FALSE(segment.ignored);
      overlapped += segment.overlapped ? 1 : 0;
      EXPECT_FALSE(after_sealing && segment.overlapped);
      if (segment.info.entries == 0) {
        ASSERT_FALSE(segment.info.sealed);
        ASSERT_TRUE(files.remove(segment.absolute_path));
        continue;
      }
      EXPECT_GT(segment.info.first_lsn, last) << "twice";
      hole |= segment.info.first_lsn != last + 1;
      if (hole) {
        // Only what was never durable can be missing, and so has no meaning behind it.
        EXPECT_GE(last, log.durable);
        EXPECT_FALSE(segment.info.sealed);
        ASSERT_TRUE(files.remove(segment.absolute_path));
        continue;
      }
      last = segment.info.last_lsn;
      EXPECT_EQ(segment.info.last_time_ns, log.source.entry(last).time_ns);
      if (!segment.info.sealed) {
        ASSERT_TRUE(seal_scanned(files, segment, 0, 5));
      }
      const ReadSegment read = log::read_segment(segment.absolute_path);
      EXPECT_EQ(read.problem, "");
      ASSERT_EQ(read.entries.size(), segment.info.entries);
      for (const log::ReadEntry& entry : read.entries) {
        EXPECT_EQ(entry.data, log.source.original(entry.lsn));
      }
    }
    EXPECT_GE(last, log.durable);
    if (::testing::Test::HasFailure()) return;
  }
}

/// Behind a writer whose devices fail, after a power cut: what was durable is found, without holes
/// and without anything twice, and stays so when it is sealed.
TEST(SegmentScan, FindsWhatAWriterInTroubleMadeDurable) {
  const uint64_t first = io::asked_seed().value_or(100);
  const uint64_t count = io::asked_seed() ? 1 : 12;
  int overlapped = 0;
  for (uint64_t seed = first; seed < first + count; ++seed) {
    SCOPED_TRACE("EP_TEST_SEED=" + std::to_string(seed));
    log::LogWriterOptions options;
    options.hang_after_ns = 20'000'000;
    options.seal_retry_ns = 30'000'000;
    options.write_after_ns = 3'000'000;
    options.seal_after_ns = 40'000'000;
    options.pool.retry_min_ns = 1'000'000;
    options.pool.retry_max_ns = 8'000'000;
    options.pool.trust_again_ns = 60'000'000;
    Troubled log(seed, 1 + seed % 3, options);
    const uint64_t steps = 100 + log.random() % 200;
    for (uint64_t i = 0; i < steps; ++i) {
      if (log.source.used_bytes() < 12ull * 1024 * 1024) {
        log.write(static_cast<uint32_t>(1 + log.random() % (log.random() % 12 == 0 ? 2048 : 64)));
      }
      if (log.random() % 3 == 0) log.writer->want_durable(log.source.head() - 1);
      if (log.random() % 10 == 0) {
        FaultyDevice& device = log.files.devices[log.random() % log.files.devices.size()];
        device = {};
        const uint64_t what = log.random() % 6;
        if (what == 0) device.write_fails = 0.5;
        if (what == 1) device.sync_fails = 0.5;
        if (what == 2) device.call_fails = 0.3;
        if (what == 3) device.hang_ns = log.random() % 100'000'000;
      }
      log.run(static_cast<int>(log.random() % 12), 200'000);
      if (log.random() % 40 == 0) check_cut(log, overlapped);
      if (::testing::Test::HasFatalFailure()) return;
    }
    check_cut(log, overlapped);
    if (::testing::Test::HasFailure()) return;
    log.heal();
    log.stop();
  }
  if (count > 1) {
    EXPECT_GT(overlapped, 5);
  }
  std::printf("segments cut back: %d\n", overlapped);
}

}  // namespace
}  // namespace ep::recovery

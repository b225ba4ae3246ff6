// SPDX-License-Identifier: Apache-2.0
#include "volume/data_plane.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>

#include "block/test_support.h"

namespace ep::volume {
namespace {

class DataPlaneTest : public testing::Test {
 protected:
  DataPlaneTest() : directory_("/dev/shm") {
    config_.id = Uuid::random();
    config_.name = "vm";
    config_.devices = {{Uuid::random(), directory_.path() + "/device"}};
    config_.buffer_path = directory_.path() + "/buffer";
    config_.buffer_bytes = limits::kBufferDataBytesMin;
    config_.segment_bytes = limits::kSegmentBytesMin;
    for (uint16_t i = 0; i < 2; ++i) {
      VolumeConfig volume;
      volume.number = i;
      volume.name = "disk-" + std::to_string(i);
      volume.path = directory_.path() + "/primary-" + std::to_string(i);
      volume.create = true;
      volume.size_bytes = 8ull * 1024 * 1024;
      volume.exports = {{directory_.path() + "/door-" + std::to_string(i) + "/s", 2, -1, -1}};
      config_.volumes.push_back(volume);
    }
    start();
  }
  void start() {
    plane_.reset();
    auto made = DataPlane::create(
        {.state_folder = state(), .reactors = 1, .buffer_budget_bytes = 0, .faults = {}}, {});
    ASSERT_TRUE(made) << made.status().to_string();
    plane_ = std::move(*made);
  }
  void wait_until_protected() {
    for (int i = 0; i < 1'000 && plane_->status(config_.id)->state != GroupState::kProtected; ++i) {
      usleep(10'000);
    }
    ASSERT_EQ(plane_->status(config_.id)->state, GroupState::kProtected)
        << plane_->status(config_.id)->reason;
  }
  [[nodiscard]] std::string state() const { return directory_.path() + "/state"; }
  [[nodiscard]] std::string group_state() const { return state() + "/" + config_.id.to_string(); }

  block::TempDirectory directory_;
  GroupConfig config_;
  std::unique_ptr<DataPlane> plane_;
};

TEST_F(DataPlaneTest, LifeOfAGroup) {
  auto status = plane_->open_group(config_, true);
  ASSERT_TRUE(status) << status.status().to_string();
  EXPECT_EQ(status->state, GroupState::kProtected) << status->reason;
  EXPECT_EQ(status->epoch, 1u);
  EXPECT_EQ(status->lsn, 2u) << "one geometry entry a volume";
  EXPECT_EQ(plane_->open_group(config_, false).status().code(), Code::kAlreadyExists);
  const auto marked = plane_->add_marker(config_.id, "first", 0);
  ASSERT_TRUE(marked);
  EXPECT_EQ(marked->lsn, 3u);
  EXPECT_FALSE(plane_->add_marker(config_.id, "", 0));
  const auto sealed = plane_->seal(config_.id);
  ASSERT_TRUE(sealed);
  EXPECT_EQ(*sealed, 3u);
  const auto segments = plane_->segments(config_.id, 0);
  ASSERT_TRUE(segments);
  ASSERT_EQ(segments->size(), 1u);
  EXPECT_TRUE(segments->front().sealed);
  EXPECT_TRUE(std::filesystem::exists(directory_.path() + "/device/" + segments->front().path));
  ASSERT_TRUE(plane_->close_group(config_.id, false));
  EXPECT_EQ(plane_->status(config_.id).status().code(), Code::kNotFound);

  start();
  status = plane_->open_group(config_, false);
  ASSERT_TRUE(status) << status.status().to_string();
  EXPECT_EQ(status->state, GroupState::kProtected) << status->reason;
  EXPECT_EQ(status->epoch, 2u);
  EXPECT_EQ(status->lsn, 3u);
  EXPECT_EQ(plane_->add_marker(config_.id, "second", 0)->lsn, 4u);
  ASSERT_TRUE(plane_->close());
}

TEST_F(DataPlaneTest, TouchedPrimaryIsAGap) {
  ASSERT_TRUE(plane_->open_group(config_, true));
  ASSERT_TRUE(plane_->close_group(config_.id, false));
  {
    std::fstream file(config_.volumes[1].path, std::ios::binary | std::ios::in | std::ios::out);
    file.put('x');
  }
  auto status = plane_->open_group(config_, false);
  ASSERT_TRUE(status);
  ASSERT_EQ(status->gaps.size(), 1u);
  EXPECT_EQ(status->gaps[0].from_lsn, 2u);
  // Everything is looked at, one sector differs, and protection is whole again.
  wait_until_protected();
  status = plane_->status(config_.id);
  ASSERT_EQ(status->gaps.size(), 1u);
  EXPECT_EQ(status->gaps[0].from_lsn, 2u);
  EXPECT_GT(status->gaps[0].to_lsn, 2u);
  EXPECT_EQ(status->counters.resync_bytes, 512u);
  EXPECT_TRUE(plane_->add_marker(config_.id, "again", 0));
}

TEST_F(DataPlaneTest, PauseAndResume) {
  ASSERT_TRUE(plane_->open_group(config_, true));
  ASSERT_TRUE(plane_->pause(config_.id));
  auto status = plane_->status(config_.id);
  EXPECT_EQ(status->state, GroupState::kPaused);
  EXPECT_FALSE(status->reason.empty());
  EXPECT_EQ(plane_->add_marker(config_.id, "never", 0).status().code(), Code::kBusy);
  // What was logged before it can be read.
  for (int i = 0; i < 500 && plane_->segments(config_.id, 0)->empty(); ++i) usleep(10'000);
  ASSERT_EQ(plane_->segments(config_.id, 0)->size(), 1u);
  EXPECT_TRUE(plane_->segments(config_.id, 0)->front().sealed);
  EXPECT_EQ(plane_->segments(config_.id, 0)->front().last_lsn, 2u);
  EXPECT_EQ(plane_->seal(config_.id).status().code(), Code::kBusy);
  ASSERT_TRUE(plane_->pause(config_.id));
  // A pause lasts over a restart.
  ASSERT_TRUE(plane_->close_group(config_.id, false));
  ASSERT_TRUE(plane_->open_group(config_, false));
  EXPECT_EQ(plane_->status(config_.id)->state, GroupState::kPaused);
  ASSERT_TRUE(plane_->resume(config_.id));
  EXPECT_NE(plane_->status(config_.id)->state, GroupState::kPaused);
  wait_until_protected();
  EXPECT_EQ(plane_->resume(config_.id).code(), Code::kConflict);
  EXPECT_TRUE(plane_->add_marker(config_.id, "again", 0));
  ASSERT_TRUE(plane_->close_group(config_.id, false));
  ASSERT_TRUE(plane_->open_group(config_, false));
  EXPECT_EQ(plane_->status(config_.id)->state, GroupState::kProtected);
}

TEST_F(DataPlaneTest, ForgetLeavesNoState) {
  ASSERT_TRUE(plane_->open_group(config_, true));
  ASSERT_TRUE(plane_->close_group(config_.id, true));
  EXPECT_FALSE(std::filesystem::exists(group_state()));
  EXPECT_FALSE(std::filesystem::exists(config_.buffer_path));
  EXPECT_TRUE(std::filesystem::exists(config_.volumes[0].path)) << "the guest's disk stays";
}

TEST_F(DataPlaneTest, FailedCreationLeavesNothing) {
  GroupConfig wrong = config_;
  wrong.volumes[1].exports[0].path = directory_.path() + "/" + std::string(120, 'p') + "/s";
  EXPECT_FALSE(plane_->open_group(wrong, true));
  EXPECT_FALSE(std::filesystem::exists(config_.volumes[0].path));
  EXPECT_FALSE(std::filesystem::exists(group_state()));
  EXPECT_FALSE(std::filesystem::exists(config_.buffer_path));
  EXPECT_FALSE(
      std::filesystem::exists(directory_.path() + "/device/groups/" + config_.id.to_string()));
  const auto again = plane_->open_group(config_, true);
  ASSERT_TRUE(again) << again.status().to_string();
}

TEST_F(DataPlaneTest, CreationOverAnExistingGroupTouchesNothing) {
  ASSERT_TRUE(plane_->open_group(config_, true));
  ASSERT_TRUE(plane_->add_marker(config_.id, "kept", 0));
  ASSERT_TRUE(plane_->close_group(config_.id, false));
  GroupConfig wrong = config_;
  wrong.volumes[0].create = false;
  wrong.volumes[0].path = directory_.path() + "/no-such-disk";
  EXPECT_EQ(plane_->open_group(wrong, true).status().code(), Code::kAlreadyExists);
  EXPECT_EQ(plane_->open_group(config_, true).status().code(), Code::kAlreadyExists);
  const auto status = plane_->open_group(config_, false);
  ASSERT_TRUE(status) << status.status().to_string();
  EXPECT_EQ(status->state, GroupState::kProtected) << status->reason;
  EXPECT_EQ(status->lsn, 3u);
}

}  // namespace
}  // namespace ep::volume

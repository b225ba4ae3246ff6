// SPDX-License-Identifier: Apache-2.0

// A few seeds with every test run, the simulator's own promise (the same seed is the same run), and
// that it catches bugs: `npm run sim -- --mutations` tries all of them.

#include <gtest/gtest.h>

#include <cstdlib>
#include <set>

#include "mutations.h"
#include "world.h"

namespace ep::sim {
namespace {

#if defined(__SANITIZE_ADDRESS__)
constexpr uint64_t kSeeds = 6;
#else
constexpr uint64_t kSeeds = 30;
#endif

TEST(Simulator, SeedsAreGreen) {
  uint64_t first = 1;
  uint64_t count = kSeeds;
  if (const char* asked = std::getenv("EP_TEST_SEED")) {
    first = std::strtoull(asked, nullptr, 0);
    count = 1;
  }
  uint64_t crashes = 0;
  uint64_t cuts = 0;
  for (uint64_t seed = first; seed < first + count; ++seed) {
    const SeedReport report = run_seed(seed, {});
    for (const std::string& failure : report.failures) {
      ADD_FAILURE() << "EP_TEST_SEED=" << seed << ": " << failure;
    }
    crashes += report.crashes;
    cuts += report.power_cuts;
  }
  if (count > 1) {
    EXPECT_GT(crashes, 0u);
    EXPECT_GT(cuts, 0u);
  }
}

TEST(Simulator, SameSeedSameRun) {
  for (uint64_t seed = 101; seed < 104; ++seed) {
    const SeedReport once = run_seed(seed, {});
    const SeedReport again = run_seed(seed, {});
    EXPECT_EQ(once.trace, again.trace) << "seed " << seed;
    EXPECT_EQ(once.requests, again.requests) << "seed " << seed;
  }
  EXPECT_NE(run_seed(101, {}).trace, run_seed(102, {}).trace);
}

TEST(Simulator, CatchesDeliberateBugs) {
  std::set<Mutation> known;
  for (const MutationInfo& info : kMutations) {
    EXPECT_TRUE(known.insert(info.mutation).second) << info.name;
    bool quick = false;
    switch (info.mutation) {
      case Mutation::kSkipDirtySync:
      case Mutation::kClearRegionEarly:
      case Mutation::kAnswerBeforePrimary:
      case Mutation::kPublishOutOfOrder:
      case Mutation::kRedoWrongOrder:
      case Mutation::kReuseLsn:
      case Mutation::kDropGapAtRestart:
      case Mutation::kResubmitNewestFirst:
      case Mutation::kFlushIgnoresLog:
      case Mutation::kForgetGapWrite:
        quick = true;
        break;
      default:
        break;
    }
    if (!quick) continue;
    const MutationResult result = try_mutation(info, 1, 30);
    EXPECT_TRUE(result.caught) << info.name << ": " << info.what;
  }
}

}  // namespace
}  // namespace ep::sim

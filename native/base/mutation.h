// SPDX-License-Identifier: Apache-2.0
#pragma once

// Deliberate bugs, for the simulator to catch: the proof that a green run means something. A site
// asks `if (mutated(Mutation::k…))`, which is constant false in what runs; only the simulator's own
// build of the libraries (EP_MUTATIONS) can select one, one at a time for the whole process.

#include <cstdint>
#include <string_view>

namespace ep {

enum class Mutation : uint8_t {
  kNone,
  kSkipDirtySync,
  kClearRegionEarly,
  kAnswerBeforePrimary,
  kPublishOutOfOrder,
  kRedoWrongOrder,
  kRedoAfterLostBuffer,
  kReuseLsn,
  kIgnoreEpoch,
  kForgetFailedWrite,
  kTrustAfterFailedSync,
  kDropGapAtRestart,
  kResubmitNewestFirst,
  kSkipRedo,
  kReleaseBeforeDurable,
  kFlushIgnoresLog,
  kFlushIgnoresPrimary,
  kSkipRegionInResync,
  kResyncWithoutLock,
  kNoLockAtOpen,
  kSyncCoversLater,
  kOverlapUnordered,
  kHealWithoutCompare,
  kEndGapEarly,
  kForgetGapWrite,
  kKeepCoveredAtGap,
  kForgetUncoveredAtRestart,
  kCleanUncovered,
  kCleanWithoutSync,
  kTrustCachedDirty,
  kSealWithoutRewrite,
  kAppendBeforeSeal,
  kSkipMarkerSync,
  kForgetFailedBatch,
};

struct MutationInfo {
  Mutation mutation;
  std::string_view name;
  std::string_view what;
};

constexpr MutationInfo kMutations[] = {
    {Mutation::kSkipDirtySync, "skip-dirty-sync",
     "the dirty region log calls a region dirty before its sync"},
    {Mutation::kClearRegionEarly, "clear-region-early",
     "a region is cleared although the log is not durable past its last write"},
    {Mutation::kAnswerBeforePrimary, "answer-before-primary",
     "a write is answered when it is submitted to the primary"},
    {Mutation::kPublishOutOfOrder, "publish-out-of-order",
     "a batch counts when it is written, whatever became of those before it"},
    {Mutation::kRedoWrongOrder, "redo-wrong-order",
     "redo goes from the newest entry to the oldest"},
    {Mutation::kRedoAfterLostBuffer, "redo-after-lost-buffer",
     "after a lost buffer the log's entries are written over the primary"},
    {Mutation::kReuseLsn, "reuse-lsn", "an epoch after a gap goes on at the last LSN of the log"},
    {Mutation::kIgnoreEpoch, "ignore-epoch",
     "a buffer of another epoch is taken for the last one's"},
    {Mutation::kForgetFailedWrite, "forget-failed-write",
     "a write that the primary refused is answered and not read back"},
    {Mutation::kTrustAfterFailedSync, "trust-after-failed-sync",
     "a segment whose sync failed is synced again and believed"},
    {Mutation::kDropGapAtRestart, "drop-gap-at-restart",
     "a clean looking group forgets the gap it was closed with"},
    {Mutation::kResubmitNewestFirst, "resubmit-newest-first",
     "after a restart the requests of a ring are taken newest first"},
    {Mutation::kSkipRedo, "skip-redo", "recovery writes nothing to the primaries"},
    {Mutation::kReleaseBeforeDurable, "release-before-durable",
     "buffer slots are freed when the primary is done"},
    {Mutation::kFlushIgnoresLog, "flush-ignores-log",
     "a flush is answered when the primary is synced"},
    {Mutation::kFlushIgnoresPrimary, "flush-ignores-primary",
     "a flush is answered when the log is durable"},
    {Mutation::kSkipRegionInResync, "skip-region-in-resync",
     "a resync leaves out the last dirty region"},
    {Mutation::kResyncWithoutLock, "resync-without-lock",
     "a resync reads and logs a range while a guest writes it"},
    {Mutation::kNoLockAtOpen, "no-lock-at-open",
     "files are opened without waiting for the I/O of a killed process"},
    {Mutation::kSyncCoversLater, "sync-covers-later",
     "a sync is taken to cover what was written while it ran"},
    {Mutation::kOverlapUnordered, "overlap-unordered",
     "overlapping writes in flight are not put in order"},
    {Mutation::kHealWithoutCompare, "heal-without-compare",
     "a resync takes every range for equal without looking"},
    {Mutation::kEndGapEarly, "end-gap-early",
     "the record calls a gap over before its resync is durable in the log"},
    {Mutation::kForgetGapWrite, "forget-gap-write",
     "a write in a gap does not ask for a resync of its region"},
    {Mutation::kKeepCoveredAtGap, "keep-covered-at-gap",
     "what the log loses when a gap opens is not resynced"},
    {Mutation::kForgetUncoveredAtRestart, "forget-uncovered-at-restart",
     "an opening in a gap resyncs no dirty region of before"},
    {Mutation::kCleanUncovered, "clean-uncovered", "a region that waits for its resync is cleared"},
    {Mutation::kCleanWithoutSync, "clean-without-sync",
     "a region is cleared without a sync of its primary"},
    {Mutation::kTrustCachedDirty, "trust-cached-dirty",
     "dirty bits found at opening are not made durable again"},
    {Mutation::kSealWithoutRewrite, "seal-without-rewrite",
     "recovery seals batches that may only be in the page cache without writing them again"},
    {Mutation::kAppendBeforeSeal, "append-before-seal",
     "recovery appends to the log before what it found there is durable"},
    {Mutation::kSkipMarkerSync, "skip-marker-sync", "a marker is answered before the log has it"},
    {Mutation::kForgetFailedBatch, "forget-failed-batch",
     "what stood in a given-up segment is not logged again"},
};

#ifdef EP_MUTATIONS
/// Set once, before anything runs. Process-wide on purpose: the sites are everywhere.
inline Mutation selected_mutation = Mutation::kNone;
inline bool mutated(Mutation mutation) { return selected_mutation == mutation; }
#else
constexpr bool mutated(Mutation) { return false; }
#endif

}  // namespace ep

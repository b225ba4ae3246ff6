// SPDX-License-Identifier: Apache-2.0
#include "export/guest_memory.h"

#include <gtest/gtest.h>
#include <pthread.h>
#include <signal.h>
#include <sys/mman.h>
#include <unistd.h>

#include <thread>

#include "export/chain_builder.h"
#include "export/sigbus_guard.h"

namespace ep::exports {
namespace {

TEST(GuestMemory, TranslatesUpToTheRegionsEnd) {
  TestGuest guest(8192, 2);
  uint64_t bytes = 100;
  EXPECT_NE(guest.memory().translate(TestGuest::kBase, &bytes), nullptr);
  EXPECT_EQ(bytes, 100u);
  bytes = 100;
  EXPECT_NE(guest.memory().translate(guest.border() - 40, &bytes), nullptr);
  EXPECT_EQ(bytes, 40u);
  for (const uint64_t outside : {TestGuest::kBase - 1, guest.end(), uint64_t{0}, UINT64_MAX}) {
    bytes = 1;
    EXPECT_EQ(guest.memory().translate(outside, &bytes), nullptr);
    EXPECT_EQ(bytes, 0u);
  }
}

TEST(GuestMemory, ReadsAcrossRegionsAndRefusesHoles) {
  TestGuest guest(8192, 2);
  const char text[] = "across";
  guest.write(guest.border() - 3, text, sizeof text);
  char back[sizeof text];
  EXPECT_TRUE(guest.memory().read(guest.border() - 3, back, sizeof back));
  EXPECT_STREQ(back, text);
  EXPECT_FALSE(guest.memory().read(guest.end() - 3, back, sizeof back));
}

TEST(GuestMemory, RingsLieInOneRegion) {
  TestGuest guest(8192, 2);
  EXPECT_NE(guest.memory().translate_user(TestGuest::kUserBase, 8192), nullptr);
  EXPECT_EQ(guest.memory().translate_user(TestGuest::kUserBase, 8193), nullptr);
  EXPECT_EQ(guest.memory().translate_user(TestGuest::kUserBase + 8190, 4), nullptr);
  EXPECT_EQ(guest.memory().translate_user(TestGuest::kUserBase - 1, 1), nullptr);
  EXPECT_EQ(guest.memory().translate_user(TestGuest::kUserBase + 1, UINT64_MAX), nullptr);
}

TEST(GuestMemory, RefusesClaimsThatTheFileDoesNotKeep) {
  const int fd = memfd_create("short", MFD_CLOEXEC);
  ASSERT_EQ(ftruncate(fd, 8192), 0);
  const auto attempt = [fd](GuestRegionSpec spec) {
    return GuestMemory::create({&spec, 1}, {&fd, 1}).is_ok();
  };
  EXPECT_TRUE(attempt({0, 8192, 0, 0}));
  EXPECT_TRUE(attempt({0, 4096, 0, 4096}));
  EXPECT_FALSE(attempt({0, 8193, 0, 0}));
  EXPECT_FALSE(attempt({0, 8192, 0, 4096}));
  EXPECT_FALSE(attempt({0, 4096, 0, UINT64_MAX - 4095}));
  EXPECT_FALSE(attempt({0, 0, 0, 0}));
  EXPECT_FALSE(attempt({UINT64_MAX - 4095, 8192, 0, 0}));
  EXPECT_FALSE(attempt({0, 8192, UINT64_MAX - 4095, 0}));
  const GuestRegionSpec overlapping[2] = {{0, 8192, 0, 0}, {4096, 8192, 1 << 20, 0}};
  const int fds[2] = {fd, fd};
  EXPECT_FALSE(GuestMemory::create(overlapping, fds).is_ok());
  EXPECT_FALSE(GuestMemory::create({overlapping, 1}, fds).is_ok());
  close(fd);
  int ends[2];
  ASSERT_EQ(pipe(ends), 0);
  const GuestRegionSpec one{0, 4096, 0, 0};
  EXPECT_FALSE(GuestMemory::create({&one, 1}, {ends, 1}).is_ok());
  close(ends[0]);
  close(ends[1]);
}

// A front-end cut its guest's memory away; without the guard the whole data plane, and every other
// guest's disk, would have died with it.
TEST(SigbusGuard, TruncatedMemoryReadsAsZeroesAndIsNoticed) {
  TestGuest guest(1 << 20, 2);
  const uint64_t faults = SigbusGuard::instance().faults();
  *guest.host(TestGuest::kBase + 4096) = 7;
  ASSERT_EQ(ftruncate(guest.fd(0), 4096), 0);
  EXPECT_FALSE(guest.memory().broken());
  EXPECT_EQ(*guest.host(TestGuest::kBase + 4096), 0);
  EXPECT_TRUE(guest.memory().broken());
  EXPECT_EQ(SigbusGuard::instance().faults(), faults + 1);
  *guest.host(TestGuest::kBase + 8192) = 1;  // another page, a write
  *guest.host(TestGuest::kBase) = 1;         // still there
  *guest.host(guest.border()) = 1;
  EXPECT_EQ(SigbusGuard::instance().faults(), faults + 2);
  const TestGuest other;
  EXPECT_FALSE(other.memory().broken());
}

// Reactor threads block all signals; a fault in a thread that blocks SIGBUS kills the process
// without asking the handler.
TEST(SigbusGuard, ProtectsThreadsThatBlockSignals) {
  TestGuest guest(1 << 20, 1);
  ASSERT_EQ(ftruncate(guest.fd(0), 0), 0);
  std::thread([&guest] {
    sigset_t all;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, nullptr);
    SigbusGuard::instance().protect_this_thread();
    *guest.host(TestGuest::kBase) = 1;
  }).join();
  EXPECT_TRUE(guest.memory().broken());
}

TEST(SigbusGuard, OwnFaultsAreNotHidden) {
  EXPECT_DEATH(
      {
        SigbusGuard::instance();
        const int fd = memfd_create("own", MFD_CLOEXEC);
        if (ftruncate(fd, 4096) != 0) _exit(0);
        auto* page = static_cast<volatile char*>(
            mmap(nullptr, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0));
        if (ftruncate(fd, 0) != 0) _exit(0);
        *page = 1;
        _exit(0);
      },
      "");
}

}  // namespace
}  // namespace ep::exports

// SPDX-License-Identifier: Apache-2.0
#include "export/sigbus_guard.h"

#include <signal.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <utility>

#include "base/bytes.h"

namespace ep::exports {

namespace {

/// 64 regions and in-flight areas for each of 64 connections.
constexpr int kSlots = 4096;
constexpr uint64_t kMapBytesMax = 1ull << 46;

/// A slot is free when `end` is 0. `begin` and `page_bytes` are written before `end`; the handler
/// reads `end` first.
struct Slot {
  std::atomic<uintptr_t> begin{0};
  std::atomic<uintptr_t> end{0};
  std::atomic<size_t> page_bytes{0};
  std::atomic<bool> taken{false};
  std::atomic<bool> broken{false};
};

/// Everything the handler touches. Constant-initialised and never destroyed, because a signal knows
/// no order of destruction.
struct State {
  Slot slots[kSlots];
  std::atomic<pid_t> event_thread{0};
  std::atomic<uint64_t> event_thread_faults{0};
  std::atomic<uint64_t> faults{0};
  struct sigaction previous {};
};

State& state() {
  static State the_state;
  return the_state;
}

/// Replaces the page of `address`, never anything outside of [low, high): a file may claim larger
/// pages than its mapping is aligned to.
bool put_zero_pages(uintptr_t address, size_t page_bytes, uintptr_t low, uintptr_t high) {
  const uintptr_t page = address & ~(static_cast<uintptr_t>(page_bytes) - 1);
  const uintptr_t begin = std::max(page, low);
  const uintptr_t end = std::min(page + page_bytes, high);
  return mmap(reinterpret_cast<void*>(begin), end - begin, PROT_READ | PROT_WRITE,
              MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED | MAP_NORESERVE, -1, 0) != MAP_FAILED;
}

bool repair(uintptr_t address) {
  State& all = state();
  for (Slot& slot : all.slots) {
    const uintptr_t end = slot.end.load(std::memory_order_acquire);
    const uintptr_t begin = slot.begin.load(std::memory_order_relaxed);
    if (address >= end || address < begin) continue;
    const size_t page_bytes = slot.page_bytes.load(std::memory_order_relaxed);
    if (!put_zero_pages(address, page_bytes, begin, end)) return false;
    slot.broken.store(true);
    all.faults.fetch_add(1);
    return true;
  }
  if (all.event_thread.load() != static_cast<pid_t>(syscall(SYS_gettid))) return false;
  // A mapping of the library's own, of unknown page size: the kernel refuses (EINVAL) to cut a huge
  // page, and only then a larger size is tried.
  for (const size_t page_bytes : {size_t{4096}, size_t{2} << 20, size_t{1} << 30}) {
    if (put_zero_pages(address, page_bytes, 0, UINTPTR_MAX)) {
      all.event_thread_faults.fetch_add(1);
      return true;
    }
    if (errno != EINVAL) return false;
  }
  return false;
}

void pass_on(int signal_number, siginfo_t* info, void* context) {
  const struct sigaction& previous = state().previous;
  if ((previous.sa_flags & SA_SIGINFO) != 0 && previous.sa_sigaction != nullptr) {
    previous.sa_sigaction(signal_number, info, context);
  } else if (previous.sa_handler != SIG_DFL && previous.sa_handler != SIG_IGN) {
    previous.sa_handler(signal_number);
  } else {
    // Back to the default, and to the instruction that faults again.
    struct sigaction fallback {};
    fallback.sa_handler = SIG_DFL;
    sigaction(signal_number, &fallback, nullptr);
    if (info->si_code <= 0) raise(signal_number);  // sent by a process: nothing faults again
  }
}

void on_sigbus(int signal_number, siginfo_t* info, void* context) {
  const int saved_errno = errno;
  // BUS_ADRERR: behind the end of a mapped file. Broken RAM and misalignment are not ours.
  const bool ours =
      info->si_code == BUS_ADRERR && repair(reinterpret_cast<uintptr_t>(info->si_addr));
  if (!ours) pass_on(signal_number, info, context);
  errno = saved_errno;
}

}  // namespace

SigbusGuard& SigbusGuard::instance() {
  static SigbusGuard guard;
  return guard;
}

SigbusGuard::SigbusGuard() {
  State& all = state();
  struct sigaction action {};
  action.sa_sigaction = on_sigbus;
  action.sa_flags = SA_SIGINFO | SA_ONSTACK;
  sigemptyset(&action.sa_mask);
  EP_ASSERT(sigaction(SIGBUS, nullptr, &all.previous) == 0);
  EP_ASSERT(sigaction(SIGBUS, &action, nullptr) == 0);
}

int SigbusGuard::add(const void* begin, size_t bytes, size_t page_bytes) {
  State& all = state();
  for (int i = 0; i < kSlots; ++i) {
    Slot& slot = all.slots[i];
    if (slot.taken.exchange(true)) continue;
    slot.broken.store(false);
    slot.begin.store(reinterpret_cast<uintptr_t>(begin));
    slot.page_bytes.store(page_bytes);
    slot.end.store(reinterpret_cast<uintptr_t>(begin) + bytes, std::memory_order_release);
    return i;
  }
  return -1;
}

void SigbusGuard::remove(int index) {
  EP_ASSERT(index >= 0 && index < kSlots);
  Slot& slot = state().slots[index];
  EP_ASSERT(slot.taken.load());
  slot.end.store(0);
  slot.taken.store(false);
}

bool SigbusGuard::broken(int index) const {
  return state().slots[index].broken.load(std::memory_order_relaxed);
}

void SigbusGuard::protect_this_thread() {
  sigset_t only;
  sigemptyset(&only);
  sigaddset(&only, SIGBUS);
  EP_ASSERT(pthread_sigmask(SIG_UNBLOCK, &only, nullptr) == 0);
}

void SigbusGuard::adopt_event_thread() {
  protect_this_thread();
  state().event_thread.store(static_cast<pid_t>(syscall(SYS_gettid)));
}

uint64_t SigbusGuard::faults() const { return state().faults.load(std::memory_order_relaxed); }

uint64_t SigbusGuard::event_thread_faults() const { return state().event_thread_faults.load(); }

Result<GuardedMapping> GuardedMapping::map(int fd, uint64_t offset, uint64_t bytes) {
  struct stat about {};
  if (fstat(fd, &about) != 0) return Status::from_errno(errno, "fstat of a front-end's memory");
  if (!S_ISREG(about.st_mode)) {
    return Status(Code::kInvalidArgument, "a front-end's memory is not a regular file");
  }
  const auto file_bytes = static_cast<uint64_t>(about.st_size);
  if (bytes == 0 || offset > file_bytes || bytes > file_bytes - offset) {
    return Status(Code::kInvalidArgument, "a front-end's memory is smaller than it says");
  }
  // The block size of a file in huge pages is its page size.
  auto page_bytes = static_cast<uint64_t>(about.st_blksize);
  if (page_bytes < kPageBytes || (page_bytes & (page_bytes - 1)) != 0) page_bytes = kPageBytes;
  if (offset + bytes > kMapBytesMax) {
    return Status(Code::kInvalidArgument, "a front-end's memory is too large");
  }
  GuardedMapping mapping;
  const uint64_t mapped = align_up(offset + bytes, page_bytes);
  void* address = mmap(nullptr, mapped, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
  if (address == MAP_FAILED) return Status::from_errno(errno, "mmap of a front-end's memory");
  mapping.address_ = address;
  mapping.mapped_bytes_ = mapped;
  mapping.data_ = static_cast<uint8_t*>(address) + offset;
  mapping.slot_ = SigbusGuard::instance().add(address, mapped, page_bytes);
  if (mapping.slot_ < 0) return Status(Code::kBusy, "too many front-end memory regions");
  return mapping;
}

GuardedMapping::~GuardedMapping() {
  // Out of the table first: the address may belong to somebody else right after munmap.
  if (slot_ >= 0) SigbusGuard::instance().remove(slot_);
  if (address_ != nullptr) munmap(address_, mapped_bytes_);
}

void GuardedMapping::swap(GuardedMapping& other) noexcept {
  std::swap(address_, other.address_);
  std::swap(mapped_bytes_, other.mapped_bytes_);
  std::swap(data_, other.data_);
  std::swap(slot_, other.slot_);
}

}  // namespace ep::exports

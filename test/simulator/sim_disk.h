// SPDX-License-Identifier: Apache-2.0
#pragma once

// A machine that exists in memory only: devices with file systems on them, a clock, and the
// processes that use both. What a process sees (*live*) and what would survive a power cut
// (*durable*) are kept apart at the grain of a 512-byte sector, for content, sizes, times and
// directory entries.
//
//   write      live at once; durable some day, or with a sync
//   sync       makes durable what was written when it was submitted; one that fails forgets what
//              it could not write, as Linux does ("fsyncgate"), unless the file is open direct
//   power cut  each unsynced sector, size and name stays or goes by itself
//   end of a process   its requests in flight land, land in part, never land, or land late; a late
//              one holds the lock of its file (flock) until it has landed
//
// One thread, no wall clock, no address that decides an order.

#include <array>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "io/io.h"
#include "rng.h"

namespace ep::sim {

constexpr uint64_t kMillisecond = 1'000'000;
constexpr uint64_t kSecond = 1'000'000'000;

/// Thrown out of a call to end the process there. Nothing of it may run afterwards.
struct ProcessDeath {};

/// Trouble on a device between two moments.
struct Fault {
  uint64_t from_ns = 0;
  uint64_t to_ns = ~uint64_t{0};
  bool read = false;
  bool write = false;
  bool sync = false;
  bool make_error = false;   // opening new files, space, directory calls
  bool short_write = false;  // a write does less than it was asked for
  uint32_t percent = 100;    // of the requests that match
  int32_t error = 5;         // EIO; ENOSPC for a full device
  uint64_t extra_ns = 0;     // slow: this much on top
  bool hang = false;         // does not end before the process does
};

struct DeviceSpec {
  std::string root;  // "/secondary-1": everything below lives on it
  uint64_t latency_min_ns = 20'000;
  uint64_t latency_max_ns = 400'000;
  uint64_t sync_max_ns = 1'500'000;
  bool takes_direct = true;
  uint32_t alignment = 512;
  bool in_memory = false;
  uint64_t capacity = 1ull << 40;
};

class Process;

class Machine {
 public:
  explicit Machine(uint64_t seed);
  ~Machine();
  Machine(const Machine&) = delete;
  Machine& operator=(const Machine&) = delete;

  void add_device(const DeviceSpec& spec);
  void add_fault(const std::string& root, const Fault& fault);
  void clear_faults();
  /// A device that is not there: what lies below is not found. Its files stay.
  void set_present(const std::string& root, bool present);
  /// Whether any fault was ever due on this device.
  [[nodiscard]] bool was_faulty(const std::string& root) const;

  [[nodiscard]] uint64_t now() const { return now_; }
  [[nodiscard]] uint64_t wall() const;
  /// The wall clock steps; the monotonic one does not.
  void step_wall(int64_t by_ns) { wall_offset_ += by_ns; }

  /// Everything that is not durable may go. No process may be alive.
  void power_cut();
  /// Late requests of dead processes that have not landed yet.
  [[nodiscard]] size_t late_requests() const { return late_.size(); }

  // For checks, which see what a process would see, without taking time or being traced.
  [[nodiscard]] bool exists(const std::string& path) const;
  [[nodiscard]] std::vector<uint8_t> read_all(const std::string& path) const;
  [[nodiscard]] std::vector<std::string> list(const std::string& path) const;
  /// Changes with every change of the file, its name's owner included.
  [[nodiscard]] uint64_t version(const std::string& path) const;
  /// Calls back for every sector of [0, size) of a file.
  void for_each_sector(
      const std::string& path,
      const std::function<void(uint64_t sector, const uint8_t* bytes)>& visit) const;

  Rng random;
  Trace trace;
  /// A sync of any file makes all names of its device durable too, as a journal does. Without it
  /// only sync_directory does.
  bool names_with_any_sync = true;

 private:
  friend class Process;
  static constexpr uint64_t kPage = 4096;
  static constexpr uint64_t kSector = 512;
  static constexpr uint64_t kSectors = kPage / kSector;
  using Bytes = std::array<uint8_t, kPage>;

  struct Page {
    std::unique_ptr<Bytes> live;     // null: zeroes
    std::unique_ptr<Bytes> durable;  // of sectors in `dirty` or `diverged`; the others equal live
    uint8_t dirty = 0;               // the next sync writes them
    uint8_t diverged = 0;            // a sync has given them up: only live has them
    std::array<uint64_t, kSectors> sequence{};
  };
  struct DirOp {
    std::string add;     // a name that now means `inode`
    std::string remove;  // a name that is gone
    int inode = -1;
  };
  struct Inode {
    int id = -1;
    int device = -1;
    bool is_directory = false;
    // Of a file:
    std::vector<Page> pages;
    std::vector<uint32_t> dirty_pages;  // may name a page twice
    uint64_t size = 0;
    uint64_t durable_size = 0;
    uint64_t size_sequence = 0;
    uint64_t sequence = 0;
    uint64_t mtime = 0;
    uint64_t durable_mtime = 0;
    unsigned syncs_in_flight = 0;
    uint64_t syncing_through = 0;
    uint64_t allocated = 0;
    int locked_by = -1;  // FileId
    // Of a directory:
    std::map<std::string, int> live;
    std::map<std::string, int> durable;
    std::vector<DirOp> pending;
  };
  struct Device {
    DeviceSpec spec;
    bool present = true;
    bool was_faulty = false;
    std::vector<Fault> faults;
  };
  struct OpenFile {
    Process* process = nullptr;
    int inode = -1;
    bool direct = false;
    bool locked = false;
    bool read_only = false;
    std::string path;
  };
  /// What a dead process had in flight.
  struct Late {
    uint64_t due = 0;
    int inode = -1;
    io::Op::Kind kind{};
    uint64_t offset = 0;
    uint64_t length = 0;
    std::vector<uint8_t> bytes;
  };
  struct SyncToken {
    int inode = -1;
    uint64_t sequence = 0;
    uint64_t size = 0;
  };

  void advance(uint64_t by_ns) { land_late(now_ += by_ns); }
  void land_late(uint64_t until);
  void land(const Late& late);
  void settle_lock(int inode);

  [[nodiscard]] int find(const std::string& path) const;  // -1: none
  [[nodiscard]] int find_device(const std::string& path) const;
  [[nodiscard]] bool reachable(const std::string& path) const;
  static std::pair<std::string, std::string> split(const std::string& path);
  int make_inode(int device, bool is_directory);
  void link(int directory, const std::string& name, int inode);
  void unlink(int directory, const std::string& name);

  void touch_sector(Inode& inode, uint64_t sector);
  void write(Inode& inode, uint64_t offset, const uint8_t* from, uint64_t length);
  void zero(Inode& inode, uint64_t offset, uint64_t length);
  void read(const Inode& inode, uint64_t offset, uint8_t* to, uint64_t length) const;
  void set_size(Inode& inode, uint64_t size);
  SyncToken begin_sync(Inode& inode);
  void end_sync(const SyncToken& token, bool ok, bool forget, bool with_times);
  /// What a sync gave up is read back from the disk from now on.
  void settle_names(int device);
  void evict(Inode& inode);
  void power_cut(Inode& inode);
  [[nodiscard]] uint64_t used_bytes(int device) const;
  /// The first fault in force that matches, if the dice say so.
  const Fault* pick_fault(int device, bool Fault::*kind);
  /// Extra time of slow faults, or nothing when it hangs.
  std::optional<uint64_t> delay_of(int device, bool Fault::*kind);

  uint64_t now_ = kSecond;
  int64_t wall_offset_ = 1'700'000'000ll * 1'000'000'000ll;
  std::vector<std::unique_ptr<Inode>> inodes_;
  std::vector<Device> devices_;
  std::map<io::FileId, OpenFile> open_;
  io::FileId next_file_ = 10;
  std::vector<Late> late_;
};

/// One process's view of the machine: its blocking calls, its ring, and its helper thread. Ends
/// with end(); the object then only has to be kept until nothing refers to it.
class Process final : public io::FileSystem, public io::Engine {
 public:
  static constexpr uint64_t kNever = ~uint64_t{0};

  explicit Process(Machine& machine) : machine_(machine) {}
  ~Process() override;

  /// The process dies in this blocking call, counted from 0 …
  uint64_t die_at_call = kNever;
  /// … or when the clock passes this moment, between two completions.
  uint64_t die_at_ns = kNever;
  [[nodiscard]] uint64_t calls() const { return calls_; }
  /// Requests that will not end by themselves.
  [[nodiscard]] unsigned hanging() const { return hanging_; }

  /// The process is gone: descriptors and locks too, but for what is still in flight.
  void end();

  /// For Reactor::adopt. `post` is the reactor's.
  void set_post(std::function<void(std::function<void()>)> post) { post_ = std::move(post); }
  void offload(std::function<void()> work, std::function<void()> done);

  // Engine
  void submit(io::Op* op) override;
  void watch(io::Watch* watch) override;
  void unwatch(io::Watch* watch) override;
  unsigned reap(uint64_t wait_ns) override;
  [[nodiscard]] unsigned in_flight() const override;
  [[nodiscard]] uint64_t monotonic_ns() const override { return machine_.now(); }
  [[nodiscard]] uint64_t wall_ns() const override { return machine_.wall(); }

  // FileSystem
  Result<io::FileId> open(const std::string& path, const io::OpenOptions& options) override;
  void close(io::FileId file) override;
  Result<io::FileInfo> info(io::FileId file) override;
  Status read(io::FileId file, uint64_t offset, void* to, size_t size, size_t* got) override;
  Status write(io::FileId file, uint64_t offset, const void* from, size_t size) override;
  Status sync(io::FileId file) override;
  Status allocate(io::FileId file, uint64_t offset, uint64_t length) override;
  Status zero(io::FileId file, uint64_t offset, uint64_t length) override;
  Status truncate(io::FileId file, uint64_t size) override;
  Status make_directories(const std::string& path) override;
  Result<std::vector<std::string>> list(const std::string& path) override;
  Status rename(const std::string& from, const std::string& to) override;
  Status remove(const std::string& path) override;
  Status sync_directory(const std::string& path) override;
  Result<io::SpaceInfo> space(const std::string& path) override;

 private:
  struct Pending {
    io::Op* op = nullptr;
    bool effected = false;
    int32_t result = 0;   // what it will answer, once known
    int32_t failure = 0;  // decided when submitted
    uint64_t shorten_to = kNever;
    Machine::SyncToken sync;
  };
  struct Event {
    enum class Kind : uint8_t { kEffect, kComplete, kHelperDone } kind{};
    uint64_t id = 0;
  };
  struct Job {
    std::function<void()> work;
    std::function<void()> done;
  };

  Machine::Inode& inode_of(io::FileId file);
  /// Counts a blocking call, takes its time, and says whether the device refuses it.
  Status step(const char* operation, const std::string& path, int device, bool Fault::*kind,
              uint64_t bytes);
  void take_time(uint64_t ns);
  void effect(Pending& pending);
  unsigned run_due();
  void start_job();
  void schedule(uint64_t at, Event::Kind kind, uint64_t id);
  static std::vector<uint8_t> gather(const io::Op& op, uint64_t limit);

  Machine& machine_;
  uint64_t calls_ = 0;
  uint64_t next_id_ = 1;
  unsigned hanging_ = 0;
  std::map<uint64_t, Pending> pending_;
  std::map<std::pair<uint64_t, uint64_t>, Event> events_;
  uint64_t event_sequence_ = 0;
  std::function<void(std::function<void()>)> post_;
  std::vector<Job> jobs_;
  std::function<void()> job_done_;
  bool helper_busy_ = false;
  bool in_helper_ = false;
  uint64_t helper_ns_ = 0;  // time that the running job has taken
  bool helper_hangs_ = false;
  bool ended_ = false;
};

}  // namespace ep::sim

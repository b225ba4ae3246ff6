// SPDX-License-Identifier: Apache-2.0
#include "redo_check.h"

#include <vector>

#include "base/bytes.h"
#include "base/limits.h"
#include "model.h"
#include "nvram/log_buffer.h"
#include "recovery/open_group.h"
#include "rng.h"
#include "sim_disk.h"

namespace ep::sim {

namespace {

constexpr uint64_t kSectorsOfDisk = 256;

/// Persistent memory with caches inside the power-fail domain: whatever was stored is there.
class PersistentRegion : public nvram::MemoryRegion {
 public:
  using MemoryRegion::MemoryRegion;
  [[nodiscard]] bool survives_power_cut() const override { return true; }
};

/// As much of a group as recovery needs.
class SmallGroup {
 public:
  explicit SmallGroup(uint64_t seed) : random_(mix(seed) ^ 0x4ed0), machine_(mix(seed) + 7) {
    for (const char* root : {"/primary", "/state", "/secondary"}) {
      DeviceSpec spec;
      spec.root = root;
      machine_.add_device(spec);
    }
    for (size_t i = 0; i < 16; ++i) group_.bytes[i] = static_cast<uint8_t>(random_.next());
    region_ = std::make_unique<PersistentRegion>(
        nvram::LogBuffer::region_bytes(limits::kBufferDataBytesMin));
  }

  std::string run() {
    Process process(machine_);
    auto opened = open(process, true, "boot-1");
    if (!opened) return "making a group: " + opened.status().to_string();
    write_some(process, *opened->buffer);
    record_ = Status(Code::kCancelled, "died");
    process.end();
    machine_.power_cut();
    Process next(machine_);
    opened = open(next, false, "boot-2");
    record_ = Status(Code::kCancelled, "closed");
    std::string wrong = opened ? look() : "opening a group: " + opened.status().to_string();
    next.end();
    return wrong;
  }

 private:
  Result<recovery::OpenOutcome> open(Process& process, bool create, const std::string& boot) {
    record_ = log::GroupRecordFile::open(process, "/state/record", group_, kSecond);
    if (!record_) return record_.status();
    auto disk = process.open("/primary/disk", {.create = create, .lock = true});
    if (!disk) return disk.status();
    disk_ = *disk;
    recovery::OpenInput input;
    input.file_system = &process;
    input.group = group_;
    input.create = create;
    input.boot = boot;
    input.wall_ns = machine_.wall();
    input.segment_bytes = limits::kSegmentBytesMin;
    input.devices.push_back({group_, "/secondary/group"});
    if (create) {
      EP_TRY(process.truncate(disk_, kSectorsOfDisk * kSectorBytes));
      EP_TRY(process.sync(disk_));
      EP_TRY(process.sync_directory("/primary"));
      EP_TRY(process.make_directories("/secondary/group/log"));
      for (const char* at : {"/secondary/group/log", "/secondary/group", "/secondary"}) {
        EP_TRY(process.sync_directory(at));
      }
    }
    input.primaries.push_back({0, disk_, {kSectorsOfDisk * kSectorBytes, 0, 0}});
    nvram::BufferStoreOptions options;
    options.group = group_;
    options.boot = boot;
    options.file_system = &process;
    auto lent = std::make_unique<Lent>(*region_);
    auto store = nvram::BufferStore::for_region(options, std::move(lent));
    if (!store) return store.status();
    store_ = std::move(*store);
    input.record = record_->get();
    input.store = store_.get();
    return recovery::open_group(input);
  }

  struct Lent : nvram::Region {
    explicit Lent(const nvram::Region& lender) {
      base_ = lender.base();
      size_ = lender.size();
    }
    [[nodiscard]] bool survives_power_cut() const override { return true; }
  };

  /// As the splitter does: each is on the primary, though not durably, before the next that
  /// overlaps it begins.
  void write_some(Process& process, nvram::LogBuffer& buffer) {
    const uint64_t count = 2 + random_.below(12);
    for (uint64_t id = 1; id <= count; ++id) {
      format::Entry entry;
      entry.type = format::EntryType::kWrite;
      entry.sector = random_.below(16);
      entry.sectors = static_cast<uint32_t>(1 + random_.below(16));
      entry.time_ns = machine_.wall() + id;
      const uint64_t bytes = uint64_t{entry.sectors} * kSectorBytes;
      uint8_t* data = buffer.next_data(bytes);
      for (uint64_t i = 0; i < entry.sectors; ++i) {
        fill_sector(id, i, data + i * kSectorBytes);
        tags_[entry.sector + i] = sector_tag(data + i * kSectorBytes);
      }
      entry.data_crc = crc32(data, bytes);
      const uint64_t lsn = buffer.append(entry, nvram::PrimaryState::kPending);
      if (id == count && random_.percent(50)) return;
      if (process.write(disk_, entry.sector * kSectorBytes, data, bytes)) {
        buffer.set_primary_state(lsn, nvram::PrimaryState::kDone);
      }
    }
  }

  [[nodiscard]] std::string look() const {
    std::string wrong;
    machine_.for_each_sector("/primary/disk", [&](uint64_t sector, const uint8_t* bytes) {
      if (!wrong.empty() || sector_tag(bytes) == tags_[sector]) return;
      wrong = "persistent memory: after a power cut and its recovery sector " +
              std::to_string(sector) + " does not hold its last write";
    });
    return wrong;
  }

  Rng random_;
  Machine machine_;
  Uuid group_;
  std::unique_ptr<PersistentRegion> region_;
  Result<std::unique_ptr<log::GroupRecordFile>> record_ = Status(Code::kCancelled, "not open");
  std::unique_ptr<nvram::BufferStore> store_;
  io::FileId disk_ = io::kNoFile;
  uint64_t tags_[kSectorsOfDisk] = {};
};

}  // namespace

std::string check_redo(uint64_t seed) { return SmallGroup(seed).run(); }

}  // namespace ep::sim

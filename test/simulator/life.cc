// SPDX-License-Identifier: Apache-2.0
#include "life.h"

#include <algorithm>
#include <cstdlib>

#include "base/limits.h"

namespace ep::sim {

using block::Outcome;

namespace {
constexpr uint64_t kPassesMax = 400'000;
constexpr uint64_t kPassNs = 1'000'000;
}  // namespace

namespace {
/// A process's mapping of the machine's memory.
class Mapping : public nvram::Region {
 public:
  explicit Mapping(nvram::Region& memory) : memory_(memory) {
    base_ = memory.base();
    size_ = memory.size();
  }
  void persist(const void* from, size_t bytes) override { memory_.persist(from, bytes); }
  [[nodiscard]] bool survives_power_cut() const override { return memory_.survives_power_cut(); }

 private:
  nvram::Region& memory_;
};

constexpr size_t kCacheLineBytes = 64;
}  // namespace

void MachineMemory::persist(const void* from, size_t bytes) {
  if (!persistent_ || bytes == 0) return;
  const auto at = static_cast<size_t>(static_cast<const uint8_t*>(from) - base_);
  EP_ASSERT(at + bytes <= size_);
  const size_t first = at / kCacheLineBytes * kCacheLineBytes;
  const size_t end = std::min<size_t>(align_up(at + bytes, kCacheLineBytes), size_);
  std::memcpy(durable_.data() + first, base_ + first, end - first);
}

void MachineMemory::power_cut(Rng& random) {
  if (!persistent_) {
    std::memset(base_, 0, size_);
    return;
  }
  for (size_t at = 0; at < size_; at += kCacheLineBytes) {
    const size_t bytes = std::min<size_t>(kCacheLineBytes, size_ - at);
    if (std::memcmp(base_ + at, durable_.data() + at, bytes) == 0) continue;
    // Evicted by itself, or not.
    if (random.percent(50)) std::memcpy(durable_.data() + at, base_ + at, bytes);
  }
  std::memcpy(base_, durable_.data(), size_);
}

/// One request of the guest and its memory.
struct Life::Guest {
  Life* life = nullptr;
  uint64_t id = 0;
  block::Request request;
  std::vector<iovec> vectors;
  std::unique_ptr<uint8_t, void (*)(void*)> memory{nullptr, std::free};
};

std::string Life::primary_path(uint16_t volume) {
  return "/primary-" + std::to_string(volume) + "/disk";
}
std::string Life::region_log_path(uint16_t volume) {
  return "/state/volume-" + std::to_string(volume) + ".drl";
}
std::string Life::record_path() { return "/state/record"; }
std::string Life::mirror_path() { return "/buffer/mirror"; }

Life::Life(Machine& machine, Model& model, const GroupSetup& setup, Surviving& surviving,
           const LifeOptions& options)
    : process(machine),
      machine_(machine),
      model_(model),
      setup_(setup),
      surviving_(surviving),
      options_(options) {
  reactor_.adopt(&process, [this](std::function<void()> work, std::function<void()> done) {
    process.offload(std::move(work), std::move(done));
  });
  process.set_post([this](std::function<void()> task) { reactor_.post(std::move(task)); });
}

Life::~Life() { EP_ASSERT(ended_); }

// ---- the composition --------------------------------------------------------------------------

Status Life::open() {
  const Status status = open_group();
  if (status) surviving_.created = true;
  return status;
}

Status Life::open_group() {
  auto record = log::GroupRecordFile::open(process, record_path(), setup_.group, kSecond);
  if (!record) return record.status();
  record_ = std::move(*record);
  recovery::OpenInput input;
  input.file_system = &process;
  input.group = setup_.group;
  input.create = !surviving_.created;
  for (size_t i = 0; i < setup_.devices.size(); ++i) {
    if (input.create) {
      const std::string& folder = setup_.devices[i].folder;
      EP_TRY(process.make_directories(folder + "/log"));
      // Durably: a device that gets no segment for a while must not lose its folder with the power.
      for (std::string at = folder; !at.empty(); at.erase(at.find_last_of('/'))) {
        EP_TRY(process.sync_directory(at));
      }
    }
    input.devices.push_back(setup_.devices[i]);
  }
  for (uint16_t volume = 0; volume < setup_.volume_bytes.size(); ++volume) {
    block::UringDeviceOptions options;
    options.path = primary_path(volume);
    options.create = input.create;
    options.size_bytes = input.create ? setup_.volume_bytes[volume] : 0;
    options.direct = setup_.direct;
    options.queue_depth = 32;
    options.lock_wait_ns = kSecond;
    auto device = block::UringDevice::open(process, process, options);
    if (!device) return device.status();
    primaries_.push_back(std::move(*device));
    auto info = primaries_.back()->info();
    if (!info) return info.status();
    input.primaries.push_back(
        {volume, primaries_.back()->file(), {info->size, info->mtime_ns, info->ctime_ns}});
  }
  nvram::BufferStoreOptions store;
  store.group = setup_.group;
  store.boot = surviving_.boot;
  store.file_system = &process;
  store.kind = setup_.buffer_kind;
  if (store.kind == nvram::BufferKind::kFile) store.path = mirror_path();
  store.create = input.create;
  store.lock_wait_ns = kSecond;
  auto store_opened =
      nvram::BufferStore::for_region(store, std::make_unique<Mapping>(*surviving_.region));
  if (store_opened) {
    store_ = std::move(*store_opened);
  } else if (input.create || store_opened.status().code() == Code::kBusy) {
    return store_opened.status();
  }
  input.record = record_.get();
  input.store = store_.get();
  input.boot = surviving_.boot;
  input.wall_ns = machine_.wall();
  input.segment_bytes = setup_.segment_bytes;
  recovery::ProtectionOptions options;
  options.open = input;
  options.log.seal_after_ns = options_.seal_after_ns;
  options.log.write_after_ns = options_.write_after_ns;
  options.retry_min_ns = options_.retry_ns;
  options.retry_max_ns = 8 * options_.retry_ns;
  options.resync_step_bytes = 64 * 1024;
  auto opened = recovery::Protection::open(
      &reactor_, options,
      recovery::Protection::Events{
          .sealed = [](const log::SegmentInfo&) {},
          .reopened = [](const std::vector<log::SegmentInfo>&) {},
          .gap =
              [this](const format::Gap& gap) { ++(gap.to_lsn == 0 ? gaps_opened : gaps_healed); }});
  if (!opened) return opened.status();
  protection_ = std::move(*opened);
  redone = protection_->opened().writes_redone;
  for (uint16_t volume = 0; volume < setup_.volume_bytes.size(); ++volume) {
    auto regions = drl::RegionLog::open(process, region_log_path(volume), setup_.group, volume,
                                        primaries_[volume]->geometry().size_bytes, input.create);
    if (!regions) return regions.status();
    regions_.push_back(std::move(*regions));
    regions_.back()->attach(&process);
  }
  open_splitter();
  look();
  return Status::ok();
}

void Life::open_splitter() {
  split::SplitterOptions options;
  options.ack = options_.ack;
  options.flush = options_.flush;
  options.on_log_pressure = options_.on_log_pressure;
  options.throttle_max_ns = options_.throttle_max_ns;
  options.clean_interval_ns = options_.clean_interval_ns;
  splitter_ = std::make_unique<split::Splitter>(
      &reactor_, record_.get(), options,
      split::Splitter::Events{
          .gap = [this](const format::Gap& gap) { protection_->gap_opened(gap); }});
  std::vector<recovery::Protection::Volume> volumes;
  for (uint16_t volume = 0; volume < setup_.volume_bytes.size(); ++volume) {
    fronts_.push_back(
        splitter_->add_volume(volume, primaries_[volume].get(), regions_[volume].get()));
    regions_[volume]->on_failed = [this](const Status& why) { protection_->regions_failed(why); };
    volumes.push_back({volume, primaries_[volume]->geometry().size_bytes, regions_[volume].get()});
  }
  splitter_->start();
  protection_->start(splitter_.get(), std::move(volumes));
}

/// Tells the model what has changed since the last look.
void Life::look() {
  if (!protection_ || !splitter_) return;
  if (protection_->epoch() != epoch_seen_) {
    epoch_seen_ = protection_->epoch();
    durable_seen_ = protection_->epoch_first_lsn() - 1;
    model_.begin_epoch(epoch_seen_, protection_->epoch_first_lsn());
  }
  if (splitter_->in_gap()) model_.gap_opened();
  if (const nvram::LogBuffer* buffer = protection_->buffer()) {
    model_.observe(*buffer);
    if (!splitter_->in_gap()) {
      if (store_->survives_power_cut()) model_.buffer_promised(buffer->head() - 1);
      if (const nvram::BufferCommitter* committer = protection_->committer()) {
        model_.buffer_promised(committer->durable_lsn());
      }
    }
  }
  if (log::LogWriter* writer = protection_->writer();
      writer != nullptr && writer->durable_lsn() > durable_seen_) {
    durable_seen_ = writer->durable_lsn();
    model_.log_durable(durable_seen_, splitter_->in_gap());
  } else if (writer != nullptr && !splitter_->in_gap()) {
    model_.log_promised(writer->durable_lsn());
  }
}

bool Life::heal() {
  for (uint64_t i = 0; i < kPassesMax && splitter_->in_gap(); ++i) run(kPassNs);
  return !splitter_->in_gap();
}

void Life::pause() {
  protection_->pause([](const Status&) {});
}

void Life::resume() {
  protection_->resume([](const Status&) {});
}

bool Life::settle() {
  if (!drain()) return false;
  if (!wait([&](std::function<void()> done) { splitter_->quiesce(std::move(done)); })) return false;
  splitter_->start();
  return true;
}

Status Life::close() {
  if (!drain()) return Status(Code::kBusy, "the guest's requests do not end");
  if (!wait([&](std::function<void()> done) { protection_->stop_healing(std::move(done)); })) {
    return Status(Code::kBusy, "healing never stops");
  }
  if (!wait([&](std::function<void()> done) { splitter_->quiesce(std::move(done)); })) {
    return Status(Code::kBusy, "the splitter is never quiet");
  }
  Status status;
  if (!splitter_->in_gap()) {
    const bool ended = wait([&](std::function<void()> done) {
      protection_->writer()->seal(splitter_->last_lsn(), format::SealReason::kClose,
                                  [&status, done](const Status& sealed, uint64_t) {
                                    status = sealed;
                                    done();
                                  });
    });
    if (!ended) return Status(Code::kBusy, "the log is never sealed");
  }
  const bool settled = wait([&](std::function<void()> done) {
    splitter_->settle([&status, done](Outcome outcome) {
      if (outcome != Outcome::kOk && status) {
        status = Status(Code::kIoError, "a primary could not be synced at the end");
      }
      done();
    });
  });
  if (!settled) return Status(Code::kBusy, "the primaries are never synced");
  const auto idle = [&] {
    bool all = !record_->busy();
    for (const auto& each : regions_) all = all && each->idle();
    return all;
  };
  for (uint64_t i = 0; i < kPassesMax && !idle(); ++i) run(kPassNs);
  if (!idle()) return Status(Code::kBusy, "the state files are never idle");
  format::GroupRecord last = splitter_->record();
  last.last_lsn = splitter_->last_lsn();
  last.last_time_ns = splitter_->last_time_ns();
  last.closed_cleanly = true;
  last.primaries.clear();
  for (uint16_t volume = 0; volume < setup_.volume_bytes.size(); ++volume) {
    const Status closed = regions_[volume]->close_cleanly();
    if (status && !closed) status = closed;
    // Its times too, which the log's and the guest's syncs leave behind.
    const Status synced = process.sync(primaries_[volume]->file());
    if (status && !synced) status = synced;
    auto info = primaries_[volume]->info();
    if (!info) return info.status();
    last.primaries.push_back({volume, {info->size, info->mtime_ns, info->ctime_ns}});
  }
  if (status) status = record_->save(last);
  if (!wait([&](std::function<void()> done) { protection_->stop_log(std::move(done)); })) {
    return Status(Code::kBusy, "the log writer never stops");
  }
  splitter_.reset();
  protection_.reset();
  if (status && store_) (void)store_->put_away().is_ok();
  store_.reset();
  regions_.clear();
  primaries_.clear();
  record_.reset();
  ended_ = true;
  process.end();
  return status;
}

void Life::die() {
  look();
  process.end();
  model_.process_ended();
  // The guest's memory goes with it; the rest of the dead is only kept reachable.
  flying_.clear();
  answered_.clear();
  ended_ = true;
}

// ---- the guest --------------------------------------------------------------------------------

void Life::run(uint64_t wait_ns) {
  reactor_.run_once(wait_ns);
  look();
}

bool Life::drain() {
  for (uint64_t i = 0; i < kPassesMax && in_flight() != 0; ++i) run(kPassNs);
  return in_flight() == 0;
}

template <typename Start>
bool Life::wait(Start start) {
  bool done = false;
  start([&done] { done = true; });
  for (uint64_t i = 0; i < kPassesMax && !done; ++i) run(kPassNs);
  return done;
}

void Life::request(uint16_t volume, block::Op op, uint64_t sector, uint64_t sectors) {
  const Req& req = model_.submit(volume, op, sector, sectors, splitter_->in_gap());
  auto guest = std::make_unique<Guest>();
  guest->life = this;
  guest->id = req.id;
  block::Request& request = guest->request;
  request.op = op;
  request.offset = sector * 512;
  request.length = sectors * 512;
  request.may_unmap = machine_.random.below(2) == 0;
  if (op == block::Op::kWrite || op == block::Op::kRead) {
    // Whole sectors, at any sector of memory, in up to four parts.
    guest->memory.reset(
        static_cast<uint8_t*>(std::aligned_alloc(4096, align_up(sectors * 512, 4096))));
    if (op == block::Op::kWrite) {
      for (uint64_t i = 0; i < sectors; ++i) fill_sector(req.id, i, guest->memory.get() + i * 512);
    }
    uint64_t at = 0;
    while (at < sectors) {
      uint64_t part =
          guest->vectors.size() == 3 ? sectors - at : 1 + machine_.random.below(sectors - at);
      guest->vectors.push_back({guest->memory.get() + at * 512, part * 512});
      at += part;
    }
    request.iov = guest->vectors.data();
    request.iov_count = static_cast<uint32_t>(guest->vectors.size());
  }
  request.owner = guest.get();
  request.on_done = [](block::Request* done) {
    auto* owner = static_cast<Guest*>(done->owner);
    owner->life->answered(owner);
  };
  Guest* raw = guest.get();
  flying_[req.id] = std::move(guest);
  fronts_[volume]->submit(&raw->request);
}

void Life::answered(Guest* guest) {
  const uint64_t id = guest->id;
  look();
  const Req& req = model_.request(id);
  const Outcome outcome = guest->request.outcome;
  if (req.op == block::Op::kRead && outcome == Outcome::kOk) {
    model_.check_read(id, guest->memory.get());
  }
  const bool promised = req.op == block::Op::kFlush ? options_.flush == split::FlushMode::kBoth
                                                    : options_.ack == split::Ack::kBoth;
  slowest_ns = std::max(slowest_ns, machine_.now() - req.submitted_ns);
  model_.complete(id, outcome, splitter_->in_gap(), promised);
  // Not freed inside its own callback.
  const auto found = flying_.find(id);
  answered_.push_back(std::move(found->second));
  flying_.erase(found);
  if (answered_.size() > 16) answered_.pop_front();
}

void Life::marker(const std::string& label) {
  uint8_t payload[kSectorBytes];
  EP_ASSERT(format::encode_marker({0, label}, payload).is_ok());
  format::Entry entry;
  entry.type = format::EntryType::kMarker;
  ++own_entries_;
  splitter_->append_durable(entry, payload,
                            [this, label](const Status& status, uint64_t lsn, uint64_t) {
                              --own_entries_;
                              look();
                              if (status) model_.marker_durable(label, lsn);
                            });
}

}  // namespace ep::sim

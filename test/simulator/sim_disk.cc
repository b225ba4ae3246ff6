// SPDX-License-Identifier: Apache-2.0
#include "sim_disk.h"

#include <algorithm>
#include <cerrno>
#include <cstring>

#include "base/assert.h"
#include "base/bytes.h"

namespace ep::sim {

Machine::Machine(uint64_t seed) : random(seed) { make_inode(-1, true); }
Machine::~Machine() = default;

uint64_t Machine::wall() const { return static_cast<uint64_t>(wall_offset_) + now_; }

// ---- devices and names ------------------------------------------------------------------------

void Machine::add_device(const DeviceSpec& spec) {
  const int device = static_cast<int>(devices_.size());
  devices_.push_back({spec, true, false, {}});
  const int root = make_inode(device, true);
  Inode& top = *inodes_[0];
  top.live[spec.root.substr(1)] = root;
  top.durable = top.live;
}

void Machine::add_fault(const std::string& root, const Fault& fault) {
  Device& device = devices_[static_cast<size_t>(find_device(root))];
  device.faults.push_back(fault);
  device.was_faulty = true;
}

void Machine::clear_faults() {
  for (Device& device : devices_) device.faults.clear();
}

void Machine::set_present(const std::string& root, bool present) {
  Device& device = devices_[static_cast<size_t>(find_device(root))];
  device.present = present;
  if (!present) device.was_faulty = true;
}

bool Machine::was_faulty(const std::string& root) const {
  return devices_[static_cast<size_t>(find_device(root))].was_faulty;
}

int Machine::find_device(const std::string& path) const {
  const size_t end = path.find('/', 1);
  const std::string root = path.substr(0, end);
  for (size_t i = 0; i < devices_.size(); ++i) {
    if (devices_[i].spec.root == root) return static_cast<int>(i);
  }
  return -1;
}

bool Machine::reachable(const std::string& path) const {
  const int device = find_device(path);
  return device >= 0 && devices_[static_cast<size_t>(device)].present;
}

std::pair<std::string, std::string> Machine::split(const std::string& path) {
  const size_t slash = path.find_last_of('/');
  return {path.substr(0, slash), path.substr(slash + 1)};
}

int Machine::find(const std::string& path) const {
  int at = 0;
  for (size_t begin = 1; begin < path.size();) {
    size_t end = path.find('/', begin);
    if (end == std::string::npos) end = path.size();
    const Inode& directory = *inodes_[static_cast<size_t>(at)];
    if (!directory.is_directory) return -1;
    const auto found = directory.live.find(path.substr(begin, end - begin));
    if (found == directory.live.end()) return -1;
    at = found->second;
    begin = end + 1;
  }
  return at;
}

int Machine::make_inode(int device, bool is_directory) {
  auto inode = std::make_unique<Inode>();
  inode->id = static_cast<int>(inodes_.size());
  inode->device = device;
  inode->is_directory = is_directory;
  inodes_.push_back(std::move(inode));
  return inodes_.back()->id;
}

void Machine::link(int directory, const std::string& name, int inode) {
  Inode& at = *inodes_[static_cast<size_t>(directory)];
  at.live[name] = inode;
  at.pending.push_back({name, "", inode});
}

void Machine::unlink(int directory, const std::string& name) {
  Inode& at = *inodes_[static_cast<size_t>(directory)];
  at.live.erase(name);
  at.pending.push_back({"", name, -1});
}

// ---- content ----------------------------------------------------------------------------------

/// Before a sector's live bytes change: what is durable is kept aside, if it is not already.
void Machine::touch_sector(Inode& inode, uint64_t sector) {
  const uint64_t number = sector / kSectors;
  if (inode.pages.size() <= number) inode.pages.resize(number + 1);
  Page& page = inode.pages[number];
  const uint64_t in_page = sector % kSectors;
  const auto bit = static_cast<uint8_t>(1u << in_page);
  if (!page.live) page.live = std::make_unique<Bytes>(Bytes{});
  if (!page.durable) page.durable = std::make_unique<Bytes>(Bytes{});
  const auto keep = [&] {
    std::memcpy(page.durable->data() + in_page * kSector, page.live->data() + in_page * kSector,
                kSector);
  };
  if ((page.dirty & bit) != 0) {
    // Written back meanwhile, perhaps; and surely so when a sync that covers it is on its way (it
    // would have to make these bytes durable, or newer ones).
    const bool covered =
        inode.syncs_in_flight != 0 && page.sequence[in_page] <= inode.syncing_through;
    if (covered || random.below(4) == 0) keep();
  } else {
    if ((page.diverged & bit) == 0) keep();
    if (page.dirty == 0) inode.dirty_pages.push_back(static_cast<uint32_t>(number));
    page.dirty = static_cast<uint8_t>(page.dirty | bit);
    page.diverged = static_cast<uint8_t>(page.diverged & ~bit);
  }
  page.sequence[in_page] = inode.sequence;
}

void Machine::write(Inode& inode, uint64_t offset, const uint8_t* from, uint64_t length) {
  if (length == 0) return;
  ++inode.sequence;
  inode.mtime = wall();
  for (uint64_t at = offset; at < offset + length;) {
    const uint64_t sector = at / kSector;
    const uint64_t stop = std::min(offset + length, (sector + 1) * kSector);
    touch_sector(inode, sector);
    std::memcpy(inode.pages[sector / kSectors].live->data() + at % kPage, from + (at - offset),
                stop - at);
    at = stop;
  }
  if (offset + length > inode.size) {
    inode.size = offset + length;
    inode.size_sequence = inode.sequence;
  }
}

void Machine::zero(Inode& inode, uint64_t offset, uint64_t length) {
  // Size is kept: nothing behind the end.
  const uint64_t end = std::min(inode.size, offset + length);
  if (offset >= end) return;
  const std::vector<uint8_t> zeroes(end - offset);
  write(inode, offset, zeroes.data(), zeroes.size());
}

void Machine::read(const Inode& inode, uint64_t offset, uint8_t* to, uint64_t length) const {
  for (uint64_t at = offset; at < offset + length;) {
    const uint64_t number = at / kPage;
    const uint64_t stop = std::min(offset + length, (number + 1) * kPage);
    if (number < inode.pages.size() && inode.pages[number].live) {
      std::memcpy(to + (at - offset), inode.pages[number].live->data() + at % kPage, stop - at);
    } else {
      std::memset(to + (at - offset), 0, stop - at);
    }
    at = stop;
  }
}

void Machine::set_size(Inode& inode, uint64_t size) {
  if (size == inode.size) return;
  ++inode.sequence;
  inode.mtime = wall();
  if (size < inode.size) {
    // What is cut off reads as zeroes if the file grows again.
    for (uint64_t at = align_up(size, kSector); at < inode.size; at += kSector) {
      if (at / kPage >= inode.pages.size() || !inode.pages[at / kPage].live) continue;
      touch_sector(inode, at / kSector);
      std::memset(inode.pages[at / kPage].live->data() + at % kPage, 0, kSector);
    }
    inode.allocated = std::min(inode.allocated, align_up(size, kPage));
  }
  inode.size = size;
  inode.size_sequence = inode.sequence;
}

Machine::SyncToken Machine::begin_sync(Inode& inode) {
  ++inode.syncs_in_flight;
  inode.syncing_through = std::max(inode.syncing_through, inode.sequence);
  return {inode.id, inode.sequence, inode.size};
}

void Machine::end_sync(const SyncToken& token, bool ok, bool forget, bool with_times) {
  Inode& inode = *inodes_[static_cast<size_t>(token.inode)];
  --inode.syncs_in_flight;
  std::vector<uint32_t> left;
  for (const uint32_t number : inode.dirty_pages) {
    Page& page = inode.pages[number];
    const bool had = page.dirty != 0;
    for (uint64_t i = 0; i < kSectors; ++i) {
      const auto bit = static_cast<uint8_t>(1u << i);
      if ((page.dirty & bit) == 0 || page.sequence[i] > token.sequence) continue;
      // One that fails may have written a part.
      if (ok || random.below(2) == 0) {
        page.dirty = static_cast<uint8_t>(page.dirty & ~bit);
      } else if (forget) {
        page.dirty = static_cast<uint8_t>(page.dirty & ~bit);
        page.diverged = static_cast<uint8_t>(page.diverged | bit);
      }
    }
    if (page.dirty != 0) {
      left.push_back(number);
    } else if (had && page.diverged == 0) {
      page.durable.reset();
    }
  }
  inode.dirty_pages = std::move(left);
  if (!ok) return;
  if (inode.size_sequence <= token.sequence) inode.durable_size = token.size;
  if (with_times) inode.durable_mtime = inode.mtime;
  if (names_with_any_sync) settle_names(inode.device);
}

void Machine::settle_names(int device) {
  for (const auto& inode : inodes_) {
    if (inode->device != device || !inode->is_directory || inode->pending.empty()) continue;
    inode->durable = inode->live;
    inode->pending.clear();
  }
}

void Machine::evict(Inode& inode) {
  for (Page& page : inode.pages) {
    if (page.diverged == 0) continue;
    for (uint64_t i = 0; i < kSectors; ++i) {
      if ((page.diverged & (1u << i)) == 0) continue;
      std::memcpy(page.live->data() + i * kSector, page.durable->data() + i * kSector, kSector);
    }
    page.diverged = 0;
    ++inode.sequence;
  }
}

void Machine::power_cut(Inode& inode) {
  if (inode.is_directory) {
    // Names: some of the changes since the last sync, in their order.
    std::map<std::string, int> after = inode.durable;
    const bool prefix = random.below(2) == 0;
    const uint64_t stop = random.below(inode.pending.size() + 1);
    for (size_t i = 0; i < inode.pending.size(); ++i) {
      if (prefix ? i >= stop : random.below(2) == 0) continue;
      const DirOp& op = inode.pending[i];
      if (!op.remove.empty()) after.erase(op.remove);
      if (!op.add.empty()) after[op.add] = op.inode;
    }
    inode.pending.clear();
    inode.live = inode.durable = after;
    return;
  }
  const uint64_t keep = random.below(4) * 33;  // percent: none, some, most, all
  bool changed = false;
  for (const uint32_t number : inode.dirty_pages) {
    Page& page = inode.pages[number];
    for (uint64_t i = 0; i < kSectors; ++i) {
      if ((page.dirty & (1u << i)) == 0 || random.below(99) < keep) continue;
      std::memcpy(page.live->data() + i * kSector, page.durable->data() + i * kSector, kSector);
      changed = true;
    }
    page.dirty = 0;
    if (page.diverged == 0) page.durable.reset();
  }
  inode.dirty_pages.clear();
  evict(inode);
  if (inode.size != inode.durable_size && random.below(2) == 0) {
    set_size(inode, inode.durable_size);
    // The cut itself is on the disk.
    for (const uint32_t number : inode.dirty_pages) {
      inode.pages[number].dirty = 0;
      inode.pages[number].durable.reset();
    }
    inode.dirty_pages.clear();
    changed = true;
  }
  inode.durable_size = inode.size;
  if (inode.mtime != inode.durable_mtime && random.below(2) == 0) inode.mtime = inode.durable_mtime;
  inode.durable_mtime = inode.mtime;
  inode.syncs_in_flight = 0;
  if (changed) ++inode.sequence;
}

void Machine::power_cut() {
  EP_ASSERT(open_.empty());
  trace.add("power cut");
  // What still was in flight lands before, or never.
  for (const Late& late : late_) {
    if (random.below(2) == 0) land(late);
  }
  late_.clear();
  for (size_t i = 1; i < inodes_.size(); ++i) power_cut(*inodes_[i]);
}

uint64_t Machine::used_bytes(int device) const {
  uint64_t used = 0;
  for (const auto& inode : inodes_) {
    if (inode->device == device) used += inode->allocated;
  }
  return used;
}

// ---- late requests ----------------------------------------------------------------------------

void Machine::land(const Late& late) {
  Inode& inode = *inodes_[static_cast<size_t>(late.inode)];
  trace.add(late.offset + late.bytes.size());
  if (late.kind == io::Op::Kind::kWrite) {
    write(inode, late.offset, late.bytes.data(), late.bytes.size());
  } else {
    zero(inode, late.offset, late.length);
  }
}

void Machine::land_late(uint64_t until) {
  if (late_.empty()) return;
  for (size_t i = 0; i < late_.size();) {
    if (late_[i].due > until) {
      ++i;
      continue;
    }
    land(late_[i]);
    late_.erase(late_.begin() + static_cast<ptrdiff_t>(i));
  }
}

/// Who takes the lock has waited for what a dead process still had in flight.
void Machine::settle_lock(int inode) {
  for (size_t i = 0; i < late_.size();) {
    if (late_[i].inode != inode) {
      ++i;
      continue;
    }
    land(late_[i]);
    late_.erase(late_.begin() + static_cast<ptrdiff_t>(i));
  }
}

// ---- faults -----------------------------------------------------------------------------------

const Fault* Machine::pick_fault(int device, bool Fault::*kind) {
  for (const Fault& fault : devices_[static_cast<size_t>(device)].faults) {
    if (!(fault.*kind) || fault.extra_ns != 0 || fault.hang) continue;
    if (now_ < fault.from_ns || now_ >= fault.to_ns) continue;
    if (random.percent(fault.percent)) return &fault;
  }
  return nullptr;
}

std::optional<uint64_t> Machine::delay_of(int device, bool Fault::*kind) {
  uint64_t extra = 0;
  for (const Fault& fault : devices_[static_cast<size_t>(device)].faults) {
    if (!(fault.*kind) || (fault.extra_ns == 0 && !fault.hang)) continue;
    if (now_ < fault.from_ns || now_ >= fault.to_ns || !random.percent(fault.percent)) continue;
    if (fault.hang) return std::nullopt;
    extra += fault.extra_ns;
  }
  return extra;
}

// ---- for checks -------------------------------------------------------------------------------

bool Machine::exists(const std::string& path) const { return find(path) >= 0; }

std::vector<uint8_t> Machine::read_all(const std::string& path) const {
  const int inode = find(path);
  if (inode < 0) return {};
  const Inode& file = *inodes_[static_cast<size_t>(inode)];
  std::vector<uint8_t> bytes(file.size);
  read(file, 0, bytes.data(), bytes.size());
  return bytes;
}

std::vector<std::string> Machine::list(const std::string& path) const {
  std::vector<std::string> names;
  const int inode = find(path);
  if (inode < 0) return names;
  for (const auto& [name, unused] : inodes_[static_cast<size_t>(inode)]->live)
    names.push_back(name);
  return names;
}

uint64_t Machine::version(const std::string& path) const {
  const int inode = find(path);
  if (inode < 0) return 0;
  return mix(static_cast<uint64_t>(inode)) + inodes_[static_cast<size_t>(inode)]->sequence;
}

void Machine::for_each_sector(
    const std::string& path,
    const std::function<void(uint64_t sector, const uint8_t* bytes)>& visit) const {
  static constexpr Bytes kZeroes{};
  const int inode = find(path);
  if (inode < 0) return;
  const Inode& file = *inodes_[static_cast<size_t>(inode)];
  for (uint64_t sector = 0; sector * kSector < file.size; ++sector) {
    const uint64_t page = sector / kSectors;
    const bool there = page < file.pages.size() && file.pages[page].live;
    const uint8_t* bytes = there ? file.pages[page].live->data() : kZeroes.data();
    visit(sector, bytes + sector % kSectors * kSector);
  }
}

// ---- a process: its ring ----------------------------------------------------------------------

Process::~Process() { EP_ASSERT(ended_); }

Machine::Inode& Process::inode_of(io::FileId file) {
  const auto found = machine_.open_.find(file);
  EP_ASSERT(found != machine_.open_.end());
  EP_ASSERT(found->second.process == this);
  return *machine_.inodes_[static_cast<size_t>(found->second.inode)];
}

void Process::schedule(uint64_t at, Event::Kind kind, uint64_t id) {
  events_.emplace(std::make_pair(at, event_sequence_++), Event{kind, id});
}

std::vector<uint8_t> Process::gather(const io::Op& op, uint64_t limit) {
  std::vector<uint8_t> all;
  for (uint32_t i = 0; i < op.iov_count && all.size() < limit; ++i) {
    const auto* from = static_cast<const uint8_t*>(op.iov[i].iov_base);
    const uint64_t take = std::min<uint64_t>(op.iov[i].iov_len, limit - all.size());
    all.insert(all.end(), from, from + take);
  }
  return all;
}

namespace {
bool Fault::*fault_kind(io::Op::Kind kind) {
  if (kind == io::Op::Kind::kRead) return &Fault::read;
  return kind == io::Op::Kind::kSyncData ? &Fault::sync : &Fault::write;
}
uint64_t total_bytes(const io::Op& op) {
  uint64_t sum = 0;
  for (uint32_t i = 0; i < op.iov_count; ++i) sum += op.iov[i].iov_len;
  return sum;
}
}  // namespace

void Process::submit(io::Op* op) {
  EP_ASSERT(!ended_);
  Machine::Inode& inode = inode_of(op->file);
  Machine::Device& device = machine_.devices_[static_cast<size_t>(inode.device)];
  const uint64_t id = next_id_++;
  Pending& pending = pending_[id];
  pending.op = op;
  machine_.trace.add((static_cast<uint64_t>(op->kind) << 56) ^ op->offset ^
                     (static_cast<uint64_t>(inode.id) << 40));
  const bool is_sync = op->kind == io::Op::Kind::kSyncData;
  if (is_sync) pending.sync = machine_.begin_sync(inode);
  const auto extra = machine_.delay_of(inode.device, fault_kind(op->kind));
  if (const Fault* fault = machine_.pick_fault(inode.device, fault_kind(op->kind))) {
    pending.failure = -fault->error;
    if (op->kind == io::Op::Kind::kWrite) {
      pending.shorten_to = machine_.random.below(total_bytes(*op) / 512 + 1) * 512;
    }
  } else if (op->kind == io::Op::Kind::kWrite &&
             machine_.pick_fault(inode.device, &Fault::short_write) != nullptr) {
    pending.shorten_to = machine_.random.below(total_bytes(*op) / 512 + 1) * 512;
  }
  const DeviceSpec& spec = device.spec;
  const uint64_t most = is_sync ? spec.sync_max_ns : spec.latency_max_ns;
  const uint64_t takes = machine_.random.between(std::min(spec.latency_min_ns, most), most);
  const uint64_t now = machine_.now();
  if (!extra) {
    ++hanging_;
    return;  // it may have its effect when the process ends, or later
  }
  const uint64_t due = now + takes + *extra;
  schedule(machine_.random.below(3) == 0 ? machine_.random.between(now, due) : due,
           Event::Kind::kEffect, id);
  schedule(due, Event::Kind::kComplete, id);
}

void Process::effect(Pending& pending) {
  if (pending.effected) return;
  pending.effected = true;
  const io::Op& op = *pending.op;
  Machine::Inode& inode = inode_of(op.file);
  const Machine::OpenFile& file = machine_.open_.at(op.file);
  switch (op.kind) {
    case io::Op::Kind::kRead: {
      if (pending.failure != 0) break;
      const uint64_t have =
          op.offset < inode.size ? std::min(inode.size - op.offset, total_bytes(op)) : 0;
      uint64_t done = 0;
      for (uint32_t i = 0; i < op.iov_count && done < have; ++i) {
        const uint64_t take = std::min<uint64_t>(op.iov[i].iov_len, have - done);
        machine_.read(inode, op.offset + done, static_cast<uint8_t*>(op.iov[i].iov_base), take);
        done += take;
      }
      pending.result = static_cast<int32_t>(have);
      break;
    }
    case io::Op::Kind::kWrite: {
      EP_ASSERT(!file.read_only);
      const std::vector<uint8_t> bytes = gather(op, pending.shorten_to);
      machine_.write(inode, op.offset, bytes.data(), bytes.size());
      pending.result = static_cast<int32_t>(bytes.size());
      break;
    }
    case io::Op::Kind::kSyncData:
      machine_.end_sync(pending.sync, pending.failure == 0, !file.direct, false);
      break;
    case io::Op::Kind::kPunch:
    case io::Op::Kind::kZeroRange:
      if (pending.failure == 0) machine_.zero(inode, op.offset, op.length);
      break;
  }
  if (pending.failure != 0) pending.result = pending.failure;
}

void Process::watch(io::Watch*) { EP_ASSERT(false); }
void Process::unwatch(io::Watch*) { EP_ASSERT(false); }
unsigned Process::in_flight() const { return static_cast<unsigned>(pending_.size()); }

void Process::offload(std::function<void()> work, std::function<void()> done) {
  jobs_.push_back({std::move(work), std::move(done)});
}

/// The helper thread takes the next job: all its calls have their effect now, in one go, and take
/// their time together; the reactor hears of it when that has passed.
void Process::start_job() {
  if (helper_busy_ || jobs_.empty()) return;
  Job job = std::move(jobs_.front());
  jobs_.erase(jobs_.begin());
  helper_busy_ = true;
  in_helper_ = true;
  helper_ns_ = 0;
  helper_hangs_ = false;
  job.work();
  in_helper_ = false;
  job_done_ = std::move(job.done);
  if (helper_hangs_) {
    ++hanging_;
    return;
  }
  schedule(machine_.now() + helper_ns_, Event::Kind::kHelperDone, 0);
}

unsigned Process::run_due() {
  unsigned count = 0;
  start_job();
  while (!events_.empty() && events_.begin()->first.first <= machine_.now()) {
    const Event event = events_.begin()->second;
    events_.erase(events_.begin());
    if (event.kind == Event::Kind::kHelperDone) {
      helper_busy_ = false;
      post_(std::move(job_done_));
      job_done_ = nullptr;
      start_job();
      ++count;
      continue;
    }
    const auto found = pending_.find(event.id);
    if (found == pending_.end()) continue;
    effect(found->second);
    if (event.kind == Event::Kind::kEffect) continue;
    io::Op* op = found->second.op;
    const int32_t result = found->second.result;
    pending_.erase(found);
    machine_.trace.add(event.id ^ (static_cast<uint64_t>(static_cast<uint32_t>(result)) << 32));
    ++count;
    op->on_complete(op, result);
  }
  return count;
}

unsigned Process::reap(uint64_t wait_ns) {
  unsigned count = run_due();
  if (machine_.now() >= die_at_ns) throw ProcessDeath{};
  if (count != 0 || wait_ns == 0) return count;
  uint64_t next = machine_.now() + wait_ns;
  if (!events_.empty())
    next = std::min(next, std::max(events_.begin()->first.first, machine_.now()));
  if (die_at_ns < next) {
    machine_.advance(die_at_ns - machine_.now());
    throw ProcessDeath{};
  }
  machine_.advance(next - machine_.now());
  return run_due();
}

void Process::end() {
  EP_ASSERT(!ended_);
  ended_ = true;
  machine_.trace.add("end of process");
  std::vector<uint64_t> order;
  for (const auto& [id, pending] : pending_) order.push_back(id);
  for (size_t i = order.size(); i > 1; --i)
    std::swap(order[i - 1], order[machine_.random.below(i)]);
  for (const uint64_t id : order) {
    Pending& pending = pending_[id];
    const io::Op& op = *pending.op;
    if (pending.effected || op.kind == io::Op::Kind::kRead) continue;
    Machine::Inode& inode = inode_of(op.file);
    const uint64_t fate = machine_.random.below(4);
    if (op.kind == io::Op::Kind::kSyncData) {
      if (fate == 0) {
        machine_.end_sync(pending.sync, true, false, false);
      } else {
        --inode.syncs_in_flight;
      }
      continue;
    }
    Machine::Late late;
    late.inode = inode.id;
    late.kind = op.kind;
    late.offset = op.offset;
    late.length = op.length;
    if (op.kind == io::Op::Kind::kWrite) late.bytes = gather(op, pending.shorten_to);
    if (fate == 1 || fate == 3) {
      // In part, from any sector to any: the device may take them in any order.
      if (op.kind == io::Op::Kind::kWrite && machine_.random.below(2) == 0 && !late.bytes.empty()) {
        const uint64_t sectors = (late.bytes.size() + 511) / 512;
        const uint64_t first = machine_.random.below(sectors);
        const uint64_t count = machine_.random.below(sectors - first + 1);
        const uint64_t stop = std::min<uint64_t>(late.bytes.size(), (first + count) * 512);
        late.bytes = std::vector<uint8_t>(late.bytes.begin() + static_cast<ptrdiff_t>(first * 512),
                                          late.bytes.begin() + static_cast<ptrdiff_t>(stop));
        late.offset += first * 512;
      }
      if (fate == 1) {
        machine_.land(late);
      } else {
        late.due = machine_.now() + machine_.random.below(200 * kMillisecond);
        machine_.late_.push_back(std::move(late));
      }
    } else if (fate == 2) {
      machine_.land(late);
    }
  }
  pending_.clear();
  events_.clear();
  jobs_.clear();
  std::vector<io::FileId> mine;
  for (const auto& [file, open] : machine_.open_) {
    if (open.process == this) mine.push_back(file);
  }
  for (const io::FileId file : mine) {
    Machine::Inode& inode = inode_of(file);
    if (inode.locked_by == file) inode.locked_by = -1;
    machine_.open_.erase(file);
  }
}

// ---- a process: blocking calls ------------------------------------------------------------------

void Process::take_time(uint64_t ns) {
  if (in_helper_) {
    helper_ns_ += ns;
  } else {
    machine_.advance(ns);
  }
}

Status Process::step(const char* operation, const std::string& path, int device, bool Fault::*kind,
                     uint64_t bytes) {
  EP_ASSERT(!ended_);
  machine_.trace.add(operation);
  machine_.trace.add(path);
  machine_.trace.add(bytes);
  if (calls_++ == die_at_call) throw ProcessDeath{};
  take_time(machine_.random.between(5'000, 100'000));
  if (device < 0) return Status::from_errno(ENOENT, std::string(operation) + " " + path);
  if (!machine_.devices_[static_cast<size_t>(device)].present) {
    return Status::from_errno(ENOENT, std::string(operation) + " " + path);
  }
  if (const auto extra = machine_.delay_of(device, kind)) {
    take_time(*extra);
  } else if (in_helper_) {
    helper_hangs_ = true;
  } else {
    take_time(20 * kSecond);  // an opening that hangs for a while
  }
  if (const Fault* fault = machine_.pick_fault(device, kind)) {
    return Status::from_errno(fault->error, std::string(operation) + " " + path);
  }
  return Status::ok();
}

Result<io::FileId> Process::open(const std::string& path, const io::OpenOptions& options) {
  const int device = machine_.find_device(path);
  int inode = machine_.find(path);
  const bool makes = inode < 0 && options.create;
  EP_TRY(step("open", path, device, makes ? &Fault::make_error : &Fault::read, 0));
  if (inode < 0) {
    const auto [folder, name] = Machine::split(path);
    const int parent = machine_.find(folder);
    if (!options.create || parent < 0) return Status::from_errno(ENOENT, "open " + path);
    inode = machine_.make_inode(device, false);
    machine_.link(parent, name, inode);
  } else if (options.create && options.exclusive) {
    return Status::from_errno(EEXIST, "open " + path);
  }
  Machine::Inode& file = *machine_.inodes_[static_cast<size_t>(inode)];
  if (file.is_directory) return Status::from_errno(EISDIR, "open " + path);
  const io::FileId id = machine_.next_file_++;
  if (options.lock) {
    if (file.locked_by >= 0) {
      take_time(options.lock_wait_ns);
      return Status(Code::kBusy, "lock " + path + ": held by a process");
    }
    machine_.settle_lock(inode);
    file.locked_by = id;
  }
  const DeviceSpec& spec = machine_.devices_[static_cast<size_t>(device)].spec;
  machine_.open_[id] = {
      this, inode, options.direct && spec.takes_direct, options.lock, options.read_only, path};
  return id;
}

void Process::close(io::FileId file) {
  // A destructor of a process that is gone may still say so.
  if (ended_) return;
  Machine::Inode& inode = inode_of(file);
  if (inode.locked_by == file) inode.locked_by = -1;
  for (const auto& [id, pending] : pending_) EP_ASSERT(pending.op->file != file);
  machine_.open_.erase(file);
}

Result<io::FileInfo> Process::info(io::FileId file) {
  const Machine::Inode& inode = inode_of(file);
  const DeviceSpec& spec = machine_.devices_[static_cast<size_t>(inode.device)].spec;
  io::FileInfo info;
  info.size = inode.size;
  info.in_memory = spec.in_memory;
  info.direct = machine_.open_.at(file).direct;
  if (info.direct) info.memory_alignment = info.offset_alignment = spec.alignment;
  info.mtime_ns = info.ctime_ns = inode.mtime;
  return info;
}

Status Process::read(io::FileId file, uint64_t offset, void* to, size_t size, size_t* got) {
  const Machine::Inode& inode = inode_of(file);
  EP_TRY(step("read", machine_.open_.at(file).path, inode.device, &Fault::read, offset + size));
  machine_.read(inode, offset, static_cast<uint8_t*>(to), size);
  const uint64_t have = offset < inode.size ? std::min<uint64_t>(inode.size - offset, size) : 0;
  std::memset(static_cast<uint8_t*>(to) + have, 0, size - have);
  if (got != nullptr) *got = have;
  return Status::ok();
}

Status Process::write(io::FileId file, uint64_t offset, const void* from, size_t size) {
  Machine::Inode& inode = inode_of(file);
  EP_ASSERT(!machine_.open_.at(file).read_only);
  const auto* bytes = static_cast<const uint8_t*>(from);
  const bool dies = calls_ == die_at_call;
  if (dies) machine_.write(inode, offset, bytes, machine_.random.below(size / 512 + 1) * 512);
  const Status status =
      step("write", machine_.open_.at(file).path, inode.device, &Fault::write, offset + size);
  if (!status) {
    machine_.write(inode, offset, bytes, machine_.random.below(size / 512 + 1) * 512);
    return status;
  }
  machine_.write(inode, offset, bytes, size);
  return Status::ok();
}

Status Process::sync(io::FileId file) {
  Machine::Inode& inode = inode_of(file);
  const Machine::SyncToken token = machine_.begin_sync(inode);
  Status status;
  try {
    status = step("sync", machine_.open_.at(file).path, inode.device, &Fault::sync, 0);
  } catch (const ProcessDeath&) {
    --inode.syncs_in_flight;
    throw;
  }
  machine_.end_sync(token, status.is_ok(), !machine_.open_.at(file).direct, true);
  return status;
}

Status Process::allocate(io::FileId file, uint64_t offset, uint64_t length) {
  Machine::Inode& inode = inode_of(file);
  const std::string& path = machine_.open_.at(file).path;
  EP_TRY(step("allocate", path, inode.device, &Fault::make_error, offset + length));
  const uint64_t end = align_up(offset + length, Machine::kPage);
  const Machine::Device& device = machine_.devices_[static_cast<size_t>(inode.device)];
  if (end > inode.allocated) {
    if (machine_.used_bytes(inode.device) + end - inode.allocated > device.spec.capacity) {
      return Status::from_errno(ENOSPC, "allocate " + path);
    }
    inode.allocated = end;
  }
  if (offset + length > inode.size) machine_.set_size(inode, offset + length);
  return Status::ok();
}

Status Process::zero(io::FileId file, uint64_t offset, uint64_t length) {
  Machine::Inode& inode = inode_of(file);
  EP_TRY(step("zero", machine_.open_.at(file).path, inode.device, &Fault::write, offset + length));
  machine_.zero(inode, offset, length);
  return Status::ok();
}

Status Process::truncate(io::FileId file, uint64_t size) {
  Machine::Inode& inode = inode_of(file);
  EP_TRY(step("truncate", machine_.open_.at(file).path, inode.device, &Fault::write, size));
  machine_.set_size(inode, size);
  return Status::ok();
}

Status Process::make_directories(const std::string& path) {
  const int device = machine_.find_device(path);
  EP_TRY(step("make_directories", path, device, &Fault::make_error, 0));
  for (size_t end = path.find('/', 1);; end = path.find('/', end + 1)) {
    const std::string part = path.substr(0, end);
    if (machine_.find(part) < 0) {
      const auto [folder, name] = Machine::split(part);
      const int made = machine_.make_inode(device, true);
      machine_.link(machine_.find(folder), name, made);
    }
    if (end == std::string::npos) return Status::ok();
  }
}

Result<std::vector<std::string>> Process::list(const std::string& path) {
  EP_TRY(step("list", path, machine_.find_device(path), &Fault::read, 0));
  const int inode = machine_.find(path);
  if (inode < 0) return Status::from_errno(ENOENT, "list " + path);
  if (!machine_.inodes_[static_cast<size_t>(inode)]->is_directory) {
    return Status::from_errno(ENOTDIR, "list " + path);
  }
  return machine_.list(path);
}

Status Process::rename(const std::string& from, const std::string& to) {
  EP_TRY(step("rename", from, machine_.find_device(from), &Fault::make_error, 0));
  const int inode = machine_.find(from);
  const auto [from_folder, from_name] = Machine::split(from);
  const auto [to_folder, to_name] = Machine::split(to);
  const int target = machine_.find(to_folder);
  if (inode < 0 || target < 0) return Status::from_errno(ENOENT, "rename " + from);
  EP_ASSERT(from_folder == to_folder);  // nothing moves files between folders
  Machine::Inode& folder = *machine_.inodes_[static_cast<size_t>(target)];
  folder.live.erase(from_name);
  folder.live[to_name] = inode;
  folder.pending.push_back({to_name, from_name, inode});
  return Status::ok();
}

Status Process::remove(const std::string& path) {
  EP_TRY(step("remove", path, machine_.find_device(path), &Fault::make_error, 0));
  const int inode = machine_.find(path);
  if (inode < 0) return Status::from_errno(ENOENT, "remove " + path);
  Machine::Inode& file = *machine_.inodes_[static_cast<size_t>(inode)];
  if (file.is_directory && !file.live.empty()) return Status::from_errno(EBUSY, "remove " + path);
  const auto [folder, name] = Machine::split(path);
  machine_.unlink(machine_.find(folder), name);
  file.allocated = 0;
  return Status::ok();
}

Status Process::sync_directory(const std::string& path) {
  EP_TRY(step("sync_directory", path, machine_.find_device(path), &Fault::sync, 0));
  const int inode = machine_.find(path);
  if (inode < 0) return Status::from_errno(ENOENT, "fsync " + path);
  Machine::Inode& folder = *machine_.inodes_[static_cast<size_t>(inode)];
  folder.durable = folder.live;
  folder.pending.clear();
  return Status::ok();
}

Result<io::SpaceInfo> Process::space(const std::string& path) {
  const int device = machine_.find_device(path);
  EP_TRY(step("space", path, device, &Fault::make_error, 0));
  if (machine_.find(path) < 0) return Status::from_errno(ENOENT, "statvfs " + path);
  const uint64_t capacity = machine_.devices_[static_cast<size_t>(device)].spec.capacity;
  const uint64_t used = machine_.used_bytes(device);
  return io::SpaceInfo{capacity, used < capacity ? capacity - used : 0};
}

}  // namespace ep::sim

// SPDX-License-Identifier: Apache-2.0
#include "front-end/workload.h"

#include <fcntl.h>
#include <poll.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>

#include "front-end/workload_internal.h"

namespace ep::front_end {

namespace {

constexpr uint64_t kSecond = 1000000000;
/// The model keeps 16 bytes per sector: 1 GiB of volume costs 32 MiB.
constexpr uint64_t kDefaultSpan = 1ull << 30;
/// How long to look again and again before sleeping.
constexpr int kSpins = 200;

}  // namespace

Workload::Workload(WorkloadOptions options, FILE* out)
    : options_(std::move(options)), out_(out), plan_(std::make_unique<Plan>()) {
  // An indirect table must not be longer than the ring either.
  const uint32_t most = options_.queue_size > 3 ? options_.queue_size - 2u : 1u;
  options_.max_segments =
      static_cast<uint16_t>(std::clamp<uint32_t>(options_.max_segments, 1, most));
}

Workload::~Workload() = default;

Status Workload::open() {
  FRONT_END_TRY(journal_.open(options_.journal_path, options_.seed, options_.first_id,
                              static_cast<uint32_t>(options_.sockets.size()), options_.queues));
  for (const std::string& path : options_.sockets) {
    BlkDeviceOptions device;
    device.client.socket_path = path;
    device.client.queues = options_.queues;
    device.client.queue_size = options_.queue_size;
    device.client.event_idx = options_.event_idx;
    device.client.indirect = options_.indirect;
    device.client.inflight = options_.inflight;
    device.client.regions = options_.regions;
    device.depth = options_.depth;
    device.max_bytes = std::max<uint32_t>(options_.max_bytes, 4096);
    device.max_segments = options_.max_segments;
    auto volume = std::make_unique<Volume>(device);
    volume->index = volumes_.size();
    FRONT_END_TRY(volume->device.open());
    const uint64_t span = options_.span != 0 ? options_.span : kDefaultSpan;
    volume->sectors = std::min(volume->device.capacity(), span) / kSectorBytes;
    if (volume->sectors * kSectorBytes < options_.align) {
      return Status::error(path + ": the volume is smaller than --align");
    }
    const WorkloadMix& mix = options_.mix;
    if (volume->device.client().has(kFeatureReadOnly) &&
        mix.write + mix.discard + mix.write_zeroes > 0) {
      return Status::error(path + ": the volume is read-only, the mix writes");
    }
    volume->model =
        std::make_unique<VolumeModel>(&journal_, volume->sectors, options_.initial_zero);
    volume->newest_done.assign(options_.queues, 0);
    volumes_.push_back(std::move(volume));
  }
  if (options_.command_fd >= 0) {
    ::fcntl(options_.command_fd, F_SETFL, ::fcntl(options_.command_fd, F_GETFL) | O_NONBLOCK);
  }
  return {};
}

JsonLine Workload::event(const char* name) const {
  JsonLine line;
  line.text("event", name).number("tick", journal_.last_tick());
  return line;
}

uint32_t Workload::in_flight() const {
  uint32_t sum = 0;
  for (const auto& volume : volumes_) sum += volume->device.in_flight();
  return sum;
}

bool Workload::all_connected() const {
  return std::all_of(volumes_.begin(), volumes_.end(),
                     [](const auto& v) { return v->device.client().connected(); });
}

void Workload::fail(const std::string& what) {
  if (result_.failures.empty()) failed_at_ns_ = BlkDevice::now_ns();
  if (result_.failures.size() < 10) {
    result_.failures.push_back(what);
    event("failure").text("what", what).print(out_);
  }
}

WorkloadResult Workload::run() {
  start_ns_ = BlkDevice::now_ns();
  next_progress_ns_ = start_ns_ + kSecond;
  if (options_.seconds > 0) {
    end_by_ns_ = start_ns_ + static_cast<uint64_t>(options_.seconds * 1e9);
  }
  JsonLine started = event("started");
  started.number("volumes", volumes_.size()).number("seed", options_.seed);
  const VhostUserClient& first = volumes_[0]->device.client();
  started.boolean("inflight", first.inflight_active());
  started.boolean("discard", first.has(kFeatureDiscard));
  started.boolean("writeZeroes", first.has(kFeatureWriteZeroes));
  std::string spans;
  for (const auto& volume : volumes_) {
    spans += (spans.empty() ? "" : ",") + std::to_string(volume->sectors * kSectorBytes);
  }
  started.raw("spans", "[" + spans + "]").print(out_);
  if (options_.start_paused) {
    state_ = State::kPausing;
  }

  int idle = 0;
  while (state_ != State::kEnding) {
    if (step()) {
      idle = 0;
    } else if (++idle > kSpins) {
      wait_until_something_happens();
      idle = kSpins / 2;
    }
    // Looked at now and then only: each costs a system call.
    if (idle > 0 || (result_.submitted & 255) == 0) look_at_time();
    advance_state();
  }

  const bool drained = in_flight() == 0;
  for (auto& volume : volumes_) {
    if (!drained || !volume->device.client().connected()) continue;
    if (Status status = volume->device.client().stop(); !status.ok()) {
      fail("volume " + std::to_string(volume->index) + ": stop: " + status.message());
    }
  }
  if (Status status = journal_.close(drained); !status.ok()) fail(status.message());
  if (!drained) fail(std::to_string(in_flight()) + " requests never completed");
  result_.ok = result_.failures.empty();
  JsonLine done = event("done");
  done.boolean("ok", result_.ok).number("submitted", result_.submitted);
  done.number("completed", result_.completed).number("errors", result_.errors);
  done.number("reads", result_.reads).number("writes", result_.writes);
  done.number("flushes", result_.flushes).number("discards", result_.discards);
  done.number("writeZeroes", result_.write_zeroes);
  done.number("sectorsChecked", result_.sectors_checked);
  done.number("sectorsSkipped", result_.sectors_skipped);
  done.number("reconnects", result_.reconnects).number("resubmitted", result_.resubmitted);
  done.number("outOfOrder", result_.out_of_order);
  done.number("failures", result_.failures.size());
  done.decimal("seconds", static_cast<double>(BlkDevice::now_ns() - start_ns_) / 1e9);
  done.print(out_);
  return result_;
}

bool Workload::step() {
  const uint64_t before = result_.completed;
  poll_completions();
  bool moved = result_.completed != before;
  const bool wants = state_ == State::kRunning || state_ == State::kChecking || planned_;
  if (wants && result_.failures.empty()) moved |= issue();
  return moved;
}

void Workload::poll_completions() {
  for (auto& volume : volumes_) {
    for (uint16_t q = 0; q < options_.queues; q++) {
      volume->device.client().ring(q).disarm_interrupt();
      volume->device.poll(q, [&](Slot& slot) { on_completion(*volume, slot); });
    }
    const auto& violations = volume->device.violations();
    for (; volume->violations_seen < violations.size(); volume->violations_seen++) {
      fail("volume " + std::to_string(volume->index) + ": " + violations[volume->violations_seen]);
    }
  }
}

void Workload::on_completion(Volume& volume, Slot& slot) {
  JournalRecord& record = journal_.record(static_cast<uint32_t>(slot.user));
  record.complete_tick = journal_.tick();
  record.status = slot.status;
  result_.completed++;
  uint32_t& newest = volume.newest_done[slot.queue];
  if (record.id < newest) result_.out_of_order++;
  newest = std::max(newest, record.id);
  if (slot.status != kStatusOk) {
    result_.errors++;
    if (options_.no_error_tolerance) {
      fail("request " + std::to_string(record.id) + " (type " + std::to_string(record.type) +
           ") ended with status " + std::to_string(slot.status));
    }
  }
  switch (record.type) {
    case kBlkIn: {
      result_.reads++;
      auto read = std::find_if(volume.reads.begin(), volume.reads.end(),
                               [&](const ActiveRead& r) { return r.slot == &slot; });
      if (slot.status == kStatusOk) check_read(volume, slot, *read);
      *read = volume.reads.back();
      volume.reads.pop_back();
      break;
    }
    case kBlkFlush:
      result_.flushes++;
      break;
    case kBlkOut:
    case kBlkDiscard:
    case kBlkWriteZeroes:
      result_.writes += record.type == kBlkOut;
      result_.discards += record.type == kBlkDiscard;
      result_.write_zeroes += record.type == kBlkWriteZeroes;
      volume.model->complete(record, options_.discard_any);
      std::erase(volume.changes, record.id);
      break;
  }
  volume.device.release(&slot);
}

void Workload::check_read(Volume& volume, Slot& slot, const ActiveRead& read) {
  if (slot.used_length != read.count * kSectorBytes + 1) {
    fail("read " + std::to_string(slot.user) + " reports a used length of " +
         std::to_string(slot.used_length));
  }
  for (uint32_t i = 0; i < read.count; i++) {
    const uint64_t sector = read.first + i;
    const uint8_t* data = slot.data + static_cast<size_t>(i) * kSectorBytes;
    if (read.skip.test(i) || volume.model->unknown(sector)) {
      result_.sectors_skipped++;
      continue;
    }
    result_.sectors_checked++;
    if (volume.model->matches(sector, data, options_.seed)) continue;
    event("mismatch")
        .number("volume", volume.index)
        .number("offset", sector * kSectorBytes)
        .number("readId", slot.user)
        .raw("expected", volume.model->expected_json(sector))
        .raw("found", describe_sector(data, options_.seed))
        .print(out_);
    fail("volume " + std::to_string(volume.index) + ": sector " + std::to_string(sector) +
         " holds something else than was written");
    return;
  }
}

void Workload::advance_state() {
  const bool idle = !planned_ && in_flight() == 0;
  if (!result_.failures.empty()) {
    // Nothing new; what is in flight may end for a while, for a better journal.
    const bool can_drain = all_connected() && BlkDevice::now_ns() < failed_at_ns_ + 2 * kSecond;
    if (in_flight() == 0 || !can_drain) state_ = State::kEnding;
    return;
  }
  switch (state_) {
    case State::kRunning:
      if (idle && work_is_over()) {
        state_ = options_.final_check ? State::kChecking : State::kEnding;
      }
      break;
    case State::kPausing:
      if (!idle) break;
      state_ = State::kPaused;
      if (Status status = journal_.write_final_prefix(); !status.ok()) fail(status.message());
      event("paused").number("requests", journal_.size()).print(out_);
      break;
    case State::kPaused:
      if (stop_) state_ = State::kRunning;
      break;
    case State::kChecking:
      if (idle && check_volume_ >= volumes_.size()) state_ = State::kEnding;
      break;
    case State::kEnding:
      break;
  }
}

void Workload::look_at_time() {
  look_after_connections();
  read_commands();
  const uint64_t now = BlkDevice::now_ns();
  if (now < next_progress_ns_) return;
  next_progress_ns_ = now + kSecond;
  event("progress")
      .number("submitted", result_.submitted)
      .number("completed", result_.completed)
      .number("inFlight", in_flight())
      .number("errors", result_.errors)
      .number("reconnects", result_.reconnects)
      .number("sectorsChecked", result_.sectors_checked)
      .print(out_);
  for (auto& volume : volumes_) {
    if (!volume->device.client().connected()) continue;
    const uint32_t late =
        volume->device.overdue(static_cast<uint64_t>(options_.request_seconds * 1e9));
    if (late > 0) {
      fail("volume " + std::to_string(volume->index) + ": " + std::to_string(late) +
           " requests without an answer for too long");
    }
  }
}

void Workload::look_after_connections() {
  for (auto& volume : volumes_) {
    BlkDevice& device = volume->device;
    const uint64_t now = BlkDevice::now_ns();
    if (device.client().connected()) {
      if (!device.client().lost()) continue;
      volume->lost_at_ns = now;
      volume->next_try_ns = now;
      // What was completed before the death still counts.
      poll_completions();
      event("disconnected")
          .number("volume", volume->index)
          .number("inFlight", device.in_flight())
          .print(out_);
      if (!options_.reconnect) {
        fail("volume " + std::to_string(volume->index) + ": the back-end went away");
        continue;
      }
    }
    if (!options_.reconnect || now < volume->next_try_ns) continue;
    Status status = device.reopen();
    if (!status.ok()) {
      volume->next_try_ns = BlkDevice::now_ns() + 20000000;
      const double waited = static_cast<double>(BlkDevice::now_ns() - volume->lost_at_ns) / 1e9;
      if (waited > options_.reconnect_seconds) {
        fail("volume " + std::to_string(volume->index) +
             ": the back-end did not come back: " + status.message());
      }
      continue;
    }
    result_.reconnects++;
    uint32_t again = 0;
    for (Slot& slot : device.slots()) {
      if (!slot.in_flight) continue;
      journal_.record(static_cast<uint32_t>(slot.user)).flags |= kJournalResubmitted;
      again++;
    }
    result_.resubmitted += again;
    event("reconnected")
        .number("volume", volume->index)
        .number("inFlight", again)
        .boolean("inflight", device.client().inflight_active())
        .number("downMs", (BlkDevice::now_ns() - volume->lost_at_ns) / 1000000)
        .print(out_);
  }
}

void Workload::wait_until_something_happens() {
  std::vector<pollfd> fds;
  bool ready = false;
  bool down = false;
  for (auto& volume : volumes_) {
    VhostUserClient& client = volume->device.client();
    if (!client.connected()) {
      down = true;
      continue;
    }
    fds.push_back({client.channel().fd(), POLLIN | POLLRDHUP, 0});
    for (uint16_t q = 0; q < options_.queues; q++) {
      ready |= client.ring(q).arm_interrupt();
      fds.push_back({client.call_fd(q), POLLIN, 0});
    }
  }
  if (options_.command_fd >= 0) fds.push_back({options_.command_fd, POLLIN, 0});
  if (options_.stop_fd >= 0) fds.push_back({options_.stop_fd, POLLIN, 0});
  ::poll(fds.data(), fds.size(), ready ? 0 : (down ? 10 : 100));
  for (auto& volume : volumes_) {
    for (uint16_t q = 0; q < options_.queues; q++) volume->device.client().drain_call(q);
  }
}

void Workload::read_commands() {
  if (options_.stop_fd >= 0) {
    pollfd look{options_.stop_fd, POLLIN, 0};
    if (::poll(&look, 1, 0) > 0) {
      options_.stop_fd = -1;
      options_.final_check = false;
      command("stop");
    }
  }
  if (options_.command_fd < 0) return;
  char text[256];
  const ssize_t got = ::read(options_.command_fd, text, sizeof text);
  if (got == 0 || (got < 0 && errno != EAGAIN && errno != EINTR)) options_.command_fd = -1;
  if (got <= 0) return;
  command_text_.append(text, static_cast<size_t>(got));
  for (size_t end; (end = command_text_.find('\n')) != std::string::npos;) {
    const std::string line = command_text_.substr(0, end);
    command_text_.erase(0, end + 1);
    command(line);
  }
}

void Workload::command(const std::string& line) {
  if (line == "pause") {
    if (state_ == State::kRunning) state_ = State::kPausing;
  } else if (line == "resume") {
    if (state_ == State::kPausing || state_ == State::kPaused) state_ = State::kRunning;
    event("resumed").print(out_);
  } else if (line == "stop") {
    stop_ = true;
    event("stopping").print(out_);
  } else if (line == "tick") {
    event("tick").number("inFlight", in_flight()).print(out_);
  } else if (!line.empty()) {
    event("unknown-command").text("command", line).print(out_);
  }
}

}  // namespace ep::front_end

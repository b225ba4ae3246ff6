// SPDX-License-Identifier: Apache-2.0
#include "front-end/commands.h"

#include <sys/signalfd.h>
#include <unistd.h>

#include <csignal>
#include <cstdio>

#include "front-end/args.h"
#include "front-end/hostile.h"
#include "front-end/json.h"
#include "front-end/load.h"
#include "front-end/pattern.h"
#include "front-end/probe.h"
#include "front-end/workload.h"

namespace ep::front_end {

namespace {

constexpr const char* kUsage =
    R"(everpoint-front-end COMMAND: the driver's side of vhost-user-blk, for tests and benches

  run      random workload with a journal and read checks
           --socket PATH (one per volume, in order)  --seed N  --ops N | --seconds S
           --queues N --queue-size N --depth N (per queue) --max-segments N --regions N
           --max-bytes N (512..1M) --align N|any --span BYTES --hot
           --mix read=25,write=60,flush=5,discard=5,write_zeroes=4,get_id=1
           --journal FILE --first-id N --initial zero|unknown --discard-reads zero|any
           --reconnect --reconnect-timeout S --request-timeout S --no-error-tolerance
           --final-check --start-paused --no-event-idx --no-indirect --no-inflight
           stdin: pause, resume, stop, tick
  load     load generator
           --socket PATH --rw randread|randwrite|read|write --bs N --depth N (per queue)
           --queues N --queue-size N --seconds S --warmup S --size BYTES --seed N --spin --flush
           --no-event-idx --no-indirect
  hostile  attacks, each on its own connection
           --socket PATH --attack NAME|all --seed N --rounds N (of the fuzzers)
           --probe PATH (another disk that must live on; looked at after each attack)
           --list
  probe    proves that a disk lives: --socket PATH --offset BYTES --timeout-ms N
  pattern  prints a sector of test data as hex: --seed N --id N --sector N

exit codes: 0 ok, 1 failed, 2 usage, 3 not reachable
)";

int usage(const Status& status) {
  std::fprintf(stderr, "everpoint-front-end: %s\n", status.message().c_str());
  return kExitUsage;
}

int report(const Status& status, int code) {
  std::fprintf(stderr, "everpoint-front-end: %s\n", status.message().c_str());
  return code;
}

/// Reads a number into a field of any unsigned type.
template <typename T>
Status take(const Args& args, const std::string& name, uint64_t low, uint64_t high, T* field) {
  uint64_t value = *field;
  FRONT_END_TRY(args.number(name, low, high, &value));
  *field = static_cast<T>(value);
  return {};
}

Status need_socket(const Args& args) {
  return args.has("socket") ? Status{} : Status::error("--socket is missing");
}

Status parse_mix(const std::string& text, WorkloadMix* mix) {
  *mix = {0, 0, 0, 0, 0, 0};
  for (size_t at = 0; at < text.size();) {
    size_t comma = text.find(',', at);
    if (comma == std::string::npos) comma = text.size();
    const std::string part = text.substr(at, comma - at);
    at = comma + 1;
    const size_t equals = part.find('=');
    uint64_t weight = 0;
    if (equals == std::string::npos || !parse_size(part.substr(equals + 1), &weight) ||
        weight > 1000000) {
      return Status::error("--mix: cannot read '" + part + "'");
    }
    const std::string name = part.substr(0, equals);
    uint32_t* field = name == "read"           ? &mix->read
                      : name == "write"        ? &mix->write
                      : name == "flush"        ? &mix->flush
                      : name == "discard"      ? &mix->discard
                      : name == "write_zeroes" ? &mix->write_zeroes
                      : name == "get_id"       ? &mix->get_id
                                               : nullptr;
    if (field == nullptr) return Status::error("--mix: unknown type '" + name + "'");
    *field = static_cast<uint32_t>(weight);
  }
  return {};
}

Status parse_choice(const Args& args, const std::string& name, const std::string& yes,
                    const std::string& no, bool* value) {
  if (!args.has(name)) return {};
  const std::string text = args.text(name);
  if (text != yes && text != no) {
    return Status::error("--" + name + " is " + yes + " or " + no);
  }
  *value = text == yes;
  return {};
}

Status parse_run(const Args& args, WorkloadOptions* o) {
  FRONT_END_TRY(need_socket(args));
  o->sockets = args.all("socket");
  if (o->sockets.size() > 255) return Status::error("at most 255 volumes");
  FRONT_END_TRY(take(args, "queues", 1, 64, &o->queues));
  FRONT_END_TRY(take(args, "queue-size", 4, 32768, &o->queue_size));
  FRONT_END_TRY(take(args, "depth", 1, 4096, &o->depth));
  FRONT_END_TRY(take(args, "max-segments", 1, 1024, &o->max_segments));
  FRONT_END_TRY(take(args, "regions", 1, kMaxRegions, &o->regions));
  FRONT_END_TRY(take(args, "seed", 0, UINT32_MAX, &o->seed));
  FRONT_END_TRY(take(args, "first-id", 1, UINT32_MAX, &o->first_id));
  FRONT_END_TRY(take(args, "ops", 1, 1u << 30, &o->ops));
  FRONT_END_TRY(args.seconds("seconds", &o->seconds));
  FRONT_END_TRY(take(args, "max-bytes", 512, 1 << 20, &o->max_bytes));
  if (args.text("align") != "any") FRONT_END_TRY(take(args, "align", 512, 1 << 20, &o->align));
  if (o->align % 512 != 0 || o->max_bytes % 512 != 0) {
    return Status::error("--align and --max-bytes are multiples of 512");
  }
  if (o->max_bytes < o->align) return Status::error("--max-bytes is smaller than --align");
  FRONT_END_TRY(take(args, "span", 512, 1ull << 40, &o->span));
  o->hot = args.has("hot");
  if (args.has("mix")) FRONT_END_TRY(parse_mix(args.text("mix"), &o->mix));
  o->journal_path = args.text("journal");
  o->reconnect = args.has("reconnect");
  FRONT_END_TRY(args.seconds("reconnect-timeout", &o->reconnect_seconds));
  FRONT_END_TRY(args.seconds("request-timeout", &o->request_seconds));
  o->no_error_tolerance = args.has("no-error-tolerance");
  FRONT_END_TRY(parse_choice(args, "discard-reads", "any", "zero", &o->discard_any));
  FRONT_END_TRY(parse_choice(args, "initial", "zero", "unknown", &o->initial_zero));
  o->final_check = args.has("final-check");
  o->start_paused = args.has("start-paused");
  o->event_idx = !args.has("no-event-idx");
  o->indirect = !args.has("no-indirect");
  o->inflight = !args.has("no-inflight");
  return {};
}

int run_workload(const std::vector<std::string>& words) {
  Args args;
  WorkloadOptions options;
  Status status =
      Args::parse(words,
                  {"socket", "queues", "queue-size", "depth", "max-segments", "regions", "seed",
                   "first-id", "ops", "seconds", "max-bytes", "align", "span", "mix", "journal",
                   "reconnect-timeout", "request-timeout", "discard-reads", "initial"},
                  {"hot", "reconnect", "no-error-tolerance", "final-check", "start-paused",
                   "no-event-idx", "no-indirect", "no-inflight"},
                  &args);
  if (status.ok()) status = parse_run(args, &options);
  if (!status.ok()) return usage(status);
  sigset_t signals;
  sigemptyset(&signals);
  sigaddset(&signals, SIGTERM);
  sigaddset(&signals, SIGINT);
  sigprocmask(SIG_BLOCK, &signals, nullptr);
  UniqueFd stop(::signalfd(-1, &signals, SFD_CLOEXEC | SFD_NONBLOCK));
  options.stop_fd = stop.get();
  options.command_fd = STDIN_FILENO;
  Workload workload(std::move(options), stdout);
  status = workload.open();
  if (!status.ok()) return report(status, kExitUnreachable);
  const WorkloadResult result = workload.run();
  for (const std::string& what : result.failures) {
    std::fprintf(stderr, "everpoint-front-end: %s\n", what.c_str());
  }
  return result.ok ? kExitOk : kExitFailed;
}

Status parse_load(const Args& args, LoadOptions* o) {
  FRONT_END_TRY(need_socket(args));
  o->socket_path = args.text("socket");
  const std::string rw = args.text("rw", "randread");
  if (rw != "randread" && rw != "randwrite" && rw != "read" && rw != "write") {
    return Status::error("--rw is randread, randwrite, read or write");
  }
  o->random = rw.rfind("rand", 0) == 0;
  o->write = rw == "write" || rw == "randwrite";
  FRONT_END_TRY(take(args, "bs", 512, 1 << 20, &o->block_bytes));
  FRONT_END_TRY(take(args, "depth", 1, 4096, &o->depth));
  FRONT_END_TRY(take(args, "queues", 1, 64, &o->queues));
  FRONT_END_TRY(take(args, "queue-size", 4, 32768, &o->queue_size));
  FRONT_END_TRY(args.seconds("seconds", &o->seconds));
  FRONT_END_TRY(args.seconds("warmup", &o->warmup_seconds));
  FRONT_END_TRY(take(args, "size", 512, 1ull << 60, &o->size));
  FRONT_END_TRY(take(args, "seed", 0, UINT64_MAX, &o->seed));
  if (o->block_bytes % 512 != 0) return Status::error("--bs is a multiple of 512");
  if (o->seconds <= 0) return Status::error("--seconds is more than 0");
  o->event_idx = !args.has("no-event-idx");
  o->indirect = !args.has("no-indirect");
  o->spin = args.has("spin");
  o->flush = args.has("flush");
  if (o->flush && !o->write) return Status::error("--flush goes with writes");
  return {};
}

int load(const std::vector<std::string>& words) {
  Args args;
  LoadOptions options;
  Status status = Args::parse(
      words,
      {"socket", "rw", "bs", "depth", "queues", "queue-size", "seconds", "warmup", "size", "seed"},
      {"spin", "flush", "no-event-idx", "no-indirect"}, &args);
  if (status.ok()) status = parse_load(args, &options);
  if (!status.ok()) return usage(status);
  LoadResult result;
  status = run_load(options, &result);
  if (!status.ok()) return report(status, kExitUnreachable);
  JsonLine latency;
  latency.decimal("mean", result.latency.mean_ns() / 1e3);
  latency.decimal("p50", static_cast<double>(result.latency.percentile_ns(0.5)) / 1e3);
  latency.decimal("p99", static_cast<double>(result.latency.percentile_ns(0.99)) / 1e3);
  latency.decimal("p999", static_cast<double>(result.latency.percentile_ns(0.999)) / 1e3);
  latency.decimal("max", static_cast<double>(result.latency.max_ns()) / 1e3);
  JsonLine()
      .text("rw", args.text("rw", "randread"))
      .number("bs", options.block_bytes)
      .number("depth", options.depth)
      .number("queues", options.queues)
      .decimal("iops", result.iops)
      .decimal("MBps", result.mb_per_second)
      .raw("latency_us", latency.str())
      .number("errors", result.errors)
      .number("requests", result.requests)
      .decimal("seconds", result.seconds)
      .decimal("cpu_us_per_request", result.cpu_us_per_request)
      .print(stdout);
  return result.errors == 0 ? kExitOk : kExitFailed;
}

int hostile(const std::vector<std::string>& words) {
  Args args;
  HostileOptions options;
  Status status =
      Args::parse(words, {"socket", "attack", "seed", "rounds", "probe"}, {"list"}, &args);
  if (!status.ok()) return usage(status);
  if (args.has("list")) {
    for (const AttackInfo& attack : list_attacks()) {
      JsonLine()
          .text("attack", attack.name)
          .text("expect", attack.expects_error ? "completed_error" : "survives")
          .text("what", attack.what)
          .print(stdout);
    }
    return kExitOk;
  }
  status = need_socket(args);
  if (status.ok()) status = take(args, "seed", 0, UINT64_MAX, &options.seed);
  if (status.ok()) status = take(args, "rounds", 1, 1000000, &options.rounds);
  if (!status.ok()) return usage(status);
  options.socket_path = args.text("socket");
  options.attack = args.text("attack", "all");
  options.probe_path = args.text("probe");
  bool known = false;
  const bool ok = run_hostile(options, stdout, &known);
  if (!known) return usage(Status::error("unknown attack " + options.attack));
  return ok ? kExitOk : kExitFailed;
}

int probe_disk(const std::vector<std::string>& words) {
  Args args;
  uint64_t offset = 0;
  uint64_t timeout_ms = 5000;
  Status status = Args::parse(words, {"socket", "offset", "timeout-ms"}, {}, &args);
  if (status.ok()) status = need_socket(args);
  if (status.ok()) status = take(args, "offset", 0, UINT64_MAX, &offset);
  if (status.ok()) status = take(args, "timeout-ms", 1, 600000, &timeout_ms);
  if (!status.ok()) return usage(status);
  ProbeResult result;
  const Status alive = probe(args.text("socket"), offset, static_cast<int>(timeout_ms), &result);
  JsonLine line;
  line.boolean("alive", alive.ok());
  if (!alive.ok()) line.text("error", alive.message());
  line.number("capacity", result.capacity).number("queues", result.queues);
  line.text("serial", result.serial).boolean("inflight", result.inflight);
  line.number("features", result.device_features);
  line.number("protocolFeatures", result.protocol_features);
  line.print(stdout);
  if (alive.ok()) return kExitOk;
  return report(alive, result.capacity == 0 ? kExitUnreachable : kExitFailed);
}

int pattern(const std::vector<std::string>& words) {
  Args args;
  uint32_t seed = 1;
  uint32_t id = 1;
  uint32_t sector = 0;
  Status status = Args::parse(words, {"seed", "id", "sector"}, {}, &args);
  if (status.ok()) status = take(args, "seed", 0, UINT32_MAX, &seed);
  if (status.ok()) status = take(args, "id", 0, UINT32_MAX, &id);
  if (status.ok()) status = take(args, "sector", 0, 65535, &sector);
  if (!status.ok()) return usage(status);
  uint8_t data[kSectorBytes];
  fill_sector(data, seed, id, sector);
  for (uint8_t byte : data) std::printf("%02x", byte);
  std::printf("\n");
  return kExitOk;
}

}  // namespace

int run_command(const std::vector<std::string>& words) {
  const std::string name = words.empty() ? "" : words[0];
  const std::vector<std::string> rest(words.begin() + (words.empty() ? 0 : 1), words.end());
  if (name == "run") return run_workload(rest);
  if (name == "load") return load(rest);
  if (name == "hostile") return hostile(rest);
  if (name == "probe") return probe_disk(rest);
  if (name == "pattern") return pattern(rest);
  if (name == "help" || name == "--help") {
    std::fputs(kUsage, stdout);
    return kExitOk;
  }
  std::fputs(kUsage, stderr);
  return kExitUsage;
}

}  // namespace ep::front_end

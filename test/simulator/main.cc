// SPDX-License-Identifier: Apache-2.0

// npm run sim -- --seed N [--seeds M] [--buffer KIND] [--ack MODE] [--flush MODE] [--verbose]
// [--strict] [--mutation NAME] [--list-mutations] | --mutations [--seeds N] [--json]
//
// Each seed runs in a process of its own, one after the other: an assertion that fails is that
// seed's failure, and what dead lives leave behind goes with it. Exit code 0 only when every seed
// is green; 2 for wrong usage.

#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>
#include <string_view>

#include "base/mutation.h"
#include "mutations.h"
#include "world.h"

namespace {

using ep::sim::SeedReport;

/// What a deliberate bug has to be caught in.
constexpr uint64_t kMutationSeeds = 300;

struct Options {
  uint64_t seed = 1;
  uint64_t seeds = 1;
  bool until_failure = false;
  std::string mutation;
  std::string filters;  // as they were given, for the command that repeats a failure
  bool mutations = false;
  bool json = false;
  ep::sim::SeedOptions run;
};

/// Sums that a child sends back.
struct Sums {
  uint64_t values[11] = {};
  void add(const Sums& other) {
    for (size_t i = 0; i < std::size(values); ++i) values[i] += other.values[i];
  }
};

Sums sums_of(const SeedReport& report) {
  return {{report.lives, report.crashes, report.power_cuts, report.recoveries_interrupted,
           report.gaps, report.requests, report.entries, report.redone, report.late_requests,
           report.gaps != 0 ? 1ull : 0ull, report.trace}};
}

bool parse_number(const char* text, uint64_t* to) {
  char* end = nullptr;
  errno = 0;
  *to = std::strtoull(text, &end, 0);
  return errno == 0 && end != text && *end == '\0' && text[0] != '-';
}

int usage(const char* why) {
  std::fprintf(stderr,
               "%s\nusage: npm run sim -- --seed N [--seeds M] [--buffer tmpfs|file|pmem] "
               "[--ack primary|both] [--flush both|primary] [--verbose] [--strict] "
               "[--until-failure] [--mutation NAME] [--list-mutations]\n"
               "       npm run sim -- --mutations [--seed N] [--seeds M] [--json]\n",
               why);
  return 2;
}

void list_mutations() {
  for (const auto& each : ep::kMutations) {
    std::printf("%-24.*s %.*s\n", static_cast<int>(each.name.size()), each.name.data(),
                static_cast<int>(each.what.size()), each.what.data());
  }
}

bool select_mutation(std::string_view name) {
  for (const auto& each : ep::kMutations) {
    if (each.name != name) continue;
    ep::selected_mutation = each.mutation;
    return true;
  }
  return false;
}

/// Sets one of the choices that a seed would make; false for a value that there is not.
bool restrict(std::string_view option, std::string_view value, Options* options) {
  using ep::nvram::BufferKind;
  using ep::split::Ack;
  using ep::split::FlushMode;
  options->filters += " " + std::string(option) + " " + std::string(value);
  if (option == "--buffer") {
    if (value == "tmpfs") options->run.buffer = BufferKind::kTmpfs;
    if (value == "file") options->run.buffer = BufferKind::kFile;
    if (value == "pmem") options->run.buffer = BufferKind::kPmem;
    return options->run.buffer.has_value();
  }
  const bool both = value == "both";
  if (!both && value != "primary") return false;
  if (option == "--ack") options->run.ack = both ? Ack::kBoth : Ack::kPrimary;
  if (option == "--flush") options->run.flush = both ? FlushMode::kBoth : FlushMode::kPrimary;
  return true;
}

/// In the child: runs the seed, tells of failures, sends the sums back.
[[noreturn]] void run_child(const Options& options, uint64_t seed, int to) {
  alarm(30);  // a run that never ends is a failure, not a wait
  const SeedReport report = ep::sim::run_seed(seed, options.run);
  for (const std::string& failure : report.failures) {
    std::printf("seed %llu: %s\n", static_cast<unsigned long long>(seed), failure.c_str());
  }
  if (options.run.verbose) {
    std::printf("seed %llu: trace %016llx, slowest request %.3f ms\n",
                static_cast<unsigned long long>(seed),
                static_cast<unsigned long long>(report.trace),
                static_cast<double>(report.slowest_ns) / 1e6);
  }
  const Sums sums = sums_of(report);
  const bool sent = write(to, &sums, sizeof sums) == static_cast<ssize_t>(sizeof sums);
  std::fflush(stdout);
  _exit(report.failures.empty() && sent ? 0 : 1);
}

bool run_one(const Options& options, uint64_t seed, Sums* total) {
  std::fflush(stdout);
  int ends[2];
  if (pipe(ends) != 0) return false;
  const pid_t child = fork();
  if (child == 0) {
    close(ends[0]);
    run_child(options, seed, ends[1]);
  }
  close(ends[1]);
  Sums sums;
  if (child > 0 && read(ends[0], &sums, sizeof sums) == static_cast<ssize_t>(sizeof sums)) {
    total->add(sums);
  }
  close(ends[0]);
  int status = 0;
  if (child < 0 || waitpid(child, &status, 0) != child) return false;
  if (WIFSIGNALED(status)) {
    std::printf("seed %llu: ended by signal %d (%s)\n", static_cast<unsigned long long>(seed),
                WTERMSIG(status), strsignal(WTERMSIG(status)));
  }
  if (WIFEXITED(status) && WEXITSTATUS(status) == 0) return true;
  std::printf("  again: npm run sim -- --seed %llu --verbose%s%s%s%s\n",
              static_cast<unsigned long long>(seed), options.run.strict ? " --strict" : "",
              options.mutation.empty() ? "" : " --mutation ", options.mutation.c_str(),
              options.filters.c_str());
  return false;
}

}  // namespace

int main(int argc, char** argv) {
  Options options;
  for (int i = 1; i < argc; ++i) {
    const std::string_view option = argv[i];
    const auto number = [&](uint64_t* to) { return i + 1 < argc && parse_number(argv[++i], to); };
    if (option == "--seed") {
      if (!number(&options.seed)) return usage("--seed wants a number");
    } else if (option == "--seeds") {
      if (!number(&options.seeds) || options.seeds == 0) return usage("--seeds wants a number");
    } else if (option == "--verbose") {
      options.run.verbose = true;
    } else if (option == "--strict") {
      options.run.strict = true;
    } else if (option == "--buffer" || option == "--ack" || option == "--flush") {
      if (i + 1 >= argc || !restrict(option, argv[++i], &options)) {
        return usage("--buffer tmpfs|file|pmem, --ack primary|both, --flush both|primary");
      }
    } else if (option == "--until-failure") {
      options.until_failure = true;
    } else if (option == "--list-mutations") {
      list_mutations();
      return 0;
    } else if (option == "--mutations") {
      options.mutations = true;
    } else if (option == "--json") {
      options.json = true;
    } else if (option == "--mutation") {
      if (i + 1 >= argc || !select_mutation(argv[i + 1])) return usage("no such mutation");
      options.mutation = argv[++i];
    } else {
      return usage(("what is " + std::string(option) + "?").c_str());
    }
  }
  if (options.mutations) {
    const uint64_t seeds = options.seeds == 1 ? kMutationSeeds : options.seeds;
    return ep::sim::try_all_mutations(options.seed, seeds, options.json) ? 0 : 1;
  }
  const auto begin = std::chrono::steady_clock::now();
  uint64_t failed = 0;
  uint64_t done = 0;
  Sums total;
  for (; done < options.seeds; ++done) {
    if (run_one(options, options.seed + done, &total)) continue;
    ++failed;
    if (options.until_failure) {
      ++done;
      break;
    }
  }
  const double seconds =
      std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
  const auto& v = total.values;
  const auto print = [](uint64_t value) { return static_cast<unsigned long long>(value); };
  std::printf(
      "lives %llu, crashes %llu, power cuts %llu, openings cut short %llu, gaps %llu in %llu "
      "seeds, "
      "requests %llu, log entries %llu, writes redone %llu, late requests %llu\n",
      print(v[0]), print(v[1]), print(v[2]), print(v[3]), print(v[4]), print(v[9]), print(v[5]),
      print(v[6]), print(v[7]), print(v[8]));
  std::printf("%llu seeds, %llu failed, %.1f s (%.3f s a seed)\n", print(done), print(failed),
              seconds, seconds / static_cast<double>(done));
  return failed == 0 ? 0 : 1;
}

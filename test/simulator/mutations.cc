// SPDX-License-Identifier: Apache-2.0
#include "mutations.h"

#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <csignal>
#include <cstdio>
#include <cstring>

#include "world.h"

namespace ep::sim {

namespace {

constexpr unsigned kSecondsMax = 30;

[[noreturn]] void run_child(Mutation mutation, uint64_t seed, int to) {
  alarm(kSecondsMax);
  // What an assertion says belongs to the answer; what a test's output buffer holds does not.
  dup2(to, STDERR_FILENO);
  selected_mutation = mutation;
  const SeedReport report = run_seed(seed, {});
  if (!report.failures.empty()) dprintf(to, "%s\n", report.failures.front().c_str());
  _exit(report.failures.empty() ? 0 : 1);
}

/// True when the seed fails; `message` says how.
bool fails(Mutation mutation, uint64_t seed, std::string* message) {
  int ends[2];
  std::fflush(nullptr);
  if (pipe(ends) != 0) return false;
  const pid_t child = fork();
  if (child == 0) {
    close(ends[0]);
    run_child(mutation, seed, ends[1]);
  }
  close(ends[1]);
  message->clear();
  char part[4096];
  for (;;) {
    const ssize_t got = read(ends[0], part, sizeof part);
    if (got <= 0) break;
    message->append(part, static_cast<size_t>(got));
  }
  close(ends[0]);
  int status = 0;
  if (child < 0 || waitpid(child, &status, 0) != child) return false;
  message->erase(std::min(message->find('\n'), message->size()));
  if (WIFSIGNALED(status) && WTERMSIG(status) == SIGALRM) *message = "the run never ends";
  if (message->empty() && WIFSIGNALED(status)) *message = strsignal(WTERMSIG(status));
  return !WIFEXITED(status) || WEXITSTATUS(status) != 0;
}

std::string quoted(std::string_view text) {
  std::string all = "\"";
  for (const char c : text) {
    if (c == '"' || c == '\\') all += '\\';
    all += static_cast<unsigned char>(c) < 0x20 ? ' ' : c;
  }
  return all + "\"";
}

}  // namespace

MutationResult try_mutation(const MutationInfo& info, uint64_t first, uint64_t seeds) {
  MutationResult result;
  result.info = info;
  const auto begin = std::chrono::steady_clock::now();
  while (result.seeds < seeds && !result.caught) {
    result.seed = first + result.seeds++;
    result.caught = fails(info.mutation, result.seed, &result.message);
  }
  result.seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
  return result;
}

bool try_all_mutations(uint64_t first, uint64_t seeds, bool json) {
  uint64_t survived = 0;
  if (json) {
    std::printf("[");
  } else {
    std::printf("%-28s %-7s %-6s %s\n", "mutation", "caught", "seeds", "first failure");
  }
  for (const MutationInfo& info : kMutations) {
    const MutationResult result = try_mutation(info, first, seeds);
    survived += result.caught ? 0 : 1;
    const auto count = static_cast<unsigned long long>(result.seeds);
    if (json) {
      std::printf(
          "%s\n{\"mutation\":%s,\"what\":%s,\"caught\":%s,\"seeds\":%llu,\"failingSeed\":%s,"
          "\"message\":%s,\"seconds\":%.1f}",
          &info == kMutations ? "" : ",", quoted(info.name).c_str(), quoted(info.what).c_str(),
          result.caught ? "true" : "false", count,
          result.caught ? std::to_string(result.seed).c_str() : "null",
          result.caught ? quoted(result.message).c_str() : "null", result.seconds);
    } else {
      std::printf("%-28s %-7s %-6llu %s\n", std::string(info.name).c_str(),
                  result.caught ? "yes" : "NO", count, result.message.c_str());
    }
    std::fflush(stdout);
  }
  if (json) {
    std::printf("\n]\n");
  } else {
    std::printf("%zu mutations, %llu not caught\n", std::size(kMutations),
                static_cast<unsigned long long>(survived));
  }
  return survived == 0;
}

}  // namespace ep::sim

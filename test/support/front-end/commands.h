// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string>
#include <vector>

namespace ep::front_end {

/// Exit codes, the same as the product's own command line.
constexpr int kExitOk = 0;
constexpr int kExitFailed = 1;
constexpr int kExitUsage = 2;
/// The socket could not be reached or did not speak vhost-user-blk.
constexpr int kExitUnreachable = 3;

/// Runs one subcommand; `words` is the command line without the program's name.
int run_command(const std::vector<std::string>& words);

}  // namespace ep::front_end

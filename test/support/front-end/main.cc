// SPDX-License-Identifier: Apache-2.0
#include "front-end/commands.h"

int main(int argc, char** argv) {
  return ep::front_end::run_command(std::vector<std::string>(argv + 1, argv + argc));
}

// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string>

namespace ep::io {

/// Who holds the flock of the file behind `fd`, from /proc/locks: "process 123 (everpoint)", or a
/// sentence saying that the kernel does not tell.
std::string describe_lock_holder(int fd);

}  // namespace ep::io

// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string>
#include <utility>

namespace ep::front_end {

/// Success, or one sentence that says what went wrong. The front-end stands beside the product and
/// not on it, so it does not use the product's own type.
class [[nodiscard]] Status {
 public:
  Status() = default;

  static Status error(std::string message) {
    Status status;
    status.ok_ = false;
    status.message_ = std::move(message);
    return status;
  }

  /// `what`, followed by the text of `errno_value`.
  static Status from_errno(const std::string& what, int errno_value);

  bool ok() const { return ok_; }
  const std::string& message() const { return message_; }

 private:
  bool ok_ = true;
  std::string message_;
};

#define FRONT_END_TRY(expression)                       \
  do {                                                  \
    ::ep::front_end::Status try_status_ = (expression); \
    if (!try_status_.ok()) return try_status_;          \
  } while (0)

}  // namespace ep::front_end

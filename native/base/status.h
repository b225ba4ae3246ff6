// SPDX-License-Identifier: Apache-2.0
#pragma once

// What may happen is returned, what must hold is asserted. A Status travels from the place that
// saw the trouble to the one that can act on it; it is turned into a JavaScript error once, in
// addon/. Hot paths carry the bare Code (or a negative errno) and never build a message.

#include <cstdint>
#include <optional>
#include <string>
#include <utility>

#include "base/assert.h"

namespace ep {

enum class Code : uint8_t {
  kOk = 0,
  kNotFound,
  kCorruption,
  kIoError,
  kInvalidArgument,
  kNoSpace,
  kBusy,
  kUnsupported,
  kCancelled,
  kAlreadyExists,
  kConflict,
};

/// The stable text of a code, as it appears in JavaScript's `error.code`.
const char* code_name(Code code);

class [[nodiscard]] Status {
 public:
  Status() = default;
  Status(Code code, std::string message) : code_(code), message_(std::move(message)) {
    EP_ASSERT(code != Code::kOk);
  }
  static Status ok() { return Status(); }
  /// A failed system call: `what` says the operation and its object, `error` is a positive errno.
  static Status from_errno(int error, const std::string& what);

  [[nodiscard]] bool is_ok() const { return code_ == Code::kOk; }
  explicit operator bool() const { return is_ok(); }
  [[nodiscard]] Code code() const { return code_; }
  [[nodiscard]] const std::string& message() const { return message_; }
  /// "Corruption: …" for logs and errors.
  [[nodiscard]] std::string to_string() const;

 private:
  Code code_ = Code::kOk;
  std::string message_;
};

/// A value or the Status that says why there is none.
template <typename T>
class [[nodiscard]] Result {
 public:
  Result(T value) : value_(std::move(value)) {}         // NOLINT: implicit on purpose
  Result(Status status) : status_(std::move(status)) {  // NOLINT: implicit on purpose
    EP_ASSERT(!status_.is_ok());
  }
  [[nodiscard]] bool is_ok() const { return value_.has_value(); }
  explicit operator bool() const { return is_ok(); }
  [[nodiscard]] const Status& status() const { return status_; }
  T& value() {
    EP_ASSERT(value_.has_value());
    return *value_;
  }
  const T& value() const {
    EP_ASSERT(value_.has_value());
    return *value_;
  }
  T& operator*() { return value(); }
  const T& operator*() const { return value(); }
  T* operator->() { return &value(); }
  const T* operator->() const { return &value(); }

 private:
  Status status_;
  std::optional<T> value_;
};

}  // namespace ep

/// Returns from the enclosing function when the expression is a failed Status.
#define EP_TRY(expression)                      \
  do {                                          \
    ::ep::Status ep_status_ = (expression);     \
    if (!ep_status_.is_ok()) return ep_status_; \
  } while (false)

// SPDX-License-Identifier: Apache-2.0
#include "base/status.h"

#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <system_error>

namespace ep {

void assert_failed(const char* condition, const char* file, int line) {
  std::fprintf(stderr, "everpoint: assertion failed: %s (%s:%d)\n", condition, file, line);
  std::abort();
}

const char* code_name(Code code) {
  switch (code) {
    case Code::kOk:
      return "OK";
    case Code::kNotFound:
      return "NOT_FOUND";
    case Code::kCorruption:
      return "CORRUPTION";
    case Code::kIoError:
      return "IO_ERROR";
    case Code::kInvalidArgument:
      return "INVALID_ARGUMENT";
    case Code::kNoSpace:
      return "NO_SPACE";
    case Code::kBusy:
      return "BUSY";
    case Code::kUnsupported:
      return "UNSUPPORTED";
    case Code::kCancelled:
      return "CANCELLED";
    case Code::kAlreadyExists:
      return "ALREADY_EXISTS";
    case Code::kConflict:
      return "CONFLICT";
  }
  return "UNKNOWN";
}

namespace {
Code code_of_errno(int error) {
  switch (error) {
    case ENOENT:
      return Code::kNotFound;
    case ENOSPC:
    case EDQUOT:
    case EFBIG:
      return Code::kNoSpace;
    case EEXIST:
      return Code::kAlreadyExists;
    case EAGAIN:
    case EBUSY:
      return Code::kBusy;
    case EINVAL:
    case ENAMETOOLONG:
    case ENOTDIR:
    case EISDIR:
      return Code::kInvalidArgument;
    case EOPNOTSUPP:
      return Code::kUnsupported;
    case ECANCELED:
      return Code::kCancelled;
    default:
      return Code::kIoError;
  }
}
}  // namespace

Status Status::from_errno(int error, const std::string& what) {
  return Status(code_of_errno(error), what + ": " + std::generic_category().message(error));
}

std::string Status::to_string() const {
  if (is_ok()) return code_name(code_);
  return std::string(code_name(code_)) + ": " + message_;
}

}  // namespace ep

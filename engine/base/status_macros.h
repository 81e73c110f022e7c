// RETURN_IF_ERROR and ASSIGN_OR_RETURN: this Abseil release has none.
#pragma once

#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

#define LD_CONCAT_INNER(a, b) a##b
#define LD_CONCAT(a, b) LD_CONCAT_INNER(a, b)

#define RETURN_IF_ERROR(expr)              \
  do {                                     \
    absl::Status ld_status = (expr);       \
    if (!ld_status.ok()) return ld_status; \
  } while (false)

#define ASSIGN_OR_RETURN(lhs, expr) LD_ASSIGN_OR_RETURN(LD_CONCAT(ld_value_, __LINE__), lhs, expr)
#define LD_ASSIGN_OR_RETURN(tmp, lhs, expr)      \
  auto tmp = (expr);                             \
  if (!tmp.ok()) return std::move(tmp).status(); \
  lhs = std::move(tmp).value()

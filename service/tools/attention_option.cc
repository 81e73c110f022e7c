#include "service/tools/attention_option.h"

#include <cstdint>
#include <limits>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "engine/base/status_macros.h"
#include "engine/engine.h"
#include "service/tools/options.h"

namespace longdoc::tools {

const char kAttentionHelp[] =
    "tolerance=EPSILON skips what provably moves no output by\n"
    "more than 2*EPSILON*(largest value norm); exact skips what\n"
    "changes no bit; window=RADIUS,GLOBALS looks at neighbours\n"
    "and the first GLOBALS tokens; dense skips nothing (only\n"
    "in-process)";

absl::StatusOr<AttentionPolicy> ParseAttention(std::string_view text) {
  AttentionPolicy policy;
  const size_t equals = text.find('=');
  const std::string_view mode = text.substr(0, equals);
  const std::string_view value = equals == text.npos ? "" : text.substr(equals + 1);
  if (mode == "tolerance") {
    double epsilon = policy.epsilon;
    if (equals != text.npos) {
      RETURN_IF_ERROR(ParseDouble(value, "the tolerance of --attention", 1e-30, 1, &epsilon));
    }
    policy.epsilon = static_cast<float>(epsilon);
  } else if (mode == "window") {
    policy.mode = AttentionMode::kWindow;
    const size_t comma = value.find(',');
    constexpr int64_t kMax = std::numeric_limits<int32_t>::max();
    RETURN_IF_ERROR(ParseInt(value.substr(0, comma), "the window radius of --attention", 1, kMax,
                             &policy.window_radius));
    if (comma != value.npos) {
      RETURN_IF_ERROR(ParseInt(value.substr(comma + 1), "the global tokens of --attention", 0, kMax,
                               &policy.num_global));
    }
  } else if ((mode == "exact" || mode == "dense") && equals == text.npos) {
    policy.mode = mode == "exact" ? AttentionMode::kExact : AttentionMode::kDense;
  } else {
    return absl::InvalidArgumentError(absl::StrFormat(
        "--attention takes exact, tolerance=EPSILON, window=RADIUS,GLOBALS or dense, not \"%s\"",
        text));
  }
  RETURN_IF_ERROR(CheckAttentionPolicy(policy));
  return policy;
}

std::string FormatAttention(const AttentionPolicy& policy) {
  switch (policy.mode) {
    case AttentionMode::kExact:
      return "exact";
    case AttentionMode::kDense:
      return "dense";
    case AttentionMode::kWindow:
      return absl::StrCat("window=", policy.window_radius, ",", policy.num_global);
    case AttentionMode::kTolerance:
      break;
  }
  return absl::StrCat("tolerance=", policy.epsilon);
}

}  // namespace longdoc::tools

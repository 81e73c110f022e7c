// The value of --attention.
#pragma once

#include <string>
#include <string_view>

#include "absl/status/statusor.h"
#include "engine/options.h"

namespace longdoc::tools {

// "exact", "tolerance=EPSILON" ("tolerance" alone: 1e-4), "window=RADIUS,GLOBALS" or "dense".
// INVALID_ARGUMENT naming the part that is wrong.
absl::StatusOr<AttentionPolicy> ParseAttention(std::string_view text);
// The same notation back.
std::string FormatAttention(const AttentionPolicy& policy);

extern const char kAttentionHelp[];

}  // namespace longdoc::tools

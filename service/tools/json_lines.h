// The output of `longdoc embed`: one JSON object a line (docs: `longdoc embed --help`).
#pragma once

#include <ostream>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "engine/options.h"
#include "service/tools/embedder.h"

namespace longdoc::tools {

// `data` as numbers, in JSON: floats in the shortest form that reads back to the same float, int8
// components as integers, binary ones as bytes 0..255. A component that is not finite becomes null.
std::string VectorJson(std::string_view data, VectorEncoding encoding);

// Formats of the three kinds of lines; `document` names the input.
std::string VectorLine(const std::string& document, const VectorRecord& record);
// `wall_seconds` from the opening of the input to its last vector.
std::string StatsLine(const std::string& document, const EmbedSummary& summary, double wall_seconds,
                      int64_t peak_rss_bytes);
std::string ErrorLine(const std::string& document, const absl::Status& status);

}  // namespace longdoc::tools

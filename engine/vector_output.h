// From a pooled fp32 vector to what the client asked for.
#pragma once

#include <cstdint>
#include <string>

#include "absl/status/status.h"
#include "absl/types/span.h"
#include "engine/options.h"

namespace longdoc {

// INVALID_ARGUMENT (reason INVALID_DIMENSIONS) unless 0 <= dimensions <= model_dim; kBinary needs a
// multiple of 8.
absl::Status CheckVectorOptions(const VectorOptions& options, int64_t model_dim);

// Truncates, normalises and encodes `in` [C]; appends to `out`:
//   kFloat32  4·n bytes little-endian        kFloat16  2·n bytes IEEE half
//   kInt8     n bytes, round(v · scale) with scale = 127 / max|v|; *scale holds 1/scale
//   kBinary   n/8 bytes, bit i of byte b is v[8b+i] > 0 (most significant bit first)
// *scale is 1 for the others. A zero vector stays zero under `normalize`.
void EncodeVector(absl::Span<const float> in, const VectorOptions& options, std::string* out,
                  float* scale);

// The same as floats only (no encoding): truncated and normalised.
void FinishVector(absl::Span<const float> in, const VectorOptions& options, float* out);

}  // namespace longdoc

#include "engine/vector_output.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <vector>

#include "absl/strings/str_format.h"
#include "engine/base/error_reason.h"

namespace longdoc {
namespace {

int64_t Kept(int64_t model_dim, const VectorOptions& options) {
  return options.dimensions == 0 ? model_dim : std::min<int64_t>(options.dimensions, model_dim);
}

// Round to nearest even; overflow gives infinity, as IEEE conversion does.
uint16_t FloatToHalf(float value) {
  uint32_t bits;
  std::memcpy(&bits, &value, 4);
  const uint16_t sign = static_cast<uint16_t>((bits >> 16) & 0x8000);
  const float magnitude = std::fabs(value);
  if (std::isnan(value)) return sign | 0x7e00;
  if (magnitude >= 65520.0f) return sign | 0x7c00;
  if (magnitude < 0x1p-14f) {  // subnormal: a multiple of 2^-24
    return sign | static_cast<uint16_t>(std::nearbyint(magnitude * 0x1p24f));
  }
  const uint32_t m = bits & 0x7fffffff;
  const uint32_t rounded = m + 0xfff + ((m >> 13) & 1);
  return sign | static_cast<uint16_t>((rounded - 0x38000000) >> 13);
}

void AppendInt8(const std::vector<float>& v, std::string* out, float* scale) {
  float largest = 0;
  for (float x : v) largest = std::max(largest, std::fabs(x));
  *scale = largest > 0 ? largest / 127 : 1;
  for (float x : v) {
    out->push_back(static_cast<char>(
        static_cast<int8_t>(std::clamp(std::nearbyint(x / *scale), -127.0f, 127.0f))));
  }
}

void AppendBits(const std::vector<float>& v, std::string* out) {
  for (size_t i = 0; i < v.size(); i += 8) {
    unsigned byte = 0;
    for (size_t b = 0; b < 8; ++b) byte |= static_cast<unsigned>(v[i + b] > 0) << (7 - b);
    out->push_back(static_cast<char>(byte));
  }
}

}  // namespace

absl::Status CheckVectorOptions(const VectorOptions& options, int64_t model_dim) {
  std::string problem;
  if (options.dimensions < 0 || options.dimensions > model_dim) {
    problem =
        absl::StrFormat("dimensions must be in [0, %d], got %d", model_dim, options.dimensions);
  } else if (options.encoding == VectorEncoding::kBinary && Kept(model_dim, options) % 8 != 0) {
    problem = absl::StrFormat("binary encoding needs a multiple of 8 dimensions, got %d",
                              Kept(model_dim, options));
  }
  if (problem.empty()) return absl::OkStatus();
  return WithReason(absl::InvalidArgumentError(problem), "INVALID_DIMENSIONS");
}

void FinishVector(absl::Span<const float> in, const VectorOptions& options, float* out) {
  const int64_t n = Kept(static_cast<int64_t>(in.size()), options);
  double sum = 0;
  for (int64_t i = 0; i < n; ++i) sum += static_cast<double>(in[i]) * in[i];
  const double factor = options.normalize && sum > 0 ? 1 / std::sqrt(sum) : 1;
  for (int64_t i = 0; i < n; ++i) out[i] = static_cast<float>(in[i] * factor);
}

void EncodeVector(absl::Span<const float> in, const VectorOptions& options, std::string* out,
                  float* scale) {
  std::vector<float> v(Kept(static_cast<int64_t>(in.size()), options));
  FinishVector(in, options, v.data());
  *scale = 1;
  switch (options.encoding) {
    case VectorEncoding::kFloat32:
      out->append(reinterpret_cast<const char*>(v.data()), v.size() * sizeof(float));
      break;
    case VectorEncoding::kFloat16:
      for (float x : v) {
        const uint16_t half = FloatToHalf(x);
        out->append(reinterpret_cast<const char*>(&half), sizeof(half));
      }
      break;
    case VectorEncoding::kInt8:
      AppendInt8(v, out, scale);
      break;
    case VectorEncoding::kBinary:
      AppendBits(v, out);
      break;
  }
}

}  // namespace longdoc

#include "engine/similarity.h"

#include <algorithm>
#include <cmath>
#include <cstring>

namespace longdoc {
namespace {

float Bf16ToFloat(uint16_t value) {
  const uint32_t bits = static_cast<uint32_t>(value) << 16;
  float out;
  std::memcpy(&out, &bits, sizeof(out));
  return out;
}

double CosineOf(double dot, double norm_a, double norm_b) {
  const double norms = std::sqrt(norm_a) * std::sqrt(norm_b);
  return norms == 0 ? 0 : dot / norms;  // not finite: NaN
}

}  // namespace

double CosineSimilarity(absl::Span<const float> a, absl::Span<const float> b) {
  double dot = 0, norm_a = 0, norm_b = 0;
  for (size_t i = 0; i < a.size(); ++i) {
    dot += static_cast<double>(a[i]) * b[i];
    norm_a += static_cast<double>(a[i]) * a[i];
    norm_b += static_cast<double>(b[i]) * b[i];
  }
  return CosineOf(dot, norm_a, norm_b);
}

std::vector<PassageSimilarity> SelectBest(absl::Span<const double> scores, int64_t count) {
  std::vector<PassageSimilarity> best(scores.size());
  for (size_t i = 0; i < scores.size(); ++i) best[i] = {static_cast<int32_t>(i), scores[i]};
  const auto end = best.begin() + std::clamp<int64_t>(count, 0, static_cast<int64_t>(best.size()));
  std::partial_sort(best.begin(), end, best.end(),
                    [](const PassageSimilarity& a, const PassageSimilarity& b) {
                      if (std::isnan(a.score) != std::isnan(b.score)) return std::isnan(b.score);
                      return a.score != b.score && !std::isnan(a.score) ? a.score > b.score
                                                                        : a.passage < b.passage;
                    });
  best.erase(end, best.end());
  return best;
}

std::vector<PassageSimilarity> BestPassages(absl::Span<const float> candidate,
                                            absl::Span<const uint16_t> passages, int64_t count) {
  double norm = 0;
  for (float v : candidate) norm += static_cast<double>(v) * v;
  std::vector<double> scores(passages.size() / candidate.size());
  for (size_t p = 0; p < scores.size(); ++p) {
    const uint16_t* row = &passages[p * candidate.size()];
    double dot = 0, row_norm = 0;  // rounding to bf16 moved the norm a little away from 1
    for (size_t c = 0; c < candidate.size(); ++c) {
      const double value = Bf16ToFloat(row[c]);
      dot += value * candidate[c];
      row_norm += value * value;
    }
    scores[p] = CosineOf(dot, norm, row_norm);
  }
  return SelectBest(scores, count);
}

}  // namespace longdoc

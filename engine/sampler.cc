#include "engine/sampler.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <string>

#include "absl/strings/str_format.h"
#include "engine/base/error_reason.h"

namespace longdoc {
namespace {

// A bijection of 64 bits in which every bit of the result depends on every bit of `x`: two rounds
// of xor-shift and odd multiplication (the finaliser of SplitMix64, Steele et al. 2014).
uint64_t Mix(uint64_t x) {
  x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9u;
  x = (x ^ (x >> 27)) * 0x94d049bb133111ebu;
  return x ^ (x >> 31);
}

constexpr float kMaxTemperature = 100;

template <class Token>
bool MoreLikely(const Token& a, const Token& b) {
  return a.logit != b.logit ? a.logit > b.logit : a.id < b.id;
}

}  // namespace

double UniformDraw(uint64_t seed, uint64_t index) {
  constexpr uint64_t kGolden = 0x9e3779b97f4a7c15u;
  // The seed is mixed first, so that streams of near seeds do not overlap.
  const uint64_t bits = Mix(Mix(seed + kGolden) + kGolden * (index + 1));
  return static_cast<double>(bits >> 11) * 0x1p-53;
}

absl::Status CheckSamplingOptions(const SamplingOptions& o) {
  std::string problem;
  // Written so that NaN fails.
  if (!(o.temperature >= 0 && o.temperature <= kMaxTemperature)) {
    problem =
        absl::StrFormat("temperature must be in [0, %g], got %g", kMaxTemperature, o.temperature);
  } else if (o.top_k < 0) {
    problem = absl::StrFormat("top_k must be at least 0, got %d", o.top_k);
  } else if (!(o.top_p >= 0 && o.top_p <= 1)) {
    problem = absl::StrFormat("top_p must be in [0, 1], got %g", o.top_p);
  }
  if (problem.empty()) return absl::OkStatus();
  return WithReason(absl::InvalidArgumentError(problem), "INVALID_SAMPLING");
}

absl::Status LogitsNotFinite() {
  return absl::InternalError("the decoder's logits are not finite");
}

absl::StatusOr<SampledToken> Sampler::Next(absl::Span<const float> logits, float scale) {
  int32_t best = 0;
  for (size_t v = 1; v < logits.size(); ++v) {
    if (logits[v] > logits[best]) best = static_cast<int32_t>(v);
  }
  const float max = logits[best] * scale;
  double sum = 0;
  for (const float logit : logits) sum += std::exp(static_cast<double>(logit * scale) - max);
  if (!std::isfinite(max) || !std::isfinite(sum)) {
    return LogitsNotFinite();
  }
  SampledToken token;
  token.id = options_.temperature > 0 ? Draw(logits, scale, max) : best;
  token.log_prob =
      static_cast<float>(static_cast<double>(logits[token.id] * scale) - max - std::log(sum));
  return token;
}

int32_t Sampler::Draw(absl::Span<const float> logits, float scale, float max) {
  tokens_.clear();
  for (size_t v = 0; v < logits.size(); ++v) {
    const double above = static_cast<double>(logits[v] * scale) - max;
    const double weight = std::exp(above / options_.temperature);
    tokens_.push_back({static_cast<int32_t>(v), logits[v], weight});
  }
  KeepTopK();
  KeepTopP();
  // Truncation leaves another order, also where it has kept every token. Draws must not depend on
  // how the library sorts.
  if (tokens_.size() < logits.size() || options_.top_p < 1) {
    std::sort(tokens_.begin(), tokens_.end(),
              [](const Weighted& a, const Weighted& b) { return a.id < b.id; });
  }
  double total = 0;
  for (const Weighted& t : tokens_) total += t.weight;
  const double drawn = UniformDraw(options_.seed, draws_++) * total;
  double below = 0;
  for (const Weighted& t : tokens_) {
    below += t.weight;
    if (drawn < below) return t.id;
  }
  // Rounding alone leads here; a weight may be 0, the last one kept need not be likely.
  return std::max_element(tokens_.begin(), tokens_.end(),
                          [](const Weighted& a, const Weighted& b) { return a.weight < b.weight; })
      ->id;
}

void Sampler::KeepTopK() {
  const size_t k = static_cast<size_t>(options_.top_k);
  if (k == 0 || k >= tokens_.size()) return;
  std::nth_element(tokens_.begin(), tokens_.begin() + k, tokens_.end(), MoreLikely<Weighted>);
  tokens_.resize(k);
}

// Sorts only as far as it must: the likely tokens are few.
void Sampler::KeepTopP() {
  if (options_.top_p >= 1) return;
  double total = 0;
  for (const Weighted& t : tokens_) total += t.weight;
  const double wanted = static_cast<double>(options_.top_p) * total;
  double reached = 0;
  size_t sorted = 0;
  for (size_t kept = 0; kept < tokens_.size(); ++kept) {
    if (kept == sorted) {
      sorted = std::min(tokens_.size(), std::max<size_t>(64, 4 * sorted));
      std::partial_sort(tokens_.begin() + kept, tokens_.begin() + sorted, tokens_.end(),
                        MoreLikely<Weighted>);
    }
    reached += tokens_[kept].weight;
    if (reached >= wanted) {
      tokens_.resize(kept + 1);
      return;
    }
  }
}

}  // namespace longdoc

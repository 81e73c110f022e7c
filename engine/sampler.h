// Chooses the next token from logits.
#pragma once

#include <cstdint>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "engine/decode_task.h"

namespace longdoc {

// OK, or INVALID_ARGUMENT (INVALID_SAMPLING) naming the field, its range and the value.
absl::Status CheckSamplingOptions(const SamplingOptions& options);

// Draw number `index` of the stream that belongs to `seed`: uniform in [0, 1), with 53 random bits.
// A function of its arguments alone, the same on every machine.
double UniformDraw(uint64_t seed, uint64_t index);

struct SampledToken {
  int32_t id = 0;
  float log_prob = 0;  // of the model itself: before temperature and truncation
};

// Sampler::Next as an op of a device (Backend::SampleToken). Pointers are memory of the device.
struct SampleTokenArgs {
  const float* logits = nullptr;  // [vocabulary]
  int64_t vocabulary = 0;
  float scale = 1;
  SamplingOptions options;
  const double* draw = nullptr;   // a UniformDraw; not read when greedy
  SampledToken* token = nullptr;  // id -1 when logits are not finite
  void* scratch = nullptr;        // SampleScratchBytes(vocabulary)
};

// INTERNAL: what a sampler says of such logits.
absl::Status LogitsNotFinite();

// Confined to one sequence. Options have been checked.
class Sampler {
 public:
  explicit Sampler(const SamplingOptions& options) : options_(options) {}

  // The next token from logits[v] · scale; the vocabulary is not empty. INTERNAL when logits are
  // not finite.
  absl::StatusOr<SampledToken> Next(absl::Span<const float> logits, float scale);

 private:
  struct Weighted {
    int32_t id;
    float logit;    // unscaled: what ties are decided by
    double weight;  // exp((logit · scale − max) / temperature)
  };
  int32_t Draw(absl::Span<const float> logits, float scale, float max);
  void KeepTopK();
  void KeepTopP();

  const SamplingOptions options_;
  uint64_t draws_ = 0;
  std::vector<Weighted> tokens_;  // kept between calls for its memory
};

}  // namespace longdoc

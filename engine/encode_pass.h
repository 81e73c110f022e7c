// What an encode asks of a model family: the plan of a pass, and the pass.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "engine/backend.h"
#include "engine/engine.h"
#include "engine/pass.h"

namespace longdoc {

struct DecoderWeights;  // decoder_weights.h

// One sequence of a packed pass; ids and spans stay the caller's until the pass is over.
struct PassSequence {
  absl::Span<const int32_t> ids;
  absl::Span<const TokenSpan> spans;  // to pool besides the whole
  bool token_vectors = false;
  bool cross_kv = false;
  DType cross_kv_type = DType::kBF16;
};

class EncodePass : public Pass {
 public:
  // Of everything that has run so far.
  virtual EncodeStats stats() const = 0;

  // Finished passes only. Moves out what a sequence asked for, token vectors excepted, with its own
  // statistics: what sequences share (seconds, bytes) is divided among them by tokens.
  virtual EncodeResult TakeResult(size_t sequence) = 0;
  // The vectors of all tokens, [tokens, dimensions] fp32; a sequence's begin at first_token().
  virtual Buffer TakeTokenVectors() = 0;
  virtual int64_t first_token(size_t sequence) const = 0;
};

// A model that encodes on this engine. The backend is the one it was loaded for.
class EncodingModel : public Model {
 public:
  // Everything but expected_seconds and scratch_bytes of more than one worker. The arguments have
  // been checked.
  virtual EncodePlan PlanEncode(const BackendInfo& backend, const EncodeShape& shape) const = 0;
  // Allocates the pass's memory; RESOURCE_EXHAUSTED when the system refuses. The model
  // outlives the pass.
  virtual absl::StatusOr<std::unique_ptr<EncodePass>> MakePass(
      Backend& backend, const AttentionPolicy& policy,
      const std::vector<PassSequence>& sequences) const = 0;
  // Of a model that can_score_likelihood; it lives as long as the model.
  virtual const DecoderWeights* decoder() const { return nullptr; }
};

}  // namespace longdoc

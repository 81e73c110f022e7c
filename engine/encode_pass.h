// What an encode asks of a model family: the plan of a pass, and the pass.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "engine/backend.h"
#include "engine/engine.h"
#include "engine/pass.h"

namespace longdoc {

class ArrivingIds;      // arriving_ids.h
struct DecoderWeights;  // decoder_weights.h

// One sequence of a packed pass; ids and spans stay the caller's until the pass is over.
struct PassSequence {
  absl::Span<const int32_t> ids;
  absl::Span<const TokenSpan> spans;  // to pool besides the whole
  bool token_vectors = false;
  bool keep_token_vectors = false;
  bool cross_kv = false;
  DType cross_kv_type = DType::kBF16;
  ArrivingIds* arrived = nullptr;  // holds the first ids on the device; or null
};

// Sequences packed without padding.
struct PassPacking {
  explicit PassPacking(const std::vector<PassSequence>& all) : sequences(all), cu_seqlens{0} {
    for (const PassSequence& s : sequences) {
      ids.insert(ids.end(), s.ids.begin(), s.ids.end());
      cu_seqlens.push_back(static_cast<int64_t>(ids.size()));
    }
  }
  int64_t tokens() const { return cu_seqlens.back(); }
  int64_t tokens(size_t sequence) const { return cu_seqlens[sequence + 1] - cu_seqlens[sequence]; }

  std::vector<PassSequence> sequences;
  std::vector<int32_t> ids;
  std::vector<int64_t> cu_seqlens;  // [B+1]
};

// Nanoseconds that the device spent in steps of a pass.
struct PassTimes {
  Backend::NanosecondCount attention = std::make_shared<std::atomic<int64_t>>(0);
  Backend::NanosecondCount dense = std::make_shared<std::atomic<int64_t>>(0);
};

// Adds what is called during its life to one of them.
class StepTimer {
 public:
  StepTimer(Backend& backend, const Backend::NanosecondCount& spent)
      : backend_(backend), spent_(spent), started_(backend.StartTimer()) {}
  ~StepTimer() { backend_.StopTimer(started_, spent_); }
  StepTimer(const StepTimer&) = delete;
  StepTimer& operator=(const StepTimer&) = delete;

 private:
  Backend& backend_;
  const Backend::NanosecondCount& spent_;
  const int64_t started_;
};

class EncodePass : public Pass {
 public:
  // Of everything that has run so far.
  virtual EncodeStats stats() const = 0;

  // Finished passes only. Moves out what a sequence asked for, token vectors excepted, with its own
  // statistics: what sequences share (seconds, bytes) is divided among them by tokens.
  virtual EncodeResult TakeResult(size_t sequence) = 0;
  // The vectors of all tokens, [tokens, dimensions] fp32 in host memory, if they were asked for; a
  // sequence's begin at first_token().
  virtual Buffer TakeTokenVectors() = 0;
  virtual int64_t first_token(size_t sequence) const = 0;
};

// A model that encodes on this engine. The backend is the one it was loaded for.
class EncodingModel : public Model {
 public:
  // Everything but expected_seconds and scratch_bytes of more than one worker. The arguments have
  // been checked.
  virtual EncodePlan PlanEncode(const Backend& backend, const EncodeShape& shape) const = 0;
  // Allocates the pass's memory; RESOURCE_EXHAUSTED when the system refuses. The model
  // outlives the pass.
  virtual absl::StatusOr<std::unique_ptr<EncodePass>> MakePass(
      Backend& backend, const AttentionPolicy& policy,
      const std::vector<PassSequence>& sequences) const = 0;
  // Of a model that can_score_likelihood; it lives as long as the model.
  virtual const DecoderWeights* decoder() const { return nullptr; }
};

}  // namespace longdoc

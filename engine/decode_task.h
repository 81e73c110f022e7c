// What the decoder can be asked for: scores of candidates against a document, and text.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <vector>

#include "absl/functional/any_invocable.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "engine/base/cancellation.h"
#include "engine/cross_kv.h"

namespace longdoc {

class Model;

// The likelihood of a candidate, given the document: the targets are its tokens, then [SEP].
struct CandidateScore {
  double sum = 0;                // of the targets' log-probabilities
  double mean = 0;               // sum / num_targets
  int64_t num_targets = 0;       // the candidate's tokens + 1
  std::vector<float> log_probs;  // [num_targets], when asked for
};

// Of one task; worker seconds of a shared pass are divided by targets.
struct DecodeStats {
  int64_t targets = 0;  // log-probabilities computed, or tokens generated
  double queue_seconds = 0;
  double compute_seconds = 0;  // wall clock, of the pass
  double worker_seconds = 0;
  int64_t planned_bytes = 0;
};

struct ScoreTask {
  std::shared_ptr<const Model> model;
  // Of the same model. Held, and so pinned by whoever keeps it, until the task is over.
  std::shared_ptr<const CrossKv> document;
  std::vector<std::vector<int32_t>> candidates;     // token ids without [CLS] and [SEP]
  bool want_log_probs = false;                      // of each target
  std::shared_ptr<CancellationToken> cancellation;  // never null
  // Called from a worker, once for each candidate by its index, as they become ready; none after
  // cancellation. INVALID_ARGUMENT (EMPTY_CANDIDATE, CANDIDATE_TOO_LONG, TOKEN_OUT_OF_VOCABULARY)
  // concerns one candidate, not the task. Must be quick.
  std::function<void(size_t, absl::StatusOr<CandidateScore>)> on_scored;
  // Called exactly once, after the last on_scored, iff Submit returned OK. Must be quick.
  absl::AnyInvocable<void(absl::StatusOr<DecodeStats>) &&> on_done;
};

// How the next token is chosen. In this order: temperature divides the logits; top_k keeps the k
// most likely tokens; top_p keeps, of those, the fewest whose probability reaches p. Ties go to the
// lower id. The same seed gives the same tokens.
struct SamplingOptions {
  float temperature = 0;  // in [0, 100]; 0: greedy, the most likely token
  int32_t top_k = 0;      // >= 0; 0: all
  float top_p = 1;        // in [0, 1]; 1: all. The most likely token always stays
  uint64_t seed = 0;
};

struct GenerateResult {
  std::vector<int32_t> tokens;   // without [SEP]
  std::vector<float> log_probs;  // of each, before temperature and truncation
  bool stopped = false;          // [SEP] came; otherwise max_new_tokens was reached
  DecodeStats stats;
};

struct GenerateTask {
  std::shared_ptr<const Model> model;
  std::shared_ptr<const CrossKv> document;
  std::vector<int32_t> prompt;  // without [CLS]; may be empty
  int64_t max_new_tokens = 0;   // at least 1; with the prompt at most the model's max_target_tokens
  SamplingOptions sampling;
  std::shared_ptr<CancellationToken> cancellation;  // never null
  // Called from a worker for every token but [SEP]; may be null. Must be quick.
  std::function<void(int32_t token, float log_prob)> on_token;
  // Called exactly once, after the last on_token, iff Submit returned OK. Must be quick.
  absl::AnyInvocable<void(absl::StatusOr<GenerateResult>) &&> on_done;
};

}  // namespace longdoc

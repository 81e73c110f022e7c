// Log-probabilities of candidates given one document, all of them teacher-forced in one pass.
//
// Candidates are taken in chunks of bounded rows and cache pages; each chunk runs through the
// decoder's layers, then through the vocabulary in column tiles (logits never exceed one tile):
//
//   per chunk: begin → layers (decoder_layers.h) → vocabulary → fetch
//
// What several candidates of a chunk begin with ([CLS] at least) is computed for the first of them
// only. They share whole pages of the cache; of the page in which they part each has its own, into
// which the first one's keys are copied. Where attention is whole, only whole pages are shared.
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <vector>

#include "absl/types/span.h"
#include "engine/base/cancellation.h"
#include "engine/decoder_layers.h"
#include "engine/pass.h"

namespace longdoc {

struct ScorePassItem {
  absl::Span<const int32_t> tokens;  // not empty, in the vocabulary; the caller's until the end
  const CancellationToken* cancellation = nullptr;
};

// What decodes of one pass have cost so far.
struct DecodeCount {
  int64_t rows = 0;        // inputs that went through the layers
  int64_t candidates = 0;  // scored
  int64_t targets = 0;     // log-probabilities delivered
  // Of a generation on a device: recordings made of a round, and rounds that replayed one.
  int64_t recorded_rounds = 0, replayed_rounds = 0;
  double worker_seconds = 0;
};

class ScorePass final : public Pass {
 public:
  struct Setup {
    Backend* backend = nullptr;
    KvPagePool* pages = nullptr;
    const DecoderWeights* weights = nullptr;
    const CrossKv* document = nullptr;
    int32_t cls = 0, sep = 0;
    bool share_prefixes = true;  // false: for tests
    std::vector<ScorePassItem> items;
    // Called between steps, in the order of items, for those that were not cancelled before their
    // chunk began. [tokens + 1]: of the tokens and of [SEP].
    std::function<void(size_t item, std::vector<float> log_probs)> on_scored;
  };

  // What a pass over candidates of `lengths` tokens may hold at once.
  static int64_t PlanBytes(const DecoderWeights& weights, const BackendInfo& backend,
                           int64_t document_tokens, absl::Span<const int64_t> lengths);

  // RESOURCE_EXHAUSTED when the system refuses memory.
  static absl::StatusOr<std::unique_ptr<ScorePass>> Create(Setup setup);

  int64_t num_steps() const override { return num_steps_; }
  bool finished() const override { return phase_ == Phase::kDone; }
  absl::Status RunStep(int64_t step, WorkerScratch& scratch) override;
  void NextPhase() override;
  double Progress(int64_t steps_done) const override;

  DecodeCount count() const;

 private:
  enum class Phase { kBegin, kLayers, kVocabulary, kFetch, kDone };
  struct Candidate {
    size_t item = 0;
    std::vector<int32_t> inputs;  // [CLS], then its tokens
    KvSequence keys;
    int64_t first = 0;             // rows below are another candidate's,
    size_t prefix_of = 0;          // this earlier one's, when first > 0
    std::vector<KeyCopy> copies;   // for later candidates
    std::vector<float> log_probs;  // [inputs]

    // The first target of its own: the last common row may have to predict something else.
    int64_t first_target() const { return first > 0 ? first - 1 : 0; }
  };

  explicit ScorePass(Setup setup) : setup_(std::move(setup)) {}
  absl::Status BeginChunk();
  absl::Status AddCandidate(size_t item);
  void ShareLongestPrefix(Candidate& candidate) const;
  void CopyKeysFor(Candidate& candidate);
  void AddTargets(size_t candidate);
  absl::Status RunVocabulary(int64_t step, WorkerScratch& scratch);
  absl::Status Fetch();
  void FinishChunk();
  void EnterPhase(Phase phase);
  int64_t VocabularyPieces() const;
  RowRange VocabularyRows(int64_t index) const;

  Setup setup_;
  KvShape shape_;
  std::unique_ptr<DecoderLayers> layers_;
  size_t next_item_ = 0;
  std::vector<Candidate> chunk_;
  std::vector<DecoderInput> inputs_;  // of the chunk
  std::vector<int32_t> targets_;      // [T], in the order of candidates
  std::vector<int32_t> target_rows_;  // [T]: the row of the run that predicts it

  Placed placed_targets_, placed_rows_;
  // One state per column tile and target, so that all tiles may run at once: maxima, sums and
  // chosen logits, each [tiles, T]. On the host once fetched.
  Buffer states_;
  Placed fetched_;

  Phase phase_ = Phase::kBegin;
  int64_t num_steps_ = 1;
  int64_t total_tokens_ = 0, finished_tokens_ = 0, chunk_tokens_ = 0;

  const Backend::NanosecondCount spent_ = std::make_shared<std::atomic<int64_t>>(0);
  DecodeCount count_;  // but for the time
};

}  // namespace longdoc

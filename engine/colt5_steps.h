// The steps of a longdoc-CoLT5 encoder on tiles of tokens, packed or routed. Formulas:
// docs/models.md (longdoc-CoLT5).
//
// x is the only state of all tokens. A layer runs as Enter → Route (queries, keys) → HeavyQuery,
// HeavyKeys → attention → HeavyOutput → LightOutput → Route (feed-forward) → HeavyFeedForward. The
// light feed-forward needs x as the heavy one read it, so the next layer's Enter (or Final) adds
// both: it is a tile's last visit for one layer and its first for the next.
#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <vector>

#include "absl/status/status.h"
#include "engine/attention_steps.h"
#include "engine/backend.h"
#include "engine/colt5_layout.h"
#include "engine/colt5_model.h"
#include "engine/cross_kv.h"
#include "engine/encoder_steps.h"
#include "engine/engine.h"
#include "engine/worker_scratch.h"

namespace longdoc {

// What a router chose in the current layer, sequence after sequence; in memory of the device.
struct RoutedTokens {
  const std::vector<int64_t>* offsets = nullptr;  // [B+1]: where a sequence's begin; the host's
  int32_t* positions = nullptr;                   // within the sequence, ascending
  int32_t* rows = nullptr;                        // of x
  float* weights = nullptr;                       // soft top-k
  int64_t size() const { return offsets->back(); }
};

struct Colt5State {
  Backend* backend = nullptr;
  const Colt5Model* model = nullptr;
  const Colt5Layout* layout = nullptr;
  const int32_t* ids = nullptr;  // [T], of the device

  float* x = nullptr;  // [T, C], the residual stream
  std::unique_ptr<AttentionSteps> light, heavy;
  std::array<float*, 2> scores{};  // [T] each; of queries or the
                                   // feed-forward, and of keys
  std::array<RoutedTokens, RoutingStats::kNumRouters> routed;
  int32_t* previous_queries = nullptr;  // positions, in the layer before
  RoutingTally* tallies = nullptr;      // [B, routers]
  float* ff_rows = nullptr;             // [routed, C]: heavy feed-forward, unscaled

  // Asked for besides vectors.
  float* token_vectors = nullptr;                  // [T, output_size], or null
  std::vector<std::shared_ptr<CrossKv>> cross_kv;  // by sequence; null for those that want none
};

// Ends layer − 1 (or embeds, before layer 0); then norm, the attention routers' scores, and the
// light queries, keys and values.
absl::Status EnterLayerStep(Colt5State& s, size_t layer, TokenTile tile, WorkerScratch& scratch);

// Chooses the tokens of one sequence from the scores of the router.
absl::Status RouteStep(Colt5State& s, size_t layer, RoutingStats::Router router, size_t sequence,
                       WorkerScratch& scratch);

// Projections of routed tokens [tile.begin, +rows): queries; keys and values.
absl::Status HeavyQueryStep(Colt5State& s, size_t layer, TokenTile tile, WorkerScratch& scratch);
absl::Status HeavyKeysStep(Colt5State& s, size_t layer, TokenTile tile, WorkerScratch& scratch);

// Adds what heavy attention gave routed queries, and what light attention gave all tokens; the
// latter scores for the feed-forward's router.
absl::Status HeavyOutputStep(Colt5State& s, size_t layer, TokenTile tile, WorkerScratch& scratch);
absl::Status LightOutputStep(Colt5State& s, size_t layer, TokenTile tile, WorkerScratch& scratch);

// The heavy feed-forward of routed tokens, into ff_rows.
absl::Status HeavyFeedForwardStep(Colt5State& s, size_t layer, TokenTile tile,
                                  WorkerScratch& scratch);

// Ends the last layer, normalises in place, and derives what was asked for. With cross keys and
// values the tile lies in `sequence` and begins a whole number of key blocks after its start.
absl::Status FinalStep(Colt5State& s, size_t sequence, TokenTile tile, WorkerScratch& scratch);

}  // namespace longdoc

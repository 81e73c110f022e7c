// Decoders with random weights, documents with random keys and values, and passes run to their end.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "engine/backend.h"
#include "engine/decoder_weights.h"
#include "engine/encode_pass.h"
#include "engine/kv_cache.h"
#include "engine/pass.h"
#include "engine/score_pass.h"

namespace longdoc::testing {

inline constexpr int32_t kCls = 2, kSep = 3;  // in the vocabularies of these decoders

// Two layers, C 64, 4 heads of 16, 3,000 ids (two tiles of the vocabulary), 2,048 positions.
Colt5Config SmallDecoderConfig();

// Weights from a hash of `seed`. Sublayers answer with values above one: a decoder that listens
// less to them only repeats its input, whose embedding is the output's. It owns what the packed
// weights point to.
struct RandomDecoder {
  RandomDecoder(Backend& backend, const Colt5Config& config, uint64_t seed);

  std::vector<std::vector<float>> storage;
  std::unique_ptr<DecoderWeights> weights;
};

// Numbers in [-amplitude, amplitude], a function of the arguments.
std::vector<float> RandomFloats(uint64_t seed, int64_t count, float amplitude);
std::vector<int32_t> RandomTokens(uint64_t seed, int64_t count, int64_t vocab_size);

// A document of so many tokens; the backend outlives it.
std::shared_ptr<const CrossKv> RandomDocument(Backend& backend, const Colt5Config& config,
                                              int64_t tokens, DType storage, uint64_t seed);

// Keys and values [layers][tokens·D] as a document.
std::shared_ptr<const CrossKv> MakeDocument(Backend& backend, int32_t head_dim, DType storage,
                                            const std::vector<std::vector<float>>& keys,
                                            const std::vector<std::vector<float>>& values);

// Runs the steps of every phase, last one first: their order must not matter. `before_phase` may
// look at things in between. Stops at the first failure.
absl::Status RunPass(Backend& backend, Pass& pass,
                     const std::function<void()>& before_phase = nullptr);

// What scoring takes besides the candidates.
struct ScoringSetup {
  Backend* backend = nullptr;
  const DecoderWeights* weights = nullptr;
  std::shared_ptr<const CrossKv> document;
  int32_t cls = kCls, sep = kSep;
};

ScorePass::Setup MakeScoreSetup(const ScoringSetup& setup, KvPagePool& pages,
                                const std::vector<std::vector<int32_t>>& candidates);

// Log-probabilities of each candidate's targets, all in one pass.
std::vector<std::vector<float>> ScoreAll(const ScoringSetup& setup,
                                         const std::vector<std::vector<int32_t>>& candidates,
                                         bool share_prefixes = true);

// A model of an engine that can only decode; `weights` outlive it.
std::shared_ptr<const EncodingModel> MakeDecodingModel(const std::string& name,
                                                       const DecoderWeights* weights);

}  // namespace longdoc::testing

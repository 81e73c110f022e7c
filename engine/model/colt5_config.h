// What config.json says of a longdoc-CoLT5 model, checked. Fields and limits: docs/models.md.
#pragma once

#include <cstdint>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"

namespace longdoc {

struct Colt5Config {
  int64_t vocab_size = 0;   // V
  int64_t hidden_size = 0;  // C, a multiple of 16
  int64_t num_layers = 0;   // of the encoder
  int64_t head_dim = 64;    // D of every head, encoder and decoder; the attention scale is D^-1/2

  // Encoder. Attention is C -> heads * D -> C.
  int64_t light_heads = 0;
  int64_t heavy_heads = 0;
  std::vector<float> light_slopes;  // [light_heads], each in [0, 1]
  std::vector<float> heavy_slopes;  // [heavy_heads]; 0: the head sees every routed key alike
  int64_t light_radius = 127;       // w: light attention sees |i - j| <= w
  int64_t light_ff_size = 0;        // hidden units of the gated feed-forwards
  int64_t heavy_ff_size = 0;
  // Shares of a document's tokens that are routed; counts are RoutedCount(n, rate).
  double query_rate = 1.0 / 16;
  double kv_rate = 1.0 / 8;
  double ff_rate = 1.0 / 16;
  int64_t output_size = 0;  // rows of the projection of document and passage vectors; 0: none

  // Decoder; decoder_layers 0: the model only encodes, and the next three are 0 or empty.
  int64_t decoder_layers = 0;
  int64_t decoder_heads = 0;  // of queries; keys and values have one
  int64_t decoder_ff_size = 0;
  std::vector<float> decoder_slopes;  // [decoder_heads], of self-attention
  int64_t max_target_tokens = 2048;   // decoder positions of one candidate or generation

  float rms_norm_eps = 1e-6f;

  // Length of document and passage vectors.
  int64_t vector_size() const { return output_size > 0 ? output_size : hidden_size; }
};

// How many of n tokens a router with this rate chooses: n * rate rounded half up, at least 1, at
// most n; none when rate is 0. `n` >= 0, `rate` in [0, 1]. No query or no key: the heavy attention
// adds nothing.
int64_t RoutedCount(int64_t n, double rate);

// Parses and checks config.json. INVALID_ARGUMENT naming field, limit and value; UNIMPLEMENTED for
// another model_type.
absl::StatusOr<Colt5Config> ParseColt5Config(std::string_view json);

// Parameters of the whole model; the embedding counts once.
int64_t NumParameters(const Colt5Config& config);

// Floating-point operations (multiply-adds times 2) outside the attention scores and sums:
// encoding a document of n tokens: light branches and routers of all, heavy ones of the routed;
double DenseFlops(const Colt5Config& config, int64_t n);
// projecting its encoder states to the keys and values of every decoder layer, once per document;
double CrossKvFlops(const Colt5Config& config, int64_t n);
// and one decoder position, logits over the whole vocabulary included. 0 without a decoder.
double DecoderFlopsPerTarget(const Colt5Config& config);

}  // namespace longdoc

#include "engine/model/random_weights.h"

#include <cmath>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "engine/base/check.h"
#include "engine/base/hash.h"

namespace longdoc {
namespace {

// SplitMix64: the value of a counter, so that any element can be made alone.
uint64_t Mix(uint64_t x) {
  x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9u;
  x = (x ^ (x >> 27)) * 0x94d049bb133111ebu;
  return x ^ (x >> 31);
}

// Nearly normal numbers of mean 0 and standard deviation 1: the sum of four 16-bit uniform ones. No
// logarithm or cosine is involved, whose last bits differ between C libraries.
class NormalStream {
 public:
  NormalStream(const std::string& name, uint64_t seed)
      : key_(Mix(Fnv1a(name) ^ Mix(seed + 0x9e3779b97f4a7c15u))) {}

  double At(uint64_t index) const {
    const uint64_t bits = Mix(key_ + (index + 1) * 0x9e3779b97f4a7c15u);
    const int64_t sum = static_cast<int64_t>((bits & 0xffff) + (bits >> 16 & 0xffff) +
                                             (bits >> 32 & 0xffff) + (bits >> 48));
    // Mean 4·65535/2; variance 4·(65536² − 1)/12.
    static const double kInverse = 1 / std::sqrt((65536.0 * 65536.0 - 1) / 3);
    return static_cast<double>(sum - 2 * 65535) * kInverse;
  }

 private:
  uint64_t key_;
};

class Maker {
 public:
  Maker(uint64_t seed, OwnedTensors& tensors) : seed_(seed), tensors_(tensors) {}

  void Add(const std::string& name, const std::vector<int64_t>& shape, double stddev,
           double mean = 0) {
    OwnedTensor& tensor = tensors_[name];
    tensor.shape = shape;
    int64_t count = 1;
    for (int64_t dim : shape) count *= dim;
    tensor.values.resize(static_cast<size_t>(count));
    const NormalStream normal(name, seed_);
    for (size_t i = 0; i < tensor.values.size(); ++i) {
      // Two roundings in double, then one to float; the build forbids fusing them.
      tensor.values[i] = static_cast<float>(normal.At(i) * stddev + mean);
    }
  }

  void AddNorm(const std::string& name, int64_t c) {
    Add(absl::StrCat(name, ".weight"), {c}, 0.05, 1);
    Add(absl::StrCat(name, ".bias"), {c}, 0.02);
  }

  void AddLinear(const std::string& name, int64_t outputs, int64_t inputs, bool bias = true) {
    Add(absl::StrCat(name, ".weight"), {outputs, inputs},
        1 / std::sqrt(static_cast<double>(inputs)));
    if (bias) Add(absl::StrCat(name, ".bias"), {outputs}, 0.02);
  }

 private:
  uint64_t seed_;
  OwnedTensors& tensors_;
};

// Spread of the output matrices, relative to one that keeps the variance of its inputs. The
// residual of n sublayers of the encoder grows to that of two; the decoder's answers are larger
// than its input, because its output matrix is its embedding: it would only repeat what it read.
double Colt5Gain(const Colt5Config& config, const std::string& name) {
  const bool answers =
      absl::EndsWith(name, "attention.output.weight") || absl::EndsWith(name, "down.weight");
  if (!answers) return 1;
  return absl::StartsWith(name, "decoder.") ? 2
                                            : 1 / std::sqrt(static_cast<double>(config.num_layers));
}

std::string LayerName(int64_t layer) { return absl::StrCat("encoder.layer.", layer, "."); }

TensorView View(const OwnedTensors& tensors, const std::string& name) {
  const auto it = tensors.find(name);
  LD_CHECK(it != tensors.end());
  return {DType::kF32, it->second.shape, it->second.values.data()};
}

NormWeights ViewNorm(const OwnedTensors& tensors, const std::string& name) {
  return {View(tensors, name + ".weight"), View(tensors, name + ".bias")};
}

EncoderLayerWeights ViewLayer(bool b, int64_t index, const OwnedTensors& tensors) {
  const std::string layer = LayerName(index);
  const auto view = [&tensors](const std::string& name) { return View(tensors, name); };
  EncoderLayerWeights w;
  w.query = view(SelfAttentionName(index, "query.weight"));
  w.query_bias = view(SelfAttentionName(index, "query.bias"));
  w.key = view(SelfAttentionName(index, "key.weight"));
  w.key_bias = view(SelfAttentionName(index, "key.bias"));
  w.value = view(SelfAttentionName(index, "value.weight"));
  w.value_bias = view(SelfAttentionName(index, "value.bias"));
  w.output = view(layer + "attention.output.dense.weight");
  w.output_bias = view(layer + "attention.output.dense.bias");
  w.attention_norm = ViewNorm(tensors, layer + "attention.output.LayerNorm");
  w.gated = view(layer + (b ? "mlp.up_gated_layer.weight" : "mlp.gated_layers.weight"));
  w.down = view(layer + (b ? "mlp.down_layer.weight" : "mlp.wo.weight"));
  w.down_bias = view(layer + (b ? "mlp.down_layer.bias" : "mlp.wo.bias"));
  w.mlp_norm = ViewNorm(tensors, layer + (b ? "layer_norm_2" : "mlp.layernorm"));
  if (b) {
    w.query_norm = ViewNorm(tensors, SelfAttentionName(index, "layer_norm_q"));
    w.key_norm = ViewNorm(tensors, SelfAttentionName(index, "layer_norm_k"));
    w.norm_1 = ViewNorm(tensors, layer + "layer_norm_1");
  }
  return w;
}

}  // namespace

void ScalePart(OwnedTensor& tensor, int64_t part, int64_t parts, double factor) {
  const size_t size = tensor.values.size() / static_cast<size_t>(parts);
  const size_t begin = size * static_cast<size_t>(part);
  for (size_t i = begin; i < begin + size; ++i) {
    tensor.values[i] = static_cast<float>(tensor.values[i] * factor);
  }
}

std::string SelfAttentionName(int64_t layer, const std::string& part) {
  return absl::StrCat(LayerName(layer), "attention.self.", part);
}

OwnedTensors MakeRandomWeights(const EncoderConfig& config, uint64_t seed) {
  const int64_t c = config.hidden_size, f = config.intermediate_size;
  const bool b = config.family == EncoderFamily::kJinaBertB;
  OwnedTensors tensors;
  Maker make(seed, tensors);
  make.Add("embeddings.word_embeddings.weight", {config.vocab_size, c}, 0.02);
  // Small beside the words: every token gets the same row, which would drown them.
  make.Add("embeddings.token_type_embeddings.weight", {config.type_vocab_size, c}, 0.002);
  make.AddNorm("embeddings.LayerNorm", c);
  for (int64_t l = 0; l < config.num_layers; ++l) {
    const std::string layer = LayerName(l);
    for (const char* part : {"query", "key", "value"}) {
      make.AddLinear(SelfAttentionName(l, part), c, c);
    }
    make.AddLinear(layer + "attention.output.dense", c, c);
    make.AddNorm(layer + "attention.output.LayerNorm", c);
    make.AddLinear(layer + (b ? "mlp.up_gated_layer" : "mlp.gated_layers"), 2 * f, c,
                   /*bias=*/false);
    make.AddLinear(layer + (b ? "mlp.down_layer" : "mlp.wo"), c, f);
    make.AddNorm(layer + (b ? "layer_norm_2" : "mlp.layernorm"), c);
    if (b) {
      make.AddNorm(layer + "layer_norm_1", c);
      make.AddNorm(SelfAttentionName(l, "layer_norm_q"), c);
      make.AddNorm(SelfAttentionName(l, "layer_norm_k"), c);
    }
  }
  if (config.num_labels == 1) {
    make.AddLinear("pooler.dense", c, c);
    make.AddLinear("classifier", 1, c);
  }
  return tensors;
}

OwnedTensors MakeRandomWeights(const Colt5Config& config, uint64_t seed) {
  OwnedTensors tensors;
  Maker make(seed, tensors);
  CollectColt5Weights(config, [&](const std::string& name, const std::vector<int64_t>& shape) {
    const bool norm = absl::EndsWith(name, "norm.weight");
    // Embeddings have a spread of 1: what the decoder's logits divide by √C is made for them.
    const double fan_in = name == "embeddings.weight" ? 1 : static_cast<double>(shape.back());
    make.Add(name, shape, norm ? 0.05 : Colt5Gain(config, name) / std::sqrt(fan_in), norm ? 1 : 0);
    return TensorView{};
  });
  return tensors;
}

Colt5Weights ViewWeights(const Colt5Config& config, const OwnedTensors& tensors) {
  return CollectColt5Weights(config, [&](const std::string& name, const std::vector<int64_t>&) {
    return View(tensors, name);
  });
}

EncoderWeights ViewWeights(const EncoderConfig& config, const OwnedTensors& tensors) {
  EncoderWeights weights;
  weights.word = View(tensors, "embeddings.word_embeddings.weight");
  weights.token_type = View(tensors, "embeddings.token_type_embeddings.weight");
  weights.token_type.shape = {config.hidden_size};  // row 0
  weights.embedding_norm = ViewNorm(tensors, "embeddings.LayerNorm");
  for (int64_t l = 0; l < config.num_layers; ++l) {
    weights.layers.push_back(ViewLayer(config.family == EncoderFamily::kJinaBertB, l, tensors));
  }
  return weights;
}

}  // namespace longdoc

#include "tests/engine/decoder/decoder_helpers.h"

#include <cmath>
#include <utility>

#include "absl/strings/str_cat.h"
#include "engine/base/check.h"
#include "engine/base/status_macros.h"
#include "gtest/gtest.h"

namespace longdoc::testing {
namespace {

uint64_t Hash(uint64_t x) {
  x += 0x9e3779b97f4a7c15u;
  x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9u;
  x = (x ^ (x >> 27)) * 0x94d049bb133111ebu;
  return x ^ (x >> 31);
}

class DecodingModel final : public EncodingModel {
 public:
  DecodingModel(std::string name, const DecoderWeights* weights)
      : name_(std::move(name)), weights_(weights) {
    std::string vocabulary = "[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\n";
    for (int64_t id = 5; id < weights->config.vocab_size; ++id) {
      absl::StrAppend(&vocabulary, "word", id, "\n");
    }
    auto tokenizer = ParseVocabTxt(vocabulary);
    LD_CHECK(tokenizer.ok());
    tokenizer_ = *std::move(tokenizer);
    LD_CHECK(tokenizer_->special().cls == kCls && tokenizer_->special().sep == kSep);
    info_.vocab_size = weights->config.vocab_size;
    info_.hidden_size = weights->config.hidden_size;
    info_.can_score_likelihood = true;
    info_.max_target_tokens = weights->config.max_target_tokens;
  }

  const std::string& name() const override { return name_; }
  const ModelInfo& info() const override { return info_; }
  const Tokenizer& tokenizer() const override { return *tokenizer_; }
  const std::string& revision() const override { return name_; }
  ComputeType compute_type() const override { return ComputeType::kF32; }
  int64_t weight_bytes() const override { return weights_->bytes(); }
  EncodePlan PlanEncode(const Backend&, const EncodeShape&) const override { return {}; }
  absl::StatusOr<std::unique_ptr<EncodePass>> MakePass(
      Backend&, const AttentionPolicy&, const std::vector<PassSequence>&) const override {
    return absl::UnimplementedError("only decodes");
  }
  const DecoderWeights* decoder() const override { return weights_; }

 private:
  const std::string name_;
  const DecoderWeights* const weights_;
  ModelInfo info_;
  std::unique_ptr<Tokenizer> tokenizer_;
};

}  // namespace

Colt5Config SmallDecoderConfig() {
  Colt5Config config;
  config.vocab_size = 3000;
  config.hidden_size = 64;
  config.head_dim = 16;
  config.decoder_layers = 2;
  config.decoder_heads = 4;
  config.decoder_slopes = {0.25f, 0.0625f, 0.015625f, 0.00390625f};
  config.decoder_ff_size = 96;
  config.max_target_tokens = 2048;
  return config;
}

std::vector<float> RandomFloats(uint64_t seed, int64_t count, float amplitude) {
  std::vector<float> values(count);
  for (int64_t i = 0; i < count; ++i) {
    const uint64_t bits = Hash(Hash(seed) + static_cast<uint64_t>(i)) >> 40;
    values[i] = amplitude * (static_cast<float>(bits) * 0x1p-23f - 1);
  }
  return values;
}

std::vector<int32_t> RandomTokens(uint64_t seed, int64_t count, int64_t vocab_size) {
  std::vector<int32_t> ids(count);
  for (int64_t i = 0; i < count; ++i) {
    ids[i] = static_cast<int32_t>(Hash(Hash(seed) + static_cast<uint64_t>(i)) %
                                  static_cast<uint64_t>(vocab_size));
  }
  return ids;
}

RandomDecoder::RandomDecoder(Backend& backend, const Colt5Config& config, uint64_t seed) {
  const auto matrix = [&](int64_t rows, int64_t columns, float gain) {
    const float amplitude = gain * std::sqrt(3.0f / static_cast<float>(columns));
    storage.push_back(RandomFloats(seed * 1000 + storage.size(), rows * columns, amplitude));
    return TensorView{DType::kF32, {rows, columns}, storage.back().data()};
  };
  const auto norm = [&] {
    storage.push_back(RandomFloats(seed * 1000 + storage.size(), config.hidden_size, 0.1f));
    for (float& v : storage.back()) v += 1;
    return TensorView{DType::kF32, {config.hidden_size}, storage.back().data()};
  };
  const int64_t c = config.hidden_size, inner = config.decoder_heads * config.head_dim;
  const auto attention = [&] {
    Colt5AttentionWeights w;
    w.query = matrix(inner, c, 1.7f);
    w.key = matrix(config.head_dim, c, 1.7f);
    w.value = matrix(config.head_dim, c, 1);
    w.output = matrix(c, inner, 4);
    return w;
  };
  Colt5Weights source;
  source.embeddings = matrix(config.vocab_size, c, std::sqrt(static_cast<float>(c)));
  for (int64_t l = 0; l < config.decoder_layers; ++l) {
    Colt5DecoderLayerWeights w;
    w.self_attention_norm = norm();
    w.self_attention = attention();
    w.cross_attention_norm = norm();
    w.cross_attention = attention();
    w.ff_norm = norm();
    w.ff.gate_up = matrix(2 * config.decoder_ff_size, c, 1);
    w.ff.down = matrix(c, config.decoder_ff_size, 4);
    source.decoder_layers.push_back(w);
  }
  source.decoder_final_norm = norm();
  auto packed = DecoderWeights::Pack(source, config, backend);
  LD_CHECK(packed.ok());
  weights = *std::move(packed);
}

std::shared_ptr<const CrossKv> MakeDocument(Backend& backend, int32_t head_dim, DType storage,
                                            const std::vector<std::vector<float>>& keys,
                                            const std::vector<std::vector<float>>& values) {
  auto document = std::make_shared<CrossKv>();
  document->tokens = static_cast<int64_t>(keys[0].size()) / head_dim;
  document->head_dim = head_dim;
  document->storage = storage;
  const int64_t block_bytes = kernels::MqaBlockBytes(head_dim, storage);
  for (size_t l = 0; l < keys.size(); ++l) {
    auto layer = backend.memory().Allocate(
        kernels::CeilDiv(document->tokens, kernels::kKeyBlock) * block_bytes, /*zeroed=*/true);
    LD_CHECK(layer.ok());
    const int64_t bytes = static_cast<int64_t>(keys[l].size() * sizeof(float));
    const auto placed_keys = backend.Place(keys[l].data(), bytes);
    const auto placed_values = backend.Place(values[l].data(), bytes);
    LD_CHECK(placed_keys.ok() && placed_values.ok());
    for (int64_t t = 0; t < document->tokens; t += kernels::kKeyBlock) {
      kernels::MqaStoreArgs args;
      args.rows = std::min(kernels::kKeyBlock, document->tokens - t);
      args.head_dim = head_dim;
      args.storage = storage;
      args.keys = placed_keys->as<float>() + t * head_dim;
      args.values = placed_values->as<float>() + t * head_dim;
      args.stride = head_dim;
      args.block = layer->as<char>() + t / kernels::kKeyBlock * block_bytes;
      backend.MqaStore(args);
    }
    document->layers.push_back(*std::move(layer));
  }
  return document;
}

std::shared_ptr<const CrossKv> RandomDocument(Backend& backend, const Colt5Config& config,
                                              int64_t tokens, DType storage, uint64_t seed) {
  std::vector<std::vector<float>> keys, values;
  for (int64_t l = 0; l < config.decoder_layers; ++l) {
    keys.push_back(RandomFloats(seed + 2 * l, tokens * config.head_dim, 3));
    values.push_back(RandomFloats(seed + 2 * l + 1, tokens * config.head_dim, 2));
  }
  return MakeDocument(backend, static_cast<int32_t>(config.head_dim), storage, keys, values);
}

absl::Status RunPass(Backend& backend, Pass& pass, const std::function<void()>& before_phase) {
  backend.InitWorkerThread();
  WorkerScratch scratch(backend.scratch_memory());
  for (; !pass.finished(); pass.NextPhase()) {
    if (before_phase) before_phase();
    EXPECT_GT(pass.num_steps(), 0);
    for (int64_t step = pass.num_steps(); step-- > 0;) {
      RETURN_IF_ERROR(pass.RunStep(step, scratch));
    }
    EXPECT_GE(pass.Progress(pass.num_steps()), 0);
    EXPECT_LE(pass.Progress(pass.num_steps()), 1 + 1e-9);
  }
  return absl::OkStatus();
}

ScorePass::Setup MakeScoreSetup(const ScoringSetup& setup, KvPagePool& pages,
                                const std::vector<std::vector<int32_t>>& candidates) {
  static const CancellationToken& kNever = *new CancellationToken();
  ScorePass::Setup s;
  s.backend = setup.backend;
  s.pages = &pages;
  s.weights = setup.weights;
  s.document = setup.document.get();
  s.cls = setup.cls;
  s.sep = setup.sep;
  for (const auto& candidate : candidates) s.items.push_back({candidate, &kNever});
  return s;
}

std::vector<std::vector<float>> ScoreAll(const ScoringSetup& setup,
                                         const std::vector<std::vector<int32_t>>& candidates,
                                         bool share_prefixes) {
  KvPagePool pages(setup.backend->memory(), int64_t{1} << 40);
  ScorePass::Setup s = MakeScoreSetup(setup, pages, candidates);
  s.share_prefixes = share_prefixes;
  std::vector<std::vector<float>> scores(candidates.size());
  s.on_scored = [&scores](size_t item, std::vector<float> log_probs) {
    EXPECT_TRUE(scores[item].empty()) << "scored twice: " << item;
    scores[item] = std::move(log_probs);
  };
  auto pass = ScorePass::Create(std::move(s));
  EXPECT_TRUE(pass.ok()) << pass.status();
  const absl::Status status = RunPass(*setup.backend, **pass);
  EXPECT_TRUE(status.ok()) << status;
  pass->reset();
  EXPECT_EQ(pages.bytes(), 0);
  for (size_t i = 0; i < candidates.size(); ++i) {
    EXPECT_EQ(scores[i].size(), candidates[i].size() + 1);
  }
  return scores;
}

std::shared_ptr<const EncodingModel> MakeDecodingModel(const std::string& name,
                                                       const DecoderWeights* weights) {
  return std::make_shared<DecodingModel>(name, weights);
}

}  // namespace longdoc::testing

#include "tests/support/golden_model.h"

#include <cstdlib>
#include <cstring>
#include <fstream>
#include <iterator>
#include <nlohmann/json.hpp>

#include "absl/strings/str_cat.h"
#include "engine/base/check.h"
#include "engine/model/safetensors.h"
#include "tests/support/golden_manifest.h"
#include "tests/support/golden_random.h"
#include "tests/support/safetensors_writer.h"

namespace longdoc::testing {
namespace {

using nlohmann::json;

const GoldenManifest& Manifest() {
  static const GoldenManifest& manifest = *new GoldenManifest("encoder");
  return manifest;
}

EncoderConfig ConfigOf(const json& model) {
  EncoderConfig config;
  config.family = model["variant"] == "A" ? EncoderFamily::kJinaBertA : EncoderFamily::kJinaBertB;
  config.vocab_size = Manifest()["vocab_size"].get<int64_t>();
  config.hidden_size = model["hidden_size"].get<int64_t>();
  config.num_layers = model["num_layers"].get<int64_t>();
  config.num_heads = model["num_heads"].get<int64_t>();
  config.head_dim = config.hidden_size / config.num_heads;
  config.intermediate_size = model["intermediate_size"].get<int64_t>();
  config.max_position_embeddings = 8192;
  config.slopes = AlibiSlopes(config.num_heads);
  config.num_labels = model["cases"][0].contains("logit") ? 1 : 0;
  return config;
}

// Adds the tensors of one model to `writer`.
class WeightMaker {
 public:
  WeightMaker(const json& model, const std::string& prefix, SafetensorsWriter& writer)
      : name_(model["name"].get<std::string>()), prefix_(prefix), writer_(writer) {}

  void Add(const std::string& tensor, const std::vector<int64_t>& shape, int64_t base,
           int64_t amplitude) {
    int64_t count = 1;
    for (int64_t dim : shape) count *= dim;
    writer_.AddF32(absl::StrCat(prefix_, tensor), shape,
                   GoldenUniform(absl::StrCat(name_, "/", tensor), count, base, amplitude));
  }

  void AddNorm(const std::string& tensor, int64_t c, int64_t gain = 1024, int64_t beta = 128) {
    Add(absl::StrCat(tensor, ".weight"), {c}, gain, gain / 8);
    Add(absl::StrCat(tensor, ".bias"), {c}, 0, beta);
  }

 private:
  std::string name_, prefix_;
  SafetensorsWriter& writer_;
};

void AddLayer(WeightMaker& make, const json& model, int64_t index) {
  const int64_t c = model["hidden_size"].get<int64_t>();
  const int64_t f = model["intermediate_size"].get<int64_t>();
  const auto scale = [&model](const char* key) { return model["scales"][key].get<int64_t>(); };
  const std::string p = absl::StrCat("encoder.layer.", index, ".");
  for (const char* part : {"query", "key", "value"}) {
    const std::string tensor = absl::StrCat(p, "attention.self.", part);
    make.Add(tensor + ".weight", {c, c}, 0,
             scale(std::strcmp(part, "value") == 0 ? "linear" : "qk"));
    make.Add(tensor + ".bias", {c}, 0, 256);
  }
  make.Add(p + "attention.output.dense.weight", {c, c}, 0, scale("output"));
  make.Add(p + "attention.output.dense.bias", {c}, 0, 128);
  make.AddNorm(p + "attention.output.LayerNorm", c);
  if (model["variant"] == "A") {
    make.Add(p + "mlp.gated_layers.weight", {2 * f, c}, 0, scale("linear"));
    make.Add(p + "mlp.wo.weight", {c, f}, 0, scale("down"));
    make.Add(p + "mlp.wo.bias", {c}, 0, 128);
    make.AddNorm(p + "mlp.layernorm", c);
    return;
  }
  make.AddNorm(p + "attention.self.layer_norm_q", c, scale("qk_gain"), 256);
  make.AddNorm(p + "attention.self.layer_norm_k", c, scale("qk_gain"), 256);
  make.AddNorm(p + "layer_norm_1", c);
  make.AddNorm(p + "layer_norm_2", c);
  make.Add(p + "mlp.up_gated_layer.weight", {2 * f, c}, 0, scale("linear"));
  make.Add(p + "mlp.down_layer.weight", {c, f}, 0, scale("down"));
  make.Add(p + "mlp.down_layer.bias", {c}, 0, 128);
}

void AddHead(const json& model, const std::string& prefix, SafetensorsWriter& writer) {
  const int64_t c = model["hidden_size"].get<int64_t>();
  const int64_t linear = model["scales"]["linear"].get<int64_t>();
  WeightMaker pooler(model, prefix, writer), classifier(model, "", writer);
  pooler.Add("pooler.dense.weight", {c, c}, 0, linear);
  pooler.Add("pooler.dense.bias", {c}, 0, 256);
  classifier.Add("classifier.weight", {1, c}, 0, 3 * linear);
  classifier.Add("classifier.bias", {1}, 0, 512);
}

void WriteConfig(const json& model, const std::string& dir) {
  const json config = {
      {"model_type", "bert"},
      {"vocab_size", Manifest()["vocab_size"]},
      {"hidden_size", model["hidden_size"]},
      {"num_hidden_layers", model["num_layers"]},
      {"num_attention_heads", model["num_heads"]},
      {"intermediate_size", model["intermediate_size"]},
      {"hidden_act", "gelu"},
      {"layer_norm_eps", 1e-12},
      {"max_position_embeddings", 8192},
      {"type_vocab_size", 2},
      {"pad_token_id", 0},
      {"position_embedding_type", "alibi"},
      {"feed_forward_type", "geglu"},
      {"emb_pooler", "mean"},
  };
  std::ofstream(dir + "/config.json") << config.dump(2) << "\n";
}

}  // namespace

std::vector<std::string> GoldenModelNames() { return Manifest().Names(); }

GoldenModel LoadGoldenModel(const std::string& name) {
  const json& model = Manifest().Model(name);
  GoldenModel golden;
  golden.name = name;
  golden.config = ConfigOf(model);
  const auto vectors = Manifest().OpenNumbers(name);
  const int64_t c = golden.config.hidden_size;
  for (const json& entry : model["cases"]) {
    GoldenCase one;
    const int64_t tokens = entry["tokens"].get<int64_t>();
    one.ids = GoldenIds(name, tokens, Manifest()["vocab_size"].get<int64_t>());
    int64_t sum = 0;
    for (int32_t id : one.ids) sum += id;
    LD_CHECK(sum == entry["ids_sum"].get<int64_t>());
    one.logit = entry.value("logit", 0.0);
    for (const json& range : entry["ranges"]) {
      one.ranges.emplace_back(range[0].get<int64_t>(), range[1].get<int64_t>());
    }
    const int64_t rows = static_cast<int64_t>(one.ranges.size());
    auto view = vectors->Get(absl::StrCat("n", tokens), {rows, c});
    LD_CHECK(view.ok());
    const float* data = static_cast<const float*>(view->data);
    for (int64_t r = 0; r < rows; ++r) one.vectors.emplace_back(data + r * c, data + (r + 1) * c);
    golden.cases.push_back(std::move(one));
  }
  return golden;
}

void WriteGoldenModel(const std::string& name, const std::string& dir, const std::string& prefix) {
  const json& model = Manifest().Model(name);
  const int64_t c = model["hidden_size"].get<int64_t>();
  SafetensorsWriter writer;
  WeightMaker make(model, prefix, writer);
  make.Add("embeddings.word_embeddings.weight", {Manifest()["vocab_size"].get<int64_t>(), c}, 0,
           1024);
  make.Add("embeddings.token_type_embeddings.weight", {2, c}, 0, 512);
  make.AddNorm("embeddings.LayerNorm", c);
  for (int64_t i = 0; i < model["num_layers"].get<int64_t>(); ++i) AddLayer(make, model, i);
  if (ConfigOf(model).num_labels == 1) AddHead(model, prefix, writer);
  for (const auto& [tensor, value] : model["probe"].items()) {
    LD_CHECK(writer.F32(absl::StrCat(prefix, tensor)).back() ==
             static_cast<float>(value.get<double>()));
  }
  writer.WriteFile(dir + "/model.safetensors");
  WriteConfig(model, dir);
  WriteGoldenVocabulary(dir, Manifest()["vocab_size"].get<int64_t>());
}

void WriteGoldenVocabulary(const std::string& dir, int64_t size) {
  std::ofstream out(dir + "/vocab.txt");
  for (int64_t id = 0; id < size; ++id) {
    if (id == 0) {
      out << "[PAD]\n";
    } else if (id >= 100 && id < 104) {
      const char* const special[] = {"[UNK]", "[CLS]", "[SEP]", "[MASK]"};
      out << special[id - 100] << "\n";
    } else {
      out << "word" << id << "\n";
    }
  }
}

std::string MakeTempDir(const std::string& stem) {
  const char* base = std::getenv("TMPDIR");
  std::string pattern = absl::StrCat(base != nullptr ? base : "/tmp", "/longdoc_", stem, "_XXXXXX");
  LD_CHECK(mkdtemp(pattern.data()) != nullptr);
  return pattern;
}

}  // namespace longdoc::testing

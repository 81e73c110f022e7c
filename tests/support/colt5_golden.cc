#include "tests/support/colt5_golden.h"

#include <fstream>
#include <nlohmann/json.hpp>
#include <numeric>

#include "absl/strings/str_cat.h"
#include "engine/base/check.h"
#include "engine/model/safetensors.h"
#include "tests/support/golden_manifest.h"
#include "tests/support/golden_model.h"
#include "tests/support/golden_random.h"
#include "tests/support/safetensors_writer.h"

namespace longdoc::testing {
namespace {

using nlohmann::json;

const GoldenManifest& Manifest() {
  static const GoldenManifest& manifest = *new GoldenManifest("colt5");
  return manifest;
}

// The stored numbers of one case.
class CaseTensors {
 public:
  CaseTensors(const Checkpoint& checkpoint, int64_t tokens)
      : checkpoint_(checkpoint), prefix_(absl::StrCat("n", tokens, ".")) {}

  bool Has(const std::string& name) const { return checkpoint_.Has(prefix_ + name); }

  std::vector<float> Vector(const std::string& name) const {
    const TensorView view = Get(name);
    const float* data = static_cast<const float*>(view.data);
    return std::vector<float>(data, data + view.num_elements());
  }

  std::vector<std::vector<float>> Matrix(const std::string& name, size_t rows) const {
    const TensorView view = Get(name);
    LD_CHECK(view.shape.size() == 2 && view.shape[0] == static_cast<int64_t>(rows));
    const float* data = static_cast<const float*>(view.data);
    std::vector<std::vector<float>> matrix;
    for (size_t r = 0; r < rows; ++r, data += view.shape[1]) {
      matrix.emplace_back(data, data + view.shape[1]);
    }
    return matrix;
  }

  GoldenRouting Routing(const std::string& name) const {
    GoldenRouting routing;
    if (!Has(name + ".indices")) return routing;
    for (float index : Vector(name + ".indices")) {
      routing.indices.push_back(static_cast<int32_t>(index));
    }
    routing.weights = Vector(name + ".weights");
    LD_CHECK(routing.indices.size() == routing.weights.size());
    return routing;
  }

 private:
  TensorView Get(const std::string& name) const {
    const TensorEntry* entry = checkpoint_.Find(prefix_ + name);
    LD_CHECK(entry != nullptr);
    auto view = checkpoint_.Get(prefix_ + name, entry->shape);
    LD_CHECK(view.ok() && view->dtype == DType::kF32);
    return *std::move(view);
  }

  const Checkpoint& checkpoint_;
  std::string prefix_;
};

void LoadDecoderPart(const json& entry, const CaseTensors& tensors, const Colt5Config& config,
                     GoldenColt5Case& one) {
  for (int64_t i = 0; i < config.decoder_layers; ++i) {
    const std::string cross = absl::StrCat("cross", i);
    one.cross.push_back({tensors.Matrix(cross + ".keys", one.rows.size()),
                         tensors.Matrix(cross + ".values", one.rows.size())});
  }
  for (const json& ids : entry["candidates"]) {
    GoldenCandidate candidate;
    candidate.ids = ids.get<std::vector<int32_t>>();
    candidate.log_probs =
        tensors.Vector(absl::StrCat("candidate", one.candidates.size(), ".log_probs"));
    LD_CHECK(candidate.log_probs.size() == candidate.ids.size() + 1);
    one.candidates.push_back(std::move(candidate));
  }
  one.prompt = entry["prompt"].get<std::vector<int32_t>>();
  one.continuation = entry["continuation"].get<std::vector<int32_t>>();
}

GoldenColt5Case LoadCase(const json& entry, const std::string& stream, const Colt5Config& config,
                         const Checkpoint& checkpoint) {
  GoldenColt5Case one;
  const int64_t tokens = entry["tokens"].get<int64_t>();
  one.ids = GoldenIds(stream, tokens, config.vocab_size);
  LD_CHECK(std::accumulate(one.ids.begin(), one.ids.end(), int64_t{0}) ==
           entry["ids_sum"].get<int64_t>());
  for (const json& range : entry["ranges"]) {
    one.ranges.emplace_back(range[0].get<int64_t>(), range[1].get<int64_t>());
  }
  one.rows = entry["rows"].get<std::vector<int64_t>>();
  const CaseTensors tensors(checkpoint, tokens);
  one.vectors = tensors.Matrix("vectors", one.ranges.size());
  one.states = tensors.Matrix("states", one.rows.size());
  for (int64_t i = 0; i < config.num_layers; ++i) {
    const std::string layer = absl::StrCat("layer", i, ".");
    one.layers.push_back({tensors.Routing(layer + "query"), tensors.Routing(layer + "kv"),
                          tensors.Routing(layer + "ff")});
  }
  if (config.decoder_layers > 0) LoadDecoderPart(entry, tensors, config, one);
  return one;
}

}  // namespace

std::vector<std::string> GoldenColt5Names() { return Manifest().Names(); }

GoldenColt5 LoadGoldenColt5(const std::string& name) {
  const json& model = Manifest().Model(name);
  GoldenColt5 golden;
  golden.name = name;
  auto config = ParseColt5Config(model["config"].dump());
  LD_CHECK(config.ok());
  golden.config = *std::move(config);
  golden.cls = Manifest()["cls"].get<int32_t>();
  golden.sep = Manifest()["sep"].get<int32_t>();
  const auto checkpoint = Manifest().OpenNumbers(name);
  for (const json& entry : model["cases"]) {
    golden.cases.push_back(
        LoadCase(entry, model["stream"].get<std::string>(), golden.config, *checkpoint));
  }
  return golden;
}

void WriteGoldenColt5(const std::string& name, const std::string& dir) {
  const json& model = Manifest().Model(name);
  const std::string stream = model["stream"].get<std::string>();
  SafetensorsWriter writer;
  for (const auto& [tensor, entry] : model["tensors"].items()) {
    const auto shape = entry["shape"].get<std::vector<int64_t>>();
    int64_t count = 1;
    for (int64_t dim : shape) count *= dim;
    std::vector<float> values =
        GoldenUniform(absl::StrCat(stream, "/", tensor), count, entry["base"].get<int64_t>(),
                      entry["amplitude"].get<int64_t>());
    LD_CHECK(values.back() == static_cast<float>(entry["last"].get<double>()));
    writer.AddF32(tensor, shape, std::move(values));
  }
  writer.WriteFile(dir + "/model.safetensors");
  std::ofstream(dir + "/config.json") << model["config"].dump(2) << "\n";
  WriteGoldenVocabulary(dir, Manifest()["vocab_size"].get<int64_t>());
}

}  // namespace longdoc::testing

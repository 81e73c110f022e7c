// What a CUDA device needs for models and documents, by the engine's own planner on the emulated
// device: the tables of docs/gpu.md.
//
//   device_memory VOCABULARY [PRESET...]
//
// VOCABULARY is a vocab.txt; models get random weights of the preset's shape, in a directory that
// is removed again.
#include <unistd.h>

#include <cstdio>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <memory>
#include <string>
#include <vector>

#include "engine/base/status_macros.h"
#include "engine/engine.h"
#include "engine/model/create_model.h"

namespace longdoc {
namespace {

constexpr int64_t kTokens[] = {8192, 100000, 1000000};
constexpr int64_t kTokensPerPassage = 256;

double Megabytes(int64_t bytes) { return static_cast<double>(bytes) / 1e6; }

absl::Status PrintPlans(const Engine& engine, const Model& model) {
  for (const int64_t tokens : kTokens) {
    EncodeShape shape;
    shape.tokens = tokens;
    shape.num_vectors = 1 + tokens / kTokensPerPassage;
    shape.cross_kv = model.info().can_score_likelihood;
    shape.attention.mode = AttentionMode::kTolerance;
    shape.attention.epsilon = 1e-3f;
    ASSIGN_OR_RETURN(const EncodePlan plan, engine.Plan(model, shape));
    std::printf("%-12s %10.1f %9lld %12.1f %10.1f %10.1f\n", model.name().c_str(),
                Megabytes(model.weight_bytes()), static_cast<long long>(tokens),
                Megabytes(plan.activation_bytes), Megabytes(plan.output_bytes),
                Megabytes(plan.scratch_bytes));
  }
  return absl::OkStatus();
}

absl::Status PrintModel(Engine& engine, const std::string& preset, const std::string& vocabulary,
                        const std::string& dir) {
  CreateModelOptions options;
  ASSIGN_OR_RETURN(options.config, PresetConfig(preset));
  options.logit_bound = 0;
  options.vocab_txt = vocabulary;
  RETURN_IF_ERROR(CreateModel(dir, options));
  ASSIGN_OR_RETURN(const std::shared_ptr<const Model> model, engine.LoadModel(preset, dir));
  return PrintPlans(engine, *model);
}

int Main(int argc, char** argv) {
  std::ifstream file(argc > 1 ? argv[1] : "");
  const std::string vocabulary{std::istreambuf_iterator<char>(file), {}};
  if (vocabulary.empty()) {
    std::fprintf(stderr, "usage: device_memory VOCABULARY [PRESET...]\n");
    return 2;
  }
  std::vector<std::string> presets(argv + 2, argv + argc);
  if (presets.empty()) presets = {"jina-small", "jina-base", "colt5-small", "colt5-base"};
  std::printf("%-12s %10s %9s %12s %10s %10s   (MB = 10^6 bytes)\n", "model", "weights", "tokens",
              "activations", "results", "scratch");
  for (const std::string& preset : presets) {
    EngineOptions options;
    options.device = "cuda:0";
    absl::StatusOr<std::unique_ptr<Engine>> engine = Engine::Create(options);
    const std::string dir = (std::filesystem::temp_directory_path() /
                             ("longdoc_device_memory_" + std::to_string(getpid()) + preset))
                                .string();
    const absl::Status status =
        engine.ok() ? PrintModel(**engine, preset, vocabulary, dir) : engine.status();
    std::error_code ignored;
    std::filesystem::remove_all(dir, ignored);
    if (!status.ok()) {
      std::fprintf(stderr, "%s: %s\n", preset.c_str(), std::string(status.message()).c_str());
      return 1;
    }
    std::fflush(stdout);
  }
  return 0;
}

}  // namespace
}  // namespace longdoc

int main(int argc, char** argv) { return longdoc::Main(argc, argv); }

// longdoc model create | inspect
#include <cstdint>
#include <iostream>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "engine/base/status_macros.h"
#include "engine/model/create_model.h"
#include "service/tools/attention_option.h"
#include "service/tools/command.h"
#include "service/tools/embedded.h"
#include "service/tools/input.h"
#include "service/tools/model_info.h"
#include "service/tools/options.h"

namespace longdoc::tools {
namespace {

constexpr int64_t kMaxVocabularyBytes = 64 << 20;
constexpr int64_t kMaxCalibrationBytes = 16 << 20;

struct CreateArgs {
  std::string preset = "jina-small";
  int64_t seed = 1;
  double logit_bound = 20;
  std::string vocab, calibration, output;
};

absl::Status Create(const CreateArgs& args) {
  CreateModelOptions options;
  ASSIGN_OR_RETURN(options.config, PresetConfig(args.preset));
  options.seed = static_cast<uint64_t>(args.seed);
  options.logit_bound = args.logit_bound;
  options.vocab_txt = std::string(EmbeddedVocabulary());
  options.merges_txt = std::string(EmbeddedMerges());
  if (!args.vocab.empty()) {  // whichever the preset's tokenizer is read from
    ASSIGN_OR_RETURN(options.vocab_txt, ReadAll(args.vocab, kMaxVocabularyBytes));
    options.merges_txt = options.vocab_txt;
  }
  options.calibration_text = std::string(EmbeddedCalibrationText());
  if (!args.calibration.empty()) {
    ASSIGN_OR_RETURN(options.calibration_text, ReadAll(args.calibration, kMaxCalibrationBytes));
  }
  return CreateModel(args.output, options);
}

int RunCreate(const std::vector<std::string>& words) {
  CreateArgs args;
  OptionParser parser(
      "longdoc model create", "[OPTIONS] --output DIR",
      "Writes a model directory with random weights, laid out as Hugging Face lays it out:\n"
      "config.json, model.safetensors, tokenizer.json, vocab.txt, tokenizer_config.json;\n"
      "rerankers have vocab.json and merges.txt instead of vocab.txt.\n"
      "Its vectors mean nothing; its speed and memory are those of a trained model of that\n"
      "shape, because query and key weights are scaled until the attention logits of real\n"
      "text are as large as trained models have them.",
      "  longdoc model create --output models/small\n"
      "  longdoc model create --preset tiny --seed 7 --output /tmp/tiny");
  parser.AddString("output", "DIR", "where to write; must not hold a model yet", &args.output);
  parser.AddChoice("preset", PresetNames(), "the shape of the model", &args.preset);
  parser.AddInt("seed", "N", "same seed, same model", 0, INT64_MAX, &args.seed);
  parser.AddDouble("logit-bound", "B",
                   "largest |q||k|/sqrt(d) over the calibration text;\n0: plain initialisation", 0,
                   1000, &args.logit_bound);
  parser.AddString("vocab", "FILE",
                   "vocab.txt to use instead of ours (30,522 entries);\nfor rerankers merges.txt",
                   &args.vocab);
  parser.AddString("calibration", "FILE", "text to use instead of the built-in prose",
                   &args.calibration);
  int exit_code = kExitOk;
  if (!ParseOrExit(parser, words, &exit_code)) return exit_code;
  if (args.output.empty() || !parser.positional().empty()) {
    return UsageError(parser.command(), "needs --output DIR and nothing else");
  }
  const absl::Status status = Create(args);
  if (!status.ok()) return Failure(parser.command(), status);
  absl::FPrintF(stderr, "wrote %s (%s, random weights, seed %d)\n", args.output, args.preset,
                args.seed);
  return kExitOk;
}

int RunInspect(const std::vector<std::string>& words) {
  std::vector<int64_t> lengths = {512, 2048, 8192, 32768, 100000, 1000000};
  std::string attention = "tolerance=1e-4";
  bool json = false;
  OptionParser parser(
      "longdoc model inspect", "[OPTIONS] DIR",
      "Opens a model directory as the server would, checks every tensor, and prints shape,\n"
      "parameters, bytes and what documents of some lengths would take.",
      "  longdoc model inspect models/small\n"
      "  longdoc model inspect --tokens 1000,200000 --json models/small");
  parser.AddInts("tokens", "N,N,...", "document lengths to plan", 1, int64_t{1} << 40, &lengths);
  parser.AddString("attention", "POLICY", kAttentionHelp, &attention);
  parser.AddFlag("json", "one JSON object instead of tables", &json);
  int exit_code = kExitOk;
  if (!ParseOrExit(parser, words, &exit_code)) return exit_code;
  if (parser.positional().size() != 1) {
    return UsageError(parser.command(), "needs exactly one model directory");
  }
  const absl::StatusOr<AttentionPolicy> policy = ParseAttention(attention);
  if (!policy.ok()) return UsageError(parser.command(), std::string(policy.status().message()));
  const absl::StatusOr<ModelReport> info = InspectModel(parser.positional()[0], lengths, *policy);
  if (!info.ok()) return Failure(parser.command(), info.status());
  std::cout << (json ? ModelInfoToJson(*info) : FormatModelInfo(*info));
  return kExitOk;
}

}  // namespace

int RunModel(const std::vector<std::string>& args) {
  return Dispatch("longdoc model", "Makes and inspects model directories.",
                  {{"create", "a model with random weights", RunCreate},
                   {"inspect", "tensors, parameters, bytes, memory by length", RunInspect}},
                  args);
}

}  // namespace longdoc::tools

#include "engine/model/create_model.h"

#include <algorithm>
#include <filesystem>
#include <memory>
#include <new>
#include <system_error>
#include <utility>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "engine/base/status_macros.h"
#include "engine/model/bpe_files.h"
#include "engine/model/calibration.h"
#include "engine/model/model_files.h"
#include "engine/model/random_weights.h"
#include "engine/text/tokenizer.h"

namespace longdoc {
namespace {

// Calibration reads this much text; less for large models, whose plain loops take their time.
constexpr int64_t kMinCalibrationTokens = 128;
constexpr int64_t kMaxCalibrationTokens = 512;
constexpr double kCalibrationFlops = 60e9;
// Vocabulary sizes are rounded up to this, as the published models do (30,522 to 30,528).
constexpr int64_t kVocabMultiple = 16;

struct JinaPreset {
  const char* name;
  EncoderFamily family;
  int64_t layers, hidden, heads, intermediate;
  bool reranker = false;  // with pooler, classifier and byte-level BPE
};

constexpr JinaPreset kJinaPresets[] = {
    {"jina-small", EncoderFamily::kJinaBertA, 4, 512, 8, 2048},
    {"jina-base", EncoderFamily::kJinaBertA, 12, 768, 12, 3072},
    {"tiny", EncoderFamily::kJinaBertA, 2, 64, 4, 256},
    {"tiny-b", EncoderFamily::kJinaBertB, 2, 64, 4, 256},
    {"reranker-tiny", EncoderFamily::kJinaBertA, 2, 64, 4, 256, /*reranker=*/true},
};

struct Colt5Preset {
  const char* name;
  int64_t layers, decoder_layers, hidden, head_dim;
  int64_t light_heads, heavy_heads, decoder_heads;
  int64_t light_ff, heavy_ff, decoder_ff;
};

constexpr Colt5Preset kColt5Presets[] = {
    {"colt5-small", 4, 2, 512, 64, 2, 6, 8, 512, 4096, 1024},
    {"colt5-base", 12, 6, 768, 64, 4, 8, 12, 1024, 8192, 2048},
    {"colt5-tiny", 2, 2, 64, 16, 1, 3, 4, 64, 256, 128},
};

// Entries of our vocabulary, rounded up.
constexpr int64_t kPresetVocabSize = 30528;

EncoderConfig ConfigOf(const JinaPreset& preset) {
  EncoderConfig config;
  config.family = preset.family;
  config.vocab_size = preset.reranker ? 0 : kPresetVocabSize;
  config.num_labels = preset.reranker ? 1 : 0;
  config.hidden_size = preset.hidden;
  config.num_layers = preset.layers;
  config.num_heads = preset.heads;
  config.head_dim = preset.hidden / preset.heads;
  config.intermediate_size = preset.intermediate;
  config.max_position_embeddings = 8192;
  config.slopes = AlibiSlopes(preset.heads);
  return config;
}

Colt5Config ConfigOf(const Colt5Preset& preset) {
  Colt5Config config;
  config.vocab_size = kPresetVocabSize;
  config.hidden_size = preset.hidden;
  config.num_layers = preset.layers;
  config.head_dim = preset.head_dim;
  config.light_heads = preset.light_heads;
  config.heavy_heads = preset.heavy_heads;
  config.light_slopes = AlibiSlopes(preset.light_heads);
  config.heavy_slopes = AlibiSlopes(preset.heavy_heads);
  config.heavy_slopes.back() = 0;  // one head that sees the whole document
  config.light_ff_size = preset.light_ff;
  config.heavy_ff_size = preset.heavy_ff;
  config.decoder_layers = preset.decoder_layers;
  config.decoder_heads = preset.decoder_heads;
  config.decoder_slopes = AlibiSlopes(preset.decoder_heads);
  config.decoder_ff_size = preset.decoder_ff;
  return config;
}

absl::Status RefuseOverwriting(const std::string& dir) {
  for (const char* name : {"config.json", "model.safetensors", "model.safetensors.index.json"}) {
    std::error_code error;
    const std::string path = absl::StrCat(dir, "/", name);
    if (std::filesystem::exists(path, error)) {
      return absl::AlreadyExistsError(absl::StrCat(path, " exists already"));
    }
  }
  return absl::OkStatus();
}

bool IsReranker(const EncoderConfig& config) { return config.num_labels == 1; }
bool IsReranker(const Colt5Config&) { return false; }

// A tokenizer with the files that it is read from.
struct TokenizerFiles {
  std::unique_ptr<Tokenizer> tokenizer;
  std::vector<std::pair<std::string, std::string>> files;  // name, text
};

absl::StatusOr<TokenizerFiles> MakeBpe(const std::string& merges, int64_t max_tokens) {
  ASSIGN_OR_RETURN(BpeFiles texts, MakeRobertaFiles(merges));
  TokenizerFiles made;
  ASSIGN_OR_RETURN(made.tokenizer, ParseTokenizerJson(texts.tokenizer_json));
  made.files = {{"tokenizer.json", std::move(texts.tokenizer_json)},
                {"vocab.json", std::move(texts.vocab_json)},
                {"merges.txt", std::move(texts.merges_txt)},
                {"tokenizer_config.json", RobertaConfigJson(max_tokens)}};
  return made;
}

// WordPiece of the vocabulary, which must have what a BERT model needs.
absl::StatusOr<TokenizerFiles> MakeWordPiece(const std::string& vocab_txt, int64_t max_tokens) {
  ASSIGN_OR_RETURN(std::unique_ptr<Tokenizer> tokenizer, ParseVocabTxt(vocab_txt));
  const SpecialTokens& special = tokenizer->special();
  const std::pair<const char*, int32_t> needed[] = {{"[PAD]", special.pad},
                                                    {"[UNK]", special.unk},
                                                    {"[CLS]", special.cls},
                                                    {"[SEP]", special.sep}};
  for (const auto& [name, id] : needed) {
    if (id < 0) {
      return absl::InvalidArgumentError(absl::StrFormat("vocabulary has no token %s", name));
    }
  }
  ASSIGN_OR_RETURN(std::string json, TokenizerJson(*tokenizer));
  TokenizerFiles made;
  made.tokenizer = std::move(tokenizer);
  made.files = {{"tokenizer.json", std::move(json)},
                {"vocab.txt", vocab_txt},
                {"tokenizer_config.json", TokenizerConfigJson(max_tokens)}};
  return made;
}

absl::StatusOr<EncoderConfig> Reparse(const EncoderConfig& config) {
  return ParseEncoderConfig(ConfigJson(config));
}
absl::StatusOr<Colt5Config> Reparse(const Colt5Config& config) {
  return ParseColt5Config(ConfigJson(config));
}

void SetPad(const Tokenizer& tokenizer, EncoderConfig& config) {
  config.pad_token_id = tokenizer.special().pad;
}
void SetPad(const Tokenizer&, Colt5Config&) {}  // it never pads

// The configuration as its own file would be read again: the same limits hold.
template <typename Config>
absl::StatusOr<Config> CheckedConfig(Config config, const Tokenizer& tokenizer) {
  const int64_t entries = tokenizer.vocab_size();
  if (config.vocab_size == 0) {
    config.vocab_size = (entries + kVocabMultiple - 1) / kVocabMultiple * kVocabMultiple;
  }
  if (config.vocab_size < entries) {
    return absl::InvalidArgumentError(absl::StrFormat(
        "vocabulary has %d entries, the model's vocab_size is %d", entries, config.vocab_size));
  }
  SetPad(tokenizer, config);
  return Reparse(config);
}

double FlopsPerToken(const EncoderConfig& config) { return DenseFlopsPerToken(config); }
double FlopsPerToken(const Colt5Config& config) {
  return DenseFlops(config, kMaxCalibrationTokens) / static_cast<double>(kMaxCalibrationTokens);
}

// Names as a checkpoint for sequence classification has them: the encoder's begin with "bert.".
OwnedTensors AsClassifier(OwnedTensors tensors) {
  OwnedTensors renamed;
  while (!tensors.empty()) {
    auto node = tensors.extract(tensors.begin());
    if (!absl::StartsWith(node.key(), "classifier.")) node.key() = "bert." + node.key();
    renamed.insert(std::move(node));
  }
  return renamed;
}

// What tokenizer_config.json advertises.
int64_t MaxTokens(const EncoderConfig& config) { return config.max_position_embeddings; }
int64_t MaxTokens(const Colt5Config&) { return int64_t{1} << 20; }

template <typename Config>
absl::StatusOr<OwnedTensors> MakeWeights(const Config& config, const CreateModelOptions& options,
                                         const Tokenizer& tokenizer) {
  std::vector<int32_t> ids;
  if (options.logit_bound > 0) {  // before the weights: it may fail
    const int64_t tokens =
        std::clamp(static_cast<int64_t>(kCalibrationFlops / FlopsPerToken(config)),
                   kMinCalibrationTokens, kMaxCalibrationTokens);
    ASSIGN_OR_RETURN(ids, CalibrationIds(tokenizer, options.calibration_text, tokens));
  }
  OwnedTensors tensors = MakeRandomWeights(config, options.seed);
  if (!ids.empty()) CalibrateLogits(config, options.logit_bound, ids, tensors);
  return IsReranker(config) ? AsClassifier(std::move(tensors)) : std::move(tensors);
}

// config.json last: a directory that has one is whole.
template <typename Config>
absl::Status WriteModel(const std::string& dir, const Config& config,
                        const TokenizerFiles& tokenizer, const OwnedTensors& tensors) {
  std::error_code error;
  std::filesystem::create_directories(dir, error);
  if (error) {
    return absl::PermissionDeniedError(
        absl::StrCat("cannot create directory ", dir, ": ", error.message()));
  }
  RETURN_IF_ERROR(WriteSafetensors(absl::StrCat(dir, "/model.safetensors"), tensors));
  for (const auto& [name, text] : tokenizer.files) {
    RETURN_IF_ERROR(WriteTextFile(absl::StrCat(dir, "/", name), text));
  }
  return WriteTextFile(absl::StrCat(dir, "/config.json"), ConfigJson(config));
}

template <typename Config>
absl::Status CreateOf(const std::string& dir, const Config& wanted,
                      const CreateModelOptions& options) {
  ASSIGN_OR_RETURN(const TokenizerFiles made,
                   IsReranker(wanted) ? MakeBpe(options.merges_txt, MaxTokens(wanted))
                                      : MakeWordPiece(options.vocab_txt, MaxTokens(wanted)));
  ASSIGN_OR_RETURN(const Config config, CheckedConfig(wanted, *made.tokenizer));
  try {
    ASSIGN_OR_RETURN(const OwnedTensors tensors, MakeWeights(config, options, *made.tokenizer));
    return WriteModel(dir, config, made, tensors);
  } catch (const std::bad_alloc&) {
    return absl::ResourceExhaustedError(
        absl::StrFormat("not enough memory for a model of %d parameters", NumParameters(config)));
  }
}

}  // namespace

std::vector<std::string> PresetNames() {
  std::vector<std::string> names;
  for (const JinaPreset& preset : kJinaPresets) names.push_back(preset.name);
  for (const Colt5Preset& preset : kColt5Presets) names.push_back(preset.name);
  return names;
}

absl::StatusOr<ModelConfig> PresetConfig(const std::string& preset) {
  for (const JinaPreset& known : kJinaPresets) {
    if (preset == known.name) return ConfigOf(known);
  }
  for (const Colt5Preset& known : kColt5Presets) {
    if (preset == known.name) return ConfigOf(known);
  }
  return absl::NotFoundError(absl::StrFormat("no preset \"%s\", there are %s", preset,
                                             absl::StrJoin(PresetNames(), ", ")));
}

absl::Status CreateModel(const std::string& dir, const CreateModelOptions& options) {
  if (!(options.logit_bound >= 0 && options.logit_bound <= 1000)) {
    return absl::InvalidArgumentError(
        absl::StrFormat("logit_bound is %g, the limits are 0 to 1000", options.logit_bound));
  }
  RETURN_IF_ERROR(RefuseOverwriting(dir));
  return std::visit([&](const auto& config) { return CreateOf(dir, config, options); },
                    options.config);
}

}  // namespace longdoc

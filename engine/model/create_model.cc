#include "engine/model/create_model.h"

#include <algorithm>
#include <exception>
#include <filesystem>
#include <memory>
#include <system_error>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "engine/base/status_macros.h"
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

struct Preset {
  const char* name;
  EncoderFamily family;
  int64_t layers, hidden, heads, intermediate;
};

constexpr Preset kPresets[] = {
    {"jina-small", EncoderFamily::kJinaBertA, 4, 512, 8, 2048},
    {"jina-base", EncoderFamily::kJinaBertA, 12, 768, 12, 3072},
    {"tiny", EncoderFamily::kJinaBertA, 2, 64, 4, 256},
    {"tiny-b", EncoderFamily::kJinaBertB, 2, 64, 4, 256},
};

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

// The tokenizer of the vocabulary, which must have what a BERT model needs.
absl::StatusOr<std::unique_ptr<Tokenizer>> CheckedTokenizer(const std::string& vocab_txt) {
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
  return tokenizer;
}

// The configuration as its own file would be read again: the same limits hold.
absl::StatusOr<EncoderConfig> CheckedConfig(EncoderConfig config, const Tokenizer& tokenizer) {
  const int64_t entries = tokenizer.vocab_size();
  if (config.vocab_size == 0) {
    config.vocab_size = (entries + kVocabMultiple - 1) / kVocabMultiple * kVocabMultiple;
  }
  if (config.vocab_size < entries) {
    return absl::InvalidArgumentError(absl::StrFormat(
        "vocabulary has %d entries, the model's vocab_size is %d", entries, config.vocab_size));
  }
  config.pad_token_id = tokenizer.special().pad;
  return ParseEncoderConfig(ConfigJson(config));
}

absl::StatusOr<OwnedTensors> MakeWeights(const EncoderConfig& config,
                                         const CreateModelOptions& options,
                                         const Tokenizer& tokenizer) {
  std::vector<int32_t> ids;
  if (options.logit_bound > 0) {  // before the weights: it may fail
    const int64_t tokens =
        std::clamp(static_cast<int64_t>(kCalibrationFlops / DenseFlopsPerToken(config)),
                   kMinCalibrationTokens, kMaxCalibrationTokens);
    ASSIGN_OR_RETURN(ids, CalibrationIds(tokenizer, options.calibration_text, tokens));
  }
  OwnedTensors tensors = MakeRandomWeights(config, options.seed);
  if (!ids.empty()) CalibrateLogits(config, options.logit_bound, ids, tensors);
  return tensors;
}

// config.json last: a directory that has one is whole.
absl::Status WriteModel(const std::string& dir, const EncoderConfig& config,
                        const Tokenizer& tokenizer, const std::string& vocab_txt,
                        const OwnedTensors& tensors) {
  ASSIGN_OR_RETURN(const std::string tokenizer_json, TokenizerJson(tokenizer));
  std::error_code error;
  std::filesystem::create_directories(dir, error);
  if (error) {
    return absl::PermissionDeniedError(
        absl::StrCat("cannot create directory ", dir, ": ", error.message()));
  }
  RETURN_IF_ERROR(WriteSafetensors(absl::StrCat(dir, "/model.safetensors"), tensors));
  RETURN_IF_ERROR(WriteTextFile(absl::StrCat(dir, "/tokenizer.json"), tokenizer_json));
  RETURN_IF_ERROR(WriteTextFile(absl::StrCat(dir, "/vocab.txt"), vocab_txt));
  RETURN_IF_ERROR(
      WriteTextFile(absl::StrCat(dir, "/tokenizer_config.json"), TokenizerConfigJson(config)));
  return WriteTextFile(absl::StrCat(dir, "/config.json"), ConfigJson(config));
}

}  // namespace

absl::StatusOr<EncoderConfig> PresetConfig(const std::string& preset) {
  std::string names;
  for (const Preset& known : kPresets) {
    if (preset != known.name) {
      absl::StrAppend(&names, names.empty() ? "" : ", ", known.name);
      continue;
    }
    EncoderConfig config;
    config.family = known.family;
    config.vocab_size = 30528;
    config.hidden_size = known.hidden;
    config.num_layers = known.layers;
    config.num_heads = known.heads;
    config.head_dim = known.hidden / known.heads;
    config.intermediate_size = known.intermediate;
    config.max_position_embeddings = 8192;
    config.slopes = AlibiSlopes(known.heads);
    return config;
  }
  return absl::NotFoundError(absl::StrFormat("no preset \"%s\", there are %s", preset, names));
}

absl::Status CreateModel(const std::string& dir, const CreateModelOptions& options) {
  if (!(options.logit_bound >= 0 && options.logit_bound <= 1000)) {
    return absl::InvalidArgumentError(
        absl::StrFormat("logit_bound is %g, the limits are 0 to 1000", options.logit_bound));
  }
  RETURN_IF_ERROR(RefuseOverwriting(dir));
  ASSIGN_OR_RETURN(const std::unique_ptr<Tokenizer> tokenizer, CheckedTokenizer(options.vocab_txt));
  ASSIGN_OR_RETURN(const EncoderConfig config, CheckedConfig(options.config, *tokenizer));
  try {
    ASSIGN_OR_RETURN(const OwnedTensors tensors, MakeWeights(config, options, *tokenizer));
    return WriteModel(dir, config, *tokenizer, options.vocab_txt, tensors);
  } catch (const std::bad_alloc&) {
    return absl::ResourceExhaustedError(
        absl::StrFormat("not enough memory for a model of %d parameters", NumParameters(config)));
  }
}

}  // namespace longdoc

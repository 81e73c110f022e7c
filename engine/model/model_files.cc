#include "engine/model/model_files.h"

#include <fcntl.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <cstring>
#include <exception>
#include <nlohmann/json.hpp>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "engine/base/status_macros.h"

namespace longdoc {
namespace {

using Json = nlohmann::ordered_json;

// A file that appears under its name only when it is whole.
class AtomicFile {
 public:
  explicit AtomicFile(std::string path)
      : path_(std::move(path)), temporary_(absl::StrCat(path_, ".tmp")) {
    fd_ = open(temporary_.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
    if (fd_ < 0) error_ = errno;
  }
  ~AtomicFile() {
    if (fd_ >= 0) {
      close(fd_);
      unlink(temporary_.c_str());
    }
  }
  AtomicFile(const AtomicFile&) = delete;
  AtomicFile& operator=(const AtomicFile&) = delete;

  void Write(std::string_view bytes) {
    while (error_ == 0 && !bytes.empty()) {
      const ssize_t wrote = write(fd_, bytes.data(), bytes.size());
      if (wrote < 0 && errno == EINTR) continue;
      if (wrote < 0) {
        error_ = errno;
      } else {
        bytes.remove_prefix(static_cast<size_t>(wrote));
      }
    }
  }

  absl::Status Commit() {
    if (error_ == 0 && fsync(fd_) != 0) error_ = errno;
    if (fd_ >= 0 && close(std::exchange(fd_, -1)) != 0 && error_ == 0) error_ = errno;
    if (error_ == 0 && rename(temporary_.c_str(), path_.c_str()) != 0) error_ = errno;
    if (error_ == 0) return absl::OkStatus();
    unlink(temporary_.c_str());
    const std::string message =
        absl::StrFormat("cannot write %s: %s", path_, std::strerror(error_));
    if (error_ == ENOSPC) return absl::ResourceExhaustedError(message);
    if (error_ == EACCES || error_ == EROFS) return absl::PermissionDeniedError(message);
    return absl::UnknownError(message);
  }

 private:
  std::string path_, temporary_;
  int fd_ = -1;
  int error_ = 0;
};

Json AddedToken(const Tokenizer& tokenizer, int32_t id) {
  return {{"id", id},
          {"content", std::string(tokenizer.TokenText(id))},
          {"single_word", false},
          {"lstrip", false},
          {"rstrip", false},
          {"normalized", false},
          {"special", true}};
}

// One piece of the post-processing template.
Json Piece(const char* kind, const char* id, int type_id) {
  return {{kind, {{"id", id}, {"type_id", type_id}}}};
}

Json PostProcessor(const SpecialTokens& special) {
  const auto ids = [](const char* token, int32_t id) {
    return Json{{"id", token}, {"ids", Json::array({id})}, {"tokens", Json::array({token})}};
  };
  return {{"type", "TemplateProcessing"},
          {"single", Json::array({Piece("SpecialToken", "[CLS]", 0), Piece("Sequence", "A", 0),
                                  Piece("SpecialToken", "[SEP]", 0)})},
          {"pair", Json::array({Piece("SpecialToken", "[CLS]", 0), Piece("Sequence", "A", 0),
                                Piece("SpecialToken", "[SEP]", 0), Piece("Sequence", "B", 1),
                                Piece("SpecialToken", "[SEP]", 1)})},
          {"special_tokens",
           {{"[CLS]", ids("[CLS]", special.cls)}, {"[SEP]", ids("[SEP]", special.sep)}}}};
}

}  // namespace

std::string ConfigJson(const EncoderConfig& config) {
  const bool b = config.family == EncoderFamily::kJinaBertB;
  const bool reranker = config.num_labels == 1;
  Json json = {
      // Other programs tell the variants apart by this name.
      {"_name_or_path", b ? "jinaai/jina-bert-v2-qk-post-norm" : "jinaai/jina-bert-implementation"},
      {"architectures",
       Json::array({reranker ? "JinaBertForSequenceClassification" : "JinaBertModel"})},
      {"attention_probs_dropout_prob", 0.0},
      {"emb_pooler", "mean"},
      {"feed_forward_type", "geglu"},
      {"hidden_act", "gelu"},
      {"hidden_dropout_prob", 0.0},
      {"hidden_size", config.hidden_size},
      {"initializer_range", 0.02},
      {"intermediate_size", config.intermediate_size},
      {"layer_norm_eps", 1e-12},
      {"max_position_embeddings", config.max_position_embeddings},
      {"model_max_length", config.max_position_embeddings},
      {"model_type", "bert"},
      {"num_attention_heads", config.num_heads},
      {"num_hidden_layers", config.num_layers},
      {"pad_token_id", config.pad_token_id},
      {"position_embedding_type", "alibi"},
      {"torch_dtype", "float32"},
      {"type_vocab_size", config.type_vocab_size},
      {"use_cache", true},
      {"vocab_size", config.vocab_size},
  };
  if (reranker) {
    json["num_labels"] = 1;
    json["id2label"] = {{"0", "LABEL_0"}};
    json["label2id"] = {{"LABEL_0", 0}};
  }
  return json.dump(2) + "\n";
}

std::string ConfigJson(const Colt5Config& config) {
  Json json = {
      {"model_type", "longdoc_colt5"},
      {"architectures", Json::array({"LongdocColt5"})},
      {"vocab_size", config.vocab_size},
      {"hidden_size", config.hidden_size},
      {"num_layers", config.num_layers},
      {"head_dim", config.head_dim},
      {"light_heads", config.light_heads},
      {"light_slopes", config.light_slopes},
      {"light_radius", config.light_radius},
      {"light_ff_size", config.light_ff_size},
      {"heavy_heads", config.heavy_heads},
      {"heavy_slopes", config.heavy_slopes},
      {"heavy_ff_size", config.heavy_ff_size},
      {"query_rate", config.query_rate},
      {"kv_rate", config.kv_rate},
      {"ff_rate", config.ff_rate},
      {"output_size", config.output_size},
      {"decoder_layers", config.decoder_layers},
  };
  if (config.decoder_layers > 0) {
    json["decoder_heads"] = config.decoder_heads;
    json["decoder_slopes"] = config.decoder_slopes;
    json["decoder_ff_size"] = config.decoder_ff_size;
    json["max_target_tokens"] = config.max_target_tokens;
  }
  json["rms_norm_eps"] = config.rms_norm_eps;
  json["torch_dtype"] = "float32";
  return json.dump(2) + "\n";
}

std::string TokenizerConfigJson(int64_t max_tokens) {
  const Json json = {
      {"cls_token", "[CLS]"},
      {"do_lower_case", true},
      {"mask_token", "[MASK]"},
      {"model_max_length", max_tokens},
      {"pad_token", "[PAD]"},
      {"sep_token", "[SEP]"},
      {"strip_accents", nullptr},
      {"tokenize_chinese_chars", true},
      {"tokenizer_class", "BertTokenizer"},
      {"unk_token", "[UNK]"},
  };
  return json.dump(2) + "\n";
}

absl::StatusOr<std::string> TokenizerJson(const Tokenizer& tokenizer) {
  const SpecialTokens& special = tokenizer.special();
  Json vocab = Json::object();
  for (int32_t id = 0; id < tokenizer.vocab_size(); ++id) {
    const std::string text(tokenizer.TokenText(id));
    // push_back: operator[] of an ordered object searches it, which is quadratic in the end.
    // A text that stands for another id is a repeated line of vocab.txt: one key is enough.
    if (!text.empty() && tokenizer.TokenId(text) == id)
      vocab.get_ref<Json::object_t&>().emplace_back(text, id);
  }
  Json added = Json::array();
  for (int32_t id : {special.pad, special.unk, special.cls, special.sep, special.mask}) {
    if (id >= 0) added.push_back(AddedToken(tokenizer, id));
  }
  const Json json = {
      {"version", "1.0"},
      {"truncation", nullptr},
      {"padding", nullptr},
      {"added_tokens", std::move(added)},
      {"normalizer",
       {{"type", "BertNormalizer"},
        {"clean_text", true},
        {"handle_chinese_chars", true},
        {"strip_accents", nullptr},
        {"lowercase", true}}},
      {"pre_tokenizer", {{"type", "BertPreTokenizer"}}},
      {"post_processor", PostProcessor(special)},
      {"decoder", {{"type", "WordPiece"}, {"prefix", "##"}, {"cleanup", true}}},
      {"model",
       {{"type", "WordPiece"},
        {"unk_token", "[UNK]"},
        {"continuing_subword_prefix", "##"},
        {"max_input_chars_per_word", 100},
        {"vocab", std::move(vocab)}}},
  };
  try {
    return json.dump(1) + "\n";
  } catch (const std::exception& error) {  // text that is not UTF-8
    return absl::InvalidArgumentError(absl::StrCat("vocabulary: ", error.what()));
  }
}

absl::Status WriteTextFile(const std::string& path, const std::string& text) {
  AtomicFile file(path);
  file.Write(text);
  return file.Commit();
}

absl::Status WriteSafetensors(const std::string& path, const OwnedTensors& tensors) {
  Json header = {{"__metadata__", {{"format", "pt"}}}};
  int64_t offset = 0;
  for (const auto& [name, tensor] : tensors) {
    const int64_t end = offset + static_cast<int64_t>(tensor.values.size() * sizeof(float));
    header.get_ref<Json::object_t&>().emplace_back(
        name, Json{{"dtype", "F32"},
                   {"shape", tensor.shape},
                   {"data_offsets", Json::array({offset, end})}});
    offset = end;
  }
  std::string text = header.dump();
  text.resize((text.size() + 7) / 8 * 8, ' ');  // the data begin aligned
  std::string length;
  for (int i = 0; i < 8; ++i) length.push_back(static_cast<char>(text.size() >> (8 * i) & 0xff));
  AtomicFile file(path);
  file.Write(length);
  file.Write(text);
  for (const auto& [name, tensor] : tensors) {
    file.Write({reinterpret_cast<const char*>(tensor.values.data()),
                tensor.values.size() * sizeof(float)});
  }
  return file.Commit();
}

}  // namespace longdoc

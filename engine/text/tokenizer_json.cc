#include "engine/text/tokenizer_json.h"

#include <string>

#include "engine/base/status_macros.h"
#include "engine/text/json_sections.h"
#include "engine/text/loader_util.h"

namespace longdoc {
namespace {

using nlohmann::json;
using text_internal::FindMember;

// Files of the first releases have no type; merges tell BPE, the prefix without them WordPiece.
absl::StatusOr<std::string> ModelType(const json& model) {
  std::string type;
  RETURN_IF_ERROR(text_internal::ReadString(model, "type", "model", &type));
  if (FindMember(model, "type") != nullptr) return type;
  if (FindMember(model, "merges") != nullptr) return std::string("BPE");
  if (FindMember(model, "continuing_subword_prefix") != nullptr) return std::string("WordPiece");
  return type;
}

}  // namespace

absl::StatusOr<std::unique_ptr<Tokenizer>> ParseTokenizerJson(std::string_view json_text) {
  ASSIGN_OR_RETURN(const json root, text_internal::ParseJsonObject(json_text, "tokenizer.json"));
  const json* model = FindMember(root, "model");
  if (model == nullptr || !model->is_object()) {
    return absl::InvalidArgumentError("tokenizer.json: model is not an object");
  }
  ASSIGN_OR_RETURN(const std::string type, ModelType(*model));
  if (type == "WordPiece") return text_internal::ParseWordPieceJson(root, *model);
  if (type == "BPE") return text_internal::ParseBpeJson(root, *model);
  return text_internal::CheckType(*model, "model", "WordPiece or BPE");
}

}  // namespace longdoc

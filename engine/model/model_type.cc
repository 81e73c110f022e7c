#include "engine/model/model_type.h"

#include "absl/strings/str_format.h"
#include "engine/base/mapped_file.h"
#include "engine/model/config_fields.h"
#include "engine/model/json_sax.h"

namespace longdoc {
namespace {

absl::StatusOr<ModelType> ParseFields(const ConfigFields& fields) {
  if (fields.Find("model_type") == nullptr) return InvalidConfig("model_type is missing");
  ASSIGN_OR_RETURN(const std::string type, fields.String("model_type", ""));
  if (type == "bert") return ModelType::kBert;
  if (type == "longdoc_colt5") return ModelType::kColt5;
  return absl::UnimplementedError(absl::StrFormat(
      "config.json: model_type is %s, only \"bert\" and \"longdoc_colt5\" are supported",
      Quoted(type)));
}

}  // namespace

absl::StatusOr<ModelType> ParseModelType(std::string_view config_json) {
  return ParseConfig(config_json, ParseFields);
}

absl::StatusOr<ModelType> PeekModelType(const std::string& model_dir) {
  ASSIGN_OR_RETURN(const std::string config_json,
                   ReadSmallFile(absl::StrCat(model_dir, "/config.json"), kMaxConfigBytes));
  return ParseModelType(config_json);
}

}  // namespace longdoc

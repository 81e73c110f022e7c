#include "engine/model/config_fields.h"

#include "absl/strings/str_format.h"
#include "engine/model/json_sax.h"

namespace longdoc {
namespace {

using nlohmann::json;

// A first pass that only looks for what the tree of the second one would hide or choke on.
class ShapeSax final : public JsonSax {
 public:
  ShapeSax() : JsonSax("config.json", /*max_depth=*/32) {}

 private:
  bool OnStartObject() override { return true; }
  bool OnStartArray() override { return depth() > 0 ? true : Unexpected("an array"); }
  bool OnString(const std::string&) override { return depth() > 0 ? true : Unexpected("a string"); }
  bool OnUnsigned(uint64_t) override { return depth() > 0 ? true : Unexpected("a number"); }
  bool OnOther(const char* kind) override { return depth() > 0 ? true : Unexpected(kind); }
};

absl::Status CheckNumber(const std::string& name, const json& field, double min, double max,
                         double& value) {
  if (!field.is_number()) {
    return InvalidConfig(absl::StrFormat("%s is %s, a number is needed", name, field.type_name()));
  }
  value = field.get<double>();
  if (value >= min && value <= max) return absl::OkStatus();
  return InvalidConfig(absl::StrFormat("%s is %g, the limits are %g to %g", name, value, min, max));
}

}  // namespace

absl::Status InvalidConfig(const std::string& message) {
  return absl::InvalidArgumentError(absl::StrCat("config.json: ", message));
}

const json* ConfigFields::Find(const char* name) const {
  const auto it = object_.find(name);
  return it == object_.end() || it->is_null() ? nullptr : &*it;
}

absl::Status ConfigFields::Integer(const char* name, int64_t min, int64_t max, int64_t& value,
                                   std::optional<int64_t> absent) const {
  const json* field = Find(name);
  if (field == nullptr) {
    if (!absent) return InvalidConfig(absl::StrCat(name, " is missing"));
    value = *absent;
    return absl::OkStatus();
  }
  if (!field->is_number_integer()) {
    return InvalidConfig(
        absl::StrFormat("%s is %s, an integer is needed", name, field->type_name()));
  }
  // Values beyond int64 would wrap in get<int64_t>.
  const bool fits =
      !field->is_number_unsigned() || field->get<uint64_t>() <= static_cast<uint64_t>(INT64_MAX);
  if (!fits || field->get<int64_t>() < min || field->get<int64_t>() > max) {
    return InvalidConfig(
        absl::StrFormat("%s is %s, the limits are %d to %d", name, field->dump(), min, max));
  }
  value = field->get<int64_t>();
  return absl::OkStatus();
}

absl::Status ConfigFields::Number(const char* name, double min, double max, double& value,
                                  double absent) const {
  value = absent;
  const json* field = Find(name);
  return field == nullptr ? absl::OkStatus() : CheckNumber(name, *field, min, max, value);
}

absl::Status ConfigFields::Numbers(const char* name, double min, double max,
                                   std::vector<float>& values,
                                   const std::vector<float>& absent) const {
  values = absent;
  const json* field = Find(name);
  if (field == nullptr) return absl::OkStatus();
  if (!field->is_array()) {
    return InvalidConfig(
        absl::StrFormat("%s is %s, an array of numbers is needed", name, field->type_name()));
  }
  if (field->size() != absent.size()) {
    return InvalidConfig(
        absl::StrFormat("%s has %d numbers, %d are needed", name, field->size(), absent.size()));
  }
  for (size_t i = 0; i < values.size(); ++i) {
    double value = 0;
    RETURN_IF_ERROR(CheckNumber(absl::StrCat(name, "[", i, "]"), (*field)[i], min, max, value));
    values[i] = static_cast<float>(value);
  }
  return absl::OkStatus();
}

absl::StatusOr<std::string> ConfigFields::String(const char* name, const char* absent) const {
  const json* field = Find(name);
  if (field == nullptr) return std::string(absent);
  if (!field->is_string()) {
    return InvalidConfig(absl::StrFormat("%s is %s, a string is needed", name, field->type_name()));
  }
  return field->get<std::string>();
}

absl::Status ConfigFields::Only(const char* name, const char* absent, const char* wanted) const {
  ASSIGN_OR_RETURN(const std::string value, String(name, absent));
  if (value == wanted) return absl::OkStatus();
  return absl::UnimplementedError(
      absl::StrFormat("config.json: %s is %s%s, only \"%s\" is supported", name, Quoted(value),
                      Find(name) == nullptr ? " by default" : "", wanted));
}

absl::StatusOr<json> ParseConfigObject(std::string_view text) {
  if (text.size() > kMaxConfigBytes) {
    return InvalidConfig(absl::StrFormat("%d bytes, limit is %d", text.size(), kMaxConfigBytes));
  }
  ShapeSax shape;
  RETURN_IF_ERROR(shape.Run(text));
  return json::parse(text.begin(), text.end());
}

}  // namespace longdoc

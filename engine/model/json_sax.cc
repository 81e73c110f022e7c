#include "engine/model/json_sax.h"

#include <exception>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"

namespace longdoc {

std::string Quoted(std::string_view text) {
  constexpr size_t kMax = 96;
  const std::string head(text.substr(0, kMax));
  return absl::StrCat("\"", absl::CHexEscape(head), text.size() > kMax ? "…\"" : "\"");
}

absl::Status JsonSax::Run(std::string_view json) {
  try {
    // Through the base class: our overrides are private.
    nlohmann::json_sax<nlohmann::json>* events = this;
    const bool complete = nlohmann::json::sax_parse(json.begin(), json.end(), events);
    if (!complete && status_.ok()) Fail("is not valid JSON");
  } catch (const std::exception& error) {  // e.g. bad_alloc
    status_ =
        absl::ResourceExhaustedError(absl::StrCat(what_, " cannot be parsed: ", error.what()));
  }
  return status_;
}

bool JsonSax::Fail(const std::string& message) {
  if (status_.ok()) status_ = absl::InvalidArgumentError(absl::StrCat(what_, ": ", message));
  return false;
}

bool JsonSax::Unexpected(const char* kind) {
  if (depth() == 0) return Fail(absl::StrCat("expected an object, found ", kind));
  return Fail(absl::StrCat("unexpected ", kind, " at key ", Quoted(last_key_)));
}

bool JsonSax::start_object(size_t) {
  if (depth() >= max_depth_) return Fail(absl::StrFormat("nested deeper than %d", max_depth_));
  if (!OnStartObject()) return false;
  keys_.emplace_back();
  return true;
}

bool JsonSax::end_object() {
  keys_.pop_back();
  return OnEndObject();
}

bool JsonSax::start_array(size_t) {
  if (depth() >= max_depth_) return Fail(absl::StrFormat("nested deeper than %d", max_depth_));
  if (!OnStartArray()) return false;
  keys_.emplace_back();
  return true;
}

bool JsonSax::end_array() {
  keys_.pop_back();
  return OnEndArray();
}

bool JsonSax::key(string_t& value) {
  if (!keys_.back().insert(value).second) {
    return Fail(absl::StrCat("key ", Quoted(value), " is given twice"));
  }
  last_key_ = value;
  return OnKey(value);
}

bool JsonSax::parse_error(size_t position, const std::string&, const nlohmann::detail::exception&) {
  // The library's own message repeats the offending text, which may be megabytes long.
  return Fail(absl::StrFormat("is not valid JSON at byte %d", position));
}

}  // namespace longdoc

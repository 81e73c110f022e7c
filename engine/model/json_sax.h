// Streaming JSON parsing for input nobody vouches for. Private to engine/model.
//
// A subclass sees one event at a time and stops at the first that it does not like, so memory is
// bounded by what it keeps, whatever the text holds. The base class limits the depth of nesting and
// refuses an object that says the same key twice (two readers may disagree on which one counts).
#pragma once

#include <cstdint>
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>
#include <unordered_set>
#include <vector>

#include "absl/status/status.h"

namespace longdoc {

// A key, name or value of foreign origin for an error message: quoted, escaped, cut to 96 bytes.
std::string Quoted(std::string_view text);

class JsonSax : public nlohmann::json_sax<nlohmann::json> {
 public:
  // `what` begins every message, e.g. "safetensors header".
  JsonSax(std::string what, int max_depth) : what_(std::move(what)), max_depth_(max_depth) {}

  // Runs over `json`. OK, or INVALID_ARGUMENT. Never throws.
  absl::Status Run(std::string_view json);

 protected:
  // Events for the subclass; false ends the parse and Fail must have been called. `depth` of the
  // outermost object is 1. Defaults refuse the kind of value.
  virtual bool OnStartObject() { return Unexpected("an object"); }
  virtual bool OnEndObject() { return true; }
  virtual bool OnStartArray() { return Unexpected("an array"); }
  virtual bool OnEndArray() { return true; }
  virtual bool OnKey(const std::string&) { return true; }
  virtual bool OnString(const std::string&) { return Unexpected("a string"); }
  virtual bool OnUnsigned(uint64_t) { return Unexpected("a number"); }
  virtual bool OnOther(const char* kind) { return Unexpected(kind); }

  // The nesting around the current event: 0 outside, 1 directly in the outermost object.
  int depth() const { return static_cast<int>(keys_.size()); }
  const std::string& what() const { return what_; }
  bool Fail(const std::string& message);
  // Where the parse stands, e.g. "at key \"shape\"", for messages.
  bool Unexpected(const char* kind);

 private:
  bool null() final { return OnOther("null"); }
  bool boolean(bool) final { return OnOther("a boolean"); }
  bool number_integer(number_integer_t) final { return OnOther("a negative number"); }
  bool number_unsigned(number_unsigned_t value) final { return OnUnsigned(value); }
  bool number_float(number_float_t, const string_t&) final { return OnOther("a fraction"); }
  bool string(string_t& value) final { return OnString(value); }
  bool binary(binary_t&) final { return OnOther("binary data"); }
  bool start_object(size_t) final;
  bool end_object() final;
  bool start_array(size_t) final;
  bool end_array() final;
  bool key(string_t& value) final;
  bool parse_error(size_t position, const std::string& token,
                   const nlohmann::detail::exception& error) final;

  std::string what_;
  int max_depth_;
  std::vector<std::unordered_set<std::string>> keys_;  // of each open object; empty for arrays
  std::string last_key_;
  absl::Status status_;
};

}  // namespace longdoc

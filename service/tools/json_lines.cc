#include "service/tools/json_lines.h"

#include <array>
#include <charconv>
#include <cmath>
#include <cstring>
#include <limits>
#include <nlohmann/json.hpp>

#include "absl/strings/str_cat.h"
#include "engine/base/error_reason.h"

namespace longdoc::tools {
namespace {

using Json = nlohmann::ordered_json;

// IEEE half to float; subnormals and infinities included.
float HalfToFloat(uint16_t half) {
  const int exponent = (half >> 10) & 0x1F;
  const int fraction = half & 0x3FF;
  const float sign = (half & 0x8000) != 0 ? -1.0f : 1.0f;
  if (exponent == 0x1F) {
    return fraction == 0 ? sign * std::numeric_limits<float>::infinity()
                         : std::numeric_limits<float>::quiet_NaN();
  }
  if (exponent == 0) return sign * std::ldexp(static_cast<float>(fraction), -24);
  return sign * std::ldexp(static_cast<float>(fraction | 0x400), exponent - 25);
}

void AppendFloat(float value, std::string* out) {
  if (!std::isfinite(value)) {
    out->append("null");
    return;
  }
  std::array<char, 32> text;  // the shortest form of a float has at most 15 characters
  const auto [end, error] = std::to_chars(text.data(), text.data() + text.size(), value);
  out->append(text.data(), static_cast<size_t>(end - text.data()));
}

template <typename T>
T LoadAt(std::string_view data, size_t index) {
  T value;
  std::memcpy(&value, data.data() + index * sizeof(T), sizeof(T));
  return value;
}

size_t ComponentBytes(VectorEncoding encoding) {
  if (encoding == VectorEncoding::kFloat32) return 4;
  return encoding == VectorEncoding::kFloat16 ? 2 : 1;
}

const char* EncodingName(VectorEncoding encoding) {
  switch (encoding) {
    case VectorEncoding::kFloat16:
      return "float16";
    case VectorEncoding::kInt8:
      return "int8";
    case VectorEncoding::kBinary:
      return "binary";
    case VectorEncoding::kFloat32:
      break;
  }
  return "float32";
}

const char* KindName(VectorKind kind) {
  switch (kind) {
    case VectorKind::kPassage:
      return "passage";
    case VectorKind::kToken:
      return "token";
    case VectorKind::kDocument:
      break;
  }
  return "document";
}

std::string Dump(const Json& json) {
  return json.dump(-1, ' ', false, Json::error_handler_t::replace);
}

}  // namespace

std::string VectorJson(std::string_view data, VectorEncoding encoding) {
  std::string out = "[";
  const size_t count = data.size() / ComponentBytes(encoding);
  for (size_t i = 0; i < count; ++i) {
    if (i > 0) out += ',';
    switch (encoding) {
      case VectorEncoding::kFloat32:
        AppendFloat(LoadAt<float>(data, i), &out);
        break;
      case VectorEncoding::kFloat16:
        AppendFloat(HalfToFloat(LoadAt<uint16_t>(data, i)), &out);
        break;
      case VectorEncoding::kInt8:
        absl::StrAppend(&out, static_cast<int>(LoadAt<int8_t>(data, i)));
        break;
      case VectorEncoding::kBinary:
        absl::StrAppend(&out, static_cast<int>(LoadAt<uint8_t>(data, i)));
        break;
    }
  }
  out += ']';
  return out;
}

std::string VectorLine(const std::string& document, const VectorRecord& record) {
  Json json = {{"kind", KindName(record.kind)}, {"document", document}};
  if (record.kind == VectorKind::kPassage) json["granularity"] = record.granularity;
  if (record.kind != VectorKind::kDocument) json["index"] = record.index;
  json["tokens"] = record.tokens.end - record.tokens.begin;
  json["token_range"] = {record.tokens.begin, record.tokens.end};
  json["byte_range"] = {record.bytes.begin, record.bytes.end};
  json["dimensions"] = record.dimensions;
  if (record.encoding != VectorEncoding::kFloat32) json["encoding"] = EncodingName(record.encoding);
  if (record.encoding == VectorEncoding::kInt8) json["scale"] = record.scale;
  // The numbers are spliced in: the library would print floats with the digits of doubles.
  std::string line = Dump(json);
  line.pop_back();
  absl::StrAppend(&line, ",\"vector\":", VectorJson(record.data, record.encoding), "}\n");
  return line;
}

std::string StatsLine(const std::string& document, const EmbedSummary& summary, double wall_seconds,
                      int64_t peak_rss_bytes) {
  const v1::EncodeStats& s = summary.stats;
  Json json = {{"kind", "stats"},
               {"document", document},
               {"model", summary.model},
               {"model_revision", summary.model_revision},
               {"tokens", s.encoded_tokens()},
               {"input_tokens", s.input_tokens()},
               {"truncated", s.truncated()},
               {"byte_range", {s.encoded_bytes().begin(), s.encoded_bytes().end()}},
               {"passages", summary.num_passages},
               {"wall_seconds", wall_seconds},
               {"receive_seconds", s.receive_seconds()},
               {"tokenize_seconds", s.tokenize_seconds()},
               {"queue_seconds", s.queue_seconds()},
               {"compute_seconds", s.compute_seconds()}};
  if (s.compute_seconds() > 0) {
    json["tokens_per_second"] = static_cast<double>(s.encoded_tokens()) / s.compute_seconds();
  }
  json["tiles_computed"] = s.attention_tiles_computed();
  json["tiles_dense"] = s.attention_tiles_dense();
  json["tile_fraction"] = s.tile_fraction();
  json["epsilon"] = s.epsilon();
  json["max_logit_bound"] = s.max_logit_bound();
  json["planned_bytes"] = s.planned_bytes();
  json["peak_bytes"] = s.peak_bytes();
  if (peak_rss_bytes > 0) json["peak_rss_bytes"] = peak_rss_bytes;
  return Dump(json) + "\n";
}

std::string ErrorLine(const std::string& document, const absl::Status& status) {
  const Json json = {{"kind", "error"},
                     {"document", document},
                     {"code", absl::StatusCodeToString(status.code())},
                     {"reason", ReasonOf(status)},
                     {"message", std::string(status.message())}};
  return Dump(json) + "\n";
}

}  // namespace longdoc::tools

#include "service/tools/scoring_lines.h"

#include <google/protobuf/util/time_util.h>

#include <array>
#include <nlohmann/json.hpp>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/str_format.h"

namespace longdoc::tools {
namespace {

using Json = nlohmann::ordered_json;
using google::protobuf::util::TimeUtil;

constexpr std::array<std::pair<v1::ScoringMethod, const char*>, 4> kMethods = {{
    {v1::QUERY_LIKELIHOOD, "likelihood"},
    {v1::COSINE, "cosine"},
    {v1::LATE_INTERACTION, "late-interaction"},
    {v1::CROSS_ENCODER, "cross-encoder"},
}};

std::string Line(const Json& json) {
  return json.dump(-1, ' ', false, Json::error_handler_t::replace) + "\n";
}

Json StatusJson(const v1::ItemStatus& status) {
  return {{"code", absl::StatusCodeToString(static_cast<absl::StatusCode>(status.code()))},
          {"reason", status.reason()},
          {"message", status.message()}};
}

void AddScore(const v1::Score& score, Json* json) {
  (*json)["method"] = MethodName(score.method());
  (*json)["score"] = score.score();
  if (score.has_likelihood()) {
    const v1::Likelihood& l = score.likelihood();
    (*json)["sum"] = l.sum();
    (*json)["mean"] = l.mean();
    (*json)["tokens"] = l.token_count();
    if (l.token_log_probabilities_size() > 0) {
      (*json)["token_ids"] = std::vector<int32_t>(l.token_ids().begin(), l.token_ids().end());
      (*json)["token_log_probabilities"] = std::vector<double>(l.token_log_probabilities().begin(),
                                                               l.token_log_probabilities().end());
    }
  }
  if (score.method() == v1::CROSS_ENCODER) (*json)["probability"] = score.probability();
  if (score.passages_size() == 0) return;
  Json passages = Json::array();
  for (const v1::PassageScore& p : score.passages()) {
    passages.push_back({{"granularity", p.granularity()},
                        {"index", p.index()},
                        {"token_range", {p.tokens().begin(), p.tokens().end()}},
                        {"byte_range", {p.bytes().begin(), p.bytes().end()}},
                        {"score", p.score()}});
  }
  (*json)["passages"] = passages;
}

Json DocumentJson(const v1::Document& document) {
  std::vector<std::string> methods;
  for (const int method : document.methods()) {
    methods.push_back(MethodName(static_cast<v1::ScoringMethod>(method)));
  }
  return {{"kind", "document"},
          {"name", document.name()},
          {"document_id", document.document_id()},
          {"model", document.model()},
          {"model_revision", document.model_revision()},
          {"tokens", document.token_count()},
          {"passages", document.passage_count()},
          {"token_vectors", document.has_token_vectors()},
          {"methods", methods},
          {"bytes_held", document.bytes_held()},
          {"created", TimeUtil::ToString(document.create_time())},
          {"last_used", TimeUtil::ToString(document.last_use_time())},
          {"expires", TimeUtil::ToString(document.expire_time())}};
}

}  // namespace

std::string MethodName(v1::ScoringMethod method) {
  for (const auto& [value, name] : kMethods) {
    if (value == method) return name;
  }
  return "default";
}

absl::StatusOr<v1::ScoringMethod> ParseMethod(const std::string& name) {
  for (const auto& [value, known] : kMethods) {
    if (name == known) return value;
  }
  return absl::InvalidArgumentError(absl::StrFormat(
      "--method takes likelihood, cosine, late-interaction or cross-encoder, not \"%s\"", name));
}

std::string CandidateLines(const v1::CandidateScore& score) {
  Json head = {{"kind", "score"}, {"index", score.index()}, {"candidate", score.id()}};
  if (score.status().code() != 0) {
    head["kind"] = "error";
    head.update(StatusJson(score.status()));
    return Line(head);
  }
  std::string lines;
  for (const v1::Score& s : score.scores()) {
    Json json = head;
    AddScore(s, &json);
    lines += Line(json);
  }
  return lines;
}

std::string ScoreSummaryLine(const v1::ScoreSummary& summary, double wall_seconds) {
  Json json = {{"kind", "stats"},
               {"model", summary.model()},
               {"model_revision", summary.model_revision()},
               {"document", summary.document()},
               {"candidates", summary.candidate_count()},
               {"failed", summary.failed_count()},
               {"wall_seconds", wall_seconds},
               {"score_seconds", summary.score_seconds()}};
  if (summary.has_stats()) {
    json["tokens"] = summary.stats().encoded_tokens();
    json["compute_seconds"] = summary.stats().compute_seconds();
  }
  return Line(json);
}

std::string RankLine(int rank, const std::string& document, const v1::Score& score) {
  Json json = {{"kind", "rank"}, {"rank", rank}, {"document", document}};
  AddScore(score, &json);
  return Line(json);
}

std::string RankFailureLine(const std::string& document, const v1::ItemStatus& status) {
  Json json = {{"kind", "error"}, {"document", document}};
  json.update(StatusJson(status));
  return Line(json);
}

std::string GenerateSummaryLine(const v1::GenerateSummary& summary) {
  const bool end = summary.finish_reason() == v1::GenerateSummary::FINISH_REASON_END;
  return Line({{"kind", "stats"},
               {"model", summary.model()},
               {"model_revision", summary.model_revision()},
               {"finish_reason", end ? "end" : "max_tokens"},
               {"prompt_tokens", summary.prompt_tokens()},
               {"generated_tokens", summary.generated_tokens()},
               {"prefill_seconds", summary.prefill_seconds()},
               {"decode_seconds", summary.decode_seconds()}});
}

std::string DocumentLine(const v1::Document& document) { return Line(DocumentJson(document)); }

std::string KeptLine(const v1::EncodeDocumentResult& result, double wall_seconds) {
  Json json = DocumentJson(result.document());
  json["reused"] = result.reused();
  json["wall_seconds"] = wall_seconds;
  const v1::EncodeStats& s = result.stats();
  json["tokenize_seconds"] = s.tokenize_seconds();
  json["compute_seconds"] = s.compute_seconds();
  json["tile_fraction"] = s.tile_fraction();
  json["tokens_routed"] = s.tokens_routed();
  return Line(json);
}

}  // namespace longdoc::tools

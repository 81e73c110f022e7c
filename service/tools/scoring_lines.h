// The output of `longdoc score`, `rank`, `generate` and `documents`: one JSON object a line.
#pragma once

#include <string>

#include "absl/status/statusor.h"
#include "longdoc/v1/document_service.pb.h"
#include "longdoc/v1/scoring_service.pb.h"

namespace longdoc::tools {

// "likelihood", "cosine", "late-interaction", "cross-encoder".
std::string MethodName(v1::ScoringMethod method);
absl::StatusOr<v1::ScoringMethod> ParseMethod(const std::string& name);

// A line for every method of a candidate, or one of kind "error".
std::string CandidateLines(const v1::CandidateScore& score);
std::string ScoreSummaryLine(const v1::ScoreSummary& summary, double wall_seconds);
// `document`: the file's or the kept document's name.
std::string RankLine(int rank, const std::string& document, const v1::Score& score);
std::string RankFailureLine(const std::string& document, const v1::ItemStatus& status);
std::string GenerateSummaryLine(const v1::GenerateSummary& summary);
std::string DocumentLine(const v1::Document& document);
// After EncodeDocument: the document with what it took.
std::string KeptLine(const v1::EncodeDocumentResult& result, double wall_seconds);

}  // namespace longdoc::tools

// longdoc rank
#include <string>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "engine/base/status_macros.h"
#include "longdoc/v1/scoring_service.grpc.pb.h"
#include "service/tools/attention_option.h"
#include "service/tools/command.h"
#include "service/tools/input.h"
#include "service/tools/options.h"
#include "service/tools/output.h"
#include "service/tools/scoring_lines.h"
#include "service/tools/server_options.h"
#include "service/tools/wire.h"

namespace longdoc::tools {
namespace {

constexpr char kAbout[] =
    "Scores documents against one query and prints them as JSON lines, the best first.\n"
    "A DOCUMENT is a file, a directory (all files below it), or the name of a document that the\n"
    "server keeps (\"documents/…\"). All files together must fit one message: for a long document\n"
    "keep it first (longdoc documents keep).";
constexpr char kExamples[] =
    "  longdoc rank --server localhost:50051 --query \"how to resize a partition\" notes/*.txt\n"
    "  longdoc rank --model models/colt5 --query \"dns\" --method cosine --top 3 docs/";

// One message of the API, as servers accept it by default.
constexpr int64_t kMaxFileBytes = 1 << 20;

struct RankArgs {
  EmbedderArgs embedder;
  std::string query, method, attention = "tolerance=1e-4", output;
  int64_t top = 0;
};

absl::Status FillRequest(const RankArgs& args, const std::vector<std::string>& documents,
                         v1::RankDocumentsRequest* request) {
  request->mutable_query()->set_text(args.query);
  request->set_top_n(static_cast<int32_t>(args.top));
  if (!args.method.empty()) {
    ASSIGN_OR_RETURN(const v1::ScoringMethod method, ParseMethod(args.method));
    request->set_method(method);
  }
  ASSIGN_OR_RETURN(const AttentionPolicy attention, ParseAttention(args.attention));
  RETURN_IF_ERROR(SetAttention(attention, request->mutable_attention()));
  for (const std::string& document : documents) {
    v1::RankInput* input = request->add_documents();
    if (absl::StartsWith(document, "documents/")) {
      input->set_name(document);
    } else {
      ASSIGN_OR_RETURN(*input->mutable_text()->mutable_text(), ReadAll(document, kMaxFileBytes));
    }
  }
  return absl::OkStatus();
}

// Directories become their files; names of kept documents stay.
absl::StatusOr<std::vector<std::string>> ExpandDocuments(const std::vector<std::string>& words) {
  std::vector<std::string> documents;
  for (const std::string& word : words) {
    if (absl::StartsWith(word, "documents/")) {
      documents.push_back(word);
      continue;
    }
    ASSIGN_OR_RETURN(const std::vector<std::string> files, ExpandInputs({word}));
    documents.insert(documents.end(), files.begin(), files.end());
  }
  if (documents.empty()) return absl::NotFoundError("there are no files to rank");
  return documents;
}

absl::Status Rank(const RankArgs& args, const std::vector<std::string>& words) {
  ASSIGN_OR_RETURN(const std::vector<std::string> documents, ExpandDocuments(words));
  v1::RankDocumentsRequest request;
  RETURN_IF_ERROR(FillRequest(args, documents, &request));
  Output output;
  RETURN_IF_ERROR(output.Open(args.output));
  ASSIGN_OR_RETURN(const std::unique_ptr<ServerSession> session,
                   ServerSession::Open(args.embedder));
  request.set_model(session->model());
  grpc::ClientContext context;
  session->connection().Prepare(&context);
  v1::RankDocumentsResponse response;
  const auto stub = v1::ScoringService::NewStub(session->connection().channel());
  const grpc::Status status = stub->RankDocuments(&context, request, &response);
  RETURN_IF_ERROR(session->connection().ToStatus(status, context));
  int rank = 0;
  for (const auto& item : response.items()) {
    const std::string& name = documents.at(static_cast<size_t>(item.index()));
    RETURN_IF_ERROR(output.Write(RankLine(++rank, name, item.score())));
  }
  for (const auto& failure : response.failures()) {
    const std::string& name = documents.at(static_cast<size_t>(failure.index()));
    RETURN_IF_ERROR(output.Write(RankFailureLine(name, failure.status())));
  }
  return output.Close();
}

}  // namespace

int RunRank(const std::vector<std::string>& words) {
  RankArgs args;
  OptionParser parser("longdoc rank", "[OPTIONS] --query TEXT DOCUMENT...", kAbout, kExamples);
  parser.Section("Scoring");
  parser.AddString("query", "TEXT", "what the documents are scored against", &args.query);
  parser.AddString("method", "METHOD",
                   "likelihood, cosine, late-interaction or cross-encoder\n"
                   "(default: the best the model can do)",
                   &args.method);
  parser.AddInt("top", "N", "print the best N; 0: all", 0, INT32_MAX, &args.top);
  parser.AddString("attention", "POLICY", kAttentionHelp, &args.attention);
  parser.AddString("output", "FILE", "write here instead of standard output", &args.output);
  AddEmbedderOptions(parser, &args.embedder);
  int exit_code = kExitOk;
  if (!ParseOrExit(parser, words, &exit_code)) return exit_code;
  std::string problem = CheckEmbedderArgs(parser, args.embedder);
  if (problem.empty() && args.query.empty()) problem = "needs --query TEXT";
  if (problem.empty() && parser.positional().empty()) problem = "needs documents to rank";
  if (!problem.empty()) return UsageError(parser.command(), problem);
  const absl::Status status = Rank(args, parser.positional());
  return status.ok() ? kExitOk : Failure(parser.command(), status);
}

}  // namespace longdoc::tools

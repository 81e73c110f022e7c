// longdoc generate
#include <iostream>
#include <string>
#include <vector>

#include "engine/base/status_macros.h"
#include "longdoc/v1/scoring_service.grpc.pb.h"
#include "service/tools/command.h"
#include "service/tools/document_options.h"
#include "service/tools/input.h"
#include "service/tools/options.h"
#include "service/tools/progress.h"
#include "service/tools/scoring_client.h"
#include "service/tools/scoring_lines.h"
#include "service/tools/server_options.h"

namespace longdoc::tools {
namespace {

constexpr char kAbout[] =
    "Prints what the model's decoder writes after a prompt, given a document, token by token; "
    "what\n"
    "it took goes to standard error as a JSON line. The document is kept on the server.";
constexpr char kExamples[] =
    "  longdoc generate --server localhost:50051 --document book.txt --prompt \"what is\"\n"
    "  longdoc generate --server localhost:50051 --name documents/4f…-9a… --max-new-tokens 20 \\\n"
    "      --temperature 0.8 --top-k 40 --seed 7";

struct GenerateArgs {
  EmbedderArgs embedder;
  DocumentArgs document;
  std::string path, name, prompt;
  int64_t max_new_tokens = 64, top_k = 0, seed = 0;
  double temperature = 0, top_p = 1;
  bool quiet = false;
};

void DeclareOptions(OptionParser& parser, GenerateArgs* args) {
  parser.Section("The document");
  parser.AddString("document", "FILE", "encoded and kept first; - is standard input", &args->path);
  parser.AddString("name", "NAME", "a document that the server keeps (\"documents/…\")",
                   &args->name);
  AddDocumentOptions(parser, &args->document);
  parser.Section("The text");
  parser.AddString("prompt", "TEXT", "how it begins; may be empty", &args->prompt);
  parser.AddInt("max-new-tokens", "N", "at most so many", 1, 65536, &args->max_new_tokens);
  parser.AddDouble("temperature", "T", "0: always the likeliest token", 0, 100, &args->temperature);
  parser.AddInt("top-k", "K", "sample among the K likeliest; 0: all", 0, INT32_MAX, &args->top_k);
  parser.AddDouble("top-p", "P", "sample among the likeliest that make up P", 1e-6, 1,
                   &args->top_p);
  parser.AddInt("seed", "N", "the same seed gives the same text", 0, INT64_MAX, &args->seed);
  parser.AddFlag("quiet", "no progress", &args->quiet);
  AddEmbedderOptions(parser, &args->embedder);
}

// The name of the document: as given, or after keeping the file.
absl::StatusOr<std::string> DocumentName(const GenerateArgs& args, const EmbedOptions& options,
                                         const ServerSession& session) {
  if (!args.name.empty()) return args.name;
  DocumentInput document;
  document.name = args.path;
  ASSIGN_OR_RETURN(document.source, OpenSource(args.path));
  ProgressPrinter progress(args.quiet);
  ASSIGN_OR_RETURN(
      const v1::EncodeDocumentResult kept,
      KeepDocument(session.connection(), session.model(), options, /*ttl_seconds=*/0, document,
                   [&](const EmbedProgress& p) { progress.Update(args.path, p); }));
  return kept.document().name();
}

absl::Status Generate(const GenerateArgs& args, const EmbedOptions& options) {
  ASSIGN_OR_RETURN(const std::unique_ptr<ServerSession> session,
                   ServerSession::Open(args.embedder));
  v1::GenerateTextRequest request;
  ASSIGN_OR_RETURN(*request.mutable_document(), DocumentName(args, options, *session));
  if (!args.prompt.empty()) request.mutable_prompt()->set_text(args.prompt);
  request.set_max_new_tokens(static_cast<int32_t>(args.max_new_tokens));
  v1::Sampling* sampling = request.mutable_sampling();
  sampling->set_temperature(static_cast<float>(args.temperature));
  sampling->set_top_k(static_cast<int32_t>(args.top_k));
  sampling->set_top_p(static_cast<float>(args.top_p));
  sampling->set_seed(static_cast<uint64_t>(args.seed));

  grpc::ClientContext context;
  session->connection().Prepare(&context);
  const auto stub = v1::ScoringService::NewStub(session->connection().channel());
  const auto reader = stub->GenerateText(&context, request);
  v1::GenerateTextResponse response;
  while (reader->Read(&response)) {
    if (response.has_token()) std::cout << response.token().text() << std::flush;
    if (!response.has_summary()) continue;
    std::cout << '\n';
    if (!args.quiet) std::cerr << GenerateSummaryLine(response.summary());
  }
  return session->connection().ToStatus(reader->Finish(), context);
}

}  // namespace

int RunGenerate(const std::vector<std::string>& words) {
  GenerateArgs args;
  EmbedOptions options;
  OptionParser parser("longdoc generate", "[OPTIONS] --document FILE", kAbout, kExamples);
  DeclareOptions(parser, &args);
  int exit_code = kExitOk;
  if (!ParseOrExit(parser, words, &exit_code)) return exit_code;
  std::string problem = CheckEmbedderArgs(parser, args.embedder);
  if (problem.empty()) problem = InterpretDocumentArgs(args.document, /*remote=*/true, &options);
  if (problem.empty() && args.path.empty() == args.name.empty()) {
    problem = "needs --document FILE or --name NAME";
  }
  if (problem.empty() && !args.name.empty() && args.embedder.remote.address.empty()) {
    problem = "--name needs --server";
  }
  if (problem.empty() && !parser.positional().empty()) {
    problem = "takes no argument \"" + parser.positional()[0] + "\"";
  }
  if (!problem.empty()) return UsageError(parser.command(), problem);
  const absl::Status status = Generate(args, options);
  return status.ok() ? kExitOk : Failure(parser.command(), status);
}

}  // namespace longdoc::tools

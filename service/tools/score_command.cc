// longdoc score
#include <chrono>
#include <fstream>
#include <iostream>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "engine/base/status_macros.h"
#include "service/tools/command.h"
#include "service/tools/document_options.h"
#include "service/tools/input.h"
#include "service/tools/options.h"
#include "service/tools/output.h"
#include "service/tools/progress.h"
#include "service/tools/scoring_client.h"
#include "service/tools/scoring_lines.h"
#include "service/tools/server_options.h"

namespace longdoc::tools {
namespace {

constexpr char kAbout[] =
    "Scores candidates against one document and prints JSON lines: one for every candidate and\n"
    "method as it is ready (kind \"score\", or \"error\"), and last one with what it took "
    "(\"stats\").\n"
    "The document is a file that is sent along, or one that the server keeps already.\n"
    "FILE of --candidates has one candidate a line; empty lines are left out; - is standard input.";
constexpr char kExamples[] =
    "  longdoc score --server localhost:50051 --document book.txt --candidates questions.txt\n"
    "  longdoc score --server localhost:50051 --document book.txt --keep --candidates q.txt\n"
    "  longdoc score --server localhost:50051 --name documents/4f…-9a… --candidates - \\\n"
    "      --method likelihood --method cosine\n"
    "  longdoc score --model models/colt5 --document book.txt --candidates questions.txt";

struct ScoreArgs {
  EmbedderArgs embedder;
  DocumentArgs document;
  std::string path, name, candidates, output;
  std::vector<v1::ScoringMethod> methods;
  bool keep = false, token_log_probabilities = false, quiet = false;
  int64_t best_passages = 1;
  double ttl_seconds = 0;
  EmbedOptions options;
};

void DeclareOptions(OptionParser& parser, ScoreArgs* args) {
  parser.Section("The document");
  parser.AddString("document", "FILE", "sent along; - is standard input", &args->path);
  parser.AddString("name", "NAME", "a document that the server keeps (\"documents/…\")",
                   &args->name);
  parser.AddFlag("keep", "keep the document on the server, and print its name first", &args->keep);
  parser.AddDouble("ttl", "SECONDS", "with --keep: for so long after its last use; 0: the server's",
                   0, 1e9, &args->ttl_seconds);
  AddDocumentOptions(parser, &args->document);
  parser.Section("Scoring");
  parser.AddString("candidates", "FILE", "one candidate a line", &args->candidates);
  parser.AddCustom("method", "METHOD",
                   "likelihood, cosine, late-interaction or cross-encoder; may be\n"
                   "given several times (default: the best the model can do)",
                   [args](const std::string& text) -> absl::Status {
                     ASSIGN_OR_RETURN(const v1::ScoringMethod method, ParseMethod(text));
                     args->methods.push_back(method);
                     return absl::OkStatus();
                   });
  parser.AddFlag("token-scores", "likelihood: the log-probability of every token",
                 &args->token_log_probabilities);
  parser.AddInt("best-passages", "N", "cosine, late-interaction: how many passages to name", 0, 64,
                &args->best_passages);
  parser.Section("Output");
  parser.AddString("output", "FILE", "write here instead of standard output", &args->output);
  parser.AddFlag("quiet", "no progress", &args->quiet);
  AddEmbedderOptions(parser, &args->embedder);
}

std::string Interpret(const OptionParser& parser, ScoreArgs* args) {
  if (!parser.positional().empty()) {
    return absl::StrCat("takes no argument \"", parser.positional()[0], "\"");
  }
  if (args->path.empty() == args->name.empty()) return "needs --document FILE or --name NAME";
  if (args->candidates.empty()) return "needs --candidates FILE";
  if (args->path == "-" && args->candidates == "-") {
    return "document and candidates cannot both be standard input";
  }
  if (args->keep && args->path.empty()) return "--keep goes with --document FILE";
  if (parser.WasGiven("ttl") && !args->keep) return "--ttl goes with --keep";
  if (!args->name.empty() && args->embedder.remote.address.empty()) return "--name needs --server";
  const std::string problem = CheckEmbedderArgs(parser, args->embedder);
  if (!problem.empty()) return problem;
  for (const v1::ScoringMethod method : args->methods) {
    args->options.token_vectors |= method == v1::LATE_INTERACTION;
  }
  return InterpretDocumentArgs(args->document, /*remote=*/true, &args->options);
}

// Lines of a file or of standard input, read as the server takes them.
class CandidateReader {
 public:
  explicit CandidateReader(const std::string& path) : stdin_(path == "-") {
    if (!stdin_) file_.open(path, std::ios::binary);
  }
  bool is_open() const { return stdin_ || file_.is_open(); }
  bool Next(v1::Candidate* candidate) {
    std::string line;
    while (std::getline(stdin_ ? std::cin : file_, line)) {
      ++number_;
      if (!line.empty() && line.back() == '\r') line.pop_back();
      if (line.empty()) continue;
      candidate->set_id(absl::StrCat(number_));
      candidate->set_text(std::move(line));
      return true;
    }
    return false;
  }

 private:
  const bool stdin_;
  std::ifstream file_;
  int64_t number_ = 0;
};

double SecondsSince(std::chrono::steady_clock::time_point start) {
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

absl::Status Score(const ScoreArgs& args) {
  CandidateReader candidates(args.candidates);
  if (!candidates.is_open()) {
    return absl::NotFoundError(absl::StrCat("cannot read ", args.candidates));
  }
  DocumentInput document;
  document.name = args.path;
  if (!args.path.empty()) {
    ASSIGN_OR_RETURN(document.source, OpenSource(args.path));
  }
  Output output;
  RETURN_IF_ERROR(output.Open(args.output));
  ASSIGN_OR_RETURN(const std::unique_ptr<ServerSession> session,
                   ServerSession::Open(args.embedder));
  ProgressPrinter progress(args.quiet);
  const auto on_progress = [&](const EmbedProgress& p) {
    progress.Update(args.path.empty() ? args.name : args.path, p);
  };
  auto start = std::chrono::steady_clock::now();
  ScoreRequest request;
  request.name = args.name;
  request.options = args.options;
  request.model = session->model();
  request.methods = args.methods;
  request.token_log_probabilities = args.token_log_probabilities;
  request.best_passages = static_cast<int32_t>(args.best_passages);
  if (args.keep) {
    ASSIGN_OR_RETURN(const v1::EncodeDocumentResult kept,
                     KeepDocument(session->connection(), session->model(), args.options,
                                  args.ttl_seconds, document, on_progress));
    progress.Clear();
    RETURN_IF_ERROR(output.Write(KeptLine(kept, SecondsSince(start))));
    RETURN_IF_ERROR(output.Flush());
    request.name = kept.document().name();
    start = std::chrono::steady_clock::now();
  } else if (!args.path.empty()) {
    request.document = &document;
  }
  ASSIGN_OR_RETURN(
      const v1::ScoreSummary summary,
      ScoreCandidates(
          session->connection(), request,
          [&](v1::Candidate* candidate) { return candidates.Next(candidate); }, on_progress,
          [&](const v1::CandidateScore& score) {
            progress.Clear();
            return output.Write(CandidateLines(score));
          }));
  progress.Clear();
  RETURN_IF_ERROR(output.Write(ScoreSummaryLine(summary, SecondsSince(start))));
  return output.Close();
}

}  // namespace

int RunScore(const std::vector<std::string>& words) {
  ScoreArgs args;
  OptionParser parser("longdoc score", "[OPTIONS] --document FILE --candidates FILE", kAbout,
                      kExamples);
  DeclareOptions(parser, &args);
  int exit_code = kExitOk;
  if (!ParseOrExit(parser, words, &exit_code)) return exit_code;
  const std::string problem = Interpret(parser, &args);
  if (!problem.empty()) return UsageError(parser.command(), problem);
  const absl::Status status = Score(args);
  return status.ok() ? kExitOk : Failure(parser.command(), status);
}

}  // namespace longdoc::tools

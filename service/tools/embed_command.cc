// longdoc embed
#include <sys/resource.h>

#include <chrono>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "engine/base/status_macros.h"
#include "service/tools/command.h"
#include "service/tools/document_options.h"
#include "service/tools/embedder.h"
#include "service/tools/embedder_options.h"
#include "service/tools/input.h"
#include "service/tools/json_lines.h"
#include "service/tools/options.h"
#include "service/tools/output.h"
#include "service/tools/progress.h"

namespace longdoc::tools {
namespace {

constexpr char kAbout[] =
    "Prints vectors of documents as JSON lines: of their passages (kind \"passage\"), of their\n"
    "tokens (\"token\"), of the whole (\"document\"), and last a line with what it took "
    "(\"stats\").\n"
    "PATH is a file, a directory (all files below it) or - for standard input (the default).";
constexpr char kExamples[] =
    "  longdoc embed --server localhost:50051 --passages 256 book.txt > vectors.jsonl\n"
    "  zcat book.txt.gz | longdoc embed --model models/small --sentences 5\n"
    "  longdoc embed --model models/small --attention exact --raw --token-ids ids.txt\n"
    "  longdoc embed --server localhost:50051 --dimensions 256 --encoding int8 notes/";

struct EmbedArgs {
  EmbedderArgs embedder;
  DocumentArgs document;
  std::string encoding = "float32", token_ids, output;
  int64_t dimensions = 0;
  bool raw = false, token_vectors = false, quiet = false;
  EmbedOptions options;
  std::vector<std::string> paths;
};

void DeclareOptions(OptionParser& parser, EmbedArgs* args) {
  parser.Section("What to compute");
  AddDocumentOptions(parser, &args->document);
  parser.AddFlag("token-vectors", "a vector for every token", &args->token_vectors);
  parser.AddInt("dimensions", "N", "keep the first N components; 0: all", 0, INT32_MAX,
                &args->dimensions);
  parser.AddFlag("raw", "do not scale vectors to length 1", &args->raw);
  parser.AddChoice("encoding", {"float32", "float16", "int8", "binary"}, "of the components",
                   &args->encoding);
  parser.Section("Input and output");
  parser.AddString("token-ids", "FILE",
                   "embed these ids, separated by white space, special\ntokens included, instead "
                   "of a text",
                   &args->token_ids);
  parser.AddString("output", "FILE", "write here instead of standard output", &args->output);
  parser.AddFlag("quiet", "no progress", &args->quiet);
  AddEmbedderOptions(parser, &args->embedder);
}

// Fills `options` from the strings. Empty, or what is wrong.
std::string Interpret(const OptionParser& parser, EmbedArgs* args) {
  std::string problem = CheckEmbedderArgs(parser, args->embedder);
  if (!problem.empty()) return problem;
  problem =
      InterpretDocumentArgs(args->document, !args->embedder.remote.address.empty(), &args->options);
  if (!problem.empty()) return problem;
  if (!args->token_ids.empty() && !parser.positional().empty()) {
    return "--token-ids takes the place of PATH";
  }
  args->options.token_vectors = args->token_vectors;
  args->options.vector.normalize = !args->raw;
  args->options.vector.dimensions = static_cast<int32_t>(args->dimensions);
  if (args->encoding == "float16") args->options.vector.encoding = VectorEncoding::kFloat16;
  if (args->encoding == "int8") args->options.vector.encoding = VectorEncoding::kInt8;
  if (args->encoding == "binary") args->options.vector.encoding = VectorEncoding::kBinary;
  args->paths = parser.positional();
  if (args->paths.empty() && args->token_ids.empty()) args->paths = {"-"};
  return "";
}

class PrintingSink final : public EmbedSink {
 public:
  PrintingSink(const std::string& document, Output& output, ProgressPrinter& progress)
      : document_(document), output_(output), progress_(progress) {}
  absl::Status OnVector(const VectorRecord& record) override {
    return output_.Write(VectorLine(document_, record));
  }
  void OnProgress(const EmbedProgress& progress) override { progress_.Update(document_, progress); }

 private:
  const std::string& document_;
  Output& output_;
  ProgressPrinter& progress_;
};

int64_t PeakRssBytes() {
  rusage usage = {};
  getrusage(RUSAGE_SELF, &usage);
  return usage.ru_maxrss * 1024;
}

absl::Status EmbedOne(const EmbedArgs& args, Embedder& embedder, DocumentInput document,
                      Output& output) {
  ProgressPrinter progress(args.quiet);
  PrintingSink sink(document.name, output, progress);
  const auto start = std::chrono::steady_clock::now();
  ASSIGN_OR_RETURN(const EmbedSummary summary, embedder.Embed(args.options, document, sink));
  progress.Clear();
  const std::chrono::duration<double> wall = std::chrono::steady_clock::now() - start;
  // Through a server, our own memory says nothing about the encode.
  const int64_t rss = args.embedder.remote.address.empty() ? PeakRssBytes() : 0;
  return output.Write(StatsLine(document.name, summary, wall.count(), rss));
}

// Several documents: one that fails is reported, and the others go on.
absl::Status EmbedPaths(const EmbedArgs& args, Embedder& embedder, Output& output,
                        int64_t* failures) {
  ASSIGN_OR_RETURN(const std::vector<std::string> paths, ExpandInputs(args.paths));
  if (paths.empty()) return absl::NotFoundError("there are no files to embed");
  for (const std::string& path : paths) {
    DocumentInput document;
    document.name = path == "-" ? "stdin" : path;
    absl::StatusOr<std::unique_ptr<ByteSource>> source = OpenSource(path);
    absl::Status status = source.status();
    if (status.ok()) {
      document.source = *std::move(source);
      status = EmbedOne(args, embedder, std::move(document), output);
    }
    if (status.ok()) continue;
    if (paths.size() == 1 || absl::IsDataLoss(status)) return status;
    ++*failures;
    PrintError(absl::StrCat("longdoc embed: ", path), status);
    RETURN_IF_ERROR(output.Write(ErrorLine(path, status)));
  }
  return absl::OkStatus();
}

absl::Status Embed(const EmbedArgs& args, int64_t* failures) {
  Output output;
  RETURN_IF_ERROR(output.Open(args.output));
  DocumentInput ids;
  if (!args.token_ids.empty()) {
    ids.name = args.token_ids;
    ASSIGN_OR_RETURN(ids.ids, ReadTokenIds(args.token_ids));
  }
  ASSIGN_OR_RETURN(const std::unique_ptr<Embedder> embedder, MakeEmbedder(args.embedder));
  if (!args.token_ids.empty()) {
    RETURN_IF_ERROR(EmbedOne(args, *embedder, std::move(ids), output));
  } else {
    RETURN_IF_ERROR(EmbedPaths(args, *embedder, output, failures));
  }
  return output.Close();
}

}  // namespace

int RunEmbed(const std::vector<std::string>& words) {
  EmbedArgs args;
  OptionParser parser("longdoc embed", "[OPTIONS] [PATH...]", kAbout, kExamples);
  DeclareOptions(parser, &args);
  int exit_code = kExitOk;
  if (!ParseOrExit(parser, words, &exit_code)) return exit_code;
  const std::string problem = Interpret(parser, &args);
  if (!problem.empty()) return UsageError(parser.command(), problem);
  int64_t failures = 0;
  const absl::Status status = Embed(args, &failures);
  if (!status.ok()) return Failure(parser.command(), status);
  return failures == 0 ? kExitOk : kExitFailure;
}

}  // namespace longdoc::tools

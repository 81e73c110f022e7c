// longdoc documents keep | list | get | delete
#include <chrono>
#include <iostream>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "engine/base/status_macros.h"
#include "longdoc/v1/document_service.grpc.pb.h"
#include "service/tools/command.h"
#include "service/tools/document_options.h"
#include "service/tools/embedder_options.h"
#include "service/tools/input.h"
#include "service/tools/options.h"
#include "service/tools/progress.h"
#include "service/tools/scoring_client.h"
#include "service/tools/scoring_lines.h"

namespace longdoc::tools {
namespace {

using Stub = v1::DocumentService::Stub;

struct KeepArgs {
  DocumentArgs document;
  EmbedOptions options;
  double ttl_seconds = 0;
  std::string model;
  bool token_vectors = false, quiet = false;
};

absl::Status Keep(const ServerConnection& connection, const KeepArgs& args,
                  const std::vector<std::string>& words) {
  ASSIGN_OR_RETURN(const std::vector<std::string> paths, ExpandInputs(words));
  for (const std::string& path : paths) {
    DocumentInput document;
    document.name = path;
    ASSIGN_OR_RETURN(document.source, OpenSource(path));
    ProgressPrinter progress(args.quiet);
    const auto start = std::chrono::steady_clock::now();
    ASSIGN_OR_RETURN(const v1::EncodeDocumentResult kept,
                     KeepDocument(connection, args.model, args.options, args.ttl_seconds, document,
                                  [&](const EmbedProgress& p) { progress.Update(path, p); }));
    progress.Clear();
    const std::chrono::duration<double> wall = std::chrono::steady_clock::now() - start;
    std::cout << KeptLine(kept, wall.count()) << std::flush;
  }
  return absl::OkStatus();
}

absl::Status List(const ServerConnection& connection, Stub& stub) {
  v1::ListDocumentsRequest request;
  do {
    grpc::ClientContext context;
    connection.Prepare(&context);
    v1::ListDocumentsResponse response;
    const grpc::Status status = stub.ListDocuments(&context, request, &response);
    RETURN_IF_ERROR(connection.ToStatus(status, context));
    for (const v1::Document& document : response.documents()) std::cout << DocumentLine(document);
    request.set_page_token(response.next_page_token());
  } while (!request.page_token().empty());
  return absl::OkStatus();
}

absl::Status Get(const ServerConnection& connection, Stub& stub, const std::string& name) {
  v1::GetDocumentRequest request;
  request.set_name(name);
  grpc::ClientContext context;
  connection.Prepare(&context);
  v1::Document document;
  const grpc::Status status = stub.GetDocument(&context, request, &document);
  RETURN_IF_ERROR(connection.ToStatus(status, context));
  std::cout << DocumentLine(document);
  return absl::OkStatus();
}

absl::Status Delete(const ServerConnection& connection, Stub& stub, const std::string& name) {
  v1::DeleteDocumentRequest request;
  request.set_name(name);
  grpc::ClientContext context;
  connection.Prepare(&context);
  v1::DeleteDocumentResponse response;
  const grpc::Status status = stub.DeleteDocument(&context, request, &response);
  RETURN_IF_ERROR(connection.ToStatus(status, context));
  std::cout << name << ": " << response.bytes_freed() << " bytes freed\n";
  return absl::OkStatus();
}

// Parses, connects, and calls `work` with the connection and the words that are left.
template <class Work>
int RunWithServer(OptionParser& parser, const std::vector<std::string>& words, bool needs_words,
                  const Work& work) {
  RemoteOptions remote;
  parser.Section("Server");
  AddServerOptions(parser, &remote);
  int exit_code = kExitOk;
  if (!ParseOrExit(parser, words, &exit_code)) return exit_code;
  if (remote.address.empty()) return UsageError(parser.command(), "needs --server HOST:PORT");
  if (needs_words == parser.positional().empty()) {
    return UsageError(parser.command(), needs_words ? "needs an argument" : "takes no argument");
  }
  absl::StatusOr<ServerConnection> connection = ServerConnection::Create(remote);
  absl::Status status = connection.status();
  if (status.ok()) status = work(*connection, parser.positional());
  return status.ok() ? kExitOk : Failure(parser.command(), status);
}

int RunKeep(const std::vector<std::string>& words) {
  KeepArgs args;
  OptionParser parser("longdoc documents keep", "[OPTIONS] --server HOST:PORT PATH...",
                      "Encodes documents and keeps them on the server; prints a JSON line with the "
                      "name of each.",
                      "  longdoc documents keep --server localhost:50051 --passages 256 book.txt");
  parser.Section("The documents");
  AddDocumentOptions(parser, &args.document);
  parser.AddFlag("token-vectors", "keep every token's vector, for late-interaction scores",
                 &args.token_vectors);
  parser.AddDouble("ttl", "SECONDS", "for so long after the last use; 0: the server's default", 0,
                   1e9, &args.ttl_seconds);
  parser.AddString("model", "NAME", "the model there; empty: the server's default", &args.model);
  parser.AddFlag("quiet", "no progress", &args.quiet);
  return RunWithServer(
      parser, words, /*needs_words=*/true,
      [&](const ServerConnection& connection, const std::vector<std::string>& paths) {
        args.options.token_vectors = args.token_vectors;
        const std::string problem =
            InterpretDocumentArgs(args.document, /*remote=*/true, &args.options);
        if (!problem.empty()) return absl::InvalidArgumentError(problem);
        return Keep(connection, args, paths);
      });
}

int RunList(const std::vector<std::string>& words) {
  OptionParser parser("longdoc documents list", "--server HOST:PORT",
                      "Prints a JSON line for every kept document, the oldest first.",
                      "  longdoc documents list --server localhost:50051");
  return RunWithServer(parser, words, /*needs_words=*/false,
                       [](const ServerConnection& connection, const std::vector<std::string>&) {
                         return List(connection,
                                     *v1::DocumentService::NewStub(connection.channel()));
                       });
}

// `get` and `delete`, which do something to every name.
int RunNames(const std::string& command, const std::string& about,
             absl::Status (*work)(const ServerConnection&, Stub&, const std::string&),
             const std::vector<std::string>& words) {
  OptionParser parser(
      absl::StrCat("longdoc documents ", command), "--server HOST:PORT NAME...", about,
      absl::StrCat("  longdoc documents ", command, " --server localhost:50051 documents/4f…-9a…"));
  return RunWithServer(parser, words, /*needs_words=*/true,
                       [&](const ServerConnection& connection,
                           const std::vector<std::string>& names) -> absl::Status {
                         const auto stub = v1::DocumentService::NewStub(connection.channel());
                         for (const std::string& name : names)
                           RETURN_IF_ERROR(work(connection, *stub, name));
                         return absl::OkStatus();
                       });
}

int RunGet(const std::vector<std::string>& words) {
  return RunNames("get", "Prints a JSON line for each of the documents.", &Get, words);
}

int RunDelete(const std::vector<std::string>& words) {
  return RunNames("delete", "Deletes kept documents.", &Delete, words);
}

}  // namespace

int RunDocuments(const std::vector<std::string>& args) {
  const std::vector<Command> commands = {
      {"keep", "encode documents and keep them on the server", RunKeep},
      {"list", "what the server keeps", RunList},
      {"get", "one document, by name", RunGet},
      {"delete", "free a document's memory", RunDelete},
  };
  return Dispatch("longdoc documents", "Documents that stay encoded on a server.", commands, args);
}

}  // namespace longdoc::tools

// `longdoc`: command-line client of the service, and tools for model directories.
#include <csignal>
#include <string>
#include <vector>

#include "service/tools/command.h"

int main(int argc, char** argv) {
  using namespace longdoc::tools;  // NOLINT(google-build-using-namespace): main of a small program
  // A reader that closes our output (head, less) must not look like a crash.
  std::signal(SIGPIPE, SIG_IGN);
  const std::vector<Command> commands = {
      {"embed", "vectors of files, directories or standard input", RunEmbed},
      {"score", "scores of candidates against a document", RunScore},
      {"rank", "documents in the order of their scores against a query", RunRank},
      {"generate", "what the model's decoder writes, given a document", RunGenerate},
      {"documents", "keep, list and delete documents on a server", RunDocuments},
      {"model", "make and inspect model directories", RunModel},
      {"tokenize", "token ids of a text", RunTokenize},
      {"plan", "memory and time that documents of given lengths take", RunPlan},
      {"health", "ask a server whether it serves", RunHealth},
  };
  return Dispatch("longdoc",
                  "Embeds and scores very long documents, through a server or in this process.",
                  commands, {argv + 1, argv + argc});
}

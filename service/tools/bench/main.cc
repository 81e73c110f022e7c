// `longdoc-bench`: how fast this machine runs what longdoc is made of.
#include <csignal>
#include <string>
#include <vector>

#include "service/tools/bench/bench.h"
#include "service/tools/command.h"

int main(int argc, char** argv) {
  using namespace longdoc::tools;  // NOLINT(google-build-using-namespace): main of a small program
  std::signal(SIGPIPE, SIG_IGN);
  const std::vector<std::string> args(argv + 1, argv + argc);
  // How `encode` calls itself; not for people.
  if (!args.empty() && args[0] == "encode-child")
    return RunEncodeChild({args.begin() + 1, args.end()});
  const std::vector<Command> commands = {
      {"gemm", "matrix products", RunGemmBench},
      {"attention", "the attention kernels alone", RunAttentionBench},
      {"encode", "documents through the engine, in-process", RunEncodeBench},
      {"route", "choosing tokens for conditional computation, and moving their rows",
       RunRouteBench},
      {"decode", "multi-query attention of a decoder to a long document", RunDecodeBench},
      {"score", "candidates against a kept document, in-process", RunScoreBench},
      {"serve", "load on a server: latencies and rate", RunServeBench},
  };
  return Dispatch("longdoc-bench",
                  "Measures, and states the machine's own peak beside every number. --json FILE "
                  "keeps the results.",
                  commands, args);
}

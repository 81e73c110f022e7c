// longdoc plan
#include <cstdint>
#include <iostream>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "absl/strings/str_format.h"
#include "engine/base/status_macros.h"
#include "service/tools/attention_option.h"
#include "service/tools/command.h"
#include "service/tools/embedder.h"
#include "service/tools/embedder_options.h"
#include "service/tools/model_info.h"
#include "service/tools/options.h"

namespace longdoc::tools {
namespace {

struct PlanArgs {
  EmbedderArgs embedder;
  std::string attention = "tolerance=1e-4";
  std::vector<int64_t> tokens = {1000, 10000, 100000, 1000000};
  int64_t passages = 0;
  bool token_vectors = false, json = false;
};

std::string JsonLine(int64_t tokens, const v1::EstimateDocumentResponse& p) {
  const nlohmann::ordered_json json = {{"tokens", tokens},
                                       {"activation_bytes", p.activation_bytes()},
                                       {"output_bytes", p.output_bytes()},
                                       {"peak_bytes", p.peak_bytes()},
                                       {"memory_budget_bytes", p.memory_budget_bytes()},
                                       {"admissible", p.admissible()},
                                       {"refusal", p.refusal()},
                                       {"dense_flops", p.dense_flops()},
                                       {"attention_flops", p.attention_flops()},
                                       {"tile_fraction", p.expected_tile_fraction()},
                                       {"seconds", p.expected_seconds()},
                                       {"queue_seconds", p.expected_queue_seconds()}};
  return json.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace) + "\n";
}

std::string TableLine(int64_t tokens, const v1::EstimateDocumentResponse& p) {
  return absl::StrFormat("%10d %11s %11s %12s %14s %8.1f%% %10.2f  %s\n", tokens,
                         HumanBytes(static_cast<double>(p.peak_bytes())),
                         HumanBytes(static_cast<double>(p.memory_budget_bytes())),
                         HumanCount(p.dense_flops()), HumanCount(p.attention_flops()),
                         100 * p.expected_tile_fraction(), p.expected_seconds(),
                         p.admissible() ? "yes" : p.refusal());
}

absl::Status Plan(const PlanArgs& args, const AttentionPolicy& attention) {
  ASSIGN_OR_RETURN(const std::unique_ptr<Embedder> embedder, MakeEmbedder(args.embedder));
  if (!args.json) {
    std::cout << absl::StrFormat("%10s %11s %11s %12s %14s %9s %10s  %s\n", "tokens", "peak",
                                 "budget", "dense FLOP", "attention FLOP", "tiles", "seconds",
                                 "admitted");
  }
  for (int64_t tokens : args.tokens) {
    ASSIGN_OR_RETURN(const v1::EstimateDocumentResponse plan,
                     embedder->Plan(tokens, args.passages, args.token_vectors, attention));
    std::cout << (args.json ? JsonLine(tokens, plan) : TableLine(tokens, plan));
  }
  return absl::OkStatus();
}

}  // namespace

int RunPlan(const std::vector<std::string>& words) {
  PlanArgs args;
  OptionParser parser("longdoc plan", "[OPTIONS]",
                      "Predicts memory, work and time of documents of given lengths, in-process or "
                      "as a\nserver would run them.",
                      "  longdoc plan --model models/small --tokens 1000,100000\n"
                      "  longdoc plan --server localhost:50051 --attention window=512,16 --json");
  parser.AddInts("tokens", "N,N,...", "document lengths", 1, int64_t{1} << 40, &args.tokens);
  parser.AddInt("passages", "N", "passage vectors wanted", 0, INT32_MAX, &args.passages);
  parser.AddFlag("token-vectors", "token vectors wanted", &args.token_vectors);
  parser.AddString("attention", "POLICY", kAttentionHelp, &args.attention);
  parser.AddFlag("json", "one JSON object a line instead of a table", &args.json);
  AddEmbedderOptions(parser, &args.embedder);
  int exit_code = kExitOk;
  if (!ParseOrExit(parser, words, &exit_code)) return exit_code;
  if (!parser.positional().empty()) return UsageError(parser.command(), "takes options only");
  const std::string problem = CheckEmbedderArgs(parser, args.embedder);
  if (!problem.empty()) return UsageError(parser.command(), problem);
  const absl::StatusOr<AttentionPolicy> attention = ParseAttention(args.attention);
  if (!attention.ok()) {
    return UsageError(parser.command(), std::string(attention.status().message()));
  }
  const absl::Status status = Plan(args, *attention);
  return status.ok() ? kExitOk : Failure(parser.command(), status);
}

}  // namespace longdoc::tools

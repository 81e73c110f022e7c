// longdoc-bench score: encodes a document once, keeps its keys and values, and scores candidates.
#include <future>
#include <iostream>
#include <memory>
#include <utility>

#include "absl/strings/str_format.h"
#include "engine/base/status_macros.h"
#include "engine/decode_task.h"
#include "engine/engine.h"
#include "service/tools/bench/bench.h"
#include "service/tools/command.h"
#include "service/tools/embedder_options.h"
#include "service/tools/model_info.h"

namespace longdoc::tools {
namespace {

struct ScoreArgs {
  std::vector<int64_t> tokens = {8192, 32768, 100000};
  int64_t candidates = 100, candidate_tokens = 32, threads = 0, repeat = 3;
  std::string model, text, dtype = "auto", device = "auto", json;
};

struct Kept {
  std::shared_ptr<const CrossKv> cross_kv;
  double encode_seconds = 0;
};

absl::StatusOr<Kept> Encode(Engine& engine, const std::shared_ptr<const Model>& model,
                            const std::vector<int32_t>& ids) {
  EncodeTask task;
  task.model = model;
  task.ids = ids;
  task.want_cross_kv = true;
  ASSIGN_OR_RETURN(EncodeResult result, EncodeAndWait(engine, std::move(task)));
  return Kept{std::move(result.cross_kv), result.stats.compute_seconds};
}

// All candidates in one task.
absl::Status Score(Engine& engine, const std::shared_ptr<const Model>& model,
                   const std::shared_ptr<const CrossKv>& document,
                   const std::vector<std::vector<int32_t>>& candidates) {
  std::promise<absl::Status> done;
  std::future<absl::Status> finished = done.get_future();
  absl::Status failure;
  ScoreTask task;
  task.model = model;
  task.document = document;
  task.candidates = candidates;
  task.cancellation = std::make_shared<CancellationToken>();
  task.on_scored = [&failure](size_t, absl::StatusOr<CandidateScore> score) {
    failure.Update(score.status());
  };
  task.on_done = [&done](absl::StatusOr<DecodeStats> stats) { done.set_value(stats.status()); };
  RETURN_IF_ERROR(engine.Submit(std::move(task)));
  absl::Status status = finished.get();
  status.Update(failure);
  return status;
}

absl::StatusOr<Json> MeasureLength(const ScoreArgs& args, Engine& engine,
                                   const std::shared_ptr<const Model>& model, int64_t tokens) {
  ASSIGN_OR_RETURN(const std::vector<int32_t> ids, TextIds(model->tokenizer(), args.text, tokens));
  std::vector<std::vector<int32_t>> candidates;
  ASSIGN_OR_RETURN(
      const std::vector<int32_t> words,
      TextIds(model->tokenizer(), args.text, args.candidates * args.candidate_tokens + 2));
  for (int64_t i = 0; i < args.candidates; ++i) {
    const auto first = words.begin() + 1 + i * args.candidate_tokens;  // without [CLS]
    candidates.emplace_back(first, first + args.candidate_tokens);
  }
  ASSIGN_OR_RETURN(const Kept kept, Encode(engine, model, ids));
  absl::Status status;
  const std::vector<double> all = TimeRepeated(
      args.repeat, [&] { status.Update(Score(engine, model, kept.cross_kv, candidates)); });
  const std::vector<double> single = TimeRepeated(
      args.repeat, [&] { status.Update(Score(engine, model, kept.cross_kv, {candidates[0]})); });
  RETURN_IF_ERROR(status);
  const double per_candidate = Median(all) / static_cast<double>(args.candidates);
  return Json{{"tokens", tokens},
              {"encode_seconds", kept.encode_seconds},
              {"kept_bytes", kept.cross_kv->bytes()},
              {"candidates", args.candidates},
              {"candidate_tokens", args.candidate_tokens},
              {"seconds", Median(all)},
              {"seconds_per_candidate", per_candidate},
              {"single_candidate_seconds", Median(single)},
              {"encode_over_candidate", kept.encode_seconds / per_candidate}};
}

absl::Status Bench(const ScoreArgs& args) {
  EngineOptions options;
  options.device = args.device;
  options.compute_type = ParseComputeType(args.dtype);
  options.num_threads = static_cast<int>(args.threads);
  ASSIGN_OR_RETURN(const std::unique_ptr<Engine> engine, Engine::Create(options));
  ASSIGN_OR_RETURN(const std::shared_ptr<const Model> model,
                   engine->LoadModel("bench", args.model));
  const MachineReport machine = DescribeMachine(static_cast<int>(args.threads));
  std::cout << FormatMachine(machine) << args.model << ", " << engine->DeviceDescription() << "\n"
            << absl::StrFormat("%d candidates of %d tokens\n", args.candidates,
                               args.candidate_tokens)
            << absl::StrFormat("%9s %10s %10s %10s %14s %12s %14s\n", "tokens", "encode s", "kept",
                               "score s", "ms/candidate", "single ms", "encode/cand.");
  Json results = Json::array();
  for (const int64_t tokens : args.tokens) {
    ASSIGN_OR_RETURN(const Json r, MeasureLength(args, *engine, model, tokens));
    std::cout << absl::StrFormat(
        "%9d %10.3f %10s %10.3f %14.2f %12.2f %14.0f\n", tokens, r["encode_seconds"].get<double>(),
        HumanBytes(r["kept_bytes"].get<double>()), r["seconds"].get<double>(),
        1e3 * r["seconds_per_candidate"].get<double>(),
        1e3 * r["single_candidate_seconds"].get<double>(),
        r["encode_over_candidate"].get<double>());
    std::cout << std::flush;
    results.push_back(r);
  }
  return WriteJson(args.json, {{"bench", "score"},
                               {"model", args.model},
                               {"machine", MachineToJson(machine)},
                               {"device", engine->DeviceDescription()},
                               {"results", results}});
}

}  // namespace

int RunScoreBench(const std::vector<std::string>& words) {
  ScoreArgs args;
  OptionParser parser("longdoc-bench score", "[OPTIONS] --model DIR",
                      "The likelihood of candidates given a document that was encoded once.",
                      "  longdoc-bench score --model models/colt5 --tokens 100000");
  parser.AddString("model", "DIR", "directory of a model with a decoder", &args.model);
  parser.AddInts("tokens", "N,N,...", "document lengths", 3, int64_t{1} << 24, &args.tokens);
  parser.AddInt("candidates", "N", "how many", 1, 100000, &args.candidates);
  parser.AddInt("candidate-tokens", "N", "their length", 1, 65536, &args.candidate_tokens);
  parser.AddString("text", "FILE", "text to take tokens from (gzip works)", &args.text);
  parser.AddChoice("dtype", {"auto", "f32", "bf16"}, "compute type", &args.dtype);
  parser.AddString("device", "NAME", "auto, cpu, cuda, cuda:N or reference", &args.device);
  parser.AddInt("threads", "N", "workers; 0: one per core", 0, 1024, &args.threads);
  parser.AddInt("repeat", "N", "timings; the median counts", 1, 10000, &args.repeat);
  parser.AddString("json", "FILE", "write the results there, too", &args.json);
  int exit_code = kExitOk;
  if (!ParseOrExit(parser, words, &exit_code)) return exit_code;
  if (args.model.empty()) return UsageError(parser.command(), "needs --model DIR");
  const absl::Status status = Bench(args);
  return status.ok() ? kExitOk : Failure(parser.command(), status);
}

}  // namespace longdoc::tools

// longdoc-bench encode: whole documents through the engine, every length in a process of its own.
#include <fcntl.h>
#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <condition_variable>
#include <fstream>
#include <iostream>
#include <memory>
#include <mutex>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "engine/base/cancellation.h"
#include "engine/base/status_macros.h"
#include "kernels/attention.h"
#include "service/tools/attention_option.h"
#include "service/tools/bench/bench.h"
#include "service/tools/command.h"
#include "service/tools/embedder_options.h"
#include "service/tools/model_info.h"

extern char** environ;

namespace longdoc::tools {
namespace {

struct EncodeArgs {
  std::vector<int64_t> tokens = {512, 2048, 8192, 32768, 100000};
  std::string model, text, attention = "tolerance=1e-4", dtype = "auto", device = "auto", json;
  std::string batch;  // "COUNTxTOKENS"
  int64_t threads = 0, repeat = 3;
  bool cold = false;
  int64_t batch_count = 1;  // texts at once, all of the same length
  AttentionPolicy policy;
};

void DeclareOptions(OptionParser& parser, EncodeArgs* args) {
  parser.AddString("model", "DIR", "model directory (longdoc model create)", &args->model);
  parser.AddInts("tokens", "N,N,...", "document lengths", 1, int64_t{1} << 32, &args->tokens);
  parser.AddString("batch", "COUNTxTOKENS", "instead: many short texts at once, such as 64x128",
                   &args->batch);
  parser.AddString("text", "FILE",
                   "text to cut or repeat to length (gzip works); default:\nDebian Reference if "
                   "installed, else built-in prose",
                   &args->text);
  parser.AddString("attention", "POLICY", kAttentionHelp, &args->attention);
  parser.AddChoice("dtype", {"auto", "f32", "bf16"}, "compute type", &args->dtype);
  parser.AddString("device", "NAME", "auto, cpu, cuda, cuda:N or reference", &args->device);
  parser.AddInt("threads", "N", "workers; 0: one per core", 0, 1024, &args->threads);
  parser.AddInt("repeat", "N", "timings of each length, after one to warm up;\nthe median counts",
                1, 10000, &args->repeat);
  parser.AddFlag("cold", "no run to warm up: for lengths that take minutes", &args->cold);
  parser.AddString("json", "FILE", "write the results there, too", &args->json);
}

absl::Status Interpret(EncodeArgs* args) {
  if (args->model.empty()) return absl::InvalidArgumentError("needs --model DIR");
  ASSIGN_OR_RETURN(args->policy, ParseAttention(args->attention));
  if (args->batch.empty()) return absl::OkStatus();
  const size_t x = args->batch.find('x');
  args->tokens.assign(1, 0);
  RETURN_IF_ERROR(
      ParseInt(args->batch.substr(0, x), "COUNT of --batch", 1, 4096, &args->batch_count));
  return ParseInt(x == std::string::npos ? "" : args->batch.substr(x + 1), "TOKENS of --batch", 1,
                  int64_t{1} << 20, &args->tokens[0]);
}

// Highest resident memory of this process since it was executed.
int64_t PeakRssBytes() {
  std::ifstream status("/proc/self/status");
  std::string word;
  int64_t kib = 0;
  while (status >> word) {
    if (word == "VmHWM:" && status >> kib) return kib * 1024;
  }
  return 0;
}

// Encodes the texts all at once and waits for all; the stats of the first, tiles of all.
absl::StatusOr<EncodeStats> EncodeAll(Engine& engine, const std::shared_ptr<const Model>& model,
                                      const std::vector<std::vector<int32_t>>& texts,
                                      const AttentionPolicy& policy) {
  std::mutex mutex;
  std::condition_variable done;
  size_t left = texts.size();
  absl::Status failure;
  EncodeStats total;
  for (const std::vector<int32_t>& ids : texts) {
    EncodeTask task;
    task.model = model;
    task.ids = ids;
    task.attention = policy;
    task.cancellation = std::make_shared<CancellationToken>();
    task.on_done = [&](absl::StatusOr<EncodeResult> result) {
      const std::lock_guard<std::mutex> lock(mutex);
      if (!result.ok()) failure = result.status();
      if (result.ok()) {
        total.tiles_computed += result->stats.tiles_computed;
        total.tiles_dense += result->stats.tiles_dense;
        total.dense_flops += result->stats.dense_flops;
        total.attention_flops += result->stats.attention_flops;
        total.routing += result->stats.routing;
        total.max_logit_bound = std::max(total.max_logit_bound, result->stats.max_logit_bound);
        total.peak_bytes = std::max(total.peak_bytes, result->stats.peak_bytes);
        total.planned_bytes = std::max(total.planned_bytes, result->stats.planned_bytes);
      }
      --left;
      done.notify_one();
    };
    const absl::Status status = engine.Submit(std::move(task));
    const std::lock_guard<std::mutex> lock(mutex);
    if (!status.ok()) {
      failure = status;
      --left;
    }
  }
  std::unique_lock<std::mutex> lock(mutex);
  done.wait(lock, [&] { return left == 0; });
  if (!failure.ok()) return failure;
  return total;
}

// What one process measures of one length.
absl::StatusOr<Json> MeasureLength(const EncodeArgs& args) {
  EngineOptions options;
  options.device = args.device;
  options.compute_type = ParseComputeType(args.dtype);
  options.num_threads = static_cast<int>(args.threads);
  ASSIGN_OR_RETURN(const std::unique_ptr<Engine> engine, Engine::Create(options));
  ASSIGN_OR_RETURN(const std::shared_ptr<const Model> model,
                   engine->LoadModel("bench", args.model));
  const int64_t tokens = args.tokens[0];
  ASSIGN_OR_RETURN(const std::vector<int32_t> ids,
                   TextIds(model->tokenizer(), args.text, tokens * args.batch_count));
  std::vector<std::vector<int32_t>> texts;
  for (int64_t i = 0; i < args.batch_count; ++i) {
    texts.emplace_back(ids.begin() + i * tokens, ids.begin() + (i + 1) * tokens);
  }
  absl::StatusOr<EncodeStats> stats = EncodeStats();
  EngineStats before;  // of the last run
  const std::vector<double> seconds = TimeRepeated(
      args.repeat,
      [&] {
        before = engine->stats();
        if (stats.ok()) stats = EncodeAll(*engine, model, texts, args.policy);
      },
      /*warm_up=*/!args.cold);
  const EngineStats after = engine->stats();
  RETURN_IF_ERROR(stats.status());
  const double median = Median(seconds);
  const double all_tokens = static_cast<double>(tokens * args.batch_count);
  const double flops = stats->dense_flops + stats->attention_flops;
  return Json{{"tokens", tokens},
              {"texts", args.batch_count},
              {"seconds", median},
              {"seconds_min", Percentile(seconds, 0)},
              {"tokens_per_second", all_tokens / median},
              {"tile_fraction", static_cast<double>(stats->tiles_computed) /
                                    static_cast<double>(std::max<int64_t>(stats->tiles_dense, 1))},
              {"tokens_routed", stats->routing.tokens_routed()},
              {"max_logit_bound", stats->max_logit_bound},
              {"attention_worker_seconds", after.attention_seconds - before.attention_seconds},
              {"dense_worker_seconds", after.dense_seconds - before.dense_seconds},
              {"planned_bytes", stats->planned_bytes},
              {"document_peak_bytes", stats->peak_bytes},
              {"peak_rss_bytes", PeakRssBytes()},
              {"flops", flops / median},
              {"compute_type", model->compute_type() == ComputeType::kBF16 ? "bf16" : "f32"},
              {"device", engine->DeviceDescription()}};
}

// Runs this program again for one length and reads the JSON that it prints.
absl::StatusOr<Json> SpawnLength(std::vector<std::string> words, int64_t tokens) {
  words.insert(words.begin(), {"longdoc-bench", "encode-child"});
  if (tokens > 0) words.insert(words.end(), {"--tokens", absl::StrCat(tokens)});
  std::vector<char*> argv;
  argv.reserve(words.size() + 1);
  for (std::string& word : words) argv.push_back(word.data());
  argv.push_back(nullptr);
  std::array<int, 2> pipe_fds;
  if (pipe2(pipe_fds.data(), O_CLOEXEC) != 0)
    return absl::ErrnoToStatus(errno, "cannot make a pipe");
  posix_spawn_file_actions_t actions;
  posix_spawn_file_actions_init(&actions);
  posix_spawn_file_actions_adddup2(&actions, pipe_fds[1], STDOUT_FILENO);
  pid_t child = 0;
  const int error = posix_spawn(&child, "/proc/self/exe", &actions, nullptr, argv.data(), environ);
  posix_spawn_file_actions_destroy(&actions);
  close(pipe_fds[1]);
  std::string output;
  std::array<char, 4096> buffer;
  ssize_t count = 0;
  while (error == 0 && (count = read(pipe_fds[0], buffer.data(), buffer.size())) > 0) {
    output.append(buffer.data(), static_cast<size_t>(count));
  }
  close(pipe_fds[0]);
  if (error != 0) return absl::ErrnoToStatus(error, "cannot start a process");
  int exit_status = 0;
  waitpid(child, &exit_status, 0);
  if (!WIFEXITED(exit_status) || WEXITSTATUS(exit_status) != 0) {
    return absl::InternalError(absl::StrCat("the process for ", tokens, " tokens failed"));
  }
  return Json::parse(output, nullptr, /*allow_exceptions=*/false);
}

std::string Row(const Json& r) {
  return absl::StrFormat(
      "%6d %9d %10.3f %11.0f %7.1f%% %10s %10s %9.1f %7.1f%%\n", r["texts"].get<int64_t>(),
      r["tokens"].get<int64_t>(), r["seconds"].get<double>(), r["tokens_per_second"].get<double>(),
      100 * r["tile_fraction"].get<double>(), HumanBytes(r["document_peak_bytes"].get<double>()),
      HumanBytes(r["peak_rss_bytes"].get<double>()), r["flops"].get<double>() / 1e9,
      100 * r["share_of_peak"].get<double>());
}

absl::Status Bench(const EncodeArgs& args, const std::vector<std::string>& words) {
  const MachineReport machine = DescribeMachine(static_cast<int>(args.threads));
  std::cout << FormatMachine(machine) << args.model << ", " << FormatAttention(args.policy) << "\n"
            << absl::StrFormat("%6s %9s %10s %11s %8s %10s %10s %9s %8s\n", "texts", "tokens",
                               "seconds", "tokens/s", "tiles", "document", "process", "GFLOP/s",
                               "of peak");
  Json results = Json::array();
  for (int64_t tokens : args.tokens) {
    ASSIGN_OR_RETURN(Json result, SpawnLength(words, args.batch.empty() ? tokens : 0));
    if (result.is_discarded()) return absl::InternalError("the process printed no result");
    const bool bf16 = result["compute_type"] == "bf16";
    const double peak = PeakOf(machine.peak, bf16 && machine.peak.bf16 > 0);
    result["share_of_peak"] = result["flops"].get<double>() / peak;
    std::cout << Row(result) << std::flush;
    results.push_back(std::move(result));
  }
  return WriteJson(args.json, {{"bench", "encode"},
                               {"model", args.model},
                               {"attention", FormatAttention(args.policy)},
                               {"machine", MachineToJson(machine)},
                               {"results", results}});
}

}  // namespace

int RunEncodeBench(const std::vector<std::string>& words) {
  EncodeArgs args;
  OptionParser parser(
      "longdoc-bench encode", "[OPTIONS] --model DIR",
      "Encodes real text of given lengths in-process. Every length runs in a fresh process, so\n"
      "that its peak memory is its own.",
      "  longdoc-bench encode --model models/small --tokens 2048,100000 --json out.json\n"
      "  longdoc-bench encode --model models/small --batch 64x128");
  DeclareOptions(parser, &args);
  int exit_code = kExitOk;
  if (!ParseOrExit(parser, words, &exit_code)) return exit_code;
  absl::Status status = Interpret(&args);
  if (!status.ok()) return UsageError(parser.command(), std::string(status.message()));
  status = Bench(args, words);
  return status.ok() ? kExitOk : Failure(parser.command(), status);
}

int RunEncodeChild(const std::vector<std::string>& words) {
  EncodeArgs args;
  OptionParser parser("longdoc-bench encode", "", "", "");
  DeclareOptions(parser, &args);
  int exit_code = kExitOk;
  if (!ParseOrExit(parser, words, &exit_code)) return exit_code;
  const absl::Status status = Interpret(&args);
  if (!status.ok()) return UsageError(parser.command(), std::string(status.message()));
  const absl::StatusOr<Json> result = MeasureLength(args);
  if (!result.ok()) return Failure(parser.command(), result.status());
  std::cout << result->dump() << '\n';
  return kExitOk;
}

}  // namespace longdoc::tools

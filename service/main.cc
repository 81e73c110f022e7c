// longdoc-server: flags, signals and exit codes around service/server.h.
#include <pthread.h>
#include <signal.h>
#include <unistd.h>

#include <atomic>
#include <chrono>
#include <cstdio>
#include <exception>
#include <future>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "absl/flags/flag.h"
#include "absl/flags/parse.h"
#include "absl/flags/usage.h"
#include "absl/flags/usage_config.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "engine/base/status_macros.h"
#include "engine/engine.h"
#include "service/config.h"
#include "service/log.h"
#include "service/server.h"
#include "service/version.h"

namespace longdoc::service {
namespace {

// What every --model of the command line said.
std::vector<std::string>& ModelFlags() {
  static std::vector<std::string> models;
  return models;
}

}  // namespace
}  // namespace longdoc::service

ABSL_FLAG(std::string, config, "",
          "file with the configuration, text-format longdoc.config.v1.ServerConfig; or a directory "
          "of such files, *.textproto, of which later names win");
ABSL_FLAG(std::vector<std::string>, model, {},
          "models to serve, NAME=DIRECTORY[,NAME=DIRECTORY...]; may be repeated; instead of the "
          "file's")
    .OnUpdate([] {
      for (const std::string& model : absl::GetFlag(FLAGS_model)) {
        longdoc::service::ModelFlags().push_back(model);
      }
    });
ABSL_FLAG(std::string, listen, "", "HOST:PORT for gRPC (default 127.0.0.1:50051)");
ABSL_FLAG(std::string, metrics_listen, "",
          "HOST:PORT for /metrics, /healthz and /readyz (default 127.0.0.1:9464), or \"off\"");
ABSL_FLAG(std::string, device, "", "auto, cpu, cuda, cuda:N or reference");
ABSL_FLAG(std::string, dtype, "", "auto, f32 or bf16");
ABSL_FLAG(int, threads, 0, "worker threads; 0: one per core");
ABSL_FLAG(bool, allow_insecure, false,
          "plain text also on an address that is not loopback, as behind a service mesh");
ABSL_FLAG(std::string, log_level, "", "debug, info, warning or error");
ABSL_FLAG(bool, check_config, false,
          "check flags, configuration and the files that it names, then exit: 0 or 2");
ABSL_FLAG(bool, print_config, false, "print the effective configuration and exit");

namespace longdoc::service {
namespace {

absl::StatusOr<ServerOptions> ReadConfig() {
  const std::string path = absl::GetFlag(FLAGS_config);
  if (path.empty()) return ParseServerConfig("");
  ASSIGN_OR_RETURN(const std::vector<ConfigText> texts, ReadConfigFiles(path));
  return ParseServerConfig(texts);
}

// Flags win over the file.
absl::StatusOr<ServerOptions> EffectiveOptions() {
  ASSIGN_OR_RETURN(ServerOptions options, ReadConfig());
  if (!ModelFlags().empty()) options.models.clear();
  for (const std::string& flag : ModelFlags()) {
    ASSIGN_OR_RETURN(ModelSource source, ParseModelFlag(flag));
    options.models.push_back(std::move(source));
  }
  const auto overwrite = [](const std::string& flag, std::string* target) {
    if (!flag.empty()) *target = flag;
  };
  overwrite(absl::GetFlag(FLAGS_listen), &options.listen_address);
  overwrite(absl::GetFlag(FLAGS_metrics_listen), &options.metrics_address);
  overwrite(absl::GetFlag(FLAGS_log_level), &options.log_level);
  if (absl::GetFlag(FLAGS_allow_insecure)) options.security.allow_insecure = true;
  if (const std::string device = absl::GetFlag(FLAGS_device); !device.empty()) {
    RETURN_IF_ERROR(ApplyDevice(device, &options.engine));
  }
  if (const std::string dtype = absl::GetFlag(FLAGS_dtype); !dtype.empty()) {
    RETURN_IF_ERROR(ApplyComputeType(dtype, &options.engine));
  }
  const int threads = absl::GetFlag(FLAGS_threads);
  if (threads < 0 || threads > 1024) {
    return absl::InvalidArgumentError(
        absl::StrFormat("--threads must be from 0 to 1024; it is %d", threads));
  }
  if (threads > 0) options.engine.num_threads = threads;
  LogLevel level;
  if (!ParseLogLevel(options.log_level, &level)) {
    return absl::InvalidArgumentError(absl::StrFormat(
        "--log_level must be debug, info, warning or error; it is \"%s\"", options.log_level));
  }
  SetLogLevel(level);
  return options;
}

int Fail(const absl::Status& status, ExitCode code) {
  Log(LogLevel::kError, "cannot start",
      {{"message", std::string(status.message())},
       {"code", absl::StatusCodeToString(status.code())},
       {"exit_code", static_cast<int>(code)}});
  return code;
}

// SIGINT and SIGTERM are blocked in every thread and taken with sigwait, because nothing that a
// drain does may run in a signal handler.
sigset_t BlockSignals() {
  sigset_t signals;
  sigemptyset(&signals);
  sigaddset(&signals, SIGINT);
  sigaddset(&signals, SIGTERM);
  pthread_sigmask(SIG_BLOCK, &signals, nullptr);
  signal(SIGPIPE, SIG_IGN);
  return signals;
}

// Why the process ends: a signal, or the loss of its device.
struct SignalState {
  std::atomic<bool> serving{false};
  std::atomic<bool> device_lost{false};
  std::promise<void> end;  // starts the drain

  void End() {
    if (!ending_.exchange(true)) end.set_value();
  }

 private:
  std::atomic<bool> ending_{false};
};

// Nothing can finish on a lost device. Whoever waits is told, as far as that takes no time; then
// only a new process helps.
void OnDeviceLost(SignalState& state, const absl::Status& status) {
  constexpr std::chrono::seconds kLastWords(10);
  Log(LogLevel::kError, "device lost",
      {{"message", std::string(status.message())},
       {"exit_code", static_cast<int>(kExitDeviceLost)}});
  if (!state.serving) _exit(kExitDeviceLost);
  state.device_lost = true;
  std::thread([kLastWords] {
    std::this_thread::sleep_for(kLastWords);
    _exit(kExitDeviceLost);
  }).detach();
  state.End();
}

// Takes the signals. The first one while models load ends the process, for there is nothing to
// drain; while serving it starts the drain. A second one ends the process at once, and so does a
// drain that takes longer than it may.
void StartSignalThread(const sigset_t& signals, const std::shared_ptr<SignalState>& state,
                       absl::Duration longest_drain) {
  std::thread([signals, state, longest_drain] {
    int number = 0;
    while (sigwait(&signals, &number) != 0) {
    }
    Log(LogLevel::kInfo, "signal", {{"signal", number}});
    if (!state->serving) _exit(kExitOk);
    state->End();
    timespec timeout = absl::ToTimespec(longest_drain);
    number = sigtimedwait(&signals, nullptr, &timeout);
    Log(LogLevel::kError, number > 0 ? "second signal, leaving at once" : "drain hangs, leaving",
        {{"signal", number > 0 ? number : 0}});
    _exit(kExitOther);
  }).detach();
}

int Run() {
  const sigset_t signals = BlockSignals();
  auto options = EffectiveOptions();
  if (!options.ok()) return Fail(options.status(), kExitBadConfig);
  if (absl::GetFlag(FLAGS_print_config)) {
    std::fputs(FormatServerConfig(*options).c_str(), stdout);
    return kExitOk;
  }
  if (absl::GetFlag(FLAGS_check_config)) {
    const absl::Status status = CheckFiles(*options);
    if (!status.ok()) return Fail(status, kExitBadConfig);
    std::puts("configuration is valid");
    return kExitOk;
  }
  Log(LogLevel::kInfo, "starting",
      {{"version", kVersion}, {"pid", getpid()}, {"config", FormatServerConfig(*options)}});
  const LifecycleConfig& lifecycle = options->lifecycle;
  const auto state = std::make_shared<SignalState>();
  StartSignalThread(signals, state,
                    lifecycle.drain_delay + lifecycle.drain_grace + absl::Seconds(30));
  options->engine.on_device_lost = [state](const absl::Status& status) {
    OnDeviceLost(*state, status);
  };
  auto server = Server::Start(*options, &Engine::Create);
  if (!server.ok()) return Fail(server.status(), ExitCodeOf(server.status()));
  state->serving = true;  // before the log says so: who reads it may send the signal at once
  Log(LogLevel::kInfo, "serving",
      {{"port", (*server)->port()},
       {"metrics_port", (*server)->metrics_port()},
       {"tls", !options->security.tls_certificate_file.empty()},
       {"mutual_tls", !options->security.tls_client_ca_file.empty()},
       {"bearer_token", !options->security.bearer_token_file.empty()},
       {"reflection", options->reflection}});
  state->end.get_future().wait();
  (*server)->Drain();
  if (state->device_lost) _exit(kExitDeviceLost);  // its memory cannot be given back
  server->reset();
  Log(LogLevel::kInfo, "stopped");
  return kExitOk;
}

}  // namespace
}  // namespace longdoc::service

int main(int argc, char** argv) {
  absl::SetProgramUsageMessage(
      "gRPC server that embeds very long documents.\n"
      "  longdoc-server --model=NAME=DIRECTORY [--listen=HOST:PORT]\n"
      "  longdoc-server --config=FILE|DIRECTORY [--check_config]\n"
      "Exit codes: 0 drained after SIGTERM or SIGINT; 2 bad configuration or model; 3 device not "
      "usable; 4 device lost; 1 anything else");
  absl::FlagsUsageConfig usage;
  usage.version_string = [] {
    return absl::StrCat("longdoc-server ", longdoc::service::kVersion, "\n");
  };
  // --help shows the flags of this file, under its name within the repository.
  usage.contains_help_flags = [](absl::string_view file) {
    return absl::EndsWith(file, "service/main.cc");
  };
  usage.normalize_filename = [](absl::string_view file) {
    return std::string(file.substr(file.rfind("service/main.cc") == absl::string_view::npos
                                       ? 0
                                       : file.rfind("service/main.cc")));
  };
  absl::SetFlagsUsageConfig(usage);
  const std::vector<char*> rest = absl::ParseCommandLine(argc, argv);
  if (rest.size() > 1) {
    std::fprintf(stderr, "longdoc-server: unexpected argument \"%s\"; see --help\n", rest[1]);
    return longdoc::service::kExitBadConfig;
  }
  try {
    return longdoc::service::Run();
  } catch (const std::exception& error) {  // of libraries: out of memory, above all
    longdoc::service::Log(longdoc::service::LogLevel::kError, "failed", {{"error", error.what()}});
    return longdoc::service::kExitOther;
  }
}

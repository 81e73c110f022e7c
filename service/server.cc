#include "service/server.h"

#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <climits>
#include <future>
#include <random>
#include <thread>
#include <utility>
#include <vector>

#include "absl/strings/cord.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "engine/base/machine_memory.h"
#include "engine/base/status_macros.h"
#include "engine/base/thread_pool.h"
#include "engine/document_store.h"
#include "grpcpp/ext/proto_server_reflection_plugin.h"
#include "grpcpp/health_check_service_interface.h"
#include "grpcpp/impl/server_builder_option.h"
#include "grpcpp/impl/service_type.h"
#include "grpcpp/server.h"
#include "grpcpp/server_builder.h"
#include "service/credentials.h"
#include "service/grpc_log.h"
#include "service/http_endpoint.h"
#include "service/log.h"
#include "service/services.h"
#include "service/timer_queue.h"

namespace longdoc::service {
namespace {

using Clock = std::chrono::steady_clock;

constexpr char kExitCodeUrl[] = "longdoc/exit_code";
constexpr char kLiveness[] = "liveness";
// "" is the name of clients that ask for the server as a whole.
constexpr const char* kReadinessNames[] = {"",
                                           "readiness",
                                           "longdoc.v1.EmbeddingService",
                                           "longdoc.v1.DocumentService",
                                           "longdoc.v1.ModelService",
                                           "longdoc.v1.ScoringService"};
// From refusing connections to cancelling what is left. After a drain that is calls which gRPC had
// taken in but not yet shown to us (they get UNAVAILABLE), and health watchers, who never leave.
constexpr auto kLastCallsTime = std::chrono::seconds(2);
// Calls that cross the shutdown on the wire get CANCELLED from gRPC 1.51. So the server goes on to
// refuse with UNAVAILABLE until it has been quiet for a while, or clients do not let it be.
constexpr auto kQuietTime = std::chrono::milliseconds(200);
constexpr auto kLongestQuietWait = std::chrono::seconds(2);
// When the grace period is over, or nobody asked for a drain.
constexpr auto kNoTime = std::chrono::milliseconds(50);
constexpr auto kPollInterval = std::chrono::milliseconds(5);
// How late an expired document's memory is freed, at most.
constexpr auto kSweepInterval = std::chrono::seconds(1);

double SecondsSince(Clock::time_point start) {
  return std::chrono::duration<double>(Clock::now() - start).count();
}

int Milliseconds(absl::Duration duration) {
  return static_cast<int>(std::min<int64_t>(absl::ToInt64Milliseconds(duration), INT_MAX));
}

// Reflection for one server. Linking the library adds its plug-in to every server of the process,
// so "off" means to take it out again.
class ReflectionOption final : public grpc::ServerBuilderOption {
 public:
  explicit ReflectionOption(bool enabled) : enabled_(enabled) {}
  void UpdateArguments(grpc::ChannelArguments*) override {}
  void UpdatePlugins(std::vector<std::unique_ptr<grpc::ServerBuilderPlugin>>* plugins) override {
    const std::string name = grpc::reflection::ProtoServerReflectionPlugin().name();
    plugins->erase(std::remove_if(plugins->begin(), plugins->end(),
                                  [&](const auto& plugin) { return plugin->name() == name; }),
                   plugins->end());
    if (enabled_) {
      plugins->push_back(std::make_unique<grpc::reflection::ProtoServerReflectionPlugin>());
    }
  }

 private:
  const bool enabled_;
};

// One encode of some tokens, so that the first request does not pay for first touches, and so that
// a model that cannot encode is found before any client is let in.
absl::Status WarmUp(Engine& engine, const std::shared_ptr<const Model>& model) {
  constexpr int kTokens = 64;
  EncodeTask task;
  task.model = model;
  const int64_t vocab_size = model->info().vocab_size;
  for (int64_t i = 0; i < kTokens; ++i) {
    task.ids.push_back(static_cast<int32_t>(i * 37 % vocab_size));
  }
  task.cancellation = std::make_shared<CancellationToken>();
  std::promise<absl::Status> done;
  task.on_done = [&done](absl::StatusOr<EncodeResult> result) { done.set_value(result.status()); };
  RETURN_IF_ERROR(engine.Submit(std::move(task)));
  return done.get_future().get();
}

DocumentStoreOptions StoreOptions(const DocumentsConfig& config) {
  DocumentStoreOptions options;
  options.budget_bytes = config.budget_bytes;
  if (options.budget_bytes == 0) options.budget_bytes = MachineMemoryBytes() / 10;
  options.max_documents = config.max_documents;
  options.default_ttl = config.default_ttl;
  options.max_ttl = config.max_ttl;
  // New at every start, so that a name from before it is known for what it is.
  std::random_device random;
  options.instance = absl::StrFormat("%08x%08x", random(), random());
  return options;
}

void SetKeepalive(const LifecycleConfig& lifecycle, grpc::ServerBuilder* builder) {
  // Long computations leave streams silent: ping, so that a vanished client is noticed, and let
  // clients ping, too.
  builder->AddChannelArgument(GRPC_ARG_KEEPALIVE_TIME_MS, Milliseconds(lifecycle.keepalive));
  builder->AddChannelArgument(GRPC_ARG_KEEPALIVE_TIMEOUT_MS,
                              Milliseconds(lifecycle.keepalive_timeout));
  builder->AddChannelArgument(GRPC_ARG_KEEPALIVE_PERMIT_WITHOUT_CALLS,
                              lifecycle.pings_without_calls ? 1 : 0);
  builder->AddChannelArgument(GRPC_ARG_HTTP2_MAX_PINGS_WITHOUT_DATA, 0);
  builder->AddChannelArgument(GRPC_ARG_HTTP2_MIN_RECV_PING_INTERVAL_WITHOUT_DATA_MS,
                              Milliseconds(lifecycle.client_ping_interval));
  if (lifecycle.max_connection_age != absl::InfiniteDuration()) {
    builder->AddChannelArgument(GRPC_ARG_MAX_CONNECTION_AGE_MS,
                                Milliseconds(lifecycle.max_connection_age));
    builder->AddChannelArgument(GRPC_ARG_MAX_CONNECTION_AGE_GRACE_MS,
                                Milliseconds(lifecycle.max_connection_age_grace));
  }
  if (lifecycle.max_connection_idle != absl::InfiniteDuration()) {
    builder->AddChannelArgument(GRPC_ARG_MAX_CONNECTION_IDLE_MS,
                                Milliseconds(lifecycle.max_connection_idle));
  }
}

}  // namespace

// Members in the order of construction; destroyed in reverse: the gRPC server before its services,
// those before the engine, and the HTTP port last of all that runs, so that a last scrape sees the
// drain.
struct Server::Impl {
  explicit Impl(const ServerOptions& options) : options(options) {}
  ~Impl();

  absl::Status StartHttp();
  absl::Status StartEngine(const EngineFactory& make_engine);
  absl::Status LoadModel(const ModelSource& source);
  absl::Status StartGrpc();
  void SetReady(bool ready);
  void SweepDocuments();
  int64_t RunningRpcs() const {  // streams are RPCs too, but leave the two counts one by one
    return std::max<int64_t>(context->inflight_rpcs, context->open_streams);
  }
  void WaitForQuiet() const;
  void StopGrpc(std::chrono::milliseconds cancel_after);

  const ServerOptions options;
  Metrics metrics;
  std::atomic<const char*> not_ready{"loading"};  // nullptr once ready
  std::unique_ptr<HttpEndpoint> http;
  std::unique_ptr<Engine> engine;
  std::unique_ptr<DocumentStore> documents;
  std::unique_ptr<TimerQueue> timers;
  std::unique_ptr<ThreadPool> tokenizers;
  std::unique_ptr<ServiceContext> context;
  std::unique_ptr<grpc::Service> embedding_service;
  std::unique_ptr<grpc::Service> document_service;
  std::unique_ptr<grpc::Service> scoring_service;
  std::unique_ptr<grpc::Service> model_service;
  std::unique_ptr<grpc::Server> grpc;
  int port = 0;
  bool stopped = false;
};

absl::Status Server::Impl::StartHttp() {
  if (options.metrics_address == "off") return absl::OkStatus();
  HttpEndpoint::Callbacks callbacks;
  callbacks.metrics = [this] { return metrics.Exposition(); };
  callbacks.not_ready = [this] {
    const char* reason = not_ready.load();
    return std::string(reason == nullptr ? "" : reason);
  };
  ASSIGN_OR_RETURN(http, HttpEndpoint::Start(options.metrics_address, std::move(callbacks)));
  Log(LogLevel::kInfo, "metrics port open", {{"port", http->port()}});
  return absl::OkStatus();
}

absl::Status Server::Impl::StartEngine(const EngineFactory& make_engine) {
  EngineOptions engine_options = options.engine;
  engine_options.make_room = [this] { return documents != nullptr && documents->EvictOne(); };
  auto made = make_engine(engine_options);
  if (!made.ok()) {
    const bool config = absl::IsInvalidArgument(made.status());
    return WithExitCode(made.status(), config ? kExitBadConfig : kExitNoDevice);
  }
  engine = std::move(made).value();
  metrics.AttachEngine(engine.get());
  Log(LogLevel::kInfo, "engine ready",
      {{"device", engine->DeviceDescription()},
       {"memory_budget_bytes", engine->memory_budget_bytes()}});
  if (const std::string note = engine->DeviceNote(); !note.empty()) {
    Log(LogLevel::kInfo, "no CUDA device", {{"message", note}});
  }
  // Two at least: the chunks of a long document must not hold up a short text.
  const int threads = std::max(2, static_cast<int>(std::thread::hardware_concurrency()) / 4);
  tokenizers = std::make_unique<ThreadPool>("ld-token", threads);
  documents = std::make_unique<DocumentStore>(StoreOptions(options.documents));
  metrics.AttachDocuments(documents.get());
  Log(LogLevel::kInfo, "document store ready", {{"budget_bytes", documents->stats().budget_bytes}});
  timers = std::make_unique<TimerQueue>();
  SweepDocuments();
  context = std::make_unique<ServiceContext>(*engine, *documents, options.limits, metrics,
                                             *tokenizers, *timers);
  context->access_log = options.access_log;
  return absl::OkStatus();
}

absl::Status Server::Impl::LoadModel(const ModelSource& source) {
  const Clock::time_point start = Clock::now();
  auto model = engine->LoadModel(source.name, source.directory);
  absl::Status status = model.status();
  if (status.ok()) status = WarmUp(*engine, *model);
  if (!status.ok()) {
    return WithExitCode(
        absl::Status(status.code(), absl::StrCat("model ", source.name, " in ", source.directory,
                                                 ": ", status.message())),
        kExitBadConfig);
  }
  const double seconds = SecondsSince(start);
  metrics.ModelLoaded(**model, seconds);
  Log(LogLevel::kInfo, "model loaded",
      {{"model", source.name},
       {"directory", source.directory},
       {"revision", (*model)->revision()},
       {"weight_bytes", (*model)->weight_bytes()},
       {"seconds", seconds}});
  context->AddModel(std::move(model).value());
  return absl::OkStatus();
}

absl::Status Server::Impl::StartGrpc() {
  auto credentials = MakeServerCredentials(options.security);
  if (!credentials.ok()) return WithExitCode(credentials.status(), kExitBadConfig);
  auto authorize = MakeAuthorizer(options.security);
  if (!authorize.ok()) return WithExitCode(authorize.status(), kExitBadConfig);
  embedding_service = MakeEmbeddingService(*context, *authorize);
  document_service = MakeDocumentService(*context, *authorize);
  scoring_service = MakeScoringService(*context, *authorize);
  model_service = MakeModelService(*context, *authorize);

  grpc::EnableDefaultHealthCheckService(true);
  grpc::ServerBuilder builder;
  builder.SetMaxReceiveMessageSize(static_cast<int>(options.limits.max_message_bytes));
  builder.AddChannelArgument(GRPC_ARG_MAX_CONCURRENT_STREAMS,
                             static_cast<int>(options.limits.max_streams_per_connection));
  // A second server on the same port must fail, not take half of the connections.
  builder.AddChannelArgument(GRPC_ARG_ALLOW_REUSEPORT, 0);
  SetKeepalive(options.lifecycle, &builder);
  builder.SetOption(std::make_unique<ReflectionOption>(options.reflection));
  builder.RegisterService(embedding_service.get());
  builder.RegisterService(document_service.get());
  builder.RegisterService(scoring_service.get());
  builder.RegisterService(model_service.get());
  builder.AddListeningPort(options.listen_address, *credentials, &port);
  grpc = builder.BuildAndStart();
  if (grpc == nullptr || port == 0) {
    return absl::UnavailableError(absl::StrFormat(
        "cannot listen on listen_address %s: the port is in use, the address is not "
        "ours, or certificate and key do not fit",
        options.listen_address));
  }
  return absl::OkStatus();
}

void Server::Impl::SetReady(bool ready) {
  not_ready = ready ? nullptr : "draining";
  grpc::HealthCheckServiceInterface* health = grpc->GetHealthCheckService();
  health->SetServingStatus(kLiveness, true);
  for (const char* name : kReadinessNames) health->SetServingStatus(name, ready);
}

// On the timers' thread, again and again.
void Server::Impl::SweepDocuments() {
  documents->Sweep();
  timers->Schedule(timers->Now() + kSweepInterval, [this] { SweepDocuments(); });
}

void Server::Impl::WaitForQuiet() const {
  const Clock::time_point end = Clock::now() + kLongestQuietWait;
  Clock::time_point quiet_since = Clock::now();
  while (Clock::now() < end && Clock::now() - quiet_since < kQuietTime) {
    std::this_thread::sleep_for(kPollInterval);
    if (RunningRpcs() > 0) quiet_since = Clock::now();
  }
}

// Ends the gRPC server; what still runs after `cancel_after` is cancelled. The engine must still
// run: cancelled handlers wait for its answer.
void Server::Impl::StopGrpc(std::chrono::milliseconds cancel_after) {
  if (grpc == nullptr || stopped) return;
  stopped = true;
  grpc->Shutdown(std::chrono::system_clock::now() + cancel_after);
  grpc->Wait();
}

Server::Impl::~Impl() {
  StopGrpc(kNoTime);
  if (engine != nullptr) engine->Stop();
  tokenizers.reset();  // joins: jobs of cancelled requests may still refer to the services
  metrics.AttachDocuments(nullptr);
  metrics.AttachEngine(nullptr);
}

absl::StatusOr<std::unique_ptr<Server>> Server::Start(const ServerOptions& options,
                                                      const EngineFactory& make_engine) {
  RouteGrpcLog();
  absl::Status status = CheckServerOptions(options);
  if (!status.ok()) return WithExitCode(status, kExitBadConfig);
  auto impl = std::make_unique<Impl>(options);
  RETURN_IF_ERROR(impl->StartHttp());
  RETURN_IF_ERROR(impl->StartEngine(make_engine));
  for (const ModelSource& source : options.models) RETURN_IF_ERROR(impl->LoadModel(source));
  RETURN_IF_ERROR(impl->StartGrpc());
  impl->SetReady(true);
  return std::unique_ptr<Server>(new Server(std::move(impl)));
}

Server::Server(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
Server::~Server() = default;

int Server::port() const { return impl_->port; }
int Server::metrics_port() const { return impl_->http ? impl_->http->port() : 0; }
const ServiceContext& Server::context() const { return *impl_->context; }
const Engine& Server::engine() const { return *impl_->engine; }

void Server::Drain() {
  const LifecycleConfig& lifecycle = impl_->options.lifecycle;
  const Clock::time_point start = Clock::now();
  Log(LogLevel::kInfo, "drain started", {{"running", impl_->RunningRpcs()}});
  impl_->metrics.SetDraining(true);
  impl_->SetReady(false);
  std::this_thread::sleep_for(absl::ToChronoNanoseconds(lifecycle.drain_delay));
  impl_->context->draining = true;

  const Clock::time_point end = Clock::now() + absl::ToChronoNanoseconds(lifecycle.drain_grace);
  while (impl_->RunningRpcs() > 0 && Clock::now() < end) std::this_thread::sleep_for(kPollInterval);
  const int64_t cut = impl_->RunningRpcs();
  if (cut == 0) impl_->WaitForQuiet();
  impl_->StopGrpc(cut > 0 ? kNoTime : kLastCallsTime);
  impl_->engine->Stop();
  Log(cut > 0 ? LogLevel::kWarning : LogLevel::kInfo, "drain finished",
      {{"seconds", SecondsSince(start)}, {"cancelled", cut}});
}

absl::Status CheckFiles(const ServerOptions& options) {
  RETURN_IF_ERROR(CheckServerOptions(options));
  RETURN_IF_ERROR(MakeServerCredentials(options.security).status());
  RETURN_IF_ERROR(MakeAuthorizer(options.security).status());
  for (const ModelSource& source : options.models) {
    const std::string path = absl::StrCat(source.directory, "/config.json");
    if (access(path.c_str(), R_OK) != 0) {
      return absl::NotFoundError(
          absl::StrFormat("models: cannot read %s of \"%s\"", path, source.name));
    }
  }
  return absl::OkStatus();
}

absl::Status WithExitCode(absl::Status status, ExitCode code) {
  if (!status.ok()) {
    status.SetPayload(kExitCodeUrl, absl::Cord(absl::StrCat(static_cast<int>(code))));
  }
  return status;
}

ExitCode ExitCodeOf(const absl::Status& status) {
  if (status.ok()) return kExitOk;
  const auto payload = status.GetPayload(kExitCodeUrl);
  int code = kExitOther;
  if (payload && absl::SimpleAtoi(std::string(*payload), &code)) return static_cast<ExitCode>(code);
  return kExitOther;
}

}  // namespace longdoc::service

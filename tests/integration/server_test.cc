// The life of a server: health, probes, reflection, drain, credentials; with an engine whose
// encodes end when the test says so.
#include "service/server.h"

#include <chrono>
#include <cstdlib>
#include <fstream>
#include <functional>
#include <memory>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "engine/document_store.h"
#include "engine/memory_pool.h"
#include "gmock/gmock.h"
#include "grpcpp/create_channel.h"
#include "grpcpp/security/credentials.h"
#include "gtest/gtest.h"
#include "longdoc/v1/embedding_service.grpc.pb.h"
#include "longdoc/v1/model_service.grpc.pb.h"
#include "service/context.h"
#include "service/log.h"
#include "tests/integration/raw_stream.h"
#include "tests/support/fake_engine.h"
#include "tests/support/http_get.h"

namespace longdoc::service {
namespace {

using ::longdoc::testing::CheckHealth;
using ::longdoc::testing::FakeEngine;
using ::longdoc::testing::HealthName;
using ::longdoc::testing::HttpGet;
using ::longdoc::testing::ListServices;
using ::longdoc::testing::RawStream;
using ::longdoc::testing::WatchHealth;
using ::testing::HasSubstr;
using DocumentStream =
    grpc::ClientReaderWriter<v1::EmbedDocumentRequest, v1::EmbedDocumentResponse>;

constexpr const char* kReadinessNames[] = {"", "readiness", "longdoc.v1.EmbeddingService",
                                           "longdoc.v1.ModelService"};

ServerOptions TestOptions() {
  ServerOptions options;
  options.listen_address = "127.0.0.1:0";
  options.metrics_address = "127.0.0.1:0";
  options.models = {{"fake", "unused"}};
  return options;
}

class ServerTest : public ::testing::Test {
 protected:
  void SetUp() override { SetLogLevel(LogLevel::kError); }
  void TearDown() override { SetLogLevel(LogLevel::kInfo); }

  void Start(const ServerOptions& options) {
    auto engine = std::make_unique<FakeEngine>();
    fake_ = engine.get();
    std::thread warm_up([this] {
      if (fake_->WaitForTasks(1)) fake_->Complete();
    });
    auto started = Server::Start(options, [&](const EngineOptions& engine_options) {
      make_room_ = engine_options.make_room;
      return absl::StatusOr<std::unique_ptr<Engine>>(std::move(engine));
    });
    warm_up.join();
    ASSERT_TRUE(started.ok()) << started.status();
    server_ = std::move(started).value();
  }

  std::shared_ptr<grpc::Channel> Channel(
      const std::shared_ptr<grpc::ChannelCredentials>& credentials =
          grpc::InsecureChannelCredentials()) const {
    grpc::ChannelArguments arguments;
    arguments.SetInt(GRPC_ARG_USE_LOCAL_SUBCHANNEL_POOL, 1);  // a connection of its own
    arguments.SetSslTargetNameOverride("localhost");
    return grpc::CreateCustomChannel("127.0.0.1:" + std::to_string(server_->port()), credentials,
                                     arguments);
  }

  FakeEngine* fake_ = nullptr;
  std::function<bool()> make_room_;  // as the engine has it
  std::unique_ptr<Server> server_;
};

void SetContext(grpc::ClientContext* context, const std::string& authorization = "") {
  context->set_deadline(std::chrono::system_clock::now() + std::chrono::seconds(20));
  if (!authorization.empty()) context->AddMetadata("authorization", authorization);
}

grpc::Status ListModels(const std::shared_ptr<grpc::Channel>& channel,
                        const std::string& authorization = "") {
  grpc::ClientContext context;
  SetContext(&context, authorization);
  v1::ListModelsResponse response;
  return v1::ModelService::NewStub(channel)->ListModels(&context, v1::ListModelsRequest(),
                                                        &response);
}

// A document that has been sent whole; the engine has it or the server has refused it.
struct Document {
  Document(const std::shared_ptr<grpc::Channel>& channel, const std::string& authorization = "")
      : stub(v1::EmbeddingService::NewStub(channel)) {
    SetContext(&context, authorization);
    stream = stub->EmbedDocument(&context);
    v1::EmbedDocumentRequest request;
    request.mutable_header();
    stream->Write(request);
    request.mutable_chunk()->set_text("the quick brown fox");
    stream->Write(request);
    stream->WritesDone();
  }
  grpc::Status Finish() {
    v1::EmbedDocumentResponse response;
    while (stream->Read(&response)) got_result |= response.has_result();
    return stream->Finish();
  }
  grpc::ClientContext context;
  std::unique_ptr<v1::EmbeddingService::Stub> stub;
  std::unique_ptr<DocumentStream> stream;
  bool got_result = false;
};

TEST_F(ServerTest, ServesHealthProbesMetricsAndReflection) {
  Start(TestOptions());
  const auto channel = Channel();
  for (const char* name : kReadinessNames) EXPECT_EQ(CheckHealth(channel, name), "SERVING") << name;
  EXPECT_EQ(CheckHealth(channel, "liveness"), "SERVING");
  EXPECT_EQ(CheckHealth(channel, "longdoc.v1.Nothing"), "NOT_FOUND");
  EXPECT_TRUE(ListModels(channel).ok());

  EXPECT_EQ(HttpGet(server_->metrics_port(), "/healthz").status, 200);
  EXPECT_EQ(HttpGet(server_->metrics_port(), "/readyz").status, 200);
  // A call is counted when its reactor is done, which may be after its answer has arrived.
  const std::string counted = "longdoc_requests_total{code=\"OK\",rpc=\"ListModels\"} 1\n";
  auto metrics = HttpGet(server_->metrics_port(), "/metrics");
  for (int i = 0; i < 500 && metrics.body.find(counted) == std::string::npos; ++i) {
    std::this_thread::sleep_for(std::chrono::milliseconds(10));
    metrics = HttpGet(server_->metrics_port(), "/metrics");
  }
  EXPECT_EQ(metrics.status, 200);
  EXPECT_THAT(metrics.body, HasSubstr(counted));
  EXPECT_THAT(metrics.body, HasSubstr("longdoc_model_info{"));

  std::string services;
  const grpc::Status status = ListServices(channel, &services);
  EXPECT_TRUE(status.ok()) << status.error_message();
  EXPECT_THAT(services, HasSubstr("longdoc.v1.EmbeddingService"));
  EXPECT_THAT(services, HasSubstr("longdoc.v1.ModelService"));
  EXPECT_THAT(services, HasSubstr("grpc.health.v1.Health"));
}

TEST_F(ServerTest, ReflectionAndMetricsCanBeOff) {
  ServerOptions options = TestOptions();
  options.reflection = false;
  options.metrics_address = "off";
  Start(options);
  EXPECT_EQ(server_->metrics_port(), 0);
  std::string services;
  EXPECT_EQ(ListServices(Channel(), &services).error_code(), grpc::StatusCode::UNIMPLEMENTED);
  EXPECT_EQ(CheckHealth(Channel(), ""), "SERVING");
}

TEST_F(ServerTest, ADeviceWithoutRoomEvictsKeptDocuments) {
  MemoryPool memory(0);
  Start(TestOptions());
  ASSERT_NE(make_room_, nullptr);
  EXPECT_FALSE(make_room_());
  DocumentStore& documents = server_->context().documents;
  auto keys = std::make_shared<CrossKv>();
  keys->layers.push_back(*memory.Allocate(1000, true));
  KeptDocument document;
  document.cross_kv = std::move(keys);
  const std::string name =
      documents.Add(std::string(32, 'k'), std::move(document), absl::ZeroDuration(), nullptr)
          ->name();
  EXPECT_TRUE(make_room_());
  EXPECT_EQ(documents.stats().evicted, 1);
  EXPECT_EQ(memory.allocated_bytes(), 0);
  EXPECT_FALSE(documents.Find(name).ok());
}

TEST_F(ServerTest, DrainLetsRunningDocumentsFinish) {
  ServerOptions options = TestOptions();
  options.lifecycle.drain_delay = absl::Milliseconds(50);
  Start(options);
  const auto channel = Channel();
  auto readiness = WatchHealth(channel, "readiness");
  auto liveness = WatchHealth(channel, "liveness");
  std::string answer;
  ASSERT_TRUE(readiness->Read(&answer));
  EXPECT_EQ(HealthName(answer), "SERVING");
  ASSERT_TRUE(liveness->Read(&answer));
  EXPECT_EQ(HealthName(answer), "SERVING");
  Document document(channel);
  ASSERT_TRUE(fake_->WaitForTasks(1));

  std::thread drain([this] { server_->Drain(); });
  ASSERT_TRUE(readiness->Read(&answer)) << "a watcher is told";
  EXPECT_EQ(HealthName(answer), "NOT_SERVING");
  EXPECT_EQ(CheckHealth(channel, "liveness"), "SERVING");
  for (const char* name : kReadinessNames) {
    EXPECT_EQ(CheckHealth(channel, name), "NOT_SERVING") << name;
  }
  const auto ready = HttpGet(server_->metrics_port(), "/readyz");
  EXPECT_EQ(ready.status, 503);
  EXPECT_EQ(ready.body, "draining\n");
  EXPECT_EQ(HttpGet(server_->metrics_port(), "/healthz").status, 200);
  while (!server_->context().draining) std::this_thread::yield();
  EXPECT_EQ(ListModels(channel).error_code(), grpc::StatusCode::UNAVAILABLE);
  Document late(channel);
  EXPECT_EQ(late.Finish().error_code(), grpc::StatusCode::UNAVAILABLE);

  ASSERT_TRUE(fake_->Complete());
  const grpc::Status status = document.Finish();
  EXPECT_TRUE(status.ok()) << status.error_message();
  EXPECT_TRUE(document.got_result);
  readiness.reset();  // watchers that stay would be waited for, two seconds
  liveness.reset();
  drain.join();
  const std::string metrics = HttpGet(server_->metrics_port(), "/metrics").body;
  EXPECT_THAT(metrics, HasSubstr("longdoc_draining 1\n"));
  EXPECT_THAT(metrics, HasSubstr("longdoc_rejected_total{reason=\"draining\"} 2\n"));
}

TEST_F(ServerTest, DrainCancelsWhatOutlivesTheGracePeriod) {
  ServerOptions options = TestOptions();
  options.lifecycle.drain_grace = absl::Milliseconds(50);
  Start(options);
  Document document(Channel());
  ASSERT_TRUE(fake_->WaitForTasks(1));
  const auto token = fake_->first_token();
  // As an engine does: the answer of a cancelled task comes soon after.
  std::thread worker([&] {
    while (!token->cancelled()) std::this_thread::sleep_for(std::chrono::milliseconds(1));
    fake_->Complete();
  });
  server_->Drain();
  worker.join();
  EXPECT_FALSE(document.Finish().ok());
  EXPECT_FALSE(document.got_result);
}

TEST_F(ServerTest, DestructionWithoutDrainCancels) {
  Start(TestOptions());
  Document document(Channel());
  ASSERT_TRUE(fake_->WaitForTasks(1));
  const auto token = fake_->first_token();
  std::thread worker([&] {
    while (!token->cancelled()) std::this_thread::sleep_for(std::chrono::milliseconds(1));
    fake_->Complete();
  });
  FakeEngine* const fake = fake_;
  ASSERT_NE(fake, nullptr);
  std::thread destroyer([this] { server_.reset(); });
  EXPECT_FALSE(document.Finish().ok());
  worker.join();
  destroyer.join();
}

TEST_F(ServerTest, BearerTokenGuardsUnaryCallsAndStreams) {
  ServerOptions options = TestOptions();
  options.security.bearer_token_file = ::testing::TempDir() + "/server_test_token";
  std::ofstream(options.security.bearer_token_file) << "open-sesame\n";
  Start(options);
  const auto channel = Channel();
  for (const char* bad : {"", "Bearer wrong", "Basic open-sesame"}) {
    EXPECT_EQ(ListModels(channel, bad).error_code(), grpc::StatusCode::UNAUTHENTICATED) << bad;
    Document document(channel, bad);
    EXPECT_EQ(document.Finish().error_code(), grpc::StatusCode::UNAUTHENTICATED) << bad;
  }
  EXPECT_EQ(fake_->num_tasks(), 0u) << "nothing of a refused request reaches the engine";
  EXPECT_TRUE(ListModels(channel, "Bearer open-sesame").ok());
  Document document(channel, "Bearer open-sesame");
  ASSERT_TRUE(fake_->WaitForTasks(1));
  ASSERT_TRUE(fake_->Complete());
  EXPECT_TRUE(document.Finish().ok());
  EXPECT_EQ(CheckHealth(channel, ""), "SERVING") << "probes carry no token";
  EXPECT_THAT(HttpGet(server_->metrics_port(), "/metrics").body,
              HasSubstr("longdoc_rejected_total{reason=\"auth\"} 6\n"));
}

std::string ReadFile(const std::string& path) {
  std::ifstream in(path);
  return std::string(std::istreambuf_iterator<char>(in), {});
}

// An authority, a server certificate for localhost and a client certificate; made once by openssl.
class TlsServerTest : public ServerTest {
 protected:
  static void SetUpTestSuite() {
    dir_ = ::testing::TempDir() + "/server_test_tls_" + std::to_string(getpid());
    const std::string new_key =
        "openssl req -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes ";
    const std::string script =
        "exec >/dev/null 2>&1; set -e; mkdir -p " + dir_ + "; cd " + dir_ + "; " + new_key +
        "-x509 -days 2 -subj /CN=authority -keyout ca.key -out ca.pem; " +
        "echo subjectAltName=DNS:localhost > san; for who in server client; do " + new_key +
        "-subj /CN=$who -keyout $who.key -out $who.csr; openssl x509 -req -in $who.csr -CA ca.pem "
        "-CAkey ca.key -CAcreateserial -days 2 -extfile san -out $who.pem; done";
    made_ = std::system(("sh -c '" + script + "'").c_str()) == 0;
  }
  static void TearDownTestSuite() {
    if (std::system(("rm -rf '" + dir_ + "'").c_str()) != 0) std::perror("rm");
  }
  void SetUp() override {
    ServerTest::SetUp();
    if (!made_) GTEST_SKIP() << "no certificates: openssl is not installed";
  }

  ServerOptions TlsOptions(bool mutual) const {
    ServerOptions options = TestOptions();
    options.listen_address = "0.0.0.0:0";  // allowed, because it is not plain text
    options.security.tls_certificate_file = dir_ + "/server.pem";
    options.security.tls_key_file = dir_ + "/server.key";
    if (mutual) options.security.tls_client_ca_file = dir_ + "/ca.pem";
    return options;
  }
  static std::shared_ptr<grpc::ChannelCredentials> ClientCredentials(bool with_certificate) {
    grpc::SslCredentialsOptions options;
    options.pem_root_certs = ReadFile(dir_ + "/ca.pem");
    if (with_certificate) {
      options.pem_private_key = ReadFile(dir_ + "/client.key");
      options.pem_cert_chain = ReadFile(dir_ + "/client.pem");
    }
    return grpc::SslCredentials(options);
  }

  static std::string dir_;
  static bool made_;
};
std::string TlsServerTest::dir_;
bool TlsServerTest::made_ = false;

TEST_F(TlsServerTest, TlsServesWhoTrustsTheCertificate) {
  Start(TlsOptions(/*mutual=*/false));
  const grpc::Status status = ListModels(Channel(ClientCredentials(false)));
  EXPECT_TRUE(status.ok()) << status.error_message();
  EXPECT_EQ(ListModels(Channel()).error_code(), grpc::StatusCode::UNAVAILABLE) << "plain text";
}

TEST_F(TlsServerTest, MutualTlsWantsAClientCertificate) {
  Start(TlsOptions(/*mutual=*/true));
  const grpc::Status status = ListModels(Channel(ClientCredentials(true)));
  EXPECT_TRUE(status.ok()) << status.error_message();
  EXPECT_EQ(ListModels(Channel(ClientCredentials(false))).error_code(),
            grpc::StatusCode::UNAVAILABLE);
}

TEST_F(TlsServerTest, TokensTravelOverTls) {
  ServerOptions options = TlsOptions(/*mutual=*/false);
  options.security.bearer_token_file = dir_ + "/token";
  std::ofstream(options.security.bearer_token_file) << "t0ken";
  Start(options);
  const auto channel = Channel(ClientCredentials(false));
  EXPECT_TRUE(ListModels(channel, "Bearer t0ken").ok());
  EXPECT_EQ(ListModels(channel).error_code(), grpc::StatusCode::UNAUTHENTICATED);
}

TEST_F(TlsServerTest, KeyOfAnotherCertificateStopsTheStart) {
  ServerOptions options = TlsOptions(/*mutual=*/false);
  options.security.tls_key_file = dir_ + "/client.key";
  auto engine = std::make_unique<FakeEngine>();
  std::thread warm_up([fake = engine.get()] {
    if (fake->WaitForTasks(1)) fake->Complete();
  });
  const auto started = Server::Start(options, [&](const EngineOptions&) {
    return absl::StatusOr<std::unique_ptr<Engine>>(std::move(engine));
  });
  warm_up.join();
  ASSERT_FALSE(started.ok());
  EXPECT_THAT(std::string(started.status().message()), HasSubstr("certificate"));
}

TEST_F(ServerTest, StartFailuresNameTheirCauseAndExitCode) {
  Start(TestOptions());
  const auto fail = [](const ServerOptions& options, const Server::EngineFactory& factory) {
    const auto started = Server::Start(options, factory);
    EXPECT_FALSE(started.ok());
    return started.status();
  };
  const Server::EngineFactory no_device =
      [](const EngineOptions&) -> absl::StatusOr<std::unique_ptr<Engine>> {
    return absl::FailedPreconditionError("no such device");
  };
  EXPECT_EQ(ExitCodeOf(fail(TestOptions(), no_device)), kExitNoDevice);

  ServerOptions no_model = TestOptions();
  no_model.models.clear();
  EXPECT_EQ(ExitCodeOf(fail(no_model, no_device)), kExitBadConfig);

  ServerOptions taken = TestOptions();
  taken.metrics_address = "127.0.0.1:" + std::to_string(server_->metrics_port());
  const absl::Status metrics_taken = fail(taken, no_device);
  EXPECT_EQ(ExitCodeOf(metrics_taken), kExitOther);
  EXPECT_THAT(std::string(metrics_taken.message()), HasSubstr("metrics_address"));

  taken = TestOptions();
  taken.listen_address = "127.0.0.1:" + std::to_string(server_->port());
  auto engine = std::make_unique<FakeEngine>();
  std::thread warm_up([fake = engine.get()] {
    if (fake->WaitForTasks(1)) fake->Complete();
  });
  const absl::Status port_taken = fail(taken, [&](const EngineOptions&) {
    return absl::StatusOr<std::unique_ptr<Engine>>(std::move(engine));
  });
  warm_up.join();
  EXPECT_EQ(ExitCodeOf(port_taken), kExitOther);
  EXPECT_THAT(std::string(port_taken.message()), HasSubstr("listen_address"));
}

}  // namespace
}  // namespace longdoc::service

// Connections: their age and idleness, and the time between "not ready" and "no new calls".

#include <chrono>
#include <memory>
#include <set>
#include <string>
#include <thread>
#include <utility>

#include "grpcpp/create_channel.h"
#include "grpcpp/security/credentials.h"
#include "gtest/gtest.h"
#include "longdoc/v1/embedding_service.grpc.pb.h"
#include "longdoc/v1/model_service.grpc.pb.h"
#include "service/server.h"
#include "tests/integration/raw_stream.h"
#include "tests/support/fake_engine.h"
#include "tests/support/log_capture.h"

namespace longdoc::service {
namespace {

using ::longdoc::testing::CheckHealth;
using ::longdoc::testing::FakeEngine;
using ::longdoc::testing::LogCapture;

class ConnectionTest : public ::testing::Test {
 protected:
  ConnectionTest() {
    options_.listen_address = "127.0.0.1:0";
    options_.metrics_address = "off";
    options_.models = {{"fake", "unused"}};
  }
  void Start() {
    auto engine = std::make_unique<FakeEngine>();
    fake_ = engine.get();
    std::thread warm_up([this] {
      if (fake_->WaitForTasks(1)) fake_->Complete();
    });
    auto started = Server::Start(options_, [&](const EngineOptions&) {
      return absl::StatusOr<std::unique_ptr<Engine>>(std::move(engine));
    });
    warm_up.join();
    ASSERT_TRUE(started.ok()) << started.status();
    server_ = std::move(started).value();
  }
  std::shared_ptr<grpc::Channel> Channel() const {
    grpc::ChannelArguments arguments;
    arguments.SetInt(GRPC_ARG_USE_LOCAL_SUBCHANNEL_POOL, 1);  // a connection of its own
    return grpc::CreateCustomChannel("127.0.0.1:" + std::to_string(server_->port()),
                                     grpc::InsecureChannelCredentials(), arguments);
  }
  // The connections that calls came by so far.
  std::set<std::string> Peers() const {
    std::set<std::string> peers;
    for (const auto& line : log_.Events("rpc")) peers.insert(line.value("peer", ""));
    return peers;
  }

  LogCapture log_{LogLevel::kInfo};
  ServerOptions options_;
  FakeEngine* fake_ = nullptr;
  std::unique_ptr<Server> server_;
};

grpc::Status ListModels(const std::shared_ptr<grpc::Channel>& channel) {
  grpc::ClientContext context;
  context.set_deadline(std::chrono::system_clock::now() + std::chrono::seconds(20));
  v1::ListModelsResponse response;
  return v1::ModelService::NewStub(channel)->ListModels(&context, {}, &response);
}

// A document that has been sent whole, and waits for the engine.
class Document {
 public:
  explicit Document(const std::shared_ptr<grpc::Channel>& channel)
      : stub_(v1::EmbeddingService::NewStub(channel)) {
    context_.set_deadline(std::chrono::system_clock::now() + std::chrono::seconds(60));
    stream_ = stub_->EmbedDocument(&context_);
    v1::EmbedDocumentRequest request;
    request.mutable_header()->set_progress_interval_seconds(30);
    stream_->Write(request);
    request.mutable_chunk()->set_text("the quick brown fox");
    stream_->Write(request);
    stream_->WritesDone();
  }
  grpc::Status Finish() {
    v1::EmbedDocumentResponse response;
    while (stream_->Read(&response)) {
    }
    return stream_->Finish();
  }

 private:
  grpc::ClientContext context_;
  std::unique_ptr<v1::EmbeddingService::Stub> stub_;
  std::unique_ptr<grpc::ClientReaderWriter<v1::EmbedDocumentRequest, v1::EmbedDocumentResponse>>
      stream_;
};

TEST_F(ConnectionTest, AgedOnesAreLeftWithoutAFailedCallAndStreamsEndOnThem) {
  options_.lifecycle.max_connection_age = absl::Seconds(1);
  options_.lifecycle.max_connection_age_grace = absl::Seconds(60);
  Start();
  const auto channel = Channel();
  Document document(channel);
  ASSERT_TRUE(fake_->WaitForTasks(1));
  const auto end = std::chrono::steady_clock::now() + std::chrono::seconds(30);
  int calls = 0;
  while (Peers().size() < 3 && std::chrono::steady_clock::now() < end) {
    const grpc::Status status = ListModels(channel);
    ASSERT_TRUE(status.ok()) << status.error_message() << " after " << calls;
    ++calls;
    std::this_thread::sleep_for(std::chrono::milliseconds(5));
  }
  EXPECT_GE(Peers().size(), 3u);
  ASSERT_TRUE(fake_->Complete());
  const grpc::Status status = document.Finish();
  EXPECT_TRUE(status.ok()) << status.error_message();
}

TEST_F(ConnectionTest, StreamsDoNotOutliveTheGraceOfTheirConnection) {
  options_.lifecycle.max_connection_age = absl::Milliseconds(200);
  options_.lifecycle.max_connection_age_grace = absl::Milliseconds(200);
  Start();
  Document document(Channel());
  ASSERT_TRUE(fake_->WaitForTasks(1));
  EXPECT_EQ(document.Finish().error_code(), grpc::StatusCode::UNAVAILABLE);
  EXPECT_EQ(log_.WaitForEvents("rpc", 1).at(0)["code"], "CANCELLED");
  EXPECT_TRUE(fake_->first_token()->cancelled());
  fake_->Complete();
}

TEST_F(ConnectionTest, IdleOnesAreClosed) {
  options_.lifecycle.max_connection_idle = absl::Milliseconds(200);
  Start();
  const auto channel = Channel();
  ASSERT_TRUE(ListModels(channel).ok());
  ASSERT_EQ(channel->GetState(false), GRPC_CHANNEL_READY);
  EXPECT_TRUE(channel->WaitForStateChange(
      GRPC_CHANNEL_READY, std::chrono::system_clock::now() + std::chrono::seconds(20)));
  EXPECT_TRUE(ListModels(channel).ok()) << "and made again for the next call";
  EXPECT_EQ(log_.WaitForEvents("rpc", 2).size(), 2u);
  EXPECT_EQ(Peers().size(), 2u);
}

TEST_F(ConnectionTest, DuringTheDrainDelayCallsAreStillTaken) {
  options_.lifecycle.drain_delay = absl::Seconds(3);
  Start();
  const auto channel = Channel();
  std::thread drain([this] { server_->Drain(); });
  while (CheckHealth(channel, "readiness") != "NOT_SERVING") std::this_thread::yield();
  if (!server_->context().draining) {  // else this machine stood still for three seconds
    EXPECT_TRUE(ListModels(channel).ok());
    EXPECT_TRUE(ListModels(Channel()).ok()) << "by a new connection, too";
  }
  while (!server_->context().draining) std::this_thread::yield();
  EXPECT_EQ(ListModels(channel).error_code(), grpc::StatusCode::UNAVAILABLE);
  drain.join();
}

}  // namespace
}  // namespace longdoc::service

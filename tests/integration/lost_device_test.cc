// A GPU that fails while the server uses it, as clients and the orchestrator see it: longdoc-server
// on the emulated device (losing_device.cc).
#include <signal.h>

#include <cstdlib>
#include <string>
#include <vector>

#include "gmock/gmock.h"
#include "grpcpp/create_channel.h"
#include "grpcpp/security/credentials.h"
#include "gtest/gtest.h"
#include "longdoc/v1/embedding_service.grpc.pb.h"
#include "tests/integration/raw_stream.h"
#include "tests/integration/rpc_harness.h"
#include "tests/integration/server_process.h"

namespace longdoc::testing {
namespace {

using ::testing::HasSubstr;
using ::testing::StartsWith;

constexpr int kExitDeviceLost = 4;
const std::string kServer = LONGDOC_EMULATED_SERVER;

std::vector<std::string> Flags() {
  return {"--model=tiny=" + TinyModelDir(), "--listen=127.0.0.1:0", "--metrics_listen=127.0.0.1:0",
          "--device=cuda:0"};
}

TEST(LostDevice, FailsWhatRunsTurnsHealthAndEndsTheProcess) {
  ServerProcess server(Flags(), kServer);
  ASSERT_TRUE(server.WaitForEvent("serving")) << server.output();
  EXPECT_THAT(server.output(), HasSubstr("cuda:0 emulated"));
  const auto channel = grpc::CreateChannel("127.0.0.1:" + std::to_string(server.IntField("port")),
                                           grpc::InsecureChannelCredentials());
  const auto readiness = WatchHealth(channel, "");
  std::string answer;
  ASSERT_TRUE(readiness->Read(&answer));
  EXPECT_EQ(HealthName(answer), "SERVING");

  const auto stub = v1::EmbeddingService::NewStub(channel);
  grpc::ClientContext context;
  context.set_deadline(std::chrono::system_clock::now() + std::chrono::seconds(60));
  const auto stream = stub->EmbedDocument(&context);
  v1::EmbedDocumentRequest request;
  request.mutable_header();
  ASSERT_TRUE(stream->Write(request));
  request.mutable_chunk()->set_text("the quick brown fox jumps over the lazy dog");
  ASSERT_TRUE(stream->Write(request));
  server.Signal(SIGUSR1);
  ASSERT_TRUE(server.WaitForEvent("device will fail")) << server.output();
  stream->WritesDone();
  v1::EmbedDocumentResponse response;
  while (stream->Read(&response)) EXPECT_FALSE(response.has_result());
  const grpc::Status status = stream->Finish();
  EXPECT_EQ(status.error_code(), grpc::StatusCode::UNAVAILABLE) << status.error_message();
  EXPECT_THAT(status.error_message(), StartsWith("cuda: "));
  const auto reason = context.GetServerTrailingMetadata().find("longdoc-reason");
  ASSERT_NE(reason, context.GetServerTrailingMetadata().end());
  EXPECT_EQ(std::string(reason->second.data(), reason->second.size()), "DEVICE_LOST");

  ASSERT_TRUE(readiness->Read(&answer)) << "a watcher is told";
  EXPECT_EQ(HealthName(answer), "NOT_SERVING");
  EXPECT_EQ(server.Wait(), kExitDeviceLost) << server.output();
  EXPECT_THAT(server.output(), HasSubstr("\"event\":\"device lost\""));
}

TEST(LostDevice, WhileModelsLoadEndsTheProcess) {
  ASSERT_EQ(setenv("LONGDOC_TEST_LOSE_DEVICE", "1", 1), 0);
  ServerProcess server(Flags(), kServer);
  unsetenv("LONGDOC_TEST_LOSE_DEVICE");
  EXPECT_EQ(server.Wait(), kExitDeviceLost) << server.output();
  EXPECT_THAT(server.output(), HasSubstr("\"event\":\"device lost\""));
}

}  // namespace
}  // namespace longdoc::testing

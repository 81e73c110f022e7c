// The longdoc-server binary: flags, exit codes, signals.
#include "tests/integration/server_process.h"

#include <fcntl.h>
#include <netinet/in.h>
#include <signal.h>
#include <sys/socket.h>
#include <unistd.h>

#include <atomic>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <set>
#include <string>
#include <thread>
#include <vector>

#include "gmock/gmock.h"
#include "grpcpp/create_channel.h"
#include "grpcpp/security/credentials.h"
#include "gtest/gtest.h"
#include "longdoc/v1/embedding_service.grpc.pb.h"
#include "service/config.h"
#include "tests/integration/raw_stream.h"
#include "tests/integration/rpc_harness.h"
#include "tests/support/http_get.h"

namespace longdoc::testing {
namespace {

using ::testing::HasSubstr;

std::vector<std::string> ServeFlags() {
  return {"--model=tiny=" + TinyModelDir(), "--listen=127.0.0.1:0", "--metrics_listen=127.0.0.1:0",
          "--threads=1"};
}

std::vector<std::string> With(std::vector<std::string> flags,
                              const std::vector<std::string>& more) {
  flags.insert(flags.end(), more.begin(), more.end());
  return flags;
}

std::string WriteConfig(const std::string& name, const std::string& text) {
  const std::string path = ::testing::TempDir() + "/server_process_" + name;
  std::ofstream(path) << text;
  return path;
}

std::shared_ptr<grpc::Channel> ChannelTo(int port) {
  return grpc::CreateChannel("127.0.0.1:" + std::to_string(port),
                             grpc::InsecureChannelCredentials());
}

TEST(ServerProcess, ServesAndEndsWithZeroOnSigterm) {
  for (int signal : {SIGTERM, SIGINT}) {
    ServerProcess server(ServeFlags());
    ASSERT_TRUE(server.WaitForEvent("serving")) << server.output();
    EXPECT_EQ(CheckHealth(ChannelTo(server.IntField("port")), ""), "SERVING");
    EXPECT_EQ(HttpGet(server.IntField("metrics_port"), "/readyz").status, 200);
    EXPECT_THAT(HttpGet(server.IntField("metrics_port"), "/metrics").body,
                HasSubstr("longdoc_model_info{"));
    server.Signal(signal);
    EXPECT_EQ(server.Wait(), 0) << server.output();
    EXPECT_THAT(server.output(), HasSubstr("\"event\":\"drain finished\""));
  }
}

// Files that the process has open for writing, besides pipes, sockets and the like.
std::set<std::string> WrittenFiles(pid_t pid) {
  std::set<std::string> files;
  const std::string proc = "/proc/" + std::to_string(pid);
  for (const auto& entry : std::filesystem::directory_iterator(proc + "/fd")) {
    std::error_code gone;
    const auto target = std::filesystem::read_symlink(entry.path(), gone);
    if (gone || !std::filesystem::is_regular_file(target, gone)) continue;
    std::ifstream info(proc + "/fdinfo/" + entry.path().filename().string());
    std::string key, flags;
    while (info >> key && key != "flags:") {
    }
    info >> flags;
    if (flags.empty() || (std::stoi(flags, nullptr, 8) & O_ACCMODE) != O_RDONLY) {
      files.insert(target.string());
    }
  }
  return files;
}

TEST(ServerProcess, NeedsNoFileToWriteNoHomeAndNoDirectory) {
  ServerProcess server({"--model=tiny=" + TinyModelDir(), "--listen=0.0.0.0:0", "--allow_insecure",
                        "--metrics_listen=0.0.0.0:0", "--threads=1"},
                       /*confined=*/true);
  ASSERT_TRUE(server.WaitForEvent("serving")) << server.output();
  const int port = server.IntField("port"), metrics_port = server.IntField("metrics_port");
  const auto stub = v1::EmbeddingService::NewStub(ChannelTo(port));
  grpc::ClientContext context;
  v1::EmbedTextsRequest request;
  request.add_inputs()->set_text("the quick brown fox");
  v1::EmbedTextsResponse response;
  const grpc::Status status = stub->EmbedTexts(&context, request, &response);
  EXPECT_TRUE(status.ok()) << status.error_message();
  EXPECT_EQ(HttpGet(metrics_port, "/metrics").status, 200);
  // Whoever runs this test may have left us a file of its own.
  EXPECT_THAT(WrittenFiles(server.pid()), ::testing::IsSubsetOf(WrittenFiles(getpid())));
  server.Signal(SIGTERM);
  EXPECT_EQ(server.Wait(), 0) << server.output();
}

TEST(ServerProcess, TakesEveryModelFlag) {
  ServerProcess server(
      {"--model=a=/models/a,b=/models/b", "--model=c=/models/c", "--print_config"});
  EXPECT_EQ(server.Wait(), 0) << server.output();
  for (const char* name : {"\"a\"", "\"b\"", "\"c\""}) {
    EXPECT_THAT(server.output(), ::testing::HasSubstr(name));
  }
}

TEST(ServerProcess, ListensOnAllAddressesOfBothFamilies) {
  const int probe = socket(AF_INET6, SOCK_STREAM, 0);
  sockaddr_in6 any = {};
  any.sin6_family = AF_INET6;
  const bool ipv6 = probe >= 0 && bind(probe, reinterpret_cast<sockaddr*>(&any), sizeof(any)) == 0;
  if (probe >= 0) close(probe);
  if (!ipv6) GTEST_SKIP() << "no IPv6 here";
  ServerProcess server({"--model=tiny=" + TinyModelDir(), "--listen=[::]:0", "--allow_insecure",
                        "--metrics_listen=0.0.0.0:0", "--threads=1"});
  ASSERT_TRUE(server.WaitForEvent("serving")) << server.output();
  const std::string port = std::to_string(server.IntField("port"));
  for (const char* host : {"127.0.0.1:", "[::1]:"}) {
    EXPECT_EQ(CheckHealth(grpc::CreateChannel(host + port, grpc::InsecureChannelCredentials()), ""),
              "SERVING")
        << host;
  }
  server.Signal(SIGTERM);
  EXPECT_EQ(server.Wait(), 0) << server.output();
}

TEST(ServerProcess, SignalWhileModelsLoadEndsWithZero) {
  ServerProcess server(ServeFlags());
  ASSERT_TRUE(server.WaitForEvent("starting")) << server.output();
  server.Signal(SIGTERM);
  EXPECT_EQ(server.Wait(), 0) << server.output();
}

// Clients that never stop: every answer is right or a refusal, and the process still ends with 0.
TEST(ServerProcess, DrainsUnderLoad) {
  ServerProcess server(ServeFlags());
  ASSERT_TRUE(server.WaitForEvent("serving")) << server.output();
  const auto channel = ChannelTo(server.IntField("port"));
  std::atomic<int> good{0}, refused{0}, other{0};
  std::atomic<bool> terminating{false};
  std::vector<std::thread> clients;
  for (int t = 0; t < 4; ++t) {
    clients.emplace_back([&] {
      const auto stub = v1::EmbeddingService::NewStub(channel);
      while (refused == 0) {
        grpc::ClientContext context;
        context.set_deadline(std::chrono::system_clock::now() + std::chrono::seconds(30));
        v1::EmbedTextsRequest request;
        for (int i = 0; i < 8; ++i) request.add_inputs()->set_text("the quick brown fox jumps");
        v1::EmbedTextsResponse response;
        const grpc::Status status = stub->EmbedTexts(&context, request, &response);
        if (status.ok() && response.items_size() == 8) {
          ++good;
        } else if (status.error_code() == grpc::StatusCode::UNAVAILABLE ||
                   (terminating && status.error_code() == grpc::StatusCode::CANCELLED)) {
          ++refused;  // gRPC cancels a call that crosses the server's shutdown on the wire
        } else {
          ADD_FAILURE() << status.error_code() << " " << status.error_message();
          ++other;
          ++refused;
        }
      }
    });
  }
  while (good < 20 && refused == 0) std::this_thread::sleep_for(std::chrono::milliseconds(1));
  EXPECT_EQ(refused, 0) << "nothing is refused before the signal";
  terminating = true;
  server.Signal(SIGTERM);
  for (auto& client : clients) client.join();
  EXPECT_EQ(server.Wait(), 0) << server.output();
  EXPECT_GE(good, 20);
  EXPECT_EQ(other, 0);
}

TEST(ServerProcess, SecondSignalEndsAtOnce) {
  const std::string config = WriteConfig("slow", "lifecycle { drain_delay_seconds: 600 }");
  ServerProcess server(With(ServeFlags(), {"--config=" + config}));
  ASSERT_TRUE(server.WaitForEvent("serving")) << server.output();
  server.Signal(SIGTERM);
  ASSERT_TRUE(server.WaitForEvent("drain started")) << server.output();
  server.Signal(SIGTERM);
  EXPECT_EQ(server.Wait(), 1);
}

struct Case {
  std::vector<std::string> flags;
  int exit_code;
  const char* output;
};

TEST(ServerProcess, ExitCodes) {
  const std::string good = WriteConfig("good", "limits { max_texts: 3 }");
  const std::string bad = WriteConfig("bad", "limits {\n max_texts: -3 }");
  const std::string unknown = WriteConfig("unknown", "limits {\n no_such_field: 1 }");
  const std::vector<Case> cases = {
      {{"--version"}, 0, "longdoc-server "},
      {{"--help"}, 1, "--metrics_listen"},  // Abseil's exit code
      {With(ServeFlags(), {"--check_config"}), 0, "configuration is valid"},
      {With(ServeFlags(), {"--check_config", "--config=" + good}), 0, "valid"},
      {With(ServeFlags(), {"--check_config", "--config=" + bad}), 2, "limits.max_texts"},
      {With(ServeFlags(), {"--config=" + bad}), 2, "limits.max_texts"},
      {With(ServeFlags(), {"--config=" + unknown}), 2, "line 2"},
      {With(ServeFlags(), {"--config=/nowhere/file"}), 2, "/nowhere/file"},
      {With(ServeFlags(), {"--config=" LONGDOC_SOURCE_DIR "/docs"}), 2, "no files *.textproto"},
      {{"--check_config"}, 2, "at least one"},
      {{"--check_config", "--model=m=/nowhere"}, 2, "/nowhere/config.json"},
      {{"--model=m=/nowhere", "--listen=127.0.0.1:0", "--metrics_listen=off"}, 2, "/nowhere"},
      {With(ServeFlags(), {"--model=nonsense"}), 2, "NAME=DIRECTORY"},
      {With(ServeFlags(), {"--device=gpu"}), 2, "engine.device"},
      {With(ServeFlags(), {"--dtype=f16"}), 2, "engine.compute_type"},
      {With(ServeFlags(), {"--threads=-1"}), 2, "--threads"},
      {With(ServeFlags(), {"--log_level=loud"}), 2, "--log_level"},
      {With(ServeFlags(), {"--listen=0.0.0.0:0"}), 2, "allow_insecure"},
      {With(ServeFlags(), {"argument"}), 2, "unexpected argument"},
      {With(ServeFlags(), {"--no_such_flag"}), 1, "no_such_flag"},
  };
  for (const Case& c : cases) {
    ServerProcess server(c.flags);
    EXPECT_EQ(server.Wait(), c.exit_code) << c.flags.back() << "\n" << server.output();
    EXPECT_THAT(server.output(), HasSubstr(c.output)) << c.flags.back();
  }
}

// How often `event` is in the log.
int Count(const std::string& log, const std::string& event) {
  const std::string field = "\"event\":\"" + event + "\"";
  int count = 0;
  for (size_t at = log.find(field); at != std::string::npos; at = log.find(field, at + 1)) ++count;
  return count;
}

TEST(ServerProcess, WithoutAGpu) {
  ASSERT_EQ(setenv("CUDA_VISIBLE_DEVICES", "", 1), 0);  // none, also where there are some
  for (const std::string device : {"cuda", "cuda:1"}) {
    ServerProcess refused(With(ServeFlags(), {"--device=" + device}));
    EXPECT_EQ(refused.Wait(), 3) << refused.output();
    EXPECT_EQ(Count(refused.output(), "cannot start"), 1) << refused.output();
    EXPECT_THAT(refused.output(), HasSubstr("device \\\"" + device + "\\\": "));
  }
  ServerProcess falls_back(With(ServeFlags(), {"--device=auto"}));
  ASSERT_TRUE(falls_back.WaitForEvent("no CUDA device")) << falls_back.output();
  ASSERT_TRUE(falls_back.WaitForEvent("serving")) << falls_back.output();
  falls_back.Signal(SIGTERM);
  EXPECT_EQ(falls_back.Wait(), 0);
  EXPECT_THAT(falls_back.output(), HasSubstr("using the CPU: "));
  EXPECT_EQ(Count(falls_back.output(), "no CUDA device"), 1) << falls_back.output();
  unsetenv("CUDA_VISIBLE_DEVICES");
}

TEST(ServerProcess, PrintedConfigIsAConfig) {
  ServerProcess server(With(ServeFlags(), {"--print_config"}));
  EXPECT_EQ(server.Wait(), 0);
  const auto options = service::ParseServerConfig(server.output());
  ASSERT_TRUE(options.ok()) << options.status() << "\n" << server.output();
  EXPECT_EQ(options->engine.num_threads, 1);
  ASSERT_EQ(options->models.size(), 1u);
  EXPECT_EQ(options->models[0].name, "tiny");
}

}  // namespace
}  // namespace longdoc::testing

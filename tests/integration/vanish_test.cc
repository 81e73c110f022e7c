// A client process is killed in the middle of a document.

#include <gtest/gtest.h>
#include <signal.h>
#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

#include <string>

#include "tests/integration/rpc_harness.h"

extern char** environ;

namespace longdoc::testing {
namespace {

// Starts vanishing_client and waits until it is ready.
class Client {
 public:
  Client(int port, const std::string& stage) {
    int out[2];
    EXPECT_EQ(pipe(out), 0);
    posix_spawn_file_actions_t actions;
    posix_spawn_file_actions_init(&actions);
    posix_spawn_file_actions_adddup2(&actions, out[1], 1);
    std::string program = LONGDOC_VANISHING_CLIENT, port_text = std::to_string(port),
                stage_text = stage;
    char* argv[] = {program.data(), port_text.data(), stage_text.data(), nullptr};
    EXPECT_EQ(posix_spawn(&pid_, program.c_str(), &actions, nullptr, argv, environ), 0);
    posix_spawn_file_actions_destroy(&actions);
    close(out[1]);
    char buffer[16] = {};
    ready_ = read(out[0], buffer, sizeof(buffer)) > 0;
    close(out[0]);
  }
  ~Client() { Kill(); }
  bool ready() const { return ready_; }
  void Kill() {
    if (pid_ <= 0) return;
    kill(pid_, SIGKILL);
    waitpid(pid_, nullptr, 0);
    pid_ = 0;
  }

 private:
  pid_t pid_ = 0;
  bool ready_ = false;
};

TEST(Vanish, WhileItSends) {
  auto harness = RpcHarness::WithFake();
  Client client(harness->server().port(), "receiving");
  ASSERT_TRUE(client.ready());
  ASSERT_TRUE(WaitFor([&] { return harness->server().context().open_streams == 1; }));
  client.Kill();
  EXPECT_TRUE(harness->WaitUntilIdle());
}

TEST(Vanish, WhileItWaits) {
  auto harness = RpcHarness::WithFake();
  Client client(harness->server().port(), "encoding");
  ASSERT_TRUE(client.ready());
  ASSERT_TRUE(harness->fake().WaitForTasks(1));
  const auto token = harness->fake().first_token();
  EXPECT_FALSE(token->cancelled());
  client.Kill();
  EXPECT_TRUE(WaitFor([&] { return token->cancelled(); }));
  harness->fake().Complete();
  EXPECT_TRUE(harness->WaitUntilIdle());
}

}  // namespace
}  // namespace longdoc::testing

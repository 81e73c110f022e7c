#include "service/http_endpoint.h"

#include <atomic>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/support/http_get.h"

namespace longdoc::service {
namespace {

using ::longdoc::testing::ConnectTo;
using ::longdoc::testing::HttpGet;
using ::longdoc::testing::HttpRaw;
using ::testing::HasSubstr;

class HttpEndpointTest : public ::testing::Test {
 protected:
  void SetUp() override {
    HttpEndpoint::Callbacks callbacks;
    callbacks.metrics = [this]() -> std::string {
      if (broken_) throw std::runtime_error("broken");
      return "m 1\n";
    };
    callbacks.not_ready = [this] { return std::string(loading_ ? "loading" : ""); };
    auto started = HttpEndpoint::Start("127.0.0.1:0", std::move(callbacks));
    ASSERT_TRUE(started.ok()) << started.status();
    endpoint_ = std::move(started).value();
    ASSERT_GT(endpoint_->port(), 0);
  }
  std::atomic<bool> loading_{false}, broken_{false};
  std::unique_ptr<HttpEndpoint> endpoint_;
};

TEST_F(HttpEndpointTest, Pages) {
  const auto metrics = HttpGet(endpoint_->port(), "/metrics");
  EXPECT_EQ(metrics.status, 200);
  EXPECT_EQ(metrics.body, "m 1\n");
  EXPECT_THAT(metrics.head, HasSubstr("Content-Type: text/plain; version=0.0.4"));
  EXPECT_EQ(HttpGet(endpoint_->port(), "/metrics?x=y").body, "m 1\n");
  EXPECT_EQ(HttpGet(endpoint_->port(), "/healthz").status, 200);
  EXPECT_EQ(HttpGet(endpoint_->port(), "/readyz").status, 200);
  loading_ = true;
  const auto loading = HttpGet(endpoint_->port(), "/readyz");
  EXPECT_EQ(loading.status, 503);
  EXPECT_EQ(loading.body, "loading\n");
  EXPECT_EQ(HttpGet(endpoint_->port(), "/healthz").status, 200) << "alive while loading";
}

TEST_F(HttpEndpointTest, EverythingElseIsRefused) {
  for (const char* path : {"/", "/metrics/", "/metricsx", "/x", "/../etc/passwd", "/%2e%2e/x"}) {
    EXPECT_EQ(HttpGet(endpoint_->port(), path).status, 404) << path;
  }
  for (const char* method : {"POST", "PUT", "DELETE"}) {
    EXPECT_EQ(HttpGet(endpoint_->port(), "/metrics", method).status, 405) << method;
  }
  const auto head = HttpGet(endpoint_->port(), "/metrics", "HEAD");
  EXPECT_EQ(head.status, 200);
  EXPECT_EQ(head.body, "");
}

TEST_F(HttpEndpointTest, SurvivesNonsenseAndExceptions) {
  EXPECT_NE(HttpRaw(endpoint_->port(), "nonsense\r\n\r\n").status, 200);
  EXPECT_NE(HttpGet(endpoint_->port(), "/" + std::string(100000, 'x')).status, 200);
  broken_ = true;
  EXPECT_EQ(HttpGet(endpoint_->port(), "/metrics").status, 500);
  broken_ = false;
  EXPECT_EQ(HttpGet(endpoint_->port(), "/metrics").status, 200);
}

TEST_F(HttpEndpointTest, ManyAtOnce) {
  std::atomic<int> good{0};
  std::vector<std::thread> threads;
  for (int t = 0; t < 8; ++t) {
    threads.emplace_back([&] {
      for (int i = 0; i < 10; ++i) good += HttpGet(endpoint_->port(), "/metrics").status == 200;
    });
  }
  for (auto& thread : threads) thread.join();
  EXPECT_EQ(good, 80);
}

TEST_F(HttpEndpointTest, StalledClientsDoNotHoldUpProbes) {
  std::vector<int> stalled;
  for (int i = 0; i < 3; ++i) stalled.push_back(ConnectTo(endpoint_->port()));
  for (int i = 0; i < 5; ++i) EXPECT_EQ(HttpGet(endpoint_->port(), "/healthz").status, 200);
  for (int fd : stalled) {
    EXPECT_GE(fd, 0);
    close(fd);
  }
}

TEST_F(HttpEndpointTest, PortInUseIsAnError) {
  const auto second =
      HttpEndpoint::Start("127.0.0.1:" + std::to_string(endpoint_->port()), {nullptr, nullptr});
  ASSERT_FALSE(second.ok());
  EXPECT_EQ(second.status().code(), absl::StatusCode::kUnavailable);
  EXPECT_THAT(std::string(second.status().message()), HasSubstr("metrics_address"));
}

}  // namespace
}  // namespace longdoc::service

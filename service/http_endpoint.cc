#include "service/http_endpoint.h"

#include <arpa/inet.h>
#include <sys/socket.h>
#include <unistd.h>

#include <atomic>
#include <chrono>
#include <cstring>
#include <exception>
#include <string_view>
#include <thread>
#include <utility>

#include "absl/strings/str_format.h"
#include "civetweb.h"
#include "service/log.h"

namespace longdoc::service {
namespace {

constexpr char kTextPlain[] = "text/plain; charset=utf-8";
constexpr char kExposition[] = "text/plain; version=0.0.4; charset=utf-8";

// Returns the status, which tells civetweb that the request was handled.
int Send(mg_connection* connection, int status, const char* phrase, const char* content_type,
         const std::string& body, bool head) {
  const std::string header = absl::StrFormat(
      "HTTP/1.1 %d %s\r\nContent-Type: %s\r\nContent-Length: %d\r\nCache-Control: no-store\r\n"
      "X-Content-Type-Options: nosniff\r\nConnection: close\r\n%s\r\n",
      status, phrase, content_type, body.size(), status == 405 ? "Allow: GET, HEAD\r\n" : "");
  mg_write(connection, header.data(), header.size());
  if (!head) mg_write(connection, body.data(), body.size());
  return status;
}

int OnLogMessage(const mg_connection*, const char* message) {
  Log(LogLevel::kWarning, "http endpoint", {{"message", message}});
  return 1;  // written; do not write it elsewhere
}

// The library's counters of users and TLS state; once for the process, never undone.
void InitLibraryOnce() {
  static const unsigned features = mg_init_library(MG_FEATURES_DEFAULT);
  (void)features;  // plain HTTP needs none of the optional ones
}

// The library looks for its stop flag every two seconds, or when a connection comes: so bring one.
// Where the port is not reachable over loopback, stopping merely takes those two seconds.
void Wake(int port) {
  const int fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
  if (fd < 0) return;
  sockaddr_in address = {};
  address.sin_family = AF_INET;
  address.sin_port = htons(static_cast<uint16_t>(port));
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  if (connect(fd, reinterpret_cast<sockaddr*>(&address), sizeof(address)) != 0) {
    // In progress, or refused because it has stopped: both are fine.
  }
  close(fd);
}

}  // namespace

int HttpEndpoint::OnRequest(mg_connection* connection) {
  // No exception may pass through the C library.
  try {
    const auto* endpoint =
        static_cast<const HttpEndpoint*>(mg_get_user_data(mg_get_context(connection)));
    return endpoint->Answer(connection);
  } catch (const std::exception& error) {
    Log(LogLevel::kError, "http request failed", {{"error", error.what()}});
    return Send(connection, 500, "Internal Server Error", kTextPlain, "internal error\n", false);
  }
}

int HttpEndpoint::Answer(mg_connection* connection) const {
  const mg_request_info* request = mg_get_request_info(connection);
  const std::string_view method = request->request_method;
  const std::string_view path = request->local_uri ? request->local_uri : "";
  const bool head = method == "HEAD";
  if (method != "GET" && !head) {
    return Send(connection, 405, "Method Not Allowed", kTextPlain, "only GET and HEAD\n", head);
  }
  if (path == "/metrics") {
    return Send(connection, 200, "OK", kExposition, callbacks_.metrics(), head);
  }
  if (path == "/healthz") return Send(connection, 200, "OK", kTextPlain, "ok\n", head);
  if (path == "/readyz") {
    const std::string reason = callbacks_.not_ready();
    if (reason.empty()) return Send(connection, 200, "OK", kTextPlain, "ready\n", head);
    return Send(connection, 503, "Service Unavailable", kTextPlain, reason + "\n", head);
  }
  return Send(connection, 404, "Not Found", kTextPlain,
              "not found; there are /metrics, /healthz and /readyz\n", head);
}

absl::StatusOr<std::unique_ptr<HttpEndpoint>> HttpEndpoint::Start(const std::string& address,
                                                                  Callbacks callbacks) {
  InitLibraryOnce();
  std::unique_ptr<HttpEndpoint> endpoint(new HttpEndpoint(std::move(callbacks)));
  // Name, value, name, value...
  const char* options[] = {"listening_ports",
                           address.c_str(),
                           "num_threads",
                           "4",
                           "request_timeout_ms",
                           "5000",
                           "enable_keep_alive",
                           "no",
                           "max_request_size",
                           "8192",
                           nullptr};
  mg_callbacks hooks;
  std::memset(&hooks, 0, sizeof(hooks));
  hooks.begin_request = &HttpEndpoint::OnRequest;
  hooks.log_message = &OnLogMessage;
  endpoint->context_ = mg_start(&hooks, endpoint.get(), options);
  if (endpoint->context_ == nullptr) {
    return absl::UnavailableError(absl::StrFormat("cannot listen on metrics_address %s", address));
  }
  mg_server_port ports[4];
  if (mg_get_server_ports(endpoint->context_, 4, ports) < 1) {
    return absl::InternalError(absl::StrFormat("metrics_address %s has no port", address));
  }
  endpoint->port_ = ports[0].port;
  return endpoint;
}

HttpEndpoint::~HttpEndpoint() {
  if (context_ == nullptr) return;
  std::atomic<bool> stopped{false};
  std::thread waker([this, &stopped] {
    while (!stopped) {
      Wake(port_);
      std::this_thread::sleep_for(std::chrono::milliseconds(10));
    }
  });
  mg_stop(context_);
  stopped = true;
  waker.join();
}

}  // namespace longdoc::service

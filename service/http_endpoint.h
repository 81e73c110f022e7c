// The plain-text HTTP port: GET /metrics, /healthz and /readyz; anything else is 404.
//
// Two worker threads and no keep-alive, so that a slow scraper cannot pile up connections; a
// request that does not arrive within ten seconds is dropped. Gives away no document content.
#pragma once

#include <functional>
#include <memory>
#include <string>

#include "absl/status/statusor.h"

struct mg_context;
struct mg_connection;

namespace longdoc::service {

class HttpEndpoint {
 public:
  struct Callbacks {
    std::function<std::string()> metrics;  // body of /metrics; any thread
    // Why the server is not ready ("loading", "draining"), or "" when it is: /readyz; any thread.
    std::function<std::string()> not_ready;
  };

  // Listens on `address` ("HOST:PORT", port 0: any free one). UNAVAILABLE if that is not possible.
  static absl::StatusOr<std::unique_ptr<HttpEndpoint>> Start(const std::string& address,
                                                             Callbacks callbacks);
  ~HttpEndpoint();  // waits for requests in progress
  HttpEndpoint(const HttpEndpoint&) = delete;
  HttpEndpoint& operator=(const HttpEndpoint&) = delete;

  int port() const { return port_; }

 private:
  explicit HttpEndpoint(Callbacks callbacks) : callbacks_(std::move(callbacks)) {}
  static int OnRequest(mg_connection* connection);
  int Answer(mg_connection* connection) const;

  const Callbacks callbacks_;
  mg_context* context_ = nullptr;
  int port_ = 0;
};

}  // namespace longdoc::service

// A call of any method with serialized messages, for protocols whose stubs we do not have.
#pragma once

#include <memory>
#include <string>

#include "grpcpp/channel.h"
#include "grpcpp/client_context.h"
#include "grpcpp/completion_queue.h"
#include "grpcpp/generic/generic_stub.h"

namespace longdoc::testing {

// Blocking; one thread. Every call ends after thirty seconds at the latest.
class RawStream {
 public:
  RawStream(const std::shared_ptr<grpc::Channel>& channel, const std::string& method);
  ~RawStream();
  void Write(const std::string& message);
  void HalfClose();
  bool Read(std::string* message);  // false at the end
  grpc::Status Finish();            // cancels what still runs
 private:
  bool Next();

  grpc::ClientContext context_;
  grpc::CompletionQueue queue_;
  grpc::GenericStub stub_;
  std::unique_ptr<grpc::GenericClientAsyncReaderWriter> stream_;
  bool alive_ = false;
};

// grpc.health.v1.Health/Check: "SERVING", "NOT_SERVING", or the status code's name.
std::string CheckHealth(const std::shared_ptr<grpc::Channel>& channel, const std::string& service);
// grpc.health.v1.Health/Watch: one answer per Read, to be passed to HealthName.
std::unique_ptr<RawStream> WatchHealth(const std::shared_ptr<grpc::Channel>& channel,
                                       const std::string& service);
std::string HealthName(const std::string& response);
// Serialized list_services answer of reflection; empty with a status that is not OK.
grpc::Status ListServices(const std::shared_ptr<grpc::Channel>& channel, std::string* response);

}  // namespace longdoc::testing

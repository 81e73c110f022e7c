#include "tests/integration/raw_stream.h"

#include <chrono>
#include <vector>

#include "grpcpp/support/byte_buffer.h"

namespace longdoc::testing {

RawStream::RawStream(const std::shared_ptr<grpc::Channel>& channel, const std::string& method)
    : stub_(channel) {
  context_.set_deadline(std::chrono::system_clock::now() + std::chrono::seconds(30));
  stream_ = stub_.PrepareCall(&context_, method, &queue_);
  stream_->StartCall(this);
  alive_ = Next();
}

RawStream::~RawStream() {
  Finish();
  queue_.Shutdown();
  void* tag;
  bool ok;
  while (queue_.Next(&tag, &ok)) {
  }
}

bool RawStream::Next() {
  void* tag;
  bool ok = false;
  return queue_.Next(&tag, &ok) && ok;
}

void RawStream::Write(const std::string& message) {
  if (!alive_) return;
  grpc::Slice slice(message);
  stream_->Write(grpc::ByteBuffer(&slice, 1), this);
  alive_ = Next();
}

void RawStream::HalfClose() {
  if (!alive_) return;
  stream_->WritesDone(this);
  alive_ = Next();
}

bool RawStream::Read(std::string* message) {
  grpc::ByteBuffer buffer;
  stream_->Read(&buffer, this);
  if (!Next()) {
    alive_ = false;  // the status is on its way: nothing to cancel
    return false;
  }
  std::vector<grpc::Slice> slices;
  if (!buffer.Dump(&slices).ok()) return false;
  message->clear();
  for (const grpc::Slice& slice : slices) {
    message->append(reinterpret_cast<const char*>(slice.begin()), slice.size());
  }
  return true;
}

grpc::Status RawStream::Finish() {
  grpc::Status status(grpc::StatusCode::UNKNOWN, "finished before");
  if (stream_ == nullptr) return status;
  if (alive_) context_.TryCancel();
  stream_->Finish(&status, this);
  Next();
  stream_ = nullptr;
  return status;
}

std::string HealthName(const std::string& response) {
  // message HealthCheckResponse { ServingStatus status = 1; }
  if (response == std::string("\x08\x01")) return "SERVING";
  if (response == std::string("\x08\x02")) return "NOT_SERVING";
  if (response == std::string("\x08\x03")) return "SERVICE_UNKNOWN";
  return "UNKNOWN";
}

std::unique_ptr<RawStream> WatchHealth(const std::shared_ptr<grpc::Channel>& channel,
                                       const std::string& service) {
  auto stream = std::make_unique<RawStream>(channel, "/grpc.health.v1.Health/Watch");
  // message HealthCheckRequest { string service = 1; }
  std::string request;
  if (!service.empty()) request = std::string("\x0a") + static_cast<char>(service.size()) + service;
  stream->Write(request);
  stream->HalfClose();
  return stream;
}

std::string CheckHealth(const std::shared_ptr<grpc::Channel>& channel, const std::string& service) {
  RawStream stream(channel, "/grpc.health.v1.Health/Check");
  std::string request;
  if (!service.empty()) request = std::string("\x0a") + static_cast<char>(service.size()) + service;
  stream.Write(request);
  stream.HalfClose();
  std::string response;
  if (stream.Read(&response)) return HealthName(response);
  const grpc::Status status = stream.Finish();
  return status.error_code() == grpc::StatusCode::NOT_FOUND ? "NOT_FOUND" : status.error_message();
}

grpc::Status ListServices(const std::shared_ptr<grpc::Channel>& channel, std::string* response) {
  RawStream stream(channel, "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo");
  stream.Write(std::string("\x3a\x01*"));  // list_services = 7: "*"
  stream.HalfClose();
  response->clear();
  if (stream.Read(response)) return grpc::Status::OK;
  return stream.Finish();
}

}  // namespace longdoc::testing

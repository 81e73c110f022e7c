// A client that opens a document on the server at 127.0.0.1:PORT, says "ready" and then hangs, so
// that a test can kill it: the server must notice without any farewell.
//   vanishing_client PORT receiving|encoding

#include <grpcpp/grpcpp.h>
#include <unistd.h>

#include <cstdio>
#include <cstring>
#include <string>

#include "longdoc/v1/embedding_service.grpc.pb.h"

int main(int argc, char** argv) {
  if (argc != 3) return 2;
  auto channel =
      grpc::CreateChannel(std::string("127.0.0.1:") + argv[1], grpc::InsecureChannelCredentials());
  auto stub = longdoc::v1::EmbeddingService::NewStub(channel);
  grpc::ClientContext context;
  auto stream = stub->EmbedDocument(&context);
  longdoc::v1::EmbedDocumentRequest request;
  request.mutable_header();
  if (!stream->Write(request)) return 1;
  request.mutable_chunk()->set_text("the word of the document");
  if (!stream->Write(request)) return 1;
  if (std::strcmp(argv[2], "encoding") == 0) stream->WritesDone();
  std::puts("ready");
  std::fflush(stdout);
  while (true) pause();
}

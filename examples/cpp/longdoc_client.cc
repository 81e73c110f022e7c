#include "longdoc_client.h"

#include <grpcpp/create_channel.h>
#include <grpcpp/support/channel_arguments.h>

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <random>
#include <thread>
#include <utility>

#include "service_config.h"

namespace {

namespace v1 = longdoc::v1;
using Clock = std::chrono::system_clock;

// 64 to 256 KiB: small enough to flow, large enough to cost nothing.
constexpr size_t kChunkBytes = 128 * 1024;

std::mt19937_64& Random() {
  thread_local std::mt19937_64 random{std::random_device{}()};
  return random;
}

double Uniform(double low, double high) {
  return std::uniform_real_distribution<double>(low, high)(Random());
}

std::string RandomHex(size_t digits) {
  std::string hex;
  while (hex.size() < digits) hex += "0123456789abcdef"[Random()() % 16];
  return hex;
}

std::shared_ptr<grpc::Channel> MakeChannel(
    const std::string& target, const std::shared_ptr<grpc::ChannelCredentials>& credentials) {
  grpc::ChannelArguments arguments;
  // Round robin, health checking, and retries of the calls that are not streams.
  arguments.SetServiceConfigJSON(kServiceConfig);
  // A server that vanished during a long, quiet encode is noticed after 50 s. The server allows a
  // ping every 10 s. Without the third line gRPC stops after two, for it counts what we send.
  arguments.SetInt(GRPC_ARG_KEEPALIVE_TIME_MS, 30'000);
  arguments.SetInt(GRPC_ARG_KEEPALIVE_TIMEOUT_MS, 20'000);
  arguments.SetInt(GRPC_ARG_HTTP2_MAX_PINGS_WITHOUT_DATA, 0);
  // A server that was replaced is found again after 5 s at most; gRPC would wait up to 2 minutes.
  arguments.SetInt(GRPC_ARG_INITIAL_RECONNECT_BACKOFF_MS, 200);
  arguments.SetInt(GRPC_ARG_MAX_RECONNECT_BACKOFF_MS, 5'000);
  return grpc::CreateCustomChannel(target, credentials, arguments);
}

std::string Trailer(const grpc::ClientContext& context, const char* key) {
  const auto& trailers = context.GetServerTrailingMetadata();
  const auto found = trailers.find(key);
  if (found == trailers.end()) return "";
  return std::string(found->second.data(), found->second.size());
}

Outcome OutcomeOf(const grpc::Status& status, const grpc::ClientContext& context,
                  const std::string& request_id) {
  Outcome outcome;
  outcome.code = status.error_code();
  outcome.message = status.error_message();
  outcome.reason = Trailer(context, "longdoc-reason");
  const std::string delay = Trailer(context, "longdoc-retry-delay-seconds");
  if (!delay.empty()) outcome.retry_delay = std::strtod(delay.c_str(), nullptr);
  outcome.request_id = request_id;
  return outcome;
}

// The content, cut anywhere, each piece with its offset. False: it could not be read to its end.
template <typename Request, typename Response>
bool SendChunks(std::istream& document, grpc::ClientReaderWriter<Request, Response>* stream) {
  std::string piece(kChunkBytes, '\0');
  int64_t offset = 0;
  while (document.read(&piece[0], static_cast<std::streamsize>(piece.size())),
         document.gcount() > 0) {
    Request request;
    request.mutable_chunk()->set_offset(offset);
    request.mutable_chunk()->set_text(piece.data(), static_cast<size_t>(document.gcount()));
    if (!stream->Write(request)) return true;  // the call is over; its status says why
    offset += document.gcount();
  }
  return !document.bad();
}

// A stream is written by one thread and read by another: the server sends while it receives, and
// stops receiving when nobody reads. `write` returns false if the call must not look complete.
template <typename Request, typename Response>
grpc::Status Exchange(grpc::ClientContext* context,
                      grpc::ClientReaderWriter<Request, Response>* stream,
                      const std::function<bool()>& write,
                      const std::function<void(Response*)>& on_response) {
  bool complete = false;
  std::thread writer([&] {
    complete = write();
    if (complete) {
      stream->WritesDone();
    } else {
      context->TryCancel();
    }
  });
  Response response;
  while (stream->Read(&response)) on_response(&response);
  writer.join();
  const grpc::Status status = stream->Finish();
  if (!complete) return grpc::Status(grpc::StatusCode::DATA_LOSS, "cannot read the document");
  return status;
}

}  // namespace

double RetryPolicy::Delay(const Outcome& outcome, int attempt) const {
  constexpr double kNever = -1;
  switch (outcome.code) {
    case grpc::StatusCode::RESOURCE_EXHAUSTED:
      // Without a delay it does not fit this server, now or later.
      return outcome.retry_delay < 0 ? kNever : outcome.retry_delay * Uniform(1, 1.5);
    case grpc::StatusCode::UNAVAILABLE:
    case grpc::StatusCode::CANCELLED:  // we never cancel: it crossed the end of a drain on the wire
      if (attempt + 1 >= attempts) return kNever;
      if (attempt == 0) return 0;  // round robin takes another server
      return std::min(first_backoff * std::pow(2, attempt - 1), max_backoff) * Uniform(0.5, 1);
    case grpc::StatusCode::INTERNAL:
    case grpc::StatusCode::UNKNOWN:
      return attempt == 0 ? first_backoff : kNever;  // once
    default:
      return kNever;  // the same request would get the same answer
  }
}

LongdocClient::LongdocClient(const std::string& target,
                             std::shared_ptr<grpc::ChannelCredentials> credentials,
                             RetryPolicy policy)
    : LongdocClient(MakeChannel(target, credentials), policy) {}

LongdocClient::LongdocClient(const std::shared_ptr<grpc::Channel>& channel, RetryPolicy policy)
    : policy_(policy),
      embedding_(v1::EmbeddingService::NewStub(channel)),
      documents_(v1::DocumentService::NewStub(channel)),
      scoring_(v1::ScoringService::NewStub(channel)) {}

Outcome LongdocClient::Run(Seconds deadline, bool retry, const Call& call) {
  const Clock::time_point end =
      Clock::now() + std::chrono::duration_cast<Clock::duration>(deadline);
  const std::string request_id = RandomHex(32);
  // W3C Trace Context of a new trace. Within a trace, pass on the one of the current span.
  const std::string traceparent = "00-" + RandomHex(32) + "-" + RandomHex(16) + "-01";
  for (int attempt = 0;;) {
    grpc::ClientContext context;  // one for each attempt
    context.set_deadline(end);
    context.AddMetadata("x-request-id", request_id);
    context.AddMetadata("traceparent", traceparent);
    const grpc::Status status = call(&context);
    const Outcome outcome = OutcomeOf(status, context, request_id);
    if (outcome.ok() || !retry) return outcome;
    const double delay = policy_.Delay(outcome, attempt);
    if (delay < 0 || Clock::now() + Seconds(delay) >= end) return outcome;
    std::this_thread::sleep_for(Seconds(delay));
    // Load does not wear out the attempts.
    if (outcome.code != grpc::StatusCode::RESOURCE_EXHAUSTED) ++attempt;
  }
}

Outcome LongdocClient::EmbedTexts(const v1::EmbedTextsRequest& request, Seconds deadline,
                                  v1::EmbedTextsResponse* response) {
  return Run(deadline, false, [&](grpc::ClientContext* context) {
    return embedding_->EmbedTexts(context, request, response);
  });
}

Outcome LongdocClient::EmbedDocument(const v1::DocumentHeader& header, const OpenDocument& open,
                                     Seconds deadline, EmbeddedDocument* answer) {
  return Run(deadline, true, [&](grpc::ClientContext* context) {
    *answer = EmbeddedDocument();  // what a failed attempt had brought is thrown away
    const std::unique_ptr<std::istream> document = open();
    const auto stream = embedding_->EmbedDocument(context);
    const auto write = [&] {
      v1::EmbedDocumentRequest first;
      *first.mutable_header() = header;
      return !stream->Write(first) || SendChunks(*document, stream.get());
    };
    return Exchange<v1::EmbedDocumentRequest, v1::EmbedDocumentResponse>(
        context, stream.get(), write, [&](v1::EmbedDocumentResponse* response) {
          // Only what is there: mutable_passages() of another kind of message would replace it.
          if (response->has_passages()) {
            for (auto& passage : *response->mutable_passages()->mutable_passages()) {
              answer->passages.push_back(std::move(passage));
            }
          }
          if (response->has_result()) answer->result = response->result();
        });
  });
}

Outcome LongdocClient::KeepDocument(const v1::DocumentHeader& header, const OpenDocument& open,
                                    Seconds deadline, v1::Document* kept) {
  return Run(deadline, true, [&](grpc::ClientContext* context) {
    const std::unique_ptr<std::istream> document = open();
    const auto stream = documents_->EncodeDocument(context);
    const auto write = [&] {
      v1::EncodeDocumentRequest first;
      *first.mutable_header()->mutable_document() = header;
      return !stream->Write(first) || SendChunks(*document, stream.get());
    };
    return Exchange<v1::EncodeDocumentRequest, v1::EncodeDocumentResponse>(
        context, stream.get(), write, [&](v1::EncodeDocumentResponse* response) {
          if (response->has_result()) *kept = response->result().document();
        });
  });
}

Outcome LongdocClient::ScoreCandidates(const std::string& document,
                                       const std::vector<std::string>& candidates, Seconds deadline,
                                       std::vector<v1::CandidateScore>* scores) {
  return Run(deadline, true, [&](grpc::ClientContext* context) {
    scores->assign(candidates.size(), {});  // they come as they are ready, in any order
    const auto stream = scoring_->ScoreCandidates(context);
    const auto write = [&] {
      v1::ScoreCandidatesRequest request;
      request.mutable_header()->set_name(document);
      if (!stream->Write(request)) return true;
      for (const std::string& candidate : candidates) {
        request.mutable_candidate()->set_text(candidate);
        if (!stream->Write(request)) return true;
      }
      return true;
    };
    return Exchange<v1::ScoreCandidatesRequest, v1::ScoreCandidatesResponse>(
        context, stream.get(), write, [&](v1::ScoreCandidatesResponse* response) {
          if (!response->has_score()) return;
          scores->at(static_cast<size_t>(response->score().index())) = response->score();
        });
  });
}

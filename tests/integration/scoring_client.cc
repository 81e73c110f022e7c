#include "tests/integration/scoring_client.h"

#include <algorithm>
#include <chrono>

namespace longdoc::testing {
namespace {

constexpr size_t kPieceBytes = 700;

// A context with a deadline, shown to the hook.
class HookedContext {
 public:
  explicit HookedContext(const ContextHook& hook) : hook_(hook) {
    context_.set_deadline(std::chrono::system_clock::now() + std::chrono::minutes(5));
    if (hook_) hook_(&context_);
  }
  ~HookedContext() {
    if (hook_) hook_(nullptr);
  }
  grpc::ClientContext& operator*() { return context_; }
  grpc::ClientContext* get() { return &context_; }
  void Judge(const grpc::Status& status, CallStatus* out) {
    out->status = status;
    out->reason = TrailingValue(context_, "longdoc-reason");
  }

 private:
  const ContextHook& hook_;
  grpc::ClientContext context_;
};

void AddPassages(v1::DocumentHeader* header) { header->add_passages()->set_tokens(16); }

template <typename Request, typename Stream>
bool WriteChunks(Stream& stream, const std::string& text) {
  for (size_t at = 0; at < text.size(); at += kPieceBytes) {
    Request request;
    request.mutable_chunk()->set_offset(static_cast<int64_t>(at));
    request.mutable_chunk()->set_text(text.substr(at, kPieceBytes));
    if (!stream.Write(request)) return false;
  }
  return true;
}

template <typename Stream>
bool SendAll(Stream& stream, const v1::ScoreHeader& header, const std::string& text,
             const std::vector<std::string>& candidates) {
  v1::ScoreCandidatesRequest request;
  *request.mutable_header() = header;
  if (!stream.Write(request)) return false;
  if (header.has_inline_()) {
    if (!WriteChunks<v1::ScoreCandidatesRequest>(stream, text)) return false;
    request.mutable_document_end();
    if (!stream.Write(request)) return false;
  }
  for (size_t i = 0; i < candidates.size(); ++i) {
    request.mutable_candidate()->set_text(candidates[i]);
    request.mutable_candidate()->set_id(std::to_string(i));
    if (!stream.Write(request)) return false;
  }
  return true;
}

}  // namespace

CallStatus KeepText(RpcHarness& harness, const std::string& text, v1::Document* document,
                    const ContextHook& hook, double ttl_seconds) {
  HookedContext context(hook);
  auto stream = harness.documents().EncodeDocument(context.get());
  v1::EncodeDocumentRequest request;
  AddPassages(request.mutable_header()->mutable_document());
  request.mutable_header()->mutable_document()->set_token_vectors(true);
  if (ttl_seconds > 0) request.mutable_header()->set_ttl_seconds(ttl_seconds);
  if (stream->Write(request) && WriteChunks<v1::EncodeDocumentRequest>(*stream, text)) {
    stream->WritesDone();
  }
  v1::EncodeDocumentResponse response;
  while (stream->Read(&response)) {
    if (response.has_result()) *document = response.result().document();
  }
  CallStatus status;
  context.Judge(stream->Finish(), &status);
  return status;
}

ScoreAnswer ScoreTexts(RpcHarness& harness, const v1::ScoreHeader& header, const std::string& text,
                       const std::vector<std::string>& candidates, const ContextHook& hook) {
  HookedContext context(hook);
  auto stream = harness.scoring().ScoreCandidates(context.get());
  if (SendAll(*stream, header, text, candidates)) stream->WritesDone();
  ScoreAnswer answer;
  v1::ScoreCandidatesResponse response;
  while (stream->Read(&response)) {
    answer.has_summary = response.has_summary();
    if (response.has_progress()) answer.progress.push_back(response.progress());
    if (response.has_summary()) answer.summary = response.summary();
    if (!response.has_score()) continue;
    answer.order.push_back(response.score().index());
    answer.scores.push_back(response.score());
  }
  context.Judge(stream->Finish(), &answer);
  std::sort(answer.scores.begin(), answer.scores.end(),
            [](const auto& a, const auto& b) { return a.index() < b.index(); });
  return answer;
}

v1::ScoreHeader InlineHeader(const std::vector<v1::ScoringMethod>& methods) {
  v1::ScoreHeader header;
  AddPassages(header.mutable_inline_());
  for (v1::ScoringMethod method : methods) header.add_methods(method);
  return header;
}

v1::ScoreHeader NamedHeader(const std::string& name,
                            const std::vector<v1::ScoringMethod>& methods) {
  v1::ScoreHeader header;
  header.set_name(name);
  for (v1::ScoringMethod method : methods) header.add_methods(method);
  return header;
}

std::vector<int32_t> GenerateAnswer::ids() const {
  std::vector<int32_t> ids;
  for (const v1::GeneratedToken& token : tokens) ids.push_back(token.id());
  return ids;
}

GenerateAnswer Generate(RpcHarness& harness, const v1::GenerateTextRequest& request,
                        const ContextHook& hook) {
  HookedContext context(hook);
  auto stream = harness.scoring().GenerateText(context.get(), request);
  GenerateAnswer answer;
  v1::GenerateTextResponse response;
  while (stream->Read(&response)) {
    answer.has_summary = response.has_summary();
    if (response.has_summary()) {
      answer.summary = response.summary();
    } else {
      answer.tokens.push_back(response.token());
    }
  }
  context.Judge(stream->Finish(), &answer);
  return answer;
}

}  // namespace longdoc::testing

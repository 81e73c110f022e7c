// DocumentService over loopback, with the real engine.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <memory>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "engine/document_store.h"
#include "tests/integration/rpc_harness.h"

namespace longdoc::testing {
namespace {

using ::testing::Contains;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::Not;

// What came back from one EncodeDocument call.
struct EncodeAnswer {
  grpc::Status status;
  std::string reason, retry_delay;
  std::vector<v1::Progress> progress;
  bool has_result = false;
  v1::EncodeDocumentResult result;
};

// One stream, step by step.
class EncodeStream {
 public:
  explicit EncodeStream(RpcHarness& harness) {
    context_.set_deadline(std::chrono::system_clock::now() + std::chrono::seconds(60));
    stream_ = harness.documents().EncodeDocument(&context_);
  }
  bool Header(const v1::EncodeDocumentHeader& header) {
    v1::EncodeDocumentRequest request;
    *request.mutable_header() = header;
    return stream_->Write(request);
  }
  bool Text(int64_t offset, const std::string& text) {
    v1::EncodeDocumentRequest request;
    request.mutable_chunk()->set_offset(offset);
    request.mutable_chunk()->set_text(text);
    return stream_->Write(request);
  }
  void HalfClose() { stream_->WritesDone(); }
  void Cancel() { context_.TryCancel(); }
  EncodeAnswer Finish() {
    EncodeAnswer answer;
    v1::EncodeDocumentResponse response;
    while (stream_->Read(&response)) {
      EXPECT_FALSE(answer.has_result) << "the result is the last message";
      if (response.has_progress()) answer.progress.push_back(response.progress());
      if (!response.has_result()) continue;
      answer.has_result = true;
      answer.result = response.result();
    }
    answer.status = stream_->Finish();
    answer.reason = TrailingValue(context_, "longdoc-reason");
    answer.retry_delay = TrailingValue(context_, "longdoc-retry-delay-seconds");
    return answer;
  }

 private:
  grpc::ClientContext context_;
  std::unique_ptr<grpc::ClientReaderWriter<v1::EncodeDocumentRequest, v1::EncodeDocumentResponse>>
      stream_;
};

EncodeAnswer Encode(RpcHarness& harness, const v1::EncodeDocumentHeader& header,
                    const std::string& text, size_t chunk = 1000) {
  EncodeStream stream(harness);
  bool ok = stream.Header(header);
  for (size_t at = 0; ok && at < text.size(); at += chunk) {
    ok = stream.Text(static_cast<int64_t>(at), text.substr(at, chunk));
  }
  stream.HalfClose();
  return stream.Finish();
}

v1::Document Keep(RpcHarness& harness, const v1::EncodeDocumentHeader& header,
                  const std::string& text) {
  const EncodeAnswer answer = Encode(harness, header, text);
  EXPECT_TRUE(answer.status.ok()) << answer.reason << " " << answer.status.error_message();
  return answer.result.document();
}

std::string ReasonOfGet(RpcHarness& harness, const std::string& name, v1::Document* out = nullptr) {
  grpc::ClientContext context;
  v1::GetDocumentRequest request;
  v1::Document document;
  request.set_name(name);
  const grpc::Status status =
      harness.documents().GetDocument(&context, request, out != nullptr ? out : &document);
  return status.ok() ? "OK" : TrailingValue(context, "longdoc-reason");
}

std::string ReasonOfDelete(RpcHarness& harness, const std::string& name, int64_t* bytes = nullptr) {
  grpc::ClientContext context;
  v1::DeleteDocumentRequest request;
  v1::DeleteDocumentResponse response;
  request.set_name(name);
  const grpc::Status status = harness.documents().DeleteDocument(&context, request, &response);
  if (bytes != nullptr) *bytes = response.bytes_freed();
  return status.ok() ? "OK" : TrailingValue(context, "longdoc-reason");
}

v1::ListDocumentsResponse List(RpcHarness& harness, int page_size = 0,
                               const std::string& token = "", std::string* reason = nullptr) {
  grpc::ClientContext context;
  v1::ListDocumentsRequest request;
  v1::ListDocumentsResponse response;
  request.set_page_size(page_size);
  request.set_page_token(token);
  const grpc::Status status = harness.documents().ListDocuments(&context, request, &response);
  if (reason != nullptr) *reason = status.ok() ? "OK" : TrailingValue(context, "longdoc-reason");
  return response;
}

DocumentStoreStats StatsOf(RpcHarness& harness) {
  return harness.server().context().documents.stats();
}

v1::EncodeDocumentHeader RichHeader() {
  v1::EncodeDocumentHeader header;
  header.mutable_document()->set_document_id("book");
  header.mutable_document()->add_passages()->set_tokens(64);
  header.mutable_document()->set_token_vectors(true);
  return header;
}

service::DocumentsConfig Budget(int64_t bytes) {
  service::DocumentsConfig config;
  config.budget_bytes = bytes;
  return config;
}

// Whatever the model: with and without a decoder.
class KeptDocuments : public ::testing::TestWithParam<const char*> {};
INSTANTIATE_TEST_SUITE_P(Models, KeptDocuments, ::testing::Values("tiny", "colt5-tiny"),
                         [](const auto& info) {
                           return std::string(info.param) == "tiny" ? "JinaBert" : "Colt5";
                         });

TEST_P(KeptDocuments, AreEncodedOnceAndGoWhenDeleted) {
  auto harness = RpcHarness::WithEngine({}, {}, GetParam());
  const std::string text = SampleText(500, 1);
  const EncodeAnswer first = Encode(*harness, RichHeader(), text, 700);
  ASSERT_TRUE(first.status.ok()) << first.status.error_message();
  ASSERT_TRUE(first.has_result);
  EXPECT_FALSE(first.result.reused());
  EXPECT_GT(first.result.stats().encoded_tokens(), 500);
  const v1::Document& document = first.result.document();
  EXPECT_EQ(document.document_id(), "book");
  EXPECT_EQ(document.model(), GetParam());
  EXPECT_EQ(document.token_count(), first.result.stats().encoded_tokens());
  EXPECT_THAT(document.methods(), Contains(v1::COSINE));
  EXPECT_THAT(document.methods(), Contains(v1::LATE_INTERACTION));
  const bool decoder = std::string(GetParam()) == "colt5-tiny";
  if (decoder) {
    EXPECT_THAT(document.methods(), Contains(v1::QUERY_LIKELIHOOD));
  } else {
    EXPECT_THAT(document.methods(), Not(Contains(v1::QUERY_LIKELIHOOD)));
  }
  DocumentStoreStats stats = StatsOf(*harness);
  EXPECT_EQ(stats.held.total(), document.bytes_held());
  EXPECT_EQ(stats.held.cross_kv > 0, decoder);
  EXPECT_EQ(stats.reserved_bytes, 0);
  EXPECT_TRUE(harness->WaitUntilIdle()) << "a kept document takes nothing of the engine's budget";

  const EncodeAnswer second = Encode(*harness, RichHeader(), text, 123);
  ASSERT_TRUE(second.status.ok());
  EXPECT_TRUE(second.result.reused());
  EXPECT_EQ(second.result.document().name(), document.name());
  EXPECT_EQ(second.result.stats().compute_seconds(), 0);

  v1::Document got;
  EXPECT_EQ(ReasonOfGet(*harness, document.name(), &got), "OK");
  EXPECT_EQ(got.bytes_held(), document.bytes_held());
  EXPECT_EQ(List(*harness).documents_size(), 1);
  int64_t freed = 0;
  EXPECT_EQ(ReasonOfDelete(*harness, document.name(), &freed), "OK");
  EXPECT_EQ(freed, document.bytes_held());
  EXPECT_EQ(ReasonOfDelete(*harness, document.name()), "DOCUMENT_DELETED");
  EXPECT_EQ(ReasonOfGet(*harness, document.name()), "DOCUMENT_DELETED");
  stats = StatsOf(*harness);
  EXPECT_EQ(stats.held.total(), 0);
  EXPECT_EQ(stats.reserved_bytes, 0);
  EXPECT_TRUE(harness->WaitUntilIdle()) << "nor does the engine hold anything";
  EXPECT_EQ(harness->engine().stats().allocated_bytes, 0);
}

std::vector<uint16_t> Values(const TokenVectors& vectors) {
  return {vectors.data(), vectors.data() + vectors.tokens * vectors.dimensions};
}

TEST_P(KeptDocuments, EvictedAndEncodedAgainAreWhatTheyWere) {
  const std::string text = SampleText(300, 2);
  int64_t bytes = 0;
  {
    auto harness = RpcHarness::WithEngine({}, {}, GetParam());
    bytes = Keep(*harness, RichHeader(), text).bytes_held();
  }
  auto harness = RpcHarness::WithEngine({}, Budget(bytes + bytes / 2), GetParam());
  DocumentStore& store = harness->server().context().documents;
  const v1::Document first = Keep(*harness, RichHeader(), text);
  std::vector<uint16_t> tokens, passages;
  {
    const auto pin = store.Find(first.name());
    ASSERT_TRUE(pin.ok());
    tokens = Values(*(*pin)->token_vectors);
    passages = (*pin)->passage_vectors;
  }
  Keep(*harness, RichHeader(), SampleText(290, 3));
  EXPECT_EQ(ReasonOfGet(*harness, first.name()), "DOCUMENT_EVICTED");
  const v1::Document again = Keep(*harness, RichHeader(), text);
  EXPECT_EQ(again.name(), first.name());
  const auto pin = store.Find(again.name());
  ASSERT_TRUE(pin.ok());
  EXPECT_EQ(Values(*(*pin)->token_vectors), tokens);
  EXPECT_EQ((*pin)->passage_vectors, passages);
  EXPECT_EQ(StatsOf(*harness).evicted, 2);
  EXPECT_LE(StatsOf(*harness).held.total(), bytes + bytes / 2);
}

TEST_P(KeptDocuments, NeverTakeMoreThanWasReservedForThem) {
  const std::string text = SampleText(400, 4);
  int64_t bytes = 0;
  {
    auto harness = RpcHarness::WithEngine({}, {}, GetParam());
    bytes = Keep(*harness, RichHeader(), text).bytes_held();
  }
  // The plan is an upper bound, and a close one.
  auto tight = RpcHarness::WithEngine({}, Budget(bytes + 200), GetParam());
  EXPECT_TRUE(Encode(*tight, RichHeader(), text).status.ok());
  auto too_small = RpcHarness::WithEngine({}, Budget(bytes - 200), GetParam());
  const EncodeAnswer refused = Encode(*too_small, RichHeader(), text);
  EXPECT_EQ(refused.status.error_code(), grpc::StatusCode::RESOURCE_EXHAUSTED);
  EXPECT_EQ(refused.reason, "DOCUMENT_BUDGET_EXCEEDED");
  EXPECT_THAT(refused.status.error_message(), HasSubstr(absl::StrCat(bytes - 200)));
  EXPECT_EQ(refused.retry_delay, "") << "it never fits here";
}

TEST(KeptDocumentsExpire, AfterTheirTimeToLive) {
  auto harness = RpcHarness::WithEngine();
  v1::EncodeDocumentHeader header;
  header.set_ttl_seconds(0.3);
  const v1::Document brief = Keep(*harness, header, "the word");
  const v1::Document lasting = Keep(*harness, {}, "of the document");
  EXPECT_TRUE(WaitFor([&] { return ReasonOfGet(*harness, brief.name()) == "DOCUMENT_EXPIRED"; }));
  EXPECT_EQ(ReasonOfGet(*harness, lasting.name()), "OK");

  // Without anybody asking for it, too.
  const int64_t bytes = StatsOf(*harness).held.total();
  Keep(*harness, header, "the long word");
  EXPECT_TRUE(WaitFor([&] { return StatsOf(*harness).held.total() == bytes; }));
  EXPECT_EQ(StatsOf(*harness).expired, 2);
  header.set_ttl_seconds(1e6);
  EXPECT_EQ(Encode(*harness, header, "the").reason, "INVALID_TTL");
}

TEST(KeptDocumentsList, PageByPage) {
  auto harness = RpcHarness::WithEngine();
  std::vector<std::string> names;
  for (const char* text : {"the", "of", "and", "to", "in"}) {
    names.push_back(Keep(*harness, {}, text).name());
  }
  std::vector<std::string> listed;
  std::string token;
  int pages = 0;
  do {
    const v1::ListDocumentsResponse page = List(*harness, 2, token);
    for (const v1::Document& document : page.documents()) listed.push_back(document.name());
    EXPECT_EQ(page.bytes_held(), StatsOf(*harness).held.total());
    EXPECT_EQ(page.budget_bytes(), StatsOf(*harness).budget_bytes);
    token = page.next_page_token();
    ++pages;
  } while (!token.empty() && pages < 10);
  EXPECT_EQ(pages, 3);
  EXPECT_EQ(listed, names);
  std::string reason;
  for (const char* bad : {"1", "x-1", "-", "\xff"}) {
    List(*harness, 0, std::string(bad) == "\xff" ? std::string(100'000, 'a') : bad, &reason);
    EXPECT_EQ(reason, "INVALID_PAGE_TOKEN");
  }
  for (const int size : {-1, 1001}) {
    List(*harness, size, "", &reason);
    EXPECT_EQ(reason, "INVALID_OPTION");
  }
}

TEST(KeptDocumentsNames, SayWhyThereIsNoDocument) {
  auto harness = RpcHarness::WithEngine();
  const std::string here = Keep(*harness, {}, "the").name();
  const std::string prefix = here.substr(0, here.size() - 32);
  for (const auto& [name, reason] : std::vector<std::pair<std::string, std::string>>{
           {"", "INVALID_DOCUMENT_NAME"},
           {"the book", "INVALID_DOCUMENT_NAME"},
           {here + "0", "INVALID_DOCUMENT_NAME"},
           {prefix + std::string(32, '0'), "DOCUMENT_NOT_FOUND"},
           {"documents/0123456789abcdef-" + std::string(32, '0'), "DOCUMENT_FOREIGN"}}) {
    EXPECT_EQ(ReasonOfGet(*harness, name), reason) << name;
    EXPECT_EQ(ReasonOfDelete(*harness, name), reason) << name;
  }
}

TEST(KeptDocumentsCancel, GivesTheRoomBack) {
  auto harness = RpcHarness::WithFake({}, Budget(1 << 20));
  EncodeStream stream(*harness);
  ASSERT_TRUE(stream.Header(RichHeader()));
  ASSERT_TRUE(stream.Text(0, "the word of the document"));
  stream.HalfClose();
  ASSERT_TRUE(harness->fake().WaitForTasks(1));
  EXPECT_GT(StatsOf(*harness).reserved_bytes, 0);
  stream.Cancel();
  EXPECT_EQ(stream.Finish().status.error_code(), grpc::StatusCode::CANCELLED);
  EXPECT_TRUE(WaitFor([&] { return StatsOf(*harness).reserved_bytes == 0; }));
  harness->fake().Complete();
  EXPECT_TRUE(harness->WaitUntilIdle());
  EXPECT_EQ(StatsOf(*harness).documents, 0);
}

TEST(KeptDocumentsInput, IsCheckedLikeThatOfEmbedDocument) {
  auto harness = RpcHarness::WithEngine();
  {
    EncodeStream stream(*harness);
    stream.Text(0, "the");
    EXPECT_EQ(stream.Finish().reason, "CONTENT_BEFORE_HEADER");
  }
  {
    EncodeStream stream(*harness);
    stream.Header({});
    stream.Text(5, "the");
    EXPECT_EQ(stream.Finish().reason, "OFFSET_GAP");
  }
  v1::EncodeDocumentHeader header;
  header.mutable_document()->mutable_vector()->set_dimensions(8);
  EXPECT_EQ(Encode(*harness, header, "the").reason, "INVALID_OPTION");
  EXPECT_EQ(Encode(*harness, {}, "half \xc3").reason, "INVALID_UTF8");
  EXPECT_EQ(StatsOf(*harness).documents, 0);
  EXPECT_EQ(StatsOf(*harness).reserved_bytes, 0);
}

}  // namespace
}  // namespace longdoc::testing

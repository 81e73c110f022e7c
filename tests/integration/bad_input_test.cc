// Over loopback: every kind of bad input gets its status, its reason, and nothing stays behind.

#include <gmock/gmock.h>
#include <grpcpp/generic/generic_stub.h>
#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "tests/integration/rpc_harness.h"

namespace longdoc::testing {
namespace {

using ::testing::HasSubstr;

class BadInput : public ::testing::Test {
 protected:
  static void SetUpTestSuite() {
    service::Limits limits;
    limits.document.max_tokens = 2000;
    limits.document.max_bytes = 100'000;
    limits.max_message_bytes = 64 << 10;
    harness_ = RpcHarness::WithEngine(limits).release();
  }
  static void TearDownTestSuite() {
    delete harness_;
    harness_ = nullptr;
  }

  // What a stream gets for these actions after which the client half-closes.
  template <typename Fn>
  DocumentAnswer Send(Fn actions) {
    DocumentCall call(*harness_);
    actions(call);
    call.HalfClose();
    DocumentAnswer answer = call.Finish();
    EXPECT_FALSE(answer.has_result);
    EXPECT_TRUE(harness_->WaitUntilIdle());
    return answer;
  }

  static RpcHarness* harness_;
};
RpcHarness* BadInput::harness_ = nullptr;

#define EXPECT_REFUSED(answer, code, why)                         \
  EXPECT_EQ((answer).status.error_code(), grpc::StatusCode::code) \
      << (answer).status.error_message();                         \
  EXPECT_EQ((answer).reason, why) << (answer).status.error_message()

TEST_F(BadInput, OrderOfMessages) {
  EXPECT_REFUSED(Send([](DocumentCall&) {}), INVALID_ARGUMENT, "MISSING_HEADER");
  EXPECT_REFUSED(Send([](DocumentCall& c) { c.Text(0, "the"); }), INVALID_ARGUMENT,
                 "CONTENT_BEFORE_HEADER");
  EXPECT_REFUSED(Send([](DocumentCall& c) {
                   c.Header({});
                   c.Header({});
                 }),
                 INVALID_ARGUMENT, "SECOND_HEADER");
  EXPECT_REFUSED(Send([](DocumentCall& c) { c.Write({}); }), INVALID_ARGUMENT, "EMPTY_MESSAGE");
  EXPECT_REFUSED(Send([](DocumentCall& c) {
                   c.Header({});
                   c.Break();
                 }),
                 INVALID_ARGUMENT, "UNEXPECTED_BREAK");
}

TEST_F(BadInput, Offsets) {
  const DocumentAnswer gap = Send([](DocumentCall& c) {
    c.Header({});
    c.Text(0, "the ");
    c.Text(9, "word");
  });
  EXPECT_REFUSED(gap, INVALID_ARGUMENT, "OFFSET_GAP");
  EXPECT_THAT(gap.status.error_message(), HasSubstr("9"));
  EXPECT_REFUSED(Send([](DocumentCall& c) {
                   c.Header({});
                   c.Text(0, "the ");
                   c.Text(0, "the ");
                 }),
                 INVALID_ARGUMENT, "OFFSET_OVERLAP");
}

TEST_F(BadInput, Content) {
  const DocumentAnswer utf8 = Send([](DocumentCall& c) {
    c.Header({});
    c.Text(0, "the word \xc3");
    c.Text(10, "( of");
  });
  EXPECT_REFUSED(utf8, INVALID_ARGUMENT, "INVALID_UTF8");
  EXPECT_THAT(utf8.status.error_message(), HasSubstr("9")) << "names the byte";
  EXPECT_REFUSED(Send([](DocumentCall& c) { c.Header({}); }), INVALID_ARGUMENT, "EMPTY_DOCUMENT");
  EXPECT_REFUSED(Send([](DocumentCall& c) {
                   c.Header({});
                   c.Text(0, " \n\t ");
                 }),
                 INVALID_ARGUMENT, "EMPTY_DOCUMENT");
  EXPECT_REFUSED(Send([](DocumentCall& c) {
                   c.Header({});
                   c.Text(0, "the");
                   c.Ids(3, {7});
                 }),
                 INVALID_ARGUMENT, "MIXED_CONTENT");
  EXPECT_REFUSED(Send([](DocumentCall& c) {
                   c.Header({});
                   c.Ids(0, {7, -1});
                 }),
                 INVALID_ARGUMENT, "TOKEN_OUT_OF_VOCABULARY");
  EXPECT_REFUSED(Send([](DocumentCall& c) {
                   c.Header({});
                   c.Ids(0, {7, 1 << 30});
                 }),
                 INVALID_ARGUMENT, "TOKEN_OUT_OF_VOCABULARY");
}

TEST_F(BadInput, Sizes) {
  const DocumentAnswer tokens = Send([](DocumentCall& c) {
    c.Header({});
    c.Text(0, SampleText(3000, 1));
  });
  EXPECT_REFUSED(tokens, INVALID_ARGUMENT, "TOO_MANY_TOKENS");
  EXPECT_THAT(tokens.status.error_message(), HasSubstr("2000")) << "names the limit";
  EXPECT_REFUSED(Send([](DocumentCall& c) {
                   c.Header({});
                   const std::string spaces(50'000, ' ');
                   for (int i = 0; i < 3; ++i) {
                     if (!c.Text(i * 50'000, spaces)) break;
                   }
                 }),
                 INVALID_ARGUMENT, "DOCUMENT_TOO_LARGE");
  EXPECT_REFUSED(Send([](DocumentCall& c) {
                   v1::DocumentHeader header;
                   header.set_declared_bytes(200'000);
                   c.Header(header);
                 }),
                 INVALID_ARGUMENT, "DOCUMENT_TOO_LARGE");
  EXPECT_REFUSED(Send([](DocumentCall& c) {
                   v1::DocumentHeader header;
                   header.set_declared_bytes(10);
                   c.Header(header);
                   c.Text(0, "the");
                 }),
                 INVALID_ARGUMENT, "DECLARED_SIZE_MISMATCH");
}

TEST_F(BadInput, Options) {
  const auto header_gets = [this](const v1::DocumentHeader& header) {
    return Send([&header](DocumentCall& c) { c.Header(header); });
  };
  v1::DocumentHeader model;
  model.set_model("no such \x01 model");
  const DocumentAnswer unknown = header_gets(model);
  EXPECT_REFUSED(unknown, NOT_FOUND, "UNKNOWN_MODEL");
  EXPECT_THAT(unknown.status.error_message(), HasSubstr("tiny")) << "names those there are";
  v1::DocumentHeader dimensions;
  dimensions.mutable_vector()->set_dimensions(65);
  EXPECT_REFUSED(header_gets(dimensions), INVALID_ARGUMENT, "INVALID_DIMENSIONS");
  v1::DocumentHeader passages;
  passages.add_passages()->set_tokens(-3);
  EXPECT_REFUSED(header_gets(passages), INVALID_ARGUMENT, "INVALID_PASSAGE");
  v1::DocumentHeader attention;
  attention.mutable_attention()->mutable_window()->set_radius(0);
  EXPECT_REFUSED(header_gets(attention), INVALID_ARGUMENT, "INVALID_ATTENTION_POLICY");
}

TEST_F(BadInput, SpansBehindTheEndOfTheDocument) {
  const DocumentAnswer answer = Send([](DocumentCall& c) {
    v1::DocumentHeader header;
    header.add_passages()->mutable_spans()->add_ranges()->set_end(1000);
    c.Header(header);
    c.Text(0, "the word");
  });
  EXPECT_EQ(answer.status.error_code(), grpc::StatusCode::INVALID_ARGUMENT);
  EXPECT_EQ(answer.reason, "INVALID_PASSAGE");
}

// Bytes that are no message in the middle of a document must not pass for its end.
TEST_F(BadInput, MalformedMessage) {
  auto channel = grpc::CreateChannel("127.0.0.1:" + std::to_string(harness_->server().port()),
                                     grpc::InsecureChannelCredentials());
  grpc::GenericStub stub(channel);
  grpc::ClientContext context;
  grpc::CompletionQueue queue;
  auto call = stub.PrepareCall(&context, "/longdoc.v1.EmbeddingService/EmbedDocument", &queue);
  const auto wait = [&queue] {
    void* tag;
    bool ok = false;
    return queue.Next(&tag, &ok) && ok;
  };
  const auto send = [&](const std::string& bytes) {
    const grpc::Slice slice(bytes);
    call->Write(grpc::ByteBuffer(&slice, 1), nullptr);
    return wait();
  };
  call->StartCall(nullptr);
  ASSERT_TRUE(wait());
  v1::EmbedDocumentRequest header, chunk;
  header.mutable_header();
  chunk.mutable_chunk()->set_text("the word");
  ASSERT_TRUE(send(header.SerializeAsString()));
  ASSERT_TRUE(send(chunk.SerializeAsString()));
  ASSERT_TRUE(send("\xff\xff\xff"));
  grpc::Status status;
  call->Finish(&status, nullptr);
  ASSERT_TRUE(wait());
  EXPECT_EQ(status.error_code(), grpc::StatusCode::INVALID_ARGUMENT) << status.error_message();
  const auto& trailing = context.GetServerTrailingMetadata();
  auto reason = trailing.find("longdoc-reason");
  ASSERT_NE(reason, trailing.end());
  EXPECT_EQ(reason->second, "MALFORMED_MESSAGE");
  queue.Shutdown();
  while (wait()) {
  }
}

// gRPC itself refuses it, before our code sees it: the code is fixed, there is no reason.
TEST_F(BadInput, MessageOverTheFrameLimit) {
  const DocumentAnswer answer = Send([](DocumentCall& c) {
    c.Header({});
    c.Text(0, std::string(70'000, ' '));
  });
  EXPECT_EQ(answer.status.error_code(), grpc::StatusCode::RESOURCE_EXHAUSTED)
      << answer.status.error_message();
}

TEST_F(BadInput, ServerServesOnAfterAllOfIt) {
  const DocumentAnswer answer = EmbedText(*harness_, {}, "the word");
  EXPECT_TRUE(answer.status.ok()) << answer.status.error_message();
}

}  // namespace
}  // namespace longdoc::testing

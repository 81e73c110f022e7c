// EmbedTexts and ModelService over loopback, with the real engine.

#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <string>
#include <thread>
#include <vector>

#include "tests/integration/rpc_harness.h"

namespace longdoc::testing {
namespace {

class Unary : public ::testing::Test {
 protected:
  static void SetUpTestSuite() { harness_ = RpcHarness::WithEngine().release(); }
  static void TearDownTestSuite() {
    delete harness_;
    harness_ = nullptr;
  }
  static std::string Reason(const grpc::ClientContext& context) {
    const auto& metadata = context.GetServerTrailingMetadata();
    auto it = metadata.find("longdoc-reason");
    return it == metadata.end() ? "" : std::string(it->second.data(), it->second.size());
  }
  static RpcHarness* harness_;
};
RpcHarness* Unary::harness_ = nullptr;

TEST_F(Unary, EmbedTextsAnswersLikeEmbedDocument) {
  v1::EmbedTextsRequest request;
  std::vector<std::string> texts;
  for (int i = 0; i < 20; ++i) texts.push_back(SampleText(3 + 7 * i, i));
  for (const std::string& text : texts) request.add_inputs()->set_text(text);
  request.add_inputs()->set_text("bad \xf0\x28");
  request.add_inputs()->set_text("");
  grpc::ClientContext context;
  v1::EmbedTextsResponse response;
  const grpc::Status status = harness_->embeddings().EmbedTexts(&context, request, &response);
  ASSERT_TRUE(status.ok()) << status.error_message();
  ASSERT_EQ(response.items_size(), 22);
  EXPECT_EQ(response.items(20).status().reason(), "INVALID_UTF8");
  EXPECT_EQ(response.items(21).status().reason(), "EMPTY_DOCUMENT");
  int64_t most = 0;
  for (int i = 0; i < 20; ++i) {
    const DocumentAnswer alone = EmbedText(*harness_, {}, texts[i]);
    ASSERT_TRUE(alone.status.ok());
    const std::string& a = alone.result.vector().data();
    const std::string& b = response.items(i).vector().data();
    ASSERT_EQ(a.size(), b.size());
    for (size_t c = 0; c < a.size(); c += 4) {
      float x, y;
      std::memcpy(&x, a.data() + c, 4);
      std::memcpy(&y, b.data() + c, 4);
      ASSERT_NEAR(x, y, 1e-5) << "text " << i;
    }
    most = std::max(most, response.items(i).stats().batch_texts());
  }
  EXPECT_GT(most, 1) << "texts were packed";
}

TEST_F(Unary, EmbedTextsRefusesWholeRequestFaults) {
  grpc::ClientContext context;
  v1::EmbedTextsResponse response;
  const grpc::Status status = harness_->embeddings().EmbedTexts(&context, {}, &response);
  EXPECT_EQ(status.error_code(), grpc::StatusCode::INVALID_ARGUMENT);
  EXPECT_EQ(Reason(context), "NO_TEXTS");
}

TEST_F(Unary, Models) {
  grpc::ClientContext list_context, get_context, bad_context;
  v1::ListModelsResponse list;
  ASSERT_TRUE(harness_->models().ListModels(&list_context, {}, &list).ok());
  ASSERT_EQ(list.models_size(), 1);
  const v1::Model& model = list.models(0);
  EXPECT_EQ(model.name(), "tiny");
  EXPECT_TRUE(model.is_default());
  EXPECT_EQ(model.dimensions(), 64);
  EXPECT_EQ(model.layer_count(), 2);
  EXPECT_EQ(model.family(), "jina_bert_a");
  EXPECT_GT(model.parameter_count(), 0);
  v1::GetModelResponse get;
  ASSERT_TRUE(harness_->models().GetModel(&get_context, {}, &get).ok());
  EXPECT_EQ(get.model().SerializeAsString(), model.SerializeAsString());
  v1::GetModelRequest bad;
  bad.set_model("x");
  EXPECT_EQ(harness_->models().GetModel(&bad_context, bad, &get).error_code(),
            grpc::StatusCode::NOT_FOUND);
  EXPECT_EQ(Reason(bad_context), "UNKNOWN_MODEL");
}

TEST_F(Unary, Tokenize) {
  v1::TokenizeRequest request;
  request.set_text("The word");
  request.set_add_special_tokens(true);
  grpc::ClientContext context;
  v1::TokenizeResponse response;
  ASSERT_TRUE(harness_->models().Tokenize(&context, request, &response).ok());
  ASSERT_EQ(response.tokens_size(), 4);
  EXPECT_EQ(response.tokens(0).text(), "[CLS]");
  EXPECT_EQ(response.tokens(1).text(), "the");
  EXPECT_EQ(response.tokens(2).text(), "word");
  EXPECT_EQ(response.tokens(2).bytes().begin(), 4);
  EXPECT_EQ(response.tokens(2).bytes().end(), 8);
  EXPECT_EQ(response.tokens(3).text(), "[SEP]");
  const struct {
    std::string text;
    const char* reason;
  } kBad[] = {{"a\xff", "INVALID_UTF8"}, {std::string((1 << 20) - 100, '!'), "RESPONSE_TOO_LARGE"}};
  for (const auto& bad : kBad) {
    request.set_text(bad.text);
    grpc::ClientContext bad_context;
    EXPECT_EQ(harness_->models().Tokenize(&bad_context, request, &response).error_code(),
              grpc::StatusCode::INVALID_ARGUMENT);
    EXPECT_EQ(Reason(bad_context), bad.reason);
  }
}

TEST_F(Unary, EstimateDocument) {
  const auto estimate = [](int64_t tokens, v1::EstimateDocumentResponse* response) {
    v1::EstimateDocumentRequest request;
    request.set_tokens(tokens);
    grpc::ClientContext context;
    return harness_->models().EstimateDocument(&context, request, response).error_code();
  };
  v1::EstimateDocumentResponse small, large, huge;
  ASSERT_EQ(estimate(1000, &small), grpc::StatusCode::OK);
  EXPECT_TRUE(small.admissible());
  EXPECT_GT(small.peak_bytes(), 0);
  EXPECT_GT(small.expected_seconds(), 0);
  EXPECT_EQ(small.memory_budget_bytes(), int64_t{1} << 30);
  ASSERT_EQ(estimate(100'000, &large), grpc::StatusCode::OK);
  EXPECT_GT(large.peak_bytes(), small.peak_bytes());
  ASSERT_EQ(estimate(1 << 29, &huge), grpc::StatusCode::OK);
  EXPECT_FALSE(huge.admissible());
  EXPECT_FALSE(huge.refusal().empty());
  EXPECT_EQ(estimate(0, &small), grpc::StatusCode::INVALID_ARGUMENT);
  EXPECT_EQ(estimate(-1, &small), grpc::StatusCode::INVALID_ARGUMENT);
  EXPECT_EQ(estimate(int64_t{1} << 62, &small), grpc::StatusCode::INVALID_ARGUMENT);
}

}  // namespace
}  // namespace longdoc::testing

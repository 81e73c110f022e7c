// EmbedDocument over loopback: what good requests get.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cstring>
#include <random>
#include <string>
#include <vector>

#include "tests/integration/rpc_harness.h"

namespace longdoc::testing {
namespace {

std::vector<float> Floats(const v1::Vector& vector) {
  std::vector<float> out(vector.data().size() / 4);
  std::memcpy(out.data(), vector.data().data(), out.size() * 4);
  return out;
}

std::string Bits(const DocumentAnswer& answer) {
  std::string bits = answer.result.vector().data();
  for (const v1::PassageVector& p : answer.passages) bits += p.SerializeAsString();
  for (const v1::TokenVectors& t : answer.token_frames) bits += t.SerializeAsString();
  return bits;
}

v1::DocumentHeader RichHeader() {
  v1::DocumentHeader header;
  header.set_document_id("doc-1");
  header.add_passages()->set_tokens(16);
  header.add_passages()->mutable_sentences()->set_count(2);
  header.set_token_vectors(true);
  return header;
}

TEST(EmbedDocument, AnswersWithEverythingAskedForAndTheResultLast) {
  auto harness = RpcHarness::WithEngine();
  const std::string text = SampleText(300, 1);
  const DocumentAnswer answer = EmbedText(*harness, RichHeader(), text);
  ASSERT_TRUE(answer.status.ok()) << answer.status.error_message();
  ASSERT_TRUE(answer.has_result);
  EXPECT_TRUE(answer.result_was_last);
  EXPECT_EQ(answer.result.document_id(), "doc-1");
  EXPECT_EQ(answer.result.model(), "tiny");
  EXPECT_FALSE(answer.result.model_revision().empty());
  EXPECT_EQ(answer.result.vector().dimensions(), 64);
  double norm = 0;
  for (float f : Floats(answer.result.vector())) norm += f * f;
  EXPECT_NEAR(norm, 1, 1e-5);
  const v1::EncodeStats& stats = answer.result.stats();
  EXPECT_GT(stats.encoded_tokens(), 300);
  EXPECT_EQ(stats.input_tokens(), stats.encoded_tokens());
  EXPECT_FALSE(stats.truncated());
  EXPECT_EQ(stats.encoded_bytes().end(), static_cast<int64_t>(text.size()));
  EXPECT_GT(stats.planned_bytes(), 0);
  EXPECT_EQ(answer.result.passage_count(), static_cast<int64_t>(answer.passages.size()));
  EXPECT_EQ(answer.passages.front().granularity(), 0);
  EXPECT_EQ(answer.passages.back().granularity(), 1);
  int64_t tokens = 0;
  for (const v1::TokenVectors& frame : answer.token_frames) {
    EXPECT_EQ(frame.first_token(), tokens);
    EXPECT_EQ(frame.data().size(), static_cast<size_t>(frame.token_count() * 64 * 4));
    EXPECT_EQ(frame.bytes_size(), frame.token_count());
    tokens += frame.token_count();
  }
  EXPECT_EQ(tokens, stats.encoded_tokens());
  EXPECT_TRUE(harness->WaitUntilIdle());
}

TEST(EmbedDocument, AnySplitOfTheBytesGivesTheSameBits) {
  auto harness = RpcHarness::WithEngine();
  const std::string text = SampleText(120, 2);
  const std::string whole = Bits(EmbedText(*harness, RichHeader(), text));
  ASSERT_FALSE(whole.empty());
  std::vector<size_t> every;
  for (size_t i = 1; i < text.size(); ++i) every.push_back(i);
  EXPECT_EQ(Bits(EmbedText(*harness, RichHeader(), text, every)), whole) << "one byte a message";
  std::mt19937_64 random(3);
  for (int round = 0; round < 20; ++round) {
    std::vector<size_t> cuts;
    for (uint64_t n = random() % 30; n > 0; --n) cuts.push_back(random() % (text.size() + 1));
    std::sort(cuts.begin(), cuts.end());  // equal cuts make empty chunks
    ASSERT_EQ(Bits(EmbedText(*harness, RichHeader(), text, cuts)), whole) << "round " << round;
  }
}

}  // namespace
}  // namespace longdoc::testing

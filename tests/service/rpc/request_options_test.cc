#include "service/request_options.h"

#include <gtest/gtest.h>

#include <limits>
#include <string>

#include "engine/base/error_reason.h"

namespace longdoc::service {
namespace {

constexpr int64_t kDim = 64;

struct Case {
  const char* name;
  void (*change)(v1::DocumentHeader& header);
  const char* reason;  // "" : good
};

DocumentLimits SmallLimits() {
  return {.max_tokens = 1000, .max_bytes = 10'000, .max_passages = 20};
}

class HeaderTable : public ::testing::TestWithParam<Case> {};

TEST_P(HeaderTable, IsJudged) {
  v1::DocumentHeader header;
  GetParam().change(header);
  const absl::Status status = ParseDocumentHeader(header, kDim, SmallLimits()).status();
  if (std::string(GetParam().reason).empty()) {
    EXPECT_TRUE(status.ok()) << status;
  } else {
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << status;
    EXPECT_EQ(ReasonOf(status), GetParam().reason) << status;
  }
}

using H = v1::DocumentHeader;
constexpr double kNan = std::numeric_limits<double>::quiet_NaN();

INSTANTIATE_TEST_SUITE_P(
    Headers, HeaderTable,
    ::testing::Values(
        Case{"defaults", [](H&) {}, ""},
        Case{"id_at_the_limit", [](H& h) { h.set_document_id(std::string(256, 'x')); }, ""},
        Case{"id_too_long", [](H& h) { h.set_document_id(std::string(257, 'x')); },
             "INVALID_DOCUMENT_ID"},
        Case{"bytes_negative", [](H& h) { h.set_declared_bytes(-1); }, "INVALID_DECLARED_SIZE"},
        Case{"bytes_zero", [](H& h) { h.set_declared_bytes(0); }, "EMPTY_DOCUMENT"},
        Case{"bytes_at_the_limit", [](H& h) { h.set_declared_bytes(10'000); }, ""},
        Case{"bytes_too_many", [](H& h) { h.set_declared_bytes(10'001); }, "DOCUMENT_TOO_LARGE"},
        Case{"tokens_negative", [](H& h) { h.set_declared_tokens(-5); }, "INVALID_DECLARED_SIZE"},
        Case{"tokens_zero", [](H& h) { h.set_declared_tokens(0); }, "EMPTY_DOCUMENT"},
        Case{"tokens_too_many", [](H& h) { h.set_declared_tokens(1001); }, "TOO_MANY_TOKENS"},
        Case{"tokens_truncated",
             [](H& h) {
               h.set_declared_tokens(1001);
               h.set_overflow(v1::OVERFLOW_TRUNCATE_END);
             },
             ""},
        Case{"overflow_unknown", [](H& h) { h.set_overflow(static_cast<v1::Overflow>(9)); },
             "INVALID_OPTION"},
        Case{"encoding_unknown",
             [](H& h) { h.mutable_vector()->set_encoding(static_cast<v1::VectorEncoding>(77)); },
             "INVALID_OPTION"},
        Case{"dimensions_negative", [](H& h) { h.mutable_vector()->set_dimensions(-1); },
             "INVALID_DIMENSIONS"},
        Case{"dimensions_too_many", [](H& h) { h.mutable_vector()->set_dimensions(65); },
             "INVALID_DIMENSIONS"},
        Case{"binary_of_twelve",
             [](H& h) {
               h.mutable_vector()->set_dimensions(12);
               h.mutable_vector()->set_encoding(v1::VECTOR_ENCODING_BINARY);
             },
             "INVALID_DIMENSIONS"},
        Case{"epsilon_zero",
             [](H& h) { h.mutable_attention()->mutable_tolerance()->set_epsilon(0); },
             "INVALID_ATTENTION_POLICY"},
        Case{"epsilon_one",
             [](H& h) { h.mutable_attention()->mutable_tolerance()->set_epsilon(1); },
             "INVALID_ATTENTION_POLICY"},
        Case{"epsilon_nan",
             [](H& h) { h.mutable_attention()->mutable_tolerance()->set_epsilon(kNan); },
             "INVALID_ATTENTION_POLICY"},
        Case{"epsilon_default", [](H& h) { h.mutable_attention()->mutable_tolerance(); }, ""},
        Case{"window_zero", [](H& h) { h.mutable_attention()->mutable_window(); },
             "INVALID_ATTENTION_POLICY"},
        Case{"window_globals",
             [](H& h) {
               h.mutable_attention()->mutable_window()->set_radius(8);
               h.mutable_attention()->mutable_window()->set_global_tokens(4097);
             },
             "INVALID_ATTENTION_POLICY"},
        Case{"window_good", [](H& h) { h.mutable_attention()->mutable_window()->set_radius(8); },
             ""},
        Case{"progress_too_often", [](H& h) { h.set_progress_interval_seconds(0.01); },
             "INVALID_OPTION"},
        Case{"progress_nan", [](H& h) { h.set_progress_interval_seconds(kNan); }, "INVALID_OPTION"},
        Case{"progress_negative", [](H& h) { h.set_progress_interval_seconds(-1); },
             "INVALID_OPTION"},
        Case{"passage_default", [](H& h) { h.add_passages(); }, ""},
        Case{"passage_of_no_tokens", [](H& h) { h.add_passages()->set_tokens(0); },
             "INVALID_PASSAGE"},
        Case{"passage_of_negative_sentences",
             [](H& h) { h.add_passages()->mutable_sentences()->set_count(-1); }, "INVALID_PASSAGE"},
        Case{"spans_empty", [](H& h) { h.add_passages()->mutable_spans(); }, "INVALID_PASSAGE"},
        Case{"span_reversed",
             [](H& h) {
               v1::ByteRange* r = h.add_passages()->mutable_spans()->add_ranges();
               r->set_begin(5);
               r->set_end(4);
             },
             "INVALID_PASSAGE"},
        Case{"span_negative",
             [](H& h) {
               v1::ByteRange* r = h.add_passages()->mutable_spans()->add_ranges();
               r->set_begin(-5);
               r->set_end(4);
             },
             "INVALID_PASSAGE"},
        Case{"spans_too_many_in_all",
             [](H& h) {
               for (int i = 0; i < 3; ++i) {
                 v1::PassageSpec* spec = h.add_passages();
                 for (int j = 0; j < 10; ++j) spec->mutable_spans()->add_ranges()->set_end(1);
               }
             },
             "TOO_MANY_PASSAGES"},
        Case{"granularities_too_many",
             [](H& h) {
               for (int i = 0; i < 17; ++i) h.add_passages()->set_tokens(100);
             },
             "INVALID_PASSAGE"},
        Case{"passages_of_declared_tokens",
             [](H& h) {
               h.set_declared_tokens(1000);
               h.add_passages()->set_tokens(40);
             },
             "TOO_MANY_PASSAGES"},
        Case{"nothing_requested", [](H& h) { h.set_omit_document_vector(true); },
             "NOTHING_REQUESTED"},
        Case{"passages_only",
             [](H& h) {
               h.set_omit_document_vector(true);
               h.add_passages();
             },
             ""}),
    [](const ::testing::TestParamInfo<Case>& info) { return std::string(info.param.name); });

TEST(RequestOptions, DefaultsAreUseful) {
  auto options = ParseDocumentHeader({}, kDim, SmallLimits());
  ASSERT_TRUE(options.ok());
  EXPECT_TRUE(options->vector.normalize);
  EXPECT_TRUE(options->document_vector);
  EXPECT_EQ(options->attention.mode, AttentionMode::kTolerance);
  EXPECT_FLOAT_EQ(options->attention.epsilon, 1e-4f);
  EXPECT_EQ(options->overflow, Overflow::kError);
  v1::DocumentHeader header;
  header.add_passages();
  header.add_passages()->mutable_sentences();
  options = ParseDocumentHeader(header, kDim, SmallLimits());
  ASSERT_TRUE(options.ok());
  EXPECT_EQ(options->passages[0].size, 256);
  EXPECT_EQ(options->passages[1].size, 5);
  EXPECT_FALSE(options->has_breaks());
}

TEST(RequestOptions, VectorBytes) {
  VectorOptions options;
  EXPECT_EQ(VectorBytes(options, 64), 256);
  options.encoding = VectorEncoding::kFloat16;
  EXPECT_EQ(VectorBytes(options, 64), 128);
  options.encoding = VectorEncoding::kInt8;
  options.dimensions = 32;
  EXPECT_EQ(VectorBytes(options, 64), 32);
  options.encoding = VectorEncoding::kBinary;
  EXPECT_EQ(VectorBytes(options, 64), 4);
}

}  // namespace
}  // namespace longdoc::service

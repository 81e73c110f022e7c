#include "service/request_options.h"

#include <cmath>
#include <utility>

#include "absl/strings/str_format.h"
#include "engine/base/status_macros.h"
#include "engine/engine.h"
#include "engine/vector_output.h"
#include "service/invalid.h"

namespace longdoc::service {
namespace {

constexpr int64_t kDefaultPassageTokens = 256;
constexpr int64_t kDefaultPassageSentences = 5;
constexpr double kMinProgressSeconds = 0.05;
constexpr double kMaxProgressSeconds = 3600;

absl::StatusOr<std::vector<longdoc::ByteRange>> ParseSpans(const v1::PassageSpec::Spans& spans,
                                                           int index, int64_t max_passages) {
  if (spans.ranges().empty()) {
    return Invalid(absl::StrFormat("passages[%d].spans has no ranges", index), "INVALID_PASSAGE");
  }
  if (spans.ranges_size() > max_passages) {
    return Invalid(absl::StrFormat("passages[%d].spans has %d ranges, the limit is %d", index,
                                   spans.ranges_size(), max_passages),
                   "TOO_MANY_PASSAGES");
  }
  std::vector<longdoc::ByteRange> out;
  out.reserve(spans.ranges_size());
  for (int i = 0; i < spans.ranges_size(); ++i) {
    const v1::ByteRange& range = spans.ranges(i);
    if (range.begin() < 0 || range.begin() >= range.end()) {
      return Invalid(absl::StrFormat("passages[%d].spans.ranges[%d] is [%d, %d): it must not be "
                                     "empty and must begin at 0 or later",
                                     index, i, range.begin(), range.end()),
                     "INVALID_PASSAGE");
    }
    out.push_back({range.begin(), range.end()});
  }
  return out;
}

absl::StatusOr<PassageSpec> ParsePassageSpec(const v1::PassageSpec& proto, int index,
                                             const DocumentLimits& limits) {
  PassageSpec spec;
  switch (proto.kind_case()) {
    case v1::PassageSpec::kTokens:
      spec.size = proto.tokens();
      if (spec.size < 1) {
        return Invalid(
            absl::StrFormat("passages[%d].tokens is %d, it must be at least 1", index, spec.size),
            "INVALID_PASSAGE");
      }
      return spec;
    case v1::PassageSpec::kSentences:
      spec.kind = PassageSpec::Kind::kSentences;
      spec.size = proto.sentences().count();
      if (spec.size == 0) spec.size = kDefaultPassageSentences;
      if (spec.size < 0) {
        return Invalid(absl::StrFormat("passages[%d].sentences.count is %d, it must be at least 1",
                                       index, spec.size),
                       "INVALID_PASSAGE");
      }
      return spec;
    case v1::PassageSpec::kSpans: {
      spec.kind = PassageSpec::Kind::kByteRanges;
      ASSIGN_OR_RETURN(spec.ranges, ParseSpans(proto.spans(), index, limits.max_passages));
      return spec;
    }
    case v1::PassageSpec::kBreaks:
      spec.kind = PassageSpec::Kind::kBreaks;
      return spec;
    case v1::PassageSpec::KIND_NOT_SET:
      break;
  }
  spec.size = kDefaultPassageTokens;
  return spec;
}

absl::Status CheckDeclared(const v1::DocumentHeader& header, Overflow overflow,
                           const DocumentLimits& limits) {
  if (header.has_declared_bytes()) {
    const int64_t bytes = header.declared_bytes();
    if (bytes < 1) {
      return Invalid(absl::StrFormat("declared_bytes is %d, it must be at least 1", bytes),
                     bytes == 0 ? "EMPTY_DOCUMENT" : "INVALID_DECLARED_SIZE");
    }
    if (bytes > limits.max_bytes) {
      return Invalid(absl::StrFormat("document of %d declared bytes, the limit is %d", bytes,
                                     limits.max_bytes),
                     "DOCUMENT_TOO_LARGE");
    }
  }
  if (header.has_declared_tokens()) {
    const int64_t tokens = header.declared_tokens();
    if (tokens < 1) {
      return Invalid(absl::StrFormat("declared_tokens is %d, it must be at least 1", tokens),
                     tokens == 0 ? "EMPTY_DOCUMENT" : "INVALID_DECLARED_SIZE");
    }
    if (tokens > limits.max_tokens && overflow == Overflow::kError) {
      return Invalid(absl::StrFormat("document of %d declared tokens, the limit is %d", tokens,
                                     limits.max_tokens),
                     "TOO_MANY_TOKENS");
    }
  }
  return absl::OkStatus();
}

absl::StatusOr<std::vector<PassageSpec>> ParsePassages(const v1::DocumentHeader& header,
                                                       const DocumentLimits& limits) {
  if (header.passages_size() > kMaxGranularities) {
    return Invalid(absl::StrFormat("%d passage specifications, the limit is %d",
                                   header.passages_size(), kMaxGranularities),
                   "INVALID_PASSAGE");
  }
  std::vector<PassageSpec> specs;
  int64_t ranges = 0;
  for (int i = 0; i < header.passages_size(); ++i) {
    ASSIGN_OR_RETURN(PassageSpec spec, ParsePassageSpec(header.passages(i), i, limits));
    ranges += static_cast<int64_t>(spec.ranges.size());
    if (ranges > limits.max_passages) {
      return Invalid(
          absl::StrFormat("%d passage ranges in all, the limit is %d", ranges, limits.max_passages),
          "TOO_MANY_PASSAGES");
    }
    specs.push_back(std::move(spec));
  }
  return specs;
}

}  // namespace

absl::StatusOr<AttentionPolicy> ParseAttention(const v1::AttentionPolicy& proto) {
  AttentionPolicy policy;
  switch (proto.policy_case()) {
    case v1::AttentionPolicy::kTolerance:
      if (proto.tolerance().has_epsilon()) policy.epsilon = proto.tolerance().epsilon();
      // Written so that NaN fails.
      if (!(policy.epsilon > 0 && policy.epsilon < 1)) {
        return Invalid(absl::StrFormat("attention.tolerance.epsilon is %g, it must be in (0, 1)",
                                       policy.epsilon),
                       "INVALID_ATTENTION_POLICY");
      }
      break;
    case v1::AttentionPolicy::kExact:
      policy.mode = AttentionMode::kExact;
      break;
    case v1::AttentionPolicy::kWindow:
      policy.mode = AttentionMode::kWindow;
      policy.window_radius = proto.window().radius();
      policy.num_global = proto.window().global_tokens();
      if (policy.window_radius < 1) {
        return Invalid(absl::StrFormat("attention.window.radius is %d, it must be at least 1",
                                       policy.window_radius),
                       "INVALID_ATTENTION_POLICY");
      }
      if (policy.num_global < 0 || policy.num_global > kMaxGlobalTokens) {
        return Invalid(
            absl::StrFormat("attention.window.global_tokens is %d, it must be in [0, %d]",
                            policy.num_global, kMaxGlobalTokens),
            "INVALID_ATTENTION_POLICY");
      }
      break;
    case v1::AttentionPolicy::POLICY_NOT_SET:
      break;
  }
  RETURN_IF_ERROR(CheckAttentionPolicy(policy));
  return policy;
}

absl::StatusOr<Overflow> ParseOverflow(v1::Overflow overflow) {
  switch (overflow) {
    case v1::OVERFLOW_UNSPECIFIED:
    case v1::OVERFLOW_ERROR:
      return Overflow::kError;
    case v1::OVERFLOW_TRUNCATE_END:
      return Overflow::kTruncateEnd;
    case v1::OVERFLOW_TRUNCATE_START:
      return Overflow::kTruncateStart;
    default:
      return Invalid(absl::StrFormat("overflow is %d, which this server does not know",
                                     static_cast<int>(overflow)),
                     "INVALID_OPTION");
  }
}

absl::StatusOr<VectorOptions> ParseVectorOptions(const v1::VectorOptions& proto,
                                                 int64_t model_dim) {
  VectorOptions options;
  options.dimensions = proto.dimensions();
  options.normalize = !proto.has_normalize() || proto.normalize();
  switch (proto.encoding()) {
    case v1::VECTOR_ENCODING_UNSPECIFIED:
    case v1::VECTOR_ENCODING_FLOAT32:
      options.encoding = VectorEncoding::kFloat32;
      break;
    case v1::VECTOR_ENCODING_FLOAT16:
      options.encoding = VectorEncoding::kFloat16;
      break;
    case v1::VECTOR_ENCODING_INT8:
      options.encoding = VectorEncoding::kInt8;
      break;
    case v1::VECTOR_ENCODING_BINARY:
      options.encoding = VectorEncoding::kBinary;
      break;
    default:
      return Invalid(absl::StrFormat("vector.encoding is %d, which this server does not know",
                                     static_cast<int>(proto.encoding())),
                     "INVALID_OPTION");
  }
  RETURN_IF_ERROR(CheckVectorOptions(options, model_dim));
  return options;
}

int64_t VectorDimensions(const VectorOptions& options, int64_t model_dim) {
  return options.dimensions == 0 ? model_dim : options.dimensions;
}

int64_t VectorBytes(const VectorOptions& options, int64_t model_dim) {
  const int64_t n = VectorDimensions(options, model_dim);
  switch (options.encoding) {
    case VectorEncoding::kFloat32:
      return 4 * n;
    case VectorEncoding::kFloat16:
      return 2 * n;
    case VectorEncoding::kInt8:
      return n;
    case VectorEncoding::kBinary:
      return (n + 7) / 8;
  }
  return 4 * n;
}

bool DocumentOptions::has_breaks() const {
  for (const PassageSpec& spec : passages) {
    if (spec.kind == PassageSpec::Kind::kBreaks) return true;
  }
  return false;
}

int64_t DocumentOptions::ExpectedPassages(int64_t tokens) const {
  int64_t count = 0;
  for (const PassageSpec& spec : passages) {
    if (spec.kind == PassageSpec::Kind::kTokens) count += (tokens + spec.size - 1) / spec.size;
    if (spec.kind == PassageSpec::Kind::kByteRanges) {
      count += static_cast<int64_t>(spec.ranges.size());
    }
  }
  return count;
}

EncodeShape DocumentOptions::Shape(const Model& model, int64_t tokens, int64_t passages) const {
  EncodeShape shape;
  shape.tokens = tokens;
  shape.num_vectors = passages + 1;
  shape.token_vectors = token_vectors && !token_vectors_for_scoring;
  shape.keep_token_vectors = token_vectors && token_vectors_for_scoring;
  shape.cross_kv = for_scoring && model.info().can_score_likelihood;
  shape.attention = attention;
  return shape;
}

absl::StatusOr<DocumentOptions> ParseDocumentHeader(const v1::DocumentHeader& header,
                                                    int64_t model_dim,
                                                    const DocumentLimits& limits) {
  DocumentOptions out;
  if (static_cast<int64_t>(header.document_id().size()) > kMaxDocumentIdBytes) {
    return Invalid(absl::StrFormat("document_id has %d bytes, the limit is %d",
                                   header.document_id().size(), kMaxDocumentIdBytes),
                   "INVALID_DOCUMENT_ID");
  }
  out.document_id = header.document_id();
  ASSIGN_OR_RETURN(out.overflow, ParseOverflow(header.overflow()));
  ASSIGN_OR_RETURN(out.attention, ParseAttention(header.attention()));
  ASSIGN_OR_RETURN(out.vector, ParseVectorOptions(header.vector(), model_dim));
  ASSIGN_OR_RETURN(out.passages, ParsePassages(header, limits));
  if (header.has_progress_interval_seconds()) {
    out.progress_interval_seconds = header.progress_interval_seconds();
    if (!(out.progress_interval_seconds >= kMinProgressSeconds &&
          out.progress_interval_seconds <= kMaxProgressSeconds)) {
      return Invalid(
          absl::StrFormat("progress_interval_seconds is %g, it must be in [%g, %g]",
                          out.progress_interval_seconds, kMinProgressSeconds, kMaxProgressSeconds),
          "INVALID_OPTION");
    }
  }
  out.token_vectors = header.token_vectors();
  out.document_vector = !header.omit_document_vector();
  if (!out.document_vector && !out.token_vectors && out.passages.empty()) {
    return Invalid(
        "header asks for no vector at all: omit_document_vector without passages or "
        "token_vectors",
        "NOTHING_REQUESTED");
  }
  RETURN_IF_ERROR(CheckDeclared(header, out.overflow, limits));
  if (header.has_declared_bytes()) out.declared_bytes = header.declared_bytes();
  if (header.has_declared_tokens()) {
    out.declared_tokens = header.declared_tokens();
    const int64_t tokens = std::min(header.declared_tokens(), limits.max_tokens);
    const int64_t passages = out.ExpectedPassages(tokens);
    if (passages > limits.max_passages) {
      return Invalid(absl::StrFormat("%d passages of %d declared tokens, the limit is %d", passages,
                                     tokens, limits.max_passages),
                     "TOO_MANY_PASSAGES");
    }
  }
  return out;
}

}  // namespace longdoc::service

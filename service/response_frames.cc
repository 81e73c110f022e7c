#include "service/response_frames.h"

#include <algorithm>
#include <string>
#include <utility>

#include "engine/vector_output.h"

namespace longdoc::service {
namespace {

// Upper bounds of what a vector costs besides its data: tags, lengths and varints.
constexpr int64_t kPassageOverheadBytes = 112;  // two ranges, two indices, vector's scalars
constexpr int64_t kTokenOverheadBytes = 32;     // scale and byte range
constexpr int64_t kFrameOverheadBytes = 64;

v1::VectorEncoding EncodingToProto(VectorEncoding encoding) {
  switch (encoding) {
    case VectorEncoding::kFloat32:
      return v1::VECTOR_ENCODING_FLOAT32;
    case VectorEncoding::kFloat16:
      return v1::VECTOR_ENCODING_FLOAT16;
    case VectorEncoding::kInt8:
      return v1::VECTOR_ENCODING_INT8;
    case VectorEncoding::kBinary:
      return v1::VECTOR_ENCODING_BINARY;
  }
  return v1::VECTOR_ENCODING_UNSPECIFIED;
}

size_t VectorsPerFrame(int64_t max_frame_bytes, int64_t bytes_each) {
  return static_cast<size_t>(
      std::max<int64_t>(1, (max_frame_bytes - kFrameOverheadBytes) / bytes_each));
}

}  // namespace

void FillVector(absl::Span<const float> in, const VectorOptions& options, v1::Vector* out) {
  float scale = 1;
  out->clear_data();
  EncodeVector(in, options, out->mutable_data(), &scale);
  out->set_dimensions(
      static_cast<int32_t>(VectorDimensions(options, static_cast<int64_t>(in.size()))));
  out->set_encoding(EncodingToProto(options.encoding));
  out->set_scale(scale);
}

void FillEncodeStats(const EncodeStats& stats, v1::EncodeStats* out) {
  out->set_encoded_tokens(stats.tokens);
  out->set_queue_seconds(stats.queue_seconds);
  out->set_compute_seconds(stats.compute_seconds);
  out->set_attention_tiles_computed(stats.tiles_computed);
  out->set_attention_tiles_dense(stats.tiles_dense);
  out->set_tile_fraction(stats.tiles_dense > 0
                             ? static_cast<float>(static_cast<double>(stats.tiles_computed) /
                                                  static_cast<double>(stats.tiles_dense))
                             : 1.0f);
  out->set_epsilon(stats.epsilon);
  out->set_max_logit_bound(stats.max_logit_bound);
  out->set_planned_bytes(stats.planned_bytes);
  out->set_peak_bytes(stats.peak_bytes);
  out->set_batch_texts(stats.batch_sequences);
  const RoutingStats& routing = stats.routing;
  if (routing.tokens_routed() == 0) return;
  double weight = 0;
  for (const double w : routing.weight) weight += w;
  out->set_tokens_routed(routing.tokens_routed());
  out->set_routed_score_mass(
      static_cast<float>(weight / static_cast<double>(routing.tokens_routed())));
  if (routing.follow_ups == 0) return;
  out->set_routed_layer_overlap(static_cast<float>(static_cast<double>(routing.repeated) /
                                                   static_cast<double>(routing.follow_ups)));
}

ResponseFrames::ResponseFrames(EncodeResult&& encoded, TokenizedDocument&& document,
                               const DocumentOptions& options, int64_t model_dim,
                               int64_t max_frame_bytes, v1::EmbedDocumentResult&& result_message)
    : encoded_(std::move(encoded)),
      document_(std::move(document)),
      vector_(options.vector),
      document_vector_(options.document_vector),
      token_vectors_(options.token_vectors && encoded_.token_vectors != nullptr),
      model_dim_(model_dim),
      max_frame_bytes_(max_frame_bytes),
      num_tokens_(static_cast<size_t>(encoded_.stats.tokens)),
      result_(std::move(result_message)) {}

bool ResponseFrames::Next(v1::EmbedDocumentResponse* out) {
  out->Clear();
  if (next_passage_ < document_.passages.size()) {
    NextPassages(out->mutable_passages());
    return false;
  }
  if (token_vectors_ && next_token_ < num_tokens_) {
    NextTokens(out->mutable_tokens());
    return false;
  }
  result_.set_passage_count(static_cast<int64_t>(document_.passages.size()));
  if (document_vector_) FillVector(encoded_.document, vector_, result_.mutable_vector());
  *out->mutable_result() = std::move(result_);
  return true;
}

void ResponseFrames::NextPassages(v1::PassageVectors* out) {
  const size_t count =
      VectorsPerFrame(max_frame_bytes_, VectorBytes(vector_, model_dim_) + kPassageOverheadBytes);
  const size_t end = std::min(document_.passages.size(), next_passage_ + count);
  for (; next_passage_ < end; ++next_passage_) {
    const Passage& passage = document_.passages[next_passage_];
    v1::PassageVector* proto = out->add_passages();
    proto->set_granularity(passage.granularity);
    proto->set_index(passage.index);
    if (!document_.bytes.empty()) {
      proto->mutable_bytes()->set_begin(passage.bytes.begin);
      proto->mutable_bytes()->set_end(passage.bytes.end);
    }
    proto->mutable_tokens()->set_begin(passage.tokens.begin);
    proto->mutable_tokens()->set_end(passage.tokens.end);
    FillVector(
        {encoded_.passages.data() + next_passage_ * model_dim_, static_cast<size_t>(model_dim_)},
        vector_, proto->mutable_vector());
  }
}

void ResponseFrames::NextTokens(v1::TokenVectors* out) {
  const int64_t vector_bytes = VectorBytes(vector_, model_dim_);
  const size_t count = VectorsPerFrame(max_frame_bytes_, vector_bytes + kTokenOverheadBytes);
  const size_t end = std::min(num_tokens_, next_token_ + count);
  out->set_first_token(static_cast<int64_t>(next_token_));
  out->set_token_count(static_cast<int64_t>(end - next_token_));
  out->set_dimensions(static_cast<int32_t>(VectorDimensions(vector_, model_dim_)));
  out->set_encoding(EncodingToProto(vector_.encoding));
  std::string* data = out->mutable_data();
  data->reserve((end - next_token_) * static_cast<size_t>(vector_bytes));
  for (; next_token_ < end; ++next_token_) {
    float scale = 1;
    EncodeVector(
        {encoded_.token_vectors + next_token_ * model_dim_, static_cast<size_t>(model_dim_)},
        vector_, data, &scale);
    if (vector_.encoding == VectorEncoding::kInt8) out->add_scales(scale);
    if (!document_.bytes.empty()) {
      v1::ByteRange* range = out->add_bytes();
      range->set_begin(document_.bytes[next_token_].begin);
      range->set_end(document_.bytes[next_token_].end);
    }
  }
}

}  // namespace longdoc::service

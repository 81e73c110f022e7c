#include "service/tools/wire.h"

#include <algorithm>

#include "engine/base/status_macros.h"

namespace longdoc::tools {
namespace {

constexpr size_t kChunkBytes = 64 << 10;
constexpr size_t kChunkIds = 16 << 10;
constexpr double kProgressSeconds = 0.25;

v1::Overflow ToProto(Overflow overflow) {
  switch (overflow) {
    case Overflow::kTruncateEnd:
      return v1::OVERFLOW_TRUNCATE_END;
    case Overflow::kTruncateStart:
      return v1::OVERFLOW_TRUNCATE_START;
    case Overflow::kError:
      break;
  }
  return v1::OVERFLOW_ERROR;
}

}  // namespace

absl::Status SetAttention(const AttentionPolicy& policy, v1::AttentionPolicy* out) {
  switch (policy.mode) {
    case AttentionMode::kTolerance:
      out->mutable_tolerance()->set_epsilon(policy.epsilon);
      return absl::OkStatus();
    case AttentionMode::kExact:
      out->mutable_exact();
      return absl::OkStatus();
    case AttentionMode::kWindow:
      out->mutable_window()->set_radius(policy.window_radius);
      out->mutable_window()->set_global_tokens(policy.num_global);
      return absl::OkStatus();
    case AttentionMode::kDense:
      break;
  }
  return absl::InvalidArgumentError("dense attention is for measurements with --model only");
}

v1::VectorEncoding ToProto(VectorEncoding encoding) {
  switch (encoding) {
    case VectorEncoding::kFloat16:
      return v1::VECTOR_ENCODING_FLOAT16;
    case VectorEncoding::kInt8:
      return v1::VECTOR_ENCODING_INT8;
    case VectorEncoding::kBinary:
      return v1::VECTOR_ENCODING_BINARY;
    case VectorEncoding::kFloat32:
      break;
  }
  return v1::VECTOR_ENCODING_FLOAT32;
}

VectorEncoding FromProto(v1::VectorEncoding encoding) {
  switch (encoding) {
    case v1::VECTOR_ENCODING_FLOAT16:
      return VectorEncoding::kFloat16;
    case v1::VECTOR_ENCODING_INT8:
      return VectorEncoding::kInt8;
    case v1::VECTOR_ENCODING_BINARY:
      return VectorEncoding::kBinary;
    default:
      return VectorEncoding::kFloat32;
  }
}

EmbedProgress FromProto(const v1::Progress& progress) {
  EmbedProgress out;
  out.tokens = progress.tokens_received();
  out.seconds_left = progress.expected_seconds_left();
  out.fraction = -1;
  switch (progress.stage()) {
    case v1::Progress::STAGE_QUEUED:
      out.stage = "waiting";
      break;
    case v1::Progress::STAGE_ENCODING:
      out.stage = "encoding";
      out.fraction = progress.fraction_encoded();
      break;
    default:
      out.stage = "sending";
  }
  return out;
}

absl::Status FillDocumentHeader(const EmbedOptions& options, const DocumentInput& document,
                                const std::string& model, v1::DocumentHeader* header) {
  header->set_model(model);
  if (document.source == nullptr) {
    header->set_declared_tokens(static_cast<int64_t>(document.ids.size()));
  } else if (document.source->size().has_value()) {
    header->set_declared_bytes(*document.source->size());
  }
  header->set_overflow(ToProto(options.overflow));
  header->set_token_vectors(options.token_vectors);
  header->set_progress_interval_seconds(kProgressSeconds);
  for (const PassageSpec& spec : options.passages) {
    v1::PassageSpec* out = header->add_passages();
    if (spec.kind == PassageSpec::Kind::kSentences) {
      out->mutable_sentences()->set_count(static_cast<int32_t>(spec.size));
    } else {
      out->set_tokens(static_cast<int32_t>(spec.size));
    }
  }
  return SetAttention(options.attention, header->mutable_attention());
}

absl::Status SendContent(DocumentInput& document,
                         const std::function<bool(v1::DocumentChunk& chunk)>& write) {
  v1::DocumentChunk chunk;
  if (document.source != nullptr) {
    int64_t offset = 0;
    while (true) {
      RETURN_IF_ERROR(document.source->Read(kChunkBytes, chunk.mutable_text()));
      if (chunk.text().empty()) return absl::OkStatus();
      chunk.set_offset(offset);
      offset += static_cast<int64_t>(chunk.text().size());
      if (!write(chunk)) return absl::OkStatus();
    }
  }
  for (size_t begin = 0; begin < document.ids.size(); begin += kChunkIds) {
    const size_t end = std::min(begin + kChunkIds, document.ids.size());
    chunk.set_offset(static_cast<int64_t>(begin));
    chunk.mutable_token_ids()->mutable_ids()->Assign(
        document.ids.begin() + static_cast<std::ptrdiff_t>(begin),
        document.ids.begin() + static_cast<std::ptrdiff_t>(end));
    if (!write(chunk)) return absl::OkStatus();
  }
  return absl::OkStatus();
}

}  // namespace longdoc::tools

// An encoder's weights, packed for a backend.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "engine/backend.h"
#include "engine/cross_encoder.h"
#include "engine/encode_pass.h"
#include "engine/loading.h"
#include "engine/model/encoder_weights.h"

namespace longdoc {

struct NormVectors {
  PlacedFloats gamma, beta;  // [C]; empty when the model has no such norm
};

struct PackedLayer {
  std::unique_ptr<PackedMatrix> qkv;     // [3C, C], rows: queries, keys, values
  std::unique_ptr<PackedMatrix> output;  // [C, C]
  std::unique_ptr<PackedMatrix> gated;   // [2F, C]
  std::unique_ptr<PackedMatrix> down;    // [C, F]
  NormVectors attention_norm, mlp_norm;
  NormVectors query_norm, key_norm, norm_1;  // variant B
};

// Immutable after Load; shared by all passes.
class EncoderModel final : public EncodingModel {
 public:
  // Packs the weights on up to `backend.info().num_workers` threads and lets go of the pages of the
  // checkpoint that were copied.
  static absl::StatusOr<std::shared_ptr<const EncoderModel>> Load(const std::string& name,
                                                                  const std::string& dir,
                                                                  Backend& backend);

  const std::string& name() const override { return name_; }
  const ModelInfo& info() const override { return info_; }
  const Tokenizer& tokenizer() const override { return *tokenizer_; }
  const std::string& revision() const override { return checkpoint_.revision; }
  ComputeType compute_type() const override { return compute_type_; }
  int64_t weight_bytes() const override { return weight_bytes_; }
  const CrossEncoderHead* cross_encoder() const override { return head_.get(); }

  EncodePlan PlanEncode(const Backend& backend, const EncodeShape& shape) const override;
  absl::StatusOr<std::unique_ptr<EncodePass>> MakePass(
      Backend& backend, const AttentionPolicy& policy,
      const std::vector<PassSequence>& sequences) const override;

  const EncoderConfig& config() const { return checkpoint_.config; }
  const AlignedTable& word() const { return word_; }              // [V, C]
  const PlacedFloats& token_type() const { return token_type_; }  // [C]
  const NormVectors& embedding_norm() const { return embedding_norm_; }
  const std::vector<PackedLayer>& layers() const { return layers_; }

 private:
  EncoderModel() = default;
  absl::Status PackLayers(Backend& backend);
  absl::Status PlaceEmbeddings(Backend& backend);

  std::string name_;
  EncoderCheckpoint checkpoint_;
  ModelInfo info_;
  std::unique_ptr<Tokenizer> tokenizer_;
  ComputeType compute_type_ = ComputeType::kF32;
  int64_t weight_bytes_ = 0;
  AlignedTable word_;
  PlacedFloats token_type_;
  NormVectors embedding_norm_;
  std::vector<PackedLayer> layers_;
  std::unique_ptr<CrossEncoderHead> head_;  // null unless this is a reranker
};

}  // namespace longdoc

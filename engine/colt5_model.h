// A longdoc-CoLT5 model, packed for a backend.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "engine/backend.h"
#include "engine/decoder_weights.h"
#include "engine/encode_pass.h"
#include "engine/feed_forward.h"
#include "engine/loading.h"
#include "engine/model/colt5_config.h"
#include "engine/model/colt5_weights.h"

namespace longdoc {

// [2F, C] and [C, F].
struct PackedFeedForward {
  std::unique_ptr<PackedMatrix> gate_up, down;
  FeedForward view() const {
    return {gate_up.get(), down.get(), /*activate_second_half=*/false, /*tanh_form=*/true};
  }
};

// HL and HH: light and heavy heads of D.
struct PackedColt5Layer {
  PlacedFloats attention_norm, query_router, kv_router, ff_norm, ff_router;  // [C]
  std::unique_ptr<PackedMatrix> light_qkv;     // [3·HL·D, C], rows: queries, keys, values
  std::unique_ptr<PackedMatrix> light_output;  // [C, HL·D]
  std::unique_ptr<PackedMatrix> heavy_query;   // [HH·D, C]
  std::unique_ptr<PackedMatrix> heavy_kv;      // [2·HH·D, C], rows: keys, values
  std::unique_ptr<PackedMatrix> heavy_output;  // [C, HH·D]
  PackedFeedForward light_ff, heavy_ff;
};

// Immutable after Load; shared by all passes.
class Colt5Model final : public EncodingModel {
 public:
  // As EncoderModel::Load.
  static absl::StatusOr<std::shared_ptr<const Colt5Model>> Load(const std::string& name,
                                                                const std::string& dir,
                                                                Backend& backend);

  const std::string& name() const override { return name_; }
  const ModelInfo& info() const override { return info_; }
  const Tokenizer& tokenizer() const override { return *tokenizer_; }
  const std::string& revision() const override { return checkpoint_.revision; }
  ComputeType compute_type() const override { return compute_type_; }
  int64_t weight_bytes() const override { return weight_bytes_; }

  EncodePlan PlanEncode(const Backend& backend, const EncodeShape& shape) const override;
  absl::StatusOr<std::unique_ptr<EncodePass>> MakePass(
      Backend& backend, const AttentionPolicy& policy,
      const std::vector<PassSequence>& sequences) const override;
  const DecoderWeights* decoder() const override { return decoder_.get(); }

  const Colt5Config& config() const { return checkpoint_.config; }
  const AlignedTable& embeddings() const { return embeddings_; }  // [V, C]
  const std::vector<PackedColt5Layer>& layers() const { return layers_; }
  const PlacedFloats& final_norm() const { return final_norm_; }  // [C]
  const PackedMatrix* output() const { return output_.get(); }    // null without output_size

 private:
  Colt5Model() = default;
  absl::Status Pack(Backend& backend);

  std::string name_;
  Colt5Checkpoint checkpoint_;
  ModelInfo info_;
  std::unique_ptr<Tokenizer> tokenizer_;
  ComputeType compute_type_ = ComputeType::kF32;
  int64_t weight_bytes_ = 0;
  AlignedTable embeddings_;
  std::vector<PackedColt5Layer> layers_;
  PlacedFloats final_norm_;
  std::unique_ptr<PackedMatrix> output_;
  std::unique_ptr<DecoderWeights> decoder_;
};

}  // namespace longdoc

#include "engine/encoder_steps.h"

#include "engine/feed_forward.h"

namespace longdoc {
namespace {

bool GemmInBf16(const EncoderState& s) { return s.backend->info().gemm_type == DType::kBF16; }

absl::Status EnsureScratch(const EncoderState& s, int64_t rows, WorkerScratch& scratch) {
  const EncoderConfig& c = s.model->config();
  const int64_t gemm = static_cast<int64_t>(kernels::SizeOf(s.backend->info().gemm_type));
  RETURN_IF_ERROR(scratch.Ensure(scratch.wide, rows * 3 * c.hidden_size * 4));
  // In fp32 mode `input` widens attention outputs that are stored as bf16.
  RETURN_IF_ERROR(scratch.Ensure(scratch.input, rows * c.hidden_size * gemm));
  return scratch.Ensure(scratch.tile, rows * c.hidden_size * 4);
}

// out = LayerNorm(a + residual), with the bf16 copy that the next product reads where it needs one.
void Norm(const EncoderState& s, const NormVectors& norm, int64_t rows, const float* a,
          const float* residual, float* out, uint16_t* out_bf16) {
  const int64_t dim = s.model->config().hidden_size;
  kernels::AddLayerNormArgs args;
  args.rows = rows;
  args.dim = dim;
  args.a = a;
  args.a_stride = dim;
  args.residual = residual;
  args.gamma = norm.gamma.data();
  args.beta = norm.beta.data();
  args.epsilon = s.model->config().layer_norm_eps;
  args.out = out;
  args.out_stride = dim;
  args.out_bf16 = out_bf16;
  s.backend->AddLayerNorm(args);
}

// Variant B: a LayerNorm over the whole query (or key) vector, in place in the projected rows.
void NormColumns(const EncoderState& s, const NormVectors& norm, int64_t rows, float* columns,
                 int64_t stride) {
  kernels::AddLayerNormArgs args;
  args.rows = rows;
  args.dim = s.model->config().hidden_size;
  args.a = columns;
  args.a_stride = stride;
  args.gamma = norm.gamma.data();
  args.beta = norm.beta.data();
  args.epsilon = s.model->config().layer_norm_eps;
  args.out = columns;
  args.out_stride = stride;
  s.backend->AddLayerNorm(args);
}

// Queries, keys and values of a tile whose x (or its bf16 copy in scratch.input) is ready.
absl::Status Project(const EncoderState& s, size_t layer, TokenTile tile, WorkerScratch& scratch) {
  const int64_t dim = s.model->config().hidden_size;
  const PackedLayer& w = s.model->layers()[layer];
  const void* in = GemmInBf16(s) ? scratch.input.data() : s.x + tile.begin * dim;
  float* qkv = scratch.wide.as<float>();
  RETURN_IF_ERROR(w.qkv->Gemm(tile.rows, in, qkv));
  if (!w.query_norm.gamma.empty()) {
    NormColumns(s, w.query_norm, tile.rows, qkv, 3 * dim);
    NormColumns(s, w.key_norm, tile.rows, qkv + dim, 3 * dim);
  }
  s.attention->StoreQueries(tile.begin, tile.rows, qkv, 3 * dim);
  s.attention->StoreKeysValues(tile.begin, tile.rows, qkv + dim, 3 * dim);
  return absl::OkStatus();
}

// scratch.tile = the feed-forward of x, or of its bf16 copy in scratch.input.
absl::Status MixFeedForward(const EncoderState& s, const PackedLayer& w, const float* x,
                            int64_t rows, WorkerScratch& scratch) {
  FeedForward ff;
  ff.gate_up = w.gated.get();
  ff.down = w.down.get();
  ff.activate_second_half = s.model->config().family == EncoderFamily::kJinaBertB;
  const void* in = GemmInBf16(s) ? scratch.input.data() : x;
  return RunFeedForward(*s.backend, ff, rows, in, scratch.tile.as<float>(), scratch);
}

}  // namespace

absl::Status EmbedStep(const EncoderState& s, TokenTile tile, WorkerScratch& scratch) {
  RETURN_IF_ERROR(EnsureScratch(s, tile.rows, scratch));
  const EncoderConfig& c = s.model->config();
  kernels::EmbedArgs args;
  args.rows = tile.rows;
  args.dim = c.hidden_size;
  args.ids = s.ids + tile.begin;
  args.table_type = s.model->word().view().dtype;
  args.word = s.model->word().placed();
  args.type = s.model->token_type().data();
  args.gamma = s.model->embedding_norm().gamma.data();
  args.beta = s.model->embedding_norm().beta.data();
  args.epsilon = c.layer_norm_eps;
  args.out = s.x + tile.begin * c.hidden_size;
  args.out_bf16 = GemmInBf16(s) ? scratch.input.as<uint16_t>() : nullptr;
  s.backend->Embed(args);
  return Project(s, 0, tile, scratch);
}

absl::Status MixStep(const EncoderState& s, size_t layer, TokenTile tile, WorkerScratch& scratch) {
  RETURN_IF_ERROR(EnsureScratch(s, tile.rows, scratch));
  const PackedLayer& w = s.model->layers()[layer];
  float* x = s.x + tile.begin * s.model->config().hidden_size;
  float* y = scratch.tile.as<float>();
  uint16_t* bf16 = GemmInBf16(s) ? scratch.input.as<uint16_t>() : nullptr;

  RETURN_IF_ERROR(
      w.output->Gemm(tile.rows, s.attention->Outputs(tile.begin, tile.rows, scratch), y));
  if (w.norm_1.gamma.empty()) {
    Norm(s, w.attention_norm, tile.rows, y, x, x, bf16);
  } else {
    // Variant B adds the residual twice: once inside attention, once around it.
    Norm(s, w.attention_norm, tile.rows, y, x, y, nullptr);
    Norm(s, w.norm_1, tile.rows, y, x, x, bf16);
  }
  RETURN_IF_ERROR(MixFeedForward(s, w, x, tile.rows, scratch));
  Norm(s, w.mlp_norm, tile.rows, y, x, x, bf16);
  if (layer + 1 == s.model->layers().size()) return absl::OkStatus();
  return Project(s, layer + 1, tile, scratch);
}

}  // namespace longdoc

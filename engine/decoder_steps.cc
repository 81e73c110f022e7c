#include "engine/decoder_steps.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "engine/base/status_macros.h"
#include "engine/feed_forward.h"

namespace longdoc {
namespace {

int64_t GemmBytes(const DecoderState& s) {
  return static_cast<int64_t>(kernels::SizeOf(s.backend->info().gemm_type));
}

float AttentionScale(const DecoderState& s) {
  return 1.0f / std::sqrt(static_cast<float>(s.head_dim()));
}

char* Attended(const DecoderState& s, int64_t row) {
  return static_cast<char*>(s.attended) + row * s.inner() * GemmBytes(s);
}

// scratch.input = RMSNorm(y) in the products' input type, of the rows that `indices` lists, if any.
absl::Status Norm(const DecoderState& s, const PlacedFloats& gamma, RowRange tile,
                  WorkerScratch& scratch, const int32_t* indices = nullptr) {
  const int64_t dim = s.weights->config.hidden_size;
  RETURN_IF_ERROR(scratch.Ensure(scratch.input, tile.rows * dim * GemmBytes(s)));
  kernels::RmsNormArgs args;
  args.rows = tile.rows;
  args.dim = dim;
  args.x = indices == nullptr ? s.y + tile.begin * dim : s.y;
  args.x_stride = dim;
  args.indices = indices == nullptr ? nullptr : indices + tile.begin;
  args.gamma = gamma.data();
  args.epsilon = s.weights->config.rms_norm_eps;
  args.out_type = s.backend->info().gemm_type;
  args.out = scratch.input.data();
  s.backend->RmsNorm(args);
  return absl::OkStatus();
}

// y += scratch.tile
void AddResidual(const DecoderState& s, RowRange tile, const WorkerScratch& scratch) {
  kernels::ScatterAddArgs add;
  add.rows = tile.rows;
  add.dim = s.weights->config.hidden_size;
  add.in = scratch.tile.as<float>();
  add.out = s.y + tile.begin * add.dim;
  s.backend->ScatterAdd(add);
}

absl::Status EnsureTile(const DecoderState& s, RowRange tile, WorkerScratch& scratch) {
  return scratch.Ensure(scratch.tile, tile.rows * s.weights->config.hidden_size * 4);
}

// y += in · W^T
absl::Status AddProduct(const DecoderState& s, const PackedMatrix& w, const void* in, RowRange tile,
                        WorkerScratch& scratch) {
  RETURN_IF_ERROR(EnsureTile(s, tile, scratch));
  RETURN_IF_ERROR(w.Gemm(tile.rows, in, scratch.tile.as<float>()));
  AddResidual(s, tile, scratch);
  return absl::OkStatus();
}

// Keys and values of positions [begin, end) of a sequence into its cache, block by block. `qkv`:
// the product's row of position `begin`.
void StoreKeysOf(const DecoderState& s, size_t layer, const KvSequence& sequence, int64_t begin,
                 int64_t end, const float* qkv) {
  while (begin < end) {
    kernels::MqaStoreArgs args;
    args.first = begin % kernels::kKeyBlock;
    args.rows = std::min(kernels::kKeyBlock - args.first, end - begin);
    args.head_dim = static_cast<int32_t>(s.head_dim());
    args.storage = s.backend->info().storage_type;
    args.keys = qkv + s.inner();
    args.values = args.keys + s.head_dim();
    args.stride = s.qkv_width();
    args.block = sequence.Block(static_cast<int64_t>(layer), begin);
    s.backend->MqaStore(args);
    begin += args.rows;
    qkv += args.rows * args.stride;
  }
}

// Keys and values of a tile, from its qkv product, into the caches of its inputs.
void StoreKeys(const DecoderState& s, size_t layer, RowRange tile, const float* qkv) {
  const int64_t stride = s.qkv_width();
  if (s.whole != nullptr) {
    AppendKeysArgs args;
    args.cached = &s.cached;
    args.layer = static_cast<int64_t>(layer);
    args.begin = tile.begin;
    args.rows = tile.rows;
    args.keys = qkv + s.inner();
    args.values = args.keys + s.head_dim();
    args.stride = stride;
    return s.whole->Append(args);
  }
  const int64_t end = tile.begin + tile.rows;
  size_t i = std::upper_bound(s.cu_rows.begin(), s.cu_rows.end(), tile.begin) - s.cu_rows.begin();
  for (--i; i < s.inputs.size() && s.cu_rows[i] < end; ++i) {
    const DecoderInput& input = s.inputs[i];
    const int64_t to_position = input.first - s.cu_rows[i];
    const int64_t from = std::max(tile.begin, s.cu_rows[i]) + to_position;
    const int64_t to = std::min(end, s.cu_rows[i + 1]) + to_position;
    const auto row_of = [&](int64_t position) {
      return qkv + (position - to_position - tile.begin) * stride;
    };
    StoreKeysOf(s, layer, *input.keys, from, to, row_of(from));
    for (const KeyCopy& copy : input.copies) {
      const int64_t begin = std::max(from, copy.begin);
      StoreKeysOf(s, layer, *copy.keys, begin, std::min(to, copy.end), row_of(begin));
    }
  }
}

absl::Status ProjectSelf(const DecoderState& s, size_t layer, RowRange tile,
                         WorkerScratch& scratch) {
  const PackedDecoderLayer& w = s.weights->layers[layer];
  const int64_t stride = s.qkv_width();
  RETURN_IF_ERROR(Norm(s, w.self_norm, tile, scratch));
  if (s.whole != nullptr) {
    float* qkv = s.qkv + tile.begin * stride;
    RETURN_IF_ERROR(w.self_qkv->Gemm(tile.rows, scratch.input.data(), qkv));
    StoreKeys(s, layer, tile, qkv);
    return absl::OkStatus();
  }
  RETURN_IF_ERROR(scratch.Ensure(scratch.wide, tile.rows * stride * 4));
  float* qkv = scratch.wide.as<float>();
  RETURN_IF_ERROR(w.self_qkv->Gemm(tile.rows, scratch.input.data(), qkv));
  for (int64_t r = 0; r < tile.rows; ++r) {
    std::memcpy(s.q + (tile.begin + r) * s.inner(), qkv + r * stride, s.inner() * 4);
  }
  StoreKeys(s, layer, tile, qkv);
  return absl::OkStatus();
}

// Rows against all of their keys, in one call; `args` lacks what is the same for all.
absl::Status AttendWhole(const DecoderState& s, WholeMqaArgs args, WorkerScratch& scratch) {
  args.heads = static_cast<int32_t>(s.heads());
  args.scale = AttentionScale(s);
  args.out_type = s.backend->info().gemm_type;
  RETURN_IF_ERROR(scratch.Ensure(scratch.attention, s.whole->WorkspaceBytes(args)));
  args.workspace = scratch.attention.data();
  s.whole->Attend(args);
  return absl::OkStatus();
}

// y += FF(RMSNorm(y))
absl::Status AddFeedForward(const DecoderState& s, const PackedDecoderLayer& w, RowRange tile,
                            WorkerScratch& scratch) {
  RETURN_IF_ERROR(Norm(s, w.ff_norm, tile, scratch));
  RETURN_IF_ERROR(EnsureTile(s, tile, scratch));
  const FeedForward ff = {w.gate_up.get(), w.down.get(), /*activate_second_half=*/false,
                          /*tanh_form=*/true};
  RETURN_IF_ERROR(RunFeedForward(*s.backend, ff, tile.rows, scratch.input.data(),
                                 scratch.tile.as<float>(), scratch));
  AddResidual(s, tile, scratch);
  return absl::OkStatus();
}

// Where the partial results of one tile and part are: [tile query rows, D], and one float each for
// maxima and sums. A tile's parts follow one another, as MqaMerge wants them.
struct PartialAt {
  float* out;
  float* max;
  float* sum;
};

PartialAt Partial(const DecoderState& s, int64_t group_begin, RowRange tile, int64_t part) {
  const int64_t all = s.cross_parts * s.group_rows * s.heads();
  const int64_t row =
      s.cross_parts * (tile.begin - group_begin) * s.heads() + part * tile.rows * s.heads();
  float* max = s.partial + all * s.head_dim();
  return {s.partial + row * s.head_dim(), max + row, max + all + row};
}

void MergeCross(const DecoderState& s, int64_t group_begin, RowRange tile) {
  const PartialAt at = Partial(s, group_begin, tile, 0);
  kernels::MqaMergeArgs merge;
  merge.parts = s.cross_parts;
  merge.rows = tile.rows * s.heads();
  merge.head_dim = static_cast<int32_t>(s.head_dim());
  merge.partial_out = at.out;
  merge.partial_max = at.max;
  merge.partial_sum = at.sum;
  merge.out_type = s.backend->info().gemm_type;
  merge.out = Attended(s, tile.begin);
  s.backend->MqaMerge(merge);
}

}  // namespace

KvShape DecoderCacheShape(const DecoderWeights& weights, const BackendInfo& backend) {
  return {weights.config.decoder_layers, static_cast<int32_t>(weights.config.head_dim),
          backend.storage_type};
}

absl::Status DecoderEmbedStep(const DecoderState& s, RowRange tile, WorkerScratch& scratch) {
  kernels::EmbedArgs args;
  args.rows = tile.rows;
  args.dim = s.weights->config.hidden_size;
  args.ids = s.placed_ids + tile.begin;
  args.table_type = s.weights->embeddings_type;
  args.word = s.weights->embeddings;
  args.out = s.y + tile.begin * args.dim;
  s.backend->Embed(args);
  return ProjectSelf(s, 0, tile, scratch);
}

absl::Status DecoderSelfAttendStep(const DecoderState& s, size_t layer, RowRange rows,
                                   WorkerScratch& scratch) {
  if (s.whole != nullptr) {
    WholeMqaArgs whole;
    whole.cached = &s.cached;
    whole.layer = static_cast<int64_t>(layer);
    whole.slopes = s.weights->slopes.data();
    whole.rows = rows.rows;
    whole.q = s.qkv;
    whole.q_stride = s.qkv_width();
    whole.out = s.attended;
    return AttendWhole(s, whole, scratch);
  }
  const size_t input =
      std::upper_bound(s.cu_rows.begin(), s.cu_rows.end(), rows.begin) - s.cu_rows.begin() - 1;
  const int64_t query_rows = rows.rows * s.heads();
  const int32_t dim = static_cast<int32_t>(s.head_dim());
  RETURN_IF_ERROR(scratch.Ensure(scratch.wide, query_rows * (dim + 2) * 4));
  RETURN_IF_ERROR(scratch.Ensure(scratch.attention, s.backend->MqaScratchBytes(query_rows, dim)));
  const int64_t last_row = rows.begin + rows.rows - 1;
  const int64_t last = s.inputs[input].first + last_row - s.cu_rows[input];

  kernels::MqaPartialArgs args;
  args.keys = s.inputs[input].keys->Keys(static_cast<int64_t>(layer));
  args.block_end = last / kernels::kKeyBlock + 1;  // causal: nothing beyond is seen
  args.scale = AttentionScale(s);
  args.rows = query_rows;
  args.q = s.q + rows.begin * s.inner();
  args.slopes = s.slopes.data() + rows.begin * s.heads();
  args.positions = s.positions.data() + rows.begin * s.heads();
  args.out = scratch.wide.as<float>();
  args.max = args.out + query_rows * dim;
  args.sum = args.max + query_rows;
  args.scratch = scratch.attention.data();
  s.backend->MqaPartial(args);

  kernels::MqaMergeArgs merge;
  merge.parts = 1;
  merge.rows = query_rows;
  merge.head_dim = dim;
  merge.partial_out = args.out;
  merge.partial_max = args.max;
  merge.partial_sum = args.sum;
  merge.out_type = s.backend->info().gemm_type;
  merge.out = Attended(s, rows.begin);
  s.backend->MqaMerge(merge);
  return absl::OkStatus();
}

absl::Status DecoderSelfMixStep(const DecoderState& s, size_t layer, RowRange tile,
                                WorkerScratch& scratch) {
  const PackedDecoderLayer& w = s.weights->layers[layer];
  RETURN_IF_ERROR(AddProduct(s, *w.self_output, Attended(s, tile.begin), tile, scratch));
  RETURN_IF_ERROR(Norm(s, w.cross_norm, tile, scratch));
  return w.cross_query->Gemm(tile.rows, scratch.input.data(), s.q + tile.begin * s.inner());
}

absl::Status DecoderCrossStep(const DecoderState& s, size_t layer, int64_t group_begin,
                              RowRange tile, RowRange rows, int64_t part, WorkerScratch& scratch) {
  if (s.whole != nullptr) {
    WholeMqaArgs whole;
    whole.keys = s.document->Keys(layer);
    whole.rows = rows.rows;
    whole.q = s.q + rows.begin * s.inner();
    whole.q_stride = s.inner();
    whole.out = Attended(s, rows.begin);
    return AttendWhole(s, whole, scratch);
  }
  const int64_t query_rows = rows.rows * s.heads();
  const int64_t offset = (rows.begin - tile.begin) * s.heads();
  RETURN_IF_ERROR(
      scratch.Ensure(scratch.attention,
                     s.backend->MqaScratchBytes(query_rows, static_cast<int32_t>(s.head_dim()))));
  const PartialAt at = Partial(s, group_begin, tile, part);
  kernels::MqaPartialArgs args;
  args.keys = s.document->Keys(layer);
  args.block_begin = part * s.cross_blocks;
  args.block_end = std::min(args.block_begin + s.cross_blocks,
                            kernels::CeilDiv(s.document->tokens, kernels::kKeyBlock));
  args.scale = AttentionScale(s);
  args.rows = query_rows;
  args.q = s.q + rows.begin * s.inner();
  args.out = at.out + offset * s.head_dim();
  args.max = at.max + offset;
  args.sum = at.sum + offset;
  args.scratch = scratch.attention.data();
  s.backend->MqaPartial(args);
  return absl::OkStatus();
}

absl::Status DecoderCrossMixStep(const DecoderState& s, size_t layer, int64_t group_begin,
                                 RowRange tile, WorkerScratch& scratch) {
  const PackedDecoderLayer& w = s.weights->layers[layer];
  if (s.whole == nullptr) MergeCross(s, group_begin, tile);
  RETURN_IF_ERROR(AddProduct(s, *w.cross_output, Attended(s, tile.begin), tile, scratch));
  RETURN_IF_ERROR(AddFeedForward(s, w, tile, scratch));
  if (layer + 1 == s.weights->layers.size()) return absl::OkStatus();
  return ProjectSelf(s, layer + 1, tile, scratch);
}

absl::Status DecoderFinalNorm(const DecoderState& s, RowRange rows, const int32_t* indices,
                              WorkerScratch& scratch) {
  return Norm(s, s.weights->final_norm, rows, scratch, indices);
}

}  // namespace longdoc

// The steps of a decoder layer on a few rows. Formulas: docs/models.md (longdoc-CoLT5).
//
// A row is one input token of one sequence. All sequences attend to the same document, each also to
// its own past in the paged cache. In attention every row counts H times: heads are query rows that
// share the one key/value head.
#pragma once

#include <cstdint>
#include <vector>

#include "absl/status/status.h"
#include "absl/types/span.h"
#include "engine/backend.h"
#include "engine/cross_kv.h"
#include "engine/decoder_weights.h"
#include "engine/kv_cache.h"
#include "engine/whole_mqa.h"
#include "engine/worker_scratch.h"

namespace longdoc {

// Of the self-attention cache that a decoder fills on this backend.
KvShape DecoderCacheShape(const DecoderWeights& weights, const BackendInfo& backend);

// Positions [begin, end) of another sequence of the run that are those of this one.
struct KeyCopy {
  int64_t begin = 0, end = 0;
  KvSequence* keys = nullptr;  // has room for them in a page of its own
};

// The next inputs of one sequence.
struct DecoderInput {
  absl::Span<const int32_t> ids;  // the caller's until the run is over; not empty
  // Position of ids[0]. Keys below are in the cache already, or another input stores them: into
  // pages that both share, or as its copies.
  int64_t first = 0;
  KvSequence* keys = nullptr;  // has room for first + ids.size() positions
  // Where else its keys go; the caller's until the run is over. Only where attention is in parts.
  absl::Span<const KeyCopy> copies;
};

// Rows [begin, begin + rows) of a run.
struct RowRange {
  int64_t begin = 0;
  int64_t rows = 0;
};

// What the steps of a run work on. T rows, H heads of D. Pointers are memory of the device, vectors
// the host's.
//
// Attention is cut by rows and ranges of keys, whose partial results are merged; or it is the
// device's, all rows at once (`whole`), which then reads queries where the products put them.
struct DecoderState {
  Backend* backend = nullptr;
  const DecoderWeights* weights = nullptr;
  const CrossKv* document = nullptr;

  absl::Span<const DecoderInput> inputs;
  std::vector<int64_t> cu_rows;  // [inputs + 1]: where an input's rows begin
  std::vector<int32_t> ids;      // [T]
  const int32_t* placed_ids = nullptr;
  const double* placed_draws = nullptr;  // DecoderRunOptions::draws; where attention is whole

  float* y = nullptr;        // [T, C], the residual stream
  float* q = nullptr;        // [T, H·D], queries of the next attention
  void* attended = nullptr;  // [T, H·D] of the products' input type, outputs of the last one

  // Attention in parts.
  std::vector<int32_t> positions;  // [T·H], of each query row
  std::vector<float> slopes;       // [T·H]
  float* partial = nullptr;  // [parts · group rows · H, D + 2]: cross-attention before merging
  int64_t cross_parts = 0;   // the document's key blocks are cut into so many ranges
  int64_t cross_blocks = 0;  // of so many blocks each
  int64_t group_rows = 0;    // rows that `partial` has room for

  // Attention that is whole.
  WholeMqa* whole = nullptr;
  CachedRows cached;
  float* qkv = nullptr;  // [T, H·D + 2·D], of self-attention

  int64_t heads() const { return weights->config.decoder_heads; }
  int64_t head_dim() const { return weights->config.head_dim; }
  int64_t inner() const { return heads() * head_dim(); }
  int64_t qkv_width() const { return inner() + 2 * head_dim(); }
};

// y = embeddings of the inputs; then the first layer's self-attention queries, keys and values.
absl::Status DecoderEmbedStep(const DecoderState& s, RowRange tile, WorkerScratch& scratch);

// Causal self-attention of rows of one input; when it is whole, of all rows.
absl::Status DecoderSelfAttendStep(const DecoderState& s, size_t layer, RowRange rows,
                                   WorkerScratch& scratch);

// What follows it: output projection, residual, norm, the cross-attention's queries.
absl::Status DecoderSelfMixStep(const DecoderState& s, size_t layer, RowRange tile,
                                WorkerScratch& scratch);

// `rows` of a tile against part `part` of the document. `group_begin` is the first row of the group
// of tiles whose partial results are in memory together. When attention is whole there is one part,
// and nothing to merge.
absl::Status DecoderCrossStep(const DecoderState& s, size_t layer, int64_t group_begin,
                              RowRange tile, RowRange rows, int64_t part, WorkerScratch& scratch);

// What follows when all parts of a tile are there: merge, output projection, residual, the gated
// feed-forward; then the next layer's self-attention queries, keys and values.
absl::Status DecoderCrossMixStep(const DecoderState& s, size_t layer, int64_t group_begin,
                                 RowRange tile, WorkerScratch& scratch);

// After the last layer: scratch.input = RMSNorm(y) of `rows`, as the vocabulary's products read it;
// with `indices`, a device array, of the rows that stand in that range of it.
absl::Status DecoderFinalNorm(const DecoderState& s, RowRange rows, const int32_t* indices,
                              WorkerScratch& scratch);

}  // namespace longdoc

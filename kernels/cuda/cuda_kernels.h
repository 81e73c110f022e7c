// The CUDA kernels: the ops of cpu_kernels.h on device memory.
//
// Every pointer inside an argument struct is device memory unless its comment says host; the
// structs themselves are read before the call returns. Calls only enqueue work on `stream` and
// return the launch's error; nothing here allocates or synchronises. Calls on one stream run in
// order; any host thread may call. Offsets are 64-bit throughout. Sums are fp32; results are
// deterministic (no floating-point atomics).
//
// Two builds: sm_90a (wgmma and TMA, for attention) and sm_80 (mma.sync), the latter as PTX too,
// for every other architecture. The runtime picks; `DescribeDevice` says which.
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>

#include "kernels/attention.h"
#include "kernels/cpu_kernels.h"
#include "kernels/decode.h"
#include "kernels/routing.h"
#include "kernels/similarity.h"

namespace longdoc::kernels::cuda {

// ---- attention, see kernels/attention.h -------------------------------------------------------

// A tensor [T, heads, D] of p.storage whose rows are `stride` elements apart; 16-byte aligned rows.
struct Rows {
  void* data = nullptr;
  int64_t stride = 0;
};

// One attention layer. `problem` gives shape, mask, skipping and storage (kBF16 or kF16; D a
// multiple of 16 up to 128); its arrays (cu_seqlens, slopes, positions, block list) are device
// pointers here, its q, kv and bounds are not read.
struct AttentionArgs {
  AttentionProblem problem;
  int64_t total_q = 0, total_k = 0;  // T of the queries and of the keys: cu_seqlens[B] of each
  int64_t max_q = 0, max_k = 0;      // longest sequence
  float max_slope = 0;               // 0: no head has a bias
  Rows q, k, v;                      // q [Tq, H, D], k and v [Tk, Hk, D]
  Rows o;                            // [Tq, H, D]; may be q itself
  float* lse = nullptr;              // [H, Tq] ln of the softmax sums, or null
  void* workspace = nullptr;         // AttentionWorkspaceBytes(), 256-byte aligned
  // [B] added to by every call; tiles of the kernel's own size, see AttentionTile(). Or null.
  AttentionStats* stats = nullptr;
};

struct TileShape {
  int32_t queries = 0, keys = 0;
};
// The tile of a head dim on compute capability `major`.x, the unit of AttentionStats.
TileShape AttentionTile(int32_t head_dim, int major);

int64_t AttentionWorkspaceBytes(const AttentionArgs& args);
// Norms, position sums, key ranges and the attention itself: one layer.
cudaError_t Attention(const AttentionArgs& args, cudaStream_t stream);

// ---- dense rows --------------------------------------------------------------------------------

cudaError_t Embed(const EmbedArgs& args, cudaStream_t stream);
cudaError_t AddLayerNorm(const AddLayerNormArgs& args, cudaStream_t stream);
cudaError_t GatedGelu(const GatedGeluArgs& args, cudaStream_t stream);
// Conversions between types, rows of `columns` elements with their own strides.
struct ConvertArgs {
  int64_t rows = 0, columns = 0;
  DType in_type = DType::kF32, out_type = DType::kF32;
  const void* in = nullptr;
  void* out = nullptr;
  int64_t in_stride = 0, out_stride = 0;  // elements
};
cudaError_t Convert(const ConvertArgs& args, cudaStream_t stream);

// Many spans in one pass: see cpu_kernels.h.
using kernels::PoolArgs;
int64_t PoolWorkspaceBytes(const PoolArgs& args);
cudaError_t MeanPool(const PoolArgs& args, cudaStream_t stream);

// ---- conditional computation, see kernels/routing.h --------------------------------------------

cudaError_t RmsNorm(const RmsNormArgs& args, cudaStream_t stream);
// args.scratch: RouteWorkspaceBytes(n). Indices and ties as on every backend, bit for bit; weights
// agree with the host's to rounding. n up to 2^20 in the time that counts, any n in memory.
int64_t RouteWorkspaceBytes(int64_t n);
cudaError_t Route(const RouteArgs& args, cudaStream_t stream);
cudaError_t ScatterAdd(const ScatterAddArgs& args, cudaStream_t stream);
// The same for those rows alone whose index is in [begin, end).
cudaError_t ScatterAddWithin(const ScatterAddArgs& args, int64_t begin, int64_t end,
                             cudaStream_t stream);

// What a pass keeps of a routing of one sequence: rows of the whole pass, and counts.
struct NoteRoutedArgs {
  int64_t k = 0;
  const int32_t* indices = nullptr;  // [k] ascending
  const float* weights = nullptr;    // [k]
  int32_t first_row = 0;
  int32_t* rows = nullptr;      // [k] indices + first_row
  double* weight = nullptr;     // added to: the sum of the weights
  int64_t* repeated = nullptr;  // added to, if `compare`: how many of `indices` are in `previous`
  int32_t* previous = nullptr;  // [k] ascending; becomes `indices`. Or null
  bool compare = false;
};
cudaError_t NoteRouted(const NoteRoutedArgs& args, cudaStream_t stream);

// ---- late interaction, see kernels/similarity.h -------------------------------------------------

// Columns up to 2^22, rows of a tile up to 2^31 - 1; scratch: the bytes below.
int64_t ColumnMaximaWorkspaceBytes(int64_t rows, int64_t columns);
cudaError_t ColumnMaxima(const ColumnMaximaArgs& args, cudaStream_t stream);
// Up to 2^16 - 1 candidates in one call.
cudaError_t SumMaxima(const SumMaximaArgs& args, cudaStream_t stream);
cudaError_t UnitRows(const UnitRowsArgs& args, cudaStream_t stream);

// ---- decoder, see kernels/decode.h --------------------------------------------------------------
//
// Nothing that changes from one decoding step to the next is read by the host: positions, key
// counts, page tables and row ranges lie in device memory, so that a captured graph of a step can
// be replayed while a sequence grows. What the host knows (partial.keys.keys, max_rows) are upper
// bounds, which size grids and workspaces.

// On the device a block of kKeyBlock tokens is [64, D] keys, then [64, D] values, row-major, of
// kBF16 or kF16. `rows` may run over into the blocks that follow `block` contiguously.
cudaError_t MqaStore(const MqaStoreArgs& args, cudaStream_t stream);

// New keys and values into the pages of many sequences: all of a layer in one call.
struct MqaAppendArgs {
  int64_t rows = 0;
  int32_t head_dim = 0;
  DType storage = DType::kBF16;
  const float* keys = nullptr;         // [rows, D], row stride `stride`
  const float* values = nullptr;       // [rows, D], row stride `stride`
  int64_t stride = 0;                  // elements
  const int32_t* positions = nullptr;  // [rows] in its sequence; a negative row is not stored
  const int32_t* sequences = nullptr;  // [rows], or null: row r is of sequence r
  const void* const* pages = nullptr;  // [sequences, table_stride]
  int64_t table_stride = 0;            // pages
  int64_t page_blocks = 0;             // blocks in a page
  int64_t page_offset = 0;             // bytes from a page's start to the layer's first block
};
cudaError_t MqaAppend(const MqaAppendArgs& args, cudaStream_t stream);

// All rows against all keys, split over the device and merged: MqaPartial and MqaMerge in one. In
// `partial`, pages is a device array of device pointers; out, max, sum, scratch and the block range
// are not read. partial.keys.keys is the number of keys, or the largest of any sequence; scale > 0;
// D a multiple of 16 up to 128; q is rounded to the storage type; at most 2^31 - 1 rows and keys.
struct MqaArgs {
  MqaPartialArgs partial;
  // Not 0: row r is head r % heads of token r / heads. Then slopes is [heads], positions is
  // [rows / heads], and the queries of a token are `q_stride` (even) floats apart.
  int32_t heads = 0;
  int64_t q_stride = 0;
  // More than one: rows [cu_rows[s], cu_rows[s+1]) attend to the keys of sequence s, whose pages
  // begin at partial.keys.pages[s * table_stride]. Keys in one piece are one large page.
  int64_t sequences = 1;
  int64_t max_rows = 0;                 // most rows of one sequence; not read for one sequence
  const int64_t* cu_rows = nullptr;     // [sequences + 1] ascending from 0; null for one sequence
  const int64_t* key_counts = nullptr;  // [sequences], each <= keys.keys; null: keys.keys each
  int64_t table_stride = 0;             // pages
  int64_t page_offset = 0;              // bytes from a page's start to the layer's first block
  DType out_type = DType::kF32;
  void* out = nullptr;        // [rows, D] normalised
  void* workspace = nullptr;  // MqaWorkspaceBytes(), 16-byte aligned
};
int64_t MqaWorkspaceBytes(const MqaArgs& args);  // reads sizes only; of the current device
int64_t MqaWorkspaceBytes(int64_t rows, int64_t keys, int32_t head_dim);  // of one sequence
cudaError_t Mqa(const MqaArgs& args, cudaStream_t stream);

cudaError_t LogSoftmaxTile(const LogSoftmaxTileArgs& args, cudaStream_t stream);

// The next token of each row from its logits [rows, V]: the rules of engine/sampler.h, with the
// uniform number given. Where logits are not finite the token is -1. Weights are rounded to
// multiples of about 2^-62 V of the largest, so that their sums do not depend on an order.
struct SampleArgs {
  int64_t rows = 0, vocabulary = 0;
  const float* logits = nullptr;  // [rows, V] dense
  float scale = 1;                // > 0, multiplies the logits first
  float temperature = 0;          // 0: greedy
  int32_t top_k = 0;              // 0: all
  float top_p = 1;
  const double* uniform = nullptr;  // [rows] in [0, 1); not read when greedy
  int32_t* tokens = nullptr;        // [rows]
  float* log_probs = nullptr;  // [rows] of the token under the untempered distribution, or null
  void* workspace = nullptr;   // SampleWorkspaceBytes(rows, vocabulary), 16-byte aligned
};
int64_t SampleWorkspaceBytes(int64_t rows, int64_t vocabulary);
cudaError_t Sample(const SampleArgs& args, cudaStream_t stream);

}  // namespace longdoc::kernels::cuda

// The attention of a packed problem, layer after layer, for callers that know nothing of CUDA:
// which memory it wants, rows in, a layer cut into groups of heads.
//
// Q is [Tq, H, D], which the outputs overwrite; K and V are [Tk, 2, Hk, D], as one product lays
// them out. All bf16.
#pragma once

#include <cstdint>

#include "kernels/attention.h"

namespace longdoc::kernels::cuda {

class Runtime;

class AttentionLayer {
 public:
  // Arrays of `problem` but the positions are the host's, and outlive this, as the runtime does.
  AttentionLayer(Runtime& runtime, const AttentionProblem& problem);

  // What the problem takes, of any runtime.
  struct Sizes {
    int64_t q_bytes = 0, kv_bytes = 0, workspace_bytes = 0;
    int64_t total() const { return q_bytes + kv_bytes + workspace_bytes; }
  };
  static Sizes SizesOf(const AttentionProblem& problem);

  // Memory of the device. `arrays` has copies of the problem's arrays in it; `stats` [B], which
  // every layer adds to.
  void Bind(const AttentionProblem& arrays, void* q, void* kv, void* workspace,
            AttentionStats* stats);

  // fp32 rows of tokens [begin, begin + rows): queries [H·D]; [Hk·D keys | Hk·D values].
  void StoreQueries(int64_t begin, int64_t rows, const float* q, int64_t stride);
  void StoreKeysValues(int64_t begin, int64_t rows, const float* kv, int64_t stride);
  // Groups of heads such that one of them takes a few tens of milliseconds at most; 0 without
  // queries.
  int32_t num_groups() const { return num_groups_; }
  void Attend(int32_t group);
  const void* Outputs(int64_t begin) const;  // row `begin`, and those after it

  // The kernel's counts in tiles of kQueryBlock x kKeyBlock.
  AttentionStats InHostTiles(AttentionStats stats) const;

 private:
  void PlanGroups();
  void Store(int64_t begin, int64_t rows, const float* in, int64_t stride, int64_t width,
             void* out);

  Runtime& rt_;
  const AttentionProblem host_;
  AttentionProblem arrays_;
  void *q_ = nullptr, *kv_ = nullptr, *workspace_ = nullptr;
  AttentionStats* stats_ = nullptr;
  int32_t num_groups_ = 0, heads_per_group_ = 0;  // key/value heads
};

}  // namespace longdoc::kernels::cuda

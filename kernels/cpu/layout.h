// Where the CPU kernels keep packed keys, values and norms. Private to kernels/cpu.
//
// Slots. The key blocks of sequence s own the slots [SlotBase(s), SlotBase(s) + blocks), with
// SlotBase(s) = floor(keys before s / 64) + s: found in O(1) for any sequence, never overlapping
// (ceil(n/64) <= floor((c+n)/64) - floor(c/64) + 1), at most one slot wasted per sequence.
//
// kv:     slot-major per sequence: ((SlotBase·Hk) + kv_head·blocks + block) · (K panel | V panel),
//         each panel 64·D elements of `storage`, in an order that belongs to the instruction set.
// bounds: per (sequence, kv head) a header and the centre c[D]; then per (kv head, block) two
// norms; then, for gathered tokens, per (sequence, head) the position sums of every key, left and
// right.
//
// This header is compiled under several instruction-set flags. Its functions therefore have
// internal linkage: an inline function shared between those objects could be resolved to a copy
// with instructions that the running CPU does not have.
#pragma once

#include <cstdint>

#include "kernels/attention.h"
#include "kernels/ranges.h"

namespace longdoc::kernels {
namespace {  // NOLINT: internal linkage is the point, see above

// Floats at the start of the record of one (sequence, kv head) in `bounds`.
enum BoundsField : int64_t {
  kBoundCentredNorm = 0,  // max over keys of |k - c|
  kBoundRawNorm = 1,      // max over keys of |k|
  kBoundFinite = 2,       // 1 when every stored key and value is finite, else 0
  kBoundHeader = 16,
};

// Where the keys of the sequences begin: [B + 1].
inline const int64_t* KeyOffsets(const AttentionProblem& p) {
  return p.cu_seqlens_k != nullptr ? p.cu_seqlens_k : p.cu_seqlens;
}

inline int64_t KeyCount(const AttentionProblem& p, int64_t sequence) {
  return KeyOffsets(p)[sequence + 1] - KeyOffsets(p)[sequence];
}

inline int64_t Blocks(int64_t tokens) { return (tokens + kKeyBlock - 1) / kKeyBlock; }

inline int64_t SlotBase(int64_t first_token, int64_t sequence) {
  return first_token / kKeyBlock + sequence;
}

// Slots for `tokens` tokens in `sequences` sequences, whatever their lengths.
inline int64_t SlotCount(int64_t tokens, int64_t sequences) {
  return tokens / kKeyBlock + sequences;
}

// Elements of a key block: the K panel, then the V panel.
inline int64_t BlockElements(int64_t head_dim) { return 2 * kKeyBlock * head_dim; }

// Element offset in `kv` of key block `block` of a (sequence, kv head).
inline int64_t KvBlockOffset(const AttentionProblem& p, int64_t sequence, int64_t kv_head,
                             int64_t block) {
  const int64_t begin = KeyOffsets(p)[sequence];
  const int64_t blocks = Blocks(KeyCount(p, sequence));
  return (SlotBase(begin, sequence) * p.num_kv_heads + kv_head * blocks + block) *
         BlockElements(p.head_dim);
}

// Float offset in `bounds` of the record (header, centre) of a (sequence, kv head).
inline int64_t BoundsRecordOffset(const AttentionProblem& p, int64_t sequence, int64_t kv_head) {
  return (sequence * p.num_kv_heads + kv_head) * (kBoundHeader + p.head_dim);
}

// Float offset in `bounds` of the norms of a (sequence, kv head): `blocks` maxima over blocks
// 0..b (for the left side), then `blocks` maxima over blocks b..last (for the right side).
inline int64_t BoundsNormOffset(const AttentionProblem& p, int64_t sequence, int64_t kv_head) {
  const int64_t begin = KeyOffsets(p)[sequence];
  const int64_t blocks = Blocks(KeyCount(p, sequence));
  return p.num_sequences * p.num_kv_heads * (kBoundHeader + p.head_dim) +
         2 * (SlotBase(begin, sequence) * p.num_kv_heads + kv_head * blocks);
}

// Float offset in `bounds` of the position sums of a (sequence, head): one float per key for the
// left side, then one per key for the right side (gathered.h).
inline int64_t PositionSumsOffset(const AttentionProblem& p, int64_t sequence, int64_t head) {
  const int64_t slots = SlotCount(KeyOffsets(p)[p.num_sequences], p.num_sequences);
  return p.num_kv_heads * (p.num_sequences * (kBoundHeader + p.head_dim) + 2 * slots) +
         2 * (KeyOffsets(p)[sequence] * p.num_heads + head * KeyCount(p, sequence));
}

}  // namespace
}  // namespace longdoc::kernels

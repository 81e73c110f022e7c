#include "kernels/attention.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "kernels/cpu/layout.h"
#include "kernels/ranges.h"

namespace longdoc::kernels {
namespace {

constexpr int64_t kMaxTokens = int64_t{1} << 40;
constexpr int32_t kMaxHeads = 1 << 16;
constexpr float kMaxSlope = 1e6f;

const char* CheckOffsets(const int64_t* offsets, int64_t num_sequences) {
  if (offsets[0] != 0) return "cu_seqlens must start at 0";
  for (int64_t s = 0; s < num_sequences; ++s) {
    if (offsets[s + 1] < offsets[s]) return "cu_seqlens must ascend";
  }
  return offsets[num_sequences] > kMaxTokens ? "more than 2^40 tokens" : "";
}

// Ascending and distinct within every sequence, from 0.
bool ArePositions(const int32_t* positions, const int64_t* offsets, int64_t num_sequences) {
  for (int64_t s = 0; s < num_sequences; ++s) {
    int64_t last = -1;
    for (int64_t t = offsets[s]; t < offsets[s + 1]; ++t) {
      if (positions[t] <= last) return false;
      last = positions[t];
    }
  }
  return true;
}

const char* CheckGathered(const AttentionProblem& p) {
  if (p.cu_seqlens_k == nullptr) {
    return p.q_positions != nullptr || p.k_positions != nullptr
               ? "positions need cu_seqlens_k and the other way round"
               : "";
  }
  const char* error = CheckOffsets(p.cu_seqlens_k, p.num_sequences);
  if (*error != '\0') return error;
  if ((p.cu_seqlens[p.num_sequences] > 0 && p.q_positions == nullptr) ||
      (p.cu_seqlens_k[p.num_sequences] > 0 && p.k_positions == nullptr)) {
    return "positions need cu_seqlens_k and the other way round";
  }
  if (!ArePositions(p.q_positions, p.cu_seqlens, p.num_sequences)) {
    return "q_positions must be distinct and ascend from 0 or more within a sequence";
  }
  if (!ArePositions(p.k_positions, p.cu_seqlens_k, p.num_sequences)) {
    return "k_positions must be distinct and ascend from 0 or more within a sequence";
  }
  if (p.mask.causal || p.mask.window_radius >= 0 || p.mask.block_row_offsets != nullptr) {
    return "gathered tokens cannot be combined with a mask";
  }
  return "";
}

const char* CheckMask(const AttentionProblem& p) {
  const AttentionMask& mask = p.mask;
  if (mask.num_global < 0) return "mask.num_global must not be negative";
  if (mask.block_row_offsets == nullptr) return "";
  if (mask.window_radius >= 0) return "a block list cannot be combined with a window";
  if (mask.block_tokens <= 0 || mask.block_tokens % kKeyBlock != 0) {
    return "mask.block_tokens must be a positive multiple of 64";
  }
  int64_t row = 0;
  for (int64_t s = 0; s < p.num_sequences; ++s) {
    const int64_t blocks = CeilDiv(p.cu_seqlens[s + 1] - p.cu_seqlens[s], mask.block_tokens);
    for (int64_t r = 0; r < blocks; ++r, ++row) {
      const int64_t begin = mask.block_row_offsets[row], end = mask.block_row_offsets[row + 1];
      if (begin < 0 || end < begin) return "mask.block_row_offsets must ascend from 0";
      if (end > begin && mask.block_columns == nullptr) return "mask.block_columns is null";
      int64_t last = -1;
      for (int64_t e = begin; e < end; ++e) {
        const int64_t column = mask.block_columns[e];
        if (column <= last) return "mask.block_columns must ascend within a row";
        if (column >= blocks) return "mask.block_columns names a block beyond the sequence";
        last = column;
      }
    }
  }
  return "";
}

}  // namespace

const char* CheckAttentionProblem(const AttentionProblem& p) {
  if (p.num_sequences < 0) return "num_sequences must not be negative";
  if (p.cu_seqlens == nullptr) return "cu_seqlens is null";
  const char* error = CheckOffsets(p.cu_seqlens, p.num_sequences);
  if (*error == '\0') error = CheckGathered(p);
  if (*error != '\0') return error;
  if (p.num_heads <= 0 || p.num_heads > kMaxHeads) return "num_heads must be in [1, 65536]";
  if (p.num_kv_heads <= 0 || p.num_heads % p.num_kv_heads != 0) {
    return "num_kv_heads must divide num_heads";
  }
  if (p.head_dim <= 0 || p.head_dim > 256 || p.head_dim % 16 != 0) {
    return "head_dim must be a multiple of 16 in [16, 256]";
  }
  if (!std::isfinite(p.scale)) return "scale must be finite";
  if (p.slopes == nullptr) return "slopes is null";
  for (int32_t h = 0; h < p.num_heads; ++h) {
    if (!(p.slopes[h] >= 0 && p.slopes[h] <= kMaxSlope)) return "slopes must be in [0, 1e6]";
  }
  if (p.storage != DType::kF32 && p.storage != DType::kBF16) return "storage must be f32 or bf16";
  if (p.skip == SkipMode::kTolerance && !(p.epsilon > 0 && p.epsilon < 1)) {
    return "epsilon must be in (0, 1)";
  }
  if ((p.cu_seqlens[p.num_sequences] > 0 && p.q == nullptr) ||
      (KeyOffsets(p)[p.num_sequences] > 0 && (p.kv == nullptr || p.bounds == nullptr))) {
    return "q, kv or bounds is null";
  }
  return CheckMask(p);
}

int64_t AttentionKvBytesUpperBound(int64_t tokens, int64_t sequences, int32_t num_kv_heads,
                                   int32_t head_dim, DType storage) {
  return SlotCount(tokens, sequences) * num_kv_heads * BlockElements(head_dim) *
         static_cast<int64_t>(SizeOf(storage));
}

int64_t AttentionKvBytes(const AttentionProblem& p) {
  return AttentionKvBytesUpperBound(KeyOffsets(p)[p.num_sequences], p.num_sequences, p.num_kv_heads,
                                    p.head_dim, p.storage);
}

int64_t AttentionBoundsBytes(const AttentionProblem& p) {
  const int64_t keys = KeyOffsets(p)[p.num_sequences], slots = SlotCount(keys, p.num_sequences);
  int64_t floats = (p.num_sequences * (kBoundHeader + p.head_dim) + 2 * slots) * p.num_kv_heads;
  if (p.cu_seqlens_k != nullptr) floats += 2 * keys * p.num_heads;
  return floats * static_cast<int64_t>(sizeof(float));
}

int64_t SkipDistance(SkipMode mode, float slope, float b, float epsilon) {
  if (mode == SkipMode::kDense) return std::numeric_limits<int64_t>::max();
  return DistanceOfSpread(SkipSpread(mode, epsilon), slope, b);
}

}  // namespace longdoc::kernels

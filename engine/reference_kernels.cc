#include "engine/reference_kernels.h"

#include <algorithm>
#include <cstring>
#include <vector>

#include "kernels/reference/reference.h"

namespace longdoc {
namespace {

using kernels::AttentionProblem;
using kernels::AttentionStats;
using kernels::AttentionUnit;

const int64_t* KeyOffsets(const AttentionProblem& p) {
  return p.cu_seqlens_k != nullptr ? p.cu_seqlens_k : p.cu_seqlens;
}

// k and v rows lie one after the other: kv = [Tk, Hk·D] keys, then [Tk, Hk·D] values.
struct PlainKv {
  float* k;
  float* v;
  int64_t row;  // Hk·D
};

PlainKv Rows(const AttentionProblem& p) {
  const int64_t row = int64_t{p.num_kv_heads} * p.head_dim;
  float* k = static_cast<float*>(p.kv);
  return {k, k + KeyOffsets(p)[p.num_sequences] * row, row};
}

void StoreQueries(const AttentionProblem& p, int64_t token_begin, int64_t rows, const float* q,
                  int64_t stride) {
  const int64_t row = int64_t{p.num_heads} * p.head_dim;
  for (int64_t r = 0; r < rows; ++r) {
    std::memcpy(static_cast<float*>(p.q) + (token_begin + r) * row, q + r * stride,
                row * sizeof(float));
  }
}

void StoreKeysValues(const AttentionProblem& p, int64_t token_begin, int64_t rows, const float* kv,
                     int64_t stride) {
  const PlainKv to = Rows(p);
  for (int64_t r = 0; r < rows; ++r) {
    const float* in = kv + r * stride;
    const int64_t t = token_begin + r;
    std::memcpy(to.k + t * to.row, in, to.row * sizeof(float));
    std::memcpy(to.v + t * to.row, in + to.row, to.row * sizeof(float));
  }
}

void Bound(const AttentionProblem&, int64_t, int32_t) {}

std::vector<AttentionUnit> PlanUnits(const AttentionProblem& p, int64_t) {
  std::vector<AttentionUnit> units;
  for (int64_t s = 0; s < p.num_sequences; ++s) {
    const int64_t n = p.cu_seqlens[s + 1] - p.cu_seqlens[s];
    const int64_t keys = KeyOffsets(p)[s + 1] - KeyOffsets(p)[s];
    const double cost = static_cast<double>(n) * static_cast<double>(keys + 1);
    if (n > 0) units.push_back({s, 0, n, 0, p.num_heads, cost});
  }
  return units;
}

int64_t AttendScratchBytes(const AttentionProblem&) { return 0; }

// The naive function takes a whole packed problem: give it this unit's sequence alone.
void Attend(const AttentionProblem& p, const AttentionUnit& unit, void*, AttentionStats* stats) {
  const int64_t begin = p.cu_seqlens[unit.sequence];
  const int64_t n = p.cu_seqlens[unit.sequence + 1] - begin;
  const int64_t q_row = int64_t{p.num_heads} * p.head_dim;
  const PlainKv kv = Rows(p);
  const int64_t key_begin = KeyOffsets(p)[unit.sequence];
  const int64_t keys = KeyOffsets(p)[unit.sequence + 1] - key_begin;
  float* q = static_cast<float*>(p.q) + begin * q_row;
  const std::vector<float> queries(q, q + n * q_row);
  const int64_t cu_seqlens[2] = {0, n}, cu_seqlens_k[2] = {0, keys};
  AttentionProblem one = p;
  one.num_sequences = 1;
  one.cu_seqlens = cu_seqlens;
  if (p.cu_seqlens_k != nullptr) {
    one.cu_seqlens_k = cu_seqlens_k;
    one.q_positions = p.q_positions + begin;
    one.k_positions = p.k_positions + key_begin;
  }
  kernels::reference::Attention(one, queries.data(), kv.k + key_begin * kv.row,
                                kv.v + key_begin * kv.row, q);
  const int64_t tiles = kernels::CeilDiv(n, kernels::kQueryBlock) *
                        kernels::CeilDiv(keys, kernels::kKeyBlock) * p.num_heads;
  stats->tiles_computed += tiles;
  stats->tiles_dense += tiles;
}

void F32ToBf16(const float* in, int64_t n, uint16_t* out) {
  for (int64_t i = 0; i < n; ++i) {
    uint32_t bits;
    std::memcpy(&bits, &in[i], 4);
    const bool nan = (bits & 0x7fffffff) > 0x7f800000;
    out[i] = static_cast<uint16_t>(nan ? (bits >> 16) | 0x40
                                       : (bits + 0x7fff + ((bits >> 16) & 1)) >> 16);
  }
}

void Bf16ToF32(const uint16_t* in, int64_t n, float* out) {
  for (int64_t i = 0; i < n; ++i) {
    const uint32_t bits = static_cast<uint32_t>(in[i]) << 16;
    std::memcpy(&out[i], &bits, 4);
  }
}

kernels::CpuKernels MakeTable() {
  kernels::CpuKernels table{};
  table.isa = kernels::CpuIsa::kPortable;
  table.name = "reference";
  table.native_bf16 = false;
  table.StoreQueries = StoreQueries;
  table.StoreKeysValues = StoreKeysValues;
  table.Bound = Bound;
  table.PlanUnits = PlanUnits;
  table.AttendScratchBytes = AttendScratchBytes;
  table.Attend = Attend;
  table.AddLayerNorm = kernels::reference::AddLayerNorm;
  table.GatedGelu = kernels::reference::GatedGelu;
  table.Embed = kernels::reference::Embed;
  table.RmsNorm = kernels::reference::RmsNorm;
  table.Route = kernels::reference::Route;
  table.ScatterAdd = kernels::reference::ScatterAdd;
  table.MqaStore = kernels::reference::MqaStore;
  table.MqaScratchBytes = [](int64_t, int32_t) -> int64_t { return 0; };
  table.MqaPartial = kernels::reference::MqaPartial;
  table.MqaMerge = kernels::reference::MqaMerge;
  table.LogSoftmaxTile = kernels::reference::LogSoftmaxTile;
  table.MeanPool = kernels::reference::MeanPool;
  table.F32ToBf16 = F32ToBf16;
  table.Bf16ToF32 = Bf16ToF32;
  return table;
}

}  // namespace

const kernels::CpuKernels& ReferenceKernels() {
  static const kernels::CpuKernels table = MakeTable();
  return table;
}

}  // namespace longdoc

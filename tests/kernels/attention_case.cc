#include "tests/kernels/attention_case.h"

#include <algorithm>
#include <atomic>
#include <cstdlib>
#include <thread>

#include "kernels/cpu/tables.h"
#include "tests/kernels/test_data.h"

namespace longdoc::kernels::testing {
namespace {

float LoadElement(DType storage, const void* base, int64_t i) {
  if (storage == DType::kF32) return static_cast<const float*>(base)[i];
  return FromBf16(static_cast<const uint16_t*>(base)[i]);
}

// Stores tiles of `store_rows` tokens, thread t every threads-th one: neighbours share key blocks.
void Store(const CpuKernels& kernels, const AttentionProblem& p, const AttentionCase& c,
           const AttentionTensors& t, const Partition& partition) {
  const int64_t dim = c.dim, q_width = c.heads * dim, kv_width = c.kv_heads * dim;
  const int64_t stride = std::max(q_width, 2 * kv_width) + 3, step = partition.store_rows;
  auto work = [&](int thread) {
    std::vector<float> rows(step * stride);
    for (int64_t begin = thread * step; begin < c.tokens(); begin += partition.threads * step) {
      const int64_t count = std::min(step, c.tokens() - begin);
      for (int64_t r = 0; r < count; ++r) {
        std::copy_n(t.q.data() + (begin + r) * q_width, q_width, rows.data() + r * stride);
      }
      kernels.StoreQueries(p, begin, count, rows.data(), stride);
    }
    for (int64_t begin = thread * step; begin < c.keys(); begin += partition.threads * step) {
      const int64_t count = std::min(step, c.keys() - begin);
      for (int64_t r = 0; r < count; ++r) {
        float* to = rows.data() + r * stride;
        std::copy_n(t.k.data() + (begin + r) * kv_width, kv_width, to);
        std::copy_n(t.v.data() + (begin + r) * kv_width, kv_width, to + kv_width);
      }
      kernels.StoreKeysValues(p, begin, count, rows.data(), stride);
    }
  };
  std::vector<std::thread> threads;
  for (int thread = 1; thread < partition.threads; ++thread) threads.emplace_back(work, thread);
  work(0);
  for (std::thread& thread : threads) thread.join();
}

AttentionStats RunUnits(const CpuKernels& kernels, const AttentionProblem& p,
                        const Partition& partition) {
  std::vector<AttentionUnit> units = kernels.PlanUnits(p, partition.rows_per_unit);
  if (partition.reverse) std::reverse(units.begin(), units.end());
  std::atomic<size_t> next{0};
  std::vector<AttentionStats> stats(partition.threads);
  auto work = [&](int thread) {
    Buffer scratch(kernels.AttendScratchBytes(p), 0xff);  // NaNs: nothing may rely on its content
    for (size_t u = next++; u < units.size(); u = next++) {
      kernels.Attend(p, units[u], scratch.get(), &stats[thread]);
    }
    if (!scratch.GuardIntact()) std::abort();
  };
  std::vector<std::thread> threads;
  for (int t = 1; t < partition.threads; ++t) threads.emplace_back(work, t);
  work(0);
  for (std::thread& thread : threads) thread.join();
  AttentionStats total;
  for (const AttentionStats& s : stats) {
    total.tiles_computed += s.tiles_computed;
    total.tiles_dense += s.tiles_dense;
    total.max_bound = std::max(total.max_bound, s.max_bound);
  }
  return total;
}

}  // namespace

AttentionResult RunKernels(const CpuKernels& kernels, const AttentionCase& c,
                           const AttentionTensors& tensors, const Partition& partition) {
  const std::vector<int64_t> cu = Offsets(c.lengths), cu_keys = Offsets(c.key_lengths);
  const std::vector<float> slopes = c.slopes.empty() ? DefaultSlopes(c.heads) : c.slopes;
  AttentionProblem p = MakeProblem(c, cu, cu_keys, slopes);
  const int64_t elements = c.tokens() * c.heads * c.dim;
  const Buffer q(elements * static_cast<int64_t>(SizeOf(c.storage)), 0xff);
  const Buffer kv(AttentionKvBytes(p), 0);
  const Buffer bounds(AttentionBoundsBytes(p), 0xff);
  p.q = q.get();
  p.kv = kv.get();
  p.bounds = bounds.get();
  AttentionResult result;
  result.error = CheckAttentionProblem(p);
  if (!result.error.empty()) return result;
  Store(kernels, p, c, tensors, partition);
  for (int64_t s = 0; s < p.num_sequences; ++s) {
    for (int32_t h = 0; h < p.num_kv_heads; ++h) kernels.Bound(p, s, h);
  }
  result.stats = RunUnits(kernels, p, partition);
  if (!q.GuardIntact() || !kv.GuardIntact() || !bounds.GuardIntact()) {
    result.error = "wrote behind a buffer";
  }
  for (int64_t i = 0; i < elements; ++i) result.out.push_back(LoadElement(c.storage, p.q, i));
  return result;
}

std::vector<const CpuKernels*> NativeTables() {
  std::vector<const CpuKernels*> tables;
  for (CpuIsa isa : {CpuIsa::kPortable, CpuIsa::kAvx2, CpuIsa::kAvx512, CpuIsa::kAvx512Bf16}) {
    if (CpuSupports(isa) && GetCpuKernels(isa) != nullptr) tables.push_back(GetCpuKernels(isa));
  }
  return tables;
}

std::vector<const CpuKernels*> EmulatedTables() {
#if defined(LONGDOC_HAVE_EMULATED_KERNELS)
  if (!CpuSupports(CpuIsa::kAvx2)) return {};  // SIMDe is compiled down to AVX2
  return {&kAvx512EmulatedKernels, &kAvx512Bf16EmulatedKernels};
#else
  return {};
#endif
}

std::vector<const CpuKernels*> AllTables() {
  std::vector<const CpuKernels*> tables = NativeTables();
  for (const CpuKernels* table : EmulatedTables()) tables.push_back(table);
  return tables;
}

}  // namespace longdoc::kernels::testing

// Multi-query attention of a decoder to a long document: what counts is how fast keys and values
// are read, once for all rows.
#include <cmath>

#include "kernels/cuda/cuda_kernels.h"
#include "tests/bench/gpu/gpu_bench.h"

namespace longdoc::kernels::cuda::bench {
namespace {

void RunMqa(Bench& bench, int64_t rows, int64_t keys, int32_t dim) {
  const int64_t blocks = CeilDiv(keys, kKeyBlock);
  const int64_t kv_bytes = blocks * MqaBlockBytes(dim, DType::kBF16);
  const int copies = bench.Copies(kv_bytes);
  Result result;
  result.section = "decode";
  result.name = Format("mqa rows %lld keys %lld d%d", static_cast<long long>(rows),
                       static_cast<long long>(keys), dim);
  const double elements = static_cast<double>(rows * dim);
  result.bytes = static_cast<double>(4 * keys * dim) + 8 * elements;
  result.flops = 4 * elements * static_cast<double>(keys);
  if (!bench.Fits(result, copies * kv_bytes + (int64_t{1} << 30))) return;

  std::vector<Memory> kv;
  for (int i = 0; i < copies; ++i) kv.push_back(RandomBf16(kv_bytes / 2, static_cast<uint32_t>(i)));
  const Memory q = RandomF32(rows * dim, 99), out = Output(rows * dim * 4);
  MqaArgs args;
  args.partial.keys.keys = keys;
  args.partial.keys.head_dim = dim;
  args.partial.keys.storage = DType::kBF16;
  args.partial.keys.blocks = kv[0].as();
  args.partial.scale = 1 / std::sqrt(static_cast<float>(dim));
  args.partial.rows = rows;
  args.partial.q = q.as<float>();
  args.out = out.as();
  const Memory workspace(MqaWorkspaceBytes(args));
  args.workspace = workspace.as();
  Result& timed = bench.Time(result, copies, [&](int copy) {
    MqaArgs call = args;
    call.partial.keys.blocks = kv[static_cast<size_t>(copy)].as();
    return Mqa(call, bench.stream());
  });
  bench.CheckWritten(out, /*bf16=*/false, &timed);
}

}  // namespace

void DecodeSection(Bench& bench) {
  const int64_t keys = bench.tiny() ? 500 : 100000;
  for (const int64_t rows : {8, 256, 1024}) {
    RunMqa(bench, bench.tiny() ? rows / 8 : rows, keys, 64);
  }
  RunMqa(bench, 8, keys, 128);
  if (!bench.tiny()) RunMqa(bench, 8, 1000000, 64);
}

}  // namespace longdoc::kernels::cuda::bench

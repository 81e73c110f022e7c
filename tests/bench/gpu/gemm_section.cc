// Matrix products through cuBLASLt at the shapes of an encoder.
#include "tests/bench/gpu/gpu_bench.h"

namespace longdoc::kernels::cuda::bench {
namespace {

struct Shape {
  int64_t m, n, k;
};

void RunGemm(Bench& bench, const Shape& s, DType out_type) {
  const int64_t out_bytes = s.m * s.n * static_cast<int64_t>(SizeOf(out_type));
  Result result;
  result.section = "gemm";
  result.name =
      Format("%s %lldx%lldx%lld", out_type == DType::kBF16 ? "bf16" : "bf16 to f32",
             static_cast<long long>(s.m), static_cast<long long>(s.n), static_cast<long long>(s.k));
  result.flops = 2.0 * static_cast<double>(s.m * s.n) * static_cast<double>(s.k);
  result.bytes = static_cast<double>(2 * (s.m * s.k + s.n * s.k) + out_bytes);
  const int copies = bench.Copies(2 * s.m * s.k + out_bytes);
  std::vector<Memory> a, c;
  for (int i = 0; i < copies; ++i) {
    a.push_back(RandomBf16(s.m * s.k, static_cast<uint32_t>(i)));
    c.push_back(Output(out_bytes));
  }
  const Memory w = RandomBf16(s.n * s.k, 99);
  Result& timed = bench.Time(result, copies, [&](int copy) {
    GemmArgs args;
    args.rows = s.m;
    args.n = args.c_stride = s.n;
    args.k = args.a_stride = s.k;
    args.a = a[static_cast<size_t>(copy)].as();
    args.w = w.as();
    args.out_type = out_type;
    args.c = c[static_cast<size_t>(copy)].as();
    args.workspace = bench.gemm_workspace();
    args.workspace_bytes = kGemmWorkspaceBytes;
    return bench.gemm().Run(args, bench.stream());
  });
  bench.CheckWritten(c[0], out_type == DType::kBF16, &timed);
}

}  // namespace

void GemmSection(Bench& bench) {
  const int64_t m = 16384;
  const std::vector<Shape> shapes =
      bench.tiny()
          ? std::vector<Shape>{{20, 24, 16}}
          : std::vector<Shape>{{m, 1536, 512}, {m, 512, 512}, {m, 4096, 512}, {m, 512, 2048},
                               {m, 2304, 768}, {m, 768, 768}, {m, 6144, 768}, {m, 768, 3072}};
  for (const DType out : {DType::kBF16, DType::kF32}) {
    for (const Shape& s : shapes) RunGemm(bench, s, out);
  }
}

}  // namespace longdoc::kernels::cuda::bench

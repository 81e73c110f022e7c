// Conditional computation: choosing tokens, taking their rows out and putting them back.
#include "kernels/cuda/cuda_kernels.h"
#include "tests/bench/gpu/gpu_bench.h"

namespace longdoc::kernels::cuda::bench {
namespace {

constexpr int64_t kDim = 512;
constexpr int64_t kShare = 8;  // one token of so many is routed

struct Routing {  // of one copy
  Memory scores, indices, weights, workspace;
};

Result ResultOf(const char* what, int64_t n, double bytes) {
  Result result;
  result.section = "route";
  result.name = Format("%s n%lld", what, static_cast<long long>(n));
  result.bytes = bytes;
  return result;
}

RouteArgs ArgsOf(const Routing& r, int64_t n) {
  RouteArgs args;
  args.n = n;
  args.k = n / kShare;
  args.scores = r.scores.as<float>();
  args.indices = r.indices.as<int32_t>();
  args.weights = r.weights.as<float>();
  args.scratch = r.workspace.as();
  return args;
}

void RunRoute(Bench& bench, int64_t n) {
  const int64_t k = n / kShare;
  std::vector<Routing> copies;
  for (int i = 0; i < bench.Copies(4 * n); ++i) {
    copies.push_back({RandomF32(n, static_cast<uint32_t>(i)), Output(4 * k), Output(4 * k),
                      Memory(RouteWorkspaceBytes(n))});
  }
  Result& selected = bench.Time(
      ResultOf("select 1/8", n, 4.0 * static_cast<double>(n) + 8.0 * static_cast<double>(k)),
      static_cast<int>(copies.size()), [&](int copy) {
        return Route(ArgsOf(copies[static_cast<size_t>(copy)], n), bench.stream());
      });
  bench.CheckWritten(copies[0].weights, /*bf16=*/false, &selected);
  if (!selected.error.empty()) return;

  // The rows of what was chosen.
  const double row_bytes = 4.0 * static_cast<double>(k * kDim);
  if (!bench.Fits(ResultOf("gather norm 1/8 c512", n, 0), 4 * kDim * (n + k))) return;
  const Memory x = RandomF32(n * kDim, 7), gamma = RandomF32(kDim, 8), rows = Output(4 * k * kDim);
  RmsNormArgs gather;
  gather.rows = k;
  gather.dim = gather.x_stride = kDim;
  gather.x = x.as<float>();
  gather.indices = copies[0].indices.as<int32_t>();
  gather.gamma = gamma.as<float>();
  gather.epsilon = 1e-6f;
  gather.row_scale = copies[0].weights.as<float>();
  gather.out = rows.as();
  Result& gathered = bench.Time(ResultOf("gather norm 1/8 c512", n, 2 * row_bytes), 1,
                                [&](int) { return RmsNorm(gather, bench.stream()); });
  bench.CheckWritten(rows, /*bf16=*/false, &gathered);

  ScatterAddArgs scatter;
  scatter.rows = k;
  scatter.dim = kDim;
  scatter.indices = gather.indices;
  scatter.row_scale = gather.row_scale;
  scatter.in = rows.as<float>();
  scatter.out = x.as<float>();
  Result& scattered = bench.Time(ResultOf("scatter add 1/8 c512", n, 3 * row_bytes), 1,
                                 [&](int) { return ScatterAdd(scatter, bench.stream()); });
  bench.CheckWritten(x, /*bf16=*/false, &scattered);
}

}  // namespace

void RouteSection(Bench& bench) {
  if (bench.tiny()) return RunRoute(bench, 1000);
  for (const int64_t n : {8192, 32768, 100000, 1000000}) RunRoute(bench, n);
}

}  // namespace longdoc::kernels::cuda::bench

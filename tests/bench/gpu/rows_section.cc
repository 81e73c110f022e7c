// Dense rows: everything of an encoder that is neither attention nor a product. Bound by memory.
#include <algorithm>
#include <cfloat>
#include <random>

#include "kernels/cuda/cuda_kernels.h"
#include "tests/bench/gpu/gpu_bench.h"

namespace longdoc::kernels::cuda::bench {
namespace {

struct Shape {
  int64_t rows, dim, ff;
};

Result ResultOf(const char* what, int64_t rows, int64_t columns, double bytes_per_element) {
  Result result;
  result.section = "rows";
  result.name =
      Format("%s %lldx%lld", what, static_cast<long long>(rows), static_cast<long long>(columns));
  result.bytes = static_cast<double>(rows * columns) * bytes_per_element;
  return result;
}

void RunEmbed(Bench& bench, const Shape& s) {
  const int64_t vocabulary = bench.tiny() ? 50 : 30528;
  std::minstd_rand random(1);
  std::vector<int32_t> ids(static_cast<size_t>(s.rows));
  for (int32_t& id : ids) id = static_cast<int32_t>(random() % static_cast<uint32_t>(vocabulary));
  const Memory d_ids = OnDevice(ids), table = RandomBf16(vocabulary * s.dim, 2);
  const Memory vectors = RandomF32(s.dim, 3), out = Output(4 * s.rows * s.dim);
  const Memory out_bf16 = Output(2 * s.rows * s.dim);
  EmbedArgs args;
  args.rows = s.rows;
  args.dim = s.dim;
  args.ids = d_ids.as<int32_t>();
  args.table_type = DType::kBF16;
  args.word = table.as();
  args.type = args.gamma = args.beta = vectors.as<float>();
  args.epsilon = 1e-12f;
  args.out = out.as<float>();
  args.out_bf16 = out_bf16.as<uint16_t>();
  // The table is read from the cache where it fits; it is not counted.
  Result& timed = bench.Time(ResultOf("embed norm", s.rows, s.dim, 4 + 2), 1,
                             [&](int) { return Embed(args, bench.stream()); });
  bench.CheckWritten(out, false, &timed);
  bench.CheckWritten(out_bf16, true, &timed);
}

void RunLayerNorm(Bench& bench, const Shape& s) {
  const Memory a = RandomF32(s.rows * s.dim, 4), residual = RandomF32(s.rows * s.dim, 5);
  const Memory vectors = RandomF32(s.dim, 6), out = Output(4 * s.rows * s.dim);
  const Memory out_bf16 = Output(2 * s.rows * s.dim);
  AddLayerNormArgs args;
  args.rows = s.rows;
  args.dim = args.a_stride = args.out_stride = s.dim;
  args.a = a.as<float>();
  args.residual = residual.as<float>();
  args.gamma = args.beta = vectors.as<float>();
  args.epsilon = 1e-12f;
  args.out = out.as<float>();
  args.out_bf16 = out_bf16.as<uint16_t>();
  Result& timed = bench.Time(ResultOf("add layer norm", s.rows, s.dim, 4 + 4 + 4 + 2), 1,
                             [&](int) { return AddLayerNorm(args, bench.stream()); });
  bench.CheckWritten(out, false, &timed);
  bench.CheckWritten(out_bf16, true, &timed);
}

void RunGelu(Bench& bench, const Shape& s, DType in_type) {
  const bool bf16 = in_type == DType::kBF16;
  const Memory in = bf16 ? RandomBf16(s.rows * 2 * s.ff, 7) : RandomF32(s.rows * 2 * s.ff, 7);
  const Memory out = Output(2 * s.rows * s.ff);
  GatedGeluArgs args;
  args.rows = s.rows;
  args.dim = s.ff;
  args.in_type = in_type;
  args.in = in.as();
  args.out_type = DType::kBF16;
  args.out = out.as();
  Result& timed =
      bench.Time(ResultOf(bf16 ? "gated gelu bf16" : "gated gelu f32", s.rows, s.ff, bf16 ? 6 : 10),
                 1, [&](int) { return GatedGelu(args, bench.stream()); });
  bench.CheckWritten(out, true, &timed);
}

void RunConvert(Bench& bench, const Shape& s) {
  const Memory in = RandomF32(s.rows * s.dim, 8), out = Output(2 * s.rows * s.dim);
  ConvertArgs args;
  args.rows = s.rows;
  args.columns = args.in_stride = args.out_stride = s.dim;
  args.out_type = DType::kBF16;
  args.in = in.as();
  args.out = out.as();
  Result& timed = bench.Time(ResultOf("convert f32 bf16", s.rows, s.dim, 6), 1,
                             [&](int) { return Convert(args, bench.stream()); });
  bench.CheckWritten(out, true, &timed);
}

void RunPool(Bench& bench, const Shape& s) {
  std::vector<int64_t> begin, end;
  for (int64_t at = 0; at < s.rows; at += 256) {
    begin.push_back(at);
    end.push_back(std::min(at + 256, s.rows));
  }
  const auto spans = static_cast<int64_t>(begin.size());
  const Memory x = RandomF32(s.rows * s.dim, 9), out = Output(4 * spans * s.dim);
  const Memory d_begin = OnDevice(begin), d_end = OnDevice(end);
  PoolArgs args;
  args.spans = spans;
  args.dim = s.dim;
  args.tokens = s.rows;
  args.x = x.as<float>();
  args.begin = d_begin.as<int64_t>();
  args.end = d_end.as<int64_t>();
  args.out = out.as<float>();
  const Memory workspace(PoolWorkspaceBytes(args));
  args.workspace = workspace.as();
  Result& timed = bench.Time(ResultOf("pool spans of 256", s.rows, s.dim, 4), 1,
                             [&](int) { return MeanPool(args, bench.stream()); });
  bench.CheckWritten(out, false, &timed);
}

void RunLogSoftmax(Bench& bench, int64_t rows, int64_t columns) {
  const Memory logits = RandomF32(rows * columns, 10);
  const std::vector<float> none(static_cast<size_t>(rows), -FLT_MAX);
  const Memory targets = OnDevice(std::vector<int32_t>(static_cast<size_t>(rows), 1));
  const Memory max = OnDevice(none);
  const Memory sum = OnDevice(std::vector<float>(static_cast<size_t>(rows), 0));
  const Memory chosen = Output(4 * rows);
  LogSoftmaxTileArgs args;
  args.rows = rows;
  args.columns = columns;
  args.logits = logits.as<float>();
  args.targets = targets.as<int32_t>();
  args.max = max.as<float>();
  args.sum = sum.as<float>();
  args.chosen = chosen.as<float>();
  Result& timed = bench.Time(ResultOf("log softmax", rows, columns, 4), 1,
                             [&](int) { return LogSoftmaxTile(args, bench.stream()); });
  bench.CheckWritten(sum, false, &timed);
  bench.CheckWritten(chosen, false, &timed);
}

}  // namespace

// One copy each: 100,000 rows do not fit the cache.
void RowsSection(Bench& bench) {
  const std::vector<Shape> shapes =
      bench.tiny() ? std::vector<Shape>{{40, 64, 128}}
                   : std::vector<Shape>{{100000, 512, 2048}, {100000, 768, 3072}};
  for (const Shape& s : shapes) {
    RunEmbed(bench, s);
    RunLayerNorm(bench, s);
    RunGelu(bench, s, DType::kF32);
    RunGelu(bench, s, DType::kBF16);
    RunConvert(bench, s);
    RunPool(bench, s);
  }
  if (bench.tiny()) return RunLogSoftmax(bench, 8, 600);
  RunLogSoftmax(bench, 4096, 32768);
}

}  // namespace longdoc::kernels::cuda::bench

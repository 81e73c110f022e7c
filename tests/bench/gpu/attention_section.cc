// Attention: one document, one layer, as the engine calls it (norms and key ranges included).
#include <algorithm>
#include <cmath>
#include <random>

#include "kernels/cuda/cuda_kernels.h"
#include "tests/bench/gpu/gpu_bench.h"

namespace longdoc::kernels::cuda::bench {
namespace {

constexpr float kLogitBound = 20;

struct Case {
  int64_t tokens = 0;
  int32_t heads = 8, dim = 64;
  SkipMode skip = SkipMode::kDense;
  int64_t window = -1;
  int64_t query_step = 0, key_step = 0;  // gathered: every so many tokens
};

std::string NameOf(const Case& c) {
  const std::string shape =
      Format("h%d d%d n%lld", c.heads, c.dim, static_cast<long long>(c.tokens));
  const char* skip = c.skip == SkipMode::kDense ? "dense" : "skip 1e-3";
  if (c.query_step > 0) {
    return Format("gathered %s 1/%lld of 1/%lld ", skip, static_cast<long long>(c.query_step),
                  static_cast<long long>(c.key_step)) +
           shape;
  }
  if (c.window >= 0) return Format("window %lld ", static_cast<long long>(c.window)) + shape;
  return Format("alibi %s ", skip) + shape;
}

// One token of every `step`, at random among them.
std::vector<int32_t> Positions(int64_t tokens, int64_t step, uint32_t seed) {
  std::minstd_rand random(seed);
  std::vector<int32_t> out;
  for (int64_t at = 0; at < tokens; at += step) {
    const auto room = static_cast<uint32_t>(std::min(step, tokens - at));
    out.push_back(static_cast<int32_t>(at + random() % room));
  }
  return out;
}

struct Tensors {  // of one copy
  Memory q, k, v, o;
};

class AttentionBench {
 public:
  AttentionBench(Bench& bench, const Case& c);
  void Run();

 private:
  cudaError_t Call(int copy, AttentionStats* stats);
  void CountTiles(Result* result);

  Bench& bench_;
  const Case case_;
  const bool gathered_;
  const std::vector<int32_t> q_at_, k_at_;
  const int64_t total_q_, total_k_;
  AttentionArgs args_;
  std::vector<Memory> arrays_;
  std::vector<Tensors> tensors_;
};

AttentionBench::AttentionBench(Bench& bench, const Case& c)
    : bench_(bench),
      case_(c),
      gathered_(c.query_step > 0),
      q_at_(gathered_ ? Positions(c.tokens, c.query_step, 1) : std::vector<int32_t>()),
      k_at_(gathered_ ? Positions(c.tokens, c.key_step, 2) : std::vector<int32_t>()),
      total_q_(gathered_ ? static_cast<int64_t>(q_at_.size()) : c.tokens),
      total_k_(gathered_ ? static_cast<int64_t>(k_at_.size()) : c.tokens) {
  std::vector<float> slopes;
  for (int h = 1; h <= c.heads; ++h) {
    slopes.push_back(static_cast<float>(std::exp2(-8.0 * h / c.heads)));
  }
  arrays_.push_back(OnDevice(std::vector<int64_t>{0, total_q_}));
  arrays_.push_back(OnDevice(std::vector<int64_t>{0, total_k_}));
  arrays_.push_back(OnDevice(slopes));
  arrays_.push_back(OnDevice(q_at_));
  arrays_.push_back(OnDevice(k_at_));
  AttentionProblem& p = args_.problem;
  p.num_sequences = 1;
  p.cu_seqlens = arrays_[0].as<int64_t>();
  p.slopes = arrays_[2].as<float>();
  if (gathered_) {
    p.cu_seqlens_k = arrays_[1].as<int64_t>();
    p.q_positions = arrays_[3].as<int32_t>();
    p.k_positions = arrays_[4].as<int32_t>();
  }
  p.num_heads = p.num_kv_heads = c.heads;
  p.head_dim = c.dim;
  p.scale = 1 / std::sqrt(static_cast<float>(c.dim));
  p.mask.window_radius = c.window;
  p.skip = c.skip;
  p.epsilon = 1e-3f;
  p.storage = DType::kBF16;
  args_.total_q = args_.max_q = total_q_;
  args_.total_k = args_.max_k = total_k_;
  args_.max_slope = slopes[0];
}

void AttentionBench::Run() {
  const int64_t width = int64_t{case_.heads} * case_.dim;
  const int64_t bytes = 2 * width * (2 * total_q_ + 2 * total_k_);
  const int copies = bench_.Copies(bytes);
  Result result;
  result.section = "attention";
  result.name = NameOf(case_);
  if (case_.skip != SkipMode::kDense || case_.window >= 0) {
    Case dense = case_;
    dense.skip = SkipMode::kDense;
    dense.window = -1;
    result.against = NameOf(dense);
  }
  const int64_t workspace_bytes = AttentionWorkspaceBytes(args_);
  if (!bench_.Fits(result, copies * bytes + workspace_bytes)) return;
  const Memory workspace(workspace_bytes);
  args_.workspace = workspace.as();
  const float norm = std::sqrt(kLogitBound * std::sqrt(static_cast<float>(case_.dim)));
  for (int i = 0; i < copies; ++i) {
    const auto seed = static_cast<uint32_t>(10 * i);
    tensors_.push_back({RandomBf16Rows(total_q_ * case_.heads, case_.dim, norm, seed),
                        RandomBf16Rows(total_k_ * case_.heads, case_.dim, norm, seed + 3),
                        RandomBf16(total_k_ * width, seed + 6), Output(total_q_ * width * 2)});
  }
  Result& timed = bench_.Time(result, copies, [&](int copy) { return Call(copy, nullptr); });
  bench_.CheckWritten(tensors_[0].o, /*bf16=*/true, &timed);
  timed.tiles_kept = 1;
  if (!result.against.empty()) CountTiles(&timed);
  timed.flops = 4.0 * static_cast<double>(width * total_q_) * static_cast<double>(total_k_) *
                timed.tiles_kept;
}

cudaError_t AttentionBench::Call(int copy, AttentionStats* stats) {
  const Tensors& t = tensors_[static_cast<size_t>(copy)];
  const int64_t stride = int64_t{case_.heads} * case_.dim;
  AttentionArgs args = args_;
  args.q = {t.q.as(), stride};
  args.k = {t.k.as(), stride};
  args.v = {t.v.as(), stride};
  args.o = {t.o.as(), stride};
  args.stats = stats;
  return Attention(args, bench_.stream());
}

void AttentionBench::CountTiles(Result* result) {
  if (!result->error.empty()) return;
  AttentionStats stats;
  Memory counts = OnDevice(std::vector<AttentionStats>{stats});
  cudaError_t error = Call(0, counts.as<AttentionStats>());
  if (error == cudaSuccess) error = cudaStreamSynchronize(bench_.stream());
  if (error == cudaSuccess) {
    error = cudaMemcpy(&stats, counts.as(), sizeof(stats), cudaMemcpyDeviceToHost);
  }
  if (error != cudaSuccess) result->error = cudaGetErrorString(error);
  if (stats.tiles_dense == 0) return;
  result->tiles_kept =
      static_cast<double>(stats.tiles_computed) / static_cast<double>(stats.tiles_dense);
  if (case_.skip != SkipMode::kDense) result->max_bound = double{stats.max_bound};
}

}  // namespace

void AttentionSection(Bench& bench) {
  const auto run = [&](const Case& c) { AttentionBench(bench, c).Run(); };
  const auto tokens = [&](std::vector<int64_t> lengths) {
    return bench.tiny() ? std::vector<int64_t>{300} : lengths;
  };
  for (const int32_t dim : {64, 128}) {
    for (const int64_t n : tokens({8192, 16384, 32768})) run({n, 8, dim});
  }
  // The long ones are what their skipping counterparts are compared with.
  if (!bench.tiny()) {
    for (const int64_t n : {100000, 1000000}) run({n});
  }
  for (const int64_t n : tokens({8192, 32768, 100000, 1000000})) {
    run({n, 8, 64, SkipMode::kTolerance});
  }
  for (const int64_t n : tokens({8192, 32768, 100000})) run({n, 8, 64, SkipMode::kDense, 128});
  for (const int64_t n : tokens({100000, 1000000})) {
    run({n, 8, 64, SkipMode::kDense, -1, 16, 8});
    run({n, 8, 64, SkipMode::kTolerance, -1, 16, 8});
  }
}

}  // namespace longdoc::kernels::cuda::bench

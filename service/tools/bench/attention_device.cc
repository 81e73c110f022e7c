// longdoc-bench attention --device cuda:N.
#include <cmath>
#include <iostream>
#include <utility>

#include "absl/strings/str_format.h"
#include "engine/attention_steps.h"
#include "engine/base/status_macros.h"
#include "engine/model/encoder_config.h"
#include "engine/planner.h"
#include "service/tools/attention_option.h"
#include "service/tools/bench/device.h"
#include "service/tools/bench/device_sections.h"

namespace longdoc::tools {
namespace {

struct Timing {
  double store = 0, attend = 0;   // seconds
  kernels::AttentionStats stats;  // of one layer
};

// Attention layers of one shape, each with memory of its own, so that inputs take turns.
class Layers {
 public:
  // `problem` and its arrays outlive this.
  static absl::StatusOr<Layers> Create(Backend& backend, const kernels::AttentionProblem& problem,
                                       const std::vector<float>& qkv) {
    Layers layers(backend, problem);
    ASSIGN_OR_RETURN(layers.qkv_, ToDevice(backend, qkv));
    const int64_t copies = RotatedCopies(static_cast<int64_t>(qkv.size()) * 2);  // kept in bf16
    for (int64_t i = 0; i < copies; ++i) {
      ASSIGN_OR_RETURN(std::unique_ptr<AttentionSteps> layer, backend.MakeAttention(problem));
      layers.layers_.push_back(std::move(layer));
      layers.Store(i);
    }
    return layers;
  }
  void Store(int64_t i) {
    const int64_t dim = int64_t{problem_.num_heads} * problem_.head_dim;
    const int64_t tokens = problem_.cu_seqlens[1];
    AttentionSteps& layer = At(i);
    layer.StoreQueries(0, tokens, qkv_.as<float>(), 3 * dim);
    layer.StoreKeysValues(0, tokens, qkv_.as<float>() + dim, 3 * dim);
  }
  // Bounds and plan are the first of its kernels.
  void Attend(int64_t i) {
    AttentionSteps& layer = At(i);
    for (int64_t step = 0; step < layer.num_attend_steps(); ++step) {
      const absl::Status status = layer.Attend(step, scratch_);
      if (!status.ok()) failed_ = status;
    }
  }
  const absl::Status& failed() const { return failed_; }
  AttentionSteps& At(int64_t i) { return *layers_[static_cast<size_t>(i) % layers_.size()]; }
  int64_t count() const { return static_cast<int64_t>(layers_.size()); }

 private:
  Layers(Backend& backend, const kernels::AttentionProblem& problem)
      : problem_(problem), scratch_(backend.scratch_memory()) {}

  const kernels::AttentionProblem& problem_;
  Buffer qkv_;
  std::vector<std::unique_ptr<AttentionSteps>> layers_;
  WorkerScratch scratch_;
  absl::Status failed_;
};

// Outputs are means of values between -1 and 1.
absl::Status CheckOutputs(Backend& backend, const kernels::AttentionProblem& p,
                          const AttentionSteps& layer) {
  WorkerScratch scratch(backend.scratch_memory());
  std::vector<uint16_t> rows(static_cast<size_t>(p.cu_seqlens[1] * p.num_heads * p.head_dim));
  const void* outputs = layer.Outputs(0, p.cu_seqlens[1], scratch);
  RETURN_IF_ERROR(backend.CopyToHost(rows.data(), outputs, static_cast<int64_t>(2 * rows.size())));
  constexpr uint16_t kOne = 0x3f80;  // bf16: of what has no sign, larger bits are larger values
  bool any = false;
  for (const uint16_t value : rows) {
    const uint16_t magnitude = value & 0x7fffu;
    if (magnitude > kOne) return absl::InternalError("a result of attention is larger than 1");
    any |= magnitude != 0;
  }
  return any ? absl::OkStatus() : absl::InternalError("all results of attention are 0");
}

absl::StatusOr<Timing> TimeLayer(Backend& backend, const AttentionArgs& args,
                                 const AttentionPolicy& policy, int64_t tokens) {
  const std::vector<float> slopes = AlibiSlopes(args.heads);
  const int64_t cu_seqlens[] = {0, tokens};
  kernels::AttentionProblem problem =
      MakeAttentionProblem(slopes, args.head_dim, backend.info(), policy);
  problem.num_sequences = 1;
  problem.cu_seqlens = cu_seqlens;
  ASSIGN_OR_RETURN(Layers layers, Layers::Create(backend, problem, RandomQkv(tokens, args)));
  Timing t;
  layers.Attend(0);
  RETURN_IF_ERROR(layers.At(0).FetchStats());
  t.stats = layers.At(0).stats(0);
  RETURN_IF_ERROR(CheckOutputs(backend, problem, layers.At(0)));
  ASSIGN_OR_RETURN(t.store,
                   TimeOnDevice(backend, args.repeat, [&](int64_t i) { layers.Store(i); }));
  ASSIGN_OR_RETURN(t.attend,
                   TimeOnDevice(backend, args.repeat, [&](int64_t i) { layers.Attend(i); }));
  RETURN_IF_ERROR(layers.failed());
  return t;
}

}  // namespace

absl::Status BenchAttentionOnDevice(const AttentionArgs& args, const AttentionPolicy& policy) {
  RETURN_IF_ERROR(CheckDeviceKeeps(args.dtype, args.head_dim));
  ASSIGN_OR_RETURN(const BenchDevice device, BenchDevice::Open(args.device));
  ASSIGN_OR_RETURN(const double peak, MeasureProducts(*device.backend));
  std::cout << FormatDevice(device)
            << absl::StrFormat("products %.1f TFLOP/s (measured now)\n", peak / 1e12)
            << absl::StrFormat("%d heads of %d, bf16, %s, logit bound %g\n", args.heads,
                               args.head_dim, FormatAttention(policy), args.logit_bound)
            << absl::StrFormat("%9s %10s %12s %8s %10s %8s\n", "tokens", "store us", "attend us",
                               "tiles", "TFLOP/s", "of peak");
  Json results = Json::array();
  for (const int64_t tokens : args.tokens) {
    ASSIGN_OR_RETURN(const Timing t, TimeLayer(*device.backend, args, policy, tokens));
    const double computed = static_cast<double>(t.stats.tiles_computed);
    const double fraction = computed / static_cast<double>(t.stats.tiles_dense);
    const double rate = 4.0 * kernels::kQueryBlock * kernels::kKeyBlock *
                        static_cast<double>(args.head_dim) * computed / t.attend;
    std::cout << absl::StrFormat("%9d %10.2f %12.2f %7.1f%% %10.1f %7.1f%%\n", tokens,
                                 1e6 * t.store, 1e6 * t.attend, 100 * fraction, rate / 1e12,
                                 100 * rate / peak)
              << std::flush;
    results.push_back({{"tokens", tokens},
                       {"store_seconds", t.store},
                       {"seconds", t.attend},
                       {"tile_fraction", fraction},
                       {"flops", rate},
                       {"share_of_peak", rate / peak}});
  }
  Json head = DeviceToJson(device);
  head["product_flops"] = peak;
  return WriteJson(args.json, {{"bench", "attention"},
                               {"attention", FormatAttention(policy)},
                               {"dtype", "bf16"},
                               {"heads", args.heads},
                               {"head_dim", args.head_dim},
                               {"device", head},
                               {"results", results}});
}

}  // namespace longdoc::tools

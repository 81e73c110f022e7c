// longdoc-bench route --device cuda:N.
#include <iostream>
#include <random>

#include "absl/strings/str_format.h"
#include "engine/base/status_macros.h"
#include "engine/model/colt5_config.h"
#include "kernels/routing.h"
#include "service/tools/bench/device.h"
#include "service/tools/bench/device_sections.h"

namespace longdoc::tools {
namespace {

struct Timing {
  int64_t routed = 0;
  double select = 0, gather = 0, scatter = 0;  // seconds, medians
};

absl::StatusOr<Timing> TimeRouting(Backend& backend, const RouteArgs& args, int64_t tokens) {
  MemoryPool& memory = backend.memory();
  const auto dim = static_cast<size_t>(args.dim);
  std::mt19937 random(1);
  std::normal_distribution<float> normal;
  std::vector<float> some(static_cast<size_t>(tokens));
  for (float& s : some) s = normal(random);
  Timing t;
  t.routed = RoutedCount(tokens, args.rate);
  ASSIGN_OR_RETURN(const Buffer scores, ToDevice(backend, some));
  ASSIGN_OR_RETURN(const Buffer gamma, ToDevice(backend, std::vector<float>(dim, 1.0f)));
  ASSIGN_OR_RETURN(const Buffer x, memory.Allocate(4 * tokens * args.dim, /*zeroed=*/true));
  ASSIGN_OR_RETURN(const Buffer rows, memory.Allocate(4 * t.routed * args.dim, /*zeroed=*/true));
  ASSIGN_OR_RETURN(const Buffer indices, memory.Allocate(4 * t.routed, /*zeroed=*/false));
  ASSIGN_OR_RETURN(const Buffer packed, memory.Allocate(4 * t.routed, /*zeroed=*/false));
  ASSIGN_OR_RETURN(const Buffer weights, memory.Allocate(4 * t.routed, /*zeroed=*/false));
  ASSIGN_OR_RETURN(const Buffer tally, memory.Allocate(sizeof(RoutingTally), /*zeroed=*/true));
  ASSIGN_OR_RETURN(const Buffer scratch,
                   memory.Allocate(backend.RouteScratchBytes(tokens), /*zeroed=*/false));
  RouteTokensArgs route;
  route.route.n = tokens;
  route.route.k = t.routed;
  route.route.scores = scores.as<float>();
  route.route.indices = indices.as<int32_t>();
  route.route.weights = weights.as<float>();
  route.route.scratch = scratch.data();
  route.rows = packed.as<int32_t>();
  route.tally = tally.as<RoutingTally>();
  ASSIGN_OR_RETURN(t.select,
                   TimeOnDevice(backend, args.repeat, [&](int64_t) { backend.Route(route); }));

  kernels::RmsNormArgs gather;
  gather.rows = t.routed;
  gather.dim = args.dim;
  gather.x = x.as<float>();
  gather.x_stride = args.dim;
  gather.indices = indices.as<int32_t>();
  gather.gamma = gamma.as<float>();
  gather.epsilon = 1e-6f;
  gather.row_scale = weights.as<float>();
  gather.out = rows.data();
  ASSIGN_OR_RETURN(t.gather,
                   TimeOnDevice(backend, args.repeat, [&](int64_t) { backend.RmsNorm(gather); }));

  kernels::ScatterAddArgs scatter;
  scatter.rows = t.routed;
  scatter.dim = args.dim;
  scatter.indices = indices.as<int32_t>();
  scatter.row_scale = weights.as<float>();
  scatter.in = rows.as<float>();
  scatter.out = x.as<float>();
  ASSIGN_OR_RETURN(
      t.scatter, TimeOnDevice(backend, args.repeat, [&](int64_t) { backend.ScatterAdd(scatter); }));
  return t;
}

}  // namespace

absl::Status BenchRouteOnDevice(const RouteArgs& args) {
  ASSIGN_OR_RETURN(const BenchDevice device, BenchDevice::Open(args.device));
  std::cout << FormatDevice(device)
            << absl::StrFormat("rate %g, rows of %d\n%9s %9s %12s %12s %8s %12s %8s\n", args.rate,
                               args.dim, "tokens", "routed", "select us", "gather us", "of copy",
                               "scatter us", "of copy");
  Json results = Json::array();
  for (const int64_t tokens : args.tokens) {
    ASSIGN_OR_RETURN(const Timing t, TimeRouting(*device.backend, args, tokens));
    // Rows are read and written; those that are added to are read and written as well.
    const double row_bytes = 4.0 * static_cast<double>(t.routed * args.dim);
    const double gather_share = 2 * row_bytes / t.gather / device.copy_bytes_per_second;
    const double scatter_share = 3 * row_bytes / t.scatter / device.copy_bytes_per_second;
    std::cout << absl::StrFormat("%9d %9d %12.2f %12.2f %7.1f%% %12.2f %7.1f%%\n", tokens, t.routed,
                                 1e6 * t.select, 1e6 * t.gather, 100 * gather_share,
                                 1e6 * t.scatter, 100 * scatter_share)
              << std::flush;
    results.push_back({{"tokens", tokens},
                       {"routed", t.routed},
                       {"select_seconds", t.select},
                       {"gather_seconds", t.gather},
                       {"gather_share_of_copy", gather_share},
                       {"scatter_seconds", t.scatter},
                       {"scatter_share_of_copy", scatter_share}});
  }
  return WriteJson(args.json, {{"bench", "route"},
                               {"rate", args.rate},
                               {"dim", args.dim},
                               {"device", DeviceToJson(device)},
                               {"results", results}});
}

}  // namespace longdoc::tools

// longdoc-bench route: the kernels of conditional computation on random scores and rows.
#include <iostream>
#include <random>

#include "absl/strings/str_format.h"
#include "engine/model/colt5_config.h"
#include "kernels/cpu_kernels.h"
#include "service/tools/bench/bench.h"
#include "service/tools/bench/buffers.h"
#include "service/tools/bench/device.h"
#include "service/tools/bench/device_sections.h"
#include "service/tools/command.h"

namespace longdoc::tools {
namespace {

using kernels::DType;

struct RouteTiming {
  int64_t routed = 0;
  double select = 0, gather = 0, scatter = 0;  // seconds, medians, one thread
};

RouteTiming TimeRouting(const RouteArgs& args, int64_t tokens) {
  const kernels::CpuKernels& cpu = *kernels::GetCpuKernels(kernels::BestCpuIsa());
  const auto dim = static_cast<size_t>(args.dim);
  std::mt19937 random(1);
  std::normal_distribution<float> normal;
  std::vector<float> scores(static_cast<size_t>(tokens)), x(static_cast<size_t>(tokens) * dim);
  for (float& s : scores) s = normal(random);
  for (float& v : x) v = static_cast<float>(random() >> 16) * 0x1p-16f - 0.5f;
  RouteTiming t;
  t.routed = RoutedCount(tokens, args.rate);
  const auto routed = static_cast<size_t>(t.routed);
  std::vector<int32_t> indices(routed);
  std::vector<float> weights(routed), rows(routed * dim), gamma(dim, 1.0f);
  AlignedBuffer scratch(kernels::RouteScratchBytes(tokens));

  kernels::RouteArgs route;
  route.n = tokens;
  route.k = t.routed;
  route.scores = scores.data();
  route.indices = indices.data();
  route.weights = weights.data();
  route.scratch = scratch.data();
  t.select = Median(TimeRepeated(args.repeat, [&] { cpu.Route(route); }));

  kernels::RmsNormArgs gather;
  gather.rows = t.routed;
  gather.dim = args.dim;
  gather.x = x.data();
  gather.x_stride = args.dim;
  gather.indices = indices.data();
  gather.gamma = gamma.data();
  gather.epsilon = 1e-6f;
  gather.row_scale = weights.data();
  gather.out = rows.data();
  t.gather = Median(TimeRepeated(args.repeat, [&] { cpu.RmsNorm(gather); }));

  kernels::ScatterAddArgs scatter;
  scatter.rows = t.routed;
  scatter.dim = args.dim;
  scatter.indices = indices.data();
  scatter.row_scale = weights.data();
  scatter.in = rows.data();
  scatter.out = x.data();
  t.scatter = Median(TimeRepeated(args.repeat, [&] { cpu.ScatterAdd(scatter); }));
  return t;
}

absl::Status Bench(const RouteArgs& args) {
  const MachineReport machine = DescribeMachine(1);
  std::cout << FormatMachine(machine)
            << absl::StrFormat("rate %g, rows of %d, one thread\n%9s %9s %12s %12s %12s\n",
                               args.rate, args.dim, "tokens", "routed", "select ms", "gather ms",
                               "scatter ms");
  Json results = Json::array();
  for (const int64_t tokens : args.tokens) {
    const RouteTiming t = TimeRouting(args, tokens);
    std::cout << absl::StrFormat("%9d %9d %12.3f %12.3f %12.3f\n", tokens, t.routed, 1e3 * t.select,
                                 1e3 * t.gather, 1e3 * t.scatter);
    results.push_back({{"tokens", tokens},
                       {"routed", t.routed},
                       {"select_seconds", t.select},
                       {"gather_seconds", t.gather},
                       {"scatter_seconds", t.scatter}});
  }
  return WriteJson(args.json, {{"bench", "route"},
                               {"rate", args.rate},
                               {"dim", args.dim},
                               {"machine", MachineToJson(machine)},
                               {"results", results}});
}

}  // namespace

int RunRouteBench(const std::vector<std::string>& words) {
  RouteArgs args;
  OptionParser parser("longdoc-bench route", "[OPTIONS]",
                      "Soft top-k with selection, gathering with RMSNorm, and scatter-add.",
                      "  longdoc-bench route --tokens 100000 --rate 0.0625");
  parser.AddInts("tokens", "N,N,...", "document lengths", 1, int64_t{1} << 24, &args.tokens);
  parser.AddDouble("rate", "R", "share of the tokens that is routed", 0, 1, &args.rate);
  parser.AddInt("dim", "N", "size of a row", 1, 16384, &args.dim);
  parser.AddString("device", "NAME", kDeviceHelp, &args.device);
  parser.AddInt("repeat", "N", "timings; the median counts", 1, 10000, &args.repeat);
  parser.AddString("json", "FILE", "write the results there, too", &args.json);
  int exit_code = kExitOk;
  if (!ParseOrExit(parser, words, &exit_code)) return exit_code;
  const absl::Status status = IsCpu(args.device) ? Bench(args) : BenchRouteOnDevice(args);
  return status.ok() ? kExitOk : Failure(parser.command(), status);
}

}  // namespace longdoc::tools

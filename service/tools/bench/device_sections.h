// The sections of longdoc-bench that time kernels, and what they do on a CUDA device.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "engine/options.h"

namespace longdoc::tools {

struct AttentionArgs {
  std::vector<int64_t> tokens = {2048, 8192, 32768};
  std::string device = "cpu", attention = "tolerance=1e-4", dtype = "auto", json;
  int64_t heads = 8, head_dim = 64, threads = 0, repeat = 3;
  double logit_bound = 20;
};
// Rows [queries | keys | values] of fp32; |q| and |k| spread over [1/2, 1] of what gives the bound.
std::vector<float> RandomQkv(int64_t tokens, const AttentionArgs& args);
absl::Status BenchAttentionOnDevice(const AttentionArgs& args, const AttentionPolicy& policy);

struct DecodeArgs {
  std::vector<int64_t> keys = {8192, 32768, 100000};
  std::vector<int64_t> targets = {1, 32};
  int64_t heads = 8, head_dim = 64, threads = 0, repeat = 9;
  std::string device = "cpu", dtype = "bf16", json;  // dtype: as keys and values are kept
};
absl::Status BenchDecodeOnDevice(const DecodeArgs& args);

struct RouteArgs {
  std::vector<int64_t> tokens = {8192, 32768, 100000, 1000000};
  int64_t dim = 512, repeat = 9;
  double rate = 0.125;
  std::string device = "cpu", json;
};
absl::Status BenchRouteOnDevice(const RouteArgs& args);

}  // namespace longdoc::tools

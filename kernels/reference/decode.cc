#include "kernels/decode.h"

#include <algorithm>
#include <cfloat>
#include <cmath>
#include <vector>

#include "kernels/reference/convert.h"
#include "kernels/reference/reference.h"

namespace longdoc::kernels::reference {
namespace {

const void* BlockOf(const MqaKeys& keys, int64_t block) {
  const int64_t bytes = MqaBlockBytes(keys.head_dim, keys.storage);
  if (keys.pages == nullptr) return static_cast<const char*>(keys.blocks) + block * bytes;
  const void* page = keys.pages[block / keys.page_blocks];
  return static_cast<const char*>(page) + block % keys.page_blocks * bytes;
}

}  // namespace

void MqaStore(const MqaStoreArgs& args) {
  for (int64_t r = 0; r < args.rows; ++r) {
    for (int64_t d = 0; d < args.head_dim; ++d) {
      const int64_t at = (args.first + r) * args.head_dim + d;
      StoreAs(args.storage, args.block, at, args.keys[r * args.stride + d]);
      StoreAs(args.storage, args.block, kKeyBlock * args.head_dim + at,
              args.values[r * args.stride + d]);
    }
  }
}

void MqaPartial(const MqaPartialArgs& args) {
  const MqaKeys& keys = args.keys;
  const int64_t dim = keys.head_dim;
  const int64_t end = std::min(args.block_end * kKeyBlock, keys.keys);
  std::vector<double> sum(dim);
  for (int64_t r = 0; r < args.rows; ++r) {
    double max = -FLT_MAX, total = 0;
    std::fill(sum.begin(), sum.end(), 0.0);
    for (int64_t j = args.block_begin * kKeyBlock; j < end; ++j) {
      if (args.positions != nullptr && args.positions[r] < j) break;
      const void* block = BlockOf(keys, j / kKeyBlock);
      const int64_t row = j % kKeyBlock * dim;
      double score = 0;
      for (int64_t d = 0; d < dim; ++d) {
        score += static_cast<double>(args.q[r * dim + d]) * LoadAs(keys.storage, block, row + d);
      }
      score *= args.scale;
      if (args.slopes != nullptr) {
        score -= static_cast<double>(args.slopes[r]) * static_cast<double>(args.positions[r] - j);
      }
      const double before = max;
      max = static_cast<float>(std::max(max, score));  // as kept: sums refer to it
      const double rescale = std::exp(before - max), weight = std::exp(score - max);
      total = total * rescale + weight;
      for (int64_t d = 0; d < dim; ++d) {
        sum[d] = sum[d] * rescale + weight * LoadAs(keys.storage, block, kKeyBlock * dim + row + d);
      }
    }
    args.max[r] = static_cast<float>(max);
    args.sum[r] = static_cast<float>(total);
    for (int64_t d = 0; d < dim; ++d) args.out[r * dim + d] = static_cast<float>(sum[d]);
  }
}

void MqaMerge(const MqaMergeArgs& args) {
  const int64_t dim = args.head_dim;
  std::vector<double> out(dim);
  for (int64_t r = 0; r < args.rows; ++r) {
    double max = -FLT_MAX, total = 0;
    for (int64_t p = 0; p < args.parts; ++p) {
      max = std::max<double>(max, args.partial_max[p * args.rows + r]);
    }
    std::fill(out.begin(), out.end(), 0.0);
    for (int64_t p = 0; p < args.parts; ++p) {
      const int64_t row = p * args.rows + r;
      const double factor = std::exp(args.partial_max[row] - max);
      total += factor * args.partial_sum[row];
      for (int64_t d = 0; d < dim; ++d) out[d] += factor * args.partial_out[row * dim + d];
    }
    for (int64_t d = 0; d < dim; ++d) {
      StoreAs(args.out_type, args.out, r * dim + d,
              total == 0 ? 0.0f : static_cast<float>(out[d] / total));
    }
  }
}

void LogSoftmaxTile(const LogSoftmaxTileArgs& args) {
  for (int64_t r = 0; r < args.rows; ++r) {
    const float* logits = args.logits + r * args.columns;
    double max = args.max[r];
    for (int64_t c = 0; c < args.columns; ++c) {
      max = std::max(max, static_cast<double>(logits[c]) * args.scale);
    }
    max = static_cast<float>(max);  // what is kept is what the sum refers to
    double sum = args.sum[r] * std::exp(args.max[r] - max);
    for (int64_t c = 0; c < args.columns; ++c) {
      sum += std::exp(static_cast<double>(logits[c]) * args.scale - max);
    }
    args.max[r] = static_cast<float>(max);
    args.sum[r] = static_cast<float>(sum);
    const int64_t column = args.targets[r] - args.column_begin;
    if (column >= 0 && column < args.columns) args.chosen[r] = logits[column] * args.scale;
  }
}

}  // namespace longdoc::kernels::reference

// RMS normalisation with router scores, and scatter-add; contracts: routing.h. Route is in
// route.cc.
#pragma once

#include <cstdint>

#include "kernels/cpu/small_ops-inl.h"
#include "kernels/routing.h"

namespace longdoc::kernels {
namespace {  // NOLINT: internal linkage, see layout.h

template <class S, int kRouters>
void RmsNormRows(const RmsNormArgs& args) {
  using Vec = typename S::Vec;
  const float dim = static_cast<float>(args.dim);
  for (int64_t r = 0; r < args.rows; ++r) {
    const float* x = args.x + (args.indices != nullptr ? args.indices[r] : r) * args.x_stride;
    Vec squares = S::Set1(0.0f);
    ForVectors<S>(args.dim, [&](int64_t i, int count) {
      const Vec v = LoadSome<S>(x + i, count);
      squares = S::Fma(v, v, squares);
    });
    const Vec inverse = S::Set1(1.0f / __builtin_sqrtf(S::SumOf(squares) / dim + args.epsilon));
    const Vec scale = S::Set1(args.row_scale != nullptr ? args.row_scale[r] : 1.0f);
    Vec dots[kRouters + 1] = {};  // one more than needed: arrays are not empty
    ForVectors<S>(args.dim, [&](int64_t i, int count) {
      const Vec y =
          S::Mul(S::Mul(LoadSome<S>(x + i, count), inverse), LoadSome<S>(args.gamma + i, count));
      for (int s = 0; s < kRouters; ++s) {
        dots[s] = S::Fma(y, LoadSome<S>(args.routers[s] + i, count), dots[s]);
      }
      if (args.out != nullptr) {
        StoreSomeAs<S>(args.out_type, args.out, r * args.dim + i, S::Mul(y, scale), count);
      }
    });
    for (int s = 0; s < kRouters; ++s) args.scores[s][r] = S::SumOf(dots[s]);
  }
}

template <class S>
void RmsNormImpl(const RmsNormArgs& args) {
  switch (args.num_routers) {
    case 0:
      return RmsNormRows<S, 0>(args);
    case 1:
      return RmsNormRows<S, 1>(args);
    default:
      return RmsNormRows<S, 2>(args);
  }
}

template <class S>
void ScatterAddImpl(const ScatterAddArgs& args) {
  for (int64_t r = 0; r < args.rows; ++r) {
    const float* in = args.in + r * args.dim;
    float* out = args.out + (args.indices != nullptr ? args.indices[r] : r) * args.dim;
    const typename S::Vec scale = S::Set1(args.row_scale != nullptr ? args.row_scale[r] : 1.0f);
    ForVectors<S>(args.dim, [&](int64_t i, int count) {
      StoreSome<S>(out + i, S::Fma(LoadSome<S>(in + i, count), scale, LoadSome<S>(out + i, count)),
                   count);
    });
  }
}

}  // namespace
}  // namespace longdoc::kernels

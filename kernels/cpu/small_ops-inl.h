// Layer normalisation, gated GELU, embedding lookup, pooling, conversions; contracts:
// cpu_kernels.h. Loads and stores of partial vectors, for the other small kernels too.
#pragma once

#include <cstdint>
#include <cstring>

#include "kernels/cpu/math-inl.h"
#include "kernels/cpu_kernels.h"

namespace longdoc::kernels {
namespace {  // NOLINT: internal linkage, see layout.h

// Calls body(offset, count) over [0, n) in steps of one vector; count < lanes only at the end, and
// the body then goes through a vector-sized buffer.
template <class S, class Body>
inline void ForVectors(int64_t n, const Body& body) {
  int64_t i = 0;
  for (; i + S::kLanes <= n; i += S::kLanes) body(i, S::kLanes);
  if (i < n) body(i, static_cast<int>(n - i));
}

template <class S>
inline typename S::Vec LoadSome(const float* p, int count) {
  if (count == S::kLanes) return S::Load(p);
  float buffer[S::kLanes] = {};
  std::memcpy(buffer, p, count * sizeof(float));
  return S::Load(buffer);
}

template <class S>
inline void StoreSome(float* p, typename S::Vec v, int count) {
  if (count == S::kLanes) return S::Store(p, v);
  float buffer[S::kLanes];
  S::Store(buffer, v);
  std::memcpy(p, buffer, count * sizeof(float));
}

template <class S>
inline void StoreSomeBf16(uint16_t* p, typename S::Vec v, int count) {
  if (count == S::kLanes) return S::StoreBf16(p, v);
  uint16_t buffer[S::kLanes];
  S::StoreBf16(buffer, v);
  std::memcpy(p, buffer, count * sizeof(uint16_t));
}

template <class S>
inline typename S::Vec LoadSomeAs(DType type, const void* base, int64_t offset, int count) {
  if (type == DType::kF32) return LoadSome<S>(static_cast<const float*>(base) + offset, count);
  const uint16_t* p = static_cast<const uint16_t*>(base) + offset;
  uint16_t buffer[S::kLanes] = {};
  if (count != S::kLanes) {
    std::memcpy(buffer, p, count * sizeof(uint16_t));
    p = buffer;
  }
  return type == DType::kBF16 ? S::LoadBf16(p) : S::LoadF16(p);
}

// `type` is kF32 or kBF16.
template <class S>
inline void StoreSomeAs(DType type, void* base, int64_t offset, typename S::Vec v, int count) {
  if (type == DType::kF32) {
    StoreSome<S>(static_cast<float*>(base) + offset, v, count);
  } else {
    StoreSomeBf16<S>(static_cast<uint16_t*>(base) + offset, v, count);
  }
}

// One row: out = LayerNorm(load(i, count)) over i in [0, dim), or the loaded values themselves
// where gamma is null.
template <class S, class Load>
inline void NormalizeRow(int64_t dim, const float* gamma, const float* beta, float epsilon,
                         float* out, uint16_t* out_bf16, const Load& load) {
  using Vec = typename S::Vec;
  const Vec zero = S::Set1(0.0f);
  Vec sum = zero;
  ForVectors<S>(dim, [&](int64_t i, int count) {
    const Vec x = load(i, count);
    StoreSome<S>(out + i, x, count);
    if (gamma == nullptr && out_bf16 != nullptr) StoreSomeBf16<S>(out_bf16 + i, x, count);
    sum = S::Add(sum, x);
  });
  if (gamma == nullptr) return;
  const Vec mean = S::Set1(S::SumOf(sum) / static_cast<float>(dim));
  Vec squares = zero;
  float tail = 0;  // a partial last vector: its padding must not count
  ForVectors<S>(dim, [&](int64_t i, int count) {
    const Vec d = S::Sub(LoadSome<S>(out + i, count), mean);
    if (count == S::kLanes) {
      squares = S::Fma(d, d, squares);
    } else {
      float buffer[S::kLanes];
      S::Store(buffer, d);
      for (int l = 0; l < count; ++l) tail += buffer[l] * buffer[l];
    }
  });
  const float variance = (S::SumOf(squares) + tail) / static_cast<float>(dim);
  const Vec inverse = S::Set1(1.0f / __builtin_sqrtf(variance + epsilon));
  ForVectors<S>(dim, [&](int64_t i, int count) {
    const Vec scaled = S::Mul(S::Sub(LoadSome<S>(out + i, count), mean), inverse);
    const Vec shift = beta != nullptr ? LoadSome<S>(beta + i, count) : zero;
    const Vec y = S::Fma(scaled, LoadSome<S>(gamma + i, count), shift);
    StoreSome<S>(out + i, y, count);
    if (out_bf16 != nullptr) StoreSomeBf16<S>(out_bf16 + i, y, count);
  });
}

template <class S>
void AddLayerNormImpl(const AddLayerNormArgs& args) {
  for (int64_t r = 0; r < args.rows; ++r) {
    const float* a = args.a + r * args.a_stride;
    const float* residual = args.residual != nullptr ? args.residual + r * args.dim : nullptr;
    NormalizeRow<S>(args.dim, args.gamma, args.beta, args.epsilon, args.out + r * args.out_stride,
                    args.out_bf16 != nullptr ? args.out_bf16 + r * args.dim : nullptr,
                    [&](int64_t i, int count) {
                      const typename S::Vec x = LoadSome<S>(a + i, count);
                      return residual != nullptr ? S::Add(x, LoadSome<S>(residual + i, count)) : x;
                    });
  }
}

template <class S>
void EmbedImpl(const EmbedArgs& args) {
  for (int64_t r = 0; r < args.rows; ++r) {
    const int64_t base = static_cast<int64_t>(args.ids[r]) * args.dim;
    NormalizeRow<S>(
        args.dim, args.gamma, args.beta, args.epsilon, args.out + r * args.dim,
        args.out_bf16 != nullptr ? args.out_bf16 + r * args.dim : nullptr,
        [&](int64_t i, int count) {
          const typename S::Vec x = LoadSomeAs<S>(args.table_type, args.word, base + i, count);
          return args.type != nullptr ? S::Add(x, LoadSome<S>(args.type + i, count)) : x;
        });
  }
}

template <class S, bool kTanh>
void GatedGeluRows(const GatedGeluArgs& args) {
  using Vec = typename S::Vec;
  for (int64_t r = 0; r < args.rows; ++r) {
    const int64_t first = r * 2 * args.dim, second = first + args.dim;
    const int64_t active = args.activate_second_half ? second : first;
    const int64_t gate = args.activate_second_half ? first : second;
    ForVectors<S>(args.dim, [&](int64_t i, int count) {
      const Vec x = LoadSomeAs<S>(args.in_type, args.in, active + i, count);
      const Vec gelu = kTanh ? TanhGelu<S>(x) : Gelu<S>(x);
      const Vec y = S::Mul(gelu, LoadSomeAs<S>(args.in_type, args.in, gate + i, count));
      StoreSomeAs<S>(args.out_type, args.out, r * args.dim + i, y, count);
    });
  }
}

template <class S>
void GatedGeluImpl(const GatedGeluArgs& args) {
  args.tanh_form ? GatedGeluRows<S, true>(args) : GatedGeluRows<S, false>(args);
}

// Compensated sums, a strip of columns at a time so that rows are read in order.
template <class S>
void MeanPoolImpl(const float* x, int64_t dim, int64_t begin, int64_t end, float* out) {
  using Vec = typename S::Vec;
  constexpr int64_t kColumns = 512;
  alignas(64) float sums[kColumns];
  alignas(64) float lost[kColumns];  // what the sums are too high by
  const Vec inverse = S::Set1(1.0f / static_cast<float>(end - begin));
  for (int64_t first = 0; first < dim; first += kColumns) {
    const int64_t columns = dim - first < kColumns ? dim - first : kColumns;
    std::memset(sums, 0, sizeof(sums));
    std::memset(lost, 0, sizeof(lost));
    for (int64_t t = begin; t < end; ++t) {
      const float* row = x + t * dim + first;
      ForVectors<S>(columns, [&](int64_t i, int count) {
        const Vec sum = S::Load(sums + i);
        const Vec term = S::Sub(LoadSome<S>(row + i, count), S::Load(lost + i));
        const Vec next = S::Add(sum, term);
        S::Store(lost + i, S::Sub(S::Sub(next, sum), term));
        S::Store(sums + i, next);
      });
    }
    ForVectors<S>(columns, [&](int64_t i, int count) {
      StoreSome<S>(out + first + i, S::Mul(S::Load(sums + i), inverse), count);
    });
  }
}

template <class S>
void F32ToBf16Impl(const float* in, int64_t n, uint16_t* out) {
  ForVectors<S>(n, [&](int64_t i, int count) {
    StoreSomeBf16<S>(out + i, LoadSome<S>(in + i, count), count);
  });
}

template <class S>
void Bf16ToF32Impl(const uint16_t* in, int64_t n, float* out) {
  ForVectors<S>(n, [&](int64_t i, int count) {
    StoreSome<S>(out + i, LoadSomeAs<S>(DType::kBF16, in, i, count), count);
  });
}

}  // namespace
}  // namespace longdoc::kernels

// Cases of attention over gathered tokens: which positions queries and keys stand at.
#pragma once

#include <cstdint>
#include <random>
#include <vector>

#include "tests/kernels/attention_data.h"

namespace longdoc::kernels::testing {

using Positions = std::vector<int32_t>;

// `count` positions from `begin` on, `step` apart.
inline Positions Spaced(int64_t begin, int64_t count, int64_t step = 1) {
  Positions out;
  for (int64_t i = 0; i < count; ++i) out.push_back(static_cast<int32_t>(begin + i * step));
  return out;
}

// `count` distinct positions of [0, range), uniform.
inline Positions Uniform(int64_t count, int64_t range, uint32_t seed) {
  std::mt19937 generator(seed);
  Positions out;
  for (int64_t p = 0; p < range && static_cast<int64_t>(out.size()) < count; ++p) {
    const int64_t missing = count - static_cast<int64_t>(out.size());
    if (static_cast<int64_t>(generator() % static_cast<uint64_t>(range - p)) < missing) {
      out.push_back(static_cast<int32_t>(p));
    }
  }
  return out;
}

inline Positions Join(Positions a, const Positions& b) {
  a.insert(a.end(), b.begin(), b.end());
  return a;
}

inline void AddSequence(const Positions& queries, const Positions& keys, AttentionCase* c) {
  c->gathered = true;
  c->lengths.push_back(static_cast<int64_t>(queries.size()));
  c->key_lengths.push_back(static_cast<int64_t>(keys.size()));
  c->q_positions = Join(c->q_positions, queries);
  c->k_positions = Join(c->k_positions, keys);
}

inline AttentionCase OneHead(const Positions& queries, const Positions& keys, float slope) {
  AttentionCase c;
  AddSequence(queries, keys, &c);
  c.heads = c.kv_heads = 1;
  c.slopes = {slope};
  return c;
}

// Sets of tokens that a router might choose, and some that it will not; about `n` keys each.
inline std::vector<AttentionCase> GatheredPatterns(int64_t n) {
  const auto both = [](const Positions& queries, const Positions& keys) {
    AttentionCase c;
    AddSequence(queries, keys, &c);
    return c;
  };
  const Positions scattered = Uniform(n, 8 * n, 1), few = Uniform(129, 8 * n, 2);
  return {
      both(few, scattered),
      both(Uniform(300, 2400, 3), Uniform(300, 2400, 3)),  // identical sets
      both(Join(Spaced(500, 70), Spaced(9000, 70)),
           Join(Spaced(0, 400), Spaced(8990, 300, 2))),  // clusters
      both(Spaced(50000, 129, 3), Spaced(0, n)),         // all keys to the left
      both(Spaced(0, 129, 3), Spaced(70000, n)),         // all keys to the right
      both(Spaced(100000000, 40),
           Join(Spaced(0, n - 20), Spaced(99000000, 20))),            // nearest 10^6 away
      both(Spaced(5, 200, 1 << 20), Spaced(0, 300, (1 << 20) + 77)),  // gaps beyond 2^20
      both(Spaced(2147483000, 129, 5),
           Join(Spaced(0, 257), Spaced(2147483600, 40))),  // the last position
      both(Join(Spaced(0, 3), Spaced(100000000, 126)), Spaced(49999000, n, 2)),  // halves far apart
  };
}

}  // namespace longdoc::kernels::testing

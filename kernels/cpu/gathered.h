// Scalars of rule C (docs/attention.md), compiled once for the baseline CPU: sums over positions
// alone, and where a block of query rows lies among the keys.
#pragma once

#include <cstdint>

#include "kernels/attention.h"

namespace longdoc::kernels {

// With p the ascending positions of `count` keys:
//   left[j]  = Σ_{i<=j} e^(−slope·(p[j] − p[i]))        right[j] = Σ_{i>=j} e^(−slope·(p[i] −
//   p[j]))
// Each is in [1, count], so nothing overflows whatever the gaps are.
void PositionSums(const int32_t* positions, int64_t count, float slope, float* left, float* right);

// The rows of a query block among the keys of their sequence.
struct RowPlaces {
  int32_t nearest[kQueryBlock];  // distance to the nearest key
  // ln Σ_j e^(−slope·(|row − p[j]| − nearest)) over all keys, at least 0; 0 without sums.
  float log_mass[kQueryBlock];
  int64_t first_key = 0, last_key = 0;  // nearest keys of the first and the last row
};

// `rows` are ascending, `num_keys` > 0; `left` and `right` are PositionSums, or both null.
void PlaceRows(const int32_t* keys, int64_t num_keys, const int32_t* rows, int num_rows,
               float slope, const float* left, const float* right, RowPlaces* places);

}  // namespace longdoc::kernels

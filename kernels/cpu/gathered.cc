#include "kernels/cpu/gathered.h"

#include <algorithm>
#include <cmath>

#include "kernels/ranges.h"

namespace longdoc::kernels {

void PositionSums(const int32_t* positions, int64_t count, float slope, float* left, float* right) {
  const auto decay = [&](int64_t j) {  // from key j to key j + 1
    const int64_t gap = int64_t{positions[j + 1]} - positions[j];
    return std::exp(-static_cast<double>(slope) * static_cast<double>(gap));
  };
  double sum = 0;
  for (int64_t j = 0; j < count; ++j) {
    sum = j == 0 ? 1 : 1 + decay(j - 1) * sum;
    left[j] = static_cast<float>(sum);
  }
  for (int64_t j = count - 1; j >= 0; --j) {
    sum = j == count - 1 ? 1 : 1 + decay(j) * sum;
    right[j] = static_cast<float>(sum);
  }
}

void PlaceRows(const int32_t* keys, int64_t num_keys, const int32_t* rows, int num_rows,
               float slope, const float* left, const float* right, RowPlaces* places) {
  const int32_t* end = keys + num_keys;
  const int32_t* after = keys;  // the first key beyond the row; rows ascend, and so does it
  for (int r = 0; r < num_rows; ++r) {
    const int32_t row = rows[r];
    int64_t step = 1;  // a galloping search: neighbouring rows have neighbouring keys
    while (end - after > step && after[step] <= row) {
      after += step;
      step *= 2;
    }
    after = std::upper_bound(after, after + std::min<int64_t>(end - after, step + 1), row);
    const RowPlace place = PlaceRow(keys, num_keys, row, after - keys, slope, left, right);
    places->nearest[r] = place.nearest;
    places->log_mass[r] = place.log_mass;
    if (r == 0) places->first_key = place.nearest_key;
    places->last_key = place.nearest_key;
  }
}

}  // namespace longdoc::kernels

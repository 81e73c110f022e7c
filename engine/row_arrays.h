// What a device is told of the rows of a run, in one block of its memory that is filled by one
// copy.
//
// Runs of as many rows and sequences, within the same key_capacity, differ in what the block says
// and in nothing else: neither where it is, nor what ops are called with.
#pragma once

#include <cstdint>
#include <vector>

#include "absl/status/status.h"
#include "absl/types/span.h"
#include "engine/decoder_steps.h"

namespace longdoc {

struct DecoderRunOptions {
  // Most keys that any sequence will ever have, if runs shall be alike; 0: as many as there are.
  int64_t key_capacity = 0;
  // Goes along, for who samples after the last layer.
  absl::Span<const double> draws;
};

class RowArrays {
 public:
  static constexpr int64_t kMaxInputs = 256;

  // Of the block, at most, for runs of up to `max_rows` rows with at most a draw each.
  static int64_t PlanBytes(const DecoderWeights& weights, int64_t max_rows);

  // Sets `cached`, `placed_ids` and `placed_draws` of a state whose rows are planned. The block
  // only moves for a run that is larger than all before. RESOURCE_EXHAUSTED when there is no
  // memory.
  absl::Status Place(const DecoderRunOptions& options, DecoderState& state);

 private:
  template <typename T>
  int64_t Append(const std::vector<T>& values);

  std::vector<char> host_;  // what the block says; kept for its memory
  Buffer block_;
};

}  // namespace longdoc

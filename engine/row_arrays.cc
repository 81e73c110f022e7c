#include "engine/row_arrays.h"

#include <algorithm>
#include <cstring>

#include "engine/base/check.h"
#include "engine/base/status_macros.h"

namespace longdoc {
namespace {

// What is the same for all rows, but for where the arrays are.
CachedRows Sizes(const DecoderRunOptions& options, const DecoderState& s) {
  const KvShape shape = DecoderCacheShape(*s.weights, s.backend->info());
  CachedRows c;
  c.rows = static_cast<int64_t>(s.ids.size());
  c.sequences = static_cast<int64_t>(s.inputs.size());
  c.page_blocks = kKvPageBlocks;
  c.layer_bytes = shape.layer_bytes();
  c.head_dim = shape.head_dim;
  c.storage = shape.storage;
  c.max_keys = options.key_capacity;
  c.table_stride = KvPages(options.key_capacity);
  for (const DecoderInput& input : s.inputs) {
    const int64_t n = static_cast<int64_t>(input.ids.size());
    LD_CHECK(options.key_capacity == 0 || input.first + n <= options.key_capacity);
    c.max_rows = std::max(c.max_rows, n);
    c.max_keys = std::max(c.max_keys, input.first + n);
    c.table_stride = std::max(c.table_stride, input.keys->pages());
  }
  return c;
}

}  // namespace

int64_t RowArrays::PlanBytes(const DecoderWeights& weights, int64_t max_rows) {
  const int64_t inputs = std::min(max_rows, kMaxInputs);
  return 8 * (2 * inputs + 1 + inputs * KvPages(weights.config.max_target_tokens) + max_rows) +
         4 * 3 * max_rows;
}

template <typename T>
int64_t RowArrays::Append(const std::vector<T>& values) {
  const size_t at = host_.size(), bytes = values.size() * sizeof(T);
  host_.resize(at + bytes);
  if (bytes > 0) std::memcpy(host_.data() + at, values.data(), bytes);
  return static_cast<int64_t>(at);
}

absl::Status RowArrays::Place(const DecoderRunOptions& options, DecoderState& s) {
  LD_CHECK(static_cast<int64_t>(s.inputs.size()) <= kMaxInputs);
  CachedRows c = Sizes(options, s);
  std::vector<int64_t> cu_query_rows, key_counts;
  // Of pages that a sequence does not have yet nothing is read.
  std::vector<const void*> pages(static_cast<size_t>(c.sequences * c.table_stride));
  std::vector<int32_t> positions, sequence_of;
  for (const int64_t row : s.cu_rows) cu_query_rows.push_back(row * s.heads());
  for (size_t i = 0; i < s.inputs.size(); ++i) {
    const DecoderInput& input = s.inputs[i];
    LD_CHECK(input.copies.empty());
    const int64_t end = input.first + static_cast<int64_t>(input.ids.size());
    key_counts.push_back(end);
    for (int64_t p = 0; p < input.keys->pages(); ++p) {
      pages[static_cast<int64_t>(i) * c.table_stride + p] = input.keys->page(p);
    }
    for (int64_t position = input.first; position < end; ++position) {
      positions.push_back(static_cast<int32_t>(position));
      sequence_of.push_back(static_cast<int32_t>(i));
    }
  }
  host_.clear();
  // The widest elements first: all are aligned.
  const int64_t at[] = {Append(cu_query_rows),
                        Append(key_counts),
                        Append(std::vector<double>(options.draws.begin(), options.draws.end())),
                        Append(pages),
                        Append(s.ids),
                        Append(positions),
                        Append(sequence_of)};
  const int64_t bytes = static_cast<int64_t>(host_.size());
  if (block_.bytes() < bytes) {
    block_.Reset();
    ASSIGN_OR_RETURN(block_, s.backend->memory().Allocate(bytes, /*zeroed=*/false));
  }
  s.backend->CopyToDevice(block_.data(), host_.data(), bytes);
  const auto array = [&](int i) -> const void* { return block_.as<char>() + at[i]; };
  c.cu_query_rows = static_cast<const int64_t*>(array(0));
  c.key_counts = static_cast<const int64_t*>(array(1));
  s.placed_draws = static_cast<const double*>(array(2));
  c.pages = static_cast<const void* const*>(array(3));
  s.placed_ids = static_cast<const int32_t*>(array(4));
  c.positions = static_cast<const int32_t*>(array(5));
  c.sequence_of = static_cast<const int32_t*>(array(6));
  s.cached = c;
  return absl::OkStatus();
}

}  // namespace longdoc

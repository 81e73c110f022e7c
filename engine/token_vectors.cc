#include "engine/token_vectors.h"

#include <algorithm>
#include <utility>

#include "engine/base/status_macros.h"

namespace longdoc {

absl::StatusOr<std::shared_ptr<TokenVectors>> TokenVectors::Allocate(MemoryPool& memory,
                                                                     int64_t tokens,
                                                                     int64_t dimensions) {
  auto vectors = std::make_shared<TokenVectors>();
  vectors->tokens = tokens;
  vectors->dimensions = dimensions;
  ASSIGN_OR_RETURN(Buffer buffer, memory.Allocate(Bytes(tokens, dimensions), /*zeroed=*/false));
  vectors->layers.push_back(std::move(buffer));
  return vectors;
}

absl::Status TokenVectorsToKeep::Allocate() {
  const auto keeps = [](const PassSequence& s) { return s.keep_token_vectors; };
  if (std::none_of(packing_.sequences.begin(), packing_.sequences.end(), keeps)) {
    return absl::OkStatus();
  }
  kept_.resize(packing_.sequences.size());
  for (size_t s = 0; s < kept_.size(); ++s) {
    if (!packing_.sequences[s].keep_token_vectors) continue;
    ASSIGN_OR_RETURN(kept_[s],
                     TokenVectors::Allocate(backend_.memory(), packing_.tokens(s), dimensions_));
  }
  return absl::OkStatus();
}

int64_t TokenVectorsToKeep::bytes() const {
  int64_t sum = 0;
  for (const auto& kept : kept_) sum += kept != nullptr ? kept->bytes() : 0;
  return sum;
}

int64_t TokenVectorsToKeep::num_steps() const {
  return kept_.empty() ? 0 : kernels::CeilDiv(packing_.tokens(), backend_.info().token_tile);
}

void TokenVectorsToKeep::Run(int64_t step, const float* vectors) {
  const int64_t tile_begin = step * backend_.info().token_tile;
  const int64_t tile_end = tile_begin + backend_.info().token_tile;
  for (size_t s = 0; s < kept_.size(); ++s) {
    const int64_t first = packing_.cu_seqlens[s];
    const int64_t begin = std::max(first, tile_begin);
    const int64_t end = std::min(packing_.cu_seqlens[s + 1], tile_end);
    if (kept_[s] == nullptr || begin >= end) continue;
    kernels::UnitRowsArgs args;
    args.rows = end - begin;
    args.dim = dimensions_;
    args.in = vectors + begin * dimensions_;
    args.out = kept_[s]->data() + (begin - first) * dimensions_;
    backend_.UnitRows(args);
  }
}

std::shared_ptr<const TokenVectors> TokenVectorsToKeep::Take(size_t sequence) {
  return kept_.empty() ? nullptr : std::move(kept_[sequence]);
}

}  // namespace longdoc

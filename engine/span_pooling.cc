#include "engine/span_pooling.h"

#include <algorithm>
#include <utility>

#include "engine/base/status_macros.h"

namespace longdoc {

SpanPooling::SpanPooling(Backend& backend, const PassPacking& packing, int64_t dim,
                         const PackedMatrix* projection)
    : backend_(backend), packing_(packing), dim_(dim), projection_(projection) {
  for (size_t s = 0; s < packing.sequences.size(); ++s) {
    const int64_t base = packing.cu_seqlens[s];
    first_.push_back(begin_.size());
    begin_.push_back(base);
    end_.push_back(packing.cu_seqlens[s + 1]);
    for (const TokenSpan& span : packing.sequences[s].spans) {
      begin_.push_back(base + span.begin);
      end_.push_back(base + span.end);
    }
  }
}

absl::Status SpanPooling::Allocate() {
  const int64_t spans = static_cast<int64_t>(begin_.size());
  const int64_t bytes = spans * static_cast<int64_t>(sizeof(int64_t));
  ASSIGN_OR_RETURN(placed_begin_, backend_.Place(begin_.data(), bytes));
  ASSIGN_OR_RETURN(placed_end_, backend_.Place(end_.data(), bytes));
  ASSIGN_OR_RETURN(vectors_, backend_.memory().Allocate(spans * out_dim() * 4, /*zeroed=*/false));
  return absl::OkStatus();
}

int64_t SpanPooling::num_steps() const {
  return kernels::CeilDiv(static_cast<int64_t>(begin_.size()), backend_.info().span_tile);
}

absl::Status SpanPooling::Run(int64_t step, const float* x, WorkerScratch& scratch) {
  const int64_t first = step * backend_.info().span_tile;
  const int64_t rows =
      std::min(backend_.info().span_tile, static_cast<int64_t>(begin_.size()) - first);
  float* out = vectors_.as<float>() + first * out_dim();
  kernels::PoolArgs pool;
  pool.spans = rows;
  pool.dim = dim_;
  pool.tokens = packing_.tokens();
  pool.x = x;
  pool.begin = placed_begin_.as<int64_t>() + first;
  pool.end = placed_end_.as<int64_t>() + first;
  pool.out = out;
  RETURN_IF_ERROR(scratch.Ensure(scratch.attention, backend_.MeanPoolScratchBytes(pool)));
  pool.workspace = scratch.attention.data();
  if (projection_ == nullptr) {
    backend_.MeanPool(pool);
    return absl::OkStatus();
  }
  RETURN_IF_ERROR(scratch.Ensure(scratch.tile, rows * dim_ * 4));
  pool.out = scratch.tile.as<float>();
  backend_.MeanPool(pool);
  const void* in = pool.out;
  if (backend_.info().gemm_type == DType::kBF16) {
    RETURN_IF_ERROR(scratch.Ensure(scratch.input, rows * dim_ * 2));
    backend_.F32ToBf16(pool.out, rows * dim_, scratch.input.as<uint16_t>());
    in = scratch.input.data();
  }
  return projection_->Gemm(rows, in, out);
}

absl::Status SpanPooling::Fetch() {
  ASSIGN_OR_RETURN(vectors_, backend_.ToHost(std::move(vectors_)));
  return absl::OkStatus();
}

EncodeResult SpanPooling::TakeVectors(size_t sequence) const {
  const float* document = vectors_.as<float>() + static_cast<int64_t>(first_[sequence]) * out_dim();
  const float* passages = document + out_dim();
  const int64_t spans = static_cast<int64_t>(packing_.sequences[sequence].spans.size());
  EncodeResult result;
  result.document.assign(document, passages);
  result.passages.assign(passages, passages + spans * out_dim());
  return result;
}

}  // namespace longdoc

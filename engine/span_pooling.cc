#include "engine/span_pooling.h"

#include <algorithm>
#include <cstring>

namespace longdoc {
namespace {

constexpr int64_t kVectorsPerStep = 16;

}  // namespace

SpanPooling::SpanPooling(Backend& backend, const PassPacking& packing, int64_t dim,
                         const PackedMatrix* projection)
    : backend_(backend), dim_(dim), projection_(projection), results_(packing.sequences.size()) {
  const size_t out_dim = static_cast<size_t>(projection == nullptr ? dim : projection->n());
  for (size_t s = 0; s < packing.sequences.size(); ++s) {
    const int64_t base = packing.cu_seqlens[s];
    const auto& spans = packing.sequences[s].spans;
    results_[s].document.resize(out_dim);
    results_[s].passages.resize(out_dim * spans.size());
    vectors_.push_back({base, packing.cu_seqlens[s + 1], results_[s].document.data()});
    for (size_t i = 0; i < spans.size(); ++i) {
      vectors_.push_back(
          {base + spans[i].begin, base + spans[i].end, results_[s].passages.data() + i * out_dim});
    }
  }
}

int64_t SpanPooling::num_steps() const {
  return kernels::CeilDiv(static_cast<int64_t>(vectors_.size()), kVectorsPerStep);
}

absl::Status SpanPooling::Run(int64_t step, const float* x, WorkerScratch& scratch) {
  const int64_t begin = step * kVectorsPerStep;
  const int64_t rows =
      std::min<int64_t>(kVectorsPerStep, static_cast<int64_t>(vectors_.size()) - begin);
  const Vector* vectors = vectors_.data() + begin;
  if (projection_ == nullptr) {
    for (int64_t r = 0; r < rows; ++r) {
      backend_.MeanPool(x, dim_, vectors[r].begin, vectors[r].end, vectors[r].out);
    }
    return absl::OkStatus();
  }
  RETURN_IF_ERROR(scratch.Ensure(scratch.tile, rows * dim_ * 4));
  RETURN_IF_ERROR(scratch.Ensure(scratch.wide, rows * projection_->n() * 4));
  float* pooled = scratch.tile.as<float>();
  for (int64_t r = 0; r < rows; ++r) {
    backend_.MeanPool(x, dim_, vectors[r].begin, vectors[r].end, pooled + r * dim_);
  }
  const void* in = pooled;
  if (backend_.info().gemm_type == DType::kBF16) {
    RETURN_IF_ERROR(scratch.Ensure(scratch.input, rows * dim_ * 2));
    backend_.F32ToBf16(pooled, rows * dim_, scratch.input.as<uint16_t>());
    in = scratch.input.data();
  }
  float* projected = scratch.wide.as<float>();
  RETURN_IF_ERROR(projection_->Gemm(rows, in, projected));
  for (int64_t r = 0; r < rows; ++r) {
    std::memcpy(vectors[r].out, projected + r * projection_->n(), projection_->n() * 4);
  }
  return absl::OkStatus();
}

}  // namespace longdoc

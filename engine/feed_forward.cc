#include "engine/feed_forward.h"

namespace longdoc {

absl::Status RunFeedForward(Backend& backend, const FeedForward& ff, int64_t rows, const void* in,
                            float* out, WorkerScratch& scratch) {
  const DType gemm_type = backend.info().gemm_type;
  const int64_t inner = ff.down->k();
  RETURN_IF_ERROR(scratch.Ensure(scratch.wide, rows * 2 * inner * 4));
  RETURN_IF_ERROR(scratch.Ensure(scratch.inner,
                                 rows * inner * static_cast<int64_t>(kernels::SizeOf(gemm_type))));
  RETURN_IF_ERROR(ff.gate_up->Gemm(rows, in, scratch.wide.as<float>()));
  kernels::GatedGeluArgs gelu;
  gelu.rows = rows;
  gelu.dim = inner;
  gelu.in = scratch.wide.as<float>();
  gelu.activate_second_half = ff.activate_second_half;
  gelu.tanh_form = ff.tanh_form;
  gelu.out_type = gemm_type;
  gelu.out = scratch.inner.data();
  backend.GatedGelu(gelu);
  return ff.down->Gemm(rows, scratch.inner.data(), out);
}

}  // namespace longdoc

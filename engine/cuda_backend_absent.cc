// In place of cuda_backend.cc, in builds without CUDA.
#include "engine/backend.h"

namespace longdoc {

absl::StatusOr<std::unique_ptr<Backend>> MakeCudaBackend(const CudaOptions&) {
  return absl::UnimplementedError("built without CUDA");
}

}  // namespace longdoc

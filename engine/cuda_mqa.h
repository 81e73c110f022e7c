// WholeMqa by the CUDA kernels.
#pragma once

#include "engine/whole_mqa.h"

namespace longdoc {
namespace kernels::cuda {
class Runtime;
}

class CudaMqa final : public WholeMqa {
 public:
  explicit CudaMqa(kernels::cuda::Runtime& runtime) : rt_(runtime) {}
  void Append(const AppendKeysArgs& args) override;
  int64_t WorkspaceBytes(const WholeMqaArgs& args) const override;
  void Attend(const WholeMqaArgs& args) override;

 private:
  kernels::cuda::Runtime& rt_;
};

}  // namespace longdoc

// OpRecording as CUDA graphs; and what a failure of the device is to the engine.
#pragma once

#include "engine/op_recording.h"
#include "kernels/cuda/runtime.h"

namespace longdoc {

// UNAVAILABLE (DEVICE_LOST) once the device is lost, otherwise INTERNAL; OK without a fault.
absl::Status ToStatus(const kernels::cuda::Runtime::Fault& fault);

class CudaRecording final : public OpRecording {
 public:
  explicit CudaRecording(kernels::cuda::Runtime& runtime) : rt_(runtime) {}
  ~CudaRecording() override { rt_.FreeGraph(graph_); }
  CudaRecording(const CudaRecording&) = delete;
  CudaRecording& operator=(const CudaRecording&) = delete;

  absl::StatusOr<bool> Record(const std::function<absl::Status()>& ops) override;
  void Replay() override { rt_.Replay(graph_); }

 private:
  kernels::cuda::Runtime& rt_;
  cudaGraphExec_t graph_ = nullptr;
};

}  // namespace longdoc

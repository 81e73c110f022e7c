#include "engine/cuda_recording.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "engine/base/error_reason.h"
#include "engine/base/status_macros.h"

namespace longdoc {

absl::Status ToStatus(const kernels::cuda::Runtime::Fault& fault) {
  if (fault.text.empty()) return absl::OkStatus();
  const std::string message = absl::StrCat("cuda: ", fault.text);
  return fault.is_lost ? WithReason(absl::UnavailableError(message), "DEVICE_LOST")
                       : absl::InternalError(message);
}

absl::StatusOr<bool> CudaRecording::Record(const std::function<absl::Status()>& ops) {
  // What went wrong before is not the recording's fault, and is not passed over.
  RETURN_IF_ERROR(ToStatus(rt_.TakeFault()));
  rt_.FreeGraph(std::exchange(graph_, nullptr));
  graph_ = rt_.Record([&ops] { return ops().ok(); });
  const kernels::cuda::Runtime::Fault fault = rt_.TakeFault();
  if (fault.is_lost) return ToStatus(fault);
  if (!fault.text.empty()) rt_.FreeGraph(std::exchange(graph_, nullptr));  // an op is missing
  return graph_ != nullptr;
}

}  // namespace longdoc

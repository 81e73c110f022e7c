#include "engine/loading.h"

#include <mutex>
#include <utility>

#include "absl/strings/str_format.h"
#include "engine/base/status_macros.h"
#include "engine/base/thread_pool.h"

namespace longdoc {

absl::StatusOr<std::unique_ptr<Tokenizer>> LoadModelTokenizer(const std::string& dir,
                                                              int64_t vocab_size) {
  ASSIGN_OR_RETURN(std::unique_ptr<Tokenizer> tokenizer, LoadTokenizer(dir));
  if (tokenizer->vocab_size() > vocab_size) {
    return absl::InvalidArgumentError(absl::StrFormat(
        "the tokenizer in %s has %d entries, but the model's embedding table only %d rows", dir,
        tokenizer->vocab_size(), vocab_size));
  }
  if (tokenizer->special().cls < 0 || tokenizer->special().sep < 0) {
    return absl::InvalidArgumentError(
        absl::StrFormat("the tokenizer in %s has no [CLS] or no [SEP] token", dir));
  }
  return tokenizer;
}

absl::Status PackInParallel(Backend& backend, size_t count,
                            const std::function<absl::Status(size_t)>& pack) {
  std::mutex mutex;
  absl::Status first_error;
  {
    ThreadPool pool("pack", backend.info().num_workers);
    for (size_t i = 0; i < count; ++i) {
      pool.Post([&, i] {
        backend.InitWorkerThread();
        absl::Status status = pack(i);
        std::lock_guard lock(mutex);
        first_error.Update(std::move(status));
      });
    }
  }
  return first_error;
}

absl::Status CheckHeadDim(int64_t head_dim, const Backend& backend) {
  const BackendInfo& info = backend.info();
  if (head_dim <= info.max_head_dim) return absl::OkStatus();
  return absl::FailedPreconditionError(
      absl::StrFormat("the model's attention heads have size %d, on %s they have at most %d",
                      head_dim, info.name, info.max_head_dim));
}

ComputeType ComputeTypeOf(const Backend& backend) {
  return backend.info().storage_type == DType::kBF16 ? ComputeType::kBF16 : ComputeType::kF32;
}

absl::StatusOr<AlignedTable> AlignedTable::Make(const TensorView& table, Backend& backend) {
  AlignedTable aligned;
  aligned.view_ = table;
  if (reinterpret_cast<uintptr_t>(table.data) % kernels::SizeOf(table.dtype) != 0) {
    const char* bytes = static_cast<const char*>(table.data);
    aligned.copy_.assign(bytes, bytes + table.bytes());
    aligned.view_.data = aligned.copy_.data();
  }
  ASSIGN_OR_RETURN(aligned.placed_, backend.Place(aligned.view_.data, table.bytes()));
  return aligned;
}

absl::StatusOr<PlacedFloats> PlacedFloats::Make(const TensorView& tensor, Backend& backend) {
  PlacedFloats floats;
  if (tensor.data == nullptr) return floats;
  floats.values_ = ToFloats(tensor);
  ASSIGN_OR_RETURN(floats.placed_,
                   backend.Place(floats.values_.data(),
                                 static_cast<int64_t>(floats.values_.size() * sizeof(float))));
  return floats;
}

}  // namespace longdoc

// What the model families do alike when a directory is loaded.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "engine/backend.h"
#include "engine/engine.h"
#include "engine/tensor.h"
#include "engine/text/tokenizer.h"

namespace longdoc {

// The tokenizer of `dir`. INVALID_ARGUMENT when it has more entries than the model has embeddings,
// or no [CLS] or [SEP].
absl::StatusOr<std::unique_ptr<Tokenizer>> LoadModelTokenizer(const std::string& dir,
                                                              int64_t vocab_size);

// Runs pack(0) … pack(count − 1) on as many threads as the backend has workers, each prepared for
// packing. The first error, if any.
absl::Status PackInParallel(Backend& backend, size_t count,
                            const std::function<absl::Status(size_t)>& pack);

// OK, or FAILED_PRECONDITION when the device has no attention with heads of this size.
absl::Status CheckHeadDim(int64_t head_dim, const Backend& backend);

// What the weights of this backend's models are computed in.
ComputeType ComputeTypeOf(const Backend& backend);

// A checkpoint's table, used where it is by ops on the host; copied there only when the file does
// not align it to its type.
class AlignedTable {
 public:
  AlignedTable() = default;
  AlignedTable(AlignedTable&&) = default;
  AlignedTable& operator=(AlignedTable&&) = default;
  static absl::StatusOr<AlignedTable> Make(const TensorView& table, Backend& backend);

  const TensorView& view() const { return view_; }     // for the host
  const void* placed() const { return placed_.data; }  // for ops
  bool copied_to_device() const { return placed_.copy.bytes() > 0; }

 private:
  TensorView view_;
  std::vector<char> copy_;
  Placed placed_;
};

// A small tensor as fp32, where ops can read it.
class PlacedFloats {
 public:
  PlacedFloats() = default;
  // Nothing, for a tensor without data.
  static absl::StatusOr<PlacedFloats> Make(const TensorView& tensor, Backend& backend);

  bool empty() const { return values_.empty(); }
  const float* data() const { return placed_.as<float>(); }

 private:
  std::vector<float> values_;  // moves keep its address
  Placed placed_;
};

}  // namespace longdoc

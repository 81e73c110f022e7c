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

// What the weights of this backend's models are computed in.
ComputeType ComputeTypeOf(const Backend& backend);

// A checkpoint's table, used where it is; copied only when the file does not align it to its type.
class AlignedTable {
 public:
  AlignedTable() = default;
  explicit AlignedTable(const TensorView& table);
  AlignedTable(AlignedTable&&) = default;
  AlignedTable& operator=(AlignedTable&&) = default;
  const TensorView& view() const { return view_; }

 private:
  TensorView view_;
  std::vector<char> copy_;
};

}  // namespace longdoc

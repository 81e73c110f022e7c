// Takes a model's tensors out of a checkpoint by name. Private to engine/model.
#pragma once

#include <string>
#include <vector>

#include "absl/status/status.h"
#include "engine/model/safetensors.h"
#include "engine/tensor.h"

namespace longdoc {

// Remembers the first error and takes nothing after it, so that the tables which use it read as
// tables; ask status() at their end.
class TensorLoader {
 public:
  // `prefix` goes before every name. `check_finite`: NaN and infinity are errors.
  TensorLoader(const Checkpoint& checkpoint, std::string prefix, bool check_finite)
      : checkpoint_(checkpoint), prefix_(std::move(prefix)), check_finite_(check_finite) {}

  TensorView Take(const std::string& name, const std::vector<int64_t>& shape);
  const absl::Status& status() const { return status_; }

 private:
  const Checkpoint& checkpoint_;
  std::string prefix_;
  bool check_finite_;
  absl::Status status_;
};

// INVALID_ARGUMENT when there is a tensor `name` of the first layer beyond the `count` that
// config.json's `field` says: it would silently be another model.
absl::Status RefuseLayerBeyond(const Checkpoint& checkpoint, const std::string& name,
                               const char* field, int64_t count);

// What tells two models apart: hex hash of config.json and the checkpoint's fingerprint.
std::string ModelRevision(const Checkpoint& checkpoint, const std::string& config_json);

}  // namespace longdoc

// Reader for safetensors checkpoints, memory-mapped, one file or sharded.
//
// Every field of the header is checked before it is used: header length, JSON shape, dtype, shape
// product and byte range overflow, ranges inside the file, no overlap, no gap beyond the format's
// rule. Nothing is read beyond the header until a tensor is touched.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "engine/tensor.h"

namespace longdoc {

struct TensorEntry {
  DType dtype;  // F32, BF16 or F16; other types of the format are listed but refused on Get
  std::string dtype_name;
  std::vector<int64_t> shape;
  int64_t begin = 0, end = 0;  // byte range within the data section
};

// Parses a header (the JSON text alone) against the size of the data section. Also the fuzz entry.
// INVALID_ARGUMENT naming the tensor and the values seen.
absl::StatusOr<std::map<std::string, TensorEntry>> ParseSafetensorsHeader(std::string_view json,
                                                                          int64_t data_bytes);

// An open checkpoint; tensors stay valid as long as it lives. Immutable, thread-safe.
class Checkpoint {
 public:
  virtual ~Checkpoint() = default;
  // `model.safetensors`, or `model.safetensors.index.json` with its shards, in `model_dir`.
  // NOT_FOUND when there is neither; INVALID_ARGUMENT for a corrupt one, naming the file.
  static absl::StatusOr<std::unique_ptr<Checkpoint>> Open(const std::string& model_dir);

  virtual std::vector<std::string> Names() const = 0;
  virtual bool Has(std::string_view name) const = 0;
  // NOT_FOUND, or INVALID_ARGUMENT when dtype is not a float type or the shape is not the expected
  // one.
  virtual absl::StatusOr<TensorView> Get(std::string_view name,
                                         const std::vector<int64_t>& shape) const = 0;
  virtual const TensorEntry* Find(std::string_view name) const = 0;
  // Drops the pages of a tensor that has been copied elsewhere from memory.
  virtual void Release(std::string_view name) const = 0;
  virtual int64_t file_bytes() const = 0;
  // Hash of the headers, the sizes and the first bytes of every tensor: tells checkpoints apart
  // without reading them whole.
  virtual uint64_t Fingerprint() const = 0;
};

}  // namespace longdoc

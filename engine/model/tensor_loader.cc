#include "engine/model/tensor_loader.h"

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "engine/base/hash.h"
#include "engine/model/json_sax.h"

namespace longdoc {
namespace {

// Index of the first element whose exponent bits (`mask`) are all set, that is NaN or infinity; -1
// when all are finite. The branch-free inner loop runs at memory speed.
template <typename Word>
int64_t FirstNonFinite(const Word* words, int64_t count, Word mask) {
  constexpr int64_t kBlock = 4096;
  for (int64_t begin = 0; begin < count; begin += kBlock) {
    const int64_t end = begin + kBlock < count ? begin + kBlock : count;
    Word bad = 0;
    for (int64_t i = begin; i < end; ++i) bad |= static_cast<Word>((words[i] & mask) == mask);
    if (bad == 0) continue;
    for (int64_t i = begin; i < end; ++i) {
      if ((words[i] & mask) == mask) return i;
    }
  }
  return -1;
}

int64_t FirstNonFinite(const TensorView& tensor) {
  const int64_t count = tensor.num_elements();
  switch (tensor.dtype) {
    case DType::kF32:
      return FirstNonFinite<uint32_t>(static_cast<const uint32_t*>(tensor.data), count,
                                      0x7f800000u);
    case DType::kBF16:
      return FirstNonFinite<uint16_t>(static_cast<const uint16_t*>(tensor.data), count, 0x7f80u);
    case DType::kF16:
      return FirstNonFinite<uint16_t>(static_cast<const uint16_t*>(tensor.data), count, 0x7c00u);
  }
  return -1;
}

}  // namespace

TensorView TensorLoader::Take(const std::string& name, const std::vector<int64_t>& shape) {
  if (!status_.ok()) return {};
  const std::string full = absl::StrCat(prefix_, name);
  absl::StatusOr<TensorView> tensor = checkpoint_.Get(full, shape);
  if (!tensor.ok()) {
    // A tensor that the architecture needs is part of a valid model: its absence is bad input.
    status_ = absl::InvalidArgumentError(std::string(tensor.status().message()));
    return {};
  }
  if (check_finite_) {
    const int64_t bad = FirstNonFinite(*tensor);
    if (bad >= 0) {
      status_ = absl::InvalidArgumentError(
          absl::StrFormat("tensor %s: element %d is not finite", Quoted(full), bad));
      return {};
    }
  }
  return *std::move(tensor);
}

absl::Status RefuseLayerBeyond(const Checkpoint& checkpoint, const std::string& name,
                               const char* field, int64_t count) {
  if (!checkpoint.Has(name)) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrFormat("checkpoint has tensor %s, but config.json says %s %d", name, field, count));
}

std::string ModelRevision(const Checkpoint& checkpoint, const std::string& config_json) {
  return absl::StrFormat("%016x", checkpoint.Fingerprint() ^ Fnv1a(config_json));
}

}  // namespace longdoc

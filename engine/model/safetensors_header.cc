// The JSON header of a safetensors file: {"name": {"dtype", "shape", "data_offsets"}, …}.
#include <algorithm>
#include <cstdint>
#include <limits>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "engine/base/status_macros.h"
#include "engine/model/json_sax.h"
#include "engine/model/safetensors.h"

namespace longdoc {
namespace {

constexpr size_t kMaxHeaderBytes = 100'000'000;  // the format's own limit
constexpr size_t kMaxTensors = 1'000'000;
constexpr size_t kMaxDims = 16;
constexpr int64_t kMaxDim = std::numeric_limits<int64_t>::max();

// Bytes per element of the format's types.
std::optional<int64_t> ElementBytes(const std::string& dtype) {
  static const auto& sizes = *new std::map<std::string, int64_t>{
      {"BOOL", 1}, {"U8", 1},  {"I8", 1},  {"F8_E5M2", 1}, {"F8_E4M3", 1}, {"F8_E8M0", 1},
      {"I16", 2},  {"U16", 2}, {"F16", 2}, {"BF16", 2},    {"I32", 4},     {"U32", 4},
      {"F32", 4},  {"F64", 8}, {"I64", 8}, {"U64", 8},     {"C64", 8},
  };
  const auto it = sizes.find(dtype);
  if (it == sizes.end()) return std::nullopt;
  return it->second;
}

// The type for dtype_name; the placeholder F32 for types that Checkpoint::Get refuses.
DType FloatType(const std::string& dtype) {
  if (dtype == "BF16") return DType::kBF16;
  if (dtype == "F16") return DType::kF16;
  return DType::kF32;
}

// Bytes of a tensor of `shape`, or nullopt when that overflows.
std::optional<int64_t> TensorBytes(const std::vector<int64_t>& shape, int64_t element_bytes) {
  // A zero dimension makes the product zero only if the others do not overflow first: look for it.
  if (std::find(shape.begin(), shape.end(), 0) != shape.end()) return 0;
  int64_t bytes = element_bytes;
  for (int64_t dim : shape) {
    if (__builtin_mul_overflow(bytes, dim, &bytes)) return std::nullopt;
  }
  return bytes;
}

class HeaderSax final : public JsonSax {
 public:
  explicit HeaderSax(int64_t data_bytes)
      : JsonSax("safetensors header", /*max_depth=*/3), data_bytes_(data_bytes) {}

  std::map<std::string, TensorEntry> TakeTensors() { return std::move(tensors_); }

 private:
  enum class Field { kNone, kDtype, kShape, kOffsets };

  bool OnStartObject() override {
    if (depth() == 2) return Unexpected("an object");
    if (depth() == 1) {
      in_metadata_ = name_ == "__metadata__";
      entry_ = TensorEntry();
      offsets_.clear();
      seen_dtype_ = seen_shape_ = seen_offsets_ = false;
      field_ = Field::kNone;
      if (!in_metadata_ && tensors_.size() >= kMaxTensors) {
        return Fail(absl::StrFormat("more than %d tensors", kMaxTensors));
      }
    }
    return true;
  }

  bool OnEndObject() override { return depth() != 1 || in_metadata_ || AddTensor(); }

  bool OnStartArray() override {
    if (depth() != 2 || in_metadata_) return Unexpected("an array");
    if (field_ != Field::kShape && field_ != Field::kOffsets) return Unexpected("an array");
    (field_ == Field::kShape ? seen_shape_ : seen_offsets_) = true;
    return true;
  }

  bool OnKey(const std::string& key) override {
    if (depth() == 1) {
      name_ = key;
      return true;
    }
    if (in_metadata_) return true;
    if (key == "dtype") {
      field_ = Field::kDtype;
    } else if (key == "shape") {
      field_ = Field::kShape;
    } else if (key == "data_offsets") {
      field_ = Field::kOffsets;
    } else {
      return FailTensor(absl::StrCat("unknown field ", Quoted(key)));
    }
    return true;
  }

  bool OnString(const std::string& value) override {
    if (depth() == 2 && in_metadata_) return true;
    if (depth() != 2 || field_ != Field::kDtype) return Unexpected("a string");
    entry_.dtype_name = value;
    seen_dtype_ = true;
    return true;
  }

  bool OnUnsigned(uint64_t value) override {
    if (depth() != 3) return Unexpected("a number");
    if (value > static_cast<uint64_t>(kMaxDim)) {
      return FailTensor(absl::StrFormat("number %d is over the limit %d", value, kMaxDim));
    }
    auto& list = field_ == Field::kShape ? entry_.shape : offsets_;
    const size_t limit = field_ == Field::kShape ? kMaxDims : 2;
    if (list.size() == limit) {
      return FailTensor(absl::StrFormat("%s has more than %d numbers",
                                        field_ == Field::kShape ? "shape" : "data_offsets", limit));
    }
    list.push_back(static_cast<int64_t>(value));
    return true;
  }

  bool FailTensor(const std::string& message) {
    return Fail(absl::StrCat("tensor ", Quoted(name_), ": ", message));
  }

  // Checks the finished entry as far as it can be checked alone.
  bool AddTensor() {
    if (!seen_dtype_) return FailTensor("has no dtype");
    if (!seen_shape_) return FailTensor("has no shape");
    if (!seen_offsets_ || offsets_.size() != 2) return FailTensor("needs two data_offsets");
    const std::optional<int64_t> element = ElementBytes(entry_.dtype_name);
    if (!element) return FailTensor(absl::StrCat("unknown dtype ", Quoted(entry_.dtype_name)));
    entry_.dtype = FloatType(entry_.dtype_name);
    entry_.begin = offsets_[0];
    entry_.end = offsets_[1];
    if (entry_.begin > entry_.end || entry_.end > data_bytes_) {
      return FailTensor(
          absl::StrFormat("data_offsets [%d, %d) outside the data section of %d bytes",
                          entry_.begin, entry_.end, data_bytes_));
    }
    const std::optional<int64_t> bytes = TensorBytes(entry_.shape, *element);
    if (!bytes || *bytes != entry_.end - entry_.begin) {
      return FailTensor(absl::StrFormat("shape [%s] of %s needs %s bytes, data_offsets give %d",
                                        absl::StrJoin(entry_.shape, ", "), entry_.dtype_name,
                                        bytes ? absl::StrCat(*bytes) : "over 2^63",
                                        entry_.end - entry_.begin));
    }
    tensors_.emplace(name_, std::move(entry_));
    return true;
  }

  int64_t data_bytes_;
  std::map<std::string, TensorEntry> tensors_;
  // The entry being read.
  std::string name_;
  TensorEntry entry_;
  std::vector<int64_t> offsets_;
  Field field_ = Field::kNone;
  bool in_metadata_ = false;
  bool seen_dtype_ = false, seen_shape_ = false, seen_offsets_ = false;
};

// The format wants the ranges to cover the data section exactly, without overlap and without gap.
absl::Status CheckCoverage(const std::map<std::string, TensorEntry>& tensors, int64_t data_bytes) {
  std::vector<std::pair<const TensorEntry*, const std::string*>> order;
  order.reserve(tensors.size());
  for (const auto& [name, entry] : tensors) order.emplace_back(&entry, &name);
  std::sort(order.begin(), order.end(), [](const auto& a, const auto& b) {
    return std::pair(a.first->begin, a.first->end) < std::pair(b.first->begin, b.first->end);
  });
  int64_t covered = 0;
  for (const auto& [entry, name] : order) {
    if (entry->begin != covered) {
      return absl::InvalidArgumentError(absl::StrFormat(
          "safetensors header: tensor %s begins at byte %d, %s the end %d of the one before it",
          Quoted(*name), entry->begin, entry->begin < covered ? "before" : "after", covered));
    }
    covered = entry->end;
  }
  if (covered != data_bytes) {
    return absl::InvalidArgumentError(
        absl::StrFormat("safetensors header: tensors cover %d bytes, the data section has %d",
                        covered, data_bytes));
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<std::map<std::string, TensorEntry>> ParseSafetensorsHeader(std::string_view json,
                                                                          int64_t data_bytes) {
  if (json.size() > kMaxHeaderBytes) {
    return absl::InvalidArgumentError(
        absl::StrFormat("safetensors header: %d bytes, limit is %d", json.size(), kMaxHeaderBytes));
  }
  if (json.empty() || json.front() != '{') {
    return absl::InvalidArgumentError("safetensors header: does not begin with '{'");
  }
  HeaderSax sax(data_bytes);
  RETURN_IF_ERROR(sax.Run(json));
  std::map<std::string, TensorEntry> tensors = sax.TakeTensors();
  RETURN_IF_ERROR(CheckCoverage(tensors, data_bytes));
  return tensors;
}

}  // namespace longdoc

// What `model inspect` shows of a model directory.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "engine/engine.h"
#include "engine/options.h"

namespace longdoc::tools {

struct TensorInfo {
  std::string name, dtype;
  std::vector<int64_t> shape;
  int64_t bytes = 0;
};

struct ModelReport {
  std::string directory, revision;
  ModelInfo info;
  int64_t file_bytes = 0;
  std::vector<TensorInfo> tensors;  // sorted by name
  std::string device;               // of the engine that made the plans
  int64_t packed_bytes = 0;         // weights as the engine keeps them
  std::vector<EncodePlan> plans;    // of the lengths asked for, ascending
};

// Opens and checks the model, loads it into an engine and plans documents of `lengths` tokens.
absl::StatusOr<ModelReport> InspectModel(const std::string& directory,
                                         const std::vector<int64_t>& lengths,
                                         const AttentionPolicy& attention);

std::string FormatModelInfo(const ModelReport& info);  // for people
std::string ModelInfoToJson(const ModelReport& info);  // one object, indented

std::string HumanBytes(double bytes);  // "131.2 MB" (powers of ten)
// "12.3 M", "4.5 G": counts with a decimal prefix.
std::string HumanCount(double count);

}  // namespace longdoc::tools

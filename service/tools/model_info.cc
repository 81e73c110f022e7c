#include "service/tools/model_info.h"

#include <array>
#include <cmath>
#include <memory>
#include <nlohmann/json.hpp>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "engine/base/status_macros.h"
#include "engine/model/safetensors.h"
#include "service/tools/attention_option.h"

namespace longdoc::tools {
namespace {

std::vector<TensorInfo> ListTensors(const Checkpoint& checkpoint) {
  std::vector<TensorInfo> tensors;
  for (const std::string& name : checkpoint.Names()) {
    const TensorEntry* entry = checkpoint.Find(name);
    tensors.push_back({name, entry->dtype_name, entry->shape, entry->end - entry->begin});
  }
  return tensors;
}

absl::Status AddPlans(const std::string& directory, const std::vector<int64_t>& lengths,
                      const AttentionPolicy& attention, ModelReport* info) {
  ASSIGN_OR_RETURN(std::unique_ptr<Engine> engine, Engine::Create(EngineOptions()));
  ASSIGN_OR_RETURN(std::shared_ptr<const Model> model, engine->LoadModel("inspected", directory));
  info->device = engine->DeviceDescription();
  info->packed_bytes = model->weight_bytes();
  info->revision = model->revision();
  info->info = model->info();
  for (int64_t tokens : lengths) {
    ASSIGN_OR_RETURN(EncodePlan plan,
                     engine->Plan(*model, {.tokens = tokens, .attention = attention}));
    info->plans.push_back(plan);
  }
  return absl::OkStatus();
}

std::vector<std::string> Abilities(const ModelInfo& info) {
  std::vector<std::string> can;
  if (info.can_embed) can.push_back("embed");
  if (info.can_score_likelihood) can.push_back("score likelihood");
  if (info.can_cross_encode) can.push_back("cross-encode");
  return can;
}

std::string WithPrefix(double value, const char* unit) {
  constexpr std::array<const char*, 6> kPrefixes = {"", "k", "M", "G", "T", "P"};
  size_t i = 0;
  while (std::fabs(value) >= 999.95 && i + 1 < kPrefixes.size()) {
    value /= 1000;
    ++i;
  }
  const std::string number =
      i == 0 ? absl::StrFormat("%.0f", value) : absl::StrFormat("%.1f", value);
  return absl::StrCat(number, i == 0 && *unit == '\0' ? "" : " ", kPrefixes[i], unit);
}

}  // namespace

std::string HumanBytes(double bytes) { return WithPrefix(bytes, "B"); }
std::string HumanCount(double count) { return WithPrefix(count, ""); }

absl::StatusOr<ModelReport> InspectModel(const std::string& directory,
                                         const std::vector<int64_t>& lengths,
                                         const AttentionPolicy& attention) {
  ModelReport info;
  {
    ASSIGN_OR_RETURN(const std::unique_ptr<Checkpoint> checkpoint, Checkpoint::Open(directory));
    info.directory = directory;
    info.file_bytes = checkpoint->file_bytes();
    info.tensors = ListTensors(*checkpoint);
  }
  RETURN_IF_ERROR(AddPlans(directory, lengths, attention, &info));
  return info;
}

std::string FormatModelInfo(const ModelReport& info) {
  const ModelInfo& c = info.info;
  std::string out;
  absl::StrAppendFormat(&out, "model       %s\n", info.directory);
  absl::StrAppendFormat(&out, "revision    %s\n", info.revision);
  absl::StrAppendFormat(&out, "family      %s: %d layers of %d, %d heads of %d\n", c.family,
                        c.num_layers, c.hidden_size, c.num_heads, c.head_dim);
  absl::StrAppendFormat(&out, "vocabulary  %d ids\n", c.vocab_size);
  absl::StrAppendFormat(&out, "parameters  %s (%d)\n",
                        HumanCount(static_cast<double>(c.parameters)), c.parameters);
  absl::StrAppendFormat(&out, "can         %s\n", absl::StrJoin(Abilities(c), ", "));
  absl::StrAppendFormat(&out, "on disk     %s in %d tensors\n",
                        HumanBytes(static_cast<double>(info.file_bytes)), info.tensors.size());
  absl::StrAppendFormat(&out, "in memory   %s on %s\n",
                        HumanBytes(static_cast<double>(info.packed_bytes)), info.device);
  absl::StrAppendFormat(&out, "\n%10s %12s %14s %14s %9s\n", "tokens", "peak memory", "dense FLOP",
                        "attention FLOP", "tiles");
  for (const EncodePlan& p : info.plans) {
    absl::StrAppendFormat(&out, "%10d %12s %14s %14s %8.1f%%\n", p.tokens,
                          HumanBytes(static_cast<double>(p.peak_bytes)), HumanCount(p.dense_flops),
                          HumanCount(p.attention_flops), 100 * p.expected_tile_fraction);
  }
  absl::StrAppendFormat(&out, "\n%-60s %-6s %-16s %10s\n", "tensor", "type", "shape", "bytes");
  for (const TensorInfo& t : info.tensors) {
    absl::StrAppendFormat(&out, "%-60s %-6s %-16s %10d\n", t.name, t.dtype,
                          absl::StrCat("[", absl::StrJoin(t.shape, ","), "]"), t.bytes);
  }
  return out;
}

std::string ModelInfoToJson(const ModelReport& info) {
  using Json = nlohmann::ordered_json;
  const ModelInfo& c = info.info;
  Json json = {{"directory", info.directory},  {"revision", info.revision},
               {"family", c.family},           {"layers", c.num_layers},
               {"hidden_size", c.hidden_size}, {"heads", c.num_heads},
               {"head_dim", c.head_dim},       {"dimensions", c.dimensions},
               {"vocab_size", c.vocab_size},   {"parameters", c.parameters},
               {"can", Abilities(c)},          {"file_bytes", info.file_bytes},
               {"device", info.device},        {"packed_bytes", info.packed_bytes},
               {"plans", Json::array()},       {"tensors", Json::array()}};
  for (const EncodePlan& p : info.plans) {
    json["plans"].push_back({{"tokens", p.tokens},
                             {"activation_bytes", p.activation_bytes},
                             {"output_bytes", p.output_bytes},
                             {"peak_bytes", p.peak_bytes},
                             {"dense_flops", p.dense_flops},
                             {"attention_flops", p.attention_flops},
                             {"tile_fraction", p.expected_tile_fraction}});
  }
  for (const TensorInfo& t : info.tensors) {
    json["tensors"].push_back(
        {{"name", t.name}, {"dtype", t.dtype}, {"shape", t.shape}, {"bytes", t.bytes}});
  }
  return json.dump(2, ' ', false, Json::error_handler_t::replace) + "\n";
}

}  // namespace longdoc::tools

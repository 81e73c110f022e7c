#include "service/model_info.h"

#include <algorithm>
#include <memory>
#include <string>
#include <string_view>
#include <utility>

#include "absl/strings/str_format.h"
#include "engine/base/error_reason.h"
#include "engine/base/status_macros.h"
#include "engine/engine.h"
#include "service/invalid.h"
#include "service/request_options.h"
#include "service/text_job.h"

namespace longdoc::service {
namespace {

constexpr size_t kSliceBytes = 64 << 10;

void AddToken(const Tokenizer& tokenizer, int32_t id, const longdoc::ByteRange& bytes,
              v1::TokenizeResponse* response) {
  v1::TokenizeResponse::Token* token = response->add_tokens();
  token->set_id(id);
  token->set_text(std::string(tokenizer.TokenText(id)));
  token->mutable_bytes()->set_begin(bytes.begin);
  token->mutable_bytes()->set_end(bytes.end);
}

}  // namespace

void FillModel(const ServiceContext& context, const Model& model, v1::Model* out) {
  const ModelInfo& info = model.info();
  out->set_name(model.name());
  out->set_revision(model.revision());
  out->set_family(info.family);
  out->set_is_default(model.name() == context.default_model);
  out->set_dimensions(static_cast<int32_t>(info.dimensions));
  out->set_layer_count(static_cast<int32_t>(info.num_layers));
  out->set_head_count(static_cast<int32_t>(info.num_heads));
  out->set_vocabulary_size(static_cast<int32_t>(info.vocab_size));
  out->set_parameter_count(info.parameters);
  out->set_weight_bytes(model.weight_bytes());
  out->set_compute_type(model.compute_type() == ComputeType::kBF16 ? "bf16" : "f32");
  out->set_device(context.engine.DeviceDescription());
  out->set_max_tokens(context.limits.document.max_tokens);
  out->set_max_text_tokens(context.limits.max_text_tokens);
}

absl::Status TokenizeText(const ServiceContext& context, const v1::TokenizeRequest& request,
                          const std::function<bool()>& cancelled, v1::TokenizeResponse* response) {
  ASSIGN_OR_RETURN(std::shared_ptr<const Model> model, context.FindModel(request.model()));
  const std::string_view text = request.text();
  if (static_cast<int64_t>(text.size()) > kMaxTokenizeBytes) {
    return Invalid(
        absl::StrFormat("text has %d bytes, the limit is %d", text.size(), kMaxTokenizeBytes),
        "TEXT_TOO_LARGE");
  }
  const Tokenizer& tokenizer = model->tokenizer();
  const SpecialTokens& special = tokenizer.special();
  std::unique_ptr<StreamingTokenizer> stream = tokenizer.NewStream();
  if (request.add_special_tokens() && special.cls >= 0) {
    AddToken(tokenizer, special.cls, {}, response);
  }
  int64_t response_bytes = 0;
  for (size_t offset = 0;; offset += kSliceBytes) {
    if (cancelled()) return WithReason(absl::CancelledError("call was cancelled"), "CANCELLED");
    const bool end = offset >= text.size();
    absl::Status status = end ? stream->Finish() : stream->Append(text.substr(offset, kSliceBytes));
    if (!status.ok()) return WithReason(std::move(status), "INVALID_UTF8");
    const TokenSequence tokens = stream->Take();
    for (size_t i = 0; i < tokens.ids.size(); ++i) {
      AddToken(tokenizer, tokens.ids[i], tokens.bytes[i], response);
      // Tags, lengths and varints of a token take at most 24 bytes besides its text.
      response_bytes += 24 + static_cast<int64_t>(tokenizer.TokenText(tokens.ids[i]).size());
    }
    if (response_bytes > kMaxUnaryResponseBytes) {
      return Invalid(absl::StrFormat("the tokens of the first %d bytes already take %d bytes, the "
                                     "limit of a response is %d",
                                     stream->num_bytes(), response_bytes, kMaxUnaryResponseBytes),
                     "RESPONSE_TOO_LARGE");
    }
    if (end) break;
  }
  if (request.add_special_tokens() && special.sep >= 0) {
    const int64_t size = static_cast<int64_t>(text.size());
    AddToken(tokenizer, special.sep, {size, size}, response);
  }
  return absl::OkStatus();
}

absl::Status Estimate(const ServiceContext& context, const v1::EstimateDocumentRequest& request,
                      v1::EstimateDocumentResponse* response) {
  ASSIGN_OR_RETURN(std::shared_ptr<const Model> model, context.FindModel(request.model()));
  const int64_t tokens = request.tokens();
  if (tokens < 1 || tokens > kMaxEstimateTokens) {
    return Invalid(
        absl::StrFormat("tokens is %d, it must be in [1, %d]", tokens, kMaxEstimateTokens),
        "INVALID_OPTION");
  }
  if (request.passage_count() < 0 || request.passage_count() > kMaxEstimateTokens) {
    return Invalid(absl::StrFormat("passage_count is %d, it must be in [0, %d]",
                                   request.passage_count(), kMaxEstimateTokens),
                   "INVALID_OPTION");
  }
  ASSIGN_OR_RETURN(const AttentionPolicy policy, ParseAttention(request.attention()));
  ASSIGN_OR_RETURN(const EncodePlan plan,
                   context.engine.Plan(*model, {.tokens = tokens,
                                                .num_vectors = request.passage_count() + 1,
                                                .token_vectors = request.token_vectors(),
                                                .attention = policy}));
  const absl::Status fits = context.engine.CheckFits(plan);
  const EngineStats stats = context.engine.stats();
  response->set_activation_bytes(plan.activation_bytes);
  response->set_output_bytes(plan.output_bytes);
  response->set_peak_bytes(plan.peak_bytes);
  response->set_memory_budget_bytes(stats.memory_budget_bytes);
  response->set_dense_flops(plan.dense_flops);
  response->set_attention_flops(plan.attention_flops);
  response->set_expected_tile_fraction(plan.expected_tile_fraction);
  response->set_expected_seconds(plan.expected_seconds);
  // As if what waits and runs took as long per token as this document.
  response->set_expected_queue_seconds(
      plan.expected_seconds * static_cast<double>(stats.queued_tokens + stats.running_tokens) /
      static_cast<double>(tokens));
  const DocumentLimits& limits = context.limits.document;
  if (tokens > limits.max_tokens) {
    response->set_refusal(absl::StrFormat("%d tokens, the limit is %d", tokens, limits.max_tokens));
  } else if (request.passage_count() > limits.max_passages) {
    response->set_refusal(absl::StrFormat("%d passages, the limit is %d", request.passage_count(),
                                          limits.max_passages));
  } else if (!fits.ok()) {
    response->set_refusal(std::string(fits.message()));
  } else {
    response->set_admissible(true);
  }
  return absl::OkStatus();
}

}  // namespace longdoc::service

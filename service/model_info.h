// The answers of ModelService, without gRPC.
#pragma once

#include <functional>

#include "absl/status/status.h"
#include "engine/engine.h"
#include "longdoc/v1/model_service.pb.h"
#include "service/context.h"

namespace longdoc::service {

inline constexpr int64_t kMaxTokenizeBytes = 1 << 20;
// EstimateDocument answers up to here, also beyond what the server admits.
inline constexpr int64_t kMaxEstimateTokens = int64_t{1} << 30;

void FillModel(const ServiceContext& context, const Model& model, v1::Model* out);

// INVALID_ARGUMENT (TEXT_TOO_LARGE, INVALID_UTF8, RESPONSE_TOO_LARGE), NOT_FOUND (UNKNOWN_MODEL),
// or CANCELLED soon after `cancelled` returns true.
absl::Status TokenizeText(const ServiceContext& context, const v1::TokenizeRequest& request,
                          const std::function<bool()>& cancelled, v1::TokenizeResponse* response);

// INVALID_ARGUMENT for tokens outside [1, kMaxEstimateTokens], a negative passage count or a bad
// policy. What the server would refuse is an answer (admissible = false), no error.
absl::Status Estimate(const ServiceContext& context, const v1::EstimateDocumentRequest& request,
                      v1::EstimateDocumentResponse* response);

}  // namespace longdoc::service

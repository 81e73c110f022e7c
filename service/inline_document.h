// A document that is scored and not kept: from its tokens to what scoring needs.
#pragma once

#include <functional>
#include <memory>

#include "absl/functional/any_invocable.h"
#include "absl/status/statusor.h"
#include "engine/base/cancellation.h"
#include "engine/document.h"
#include "engine/engine.h"
#include "engine/kept_document.h"
#include "service/context.h"
#include "service/request_options.h"
#include "service/scoring.h"

namespace longdoc::service {

// What these methods need of the document, besides what its header asked for.
void AskForScoring(const Methods& methods, DocumentOptions* options);

struct InlineDocument {
  // The same as EncodeDocument would keep, so that the scores are the same, too.
  std::shared_ptr<const KeptDocument> document;
  EncodeStats stats;
};

// Encodes the document, unless cross-encoding is all that is asked of it. `done` is called exactly
// once with no lock held: on the executor, or before this returns. `on_progress` may be null.
void EncodeInline(ServiceContext& context, const Executor& executor,
                  const std::shared_ptr<const Model>& model, const Methods& methods,
                  const DocumentOptions& options, TokenizedDocument&& document,
                  const std::shared_ptr<CancellationToken>& token,
                  std::function<void(double)> on_progress,
                  absl::AnyInvocable<void(absl::StatusOr<InlineDocument>) &&> done);

}  // namespace longdoc::service

#include "service/inline_document.h"

#include <algorithm>
#include <utility>
#include <vector>

#include "service/document_intake.h"

namespace longdoc::service {
namespace {

bool Needs(const Methods& methods, v1::ScoringMethod method) {
  return std::find(methods.begin(), methods.end(), method) != methods.end();
}

}  // namespace

void AskForScoring(const Methods& methods, DocumentOptions* options) {
  options->for_scoring = Needs(methods, v1::QUERY_LIKELIHOOD) || Needs(methods, v1::CROSS_ENCODER);
  options->token_vectors = options->token_vectors_for_scoring =
      Needs(methods, v1::LATE_INTERACTION);
}

void EncodeInline(ServiceContext& context, const Executor& executor,
                  const std::shared_ptr<const Model>& model, const Methods& methods,
                  const DocumentOptions& options, TokenizedDocument&& document,
                  const std::shared_ptr<CancellationToken>& token,
                  std::function<void(double)> on_progress,
                  absl::AnyInvocable<void(absl::StatusOr<InlineDocument>) &&> done) {
  if (methods == Methods{v1::CROSS_ENCODER}) {
    auto kept = std::make_shared<KeptDocument>();
    kept->model = model;
    kept->ids = std::move(document.ids);
    InlineDocument result;
    result.stats.tokens = kept->tokens();
    result.document = std::move(kept);
    return std::move(done)(std::move(result));
  }
  // Needed twice: the engine's task is gone when it was refused.
  auto shared_done = std::make_shared<decltype(done)>(std::move(done));
  auto shared_document = std::make_shared<TokenizedDocument>(std::move(document));
  std::vector<int32_t> ids = shared_document->ids;  // the task takes them, or a copy
  EncodeTask task = MakeEncodeTask(model, options, *shared_document, token);
  shared_document->ids = std::move(ids);
  task.on_progress = std::move(on_progress);
  task.on_done = [shared_done, shared_document, executor, model,
                  id = options.document_id](absl::StatusOr<EncodeResult> result) {
    // Rounding the vectors to what is kept takes too long for the engine's threads.
    executor([=, result = std::move(result)]() mutable {
      if (!result.ok()) return std::move(*shared_done)(result.status());
      InlineDocument out;
      out.stats = result->stats;
      out.document = std::make_shared<const KeptDocument>(
          KeepEncoded(model, std::move(shared_document->ids), std::move(shared_document->passages),
                      id, *std::move(result)));
      std::move (*shared_done)(std::move(out));
    });
  };
  absl::Status status = context.engine.Submit(std::move(task));
  if (!status.ok()) std::move (*shared_done)(std::move(status));
}

}  // namespace longdoc::service

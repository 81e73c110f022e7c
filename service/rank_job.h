// One RankDocuments call: one query against several documents, kept or sent along. Knows nothing of
// gRPC.
//
// The query is encoded once, if the method compares vectors. Every document is a work of its own;
// all are submitted together. What is wrong with one document is a failure in the answer; what is
// wrong with the query or the request, or with the server (load, draining), is the status of the
// call.
#pragma once

#include <cstdint>
#include <memory>
#include <mutex>
#include <vector>

#include "absl/functional/any_invocable.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "engine/base/cancellation.h"
#include "longdoc/v1/scoring_service.pb.h"
#include "service/context.h"
#include "service/request_options.h"
#include "service/rpc_timer.h"
#include "service/scoring.h"
#include "service/timer_queue.h"

namespace longdoc::service {

class RankJob : public std::enable_shared_from_this<RankJob> {
 public:
  // Gets the outcome exactly once, from any thread, with no lock held. On OK the response is whole.
  using Done = absl::AnyInvocable<void(const absl::Status&) &&>;

  // `request` and `response` are not touched once `done` was called.
  static std::shared_ptr<RankJob> Create(ServiceContext& context, Executor executor,
                                         CancellationToken::Clock::time_point deadline,
                                         v1::RankDocumentsRequest&& request,
                                         v1::RankDocumentsResponse* response, Done done);

  // Checks the request and begins. May call `done` before it returns.
  void Start();
  // Instead of Start: ends the call with `status`, not OK.
  void Reject(const absl::Status& status) { Finish(status); }
  // Ends the call with CANCELLED (or DEADLINE_EXCEEDED) and lets go of everything. Idempotent.
  void Cancel();

  RpcDetails details() const;

 private:
  using Query = std::shared_ptr<const EncodedCandidate>;

  RankJob(ServiceContext& context, Executor executor, CancellationToken::Clock::time_point deadline,
          v1::RankDocumentsRequest&& request, v1::RankDocumentsResponse* response, Done done);

  absl::Status Prepare();
  absl::Status TokenizeQuery();
  void StartDocuments(const Query& query, int first);
  absl::Status StartOne(const Query& query, int index);
  absl::Status StartText(const Query& query, int index, v1::TextInput& input);
  void Score(const Query& query, int index, const std::shared_ptr<const KeptDocument>& document);
  void OnOutcome(int index, absl::StatusOr<v1::Score> score);
  void FillResponse();
  void Finish(const absl::Status& status);
  bool done() const;

  ServiceContext& context_;
  const Executor executor_;
  const std::shared_ptr<CancellationToken> token_;
  // Fixed by Prepare.
  std::shared_ptr<const Model> model_;
  ScoringOptions scoring_;
  DocumentOptions options_;  // of the texts

  // Touched by one job of the executor at a time.
  v1::RankDocumentsRequest request_;

  mutable std::mutex mutex_;
  v1::RankDocumentsResponse* response_;  // null once finished
  Done done_;
  std::vector<absl::StatusOr<v1::Score>> outcomes_;
  size_t waiting_ = 0;
  Timers::TimePoint scoring_since_{};  // the first pair
  RpcDetails details_;
};

}  // namespace longdoc::service

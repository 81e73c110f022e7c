// ScoringService: thin reactors over ScoreSession, RankJob and GenerateJob.

#include <grpcpp/server_context.h>
#include <grpcpp/support/server_callback.h>

#include <memory>
#include <utility>

#include "longdoc/v1/scoring_service.grpc.pb.h"
#include "service/authorize.h"
#include "service/document_reactor.h"
#include "service/executor.h"
#include "service/generate_job.h"
#include "service/job_reactor.h"
#include "service/rank_job.h"
#include "service/rpc_timer.h"
#include "service/score_session.h"
#include "service/services.h"
#include "service/status.h"

namespace longdoc::service {
namespace {

// The job calls it under its mutex and forgets it at Finish.
class GenerateReactor final : public grpc::ServerWriteReactor<v1::GenerateTextResponse>,
                              public GenerateTransport {
 public:
  GenerateReactor(ServiceContext& context, grpc::CallbackServerContext& call,
                  const absl::Status& admission, const v1::GenerateTextRequest& request)
      : call_(call),
        timer_(context, Rpc::kGenerateText, Identify(call)),
        reply_(call, timer_.identity()),
        job_(GenerateJob::Create(context, PoolExecutor(context), SteadyDeadline(call), request)) {
    timer_.CountReceived(static_cast<int64_t>(request.ByteSizeLong()));
    job_->Start(this, admission);
  }

  void OnWriteDone(bool ok) override { job_->OnWriteDone(ok); }
  void OnCancel() override { job_->OnCancel(); }
  void OnDone() override {
    timer_.details() = job_->details();
    delete this;
  }

 private:
  void StartWrite(const v1::GenerateTextResponse& response) override {
    timer_.CountSent(static_cast<int64_t>(response.ByteSizeLong()));
    reply_.BeforeMessage();
    ServerWriteReactor::StartWrite(&response);
  }
  void Finish(const absl::Status& status) override {
    timer_.SetStatus(status);
    ServerWriteReactor::Finish(reply_.Finish(status));
  }
  void Abort() override { call_.TryCancel(); }

  grpc::CallbackServerContext& call_;
  RpcTimer timer_;
  CallReply reply_;
  const std::shared_ptr<GenerateJob> job_;
};

using ScoringServiceBase = v1::ScoringService::WithRawCallbackMethod_ScoreCandidates<
    v1::ScoringService::WithCallbackMethod_RankDocuments<
        v1::ScoringService::WithCallbackMethod_GenerateText<v1::ScoringService::Service>>>;

class ScoringServiceImpl final : public ScoringServiceBase {
 public:
  ScoringServiceImpl(ServiceContext& context, AuthorizeFn authorize)
      : context_(context), authorize_(std::move(authorize)) {}

  grpc::ServerBidiReactor<grpc::ByteBuffer, grpc::ByteBuffer>* ScoreCandidates(
      grpc::CallbackServerContext* call) override {
    return new DocumentReactor<v1::ScoreCandidatesRequest, ScoreSession>(
        context_, Rpc::kScoreCandidates, *call, Authorize(authorize_, *call),
        ScoreSession::Create(context_, PoolExecutor(context_), SteadyDeadline(*call)));
  }

  grpc::ServerUnaryReactor* RankDocuments(grpc::CallbackServerContext* call,
                                          const v1::RankDocumentsRequest* request,
                                          v1::RankDocumentsResponse* response) override {
    return new JobReactor<RankJob>(context_, Rpc::kRankDocuments, *call,
                                   Authorize(authorize_, *call), *request, response);
  }

  grpc::ServerWriteReactor<v1::GenerateTextResponse>* GenerateText(
      grpc::CallbackServerContext* call, const v1::GenerateTextRequest* request) override {
    return new GenerateReactor(context_, *call, Authorize(authorize_, *call), *request);
  }

 private:
  ServiceContext& context_;
  const AuthorizeFn authorize_;
};

}  // namespace

std::unique_ptr<grpc::Service> MakeScoringService(ServiceContext& context, AuthorizeFn authorize) {
  return std::make_unique<ScoringServiceImpl>(context, std::move(authorize));
}

}  // namespace longdoc::service

// A unary call whose answer a job computes: TextJob, RankJob or one like them, on gRPC's callback
// API.
#pragma once

#include <grpcpp/server_context.h>
#include <grpcpp/support/server_callback.h>

#include <cstdint>
#include <memory>

#include "google/protobuf/message.h"
#include "service/executor.h"
#include "service/rpc_timer.h"
#include "service/status.h"

namespace longdoc::service {

// Lives from the call's start to OnDone, and with it the job's response.
template <typename Job>
class JobReactor final : public grpc::ServerUnaryReactor {
 public:
  template <typename Request, typename Response>
  JobReactor(ServiceContext& context, Rpc rpc, grpc::CallbackServerContext& call,
             const absl::Status& admission, const Request& request, Response* response)
      : response_(*response),
        timer_(context, rpc, Identify(call)),
        reply_(call, timer_.identity()),
        // A copy: a cancelled call ends, and its request with it, while a job may still read.
        job_(Job::Create(context, PoolExecutor(context), SteadyDeadline(call), Request(request),
                         response, [this](const absl::Status& status) { FinishCall(status); })) {
    timer_.CountReceived(static_cast<int64_t>(request.ByteSizeLong()));
    if (admission.ok()) {
      job_->Start();
    } else {
      job_->Reject(admission);
    }
  }

  void OnCancel() override { job_->Cancel(); }
  void OnDone() override {
    timer_.details() = job_->details();
    delete this;
  }

 private:
  void FinishCall(const absl::Status& status) {
    timer_.SetStatus(status);
    if (status.ok()) timer_.CountSent(static_cast<int64_t>(response_.ByteSizeLong()));
    Finish(reply_.Finish(status));
  }

  const google::protobuf::Message& response_;
  RpcTimer timer_;
  CallReply reply_;
  const std::shared_ptr<Job> job_;
};

}  // namespace longdoc::service

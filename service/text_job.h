// One EmbedTexts call: many short texts to vectors. Knows nothing of gRPC.
//
// Each text becomes a task of its own; all of them are submitted together, so that the scheduler
// packs them into one pass. What is wrong with one text is the status of its item; what is wrong
// with the request, or with the server (load, draining), is the status of the call.
#pragma once

#include <cstdint>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "absl/functional/any_invocable.h"
#include "absl/status/status.h"
#include "engine/base/cancellation.h"
#include "engine/document.h"
#include "engine/engine.h"
#include "longdoc/v1/embedding_service.pb.h"
#include "service/context.h"
#include "service/executor.h"
#include "service/request_options.h"
#include "service/rpc_timer.h"

namespace longdoc::service {

// Serialised responses stay below the clients' default limit of 4 MiB.
inline constexpr int64_t kMaxUnaryResponseBytes = (4 << 20) - (64 << 10);

class TextJob : public std::enable_shared_from_this<TextJob> {
 public:
  // Gets the outcome exactly once, from any thread, with no lock held. On OK the response is whole.
  using Done = absl::AnyInvocable<void(const absl::Status&) &&>;

  // `request` and `response` are not touched once `done` was called.
  static std::shared_ptr<TextJob> Create(ServiceContext& context, Executor executor,
                                         CancellationToken::Clock::time_point deadline,
                                         v1::EmbedTextsRequest&& request,
                                         v1::EmbedTextsResponse* response, Done done);

  // Checks the request and begins. May call `done` before it returns.
  void Start();
  // Instead of Start: ends the call with `status`, not OK.
  void Reject(const absl::Status& status) { Finish(status); }
  // Ends the call with CANCELLED (or DEADLINE_EXCEEDED) and lets go of everything. Idempotent.
  void Cancel();

  RpcDetails details() const;

 private:
  TextJob(ServiceContext& context, Executor executor, CancellationToken::Clock::time_point deadline,
          v1::EmbedTextsRequest&& request, v1::EmbedTextsResponse* response, Done done);

  absl::Status Prepare();
  void Tokenize(size_t first);
  absl::Status TokenizeOne(size_t index);
  void Submit();
  EncodeTask MakeTask(size_t index);
  void OnEncoded(size_t index, absl::StatusOr<EncodeResult> result);
  void SetItemStatus(size_t index, const absl::Status& status);
  void FillItem(size_t index, const EncodeResult& result, v1::EmbedTextsResponse::Item* item) const;
  void Finish(const absl::Status& status);
  bool done() const;

  struct Text {
    std::vector<int32_t> ids;
    int64_t input_tokens = 0;
    bool truncated = false;
    longdoc::ByteRange kept;
    bool failed = false;
  };

  ServiceContext& context_;
  const Executor executor_;
  const std::shared_ptr<CancellationToken> token_;
  // Fixed by Prepare.
  std::shared_ptr<const Model> model_;
  VectorOptions vector_;
  AttentionPolicy attention_;
  Overflow overflow_ = Overflow::kError;

  // Touched by one tokenization job at a time, and not at all once tasks are submitted.
  v1::EmbedTextsRequest request_;
  std::vector<Text> texts_;  // ids are gone once submitted; the rest is read only from then on
  double tokenize_seconds_ = 0;

  mutable std::mutex mutex_;
  v1::EmbedTextsResponse* response_;  // null once finished
  Done done_;
  size_t waiting_ = 0;  // items without an outcome, plus one while tasks are being submitted
  RpcDetails details_;
};

}  // namespace longdoc::service

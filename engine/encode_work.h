// Encodes as work of the scheduler, and what is learned from them.
#pragma once

#include <cstdint>
#include <memory>
#include <mutex>

#include "engine/backend.h"
#include "engine/encode_pass.h"
#include "engine/engine.h"
#include "engine/work.h"

namespace longdoc {

// Counts what encodes did, and learns from it how fast this machine is. Thread-safe.
class EncodeMeter {
 public:
  explicit EncodeMeter(int num_workers);

  // A pass that has ended, well (`ok`) or not.
  void Count(const EncodePass& pass, int64_t sequences, bool ok);
  // With all workers, at the rates seen so far (a cautious guess before any).
  double ExpectedSeconds(double dense_flops, double attention_flops) const;
  void AddTo(EngineStats* stats) const;

 private:
  const double num_workers_;
  mutable std::mutex mutex_;
  EngineStats counters_;                // those of encodes
  double dense_rate_, attention_rate_;  // FLOP/s over all workers
};

// An EncodeTask, validated and planned. Encodes of one model and policy share a pass.
class EncodeWork final : public Work {
 public:
  // `backend` and `meter` outlive the work.
  EncodeWork(EncodeTask&& task, std::shared_ptr<const EncodingModel> model, WorkNeeds needs,
             Backend& backend, EncodeMeter& meter);

  bool CanJoin(const Work& first) const override;
  absl::StatusOr<std::unique_ptr<Pass>> MakePass(Batch batch) override;
  void OnProgress(double share) override;
  void Collect(Batch batch, Pass& pass, const absl::Status& status,
               ByteReservation& reservation) override;
  void Done(const absl::Status& status, const WorkTimings& timings) override;

 private:
  EncodeTask task_;
  const std::shared_ptr<const EncodingModel> model_;
  Backend& backend_;
  EncodeMeter& meter_;
  EncodeResult result_;  // once collected
};

}  // namespace longdoc

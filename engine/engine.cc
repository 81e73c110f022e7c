#include "engine/engine.h"

#include <algorithm>
#include <atomic>
#include <future>
#include <limits>
#include <mutex>
#include <string>
#include <thread>
#include <utility>

#include "absl/strings/str_format.h"
#include "engine/arriving_ids.h"
#include "engine/backend.h"
#include "engine/base/error_reason.h"
#include "engine/base/machine_memory.h"
#include "engine/base/status_macros.h"
#include "engine/colt5_model.h"
#include "engine/decode_work.h"
#include "engine/encode_work.h"
#include "engine/encoder_model.h"
#include "engine/max_sim.h"
#include "engine/model/model_type.h"
#include "engine/planner.h"
#include "engine/scheduler.h"

namespace longdoc {
namespace {

absl::Status CheckRange(const char* name, int64_t value, int64_t low, int64_t high) {
  if (value >= low && value <= high) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrFormat("%s must be in [%d, %d], got %d", name, low, high, value));
}

absl::StatusOr<EngineOptions> FillDefaults(EngineOptions o) {
  constexpr int64_t kMax = std::numeric_limits<int64_t>::max();
  RETURN_IF_ERROR(CheckRange("threads", o.num_threads, 0, 1024));
  RETURN_IF_ERROR(CheckRange("memory_budget_bytes", o.memory_budget_bytes, 0, kMax));
  RETURN_IF_ERROR(CheckRange("spill_memory_bytes", o.spill_memory_bytes, 0, kMax));
  RETURN_IF_ERROR(CheckRange("max_queued_tokens", o.max_queued_tokens, 1, kMax));
  RETURN_IF_ERROR(CheckRange("max_queued_tasks", o.max_queued_tasks, 1, kMax));
  RETURN_IF_ERROR(CheckRange("max_batch_tokens", o.max_batch_tokens, 1, 1 << 20));
  RETURN_IF_ERROR(CheckRange("short_text_tokens", o.short_text_tokens, 0, 1 << 20));
  if (o.num_threads == 0) {
    o.num_threads = static_cast<int>(std::max(1u, std::thread::hardware_concurrency()));
  }
  if (o.memory_budget_bytes == 0) o.memory_budget_bytes = MachineMemoryBytes() / 10 * 7;
  if (o.spill_memory_bytes == 0) o.spill_memory_bytes = MachineMemoryBytes() / 4;
  return o;
}

// N of "cuda:N"; 0 of "cuda" and "auto"; -1 of anything else.
int CudaDevice(const std::string& device) {
  if (device == "auto" || device == "cuda") return 0;
  const std::string number = device.rfind("cuda:", 0) == 0 ? device.substr(5) : "";
  const bool is_number = number.find_first_not_of("0123456789") == std::string::npos;
  return is_number && !number.empty() && number.size() <= 3 ? std::stoi(number) : -1;
}

absl::StatusOr<std::unique_ptr<Backend>> MakeCuda(const EngineOptions& o, int device) {
  if (o.compute_type == ComputeType::kF32) {
    return absl::InvalidArgumentError("a CUDA device computes in bf16, f32 was asked for");
  }
  CudaOptions cuda;
  cuda.device = device;
  cuda.memory_bytes = o.device_memory_bytes;
  cuda.spill_bytes = o.spill_memory_bytes;
  cuda.make_room = o.make_room;
  cuda.on_lost = o.on_device_lost;
  return MakeCudaBackend(cuda);
}

// `note`: why "auto" is the CPU.
absl::StatusOr<std::unique_ptr<Backend>> MakeBackend(const EngineOptions& o, std::string* note) {
  if (o.device == "reference") {
    if (o.compute_type == ComputeType::kBF16) {
      return absl::InvalidArgumentError("the reference device computes in f32 only");
    }
    return MakeReferenceBackend(o.num_threads);
  }
  const int cuda_device = CudaDevice(o.device);
  if (cuda_device >= 0) {
    absl::StatusOr<std::unique_ptr<Backend>> cuda = MakeCuda(o, cuda_device);
    if (cuda.ok()) return cuda;
    const std::string reason(cuda.status().message());
    if (o.device != "auto") {
      return absl::Status(cuda.status().code(),
                          absl::StrFormat("device \"%s\": %s", o.device, reason));
    }
    *note = absl::StrFormat("using the CPU: %s", reason);
  } else if (o.device != "cpu") {
    return absl::FailedPreconditionError(absl::StrFormat(
        "device \"%s\" is not there; there are auto, cpu, cuda, cuda:N and reference", o.device));
  }
  const bool native = kernels::BestCpuIsa() == kernels::CpuIsa::kAvx512Bf16;
  const bool bf16 =
      o.compute_type == ComputeType::kBF16 || (o.compute_type == ComputeType::kAuto && native);
  return MakeCpuBackend(bf16 ? DType::kBF16 : DType::kF32, o.num_threads);
}

class EngineImpl final : public Engine {
 public:
  EngineImpl(const EngineOptions& options, std::unique_ptr<Backend> backend, std::string note)
      : options_(options),
        backend_(std::move(backend)),
        note_(std::move(note)),
        budget_(options_.memory_budget_bytes),
        meter_(options_.num_threads),
        decodes_(*backend_, options_.memory_budget_bytes),
        scheduler_(*backend_, options_) {}
  ~EngineImpl() override { Stop(); }

  absl::StatusOr<std::shared_ptr<const Model>> LoadModel(const std::string& name,
                                                         const std::string& dir) override;
  absl::StatusOr<EncodePlan> Plan(const Model& model, const EncodeShape& shape) const override;
  std::shared_ptr<ArrivingIds> ReceiveIds() override {
    if (backend_->PlacedBytes(1) == 0) return nullptr;
    return std::make_shared<ArrivingIds>(*backend_, scheduler_);
  }
  absl::Status Submit(EncodeTask&& task) override;
  absl::Status Submit(MaxSimTask&& task) override;
  absl::Status Submit(ScoreTask&& task) override {
    ASSIGN_OR_RETURN(std::unique_ptr<Work> work, MakeScoreWork(decodes_, std::move(task)));
    return scheduler_.Submit(std::move(work));
  }
  absl::Status Submit(GenerateTask&& task) override {
    ASSIGN_OR_RETURN(std::unique_ptr<Work> work, MakeGenerateWork(decodes_, std::move(task)));
    return scheduler_.Submit(std::move(work));
  }
  EngineStats stats() const override {
    EngineStats stats;
    scheduler_.AddTo(&stats);
    meter_.AddTo(&stats);
    decodes_.AddTo(&stats);
    if (const MemoryPool& memory = backend_->memory(); memory.limit_bytes() > 0) {
      stats.device_memory = {memory.limit_bytes(), memory.allocated_bytes(),
                             memory.retained_bytes(), memory.peak_bytes()};
    }
    return stats;
  }
  const EngineOptions& options() const override { return options_; }
  std::string DeviceDescription() const override {
    const BackendInfo& info = backend_->info();
    return absl::StrFormat("%s %s, %d threads, %s", info.name, info.isa, info.num_workers,
                           info.storage_type == DType::kBF16 ? "bf16" : "f32");
  }
  std::string DeviceNote() const override { return note_; }
  int64_t memory_budget_bytes() const override { return budget_; }
  void Stop() override { scheduler_.Stop(); }

 private:
  absl::StatusOr<std::shared_ptr<const EncodingModel>> Load(const std::string& name,
                                                            const std::string& dir);
  void PlanDeviceMemory(const EncodingModel& model);

  const EngineOptions options_;
  std::unique_ptr<Backend> backend_;
  const std::string note_;
  std::mutex plan_mutex_;
  DeviceMemoryPlan memory_plan_;  // of a device with a limit
  std::atomic<int64_t> budget_;
  EncodeMeter meter_;
  DecodeResources decodes_;
  Scheduler scheduler_;  // last: its works use all of the above
};

absl::StatusOr<std::shared_ptr<const Model>> EngineImpl::LoadModel(const std::string& name,
                                                                   const std::string& dir) {
  ASSIGN_OR_RETURN(std::shared_ptr<const EncodingModel> model, Load(name, dir));
  // What was enqueued while it was loaded may have failed since.
  RETURN_IF_ERROR(backend_->Synchronize());
  PlanDeviceMemory(*model);
  return std::shared_ptr<const Model>(std::move(model));
}

absl::StatusOr<std::shared_ptr<const EncodingModel>> EngineImpl::Load(const std::string& name,
                                                                      const std::string& dir) {
  ASSIGN_OR_RETURN(const ModelType type, PeekModelType(dir));
  if (type == ModelType::kColt5) {
    ASSIGN_OR_RETURN(std::shared_ptr<const EncodingModel> colt5,
                     Colt5Model::Load(name, dir, *backend_));
    return colt5;
  }
  ASSIGN_OR_RETURN(std::shared_ptr<const EncodingModel> encoder,
                   EncoderModel::Load(name, dir, *backend_));
  return encoder;
}

// Models stay: weights are never given back to documents.
void EngineImpl::PlanDeviceMemory(const EncodingModel& model) {
  const int64_t device_bytes = backend_->memory().limit_bytes();
  if (device_bytes == 0) return;  // the host's, of which the budget is a share already
  EncodeShape shape;
  shape.tokens = backend_->info().token_tile;
  std::lock_guard lock(plan_mutex_);
  memory_plan_.device_bytes = device_bytes;
  memory_plan_.fixed_bytes = backend_->info().fixed_bytes;
  memory_plan_.weight_bytes += model.weight_bytes();
  memory_plan_.scratch_bytes =
      std::max(memory_plan_.scratch_bytes,
               model.PlanEncode(*backend_, shape).scratch_bytes + MaxSimScratchBytes(*backend_));
  budget_ = std::min(options_.memory_budget_bytes, memory_plan_.DocumentBytes());
  scheduler_.SetMemoryBudget(budget_);
}

absl::StatusOr<EncodePlan> EngineImpl::Plan(const Model& model, const EncodeShape& shape) const {
  // Far above any document; keeps every product below within 64 bits.
  RETURN_IF_ERROR(CheckRange("tokens", shape.tokens, 1, int64_t{1} << 32));
  RETURN_IF_ERROR(CheckRange("vectors", shape.num_vectors, 0, int64_t{1} << 32));
  RETURN_IF_ERROR(CheckAttentionPolicy(shape.attention));
  if (shape.cross_kv && !model.info().can_score_likelihood) {
    return WithReason(absl::FailedPreconditionError(absl::StrFormat(
                          "model \"%s\" has no decoder to keep a document for", model.name())),
                      "METHOD_NOT_SUPPORTED");
  }
  if (shape.cross_kv && shape.cross_kv_type == DType::kF32 && !backend_->info().keeps_f32_keys) {
    return absl::FailedPreconditionError(
        absl::StrFormat("%s keeps keys and values of documents in bf16 or f16, f32 was asked for",
                        backend_->info().name));
  }
  const auto* encoding = dynamic_cast<const EncodingModel*>(&model);
  if (encoding == nullptr) return absl::InternalError("the model is not one of this engine");
  EncodePlan plan = encoding->PlanEncode(*backend_, shape);
  plan.scratch_bytes *= options_.num_threads;
  plan.expected_seconds = meter_.ExpectedSeconds(plan.dense_flops, plan.attention_flops);
  return plan;
}

absl::Status CheckTask(const EncodeTask& task) {
  if (task.ids.empty()) {
    return WithReason(absl::InvalidArgumentError("the document has no tokens"), "EMPTY_DOCUMENT");
  }
  RETURN_IF_ERROR(CheckTokenIds(*task.model, task.ids));
  const int64_t tokens = static_cast<int64_t>(task.ids.size());
  if (task.arrived != nullptr && task.arrived->appended() > tokens) {
    return absl::InternalError(
        absl::StrFormat("%d ids arrived of a document of %d", task.arrived->appended(), tokens));
  }
  for (size_t i = 0; i < task.spans.size(); ++i) {
    const TokenSpan& s = task.spans[i];
    if (s.begin >= 0 && s.begin < s.end && s.end <= tokens) continue;
    return WithReason(absl::InvalidArgumentError(absl::StrFormat(
                          "passage %d covers tokens [%d, %d), which is empty or outside [0, %d)", i,
                          s.begin, s.end, tokens)),
                      "INVALID_PASSAGE");
  }
  return absl::OkStatus();
}

absl::Status EngineImpl::Submit(EncodeTask&& task) {
  auto model = std::dynamic_pointer_cast<const EncodingModel>(task.model);
  if (model == nullptr || task.cancellation == nullptr || task.on_done == nullptr) {
    return absl::InternalError("encode task without a model of this engine, token or callback");
  }
  RETURN_IF_ERROR(CheckTask(task));
  EncodeShape shape;
  shape.tokens = static_cast<int64_t>(task.ids.size());
  shape.num_vectors = static_cast<int64_t>(task.spans.size()) + 1;
  shape.token_vectors = task.want_token_vectors;
  shape.keep_token_vectors = task.keep_token_vectors;
  shape.cross_kv = task.want_cross_kv;
  shape.cross_kv_type = task.cross_kv_type;
  shape.attention = task.attention;
  ASSIGN_OR_RETURN(const EncodePlan plan, Plan(*model, shape));
  RETURN_IF_ERROR(CheckFits(plan));
  WorkNeeds needs;
  needs.tokens = shape.tokens;
  needs.peak_bytes = plan.peak_bytes;
  needs.expected_seconds = plan.expected_seconds;
  needs.lane = shape.tokens <= options_.short_text_tokens ? Lane::kShort : Lane::kLong;
  needs.cancellation = task.cancellation;
  return scheduler_.Submit(std::make_unique<EncodeWork>(std::move(task), std::move(model),
                                                        std::move(needs), *backend_, meter_));
}

absl::Status EngineImpl::Submit(MaxSimTask&& task) {
  if (task.cancellation == nullptr || task.on_done == nullptr) {
    return absl::InternalError("late interaction task without token or callback");
  }
  ASSIGN_OR_RETURN(std::unique_ptr<Work> work, MakeMaxSimWork(*backend_, std::move(task)));
  EncodePlan plan;
  plan.tokens = work->needs().tokens;
  plan.peak_bytes = work->needs().peak_bytes;
  RETURN_IF_ERROR(CheckFits(plan));
  return scheduler_.Submit(std::move(work));
}

}  // namespace

absl::StatusOr<std::unique_ptr<Engine>> Engine::Create(const EngineOptions& options) {
  std::string note;
  ASSIGN_OR_RETURN(EngineOptions filled, FillDefaults(options));
  ASSIGN_OR_RETURN(std::unique_ptr<Backend> backend, MakeBackend(filled, &note));
  filled.num_threads = backend->info().num_workers;
  if (const int64_t device_bytes = backend->memory().limit_bytes(); device_bytes > 0) {
    const int64_t asked = options.memory_budget_bytes;
    filled.memory_budget_bytes = asked > 0 ? std::min(asked, device_bytes) : device_bytes;
  }
  return std::make_unique<EngineImpl>(filled, std::move(backend), std::move(note));
}

absl::StatusOr<EncodeResult> EncodeAndWait(Engine& engine, EncodeTask task) {
  std::promise<absl::StatusOr<EncodeResult>> promise;
  std::future<absl::StatusOr<EncodeResult>> future = promise.get_future();
  if (task.cancellation == nullptr) task.cancellation = std::make_shared<CancellationToken>();
  task.on_done = [&promise](absl::StatusOr<EncodeResult> result) {
    promise.set_value(std::move(result));
  };
  RETURN_IF_ERROR(engine.Submit(std::move(task)));
  return future.get();
}

absl::Status Engine::CheckFits(const EncodePlan& plan) const {
  const int64_t available = LongTaskBudget(memory_budget_bytes());
  if (plan.peak_bytes <= available) return absl::OkStatus();
  return WithReason(
      absl::ResourceExhaustedError(absl::StrFormat(
          "encoding %d tokens needs %d bytes, this server can give %d to one document", plan.tokens,
          plan.peak_bytes, available)),
      "DOCUMENT_EXCEEDS_MEMORY");
}

bool IsDeviceName(const std::string& device) {
  return device == "cpu" || device == "reference" || CudaDevice(device) >= 0;
}

RoutingStats& RoutingStats::operator+=(const RoutingStats& more) {
  for (int r = 0; r < kNumRouters; ++r) {
    tokens[r] += more.tokens[r];
    weight[r] += more.weight[r];
  }
  follow_ups += more.follow_ups;
  repeated += more.repeated;
  return *this;
}

absl::Status CheckTokenIds(const Model& model, absl::Span<const int32_t> ids,
                           int64_t first_position) {
  const int64_t vocab_size = model.info().vocab_size;
  for (size_t i = 0; i < ids.size(); ++i) {
    if (ids[i] >= 0 && ids[i] < vocab_size) continue;
    return WithReason(absl::InvalidArgumentError(absl::StrFormat(
                          "token id %d at position %d is outside the vocabulary [0, %d)", ids[i],
                          first_position + static_cast<int64_t>(i), vocab_size)),
                      "TOKEN_OUT_OF_VOCABULARY");
  }
  return absl::OkStatus();
}

absl::Status CheckAttentionPolicy(const AttentionPolicy& policy) {
  constexpr int64_t kMaxGlobal = 4096;
  std::string problem;
  // Written so that NaN fails.
  if (policy.mode == AttentionMode::kTolerance && !(policy.epsilon > 0 && policy.epsilon < 1)) {
    problem = absl::StrFormat("tolerance epsilon must be in (0, 1), got %g", policy.epsilon);
  } else if (policy.mode == AttentionMode::kWindow && policy.window_radius < 1) {
    problem = absl::StrFormat("window radius must be at least 1, got %d", policy.window_radius);
  } else if (policy.mode == AttentionMode::kWindow &&
             (policy.num_global < 0 || policy.num_global > kMaxGlobal)) {
    problem =
        absl::StrFormat("global tokens must be in [0, %d], got %d", kMaxGlobal, policy.num_global);
  }
  if (problem.empty()) return absl::OkStatus();
  return WithReason(absl::InvalidArgumentError(problem), "INVALID_ATTENTION_POLICY");
}

}  // namespace longdoc

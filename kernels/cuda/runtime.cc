#include "kernels/cuda/runtime.h"

#include <algorithm>
#include <cstring>

namespace longdoc::kernels::cuda {
namespace {

constexpr int64_t kStagingBytes = int64_t{4} << 20;

// Errors of one call that leave the context as it was. All others are of the device, or mean that
// nothing is known about it.
bool LeavesDeviceIntact(cudaError_t error) {
  // Of recording; they have numbers of their own.
  if (error >= cudaErrorStreamCaptureUnsupported && error <= cudaErrorStreamCaptureWrongThread) {
    return true;
  }
  switch (error) {
    case cudaErrorInvalidValue:
    case cudaErrorMemoryAllocation:
    case cudaErrorInvalidConfiguration:
    case cudaErrorLaunchOutOfResources:
    case cudaErrorNotSupported:
      return true;
    default:
      return false;
  }
}

std::string Words(const char* what, cudaError_t error) {
  return std::string(what) + ": " + cudaGetErrorString(error) + " (" + cudaGetErrorName(error) +
         ")";
}

}  // namespace

cudaError_t FindDevice(int device, DeviceInfo* info, std::string* fault) {
  int count = 0;
  cudaError_t error = cudaGetDeviceCount(&count);
  if (error == cudaSuccess && device >= count) {
    *fault = "there are " + std::to_string(count) + " CUDA devices, number " +
             std::to_string(device) + " was asked for";
    return cudaErrorInvalidDevice;
  }
  if (error == cudaSuccess) error = cudaSetDevice(device);
  cudaDeviceProp properties;
  if (error == cudaSuccess) error = cudaGetDeviceProperties(&properties, device);
  size_t free_bytes = 0, total_bytes = 0;
  if (error == cudaSuccess) error = cudaMemGetInfo(&free_bytes, &total_bytes);
  if (error != cudaSuccess) {
    *fault = std::string("no CUDA device can be used: ") + cudaGetErrorString(error);
    return error;
  }
  if (properties.major < 8) {
    *fault = std::string(properties.name) + " has compute capability " +
             std::to_string(properties.major) + "." + std::to_string(properties.minor) +
             ", at least 8.0 is needed";
    return cudaErrorNotSupported;
  }
  *info = {device,
           properties.name,
           properties.major,
           properties.minor,
           static_cast<int64_t>(total_bytes),
           static_cast<int64_t>(free_bytes)};
  return cudaSuccess;
}

cudaError_t Runtime::Create(const DeviceInfo& device, OnFailure on_failure,
                            std::unique_ptr<Runtime>* runtime) {
  std::unique_ptr<Runtime> made(new Runtime(device, std::move(on_failure)));
  const cudaError_t error = made->Init();
  if (error == cudaSuccess) *runtime = std::move(made);
  return error;
}

cudaError_t Runtime::Init() {
  cudaError_t error = cudaSetDevice(device_);
  for (cudaStream_t* stream : {&stream_, &recording_stream_}) {
    if (error == cudaSuccess) error = cudaStreamCreateWithFlags(stream, cudaStreamNonBlocking);
  }
  // Waiting must not keep a core busy: the other threads of a server need it.
  constexpr unsigned kFlags = cudaEventBlockingSync | cudaEventDisableTiming;
  for (cudaEvent_t* event :
       {&step_done_[0], &step_done_[1], &all_done_, &staging_[0].copied, &staging_[1].copied}) {
    if (error == cudaSuccess) error = cudaEventCreateWithFlags(event, kFlags);
  }
  for (Staging& staging : staging_) {
    if (error == cudaSuccess) {
      error =
          cudaHostAlloc(&staging.data, static_cast<size_t>(kStagingBytes), cudaHostAllocDefault);
    }
  }
  return error;
}

// A lost device refuses all of this; there is nothing left to release then.
Runtime::~Runtime() {
  cudaSetDevice(device_);
  if (stream_ != nullptr) cudaStreamSynchronize(stream_);
  for (const Timer& timer : timers_) {
    cudaEventDestroy(timer.start);
    cudaEventDestroy(timer.stop);
  }
  for (cudaEvent_t event :
       {step_done_[0], step_done_[1], all_done_, staging_[0].copied, staging_[1].copied}) {
    if (event != nullptr) cudaEventDestroy(event);
  }
  for (const Staging& staging : staging_) {
    if (staging.data != nullptr) cudaFreeHost(staging.data);
  }
  for (cudaStream_t stream : {stream_, recording_stream_}) {
    if (stream != nullptr) cudaStreamDestroy(stream);
  }
}

void Runtime::NoteError(cudaError_t error, const char* what) {
  cudaGetLastError();  // what is not sticky is told once, here
  const bool is_lost = !LeavesDeviceIntact(error);
  const std::string text = Words(what, error);
  {
    std::lock_guard<std::mutex> lock(fault_mutex_);
    if (!loss_.empty()) return;
    if (!is_lost) {
      faults_.emplace(std::this_thread::get_id(), text);  // the first one counts
      return;
    }
    loss_ = text;
  }
  if (on_failure_) on_failure_(text);
}

Runtime::Fault Runtime::TakeFault() {
  std::lock_guard<std::mutex> lock(fault_mutex_);
  if (!loss_.empty()) return {loss_, true};
  const auto mine = faults_.find(std::this_thread::get_id());
  if (mine == faults_.end()) return {};
  Fault fault{mine->second, false};
  faults_.erase(mine);
  return fault;
}

void* Runtime::AllocateDevice(int64_t bytes) {
  MakeCurrent();
  void* data = nullptr;
  const cudaError_t error = cudaMalloc(&data, static_cast<size_t>(bytes));
  if (error == cudaSuccess) return data;
  cudaGetLastError();
  if (error != cudaErrorMemoryAllocation) Note(error, "allocating device memory");
  return nullptr;
}

void Runtime::FreeDevice(void* data) {
  MakeCurrent();
  Note(cudaFree(data), "freeing device memory");
}

void Runtime::Clear(void* device, int64_t bytes) {
  MakeCurrent();
  Note(cudaMemsetAsync(device, 0, static_cast<size_t>(bytes), stream_), "clearing device memory");
}

void* Runtime::AllocatePinned(int64_t bytes) {
  MakeCurrent();
  void* data = nullptr;
  const cudaError_t error = cudaHostAlloc(&data, static_cast<size_t>(bytes), cudaHostAllocDefault);
  if (error == cudaSuccess) return data;
  cudaGetLastError();
  return nullptr;
}

void Runtime::FreePinned(void* data) { Note(cudaFreeHost(data), "freeing pinned memory"); }

// Two pieces in turn: one is filled while the other one is copied.
void Runtime::Upload(void* device, const void* host, int64_t bytes) {
  std::lock_guard<std::mutex> lock(staging_mutex_);
  MakeCurrent();
  for (int64_t done = 0; done < bytes; done += kStagingBytes) {
    const size_t part = static_cast<size_t>(std::min(kStagingBytes, bytes - done));
    Staging& staging = staging_[next_staging_];
    next_staging_ = 1 - next_staging_;
    Note(cudaEventSynchronize(staging.copied), "waiting for a copy to the device");
    std::memcpy(staging.data, static_cast<const char*>(host) + done, part);
    Note(cudaMemcpyAsync(static_cast<char*>(device) + done, staging.data, part,
                         cudaMemcpyHostToDevice, stream_),
         "copying to the device");
    Note(cudaEventRecord(staging.copied, stream_), "copying to the device");
  }
}

void Runtime::Download(void* host, const void* device, int64_t bytes) {
  MakeCurrent();
  if (bytes > 0) {
    Note(cudaMemcpyAsync(host, device, static_cast<size_t>(bytes), cudaMemcpyDeviceToHost, stream_),
         "copying from the device");
  }
  Synchronize();
}

cudaGraphExec_t Runtime::Record(const std::function<bool()>& launches) {
  const std::lock_guard<std::mutex> lock(recording_mutex_);
  MakeCurrent();
  // Of this mode, only what this thread does can spoil the recording.
  cudaError_t error = cudaStreamBeginCapture(recording_stream_, cudaStreamCaptureModeThreadLocal);
  if (error != cudaSuccess) {
    Note(error, "beginning to record");
    return nullptr;
  }
  recorder_ = std::this_thread::get_id();
  const bool complete = launches();
  recorder_ = std::thread::id();
  cudaGraph_t recorded = nullptr;
  error = cudaStreamEndCapture(recording_stream_, &recorded);
  cudaGraphExec_t graph = nullptr;
  if (error == cudaSuccess && complete) error = cudaGraphInstantiate(&graph, recorded, 0);
  if (recorded != nullptr) Note(cudaGraphDestroy(recorded), "recording");
  Note(error, "recording");
  return error == cudaSuccess ? graph : nullptr;
}

void Runtime::Replay(cudaGraphExec_t graph) { Note(cudaGraphLaunch(graph, stream_), "replaying"); }

void Runtime::FreeGraph(cudaGraphExec_t graph) {
  if (graph == nullptr) return;
  MakeCurrent();
  Note(cudaGraphExecDestroy(graph), "freeing a recording");
}

void Runtime::EndStep() {
  std::lock_guard<std::mutex> lock(step_mutex_);
  Note(cudaEventRecord(step_done_[steps_ % 2], stream_), "ending a step");
  ++steps_;
  Note(cudaEventSynchronize(step_done_[steps_ % 2]), "running a step");
  CollectTimers();
}

void Runtime::Synchronize() {
  std::lock_guard<std::mutex> lock(step_mutex_);
  Note(cudaEventRecord(all_done_, stream_), "waiting for the device");
  Note(cudaEventSynchronize(all_done_), "waiting for the device");
  CollectTimers();
}

int64_t Runtime::StartTimer() {
  std::lock_guard<std::mutex> lock(timer_mutex_);
  if (free_timers_.empty()) {
    Timer timer;
    Note(cudaEventCreate(&timer.start), "creating a timer");
    Note(cudaEventCreate(&timer.stop), "creating a timer");
    free_timers_.push_back(timers_.size());
    timers_.push_back(timer);
  }
  const size_t index = free_timers_.back();
  free_timers_.pop_back();
  Note(cudaEventRecord(timers_[index].start, stream_), "starting a timer");
  return static_cast<int64_t>(index);
}

void Runtime::StopTimer(int64_t timer, std::shared_ptr<std::atomic<int64_t>> spent) {
  std::lock_guard<std::mutex> lock(timer_mutex_);
  const size_t index = static_cast<size_t>(timer);
  Note(cudaEventRecord(timers_[index].stop, stream_), "stopping a timer");
  running_.push_back({index, std::move(spent)});
}

void Runtime::CollectTimers() {
  std::lock_guard<std::mutex> lock(timer_mutex_);
  while (!running_.empty()) {
    const Timer& timer = timers_[running_.front().timer];
    const cudaError_t ready = cudaEventQuery(timer.stop);
    if (ready == cudaErrorNotReady) return;
    float milliseconds = 0;
    if (ready == cudaSuccess) {
      Note(cudaEventElapsedTime(&milliseconds, timer.start, timer.stop), "reading a timer");
    } else {
      Note(ready, "reading a timer");
    }
    *running_.front().spent += static_cast<int64_t>(milliseconds * 1e6);
    free_timers_.push_back(running_.front().timer);
    running_.pop_front();
  }
}

}  // namespace longdoc::kernels::cuda

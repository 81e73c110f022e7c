// One device and the one stream that an engine's work runs on: errors, copies, and how far the host
// may run ahead.
//
// Thread-safe; the calling thread's current device must be this one (MakeCurrent).
#pragma once

#include <cuda_runtime_api.h>

#include <atomic>
#include <cstdint>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <utility>
#include <vector>

namespace longdoc::kernels::cuda {

struct DeviceInfo {
  int device = 0;
  std::string name;  // "NVIDIA H200"
  int major = 0, minor = 0;
  int64_t memory_bytes = 0, free_bytes = 0;
};

// The device, or why it cannot be used, as words for an operator.
cudaError_t FindDevice(int device, DeviceInfo* info, std::string* fault);

class Runtime {
 public:
  // Called once, by the thread that finds out that the device has failed.
  using OnFailure = std::function<void(const std::string& fault)>;

  static cudaError_t Create(const DeviceInfo& device, OnFailure on_failure,
                            std::unique_ptr<Runtime>* runtime);
  ~Runtime();
  Runtime(const Runtime&) = delete;
  Runtime& operator=(const Runtime&) = delete;

  int device() const { return device_; }
  int major() const { return major_; }
  // Where this thread launches.
  cudaStream_t stream() const {
    return recorder_ == std::this_thread::get_id() ? recording_stream_ : stream_;
  }
  void MakeCurrent() { Note(cudaSetDevice(device_), "choosing the device"); }

  // ---- errors ----------------------------------------------------------------------------------
  //
  // An error that leaves the device as it was (a bad argument, a refused launch) ends the step in
  // which it happened. Any other one stays: the context is lost, and the process must end.

  void Note(cudaError_t error, const char* what) {
    if (error != cudaSuccess) NoteError(error, what);
  }
  struct Fault {
    std::string text;      // empty: none
    bool is_lost = false;  // the device is lost
  };
  // What went wrong in calls of this thread since its last TakeFault, or the first loss of the
  // device, from then on and on every thread.
  Fault TakeFault();

  // ---- memory ----------------------------------------------------------------------------------

  // Null when there is none left.
  void* AllocateDevice(int64_t bytes);
  void FreeDevice(void* data);
  void Clear(void* device, int64_t bytes);
  void* AllocatePinned(int64_t bytes);
  void FreePinned(void* data);

  // ---- copies ----------------------------------------------------------------------------------

  // Through pinned memory of our own; `host` may change once this has returned.
  void Upload(void* device, const void* host, int64_t bytes);
  // Waits for all that was called before.
  void Download(void* host, const void* device, int64_t bytes);

  // ---- recorded launches -----------------------------------------------------------------------

  // What `launches` launches on stream(), from this thread, as one graph; none of it runs. Others
  // may use the device meanwhile, nothing of theirs gets into it. `launches` returns whether all
  // went well; it neither waits nor allocates nor frees. Null on failure, which is noted.
  cudaGraphExec_t Record(const std::function<bool()>& launches);
  void Replay(cudaGraphExec_t graph);
  // Of a graph that may still be running. Null is nothing.
  void FreeGraph(cudaGraphExec_t graph);

  // ---- steps -----------------------------------------------------------------------------------

  // Marks the end of a step, and waits until at most one step is left to do.
  void EndStep();
  // Waits for everything.
  void Synchronize();
  // Adds to `spent` the nanoseconds of device time between the two calls, in a later EndStep or
  // Synchronize. A timer that is started is stopped once.
  int64_t StartTimer();
  void StopTimer(int64_t timer, std::shared_ptr<std::atomic<int64_t>> spent);

 private:
  struct Staging {  // a piece of pinned memory, and what it was last used for
    void* data = nullptr;
    cudaEvent_t copied = nullptr;
  };
  struct Timer {
    cudaEvent_t start = nullptr, stop = nullptr;
  };
  struct Running {
    size_t timer;
    std::shared_ptr<std::atomic<int64_t>> spent;
  };

  Runtime(const DeviceInfo& device, OnFailure on_failure)
      : device_(device.device), major_(device.major), on_failure_(std::move(on_failure)) {}
  cudaError_t Init();
  void NoteError(cudaError_t error, const char* what);
  void CollectTimers();

  const int device_, major_;
  const OnFailure on_failure_;
  cudaStream_t stream_ = nullptr;

  std::mutex recording_mutex_;
  // A stream of its own, so that other threads' copies do not become a part of what is recorded.
  cudaStream_t recording_stream_ = nullptr;
  std::atomic<std::thread::id> recorder_{};  // the thread that records

  std::mutex fault_mutex_;
  std::string loss_;                               // of the device; empty: none
  std::map<std::thread::id, std::string> faults_;  // of calls, by their thread

  std::mutex staging_mutex_;
  Staging staging_[2];
  int next_staging_ = 0;

  std::mutex step_mutex_;
  cudaEvent_t step_done_[2] = {nullptr, nullptr};
  int64_t steps_ = 0;
  cudaEvent_t all_done_ = nullptr;

  std::mutex timer_mutex_;
  std::vector<Timer> timers_;
  std::vector<size_t> free_timers_;
  std::deque<Running> running_;  // stopped, in the order of the stream
};

}  // namespace longdoc::kernels::cuda

// Streams, events, and graphs. A stream runs everything at once, or records it for a graph.
#include "stream.h"

#include <atomic>
#include <chrono>
#include <utility>
#include <vector>

struct CUgraph_st {
  std::vector<std::function<cudaError_t()>> steps;
};
struct CUgraphExec_st : CUgraph_st {};
struct CUstream_st {
  CUgraph_st* capture = nullptr;
  bool spoilt = false;  // the capture
};
struct CUevent_st {
  bool recorded = false;
  std::chrono::steady_clock::time_point at;
};

namespace longdoc::kernels::cuda::emulation {
namespace {
std::atomic<cudaError_t> late_error{cudaSuccess};
std::atomic<bool> captures_allowed{true};
thread_local cudaStream_t captured = nullptr;  // by this thread
}  // namespace

void FailLater(cudaError_t error) { late_error = error; }
void AllowCaptures(bool allowed) { captures_allowed = allowed; }

cudaError_t RefuseInCapture() {
  if (captured == nullptr) return cudaSuccess;
  captured->spoilt = true;
  return Note(cudaErrorStreamCaptureUnsupported);
}

cudaError_t Enqueue(cudaStream_t stream, std::function<cudaError_t()> step) {
  if (stream != nullptr && stream->capture != nullptr) {
    if (stream->spoilt) return Note(cudaErrorStreamCaptureInvalidated);
    stream->capture->steps.push_back(std::move(step));
    return cudaSuccess;
  }
  return Note(step());
}

}  // namespace longdoc::kernels::cuda::emulation

using namespace longdoc::kernels::cuda::emulation;  // NOLINT: this file defines the C interface

cudaError_t cudaStreamCreate(cudaStream_t* stream) {
  *stream = new CUstream_st;
  return cudaSuccess;
}
cudaError_t cudaStreamCreateWithFlags(cudaStream_t* stream, unsigned) {
  return cudaStreamCreate(stream);
}
cudaError_t cudaStreamDestroy(cudaStream_t stream) {
  if (stream == nullptr) return Note(cudaErrorInvalidResourceHandle);
  delete stream->capture;
  delete stream;
  return cudaSuccess;
}
cudaError_t cudaStreamSynchronize(cudaStream_t) { return RefuseInCapture(); }
cudaError_t cudaStreamQuery(cudaStream_t) { return RefuseInCapture(); }
cudaError_t cudaStreamWaitEvent(cudaStream_t, cudaEvent_t, unsigned) { return cudaSuccess; }
cudaError_t cudaStreamIsCapturing(cudaStream_t stream, cudaStreamCaptureStatus* status) {
  *status = stream != nullptr && stream->capture != nullptr ? cudaStreamCaptureStatusActive
                                                            : cudaStreamCaptureStatusNone;
  return cudaSuccess;
}
cudaError_t cudaLaunchHostFunc(cudaStream_t stream, cudaHostFn_t function, void* data) {
  return Enqueue(stream, [=] {
    function(data);
    return cudaSuccess;
  });
}
cudaError_t cudaEventCreate(cudaEvent_t* event) {
  *event = new CUevent_st;
  return cudaSuccess;
}
cudaError_t cudaEventCreateWithFlags(cudaEvent_t* event, unsigned) {
  return cudaEventCreate(event);
}
cudaError_t cudaEventDestroy(cudaEvent_t event) {
  delete event;
  return cudaSuccess;
}
cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t stream) {
  return Enqueue(stream, [=] {
    event->recorded = true;
    event->at = std::chrono::steady_clock::now();
    return cudaSuccess;
  });
}
cudaError_t cudaEventSynchronize(cudaEvent_t) {
  const cudaError_t error = RefuseInCapture();
  return error != cudaSuccess ? error : Note(late_error.exchange(cudaSuccess));
}
cudaError_t cudaEventQuery(cudaEvent_t) { return RefuseInCapture(); }
cudaError_t cudaEventElapsedTime(float* milliseconds, cudaEvent_t start, cudaEvent_t end) {
  if (!start->recorded || !end->recorded) return Note(cudaErrorInvalidResourceHandle);
  *milliseconds = std::chrono::duration<float, std::milli>(end->at - start->at).count();
  return cudaSuccess;
}
cudaError_t cudaStreamBeginCapture(cudaStream_t stream, cudaStreamCaptureMode) {
  if (stream == nullptr || stream->capture != nullptr) return Note(cudaErrorInvalidValue);
  if (!captures_allowed) return Note(cudaErrorStreamCaptureUnsupported);
  stream->capture = new CUgraph_st;
  stream->spoilt = false;
  captured = stream;
  return cudaSuccess;
}
cudaError_t cudaStreamEndCapture(cudaStream_t stream, cudaGraph_t* graph) {
  *graph = nullptr;
  if (stream == nullptr || stream->capture == nullptr) return Note(cudaErrorInvalidValue);
  if (stream != captured) return Note(cudaErrorStreamCaptureWrongThread);
  captured = nullptr;
  CUgraph_st* recorded = std::exchange(stream->capture, nullptr);
  if (stream->spoilt) {
    delete recorded;
    return Note(cudaErrorStreamCaptureInvalidated);
  }
  *graph = recorded;
  return cudaSuccess;
}
cudaError_t cudaGraphInstantiate(cudaGraphExec_t* exec, cudaGraph_t graph, unsigned long long) {
  *exec = new CUgraphExec_st{*graph};
  return cudaSuccess;
}
cudaError_t cudaGraphLaunch(cudaGraphExec_t exec, cudaStream_t stream) {
  for (const auto& step : exec->steps) {
    const cudaError_t error = Enqueue(stream, step);
    if (error != cudaSuccess) return error;
  }
  return cudaSuccess;
}
cudaError_t cudaGraphDestroy(cudaGraph_t graph) {
  delete graph;
  return cudaSuccess;
}
cudaError_t cudaGraphExecDestroy(cudaGraphExec_t exec) {
  delete exec;
  return cudaSuccess;
}

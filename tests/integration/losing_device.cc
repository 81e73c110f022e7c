// Linked into longdoc-server on the emulated device, for tests: SIGUSR1 takes the device away, at
// the next thing that is waited for; LONGDOC_TEST_LOSE_DEVICE in the environment does so at the
// start.
#include <cuda_runtime_api.h>
#include <pthread.h>
#include <signal.h>
#include <unistd.h>

#include <cstdlib>
#include <thread>

namespace longdoc {
namespace {

using kernels::cuda::emulation::FailLater;

// Before main: all threads that come later have the signal blocked.
[[maybe_unused]] const bool listening = [] {
  if (std::getenv("LONGDOC_TEST_LOSE_DEVICE") != nullptr) FailLater(cudaErrorIllegalAddress);
  sigset_t signals;
  sigemptyset(&signals);
  sigaddset(&signals, SIGUSR1);
  pthread_sigmask(SIG_BLOCK, &signals, nullptr);
  std::thread([signals] {
    int number = 0;
    while (sigwait(&signals, &number) != 0) {
    }
    FailLater(cudaErrorIllegalAddress);
    constexpr char kLine[] = "{\"event\":\"device will fail\"}\n";
    if (write(STDERR_FILENO, kLine, sizeof(kLine) - 1) < 0) std::abort();
  }).detach();
  return true;
}();

}  // namespace
}  // namespace longdoc

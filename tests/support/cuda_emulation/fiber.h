// Cooperative threads of the emulated block: a stack and a saved stack pointer each.
#pragma once

#include <cstddef>

namespace longdoc::kernels::cuda::emulation {

// A fiber that has run, or the host thread itself while fibers run.
struct Fiber {
  void* context = nullptr;  // saved stack pointer, or ucontext_t where there is no switch of ours
  void* stack = nullptr;    // lowest usable address, behind a page that may not be touched
};

constexpr size_t kFiberStackBytes = 64 * 1024;

// Gives a fiber its stack; kept for the life of the process.
void AllocateStack(Fiber& fiber);
// Makes the next SwitchTo(fiber) call entry(), which must never return.
void Prepare(Fiber& fiber, void (*entry)());
// Saves the running context in `from` and continues `to`.
void Switch(Fiber& from, Fiber& to);

}  // namespace longdoc::kernels::cuda::emulation

#include "fiber.h"

#include <sys/mman.h>
#include <unistd.h>

#include <cstdint>
#include <cstdio>
#include <cstdlib>

#if !defined(__x86_64__)
#include <ucontext.h>
#endif

namespace longdoc::kernels::cuda::emulation {

void AllocateStack(Fiber& fiber) {
  const size_t page = static_cast<size_t>(sysconf(_SC_PAGESIZE));
  void* memory = mmap(nullptr, page + kFiberStackBytes, PROT_READ | PROT_WRITE,
                      MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (memory == MAP_FAILED || mprotect(memory, page, PROT_NONE) != 0) {
    std::perror("CUDA emulation: no memory for the stack of a thread");
    std::abort();
  }
  fiber.stack = static_cast<char*>(memory) + page;
}

#if defined(__x86_64__)

// swapcontext would do: it enters the kernel for the signal mask, 20 times the cost of this.
extern "C" void longdoc_emulation_switch(void** save, void* load);
asm(R"(
  .text
  .globl longdoc_emulation_switch
  .type longdoc_emulation_switch, @function
longdoc_emulation_switch:
  pushq %rbp
  pushq %rbx
  pushq %r12
  pushq %r13
  pushq %r14
  pushq %r15
  movq %rsp, (%rdi)
  movq %rsi, %rsp
  popq %r15
  popq %r14
  popq %r13
  popq %r12
  popq %rbx
  popq %rbp
  ret
  .size longdoc_emulation_switch, .-longdoc_emulation_switch
)");

void Prepare(Fiber& fiber, void (*entry)()) {
  // What the switch pops: six registers, then entry's address, above which a function expects its
  // return address with the stack 16-byte aligned behind it.
  uint64_t* top = reinterpret_cast<uint64_t*>(static_cast<char*>(fiber.stack) + kFiberStackBytes);
  uint64_t* sp = top - 8;
  for (int i = 0; i < 6; ++i) sp[i] = 0;
  sp[6] = reinterpret_cast<uint64_t>(entry);
  sp[7] = 0;
  fiber.context = sp;
}

void Switch(Fiber& from, Fiber& to) { longdoc_emulation_switch(&from.context, to.context); }

#else

namespace {
ucontext_t* Context(Fiber& fiber) {
  if (fiber.context == nullptr) fiber.context = new ucontext_t;  // lives as long as the stack
  return static_cast<ucontext_t*>(fiber.context);
}
}  // namespace

void Prepare(Fiber& fiber, void (*entry)()) {
  ucontext_t* context = Context(fiber);
  getcontext(context);
  context->uc_stack.ss_sp = fiber.stack;
  context->uc_stack.ss_size = kFiberStackBytes;
  context->uc_link = nullptr;
  makecontext(context, entry, 0);
}

void Switch(Fiber& from, Fiber& to) { swapcontext(Context(from), Context(to)); }

#endif

}  // namespace longdoc::kernels::cuda::emulation

#include "block.h"

#include <sys/mman.h>

#include <cstdarg>
#include <cstdio>
#include <cstdlib>
#include <cstring>

#include "emulation.h"

uint3 threadIdx, blockIdx;
dim3 blockDim, gridDim;

namespace longdoc::kernels::cuda::emulation {

Block block;
Thread* self = nullptr;

namespace {

constexpr int kGuard = 1024;
constexpr unsigned char kGuardByte = 0xa5;
constexpr unsigned char kPoison = 0xff;  // NaN in fp32, bf16 and fp16

void Resume(Fiber& from, int id) {
  self = &block.all[id];
  threadIdx = self->index;
  Switch(from, self->fiber);
}

std::string Describe(const Thread& t) {
  char text[200];
  switch (t.waiting) {
    case WaitKind::kNothing:
      return "nothing";
    case WaitKind::kWarp:
      std::snprintf(text, sizeof(text), "%s of lanes %08x", t.wait_operation,
                    static_cast<unsigned>(t.wait_object));
      return text;
    case WaitKind::kBlock:
      std::snprintf(text, sizeof(text), "__syncthreads (%d of %d there)", block.barrier_arrived,
                    block.live);
      return text;
    case WaitKind::kNamed: {
      const NamedBarrier& b = block.named[t.wait_object];
      std::snprintf(text, sizeof(text), "named barrier %d (%d of %d there)",
                    static_cast<int>(t.wait_object), b.arrived, b.count);
      return text;
    }
    case WaitKind::kMbarrier:
      for (const Mbarrier& b : block.mbarriers) {
        if (b.address != t.wait_object) continue;
        std::snprintf(text, sizeof(text),
                      "mbarrier at shared offset %u, phase %u, parity %u (%u of %u arrivals and "
                      "%lld bytes missing)",
                      b.address - kSharedBase, b.phase, t.wait_parity, b.pending, b.count,
                      static_cast<long long>(b.bytes_missing));
        return text;
      }
      return "an mbarrier that is gone";
  }
  return "";
}

// Who waits for what, neighbours with the same answer taken together.
std::string DescribeAll() {
  std::string all, last;
  int first = 0;
  for (int i = 0; i <= block.threads; ++i) {
    const std::string now = i == block.threads    ? ""
                            : block.all[i].exited ? "exited"
                                                  : Describe(block.all[i]);
    if (i > 0 && now == last && i < block.threads) continue;
    if (i > 0) {
      all += "\n  threads " + std::to_string(first) + "-" + std::to_string(i - 1) + ": " + last;
    }
    first = i;
    last = now;
  }
  return all;
}

// From a fiber to whatever runs next. Returns when this fiber is resumed.
void GiveWay(Thread* from) {
  if (block.ready_count == 0) {
    if (block.live > 0) {
      self = from;
      Fail("deadlock: every thread waits%s", DescribeAll().c_str());
    }
    self = nullptr;
    Switch(from->fiber, block.host);
    return;
  }
  const int next = block.ready[block.ready_head];
  block.ready_head = (block.ready_head + 1) % kMaxThreads;
  --block.ready_count;
  if (next != from->id) Resume(from->fiber, next);
}

void ThreadMain() {
  (*block.body)();
  CheckWgmmaDone(*self);
  Thread* me = self;
  me->exited = true;
  --block.live;
  Warp& warp = WarpOf(*me);
  warp.live &= ~(1u << me->id % 32);
  if (!warp.meetings.empty()) RecheckWarp(warp);
  RecheckBarrier();
  GiveWay(me);
  std::abort();  // an exited thread was resumed
}

void PrepareBlock() {
  if (block.all.empty()) {
    block.all.resize(kMaxThreads);
    block.ready.resize(kMaxThreads);
    void* memory = mmap(nullptr, kMaxShared + 2 * kGuard + 4096, PROT_READ | PROT_WRITE,
                        MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (memory == MAP_FAILED) std::abort();
    block.shared = static_cast<unsigned char*>(memory) + kGuard;
  }
  std::memset(block.shared - kGuard, kGuardByte, kGuard);
  std::memset(block.shared, kPoison, block.shared_bytes);
  std::memset(block.shared + block.shared_bytes, kGuardByte, kGuard);
  block.live = block.threads;
  block.failed = false;
  block.ready_head = block.ready_count = 0;
  block.barrier_arrived = block.barrier_true = 0;
  block.mbarriers.clear();
  for (NamedBarrier& b : block.named) b = NamedBarrier();
  for (int w = 0; w * 32 < block.threads; ++w) {
    const int lanes = block.threads - w * 32;
    block.warps[w].live = lanes >= 32 ? 0xffffffff : (1u << lanes) - 1;
    block.warps[w].meetings.clear();
  }
  for (int i = 0; i < block.threads; ++i) {
    Thread& t = block.all[i];
    if (t.fiber.stack == nullptr) AllocateStack(t.fiber);
    t.id = i;
    const unsigned u = static_cast<unsigned>(i);
    t.index = {u % blockDim.x, u / blockDim.x % blockDim.y, u / blockDim.x / blockDim.y};
    t.exited = false;
    t.waiting = WaitKind::kNothing;
    t.copies.clear();
    t.open_copy_group = 0;
    t.wgmma.ops.clear();
    t.wgmma.accumulators.clear();
    t.wgmma.open_group = 0;
    t.wgmma.issued_hash = 0;
    t.wgmma.fenced = false;
    Prepare(t.fiber, ThreadMain);
  }
}

void CheckGuards() {
  for (int i = 0; i < kGuard; ++i) {
    if (block.shared[block.shared_bytes + i] != kGuardByte) {
      block.failed = true;
      block.failure = "shared memory was written " + std::to_string(i) + " bytes behind its end (" +
                      std::to_string(block.shared_bytes) + " bytes)";
      return;
    }
    if (block.shared[i - kGuard] != kGuardByte) {
      block.failed = true;
      block.failure =
          "shared memory was written " + std::to_string(kGuard - i) + " bytes before its start";
      return;
    }
  }
}

void CheckWarpgroups() {
  for (int w = 0; w * 32 + 96 < block.threads; w += 4) {
    for (int i = 1; i < 4; ++i) {
      if (block.all[(w + i) * 32].wgmma.issued_hash != block.all[w * 32].wgmma.issued_hash) {
        block.failed = true;
        block.failure = "warps " + std::to_string(w) + " and " + std::to_string(w + i) +
                        " of a warpgroup issued different wgmma";
      }
    }
  }
}

}  // namespace

void Fail(const char* format, ...) {
  char text[8000];
  va_list arguments;
  va_start(arguments, format);
  std::vsnprintf(text, sizeof(text), format, arguments);
  va_end(arguments);
  if (self == nullptr) {
    std::fprintf(stderr, "CUDA emulation, outside a kernel: %s\n", text);
    std::abort();
  }
  block.failed = true;
  block.failure = "thread " + std::to_string(self->id) + ": " + text;
  Thread* me = self;
  self = nullptr;
  Switch(me->fiber, block.host);  // the other fibers are never resumed
  std::abort();
}

void MakeReady(int id) {
  block.all[id].waiting = WaitKind::kNothing;
  block.ready[(block.ready_head + block.ready_count) % kMaxThreads] = id;
  ++block.ready_count;
}

void Wait(WaitKind kind, uint64_t object, const char* operation) {
  Thread* me = self;
  me->waiting = kind;
  me->wait_object = object;
  me->wait_operation = operation;
  GiveWay(me);
}

bool RunBlock(const dim3& at, uint64_t number) {
  blockIdx = {at.x, at.y, at.z};
  block.number = number;
  PrepareBlock();
  // Every other block starts its threads backwards: what is right in one order only shows.
  for (int i = 0; i < block.threads; ++i) {
    MakeReady(number % 2 == 0 ? i : block.threads - 1 - i);
  }
  const int first = block.ready[block.ready_head];
  block.ready_head = (block.ready_head + 1) % kMaxThreads;
  --block.ready_count;
  Resume(block.host, first);
  self = nullptr;
  if (!block.failed) CheckMbarriersDone();
  if (!block.failed) CheckGuards();
  if (!block.failed) CheckWarpgroups();
  return !block.failed;
}

// ---- shared memory -----------------------------------------------------------------------------

unsigned char* DynamicShared() { return block.shared; }

uint32_t SharedAddress(const void* shared) {
  const unsigned char* p = static_cast<const unsigned char*>(shared);
  if (p < block.shared || p > block.shared + block.shared_bytes) {
    Fail("%p is not in dynamic shared memory", shared);
  }
  return static_cast<uint32_t>(p - block.shared) + kSharedBase;
}

unsigned char* SharedMemory(uint32_t address, uint32_t bytes, uint32_t alignment,
                            const char* what) {
  if (address % alignment != 0) {
    Fail("%s: shared offset %u is not a multiple of %u", what, address - kSharedBase, alignment);
  }
  if (address < kSharedBase || address + bytes > kSharedBase + block.shared_bytes) {
    Fail("%s: %u bytes at shared offset %d are outside the %u bytes of the block", what, bytes,
         static_cast<int>(address - kSharedBase), block.shared_bytes);
  }
  return block.shared + (address - kSharedBase);
}

// ---- barriers of the block ---------------------------------------------------------------------

void RecheckBarrier() {
  if (block.barrier_arrived == 0 || block.barrier_arrived < block.live) return;
  block.barrier_result = block.barrier_true;
  block.barrier_arrived = block.barrier_true = 0;
  for (int i = 0; i < block.threads; ++i) {
    if (block.all[i].waiting == WaitKind::kBlock) MakeReady(i);
  }
}

int BlockBarrier(bool value) {
  ++block.barrier_arrived;
  block.barrier_true += value ? 1 : 0;
  // This thread, too, goes to the end of the queue, in the order of the others.
  self->waiting = WaitKind::kBlock;
  if (block.barrier_arrived == block.live) RecheckBarrier();
  const WaitKind waiting = self->waiting;
  Wait(waiting, 0, "__syncthreads");
  return block.barrier_result;
}

namespace {
void EnterNamed(int id, int count, bool wait) {
  if (id < 1 || id > 15) Fail("named barrier %d: ids are 1 to 15", id);
  if (count < 32 || count % 32 != 0 || count > block.threads) {
    Fail("named barrier %d: %d threads, must be a multiple of 32 up to the block's %d", id, count,
         block.threads);
  }
  NamedBarrier& b = block.named[id];
  if (b.count == 0) b.count = count;
  if (b.count != count) Fail("named barrier %d: %d threads, others said %d", id, count, b.count);
  ++b.arrived;
  if (wait) b.waiters.push_back(self->id);
  if (b.arrived == b.count) {
    b.count = b.arrived = 0;
    for (const int waiter : b.waiters) MakeReady(waiter);
    b.waiters.clear();
    if (wait) Wait(WaitKind::kNothing, 0, "");
    return;
  }
  if (wait) Wait(WaitKind::kNamed, static_cast<uint64_t>(id), "");
}
}  // namespace

void NamedBarrierSync(int id, int count) { EnterNamed(id, count, true); }
void NamedBarrierArrive(int id, int count) { EnterNamed(id, count, false); }

}  // namespace longdoc::kernels::cuda::emulation

// The running block: its threads, their scheduling and what they wait for. Private to the emulator.
#pragma once

#include <cstdint>
#include <deque>
#include <functional>
#include <string>
#include <vector>

#include "cuda.h"
#include "cuda_runtime_api.h"
#include "fiber.h"

namespace longdoc::kernels::cuda::emulation {

constexpr int kMaxThreads = 1024;
// Shared addresses start here, like the 1 KB that a device keeps for itself.
constexpr uint32_t kSharedBase = 1024;
constexpr int kMaxShared = 227 * 1024;

enum class WaitKind { kNothing, kWarp, kBlock, kNamed, kMbarrier };

struct AsyncCopy {
  unsigned char* to;
  const void* from;  // null: zeros
  int group;
};

// A wgmma that this thread's warp has issued, this thread's part of it.
struct WgmmaOp {
  float* d;
  int n;
  uint64_t a, b;
  uint32_t a_registers[4];
  bool from_registers, transpose_b, accumulate, bf16;
  int group;
};

// Accumulators that issued products will write: the user's registers hold NaN meanwhile.
struct InFlight {
  float* d;
  int n;
  int pending;
  float values[128];
};

struct WgmmaState {
  std::vector<WgmmaOp> ops;
  std::vector<InFlight> accumulators;
  int open_group = 0;
  uint64_t issued_hash = 0;  // of all operands, to compare the warps of a warpgroup
  bool fenced = false;
};

struct Thread {
  Fiber fiber;
  int id = 0;
  uint3 index = {0, 0, 0};
  bool started = false, exited = false;
  WaitKind waiting = WaitKind::kNothing;
  uint64_t wait_object = 0;  // mask, barrier id or shared address
  uint32_t wait_parity = 0;
  const char* wait_operation = "";
  std::vector<AsyncCopy> copies;
  int open_copy_group = 0;
  WgmmaState wgmma;
};

// Lanes on their way to one collective; free while nobody has arrived.
struct Meeting {
  uint32_t mask = 0, arrived = 0;
  const char* operation = nullptr;
  void (*complete)(void* const*) = nullptr;
  void* slots[32];  // of those that have arrived
};

struct Warp {
  uint32_t live = 0;  // lanes that exist and have not exited
  std::vector<Meeting> meetings;
};

struct NamedBarrier {
  int count = 0;  // 0: nobody has come
  int arrived = 0;
  std::vector<int> waiters;
};

struct TmaCopy {
  unsigned char* to;
  CUtensorMap map;
  int corner[5];
  int rank;
  uint32_t bytes;
};

struct Mbarrier {
  uint32_t address = 0;
  uint32_t count = 0, pending = 0;
  int64_t bytes_missing = 0;    // expected and not yet copied
  int64_t bytes_unclaimed = 0;  // expected, no copy issued for them yet
  uint32_t phase = 0;
  std::vector<TmaCopy> copies;
  std::vector<int> waiters;
};

struct Block {
  uint64_t number = 0;
  int threads = 0;
  int live = 0;
  uint32_t shared_bytes = 0;
  std::vector<Thread> all;
  Warp warps[kMaxThreads / 32];
  std::vector<int> ready;  // ring of thread ids
  size_t ready_head = 0, ready_count = 0;
  Fiber host;
  bool failed = false;
  std::string failure;
  const std::function<void()>* body = nullptr;
  // barrier 0
  int barrier_arrived = 0, barrier_true = 0, barrier_result = 0;
  NamedBarrier named[16];
  std::deque<Mbarrier> mbarriers;   // addresses stay
  unsigned char* shared = nullptr;  // kMaxShared bytes and guards on both sides
};

// Compute capability of the emulated device.
int Capability();

extern Block block;
extern Thread* self;
inline bool InKernel() { return self != nullptr; }

inline Warp& WarpOf(const Thread& t) { return block.warps[t.id / 32]; }

void MakeReady(int id);
// Gives way until MakeReady is called for this thread; what for goes into the report of deadlocks.
void Wait(WaitKind kind, uint64_t object, const char* operation);
// Runs one block; false if it failed (block.failure says why).
bool RunBlock(const dim3& at, uint64_t number);
// Called when a thread has exited: others may have waited for it alone.
void RecheckWarp(Warp& warp);
void RecheckBarrier();
// At the end of a block: nothing may be left under way.
void CheckWgmmaDone(const Thread& t);
void CheckMbarriersDone();

}  // namespace longdoc::kernels::cuda::emulation

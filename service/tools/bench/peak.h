// What the machine can do at best, measured: multiply-adds in registers, no memory.
#pragma once

#include <cstdint>

namespace longdoc::tools {

struct PeakRates {
  double f32 = 0;   // FLOP/s over all threads, with the widest fp32 fused multiply-add
  double bf16 = 0;  // FLOP/s of bf16 dot products; 0 where the CPU has none
};

// Runs for about half a second on `num_threads` threads.
PeakRates MeasurePeak(int num_threads);

// Bytes per second that `num_threads` threads read from memory together: each sums its own piece of
// a buffer far larger than the caches; the best of some rounds, 0 without memory for it.
double MeasureReadBandwidth(int num_threads);

// Register loops, one per instruction set; each returns the FLOP it did. Only for CPUs that have
// the instructions. `sink` receives a value that depends on all of them.
int64_t FmaLoopPortable(int64_t iterations, float* sink);
int64_t FmaLoopAvx2(int64_t iterations, float* sink);
int64_t FmaLoopAvx512(int64_t iterations, float* sink);
int64_t Bf16LoopAvx512(int64_t iterations, float* sink);

}  // namespace longdoc::tools

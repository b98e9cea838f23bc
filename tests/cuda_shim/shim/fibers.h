// The threads of a block as fibers of one CPU thread, and the places where they meet.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <source_location>

#include "types.h"

// Callable from Python. Seed 0 runs threads and blocks in ascending order; any other shuffles both.
// The environment variable SEGLOSS_SHIM_SEED gives the first seed.
extern "C" void segloss_shim_set_seed(unsigned seed);
extern "C" void segloss_shim_set_multiprocessors(int count);
extern "C" long segloss_shim_launches();                   // so far
extern "C" void segloss_shim_set_shared_bytes(int bytes);  // that a block may opt in to

namespace segloss_shim {

constexpr int kWarpSize = 32;
constexpr unsigned kMaxThreads = 1024;

using Place = std::source_location;  // where a kernel called an intrinsic, for messages
using LaneValues = std::array<uint64_t, kWarpSize>;

struct Indices {
  uint3 thread{}, block{};
  dim3 block_dim, grid_dim;
};
extern Indices indices;  // of the thread that runs

// Prints what the kernel did wrong, block and thread, and aborts.
[[noreturn]] void fail(const char* what, Place place);

// Runs `thread` once for every thread of the grid, block after block.
void run_grid(dim3 grid, dim3 block, size_t shared_bytes, const std::function<void()>& thread);

// The dynamic shared memory of this block: exactly as large as at the launch, filled with NaN.
unsigned char* dynamic_shared(Place place = Place::current());

// Waits for all threads of the block at the same barrier; returns for how many `predicate` held.
int meet_block(const char* name, bool predicate, Place place);

// Waits for all lanes of `mask`; returns what each of them brought. Valid until the next meeting.
const LaneValues& meet_warp(const char* name, unsigned mask, uint64_t value, Place place);

// The rank of the running thread in its block, and in its warp.
unsigned thread_rank();
inline int lane() { return static_cast<int>(thread_rank() % kWarpSize); }

int multiprocessors();
size_t shared_opt_in();

}  // namespace segloss_shim

extern const int warpSize;  // not a constant expression, as in CUDA
inline const uint3& threadIdx = segloss_shim::indices.thread;
inline const uint3& blockIdx = segloss_shim::indices.block;
inline const dim3& blockDim = segloss_shim::indices.block_dim;
inline const dim3& gridDim = segloss_shim::indices.grid_dim;

inline void __syncthreads(segloss_shim::Place place = segloss_shim::Place::current()) {
  segloss_shim::meet_block("__syncthreads", true, place);
}

inline int __syncthreads_count(int predicate,
                               segloss_shim::Place place = segloss_shim::Place::current()) {
  return segloss_shim::meet_block("__syncthreads_count", predicate != 0, place);
}

inline int __syncthreads_and(int predicate,
                             segloss_shim::Place place = segloss_shim::Place::current()) {
  return segloss_shim::meet_block("__syncthreads_and", predicate == 0, place) == 0;
}

inline int __syncthreads_or(int predicate,
                            segloss_shim::Place place = segloss_shim::Place::current()) {
  return segloss_shim::meet_block("__syncthreads_or", predicate != 0, place) != 0;
}

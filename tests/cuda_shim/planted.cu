// Kernels with errors, each of which the CPU's run has to report.
#include "selftest.h"

namespace {

constexpr unsigned kAll = 0xffffffffu;
__device__ int* kept;

__global__ void overrun_shared_kernel(int* x) {
  int* shared = dynamic_shared<int>();
  shared[threadIdx.x] = 1;
  __syncthreads();
  x[threadIdx.x] = shared[threadIdx.x + 1];
}
void overrun_shared() { launch(1, 64, 64 * sizeof(int), overrun_shared_kernel, zeros<int>(64)); }

__global__ void overrun_global_kernel(int* x) { x[blockIdx.x * blockDim.x + threadIdx.x] = 1; }
void overrun_global() { launch(2, 64, 0, overrun_global_kernel, zeros<int>(127)); }

__global__ void overrun_stack_kernel(int* x) {
  int values[8] = {x[0]};
  int* volatile hidden = values;  // or UBSan sees it first
  __syncthreads();
  hidden[threadIdx.x] = 1;
  x[threadIdx.x] = values[x[0]];
}
void overrun_stack() { launch(1, 9, 0, overrun_stack_kernel, zeros<int>(9)); }

struct Huge {
  int values[100000];
};
__global__ void huge_stack_kernel(int* x) {
  Huge huge;
  for (int i = 0; i < 100000; ++i) huge.values[i] = i + x[0];
  x[0] = huge.values[x[0]];
}
void huge_stack() { launch(1, 1, 0, huge_stack_kernel, zeros<int>(1)); }

__global__ void keep_shared_kernel(int* x) {
  if (kept == nullptr) {
    kept = dynamic_shared<int>();
  } else {
    *x = *kept;  // of the block before
  }
}
void keep_shared() { launch(2, 1, 4, keep_shared_kernel, zeros<int>(1)); }

__global__ void uninitialised_kernel(float* x) { *x = *dynamic_shared<float>() * 0; }
void uninitialised() {
  float* x = zeros<float>(1);
  launch(1, 1, 4, uninitialised_kernel, x);
  check(*x == 0, "zero");
}

__global__ void no_shared_kernel(float* x) { *x = *dynamic_shared<float>(); }
void no_shared() { launch(1, 1, 0, no_shared_kernel, zeros<float>(1)); }

// Right only if the threads happen to run in ascending order.
__global__ void missing_barrier_kernel(int* x) {
  int* shared = dynamic_shared<int>();
  shared[threadIdx.x] = 1;
  x[threadIdx.x] = shared[threadIdx.x / 2];
}
void missing_barrier() {
  int* x = zeros<int>(64);
  launch(1, 64, 64 * sizeof(int), missing_barrier_kernel, x);
  for (int i = 0; i < 64; ++i) check(x[i] == 1, "value");
}

// Right only if the blocks happen to run in ascending order.
__global__ void order_of_blocks_kernel(int* x) {
  x[blockIdx.x] = blockIdx.x == 0 ? 1 : x[blockIdx.x - 1];
}
void order_of_blocks() {
  int* x = zeros<int>(8);
  launch(8, 1, 0, order_of_blocks_kernel, x);
  for (int i = 0; i < 8; ++i) check(x[i] == 1, "value");
}

__global__ void exited_kernel() {
  if (threadIdx.y >= 2) return;
  __syncthreads();
}
void exited() { launch(dim3(1, 1), dim3(16, 4), 0, exited_kernel); }

__global__ void divergent_kernel() {
  if (threadIdx.x < 32) {
    __syncthreads();
  } else {
    __syncthreads();
  }
}
void divergent() { launch(1, 64, 0, divergent_kernel); }

__global__ void different_kernel() {
  if (threadIdx.x == 0) {
    __syncthreads();
  } else {
    __syncthreads_or(1);
  }
}
void different() { launch(1, 64, 0, different_kernel); }

__global__ void missing_lane_kernel(int* x) {
  if (threadIdx.x != 5) x[threadIdx.x] = __shfl_down_sync(kAll, int(threadIdx.x), 1);
}
void missing_lane() { launch(1, 32, 0, missing_lane_kernel, zeros<int>(32)); }

__global__ void short_warp_kernel() { __syncwarp(); }
void short_warp() { launch(1, 48, 0, short_warp_kernel); }

__global__ void left_out_kernel(int* x) { x[threadIdx.x] = __any_sync(0xffffu, 1); }
void left_out() { launch(1, 32, 0, left_out_kernel, zeros<int>(32)); }

__global__ void foreign_lane_kernel(int* x) {
  if (threadIdx.x < 16) x[threadIdx.x] = __shfl_sync(0xffffu, int(threadIdx.x), 20);
}
void foreign_lane() { launch(1, 32, 0, foreign_lane_kernel, zeros<int>(32)); }

__global__ void misaligned_kernel(float* x) {
  float4 values = *reinterpret_cast<const float4*>(x + 1);
  x[0] = values.w;
}
void misaligned() { launch(1, 1, 0, misaligned_kernel, zeros<float>(8)); }

}  // namespace

int main(int argc, char** argv) {
  const Case cases[] = {{"overrun_shared", overrun_shared},
                        {"overrun_global", overrun_global},
                        {"overrun_stack", overrun_stack},
                        {"huge_stack", huge_stack},
                        {"keep_shared", keep_shared},
                        {"uninitialised", uninitialised},
                        {"no_shared", no_shared},
                        {"missing_barrier", missing_barrier},
                        {"order_of_blocks", order_of_blocks},
                        {"exited", exited},
                        {"divergent", divergent},
                        {"different", different},
                        {"missing_lane", missing_lane},
                        {"short_warp", short_warp},
                        {"left_out", left_out},
                        {"foreign_lane", foreign_lane},
                        {"misaligned", misaligned}};
  return run_case(cases, argc, argv);
}

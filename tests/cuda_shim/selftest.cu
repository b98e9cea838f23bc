// Kernels with known results, which must be the same on the CPU and on a GPU.
#include "selftest.h"

namespace {

constexpr unsigned kAll = 0xffffffffu;

__device__ double block_sum(double value) {
  __shared__ double of_warp[32];
  for (int step = 16; step > 0; step /= 2) value += __shfl_down_sync(kAll, value, step);
  if (threadIdx.x % 32 == 0) of_warp[threadIdx.x / 32] = value;
  __syncthreads();
  double sum = 0;
  for (unsigned i = 0; i < blockDim.x / 32; ++i) sum += of_warp[i];
  __syncthreads();
  return sum;
}

// The last block to finish adds up what all have left.
__global__ void sum_kernel(const float* __restrict__ x, int n, double* partial, unsigned* ticket,
                           double* result) {
  double mine = 0;
  for (int i = blockIdx.x * blockDim.x + threadIdx.x; i < n; i += gridDim.x * blockDim.x) {
    mine += __ldg(&x[i]);
  }
  const double sum = block_sum(mine);
  __shared__ bool last;
  if (threadIdx.x == 0) {
    partial[blockIdx.x] = sum;
    __threadfence();
    last = atomicInc(ticket, gridDim.x - 1) == gridDim.x - 1;
  }
  __syncthreads();
  if (!last) return;
  const double total = block_sum(threadIdx.x < gridDim.x ? partial[threadIdx.x] : 0);
  if (threadIdx.x == 0) *result = total;
}

void reduction() {
  const int n = 10007;
  float* x = zeros<float>(n);
  double expected = 0;
  for (int i = 0; i < n; ++i) expected += x[i] = static_cast<float>(i % 89) * 0.25f;
  double* partial = zeros<double>(5);
  double* result = zeros<double>(1);
  unsigned* ticket = zeros<unsigned>(1);
  launch(5, 128, 0, sum_kernel, x, n, partial, ticket, result);
  check(*result == expected && *ticket == 0, "sum over blocks");
}

__global__ void __launch_bounds__(256) scan_kernel(int* x) {
  int* shared = dynamic_shared<int>();
  shared[threadIdx.x] = x[threadIdx.x];
  for (unsigned step = 1; step < blockDim.x; step *= 2) {
    __syncthreads();
    const int before = threadIdx.x >= step ? shared[threadIdx.x - step] : 0;
    __syncthreads();
    shared[threadIdx.x] += before;
  }
  x[threadIdx.x] = shared[threadIdx.x];
}

void scan() {
  int* x = zeros<int>(256);
  for (int i = 0; i < 256; ++i) x[i] = i;
  launch(1, 256, 256 * sizeof(int), scan_kernel, x);
  for (int i = 0; i < 256; ++i) check(x[i] == i * (i + 1) / 2, "prefix sum");
}

__global__ void votes_kernel(int* wrong) {
  const unsigned lane = threadIdx.x % warpSize, odd = lane % 2;
  const unsigned threes = __ballot_sync(kAll, lane % 3 == 0);
  bool right = threes == 0x49249249u && __popc(threes & ((1u << lane) - 1)) == int(lane + 2) / 3;
  right &= __any_sync(kAll, lane == 7) && !__any_sync(kAll, lane > 31);
  right &= __all_sync(kAll, lane < 32) && !__all_sync(kAll, lane != 7);
  right &= __match_any_sync(kAll, odd) == 0x55555555u << odd;
  right &= __reduce_add_sync(kAll, lane) == 496 && __reduce_max_sync(kAll, -int(lane)) == 0;
  right &= __reduce_min_sync(kAll, -int(lane)) == -31 && __reduce_or_sync(kAll, 1u << lane) == kAll;
  right &= __reduce_and_sync(kAll, ~(1u << lane)) == 0;
  // Half of the lanes at a time, each in a branch of its own.
  const unsigned half = 0x55555555u << odd;
  if (odd != 0) {
    right &= __ballot_sync(half, lane < 4) == 10;
  } else {
    for (int i = 0; i < 3; ++i) right &= __ballot_sync(half, lane < 4) == 5;
  }
  __syncwarp();
  right &= __shfl_sync(__activemask(), lane, lane) == lane;
  if (!right) atomicAdd(wrong, 1);
}

void votes() {
  int* wrong = zeros<int>(1);
  launch(2, 96, 0, votes_kernel, wrong);
  check(*wrong == 0, "votes of warps");
}

__global__ void shuffles_kernel(int* wrong) {
  const int lane = threadIdx.x % 32, first = lane / 8 * 8;
  const double value = lane + 0.5;
  bool right = __shfl_sync(kAll, value, 35) == 3.5;
  right &= __shfl_sync(kAll, value, 9, 8) == first + 1.5;
  right &= __shfl_up_sync(kAll, value, 2) == (lane < 2 ? value : value - 2);
  right &= __shfl_up_sync(kAll, value, 3, 8) == (lane - 3 < first ? value : value - 3);
  right &= __shfl_down_sync(kAll, value, 3, 8) == (lane + 3 > first + 7 ? value : value + 3);
  right &= __shfl_down_sync(kAll, (long long)lane << 40, 1) == (long long)min(lane + 1, 31) << 40;
  right &= __shfl_xor_sync(kAll, unsigned(lane), 5) == unsigned(lane ^ 5);
  // Groups before the own one may be read, those behind it not.
  right &= __shfl_xor_sync(kAll, lane, 8, 8) == ((lane & 8) != 0 ? lane ^ 8 : lane);
  right &= __shfl_sync(0xffu << first, float(lane), first + 2) == float(first + 2);
  if (!right) atomicAdd(wrong, 1);
}

void shuffles() {
  int* wrong = zeros<int>(1);
  launch(1, 64, 0, shuffles_kernel, wrong);
  check(*wrong == 0, "shuffles");
}

struct Counters {
  int add, least, greatest, sub;
  unsigned any, every, flip, owner, spin;
  unsigned long long wide, greatest_wide;
  float f;
  double d;
};

__global__ void atomics_kernel(Counters* c) {
  const int i = blockIdx.x * blockDim.x + threadIdx.x;
  atomicAdd(&c->add, i);
  atomicSub(&c->sub, 1);
  atomicMin(&c->least, -i);
  atomicMax(&c->greatest, i);
  atomicOr(&c->any, 1u << (i % 32));
  atomicAnd(&c->every, ~(1u << (i % 8)));
  atomicXor(&c->flip, i);
  atomicAdd(&c->wide, 1ull << 33);
  atomicMax(&c->greatest_wide, static_cast<unsigned long long>(i) << 32);
  atomicAdd(&c->f, 0.5f);
  atomicAdd(&c->d, 0.25);
  if (i == 70) atomicExch(&c->owner, 70u);
  unsigned seen = c->spin, expected;
  do {
    expected = seen;
    seen = atomicCAS(&c->spin, expected, expected + 2);
  } while (seen != expected);
}

void atomics() {
  Counters* c = zeros<Counters>(1);
  c->every = kAll;
  launch(3, 64, 0, atomics_kernel, c);
  check(c->add == 191 * 96 && c->sub == -192, "atomicAdd, atomicSub");
  check(c->least == -191 && c->greatest == 191, "atomicMin, atomicMax");
  check(c->any == kAll && c->every == ~0xffu && c->flip == 0, "atomicOr, atomicAnd, atomicXor");
  check(c->wide == 192ull << 33 && c->greatest_wide == 191ull << 32, "64-bit atomics");
  check(c->f == 96 && c->d == 48 && c->owner == 70 && c->spin == 384, "atomicExch, atomicCAS");
}

__global__ void indices_kernel(int* visits) {
  const unsigned x = blockIdx.x * blockDim.x + threadIdx.x;
  const unsigned y = blockIdx.y * blockDim.y + threadIdx.y;
  const unsigned z = blockIdx.z * blockDim.z + threadIdx.z;
  ++visits[(z * gridDim.y * blockDim.y + y) * gridDim.x * blockDim.x + x];
}

void indices() {
  const int n = 5 * 3 * 2 * 8 * 4 * 2;
  int* visits = zeros<int>(n);
  launch(dim3(5, 3, 2), dim3(8, 4, 2), 0, indices_kernel, visits);
  for (int i = 0; i < n; ++i) check(visits[i] == 1, "every index once");
}

__global__ void barriers_kernel(int* wrong) {
  bool right = __syncthreads_count(threadIdx.x % 4 == 0) == int(blockDim.x) / 4;
  right &= __syncthreads_and(threadIdx.x < 100) != 0 && !__syncthreads_and(threadIdx.x < 99);
  right &= __syncthreads_or(threadIdx.x == 50) != 0 && !__syncthreads_or(threadIdx.x == 100);
  if (!right) atomicAdd(wrong, 1);
}

void barriers() {
  int* wrong = zeros<int>(1);
  launch(2, 100, 0, barriers_kernel, wrong);  // the last warp is not full
  check(*wrong == 0, "barriers with predicates");
}

struct Large {
  int values[8000];
};

__global__ void parameters_kernel(Large large, int* sum) {
  large.values[threadIdx.x] += 1;  // of this thread alone
  __syncthreads();
  atomicAdd(sum, large.values[0] + large.values[7999]);
}

void parameters() {
  static Large large;
  large.values[7999] = 10;
  int* sum = zeros<int>(1);
  launch(1, 32, 0, parameters_kernel, large, sum);
  check(*sum == 32 * 10 + 1 && large.values[0] == 0, "parameters by value");
}

void limits() {
  int* x = zeros<int>(1024);
  const size_t large = 227 * 1024;
  check(try_launch(1, 256, 48 * 1024 + 1, scan_kernel, x) == cudaErrorInvalidValue, "48 KiB");
  check(cudaGetLastError() == cudaErrorInvalidValue, "the last error");
  check(cudaGetLastError() == cudaSuccess, "no error twice");
  const auto attribute = cudaFuncAttributeMaxDynamicSharedMemorySize;
  check(cudaFuncSetAttribute(scan_kernel, attribute, int(large) + 1) == cudaErrorInvalidValue,
        "227 KiB");
  check(cudaFuncSetAttribute(scan_kernel, attribute, int(large)));
  launch(1, 256, large, scan_kernel, x);
  check(try_launch(1, 1025, 0, indices_kernel, x) == cudaErrorInvalidConfiguration, "threads");
  check(try_launch(0, 32, 0, indices_kernel, x) == cudaErrorInvalidConfiguration, "no blocks");
  check(try_launch(dim3(1, 65536), 1, 0, indices_kernel, x) == cudaErrorInvalidConfiguration,
        "blocks in y");
}

}  // namespace

int main(int argc, char** argv) {
  const Case cases[] = {{"reduction", reduction}, {"scan", scan},
                        {"votes", votes},         {"shuffles", shuffles},
                        {"atomics", atomics},     {"indices", indices},
                        {"barriers", barriers},   {"parameters", parameters},
                        {"limits", limits}};
  return run_case(cases, argc, argv);
}

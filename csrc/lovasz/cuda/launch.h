// The host's way to the kernels.
#pragma once

#include <cuda_runtime.h>
#include <torch/headeronly/util/Exception.h>

#include <type_traits>

#include "cuda.cuh"
#include "lovasz/cuda/problem.h"
#include "lovasz/cuda/sort.h"
#include "voxels/cuda/math.cuh"

namespace segloss::lovasz::cuda {

constexpr int kFewClasses = 4;        // whose logits take few registers
constexpr int kRegisterClasses = 14;  // and that a thread can keep

// Whether kernels keep all logits of a voxel in registers.
inline bool keeps_logits(const Problem& problem) {
  return problem.activation == Activation::kSoftmax && !problem.dense_target &&
         problem.channels <= kRegisterClasses && problem.input.dtype != Dtype::kFloat64;
}

// Whether those that count do: of more classes a block has some only, and would find the softmax of
// all again.
inline bool counts_logits(const Problem& problem) {
  return keeps_logits(problem) && problem.channels <= kFewClasses;
}

constexpr int kMostColumns = 256;   // threads of a block that each have one voxel, see tile.cuh
constexpr int kFewestColumns = 32;  // a warp

void launch_statistics(const StatisticsLaunch& launch, int columns, cudaStream_t stream);

// A block of shared memory for so many classes.
size_t count_shared_bytes(int classes, bool counters, int bins);
LaunchShape count_shape(const CountLaunch& launch, cudaStream_t stream);
void launch_count(const CountLaunch& launch, cudaStream_t stream);
void launch_keys(const CountLaunch& launch, cudaStream_t stream);

// Moves counts from the packed counters, which are then 0, to the operator's, or adds them.
struct Unpacking {
  unsigned long long* packed;
  int64_t* counts;  // [2][counter]
  int64_t counters;
  bool adds;
};
void launch_unpack(const Unpacking& unpacking, cudaStream_t stream);

// Adds the blocks' parts of the sums of an image and class, in order.
struct Finishing {
  Partial partial;
  int64_t slabs;
  int64_t chunks;  // of an image, in a slab
  int64_t images;
  int channels;
  double* flagged;        // [image][class]
  double* cross_entropy;  // [image][class]
  double* invalid;        // [2]
};
void launch_finish(const Finishing& finishing, cudaStream_t stream);

constexpr int kScanPieces = 8;  // of the bins of an image and class

// The scan over the bins of each image and class.
struct ScanLaunch {
  Bins bins;
  int64_t rows;           // images times classes
  const int64_t* counts;  // [2][row][2][bin]
  const double* flagged;  // [row]
  double* loss;           // [row]
  double* parts;          // [row][piece], written
  void* table;            // [row][2][bin]
};

void launch_scan(const ScanLaunch& launch, bool double_table, cudaStream_t stream);

// `columns`: of the kernel for softmaxes of many classes, else 0.
void launch_backward(const BackwardLaunch& launch, int columns, cudaStream_t stream);

#ifdef SEGLOSS_FEW_VARIANTS  // of some tests
constexpr bool kFewVariants = true;
#else
constexpr bool kFewVariants = false;
#endif

// Calls f(Type<Storage>()) for the dtype of the kernels that take longest to compile; of few
// variants none for bfloat16, which is read and written as float16 is.
template <class F>
void visit_long_kernels(Dtype dtype, F f) {
  visit_input_dtype(dtype, [&](auto type) {
    using Storage = typename decltype(type)::type;
    if constexpr (!kFewVariants || !std::is_same_v<Storage, __nv_bfloat16>) {
      f(type);
    } else {
      STD_TORCH_CHECK(false, "lovasz: this build has no kernels of bfloat16");
    }
  });
}

}  // namespace segloss::lovasz::cuda

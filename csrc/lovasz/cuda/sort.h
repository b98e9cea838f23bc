// The exact method: voxels sorted by their errors, all images and classes at once.
#pragma once

#include <cuda_runtime.h>
#include <torch/csrc/stable/tensor.h>

#include <cstdint>

namespace segloss::lovasz::cuda {

// Sorts `count` keys, ascending and stable, by their bits below `bits`, with values. Each comes and
// goes in one of two pieces of memory; returns in which the result lies. `like` is a tensor on the
// device. The host does not wait.
int sort_pairs(const torch::stable::Tensor& like, unsigned long long* const (&keys)[2],
               uint32_t* const (&values)[2], int64_t count, int bits, cudaStream_t stream);

// In place: how many are set before each place.
void scan_sum(const torch::stable::Tensor& like, uint32_t* flags, int64_t count,
              cudaStream_t stream);

// In place: the largest up to each place.
void scan_max(const torch::stable::Tensor& like, uint32_t* places, int64_t count,
              cudaStream_t stream);

// The sorted voxels of all images and classes.
struct Sorted {
  const unsigned long long* keys;  // as count.cuh makes them
  const uint32_t* values;
  int64_t voxels;  // of an image and class
  int64_t rows;    // images times classes
  int channels;
  bool hinge;
  int64_t items;  // of an image
  uint32_t item_voxels;
  uint32_t* before;       // foreground voxels before each place
  uint32_t* heads;        // where its group begins
  uint32_t* ends;         // and ends, at its head
  const double* flagged;  // [row]
  double* partial;        // [row][block]
  int64_t blocks;         // of a row
  double* loss;           // [row]
  double* foreground;     // [row]
  void* slopes;           // [B, C, *S], or null
};

void launch_marks(const Sorted& sorted, cudaStream_t stream);
void launch_ends(const Sorted& sorted, cudaStream_t stream);
void launch_slopes(const Sorted& sorted, bool is_double, cudaStream_t stream);

}  // namespace segloss::lovasz::cuda

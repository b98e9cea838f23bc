// What the CUDA kernels compute. It travels by value, as a kernel's parameter.
//
// An image is what losses are computed of: one item of the batch, or all of them. Its voxels come
// in tiles, each within one item, that a block takes at once.
#pragma once

#include <cuda_runtime.h>

#include <cmath>
#include <cstdint>

#include "lovasz/kernels.h"
#include "voxels/cuda/quads.cuh"

namespace segloss::lovasz::cuda {

constexpr int kThreads = 512;  // of a block
constexpr int kWarps = kThreads / 32;
constexpr int kVoxels = kQuad;  // of a thread, in a tile
constexpr int kTile = kThreads * kVoxels;

struct Problem {
  View input;
  View target;
  View grad;  // backward
  Activation activation;
  bool dense_target;  // of several classes
  bool values;        // of one class, read as labels: see LabelRule
  bool has_ignore;
  bool cross_entropy;
  int64_t ignore_index;
  int channels;
  int64_t voxels;  // of an item
  int64_t items;   // of an image
  int64_t images;
  int64_t item_tiles;

  int64_t image_tiles() const { return items * item_tiles; }
};

// The bins of segloss_fast/ops/lovasz/bins.py: distances from the point that errors crowd at, in
// runs of bins of equal width up to tau, and in proportion to the distance above.
struct Bins {
  int count;
  int run;      // of one side of a point of probabilities; of the hinge, of errors below 1
  int fine;     // of the hinge: from so many bins above 1 on they are four times as wide
  int bits;     // 2^bits bins up to tau, and in each octave above
  int log_tau;  // to base 2
  float tau;
  float scale;  // from a distance below tau to its code
  uint32_t tau_bits;
  int right, left;  // shift a float's bits to codes
  bool two_sided;   // probabilities

  Bins() = default;
  Bins(Activation activation, int octaves, int bits_) : bits(bits_) {
    two_sided = activation != Activation::kHinge;
    count = 4 * octaves << bits_;
    bits += two_sided ? 0 : 1;
    run = (two_sided ? octaves : octaves - 4) << bits;
    fine = two_sided ? 0 : (octaves + 1) << bits;
    log_tau = two_sided ? -1 - octaves : 5 - octaves;
    tau = std::ldexp(1.f, log_tau);
    scale = std::ldexp(1.f, bits + 16 - log_tau);
    tau_bits = uint32_t(127 + log_tau) << 23;
    right = bits < 7 ? 7 - bits : 0;
    left = bits > 7 ? bits - 7 : 0;
  }
};

// What blocks leave behind about their chunks, [chunk][class] and [chunk].
struct Partial {
  double* cross_entropy;
  double* flagged;   // voxels whose error has no bin
  double2* invalid;  // the number of invalid labels and the first
};

// Counts by bin, or writes the keys to be sorted, of a part of each image: tiles [slab_begin,
// slab_end) of it.
struct CountLaunch {
  Problem problem;
  Bins bins;
  int groups;  // of classes; a block counts one of them
  int64_t slab_begin;
  int64_t slab_end;
  int64_t chunk_tiles;
  int64_t chunks;              // of an image in the slab
  int64_t first_chunk;         // of the slab, among all
  const void* statistics;      // of the slab's softmax, null where a block finds them itself
  bool shared;                 // whether the counters lie in shared memory
  unsigned long long* packed;  // [image][class][2][bin], see counters.cuh
  unsigned long long* keys;    // [image][class][voxel]
  uint32_t* values;
  Partial partial;
};

// The statistics of each voxel's softmax, tile by tile of the slab.
struct StatisticsLaunch {
  Problem problem;
  int64_t slab_begin;
  int64_t slab_end;
  void* statistics;
};

// Of the derivatives by the errors, those of the loss, of a table [image][class][2][bin] or for
// each voxel, times what comes in for that.
struct BackwardLaunch {
  Problem problem;
  Bins bins;
  const void* table;
  const void* slopes;       // where there is no table
  const double* grad_loss;  // [image][class]
  const double* grad_ce;    // [image][class], or null
};

}  // namespace segloss::lovasz::cuda

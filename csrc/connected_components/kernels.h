// What the connected_components kernels compute on, free of torch: one instance of the kernels is
// compiled per instruction set.
//
// A run is a piece of a row in which all voxels belong together. Runs are numbered along a mask, in
// raster order, and united by the smaller number, so that the root of a component is the run that
// holds its first voxel.
#pragma once

#include <cstddef>
#include <cstdint>

#include "instruction_sets.h"

namespace segloss::connected_components {

// Rows of one mask that are worked on together; how they are cut depends on the shape alone.
struct Slab {
  int64_t first;  // run of the mask
  int64_t runs;
  int64_t roots;  // runs that no earlier run of the slab belongs to
  bool wide;      // holds a value that int32 does not
};

struct Problem {
  const void* data;
  int64_t element_size;  // bytes: 1, 2, 4 or 8
  bool is_signed;
  bool floating;    // the sign bit does not count: -0 is background
  uint64_t ignore;  // bits of the label that is background, 0 without one
  bool by_value;
  int64_t channels;  // masks of an item
  int64_t masks;
  int64_t batch_stride;  // this and the others in elements
  int64_t channel_stride;
  int64_t size[3];  // slices, rows of a slice, voxels of a row
  int64_t stride[3];
  int64_t raster[3];     // what a step along an axis adds to the place in the raster order
  bool in_raster_order;  // slices, rows and voxels are
  int differing;         // along so many axes may the places of neighbours differ, 1 to 3
  int64_t words;         // of a row, 64 voxels each
  int64_t slabs;         // of a mask
  int64_t slab_rows;
  uint64_t* bits;       // [masks, rows, words]: what is no background
  uint64_t* starts;     // likewise, by value only: where a run begins
  int32_t* first;       // [masks, rows]: the first run of the row
  Slab* slab;           // [masks, slabs]
  int64_t* mask_first;  // [masks]: where the mask's runs lie in the three arrays below
  int32_t* parent;      // of each run; once numbered ~number, of those that were a slab's roots
  int32_t* roots;       // the roots of each slab, from the place of its first run on
  int32_t* place;       // of each root's first voxel; null in raster order
  int32_t* labels;      // [masks, voxels]
  int32_t* count;       // [masks]
  int32_t* value;       // [masks, most], by value only
  int64_t most;         // components of a mask

  int64_t rows() const { return size[0] * size[1]; }
};

struct Kernels {
  // Bytes of scratch memory, 64-byte aligned, that the calls below need.
  size_t (*find_scratch)(const Problem& problem);
  size_t (*unite_scratch)(const Problem& problem);
  size_t (*write_scratch)(const Problem& problem);
  // Finds a slab's runs: bits, starts, first from the slab's begin on, and their number.
  void (*find)(const Problem& problem, int64_t mask, int64_t slab, void* scratch);
  // Unites them, once all slabs' first runs are known.
  void (*unite)(const Problem& problem, int64_t mask, int64_t slab, void* scratch);
  // Unites runs of different slabs.
  void (*join)(const Problem& problem, int64_t mask, void* scratch);
  // Writes labels, once the roots are numbered, and by value those of the roots.
  void (*write)(const Problem& problem, int64_t mask, int64_t slab, void* scratch);
};

SEGLOSS_DECLARE_KERNELS(Kernels)

// Numbers a mask's components in raster order, and counts them.
void number_components(const Problem& problem, int64_t mask);

}  // namespace segloss::connected_components

// Numbers the components, in the raster order of their first voxels.
#include <algorithm>
#include <vector>

#include "connected_components/kernels.h"

namespace segloss::connected_components {
namespace {

// The roots of a mask's slabs, in the order of their runs.
template <class F>
void for_each_root(const Problem& problem, int64_t mask, const F& f) {
  const Slab* const slabs = problem.slab + mask * problem.slabs;
  const int32_t* const roots = problem.roots + problem.mask_first[mask];
  for (int64_t s = 0; s < problem.slabs; ++s) {
    for (int64_t i = 0; i < slabs[s].roots; ++i) f(roots[slabs[s].first + i]);
  }
}

// Where memory has another order: components are sorted by where their first voxels come.
int32_t number_by_place(const Problem& problem, int64_t mask) {
  int32_t* const parent = problem.parent + problem.mask_first[mask];
  int32_t* const place = problem.place + problem.mask_first[mask];
  std::vector<int32_t> tops;
  for_each_root(problem, mask, [&](int32_t root) {
    if (parent[root] == root) {
      tops.push_back(root);
    } else {
      const int32_t top = parent[parent[root]];
      parent[root] = top;
      place[top] = std::min(place[top], place[root]);
    }
  });
  std::sort(tops.begin(), tops.end(), [&](int32_t a, int32_t b) { return place[a] < place[b]; });
  for (size_t i = 0; i < tops.size(); ++i) place[tops[i]] = int32_t(i) + 1;
  for_each_root(problem, mask, [&](int32_t root) { parent[root] = ~place[parent[root]]; });
  return int32_t(tops.size());
}

// Parents come before their children, and first voxels in the order of the runs.
int32_t number_in_order(const Problem& problem, int64_t mask) {
  int32_t* const parent = problem.parent + problem.mask_first[mask];
  int32_t count = 0;
  for_each_root(problem, mask, [&](int32_t root) {
    const int32_t above = parent[root];
    parent[root] = above == root ? ~++count : parent[above];
  });
  return count;
}

}  // namespace

void number_components(const Problem& problem, int64_t mask) {
  problem.count[mask] =
      problem.in_raster_order ? number_in_order(problem, mask) : number_by_place(problem, mask);
}

}  // namespace segloss::connected_components

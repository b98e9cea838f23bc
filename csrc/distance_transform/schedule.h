// Spreads rows, planes and groups of lines over torch's threads. How they are cut depends on the
// shape alone, and so do the results.
#pragma once

#include <algorithm>
#include <cstdint>

#include "distance_transform/kernels.h"
#include "parallel.h"

namespace segloss::distance_transform {

constexpr int64_t kSerialVoxels = 8192;   // below which one thread does all
constexpr int64_t kPlaneBytes = 2 << 20;  // of output, that two passes may meet in the cache
constexpr int64_t kPlanes = 8;            // or they would not keep the threads busy
constexpr int64_t kRowTask = 16384;       // voxels of a task of the first pass

// The passes over a problem, one after another.
template <class P>
class Schedule {
 public:
  // Of so many voxels, which have so many bytes each between passes.
  Schedule(const P& problem, const Passes<P>& run, int64_t voxels, int64_t bytes)
      : problem_(problem), run_(run), voxels_(voxels), bytes_(bytes) {}

  void all() const {
    if (problem_.row_length == 0 || voxels_ == 0) return;
    for (int next = first(); next < problem_.passes; ++next) lines(next);
  }

  // Returns how many passes along other axes are done, once the rows are. The last rows come first,
  // where somebody hopes to learn from them that the others need not be looked at.
  int first(bool backwards = false) const {
    const int64_t n = problem_.row_length;
    const int64_t plane = problem_.passes > 0 ? n * problem_.pass[0].length : 0;
    if (problem_.passes == 2 && plane * bytes_ <= kPlaneBytes && voxels_ / plane >= kPlanes &&
        n >= kLanes) {
      planes(voxels_ / plane, backwards);
      return 1;
    }
    rows(backwards);
    return 0;
  }

  void lines(int index) const {
    const int64_t count = problem_.pass[index].lines;
    each((count + kGroupLines - 1) / kGroupLines, run_.lines_scratch(problem_, index),
         [&](int64_t task, void* scratch) {
           const int64_t begin = task * kGroupLines;
           run_.lines(problem_, index, begin, std::min(count, begin + kGroupLines), scratch);
         });
  }

 private:
  void rows(bool backwards) const {
    const int64_t count = voxels_ / problem_.row_length;
    const int64_t step = std::max<int64_t>(1, kRowTask / problem_.row_length);
    const int64_t tasks = (count + step - 1) / step;
    each(tasks, run_.rows_scratch(problem_), [&](int64_t task, void* scratch) {
      const int64_t begin = (backwards ? tasks - 1 - task : task) * step;
      run_.rows(problem_, begin, std::min(count, begin + step), scratch);
    });
  }

  // The first two passes, plane by plane.
  void planes(int64_t count, bool backwards) const {
    const int64_t n = problem_.row_length, height = problem_.pass[0].length;
    const size_t bytes = std::max(run_.rows_scratch(problem_), run_.lines_scratch(problem_, 0));
    each(count, bytes, [&](int64_t task, void* scratch) {
      const int64_t plane = backwards ? count - 1 - task : task;
      run_.rows(problem_, plane * height, (plane + 1) * height, scratch);
      run_.lines(problem_, 0, plane * n, (plane + 1) * n, scratch);
    });
  }

  template <class F>
  void each(int64_t tasks, size_t scratch_bytes, const F& f) const {
    const int64_t threads = voxels_ <= kSerialVoxels ? 1 : tasks;
    for_each_task(tasks, threads, scratch_bytes, [&] { return f; });
  }

  const P& problem_;
  const Passes<P>& run_;
  const int64_t voxels_, bytes_;
};

// The way plane by plane.
inline void run_planes(const Problem& problem, const PlaneWise& run) {
  const Sweep& sweep = problem.sweep;
  const bool serial = sweep.volumes * sweep.length * sweep.lanes <= kSerialVoxels;
  const auto each = [&](int64_t tasks, size_t scratch_bytes, const auto& f) {
    for_each_task(tasks, serial ? 1 : tasks, scratch_bytes, [&] { return f; });
  };
  if (sweep.copy != nullptr) {
    const int64_t step = std::max<int64_t>(1, kRowTask / problem.row_length);
    each((sweep.rows + step - 1) / step, 0, [&](int64_t task, void*) {
      run.copy(problem, task * step, std::min(sweep.rows, (task + 1) * step));
    });
  }
  each(sweep.tasks(), 0, [&](int64_t task, void*) { run.sweep(problem, task); });
  const int64_t rows = problem.unit_rows();
  each((sweep.rows + rows - 1) / rows, run.plane_scratch(problem),
       [&](int64_t unit, void* scratch) { run.plane(problem, unit, scratch); });
}

}  // namespace segloss::distance_transform

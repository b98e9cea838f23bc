// The CPU operator: it spreads blocks of voxels over torch's threads.
#include <torch/csrc/stable/library.h>

#include <algorithm>
#include <optional>

#include "parallel.h"
#include "region_masks/describe.h"
#include "region_masks/schemas.h"

namespace segloss::region_masks {
namespace {

const Kernels& kernels() { return SEGLOSS_CHOOSE_KERNELS(); }

constexpr int64_t kTask = 16384;  // voxels

Tensor masks(Tensor values, std::optional<Tensor> labels, int64_t classes, int64_t mode,
             std::optional<int64_t> ignore_index, int64_t first) {
  Problem problem = describe(values, labels, classes, mode, ignore_index, first);
  Tensor out = new_masks(values, problem);
  const int64_t per_item = (problem.voxels + kTask - 1) / kTask, tasks = per_item * problem.batch;
  const Kernels& run = kernels();
  for_each_task(tasks, threads_for(out.numel(), tasks), 0, [&] {
    return [&](int64_t task, void*) {
      const int64_t begin = task % per_item * kTask;
      run.run(problem, task / per_item, begin, std::min(begin + kTask, problem.voxels));
    };
  });
  return out;
}

}  // namespace
}  // namespace segloss::region_masks

STABLE_TORCH_LIBRARY_FRAGMENT(segloss_fast, m) {
  for (const char* schema : segloss::region_masks::kSchemas) m.def(schema);
}

STABLE_TORCH_LIBRARY_IMPL(segloss_fast, CPU, m) {
  m.impl("_region_masks", TORCH_BOX(&segloss::region_masks::masks));
}

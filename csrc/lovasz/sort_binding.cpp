// The CPU operators of the sort.
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <optional>
#include <tuple>
#include <vector>

#include "allocate.h"
#include "lovasz/chunks.h"
#include "lovasz/describe.h"
#include "lovasz/kernels.h"
#include "lovasz/schemas.h"
#include "lovasz/sort.h"

namespace segloss::lovasz {
namespace {

constexpr int64_t kMaxPlaces = (int64_t(1) << 32) - 1;  // that 32 bits count

// Sorts all groups: as many at a time as there are threads, what remains by all threads together.
template <class F>
void sort_all(const SortJob& job, int64_t groups, int64_t voxels, const F& sort) {
  const int64_t bytes = sort_bytes(job, voxels), threads = torch::stable::get_num_threads();
  constexpr int64_t kSmall = 32768;  // voxels that are not worth cutting
  const int64_t whole = voxels <= kSmall ? groups : groups / threads * threads;
  for_each_task(whole, groups * voxels <= kSmall ? 1 : threads, size_t(bytes), [&] {
    return [&, fresh = true](int64_t group, void* memory) mutable {
      if (fresh) advise_huge_pages(memory, bytes);
      fresh = false;
      sort(group, 1, memory);
    };
  });
  if (whole == groups) return;
  Tensor memory = allocate({bytes}, ScalarType::Byte);
  void* const data = memory.mutable_data_ptr();
  advise_huge_pages(data, bytes);
  for (int64_t group = whole; group < groups; ++group) sort(group, threads, data);
}

std::tuple<Tensor, Tensor, Tensor, Tensor> sort(Tensor input, Tensor target, int64_t activation,
                                                bool per_image, std::optional<int64_t> ignore_index,
                                                bool cross_entropy, bool wants_gradient) {
  const Problem problem =
      describe(input, target, {activation, ignore_index, cross_entropy}, {0, 0, 0});
  const bool wide = is_double(input);
  const SortJob job{wide, wants_gradient, problem.activation == Activation::kHinge,
                    largest_error(problem.activation, wide)};
  const int64_t images = images_of(problem, per_image), classes = problem.channels;
  const int64_t item = classes * problem.voxels;
  STD_TORCH_CHECK(wide || (per_image ? problem.voxels : problem.batch * item) <= kMaxPlaces,
                  "lovasz: method 'sort' takes inputs of less than 2^32 values, got ",
                  problem.batch * item, "; use method 'histogram'");

  // The keys of all classes come from one pass; g takes their place.
  std::vector<int64_t> shape;
  for (int64_t d = 0; d < input.dim(); ++d) shape.push_back(input.size(d));
  Tensor values = allocate(shape, wide ? ScalarType::Double : ScalarType::Float);
  auto* const data = static_cast<char*>(values.mutable_data_ptr());
  advise_huge_pages(data, values.numel() * values.element_size());
  const Kernels& run = kernels();
  const Chunks chunks = chunks_of(problem);
  Sums sums(problem, chunks);
  const Keys keys{data, job.top};
  chunks.for_each(run.scratch_bytes(problem, nullptr), [&] {
    return [&](int64_t i, void* scratch) {
      run.keys(problem, chunks[i], scratch, keys, sums.of(i), sums.invalid(i));
    };
  });

  Tensor loss = allocate({images, classes}, ScalarType::Double);
  Tensor rows = sums.rows(3, images);
  auto* const losses = static_cast<double*>(loss.mutable_data_ptr());
  auto* const flagged = static_cast<double*>(rows.mutable_data_ptr());
  const int64_t groups = images * classes, pieces = images == 1 ? problem.batch : 1;
  sort_all(job, groups, pieces * problem.voxels, [&](int64_t i, int64_t parts, void* memory) {
    const SortGroup group{data + i * problem.voxels * values.element_size(), pieces, item,
                          problem.voxels, flagged[i] != 0};
    const SortResult result = sort_group(job, group, parts, memory);
    losses[i] = result.loss;
    flagged[2 * groups + i] = result.foreground;
  });
  Tensor g = wants_gradient ? values : allocate({0}, values.scalar_type());
  return {loss, rows, sums.invalid(), g};
}

Tensor sort_backward(Tensor g, Tensor grad_loss, std::optional<Tensor> grad_ce, Tensor input,
                     Tensor target, int64_t activation, std::optional<int64_t> ignore_index) {
  const Problem problem = describe(input, target, {activation, ignore_index, false}, {1, 0, 2});
  g = torch::stable::contiguous(g);
  grad_loss = gradient_of_loss(grad_loss, problem);
  STD_TORCH_CHECK(
      g.numel() == input.numel() &&
          g.scalar_type() == (is_double(input) ? ScalarType::Double : ScalarType::Float),
      "lovasz: wrong g");
  if (grad_ce) grad_ce = torch::stable::contiguous(*grad_ce);
  const Incoming incoming{nullptr, data_of(g), static_cast<const double*>(data_of(grad_loss)),
                          cross_entropy_of(grad_ce, grad_loss.numel()), grad_loss.size(0)};
  return run_backward(problem, incoming, input);
}

}  // namespace
}  // namespace segloss::lovasz

STABLE_TORCH_LIBRARY_FRAGMENT(segloss_fast, m) {
  for (const char* schema : segloss::lovasz::kSortSchemas) m.def(schema);
}

STABLE_TORCH_LIBRARY_IMPL(segloss_fast, CPU, m) {
  m.impl("_lovasz_sort", TORCH_BOX(&segloss::lovasz::sort));
  m.impl("_lovasz_sort_backward", TORCH_BOX(&segloss::lovasz::sort_backward));
}

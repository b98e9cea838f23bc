// The CUDA operator of nearest_component: it describes the tensors to the passes, and launches
// these one after another, with keys, or with squares and labels side by side. Whether all labels
// fit into keys only the first pass with keys finds out. Passes of either kind are launched then,
// and those of one kind return at once, so that the host need not wait.
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/core/ScalarType.h>

#include <algorithm>
#include <limits>
#include <optional>
#include <tuple>
#include <vector>

#include "allocate.h"
#include "cuda.cuh"
#include "cuda_library.h"
#include "distance_transform/cuda/describe.h"
#include "distance_transform/cuda/launch.h"
#include "distance_transform/weights.h"

namespace segloss::distance_transform::cuda {
namespace {

constexpr unsigned kLargestLabel = std::numeric_limits<int32_t>::max();

// The largest label of a dtype; read as unsigned numbers, negative ones are above it.
unsigned largest_label(ScalarType dtype) {
  switch (dtype) {
    case ScalarType::Bool:
    case ScalarType::Byte:
      return 0xff;
    case ScalarType::Char:
      return 0x7f;
    case ScalarType::Short:
      return 0x7fff;
    case ScalarType::UInt16:
      return 0xffff;
    case ScalarType::Int:
    case ScalarType::Long:
    case ScalarType::UInt32:
    case ScalarType::UInt64:
      return kLargestLabel;
    default:
      STD_TORCH_CHECK(false, "nearest_component: unsupported dtype of the labels");
  }
}

void check(const Tensor& labels, const std::vector<double>& weights, double unit) {
  STD_TORCH_CHECK(labels.dim() >= 3 && labels.dim() <= 5,
                  "nearest_component: labels must be [B, C, *S] with 1 to 3 spatial dimensions");
  check_weights(weights, unit, labels.dim() - 2);
  for (int64_t d = 2; d < labels.dim(); ++d) {
    STD_TORCH_CHECK(labels.size(d) < kMaxSize, "nearest_component: an axis is too long");
  }
}

// The two planes that a pass reads or writes: labels or keys, and squares or distances.
struct Planes {
  unsigned* label;
  float* square;
};

unsigned* labels_of(Tensor& tensor) { return static_cast<unsigned*>(tensor.mutable_data_ptr()); }
float* squares_of(Tensor& tensor) { return static_cast<float*>(tensor.mutable_data_ptr()); }

// What is computed, and by passes of which kind.
struct Job {
  Tensor labels;
  std::vector<LongAxis> long_axes;  // of more than one voxel; the only one of fewer
  std::vector<Axis> axes;
  NearestPass pass;  // what all passes have in common
  Planes out;        // squares are null where no distances are wanted
  cudaStream_t stream;

  bool has_keys() const { return pass.bits > 0; }
  bool fits(const Axis& axis) const {
    const auto capacity = size_t(device_attribute(cudaDevAttrMaxSharedMemoryPerBlockOptin));
    return nearest_staged_bytes(axis.size, has_keys()) <= capacity;
  }
  unsigned key_weight(size_t axis) const {
    return has_keys() ? unsigned(long_axes[axis].weight) << pass.bits : 0;
  }
};

void launch_rows(const Job& job, Planes to) {
  RunPass rows = describe_runs(job.labels, all_of(job.labels), job.axes);
  rows.nearest = job.pass;
  rows.nearest.label = to.label;
  rows.nearest.square = to.square;
  rows.nearest.key_weight = job.key_weight(job.axes.size() - 1);
  rows.finish.last = job.axes.size() == 1;
  launch_nearest_runs(rows, job.stream);
}

// All axes but the last, from the inside out; each pass reads what the one before it wrote.
void launch_others(const Job& job, Planes from, Planes other) {
  const int64_t voxels = job.labels.numel();
  LinePass pass{};
  pass.inner = job.axes.back().size;
  for (size_t i = job.axes.size() - 1; i-- > 0;) {
    const bool staged = job.fits(job.axes[i]);
    if (!staged) std::swap(from, other);  // it cannot replace what it reads again
    const Planes in = staged ? from : other;
    pass.size = int(job.axes[i].size);
    pass.weight = job.axes[i].weight;
    pass.columns = voxels / pass.size;
    pass.finish.last = i == 0;
    pass.nearest = job.pass;
    pass.nearest.key_weight = job.key_weight(i);
    pass.nearest.label_in = in.label;
    pass.nearest.square_in = in.square;
    pass.nearest.label = from.label;
    pass.nearest.square = from.square;
    launch_nearest_lines(pass, staged, job.stream);
    pass.inner *= pass.size;
  }
}

// All passes of one kind. The last one writes the output.
void run(const Job& job) {
  const int64_t voxels = job.labels.numel();
  const bool squares = !job.has_keys() && job.axes.size() > 1;  // between passes
  const auto fits = [&](const Axis& axis) { return job.fits(axis); };
  const auto unstaged =
      (job.axes.size() - 1) - size_t(std::count_if(job.axes.begin(), job.axes.end() - 1, fits));
  std::vector<Tensor> scratch;
  const auto make = [&](ScalarType dtype) -> Tensor& {
    return scratch.emplace_back(allocate_at(job.labels, {voxels}, dtype));
  };
  Planes out = job.out, other{};
  if (squares && out.square == nullptr) out.square = squares_of(make(ScalarType::Float));
  if (unstaged > 0) {
    other.label = labels_of(make(ScalarType::Int));
    other.square = squares ? squares_of(make(ScalarType::Float)) : out.square;
  }
  const bool swapped = unstaged % 2 == 1;
  launch_rows(job, swapped ? other : out);
  swapped ? launch_others(job, other, out) : launch_others(job, out, other);
}

std::tuple<Tensor, Tensor, Tensor> nearest(Tensor labels, std::vector<double> weights, double unit,
                                           bool distance) {
  check(labels, weights, unit);
  const unsigned largest = largest_label(labels.scalar_type());
  std::vector<int64_t> sizes;
  for (int64_t d = 0; d < labels.dim(); ++d) sizes.push_back(labels.size(d));
  Tensor out = allocate_at(labels, sizes, ScalarType::Int);
  const std::vector<int64_t> none{0};
  Tensor distances = allocate_at(labels, distance ? sizes : none, ScalarType::Float);
  Tensor verdict = allocate_at(labels, none, ScalarType::Int);
  if (labels.numel() == 0) return {out, distances, verdict};

  const DeviceScope scope(labels.get_device_index());
  Job job{labels,        {}, {}, {}, {labels_of(out), distance ? squares_of(distances) : nullptr},
          scope.stream()};
  for (int64_t d = 2; d < labels.dim(); ++d) {
    if (labels.size(d) == 1 && (d + 1 < labels.dim() || !job.axes.empty())) continue;
    const double weight = weights[size_t(d) - 2];
    job.long_axes.push_back({labels.size(d), weight});
    job.axes.push_back({labels.size(d), labels.stride(d), 0, float(weight)});
  }
  job.pass.distance = distance;
  job.pass.unit = float(unit);
  job.pass.largest = largest;
  job.pass.limit = largest;
  std::optional<Tensor> above;
  const int bits = job.axes.size() > 1 ? label_bits(job.long_axes) : 0;
  if (bits > 0) {
    job.pass.bits = bits;
    job.pass.limit = (1u << bits) - 1;
    job.pass.unreached = unsigned(greatest_square(job.long_axes) + 1) << bits;
    if (largest > job.pass.limit) {
      above = allocate_at(labels, {1}, ScalarType::Int);
      torch::stable::zero_(*above);
      job.pass.above = static_cast<int*>(above->mutable_data_ptr());
    }
    run(job);
    if (!above) return {out, distances, verdict};
    job.pass.bits = 0;
    job.pass.limit = largest;
    job.pass.if_above = true;
  }
  run(job);
  return {out, distances, verdict};
}

}  // namespace
}  // namespace segloss::distance_transform::cuda

STABLE_TORCH_LIBRARY_IMPL(SEGLOSS_CUDA_LIBRARY, SEGLOSS_CUDA_KEY, m) {
  m.impl("_distance_transform_nearest", TORCH_BOX(&segloss::distance_transform::cuda::nearest));
}

// The CUDA operator: it describes the tensors to the passes, and launches these one after another.
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/core/ScalarType.h>

#include <algorithm>
#include <cmath>
#include <vector>

#include "allocate.h"
#include "cuda.cuh"
#include "cuda_library.h"
#include "distance_transform/check_sum.h"
#include "distance_transform/cuda/describe.h"
#include "distance_transform/cuda/launch.h"
#include "distance_transform/schemas.h"
#include "scratch.cuh"

namespace segloss::distance_transform::cuda {
namespace {

#ifdef SEGLOSS_HOST_SHIM  // the tests' volumes are small
constexpr int64_t kVoxelsAtOnce = 3000;
#else
constexpr int64_t kVoxelsAtOnce = int64_t(1) << 24;
#endif

// The bits of an element that tell zero from everything else.
uint64_t value_bits(const Tensor& mask) {
  const uint64_t all = ~uint64_t(0) >> (64 - 8 * mask.element_size());
  switch (mask.scalar_type()) {
    case ScalarType::Float:
    case ScalarType::Double:
    case ScalarType::Half:
    case ScalarType::BFloat16:
      return all >> 1;  // but for the sign: there is a negative zero
    case ScalarType::Bool:
    case ScalarType::Byte:
    case ScalarType::Char:
    case ScalarType::Short:
    case ScalarType::Int:
    case ScalarType::Long:
    case ScalarType::UInt16:
    case ScalarType::UInt32:
    case ScalarType::UInt64:
      return all;
    default:
      STD_TORCH_CHECK(false, "distance_transform: unsupported dtype of the mask");
  }
}

void check(const Tensor& mask, const std::vector<double>& spacing, int64_t side) {
  STD_TORCH_CHECK(mask.dim() >= 3 && mask.dim() <= 5,
                  "distance_transform: mask must be [B, C, *S] with 1 to 3 spatial dimensions");
  STD_TORCH_CHECK(int64_t(spacing.size()) == mask.dim() - 2,
                  "distance_transform: spacing must have one number per spatial dimension");
  for (const double value : spacing) {
    STD_TORCH_CHECK(value > 0 && std::isfinite(value),
                    "distance_transform: spacing must be positive and finite");
  }
  for (int64_t d = 2; d < mask.dim(); ++d) {
    STD_TORCH_CHECK(mask.size(d) < kMaxSize, "distance_transform: an axis is too long");
  }
  STD_TORCH_CHECK(side >= 0 && side <= 3, "distance_transform: unknown side");
}

// The axes that matter, at least one; and the unit that spacings are measured in to keep squares
// far from overflow and underflow: a power of four, so that nothing is rounded and its root is
// exact.
std::vector<Axis> axes_of(const Tensor& mask, const std::vector<double>& spacing, float* root) {
  std::vector<Axis> axes;
  for (int64_t d = 2; d < mask.dim(); ++d) {
    if (mask.size(d) > 1) axes.push_back({mask.size(d), mask.stride(d), spacing[d - 2], 1});
  }
  if (axes.empty()) axes.push_back({1, 1, 1.0, 1});
  double most = 0;
  for (const Axis& axis : axes) most = std::max(most, axis.spacing);
  const int exponent = std::clamp(std::ilogb(most) / 2, -125, 125);  // of the root
  for (Axis& axis : axes) {
    const double scaled = std::ldexp(axis.spacing, -2 * exponent);
    axis.weight = float(std::min(scaled * scaled, double(std::numeric_limits<float>::max())));
  }
  *root = std::ldexp(1.0f, exponent);
  return axes;
}

// Whether a block has the memory for the axis' lines, which a pass can then replace.
bool fits(const Axis& axis) {
  return staged_bytes(axis.size) <=
         size_t(device_attribute(cudaDevAttrMaxSharedMemoryPerBlockOptin));
}

// Cuts the masks into parts of about as many voxels as keep a device busy. They come one after
// another and share the memory between passes.
std::vector<Part> parts_of(const Tensor& mask) {
  const int64_t items = mask.size(0), channels = mask.size(1);
  const int64_t at_once = std::max<int64_t>(kVoxelsAtOnce / (mask.numel() / (items * channels)), 1);
  const int64_t of_items = std::max<int64_t>(at_once / channels, 1);
  const int64_t of_channels = std::min(at_once, channels);
  std::vector<Part> parts;
  for (int64_t i = 0; i < items; i += of_items) {
    for (int64_t c = 0; c < channels; c += of_channels) {
      parts.push_back({i, std::min(of_items, items - i), c, std::min(of_channels, channels - c)});
    }
  }
  return parts;
}

// All axes but the last, from the inside out; `squares` lie between them, or null for `out`.
void launch_others(const std::vector<Axis>& axes, LinePass pass, Number number, int64_t voxels,
                   float* squares, float* out, cudaStream_t stream) {
  const Finish finish = pass.finish;
  pass.run_weight = axes.back().weight;
  pass.inner = axes.back().size;
  for (size_t i = axes.size() - 1; i-- > 0;) {
    pass.size = int(axes[i].size);
    pass.weight = axes[i].weight;
    pass.columns = voxels / pass.size;
    pass.finish = finish;
    pass.finish.last = i == 0;
    pass.finish.add = finish.add && i == 0;
    pass.out = i > 0 && squares != nullptr ? squares : out;
    launch_lines(pass, number, fits(axes[i]), stream);
    pass.in = pass.out;
    pass.inner *= pass.size;
    number = Number::kFloat;
  }
}

// What is asked of a transform besides its mask.
struct Request {
  std::vector<double> spacing;
  Side side;
  bool squared;
  bool bounded;
  bool add;  // to what the result holds
};

void transform(const Tensor& mask, const Request& request, float* result) {
  const DeviceScope scope(mask.get_device_index());
  float unit_root = 1;
  std::vector<Axis> axes = axes_of(mask, request.spacing, &unit_root);
  // It is the pass along another axis that adds.
  if (request.add && axes.size() == 1) axes.insert(axes.begin(), {1, 1, 1.0, 1});
  const bool two_sided = request.side == Side::kBoth || request.side == Side::kSigned;
  const Finish finish{axes.size() == 1, request.squared, two_sided, request.side == Side::kSigned,
                      request.bounded,  request.add,     unit_root};

  const bool narrow = axes.back().size <= kNoRun<int16_t>;
  const Number number = axes.size() == 1 ? Number::kFloat
                        : narrow         ? Number::kInt16
                                         : Number::kInt32;
  const std::vector<Part> parts = parts_of(mask);
  const int64_t voxels = mask.numel() / (mask.size(0) * mask.size(1));
  const int64_t most = parts[0].items * parts[0].channels * voxels;
  Scratch scratch;
  const auto runs = scratch.ask<char>(
      axes.size() == 1 ? 0 : most * int64_t(narrow ? sizeof(int16_t) : sizeof(int)));
  // A pass that reads the squares again cannot replace them; nor may they replace a sum.
  const bool apart = axes.size() == 3 && (request.add || !fits(axes[0]));
  const auto squares = scratch.ask<float>(apart ? most : 0);
  if (axes.size() > 1) scratch.allocate(mask);
  for (const Part& part : parts) {
    float* const out = result + (part.item * mask.size(1) + part.channel) * voxels;
    RunPass first = describe_runs(mask, part, axes);
    first.bits = value_bits(mask);
    first.complement = request.side == Side::kOutside;
    first.finish = finish;
    first.out = axes.size() == 1 ? static_cast<void*>(out) : scratch.at(runs);
    first.vector_stores = first.width % (number == Number::kInt16 ? 8 : 4) == 0 &&
                          reinterpret_cast<uintptr_t>(first.out) % 16 == 0;
    launch_runs(first, number, scope.stream());
    if (axes.size() == 1) continue;
    LinePass rest{};
    rest.in = first.out;
    rest.finish = finish;
    launch_others(axes, rest, number, part.items * part.channels * voxels,
                  apart ? scratch.at(squares) : nullptr, out, scope.stream());
  }
}

Tensor forward(Tensor mask, std::vector<double> spacing, int64_t side, bool squared, bool bounded) {
  check(mask, spacing, side);
  std::vector<int64_t> sizes;
  for (int64_t d = 0; d < mask.dim(); ++d) sizes.push_back(mask.size(d));
  Tensor out = allocate_at(mask, sizes, ScalarType::Float);
  if (mask.numel() == 0) return out;
  transform(mask, {spacing, static_cast<Side>(side), squared, bounded, false},
            static_cast<float*>(out.mutable_data_ptr()));
  return out;
}

void add(Tensor sum, Tensor mask, std::vector<double> spacing, int64_t side, bool squared) {
  check(mask, spacing, side);
  check_sum(sum, mask);
  if (mask.numel() == 0) return;
  transform(mask, {spacing, static_cast<Side>(side), squared, true, true},
            static_cast<float*>(sum.mutable_data_ptr()));
}

}  // namespace
}  // namespace segloss::distance_transform::cuda

SEGLOSS_CUDA_SCHEMAS(segloss::distance_transform::kSchemas)

STABLE_TORCH_LIBRARY_IMPL(SEGLOSS_CUDA_LIBRARY, SEGLOSS_CUDA_KEY, m) {
  m.impl("_distance_transform", TORCH_BOX(&segloss::distance_transform::cuda::forward));
  m.impl("_distance_transform_add", TORCH_BOX(&segloss::distance_transform::cuda::add));
}

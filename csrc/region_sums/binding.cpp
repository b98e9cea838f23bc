// The CPU operators: checks what would corrupt memory, describes the tensors to the kernels, and
// spreads chunks of voxels over torch's threads. The chunks depend on the shape alone and their
// sums are added in order, so that the result does not depend on the number of threads.
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/core/ScalarType.h>

#include <algorithm>
#include <atomic>
#include <optional>
#include <tuple>
#include <vector>

#ifdef __linux__
#include <sys/mman.h>
#endif

#include "cpu_capability.h"
#include "region_sums/kernels.h"

namespace segloss::region_sums {
namespace {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

const Kernels& kernels() {
#ifdef SEGLOSS_X86_KERNELS
  switch (cpu_capability()) {
    case CpuCapability::kAvx512:
      return avx512::kKernels;
    case CpuCapability::kAvx2:
      return avx2::kKernels;
    case CpuCapability::kBaseline:
      break;
  }
#endif
  return baseline::kKernels;
}

Dtype dtype_of(const Tensor& tensor) {
  switch (tensor.scalar_type()) {
    case ScalarType::Float:
      return Dtype::kFloat32;
    case ScalarType::Double:
      return Dtype::kFloat64;
    case ScalarType::Half:
      return Dtype::kFloat16;
    case ScalarType::BFloat16:
      return Dtype::kBFloat16;
    case ScalarType::Bool:
    case ScalarType::Byte:
      return Dtype::kUInt8;
    case ScalarType::Char:
      return Dtype::kInt8;
    case ScalarType::Short:
      return Dtype::kInt16;
    case ScalarType::Int:
      return Dtype::kInt32;
    case ScalarType::Long:
      return Dtype::kInt64;
    default:
      STD_TORCH_CHECK(false, "region_sums: unsupported dtype");
  }
}

// Describes [B, C, *S], or [B, *S] where has_channels is false.
View view_of(const Tensor& tensor, bool has_channels, void* data) {
  View view{data, dtype_of(tensor), tensor.stride(0), 0, 0, {1, 1, 1}, {1, 1, 1}};
  const int first = has_channels ? 2 : 1;
  if (has_channels && tensor.size(1) > 1) view.channel_stride = tensor.stride(1);
  for (int64_t d = first; d < tensor.dim(); ++d) {
    const int64_t size = tensor.size(d), stride = tensor.stride(d);
    if (size == 1) continue;
    const int last = view.dims - 1;
    if (view.dims > 0 && view.stride[last] == stride * size) {
      view.size[last] *= size;
      view.stride[last] = stride;
    } else {
      view.size[view.dims] = size;
      view.stride[view.dims++] = stride;
    }
  }
  view.dims = std::max(view.dims, 1);
  return view;
}

View const_view_of(const Tensor& tensor, bool has_channels) {
  return view_of(tensor, has_channels, const_cast<void*>(tensor.const_data_ptr()));
}

struct Options {
  const std::vector<int64_t>& terms;
  int64_t activation;
  int64_t ce_activation;
  double gamma;
  std::optional<int64_t> ignore_index;
};

void check_shapes(const Tensor& input, const Tensor& target, const std::optional<Tensor>& weight) {
  STD_TORCH_CHECK(input.dim() >= 3 && input.dim() <= 5, "region_sums: input must be [B, C, *S]");
  STD_TORCH_CHECK(input.size(1) > 0, "region_sums: input must have a class");
  STD_TORCH_CHECK(dtype_of(input) <= Dtype::kBFloat16, "region_sums: input must be floating point");
  const bool dense = target.dim() == input.dim();
  STD_TORCH_CHECK(dense || target.dim() == input.dim() - 1, "region_sums: wrong rank of target");
  STD_TORCH_CHECK(!weight || weight->dim() == input.dim(), "region_sums: wrong rank of weight");
  for (int64_t d = 0; d < input.dim(); ++d) {
    const int64_t size = input.size(d);
    if (dense || d != 1) {
      STD_TORCH_CHECK(target.size(dense || d == 0 ? d : d - 1) == size,
                      "region_sums: wrong shape of target");
    }
    STD_TORCH_CHECK(!weight || weight->size(d) == size || (d == 1 && weight->size(d) == 1),
                    "region_sums: wrong shape of weight");
  }
}

Problem describe(const Tensor& input, const Tensor& target, const std::optional<Tensor>& weight,
                 const Options& options) {
  check_shapes(input, target, weight);
  Problem problem{};
  problem.batch = input.size(0);
  problem.channels = input.size(1);
  problem.voxels = 1;
  for (int64_t d = 2; d < input.dim(); ++d) problem.voxels *= input.size(d);
  for (const int64_t code : {options.activation, options.ce_activation}) {
    STD_TORCH_CHECK(code >= 0 && code <= 2, "region_sums: unknown activation");
  }
  problem.activation = static_cast<Activation>(options.activation);
  problem.ce_activation = static_cast<Activation>(options.ce_activation);
  std::fill(std::begin(problem.row), std::end(problem.row), -1);
  for (const int64_t term : options.terms) {
    STD_TORCH_CHECK(term >= 0 && term < kTermCount, "region_sums: unknown term");
    STD_TORCH_CHECK(problem.row[term] < 0, "region_sums: a term is asked for twice");
    problem.row[term] = problem.rows++;
  }
  problem.gamma = options.gamma;
  problem.has_ignore = options.ignore_index.has_value();
  problem.ignore_index = options.ignore_index.value_or(0);
  problem.dense_target = target.dim() == input.dim();
  problem.input = const_view_of(input, true);
  problem.target = const_view_of(target, problem.dense_target);
  problem.has_weight = weight.has_value();
  if (weight) problem.weight = const_view_of(*weight, true);
  return problem;
}

constexpr int64_t kMinChunk = 4096;       // voxels; less does not pay for handing out
constexpr int64_t kChunksPerItem = 64;    // bounds the partial sums
constexpr int64_t kChunkMultiple = 512;   // whole blocks (block.inc)
constexpr int64_t kParallelWork = 32768;  // values of the input below which one thread does all

class Chunks {
 public:
  explicit Chunks(const Problem& problem) : problem_(problem) {
    const int64_t share = (problem.voxels + kChunksPerItem - 1) / kChunksPerItem;
    const int64_t whole = (share + kChunkMultiple - 1) / kChunkMultiple * kChunkMultiple;
    size_ = std::max(whole, kMinChunk);
    per_item_ = (problem.voxels + size_ - 1) / size_;
  }

  int64_t count() const { return per_item_ * problem_.batch; }
  int64_t per_item() const { return per_item_; }

  Chunk operator[](int64_t i) const {
    const int64_t begin = i % per_item_ * size_;
    return {i / per_item_, begin, std::min(begin + size_, problem_.voxels)};
  }

  // Calls f(chunk's index, scratch of that many bytes) for each, on torch's threads, in any order.
  template <class F>
  void for_each(size_t scratch_bytes, const F& f) const {
    if (count() == 0) return;
    const bool small = problem_.batch * problem_.channels * problem_.voxels <= kParallelWork;
    const int64_t threads = torch::stable::get_num_threads();
    const int64_t tasks = small ? 1 : std::min(count(), threads);
    const int64_t bytes = (int64_t(scratch_bytes) + 127) / 64 * 64;  // room to align
    Tensor memory = torch::stable::empty({tasks * bytes}, ScalarType::Byte);
    const auto base = reinterpret_cast<uintptr_t>(memory.mutable_data_ptr());
    std::atomic<int64_t> next{0};
    torch::stable::parallel_for(0, tasks, 1, [&](int64_t first, int64_t last) {
      for (int64_t task = first; task < last; ++task) {
        const uintptr_t scratch = (base + task * bytes + 63) / 64 * 64;
        for (int64_t i = next++; i < count(); i = next++) f(i, reinterpret_cast<void*>(scratch));
      }
    });
  }

 private:
  const Problem& problem_;
  int64_t size_;
  int64_t per_item_;
};

// A fresh buffer of many megabytes costs more in page faults than the kernel that fills it; huge
// pages take few.
void advise_huge_pages([[maybe_unused]] void* data, [[maybe_unused]] int64_t bytes) {
#if defined(__linux__) && defined(MADV_HUGEPAGE)
  constexpr uintptr_t kHugePage = uintptr_t(2) << 20;
  const auto address = reinterpret_cast<uintptr_t>(data);
  const uintptr_t begin = (address + kHugePage - 1) / kHugePage * kHugePage;
  const uintptr_t end = (address + bytes) / kHugePage * kHugePage;
  if (end >= begin + 2 * kHugePage) {
    madvise(reinterpret_cast<void*>(begin), end - begin, MADV_HUGEPAGE);  // advice: may fail
  }
#endif
}

std::tuple<Tensor, Tensor> forward(const Tensor& input, const Tensor& target,
                                   std::optional<Tensor> weight, std::vector<int64_t> terms,
                                   int64_t activation, int64_t ce_activation, double gamma,
                                   std::optional<int64_t> ignore_index) {
  const Problem problem =
      describe(input, target, weight, {terms, activation, ce_activation, gamma, ignore_index});
  const Chunks chunks(problem);
  const int64_t size = problem.rows * problem.channels;
  Tensor partial = torch::stable::empty({chunks.count(), size}, ScalarType::Double);
  auto* const sums = static_cast<double*>(partial.mutable_data_ptr());
  std::vector<Invalid> found(chunks.count());
  const Kernels& run = kernels();
  chunks.for_each(run.scratch_bytes(problem, nullptr), [&](int64_t i, void* scratch) {
    run.forward(problem, chunks[i], scratch, sums + i * size, &found[i]);
  });

  Tensor rows =
      torch::stable::empty({problem.rows, problem.batch, problem.channels}, ScalarType::Double);
  Tensor invalid = torch::stable::empty({2}, ScalarType::Double);
  auto* const total = static_cast<double*>(rows.mutable_data_ptr());
  auto* const bad = static_cast<double*>(invalid.mutable_data_ptr());
  std::fill(total, total + problem.batch * size, 0.0);
  bad[0] = bad[1] = 0;
  for (int64_t i = 0; i < chunks.count(); ++i) {
    const int64_t item = chunks[i].item;
    for (int64_t row = 0; row < problem.rows; ++row) {
      for (int64_t c = 0; c < problem.channels; ++c) {
        total[(row * problem.batch + item) * problem.channels + c] +=
            sums[i * size + row * problem.channels + c];
      }
    }
    if (bad[0] == 0) bad[1] = found[i].first;
    bad[0] += double(found[i].count);
  }
  return {rows, invalid};
}

Tensor backward(const Tensor& grad_rows, const Tensor& input, const Tensor& target,
                std::optional<Tensor> weight, std::vector<int64_t> terms, int64_t activation,
                int64_t ce_activation, double gamma, std::optional<int64_t> ignore_index) {
  const Problem problem =
      describe(input, target, weight, {terms, activation, ce_activation, gamma, ignore_index});
  const Tensor grad_sums = torch::stable::contiguous(grad_rows);
  STD_TORCH_CHECK(grad_sums.scalar_type() == ScalarType::Double &&
                      grad_sums.numel() == problem.rows * problem.batch * problem.channels,
                  "region_sums: wrong gradient of the sums");
  Tensor grad = torch::stable::empty_like(input);
  void* const data = grad.mutable_data_ptr();
  advise_huge_pages(data, grad.numel() * grad.element_size());
  const View view = view_of(grad, true, data);
  const Chunks chunks(problem);
  const auto* const incoming = static_cast<const double*>(grad_sums.const_data_ptr());
  const Kernels& run = kernels();
  chunks.for_each(run.scratch_bytes(problem, &view), [&](int64_t i, void* scratch) {
    run.backward(problem, chunks[i], scratch, incoming, view);
  });
  return grad;
}

}  // namespace
}  // namespace segloss::region_sums

STABLE_TORCH_LIBRARY_FRAGMENT(segloss_fast, m) {
  m.def(
      "_region_sums_cpu(Tensor input, Tensor target, Tensor? voxel_weight, int[] terms, "
      "int activation, int ce_activation, float gamma, int? ignore_index) -> (Tensor, Tensor)");
  m.def(
      "_region_sums_cpu_backward(Tensor grad_rows, Tensor input, Tensor target, "
      "Tensor? voxel_weight, int[] terms, int activation, int ce_activation, float gamma, "
      "int? ignore_index) -> Tensor");
}

STABLE_TORCH_LIBRARY_IMPL(segloss_fast, CPU, m) {
  m.impl("_region_sums_cpu", TORCH_BOX(&segloss::region_sums::forward));
  m.impl("_region_sums_cpu_backward", TORCH_BOX(&segloss::region_sums::backward));
}

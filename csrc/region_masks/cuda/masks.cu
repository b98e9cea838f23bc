// The kernels: a thread takes one voxel, or four neighbours where alignment allows, reads all their
// classes once and writes a byte, or a word of four, per class.
//
// Of a softmax at most one class exceeds one half, so a thread keeps the most probable one alone,
// and no register per class: with m the largest logit so far, s the sum of e^(x - m), a larger x
// turns s into s e^(m - x) + 1.
#include "cuda.cuh"
#include "region_masks/cuda/launch.h"
#include "voxels/cuda/labels.cuh"
#include "voxels/cuda/memory.cuh"

namespace segloss::region_masks::cuda {
namespace {

template <int kVoxels>
constexpr int kInFlight = kVoxels > 1 ? 4 : 8;  // classes that a thread asks for before it waits

template <class Storage, int kVoxels>
struct Group {
  Storage value[kVoxels];

  // In vectors of 16 bytes at most. One by one, neighbouring classes may share a line: it is kept.
  SL_DEVICE static Group load(const Storage* from) {
    if constexpr (kVoxels == 1) {
      return {{*from}};
    } else {
      constexpr size_t kBytes = sizeof(Group);
      using Raw =
          std::conditional_t<kBytes == 4, unsigned, std::conditional_t<kBytes == 8, uint2, uint4>>;
      using Vector = Pack<Storage, Raw>;
      Group group;
#pragma unroll
      for (int i = 0; i < kVoxels; i += Vector::kSize) {
        const Vector vector = Vector::load(from + i);
        memcpy(group.value + i, &vector, sizeof vector);
      }
      return group;
    }
  }
};

// The voxels of a thread.
template <int kVoxels>
struct Place {
  int64_t item;
  int64_t voxel;  // the first
  bool exists;

  SL_DEVICE explicit Place(const Launch& launch) {
    item = blockIdx.x / launch.item_blocks;
    const int64_t group = int64_t(blockIdx.x % launch.item_blocks) * kThreads + threadIdx.x;
    voxel = group * kVoxels;
    exists = voxel < launch.problem.voxels;
  }

  // Of a class's row in the view, or of the masks.
  SL_DEVICE int64_t in(const View& view) const {
    return item * view.batch_stride + voxel_offset(view, voxel);
  }
  SL_DEVICE uint8_t* in_masks(const Problem& problem) const {
    return problem.out + item * problem.channels * problem.voxels + voxel;
  }
};

template <int kVoxels, class F>
SL_DEVICE void write_bytes(uint8_t* to, F is_inside) {
  if constexpr (kVoxels == 1) {
    *to = is_inside(0);
  } else {
    static_assert(kVoxels == sizeof(uint32_t));
    uint32_t word = 0;
#pragma unroll
    for (int i = 0; i < kVoxels; ++i) word |= uint32_t(is_inside(i)) << 8 * i;
    *reinterpret_cast<uint32_t*>(to) = word;
  }
}

// Reads classes [first, channels) of the thread's voxels, and calls f(class, values) in order.
template <class Storage, int kVoxels, class F>
SL_DEVICE void for_each_class(const Problem& problem, const Place<kVoxels>& place, int first, F f) {
  const int64_t stride = problem.values.channel_stride;
  const int channels = int(problem.channels);
  const Storage* from =
      static_cast<const Storage*>(problem.values.data) + place.in(problem.values) + first * stride;
#pragma unroll 1
  for (int c = first; c < channels; c += kInFlight<kVoxels>) {
    Group<Storage, kVoxels> group[kInFlight<kVoxels>];
#pragma unroll
    for (int k = 0; k < kInFlight<kVoxels>; ++k) {
      if (c + k < channels) group[k] = Group<Storage, kVoxels>::load(from);
      from += stride;
    }
#pragma unroll
    for (int k = 0; k < kInFlight<kVoxels>; ++k) {
      if (c + k < channels) f(c + k, group[k]);
    }
  }
}

// The codes of the voxels' labels.
template <int kVoxels>
SL_DEVICE void load_codes(const Problem& problem, const Place<kVoxels>& place,
                          int32_t (&code)[kVoxels]) {
  const LabelRule rule{int(problem.channels), problem.has_ignore, problem.ignore_index};
  const View& view = problem.labels;
  visit_dtype(view.dtype, [&](auto type) {
    using Storage = typename decltype(type)::type;
    const auto labels =
        Group<Storage, kVoxels>::load(static_cast<const Storage*>(view.data) + place.in(view));
#pragma unroll
    for (int i = 0; i < kVoxels; ++i) {
      code[i] = code_of(rule, widen<typename LabelType<Storage>::type>(labels.value[i]));
    }
  });
}

// Which of the voxels count.
template <int kVoxels>
SL_DEVICE void load_counted(const Problem& problem, const Place<kVoxels>& place,
                            bool (&counted)[kVoxels]) {
  int32_t code[kVoxels] = {};
  if (problem.has_labels) load_codes(problem, place, code);
#pragma unroll
  for (int i = 0; i < kVoxels; ++i) counted[i] = code[i] != kIgnored;
}

template <int kVoxels>
SL_DEVICE void clear_first(const Problem& problem, const Place<kVoxels>& place) {
  uint8_t* to = place.in_masks(problem);
  for (int c = 0; c < int(problem.first); ++c, to += problem.voxels) {
    write_bytes<kVoxels>(to, [](int) { return false; });
  }
}

// Writes masks of voxels that are inside of one class at most, a negative number for none.
template <int kVoxels>
SL_DEVICE void write_one_hot(const Problem& problem, const Place<kVoxels>& place,
                             const int32_t (&inside)[kVoxels]) {
  clear_first(problem, place);
  uint8_t* to = place.in_masks(problem) + problem.first * problem.voxels;
#pragma unroll 4
  for (int c = int(problem.first); c < int(problem.channels); ++c, to += problem.voxels) {
    write_bytes<kVoxels>(to, [&](int i) { return inside[i] == c; });
  }
}

template <int kVoxels>
__global__ void __launch_bounds__(kThreads) labels_kernel(const __grid_constant__ Launch launch) {
  const Place<kVoxels> place(launch);
  if (!place.exists) return;
  int32_t code[kVoxels] = {};
  load_codes(launch.problem, place, code);
  write_one_hot(launch.problem, place, code);
}

// Of sigmoids and of values, where classes are independent.
template <int kVoxels>
__global__ void __launch_bounds__(kThreads)
    threshold_kernel(const __grid_constant__ Launch launch) {
  const Problem& problem = launch.problem;
  const Place<kVoxels> place(launch);
  if (!place.exists) return;
  bool counted[kVoxels];
  load_counted(problem, place, counted);
  clear_first(problem, place);
  visit_dtype(problem.values.dtype, [&](auto type) {
    using Storage = typename decltype(type)::type;
    using T = std::conditional_t<std::is_same_v<Storage, double>, double, float>;
    const T threshold = problem.mode == Mode::kSigmoid ? T(0) : T(0.5);
    for_each_class<Storage>(problem, place, int(problem.first), [&](int c, const auto& x) {
      write_bytes<kVoxels>(place.in_masks(problem) + c * problem.voxels,
                           [&](int i) { return counted[i] && widen<T>(x.value[i]) > threshold; });
    });
  });
}

// The most probable class of a voxel, as far as its classes have been seen.
template <class T>
struct Leader {
  T max = -Constants<T>::kMax;
  T sum = 0;  // of e^(x - max), NaN from the first NaN on
  int32_t top = kNoClass;

  SL_DEVICE void see(int c, T x) {
    const bool leads = x >= max;
    const T e = exp_nonpositive(-absolute(x - max));
    sum = leads ? sum * e + 1 : sum + e;
    max = leads ? x : max;
    top = leads ? c : top;
  }

  // The class whose probability exceeds one half. There is none where a logit is infinite: the
  // softmax is NaN.
  SL_DEVICE int32_t inside() const {
    return sum < 2 && max < Constants<T>::kInfinity ? top : kNoClass;
  }
};

template <class Storage, int kVoxels>
__global__ void __launch_bounds__(kThreads) softmax_kernel(const __grid_constant__ Launch launch) {
  using T = std::conditional_t<std::is_same_v<Storage, double>, double, float>;
  const Problem& problem = launch.problem;
  const Place<kVoxels> place(launch);
  if (!place.exists) return;
  bool counted[kVoxels];
  load_counted(problem, place, counted);
  Leader<T> leader[kVoxels];
  for_each_class<Storage>(problem, place, 0, [&](int c, const auto& x) {
#pragma unroll
    for (int i = 0; i < kVoxels; ++i) leader[i].see(c, widen<T>(x.value[i]));
  });
  int32_t inside[kVoxels];
#pragma unroll
  for (int i = 0; i < kVoxels; ++i) inside[i] = counted[i] ? leader[i].inside() : kNoClass;
  write_one_hot(problem, place, inside);
}

template <int kVoxels>
void (*softmax_of(Dtype dtype))(Launch) {
  switch (dtype) {
    case Dtype::kFloat64:
      return softmax_kernel<double, kVoxels>;
    case Dtype::kFloat16:
      return softmax_kernel<__half, kVoxels>;
    case Dtype::kBFloat16:
      return softmax_kernel<__nv_bfloat16, kVoxels>;
    default:
      return softmax_kernel<float, kVoxels>;
  }
}

template <int kVoxels>
void (*kernel_of(const Problem& problem))(Launch) {
  if (problem.mode == Mode::kLabels) return labels_kernel<kVoxels>;
  if (problem.mode == Mode::kSoftmax) return softmax_of<kVoxels>(problem.values.dtype);
  return threshold_kernel<kVoxels>;
}

}  // namespace

void launch_masks(const Launch& launch, bool quads, cudaStream_t stream) {
  const auto kernel = quads ? kernel_of<kQuad>(launch.problem) : kernel_of<1>(launch.problem);
  segloss::launch({launch.blocks, kThreads, 0, stream}, kernel, launch);
}

}  // namespace segloss::region_masks::cuda

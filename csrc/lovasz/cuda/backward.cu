// The gradient: reads logits and labels again, looks up dL/dm of each voxel and class, and writes
// what that makes of the logits.
#include "cuda.cuh"
#include "lovasz/cuda/launch.h"
#include "lovasz/cuda/tile.cuh"

namespace segloss::lovasz::cuda {

// What one voxel's classes look up; of a softmax, whose kernels hold the code once for each class,
// the errors are probabilities.
template <class T, bool kSoftmax>
struct Slopes {
  const BackwardLaunch& launch;
  int64_t item, voxel;
  int64_t first;  // class 0 among all of the images

  SL_DEVICE Slopes(const BackwardLaunch& launch, int64_t item, int64_t voxel)
      : launch(launch),
        item(item),
        voxel(voxel),
        first(item / launch.problem.items * launch.problem.channels) {}

  // dL/dm of an error in class c.
  SL_DEVICE T operator()(int c, const Error<T>& error, bool foreground) const {
    const Problem& problem = launch.problem;
    const T grad = T(__ldg(launch.grad_loss + (first + c)));
    if (launch.table == nullptr) {
      const T* const slopes = static_cast<const T*>(launch.slopes);
      return grad * slopes[(item * problem.channels + c) * problem.voxels + voxel];
    }
    const int bins = launch.bins.count;
    const T* const table = static_cast<const T*>(launch.table) + (first + c) * 2 * bins;
    const Place place =
        kSoftmax ? place_of_probability(launch.bins, error) : place_of(launch.bins, error);
    return product(grad, __ldg(table + (place.bin + (foreground ? bins : 0))));
  }

  SL_DEVICE T cross_entropy(int c) const {
    return launch.grad_ce == nullptr ? T(0) : T(launch.grad_ce[first + c]);
  }
};

// dL/dp of the Lovasz loss, for a softmax or sigmoid.
template <class T, bool kSoftmax>
SL_DEVICE T slope_of(const Slopes<T, kSoftmax>& slopes, int c, const Error<T>& error,
                     bool foreground) {
  const T slope = slopes(c, error, foreground);
  return foreground ? -slope : slope;
}

// The gradient of activations of a class alone.
template <class T>
SL_DEVICE T alone(const Slopes<T, false>& slopes, int c, T x, bool foreground) {
  const Activation activation = slopes.launch.problem.activation;
  const Error<T> error = error_of(activation, x, foreground, Softmax<T>{});
  T dx = 0;
  const Chance<T> chance = sigmoid(x);
  const T slope = slope_of(slopes, c, error, foreground);
  if (activation == Activation::kSigmoid) {
    dx = slope * chance.p * chance.q;
  } else {
    dx = error.m <= 0 ? T(0) : slope;  // a NaN has the NaN of its table
  }
  return dx + slopes.cross_entropy(c) * (foreground ? -chance.q : chance.p);
}

// What the classes of a softmax share: the gradient is dx_k = p_k (h_k - sum_j p_j h_j) and of the
// cross-entropy p_k sum_j t_j g_j - t_k g_k.
template <class T>
struct Shared {
  T dot = 0;
  T entropy = 0;
};

template <class T>
SL_DEVICE T softmax_gradient(T p, T h, T entropy, const Shared<T>& shared) {
  return p * (h - shared.dot + shared.entropy) - entropy;
}

template <class T>
SL_DEVICE T add_shared(const Slopes<T, true>& slopes, int c, T x, bool foreground,
                       const Softmax<T>& softmax, Shared<T>& shared) {
  const Error<T> error = error_of(Activation::kSoftmax, x, foreground, softmax);
  const T h = slope_of(slopes, c, error, foreground);
  shared.dot += error.p * h;
  if (foreground) shared.entropy += slopes.cross_entropy(c);
  return h;
}

// A voxel whose logits lie in registers, x(c): they become the gradient.
template <int kClasses, class T, class F>
SL_DEVICE void differentiate(const Slopes<T, true>& slopes, int32_t label, F x) {
  const int classes = slopes.launch.problem.channels;
  const Softmax<T> softmax(statistics_of<kClasses, T>(classes, x));
  Shared<T> shared;
  T h[kClasses];
#pragma unroll
  for (int c = 0; c < kClasses; ++c) {
    if (c < classes) h[c] = add_shared(slopes, c, T(x(c)), label == c, softmax, shared);
  }
#pragma unroll
  for (int c = 0; c < kClasses; ++c) {
    if (c >= classes) continue;
    const T entropy = label == c ? shared.entropy : T(0);
    const T dx = softmax_gradient(softmax(x(c)).p, h[c], entropy, shared);
    x(c) = label == kIgnored ? T(0) : dx;
  }
}

// As of count_kernel, but that a softmax without kClasses has a kernel of its own.
template <class Storage, int kClasses>
__global__ void __launch_bounds__(kThreads, kClasses > 4 || sizeof(Storage) == 8 ? 1 : 2)
    backward_kernel(const __grid_constant__ BackwardLaunch launch) {
  using T = Computed<Storage>;
  const Problem& problem = launch.problem;
  const int64_t tiles = problem.items * problem.item_tiles;
  Tile tile(problem, blockIdx.x / tiles, blockIdx.x % tiles);
  tile.align<Storage>(problem.input);
  const auto slopes = [&](int i) {
    return Slopes<T, (kClasses > 0)>(launch, tile.item,
                                     tile.begin + (tile.has(i) ? tile.voxel(i) : 0));
  };
  T x[kClasses > 0 ? kClasses : 1][kVoxels];
  if constexpr (kClasses > 0) {
    const Row<Storage> row(problem.input, tile);
#pragma unroll
    for (int c = 0; c < kClasses; ++c) {
      if (c < problem.channels) row.load(c, x[c]);
    }
  }
  int32_t label[kVoxels];
  read_labels(problem, tile, 0, nullptr, label);
  if constexpr (kClasses > 0) {
#pragma unroll
    for (int i = 0; i < kVoxels; ++i) {
      differentiate<kClasses>(slopes(i), label[i], [&](int c) -> T& { return x[c][i]; });
    }
    const Row<Storage> to(problem.grad, tile);
#pragma unroll
    for (int c = 0; c < kClasses; ++c) {
      if (c < problem.channels) to.store(c, tile, x[c]);
    }
  } else {
#pragma unroll 1
    for (int c = 0; c < problem.channels; ++c) {
      Row<Storage>(problem.input, tile).load(c, x[0]);
      const unsigned foreground = find_foreground(problem, tile, c, label);
#pragma unroll
      for (int i = 0; i < kVoxels; ++i) {
        const T dx = alone(slopes(i), c, x[0][i], (foreground >> i & 1) != 0);
        x[0][i] = label[i] == kIgnored ? T(0) : dx;
      }
      Row<Storage>(problem.grad, tile).store(c, tile, x[0]);
    }
  }
}

// Softmaxes of any number of classes, and with dense targets.
template <class Storage>
__global__ void __launch_bounds__(kMostColumns)
    column_backward_kernel(const __grid_constant__ BackwardLaunch launch) {
  using T = Computed<Storage>;
  const Problem& problem = launch.problem;
  const ColumnVoxel at(problem);
  if (!at.there) return;
  int32_t label = kNoClass;
  if (!problem.dense_target) {
    visit_label(problem.target, item_offset(problem.target, at.item, at.voxel),
                [&](auto value) { label = code_of(problem, value); });
  }
  Storage* const to =
      static_cast<Storage*>(problem.grad.data) + item_offset(problem.grad, at.item, at.voxel);
  if (label == kIgnored) {
    for (int c = 0; c < problem.channels; ++c) {
      to[c * problem.grad.channel_stride] = narrow<Storage>(T(0));
    }
    return;
  }
  const auto is_of = [&](int c) {
    if (!problem.dense_target) return label == c;
    return is_foreground(problem.target, at.item, c, at.voxel);
  };
  const Column<T> x;
  x.template load<Storage>(problem.input, at.item, at.voxel, problem.channels);
  const Softmax<T> softmax(x.statistics(problem.channels));
  const Slopes<T, true> slopes(launch, at.item, at.voxel);
  Shared<T> shared;
#pragma unroll 2
  for (int c = 0; c < problem.channels; ++c) add_shared(slopes, c, x(c), is_of(c), softmax, shared);
#pragma unroll 2
  for (int c = 0; c < problem.channels; ++c) {
    const bool foreground = is_of(c);
    const Error<T> error = error_of(Activation::kSoftmax, x(c), foreground, softmax);
    const T h = slope_of(slopes, c, error, foreground);
    const T entropy = foreground ? slopes.cross_entropy(c) : T(0);
    to[c * problem.grad.channel_stride] =
        narrow<Storage>(softmax_gradient(error.p, h, entropy, shared));
  }
}

void launch_backward(const BackwardLaunch& launch, int columns, cudaStream_t stream) {
  const Problem& problem = launch.problem;
  const auto tiles = static_cast<unsigned>(problem.images * problem.image_tiles());
  const LaunchShape shape{tiles, kThreads, 0, stream};
  visit_long_kernels(problem.input.dtype, [&](auto type) {
    using Storage = typename decltype(type)::type;
    if constexpr (sizeof(Storage) < sizeof(double)) {
      if (keeps_logits(problem)) {
        if (problem.channels <= kFewClasses) {
          return segloss::launch(shape, backward_kernel<Storage, kFewClasses>, launch);
        }
        return segloss::launch(shape, backward_kernel<Storage, kRegisterClasses>, launch);
      }
    }
    if (problem.activation != Activation::kSoftmax) {
      return segloss::launch(shape, backward_kernel<Storage, 0>, launch);
    }
    const int64_t blocks =
        problem.images * problem.items * ((problem.voxels + columns - 1) / columns);
    const size_t bytes = size_t(columns) * problem.channels * sizeof(Computed<Storage>);
    segloss::launch({static_cast<unsigned>(blocks), static_cast<unsigned>(columns), bytes, stream},
                    column_backward_kernel<Storage>, launch);
  });
}

}  // namespace segloss::lovasz::cuda

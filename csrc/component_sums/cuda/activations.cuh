// The statistics of a voxel's softmax, an activated element with its logarithms, and the chain rule
// back through that.
#pragma once

#include "component_sums/cuda/tile.cuh"

namespace segloss::component_sums::cuda {

// Which steps the wanted terms need.
struct Needs {
  bool log_p, log_q, softmax;
  bool others;  // of a softmax: what 1 - p of a voxel's top class comes from

  SL_DEVICE explicit Needs(const Problem& problem, bool forward) {
    log_p = problem.wants(kNll);
    log_q = problem.wants(kNllNeg);
    const bool p = problem.wants(kTp) || problem.wants(kPred) || problem.wants(kPredSq) ||
                   problem.wants(kFp) || problem.wants(kFn);
    softmax = problem.activation == Activation::kSoftmax && (p || log_p || log_q || !forward);
    others = softmax && (log_q || problem.wants(kFn) || !forward);
  }
};

// What all classes of a voxel share. 1 - p of the top class would lose its digits in a difference:
// it comes from the other classes.
template <class T>
struct Voxel {
  T max = -Constants<T>::kInfinity, inverse = 0, log_sum = 0;
  T others_max = -Constants<T>::kInfinity, others_inverse = 0, others_log = 0;
  T top_q = 0;   // 1 - p of the top class
  int top = -1;  // the first class that has the largest logit

  SL_DEVICE void find_top(int c, T x) {
    const bool first = x > max;
    others_max = first ? max : larger_number(others_max, x);
    max = first ? x : max;
    top = first ? c : top;
  }
  SL_DEVICE bool has_others() const { return others_max > -Constants<T>::kInfinity; }
};

template <class T>
struct Sums {
  T all = 0, others = 0;

  SL_DEVICE void add(const Voxel<T>& voxel, int c, T x, bool wants_others) {
    all += exp_nonpositive(x - voxel.max);
    if (wants_others && c != voxel.top) others += exp_nonpositive(x - voxel.others_max);
  }
};

template <class T>
SL_DEVICE void finish_voxel(const Needs& needs, const Sums<T>& sums, Voxel<T>& voxel) {
  voxel.inverse = 1 / sums.all;
  if (needs.log_p || needs.log_q) voxel.log_sum = log_any(sums.all);
  if (!needs.others) return;
  voxel.others_inverse = 1 / sums.others;
  const T below = voxel.others_max - voxel.max;
  voxel.top_q = voxel.has_others() ? exp_nonpositive(below) * sums.others * voxel.inverse : T(0);
  if (!needs.log_q) return;
  voxel.others_log =
      voxel.has_others() ? below + (log_any(sums.others) - voxel.log_sum) : voxel.others_max;
}

// The statistics of the thread's voxels. The second time that a logit is read, here and in the
// passes that follow, the cache has it.
template <class Storage, class T>
SL_DEVICE void find_statistics(const Problem& problem, const Needs& needs, const Tile& tile,
                               const int32_t (&label)[kQuad], Voxel<T> (&voxel)[kQuad]) {
  const int classes = int(problem.channels);
  Sums<T> sums[kQuad];
  T x[kQuad];
#pragma unroll 1
  for (int c = 0; c < classes; ++c) {
    load_logits<Storage>(problem, tile, c, label, x);
#pragma unroll
    for (int i = 0; i < kQuad; ++i) voxel[i].find_top(c, x[i]);
  }
#pragma unroll 1
  for (int c = 0; c < classes; ++c) {
    load_logits<Storage>(problem, tile, c, label, x);
#pragma unroll
    for (int i = 0; i < kQuad; ++i) sums[i].add(voxel[i], c, x[i], needs.others);
  }
#pragma unroll
  for (int i = 0; i < kQuad; ++i) finish_voxel(needs, sums[i], voxel[i]);
}

// q is 1 - p.
template <class T>
struct Activated {
  T p = 0, q = 0;
  T log = 0;  // log p where the voxel is inside, log q where it is not
};

// One logarithm serves all activations: that of 1 + `more`, besides that of probabilities inside.
template <class T>
SL_DEVICE Activated<T> activate(Activation activation, const Needs& needs, T x, int c, bool inside,
                                const Voxel<T>& voxel) {
  Activated<T> a;
  T more = 0;
  if (activation == Activation::kSigmoid) {
    const T e = exp_nonpositive(-absolute(x));
    const T large = reciprocal(1 + e), small = e * large;
    a.p = x >= 0 ? large : small;
    a.q = x >= 0 ? small : large;
    more = e;
  } else {
    const bool softmax = activation == Activation::kSoftmax;
    a.p = softmax ? exp_nonpositive(x - voxel.max) * voxel.inverse : x;
    a.q = softmax && voxel.top == c && needs.others ? voxel.top_q : 1 - a.p;
    more = -a.p;
  }
  if (!(inside ? needs.log_p : needs.log_q)) return a;
  const T log = log_one_plus(more);
  if (activation == Activation::kSigmoid) {
    a.log = smaller(inside ? x : -x, T(0)) - log;
  } else if (activation == Activation::kProbabilities) {
    const T clamped = log < T(-100) ? T(-100) : log;  // as torch's binary cross-entropy
    a.log = inside ? log_probability(x) : clamped;
  } else {
    // The p of the classes that are not the top one is at most half.
    a.log = inside ? (x - voxel.max) - voxel.log_sum : (voxel.top == c ? voxel.others_log : log);
  }
  return a;
}

// dL/dp, dL/d(log p) and dL/d(log q) of an element.
template <class T>
struct Derivatives {
  T g = 0, l = 0, m = 0;
};

// What the classes of a softmax share: with h = dL/d(log p) the gradient is h_c - p_c sum_j h_j.
template <class T>
struct Coupling {
  T dot = 0;    // the sum of h
  T rest = 0;   // but for the top class
  T top_m = 0;  // m of the top class, for which chain() writes down the derivative in each logit
};

// h of class c. log(1 - p) has the derivative -p / (1 - p) in log p, but for the top class.
template <class T>
SL_DEVICE T couple(const Activated<T>& a, const Derivatives<T>& d, int c, const Voxel<T>& voxel,
                   Coupling<T>& sum) {
  const bool top = voxel.top == c;
  T h = a.p * d.g + d.l;
  h += top || d.m == 0 ? T(0) : -d.m * a.p / a.q;
  sum.top_m = top ? d.m : sum.top_m;
  sum.dot += h;
  sum.rest += top ? T(0) : h;
  return h;
}

// dL/dx of an element.
template <class T>
SL_DEVICE T chain(Activation activation, T x, int c, const Voxel<T>& voxel, const Activated<T>& a,
                  const Derivatives<T>& d, const Coupling<T>& shared) {
  if (activation == Activation::kSigmoid) return d.g * a.p * a.q + (d.l * a.q - d.m * a.p);
  if (activation == Activation::kProbabilities) {
    constexpr T kMin = T(1e-12);  // as torch's binary cross-entropy
    return d.g + (d.l / larger(kMin, x) - d.m / larger(kMin, 1 - x));
  }
  Coupling<T> own;
  const T h = couple(a, d, c, voxel, own);
  // Of a class that is nearly certain this is the same with all its digits.
  T dx = voxel.top == c ? h * a.q - a.p * shared.rest : h - a.p * shared.dot;
  if (shared.top_m != 0) {
    // d log(1 - p_top) / d x_c = (c is top ? 0 : softmax of c among the others) - p_c.
    const bool counts = voxel.top != c && voxel.has_others();
    const T share = counts ? exp_nonpositive(x - voxel.others_max) * voxel.others_inverse : T(0);
    dx += shared.top_m * (share - a.p);
  }
  return dx;
}

}  // namespace segloss::component_sums::cuda

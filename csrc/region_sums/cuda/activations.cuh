// Activates one element, with the logarithms, and the chain rule back through that.
#pragma once

#include "region_sums/cuda/plan.cuh"
#include "region_sums/cuda/tile.cuh"

namespace segloss::region_sums::cuda {

// q is 1 - p; "ce" is of the terms with a logarithm.
template <class T>
struct Activated {
  T p = 0;
  T softmax = 0;
  T sigmoid = 0, sigmoid_q = 0;
  T ce_p = 0, ce_q = 0, log_p = 0, log_q = 0;
};

template <class T, class Choice>
SL_DEVICE void activate_sigmoid(const Plan<Choice>& plan, T x, Activated<T>& a) {
  const T e = exp_nonpositive(-absolute(x));
  const T large = reciprocal(1 + e), small = e * large;
  a.sigmoid = x >= 0 ? large : small;
  a.sigmoid_q = x >= 0 ? small : large;
  if (!plan.ce_is(Activation::kSigmoid)) return;
  const T log = log_one_plus(e);
  a.ce_p = a.sigmoid;
  a.ce_q = a.sigmoid_q;
  a.log_p = smaller(x, T(0)) - log;
  a.log_q = smaller(-x, T(0)) - log;
}

template <class T, class Choice>
SL_DEVICE void activate_softmax(const Plan<Choice>& plan, T x, int c, const Voxel<T>& voxel,
                                const VoxelLogs<T>& logs, Activated<T>& a) {
  a.softmax = exp_nonpositive(x - voxel.max) * voxel.inverse;
  if (!plan.ce_is(Activation::kSoftmax)) return;
  a.ce_p = a.softmax;
  a.ce_q = 1 - a.softmax;
  if (plan.log_p()) a.log_p = (x - voxel.max) - logs.log_sum;
  // The p of the classes that are not the top one is at most half.
  if (plan.log_q()) a.log_q = logs.top == c ? logs.others_log : log_one_plus(-a.softmax);
}

template <class T, class Choice>
SL_DEVICE Activated<T> activate(const Plan<Choice>& plan, T x, int c, const Voxel<T>& voxel,
                                const VoxelLogs<T>& logs) {
  Activated<T> a;
  if (plan.uses(Activation::kSoftmax)) activate_softmax(plan, x, c, voxel, logs, a);
  if (plan.uses(Activation::kSigmoid)) activate_sigmoid(plan, x, a);
  if (plan.ce_is(Activation::kProbabilities)) {
    a.ce_p = x;
    a.ce_q = 1 - x;
    a.log_p = log_probability(x);
    a.log_q = x < T(0.5) ? log_one_plus(-x) : log_probability(1 - x);
  }
  const Activation activation = plan.activation();
  a.p = activation == Activation::kSoftmax ? a.softmax
                                           : (activation == Activation::kSigmoid ? a.sigmoid : x);
  return a;
}

// dL/dp, dL/d(log p) and dL/d(log q) of one element.
template <class T>
struct Derivatives {
  T g = 0, l = 0, m = 0;
};

// What the softmax's classes share of one voxel's derivatives: with h = dL/d(log p) the gradient is
// dx_k = h_k - p_k sum_j h_j.
template <class T>
struct Coupling {
  T dot = 0;    // the sum of h
  T top_m = 0;  // m of the top class, see couple
};

// h of class c. log(1 - p) has the derivative -p / (1 - p) in log p; but for the top class, whose
// 1 - p may vanish, chain() writes down the derivative in each logit, and here its m is only kept.
template <class T, class Choice>
SL_DEVICE T couple(const Plan<Choice>& plan, const Activated<T>& a, const Derivatives<T>& d, int c,
                   int top, Coupling<T>& sum) {
  T h = 0;
  if (plan.region_is(Activation::kSoftmax)) h += a.p * d.g;
  if (plan.ce_is(Activation::kSoftmax) && plan.log_p()) h += d.l;
  if (plan.others()) {
    h += top == c ? T(0) : -d.m * a.softmax / (1 - a.softmax);
    sum.top_m = top == c ? d.m : sum.top_m;
  }
  sum.dot += h;
  return h;
}

// dL/dx of one element, from its own h and what the voxel's classes share.
template <class T, class Choice>
SL_DEVICE T chain(const Plan<Choice>& plan, T x, int c, [[maybe_unused]] const Voxel<T>& voxel,
                  const VoxelLogs<T>& logs, const Activated<T>& a, const Derivatives<T>& d,
                  const Coupling<T>& shared) {
  T dx = 0;
  const T g = plan.region_is(Activation::kSoftmax) ? T(0) : d.g;
  const bool log_of_softmax = plan.ce_is(Activation::kSoftmax);
  const T l = log_of_softmax ? T(0) : d.l, m = log_of_softmax ? T(0) : d.m;
  if (plan.uses(Activation::kSigmoid)) {
    dx += g * a.sigmoid * a.sigmoid_q + (l * a.sigmoid_q - m * a.sigmoid);
  }
  if (plan.uses(Activation::kProbabilities)) {
    constexpr T kMin = T(1e-12);  // as torch's binary cross-entropy
    dx += g + (l / larger(kMin, x) - m / larger(kMin, 1 - x));
  }
  if (!plan.softmax()) return dx;
  Coupling<T> own;
  const T h = couple(plan, a, d, c, logs.top, own);
  dx += h - a.softmax * shared.dot;
  if (plan.others()) {
    // d log(1 - p_top) / d x_c = (c is top ? 0 : softmax of c among the others) - p_c.
    const bool counts = logs.top != c && logs.others_max > -Constants<T>::kInfinity;
    const T share = counts ? exp_nonpositive(x - logs.others_max) * logs.others_inverse : T(0);
    dx += shared.top_m * (share - a.softmax);
  }
  return dx;
}

}  // namespace segloss::region_sums::cuda

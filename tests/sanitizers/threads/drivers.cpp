// Runs the native operators on several threads, without torch, in a build that watches for races.
//
// drivers [set=NAME] NAME... runs those of these primitives, on that instruction set or the best
// one below it; "planted" has a race. Prints what it ran. All problems are large enough for several
// tasks. Results must be the same for any number of threads.
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>

#include <cstdio>
#include <functional>
#include <optional>
#include <random>
#include <string>
#include <tuple>

#include "cpu_capability.h"

namespace {

using torch::stable::empty;
using torch::stable::ScalarType;
using torch::stable::Tensor;
using Maybe = std::optional<Tensor>;
using Index = std::optional<int64_t>;
using Ints = std::vector<int64_t>;
using Doubles = std::vector<double>;
using Two = std::tuple<Tensor, Tensor>;

constexpr int64_t kBatch = 2, kClasses = 3, kSide = 40;
const Ints kSpace = {20, kSide, kSide};
std::mt19937 generator(0);

template <class T>
Tensor filled(Ints sizes, ScalarType dtype, const std::function<T()>& next) {
  Tensor tensor = empty(sizes, dtype);
  auto* const data = static_cast<T*>(tensor.mutable_data_ptr());
  for (int64_t i = 0; i < tensor.numel(); ++i) data[i] = next();
  return tensor;
}

Ints shape(int64_t channels) {
  Ints sizes = {kBatch};
  if (channels > 0) sizes.push_back(channels);
  sizes.insert(sizes.end(), kSpace.begin(), kSpace.end());
  return sizes;
}

Tensor logits() {
  std::normal_distribution<float> normal;
  return filled<float>(shape(kClasses), ScalarType::Float, [&] { return normal(generator); });
}

// In runs, as masks are.
Tensor labels(ScalarType dtype, int64_t channels, uint32_t count) {
  uint32_t value = 0;
  const auto next = [&] { return generator() % 6 == 0 ? value = generator() % count : value; };
  if (dtype == ScalarType::Byte) {
    return filled<uint8_t>(shape(channels), dtype, [&] { return uint8_t(next()); });
  }
  return filled<int32_t>(shape(channels), dtype, [&] { return int32_t(next()); });
}

Tensor ones(Ints sizes, ScalarType dtype = ScalarType::Double) {
  if (dtype == ScalarType::Float) return filled<float>(sizes, dtype, [] { return 1.0f; });
  return filled<double>(sizes, dtype, [] { return 1.0; });
}

template <class Signature>
Signature* op(const char* name) {
  return torch::stable::library().get<Signature>(name);
}

// Remembers the bytes of results, so that those of other numbers of threads can be compared.
class Results {
 public:
  void add(const Tensor& tensor) {
    const char* const data = static_cast<const char*>(tensor.const_data_ptr());
    bytes_.append(data, size_t(tensor.numel() * tensor.element_size()));
  }
  bool operator==(const Results& other) const { return bytes_ == other.bytes_; }
  size_t size() const { return bytes_.size(); }

 private:
  std::string bytes_;
};

void region_sums(Results& to) {
  using Tensors = std::vector<Tensor>;
  auto* const forward =
      op<Two(Tensors, Tensors, Tensors, Ints, int64_t, int64_t, double, Index)>("_region_sums");
  auto* const backward =
      op<Tensors(Tensor, Tensors, Tensors, Tensors, Ints, int64_t, int64_t, double, Index)>(
          "_region_sums_backward");
  const Tensors x = {logits()}, t = {labels(ScalarType::Byte, 0, kClasses)};
  for (const int64_t activation : {0, 1}) {
    const auto [rows, invalid] = forward(x, t, {}, {0, 1, 2}, activation, activation, 2, 1);
    to.add(rows);
    const Tensor grad = ones(rows.sizes());
    to.add(backward(grad, x, t, {}, {0, 1, 2}, activation, activation, 2, 1)[0]);
  }
}

void lovasz(Results& to) {
  const Tensor x = logits(), t = labels(ScalarType::Byte, 0, kClasses);
  for (const bool per_image : {false, true}) {
    const auto [counts, rows, invalid] = op<std::tuple<Tensor, Tensor, Tensor>(
        Tensor, Tensor, int64_t, int64_t, int64_t, bool, Index, bool)>("_lovasz_count")(
        x, t, 0, 9, 4, per_image, 1, true);
    to.add(counts);
    const auto [loss, table] = op<Two(Tensor, Tensor, int64_t, int64_t, int64_t, bool)>(
        "_lovasz_scan")(counts, rows, 0, 9, 4, false);
    to.add(loss);
    to.add(op<Tensor(Tensor, Tensor, Maybe, Tensor, Tensor, int64_t, int64_t, int64_t, Index)>(
        "_lovasz_backward")(table, ones(loss.sizes()), std::nullopt, x, t, 0, 9, 4, 1));
    const auto [exact, more, bad, g] = op<std::tuple<Tensor, Tensor, Tensor, Tensor>(
        Tensor, Tensor, int64_t, bool, Index, bool, bool)>("_lovasz_sort")(x, t, 0, per_image, 1,
                                                                           true, true);
    to.add(exact);
    to.add(g);
    to.add(op<Tensor(Tensor, Tensor, Maybe, Tensor, Tensor, int64_t, Index)>(
        "_lovasz_sort_backward")(g, ones(exact.sizes()), std::nullopt, x, t, 0, 1));
  }
}

void distance_transform(Results& to) {
  const Tensor mask = labels(ScalarType::Byte, kClasses, 2);
  auto* const forward = op<Tensor(Tensor, Doubles, int64_t, bool, bool)>("_distance_transform");
  for (const int64_t side : {0, 1, 2, 3}) to.add(forward(mask, {1, 1, 2.5}, side, false, false));
  const Tensor sum = forward(mask, {1, 1, 2.5}, 2, true, true);
  op<void(Tensor, Tensor, Doubles, int64_t, bool)>("_distance_transform_add")(sum, mask,
                                                                              {1, 1, 2.5}, 2, true);
  to.add(sum);
  auto* const nearest = op<std::tuple<Tensor, Tensor, Tensor>(Tensor, Doubles, double, bool)>(
      "_distance_transform_nearest");
  const auto [found, distance, verdict] =
      nearest(labels(ScalarType::Int, 1, 9), {1, 1, 1}, 1, true);
  to.add(found);
  to.add(distance);
}

void connected_components(Results& to) {
  auto* const forward =
      op<std::tuple<Tensor, Tensor, Tensor, Tensor>(Tensor, int64_t, bool, Index, Ints)>(
          "_connected_components");
  // Of several slabs, which are joined, and of many masks.
  const Tensor mask = filled<uint8_t>({1, 1, 16, 180, 200}, ScalarType::Byte,
                                      [] { return uint8_t(generator() % 3 == 0); });
  for (const int64_t differing : {1, 3}) {
    const auto [components, count, value, wide] =
        forward(mask, differing, false, std::nullopt, {0, 1, 2});
    to.add(components);
    to.add(count);
  }
  const auto [components, count, value, wide] =
      forward(labels(ScalarType::Int, 1, 3), 2, true, 1, {2, 0, 1});
  to.add(components);
  to.add(value);
}

void component_sums(Results& to) {
  const Tensor x = logits(), t = labels(ScalarType::Byte, 0, kClasses);
  const Tensor bins = labels(ScalarType::Int, 1, 8);
  auto* const forward =
      op<Two(Tensor, Tensor, Tensor, Maybe, int64_t, int64_t, Ints, Index)>("_component_sums");
  auto* const backward =
      op<Tensor(Tensor, Tensor, Tensor, Tensor, Maybe, int64_t, int64_t, Ints, Index)>(
          "_component_sums_backward");
  const auto [rows, invalid] = forward(x, t, bins, std::nullopt, 7, 0, {0, 1, 4}, 1);
  to.add(rows);
  to.add(backward(ones(rows.sizes()), x, t, bins, std::nullopt, 7, 0, {0, 1, 4}, 1));
}

void confusion_sums(Results& to) {
  const Tensor x = logits(), t = labels(ScalarType::Byte, 0, kClasses);
  const auto [sums, invalid] =
      op<Two(Tensor, Tensor, Maybe, int64_t, Index)>("_confusion_sums")(x, t, std::nullopt, 0, 1);
  to.add(sums);
  to.add(op<Tensor(Tensor, Tensor, Tensor, Maybe, int64_t, Index)>("_confusion_sums_backward")(
      ones(sums.sizes()), x, t, std::nullopt, 0, 1));
}

void hardest_voxels(Results& to) {
  const auto [map, selected] =
      op<Two(Tensor, Tensor, Maybe, Maybe, double, int64_t, int64_t, Index)>("_hardest_voxels")(
          logits(), labels(ScalarType::Byte, 0, kClasses), std::nullopt, std::nullopt, 10, 0, 0, 1);
  to.add(map);
  to.add(selected);
}

void region_masks(Results& to) {
  to.add(op<Tensor(Tensor, Maybe, int64_t, int64_t, Index, int64_t)>("_region_masks")(
      logits(), std::nullopt, kClasses, 0, std::nullopt, 0));
}

void soft_skeleton(Results& to) {
  const Tensor x = logits();
  to.add(op<Tensor(Tensor, int64_t, int64_t)>("_soft_skeleton")(x, 3, 0));
  to.add(op<Tensor(Tensor, Tensor, int64_t, int64_t)>("_soft_skeleton_backward")(
      ones(x.sizes(), ScalarType::Float), x, 3, 0));
}

void structural_error(Results& to) {
  const Tensor x = logits(), t = logits();
  to.add(op<Tensor(Tensor, Tensor, int64_t, double, double, int64_t)>("_structural_error")(
      x, t, 3, 1.5, 0.01, 0));
  to.add(op<Tensor(Tensor, Tensor, Tensor, int64_t, double, double, int64_t)>(
      "_structural_error_backward")(ones(x.sizes(), ScalarType::Float), x, t, 3, 1.5, 0.01, 0));
}

void planted(Results& to) {
  Tensor count = ones({1});
  auto* const shared = static_cast<double*>(count.mutable_data_ptr());
  torch::stable::parallel_for(0, 4, 1, [&](int64_t, int64_t) { *shared = 7; });
  to.add(count);
}

const std::map<std::string, void (*)(Results&)> kDrivers = {
    {"region_sums", region_sums},
    {"lovasz", lovasz},
    {"distance_transform", distance_transform},
    {"connected_components", connected_components},
    {"component_sums", component_sums},
    {"confusion_sums", confusion_sums},
    {"hardest_voxels", hardest_voxels},
    {"region_masks", region_masks},
    {"soft_skeleton", soft_skeleton},
    {"structural_error", structural_error},
    {"planted", planted}};

void choose_set(const std::string& name) {
  using segloss::CpuCapability;
  const bool chosen = segloss::set_cpu_capability(name == "avx512" ? CpuCapability::kAvx512
                                                  : name == "avx2" ? CpuCapability::kAvx2
                                                                   : CpuCapability::kBaseline);
  std::printf("set=%s: %s\n", name.c_str(), chosen ? "chosen" : "not here");
}

}  // namespace

int main(int argc, char** argv) {
  for (int i = 1; i < argc; ++i) {
    const std::string name = argv[i];
    if (name.starts_with("set=")) {
      choose_set(name.substr(4));
      continue;
    }
    Results one;
    for (const int threads : {1, 2, 5}) {
      torch::stable::threads = threads;
      generator.seed(0);
      Results found;
      kDrivers.at(name)(found);
      if (threads == 1) one = found;
      if (!(found == one)) {
        std::printf("%s: other results on %d threads\n", name.c_str(), threads);
        return 1;
      }
    }
    std::printf("%s: %zu bytes of results\n", name.c_str(), one.size());
  }
  return 0;
}

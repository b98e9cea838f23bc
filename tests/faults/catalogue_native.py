"""The faults of the native module: its kernels for the CPU, and what leads to them."""

from __future__ import annotations

from tests.faults.fault import Fault

FUSED = ("tests/ops/test_region_sums_fused.py",)
FORMULA = ("tests/ops/test_formula.py",)
FUSED_COMPONENTS = ("tests/ops/test_component_sums_fused.py",)
FUSED_LOVASZ = ("tests/ops/test_lovasz_fused.py",)
SORTED_LOVASZ = ("tests/ops/test_lovasz_sort.py",)
LOVASZ = ("tests/ops/test_lovasz_steps.py",)
NEAREST = ("tests/ops/test_nearest_component.py",)
DISTANCES = ("tests/ops/test_distance_transform.py", "tests/ops/test_distance_transform_op.py")

# Faults of one primitive stand together: the module is built once for the end of one and the
# begin of the next. What all primitives share comes last: it takes a whole build.
NATIVE_FAULTS = (
    Fault(
        "native-region-sums-one-ignored-voxel",
        "csrc/region_sums/block.inc",
        "if (labels.ignored == 0) return;",
        "if (labels.ignored <= 1) return;",
        (
            "tests/test_conformance.py",
            "tests/ops/test_region_sums.py",
            "-k",
            "test_region_sums or DiceCELoss",
        ),
    ),
    Fault(
        "native-not-a-number-comes-to-ignored",
        "csrc/region_sums/passes.inc",
        "if (!(absolute(k[c]) < kLarge)) return true;",
        "if (absolute(k[c]) >= kLarge) return true;",
        ("tests/ops/test_region_sums_ignored.py",),
    ),
    Fault(
        "native-fused-cross-entropy-gradient",
        "csrc/region_sums/fused.inc",
        "dot = dot * inverse - l;",
        "dot = dot * inverse;",
        FUSED,
    ),
    Fault(
        "native-fused-not-a-number",
        "csrc/region_sums/fused_blocks.inc",
        "if (any != any) return false;",
        "if (any != any && c < 0) return false;",
        FUSED,
    ),
    Fault(
        "native-fused-tail-of-a-row",
        "csrc/region_sums/fused_blocks.inc",
        "smaller(left, smaller(s.voxels, kFusedVoxels)) / kWidth * kWidth;",
        "(smaller(left, smaller(s.voxels, kFusedVoxels)) + kWidth - 1) / kWidth * kWidth;",
        FUSED,
    ),
    Fault(
        "native-formula-largest-of-a-nan",
        "csrc/formula/program.cpp",
        "return a > b || std::isnan(a) ? a : b;",
        "return a > b ? a : b;",
        FORMULA,
    ),
    Fault(
        "native-formula-last-element-outside",
        "csrc/formula/program.cpp",
        "if (last >= sizes_.array) return false;",
        "if (last > sizes_.array) return false;",
        FORMULA,
    ),
    Fault(
        "native-formula-number-not-rounded",
        "csrc/formula/program.cpp",
        "step.rounds ? static_cast<float>(value) : value;",
        "value;",
        FORMULA,
    ),
    Fault(
        "native-step-gradient-of-the-number",
        "csrc/region_sums/step.cpp",
        "for (double& value : scaled) value *= scale;",
        "for (double& value : scaled) value *= scale > 0;",
        ("tests/losses/test_ready_autograd.py",),
    ),
    Fault(
        "native-lovasz-bin-of-one-half",
        "csrc/lovasz/bins.inc",
        "const bool low = error.m < error.complement;",
        "const bool low = error.m <= error.complement;",
        LOVASZ,
    ),
    Fault(
        "native-lovasz-cross-entropy-gradient",
        "csrc/lovasz/backward.inc",
        "dx[v] += both.p * (total[v] - own) - own * both.q;",
        "dx[v] += both.p * total[v] - own * both.q;",
        LOVASZ,
    ),
    Fault(
        "native-lovasz-fused-bin-near-one-half",
        "csrc/lovasz/fused.inc",
        "choose(inner, coder.half - 1 - k, k)",
        "choose(inner, coder.half - k, k)",
        FUSED_LOVASZ,
    ),
    Fault(
        "native-lovasz-fused-sign-of-the-foreground",
        "csrc/lovasz/fused.inc",
        "h[c] = choose(here, -h[c], h[c]);",
        "h[c] = choose(here, h[c], h[c]);",
        FUSED_LOVASZ,
    ),
    Fault(
        "native-lovasz-sort-packs-too-many",
        "csrc/lovasz/sort.cpp",
        "if (bucket.count <= int64_t(1) << place_bits) {",
        "if (bucket.count <= int64_t(2) << place_bits) {",
        SORTED_LOVASZ,
    ),
    Fault(
        "native-lovasz-sort-pairs-as-singles",
        "csrc/lovasz/increments.inc",
        "first + double(1 + either)",
        "first + double(1)",
        SORTED_LOVASZ,
    ),
    Fault(
        "native-lovasz-sort-row-cuts-equal-errors",
        "csrc/lovasz/sort.cpp",
        "while (n > 0 && are_equal(codec, data[n - 1], data[n])) --n;",
        "",
        SORTED_LOVASZ,
    ),
    Fault(
        "native-distance-last-row",
        "csrc/distance_transform/minimum.inc",
        "k <= below",
        "k < below",
        DISTANCES,
    ),
    Fault(
        "native-distance-stride",
        "csrc/distance_transform/rows.inc",
        "inside[i] = Bits(from[i * stride] << shift) != 0;",
        "inside[i] = Bits(from[i] << shift) != 0;",
        DISTANCES,
    ),
    Fault(
        "native-nearest-search-ends-before-ties",
        "csrc/distance_transform/nearest_lanes.inc",
        "_CMP_GE_OQ",
        "_CMP_GT_OQ",
        NEAREST,
    ),
    Fault(
        "native-nearest-label-too-large-for-a-key",
        "csrc/distance_transform/nearest_binding.cpp",
        "problem->limit = (uint32_t(1) << bits) - 1;",
        "problem->limit = uint32_t(1) << bits;",
        ("tests/ops/test_nearest_component_limits.py",),
    ),
    Fault(
        "native-confusion-gradient-of-the-last-of-four",
        "csrc/confusion_sums/chunk.inc",
        "upper = index[v] == 2 ? k2 : k3;",
        "upper = index[v] >= 2 ? k2 : k3;",
        ("tests/ops/test_confusion_sums.py",),
    ),
    Fault(
        "native-confusion-tail-of-a-row",
        "csrc/confusion_sums/chunk.inc",
        "at(l, c) += dot_rows(t, block.p[c], block.n);",
        "at(l, c) += dot_rows(t, block.p[c], block.s.voxels);",
        ("tests/ops/test_confusion_sums.py",),
    ),
    Fault(
        "native-skeleton-relu-at-zero",
        "csrc/soft_skeleton/gradients.inc",
        "const T passed = d[v] > known ? g[v] : T(0);",
        "const T passed = d[v] >= known ? g[v] : T(0);",
        ("tests/ops/test_soft_skeleton.py",),
    ),
    Fault(
        "native-structural-rounding-of-another-axis",
        "csrc/structural_error/sweeps.inc",
        "correct(dv2, rings.values.rest2.at(z), area, dm2);",
        "correct(dv2, rings.values.rest1.at(z), area, dm2);",
        ("tests/ops/test_structural_error.py",),
    ),
    Fault(
        "native-component-sums-lanes-of-the-next-run",
        "csrc/component_sums/sides.inc",
        "if (v < end) add(v, first_lanes(end - v));",
        "if (v < end) add(v, first_lanes(kWidth));",
        FUSED_COMPONENTS,
    ),
    Fault(
        "native-component-sums-squares-of-the-other-class",
        "csrc/component_sums/fused.inc",
        "other_square = 2 * k(0, kPredSq);",
        "other_square = k(0, kPredSq);",
        FUSED_COMPONENTS,
    ),
    Fault(
        "native-component-sums-first-classes-twice",
        "csrc/component_sums/fused.inc",
        "if (problem.channels > 1) good = are_finite(x[c], n);",
        "if (problem.channels > 3) good = are_finite(x[c], n);",
        FUSED_COMPONENTS,
    ),
    Fault(
        "native-components-known-by-a-row-that-does-not-touch",
        "csrc/connected_components/unite.inc",
        "meet(kForth, 2, across, nullptr);",
        "meet(kForth, 2, across, beside);",
        ("tests/ops/test_connected_components.py",),
    ),
    Fault(
        "native-components-place-in-another-slab",
        "csrc/connected_components/number.cpp",
        "place[top] = std::min(place[top], place[root]);",
        "place[top] = std::max(place[top], place[top]);",
        ("tests/ops/test_connected_components_limits.py",),
    ),
    Fault(
        "native-labels-of-one-class-below-zero",
        "csrc/voxels/labels.inc",
        "valid = (value == 0) | (value == 1);",
        "valid = value <= 1;",
        ("tests/ops/test_one_class.py",),
    ),
    Fault(
        "native-classes-past-32-bits",
        "csrc/voxels/labels.inc",
        "const bool fits = sizeof(Storage) < 8 || uint64_t(all) >> 32 == 0;",
        "const bool fits = sizeof(Storage) <= 8 || uint64_t(all) >> 32 == 0;",
        FUSED,
    ),
    Fault(
        "native-values-above-one",
        "csrc/voxels/labels.inc",
        "valid = (value >= 0) & (value <= 1);",
        "valid = value >= 0;",
        ("tests/ops/test_one_class.py", "tests/test_conformance_one_class.py"),
    ),
    Fault(
        "native-last-invalid-label",
        "csrc/voxels/chunks.h",
        "if (all.count == 0) all.first = found.first;",
        "if (found.count > 0) all.first = found.first;",
        ("tests/ops/test_region_sums_targets.py",),
    ),
)

"""The faults of what is not in the native module: formulas, references, Triton and CUDA kernels."""

from __future__ import annotations

from tests.faults.fault import Fault

CONFORMANCE = "tests/test_conformance.py"

NEAREST = ("tests/ops/test_nearest_component.py", "tests/ops/test_nearest_component_limits.py")
COMPONENTS = (
    "tests/ops/test_connected_components.py",
    "tests/ops/test_connected_components_limits.py",
)

LOSSES = (
    Fault(
        "tversky-weights-swapped",
        "segloss_fast/losses/tversky.py",
        "alpha, beta = weights",
        "beta, alpha = weights",
        (CONFORMANCE, "-k", "Tversky"),
    ),
    Fault(
        "generalized-dice-least-weight-for-absent",
        "segloss_fast/losses/generalized_dice.py",
        "absent = factors[:, start:].amax(1, keepdim=True)",
        "absent = factors[:, start:].amin(1, keepdim=True)",
        (CONFORMANCE, "-k", "GeneralizedDice"),
    ),
    Fault(
        "compiled-gradient-of-what-was-clamped",
        "segloss_fast/ops/region_sums/graphs.py",
        "return found.masked_fill_(clamped != input, 0)",
        "return found",
        ("tests/compat/test_compiled.py",),
    ),
    Fault(
        "matthews-small-count-by-difference",
        "segloss_fast/losses/matthews.py",
        'part = Part(("tp", "fp", "fn", "target", "weight"), value)',
        """part = Part(
        ("tp", "pred", "fn", "target", "weight"),
        lambda s: value(
            RegionSums(
                ("tp", "fp", "fn", "target", "weight"),
                torch.stack([s.tp, s.pred - s.tp, s.fn, s.target, s.weight]),
            )
        ),
    )""",
        ("tests/losses/test_extremes.py", "-k", "MCC"),
    ),
    Fault(
        "class-weights-counted-once",
        "segloss_fast/losses/_reduce.py",
        "weight.expand_as(loss).sum()",
        "weight.sum()",
        (CONFORMANCE, "-k", "HausdorffDTLoss or BoundaryLoss"),
    ),
    Fault(
        "background-in-the-mean",
        "segloss_fast/losses/_reduce.py",
        "parts, norm = parts[:, 1:], norm[:, 1:]",
        "parts, norm = parts[:, 1:], norm",
        (CONFORMANCE, "-k", "CrossEntropyLoss"),
    ),
    Fault(
        "absent-kept-beside-class-weights",
        "segloss_fast/losses/_reduce.py",
        "weight = present if weight is None else weight * present",
        "weight = present if weight is None else weight",
        (CONFORMANCE, "-k", "JaccardLoss"),
    ),
    Fault(
        "focal-alpha-for-both-sides",
        "segloss_fast/losses/distribution.py",
        "negative = 1 - alpha if",
        "negative = alpha if",
        (CONFORMANCE, "-k", "FocalLoss"),
    ),
    Fault(
        "boundary-largest-step",
        "segloss_fast/losses/fields.py",
        "step = min(spacing) if",
        "step = max(spacing) if",
        ("tests/losses/test_boundary.py",),
    ),
    Fault(
        "hausdorff-exponent-of-a-given-field",
        "segloss_fast/losses/boundary.py",
        "weight.add_(known.pow(alpha))",
        "weight.add_(known.pow(alpha / 2))",
        ("tests/losses/test_boundary.py", CONFORMANCE, "-k", "Hausdorff or test_boundary"),
    ),
    Fault(
        "wasserstein-matrix-not-scaled",
        "segloss_fast/losses/wasserstein.py",
        "return distances / distances.max()",
        "return distances",
        (CONFORMANCE, "-k", "Wasserstein"),
    ),
    Fault(
        "lovasz-listed-classes-only-if-present",
        "segloss_fast/losses/lovasz.py",
        'if keywords.classes == "present":',
        'if keywords.classes != "all":',
        ("tests/losses/test_lovasz.py",),
    ),
    Fault(
        "sync-gradient-of-one-rank",
        "segloss_fast/_collective.py",
        "return exchange(grad, (sums, *others), ctx.group), *[None] * ctx.rest",
        "return grad, *[None] * ctx.rest",
        ("tests/losses/test_sync.py",),
    ),
    Fault(
        "sync-keeps-items-of-other-ranks-apart",
        "segloss_fast/losses/_keywords.py",
        "return self.batch or (self.sync is not False and not self.shards)",
        "return self.batch",
        ("tests/losses/test_sync.py",),
    ),
    Fault(
        "sync-header-compares-nothing",
        "segloss_fast/_collective.py",
        "h * h != beside * ranks",
        "h * h > beside * ranks",
        ("tests/losses/test_sync.py",),
    ),
    Fault(
        "sync-sums-depend-on-the-share",
        "segloss_fast/losses/region.py",
        "        keywords.sync is not False\n        or keywords.ignore_index is not None",
        "        keywords.ignore_index is not None",
        ("tests/losses/test_sync.py",),
    ),
)

REFERENCES = (
    Fault(
        "reference-not-a-number-comes-to-ignored",
        "segloss_fast/ops/region_sums/reference.py",
        "bool((grad.abs() < 1e30).all())",
        "not bool(grad.isinf().any())",
        ("tests/ops/test_region_sums_ignored.py",),
    ),
    Fault(
        "reference-nearest-any-label-of-a-tie",
        "segloss_fast/ops/distance_transform/nearest_reference.py",
        "torch.where(ties, labels[part[0], None], MOST).amin(-1)",
        "torch.where(ties, labels[part[0], None], 0).amax(-1)",
        ("tests/ops/test_nearest_component.py",),
    ),
    Fault(
        "reference-wrong-factor-for-infinite-logarithms",
        "segloss_fast/ops/region_sums/reference_maps.py",
        "return self.others * finite_or_masked(value, self.others)",
        "return self.others * finite_or_masked(value, self.values)",
        (
            "tests/ops/test_region_sums_limits.py",
            "tests/test_conformance_edges.py",
            "-k",
            "region_sums or CrossEntropyLoss",
        ),
    ),
    Fault(
        "reference-lovasz-ties",
        "segloss_fast/ops/lovasz/reference.py",
        "key.roll(1, -1)",
        "key.roll(-1, -1)",
        ("tests/ops/test_lovasz.py",),
    ),
    Fault(
        "reference-topk-ties",
        "segloss_fast/ops/hardest_voxels/reference.py",
        "above, ties = keys > threshold,",
        "above, ties = keys >= threshold,",
        ("tests/ops/test_hardest_voxels.py",),
    ),
    Fault(
        "reference-components-neighbours-across-corners",
        "segloss_fast/ops/connected_components/reference.py",
        "if 0 < sum(map(abs, step)) <= differing",
        "if 0 < max(map(abs, step)) <= differing",
        ("tests/ops/test_connected_components.py", "-k", "small_masks"),
    ),
)

TRITON = (
    Fault(
        "triton-region-sums-order-of-rows",
        "segloss_fast/ops/region_sums/triton_backward.py",
        "row_of(order_low, order_high, rank(formula.TERMS, k))",
        "row_of(order_low, order_high, k)",
        ("tests/ops/test_region_sums.py",),
        "all",
        interpreted=True,
    ),
    Fault(
        "triton-region-sums-products-overflow",
        "segloss_fast/ops/_triton/tiling.py",
        "EXPONENT = 126",
        "EXPONENT = 300",
        ("tests/ops/test_region_sums_labels_interpreted.py", "-k", "products"),
        "all",
        interpreted=True,
    ),
    Fault(
        "triton-lovasz-tied-classes",
        "segloss_fast/ops/lovasz/triton_backward.py",
        "alone = is_top & (stats[2] == 1)[None, :]",
        "alone = is_top",
        ("tests/ops/test_lovasz_collapsed.py",),
        "all",
        interpreted=True,
    ),
    Fault(
        "triton-distance-not-squared",
        "segloss_fast/ops/distance_transform/triton_kernels.py",
        "cost = apart.to(tl.float32) * apart.to(tl.float32) * weight",
        "cost = apart.to(tl.float32) * weight",
        ("tests/ops/test_distance_transform_limits.py",),
        "all",
        interpreted=True,
    ),
    Fault(
        "triton-nearest-greater-label-of-two",
        "segloss_fast/ops/distance_transform/triton_nearest.py",
        "tl.minimum(left, right)",
        "tl.maximum(left, right)",
        NEAREST,
        "all",
        interpreted=True,
    ),
)

CUDA = (
    Fault(
        "cuda-region-sums-wrong-partial-sums",
        "csrc/region_sums/cuda/backward.cuh",
        "shared.top_m = sum_of_shares(launch, lane, s.partial + 3 * kThreads);",
        "shared.top_m = sum_of_shares(launch, lane, s.partial + 2 * kThreads);",
        ("tests/ops/test_region_sums.py", "-k", "shim"),
        "all",
    ),
    Fault(
        "cuda-lovasz-increment-not-shared",
        "csrc/lovasz/cuda/increments.cuh",
        "double(foreground) * (1 / u - of_foreground) / double(background);",
        "double(foreground) * (1 / u - of_foreground);",
        ("tests/ops/test_lovasz_bins.py", "-k", "shim"),
        "all",
    ),
    Fault(
        "cuda-nearest-search-ends-before-ties",
        "csrc/distance_transform/cuda/ways.cuh",
        "return cost <= square(best);",
        "return cost < square(best);",
        (*NEAREST, "-k", "shim"),
        "all",
    ),
    Fault(
        "cuda-region-masks-one-half",
        "csrc/region_masks/cuda/masks.cu",
        "return sum < 2 &&",
        "return sum <= 2 &&",
        ("tests/ops/test_region_masks.py", "-k", "shim"),
        "all",
    ),
    Fault(
        "cuda-components-piece-of-the-next-word",
        "csrc/connected_components/cuda/unite.cu",
        "pieces->next |= first;",
        "pieces->next |= first & 1;",
        (*COMPONENTS, "-k", "shim"),
        "all",
    ),
)

FAULTS = (*LOSSES, *REFERENCES, *TRITON, *CUDA)

"""region_sums as callers see it: the checks and the choice of implementation."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from segloss_fast import _check
from segloss_fast._impl import resolve, transforms_active
from segloss_fast.ops._voxels.checks import check_target, check_voxel_weight
from segloss_fast.ops._voxels.labels import marked
from segloss_fast.ops.region_sums import op, reference
from segloss_fast.ops.region_sums.intercept import answering
from segloss_fast.ops.region_sums.options import Options, options_of
from segloss_fast.ops.region_sums.record import RegionSums

REGISTER_CLASSES = 32  # up to so many, the Triton kernels hold a voxel's classes in registers
TILE_CLASSES = 128  # and up to so many in a tile, which a kernel for these terms makes lean
OF_OWN_CLASS = frozenset(
    {"tp", "fp", "fn", "pred", "target", "target_sq", "nll", "nll_pow", "focal"}
)

WEIGHTS = (*_check.FLOATING, *_check.BYTES)  # the dtypes of weights that implementations take


def region_sums(
    input: Tensor,
    target: Tensor,
    *,
    activation: str = "softmax",
    terms: Sequence[str] = ("tp", "pred", "target"),
    gamma: float | None = None,
    ce_activation: str | None = None,
    voxel_weight: Tensor | None = None,
    ignore_index: int | None = None,
    impl: str = "auto",
) -> RegionSums:
    """Activate the input and sum it against the target over all voxels.

    >>> sums = segloss_fast.region_sums(torch.zeros(1, 2, 4), torch.tensor([[0, 0, 0, 1]]))
    >>> sums.tp
    tensor([[1.5000, 0.5000]], dtype=torch.float64)

    The formulas stand in the docstring of :mod:`segloss_fast.ops.region_sums`.

    Differentiable in ``input``; in a floating-point dense ``target`` and in ``voxel_weight``
    through the reference. Double backward is an error except in the reference.

    Args:
        input: ``[B, C, *S]``, S of one to three dimensions, any strides; float16, bfloat16, float32
            or float64. Logits, or probabilities in [0, 1].
        target: Class indices ``[B, *S]`` or ``[B, 1, *S]`` in [0, C), bool, uint8, int8 to int64 or
            floating point; or one-hot, multi-label or soft values ``[B, C, *S]`` of any of these
            dtypes. For C = 1 truth values and integers are labels, 0 and 1; a floating-point target
            of either shape holds values in [0, 1].
        activation: ``"softmax"`` over the classes, ``"sigmoid"``, or ``"probabilities"`` (none).
        terms: Names of the rows to compute.
        gamma: Exponent of nll_pow, focal and focal_neg, at least 0.
        ce_activation: Activation of the terms with a logarithm; ``activation`` if None.
        voxel_weight: ``[B, 1, *S]`` or ``[B, C, *S]``, any sign; truth values and integers are
            copied as floating-point numbers.
        ignore_index: Voxels with this label (for C = 1 this value) do not count, NaN input or not.
        impl: ``"auto"``, ``"reference"``, ``"native"`` or ``"triton"``.

    Returns:
        The rows ``[K, B, C]``, float64 (float32 on devices without it).

    Raises:
        TypeError: If an argument's type or dtype is not one of those above.
        ValueError: If a shape, device or option is not, or if labels outside [0, C), or values of
            one class outside [0, 1], are not ``ignore_index`` (on a GPU, where looking would need
            a synchronisation, rows become NaN; :class:`segloss_fast.debug` raises there too).
        RuntimeError: If ``impl`` names kernels that are not available for this call.
    """
    options = options_of(input, activation, ce_activation, terms, gamma, ignore_index)
    answer = answering()
    if answer is not None:
        found = answer(input, target, voxel_weight, options, impl)
        if found is not None:
            return found
    target = check_target(input, target, ignore_index)
    voxel_weight = _check.as_weight(voxel_weight, keep=_check.BYTES)
    if voxel_weight is not None:
        check_voxel_weight(input, voxel_weight, WEIGHTS)
    weights = [] if voxel_weight is None else [voxel_weight]
    impl = choose(impl, [input], [target], weights, options)
    if impl == "reference":
        rows = _reference([input], [target], weights, options)
    else:
        read = None if voxel_weight is None else readable(voxel_weight, impl)
        rows = op.call(input, target, read, options, impl)
    return RegionSums(options.terms, rows, constant=impl != "reference")


def region_sums_multi(
    inputs: Sequence[Tensor],
    targets: Sequence[Tensor],
    *,
    activation: str = "softmax",
    terms: Sequence[str] = ("tp", "pred", "target"),
    gamma: float | None = None,
    ce_activation: str | None = None,
    voxel_weights: Sequence[Tensor] | None = None,
    ignore_index: int | None = None,
    impl: str = "auto",
) -> list[RegionSums]:
    """Return :func:`region_sums` of several inputs of different sizes, from one launch.

    >>> pairs = [torch.zeros(1, 2, 4), torch.zeros(1, 2, 2)], [torch.zeros(1, 4), torch.ones(1, 2)]
    >>> [sums.tp.tolist() for sums in segloss_fast.region_sums_multi(*pairs)]
    [[[2.0, 0.0]], [[0.0, 1.0]]]

    As deep supervision has them: small tensors cost their launches and little else, so the kernels
    that can (``native``) take all in one.

    Args:
        inputs: ``[B, C, *S]`` each, with the same number of classes, dtype and device; B and S may
            differ.
        targets: One per input, as for :func:`region_sums`; all class indices, or all values per
            class, and of one dtype.
        activation: As for :func:`region_sums`, and so are the other options.
        terms: Names of the rows to compute.
        gamma: Exponent of nll_pow, focal and focal_neg.
        ce_activation: Activation of the terms with a logarithm.
        voxel_weights: None, or one per input, all ``[B, 1, *S]`` or all ``[B, C, *S]``, of one
            dtype.
        ignore_index: Voxels with this class index do not count.
        impl: ``"auto"``, ``"reference"``, ``"native"`` or ``"triton"`` (a launch per input).

    Returns:
        One record per input, with rows ``[K, B, C]``.

    Raises:
        TypeError: As :func:`region_sums`, or if inputs or targets is no sequence of tensors.
        ValueError: As :func:`region_sums`, or if the inputs disagree in what they must share. If
            labels of one are out of range on a GPU, the rows of all become NaN.
        RuntimeError: If ``impl`` names kernels that are not available for this call.
    """
    inputs = _check_sequence("inputs", inputs)
    targets = _check_sequence("targets", targets, len(inputs))
    weights = [] if voxel_weights is None else voxel_weights
    if voxel_weights is not None:
        weights = _check_sequence("voxel_weights", voxel_weights, len(inputs))
        weights = [_check.as_weight(weight, keep=_check.BYTES) for weight in weights]
    options = options_of(inputs[0], activation, ce_activation, terms, gamma, ignore_index)
    for x in inputs[1:]:
        _check.check_input(x)
    targets = [check_target(*pair, ignore_index) for pair in zip(inputs, targets, strict=True)]
    for x, weight in zip(inputs, weights, strict=False):
        check_voxel_weight(x, weight, WEIGHTS)
    check_alike(inputs, targets, weights)
    impl = choose(impl, inputs, targets, weights, options)
    if impl == "reference":
        rows = _reference(inputs, targets, weights, options)
    else:
        read = [readable(weight, impl) for weight in weights]
        rows = op.call_multi(inputs, targets, read, options, impl)
    parts = rows.split([x.shape[0] for x in inputs], dim=1)
    return [RegionSums(options.terms, part, impl != "reference") for part in parts]


def readable(voxel_weight: Tensor, impl: str) -> Tensor:
    """Return the weight in a dtype that the kernels read; bfloat16 holds bytes exactly."""
    if impl == "native" or voxel_weight.dtype in _check.FLOATING:
        return voxel_weight
    return voxel_weight.to(torch.bfloat16)


def _check_sequence(name: str, values: object, count: int | None = None) -> list[Tensor]:
    if not isinstance(values, Sequence) or not all(isinstance(v, Tensor) for v in values):
        raise TypeError(f"{name} must be a sequence of tensors, got {type(values).__name__}")
    if not values:
        raise ValueError(f"{name} must hold at least one tensor")
    if count is not None and len(values) != count:
        raise ValueError(f"{name} must hold one tensor per input, {count}, got {len(values)}")
    return list(values)


def check_alike(
    inputs: Sequence[Tensor], targets: Sequence[Tensor], weights: Sequence[Tensor]
) -> None:
    """Raise ValueError unless all inputs, targets and weights are of a kind."""
    dense = [target.dim() == x.dim() for x, target in zip(inputs, targets, strict=True)]
    for name, what, found in (
        ("inputs", "the same number of classes", [x.shape[1] for x in inputs]),
        ("inputs", "one dtype", [x.dtype for x in inputs]),
        ("inputs", "one device", [x.device for x in inputs]),
        ("targets", "one dtype", [target.dtype for target in targets]),
        ("targets", "class indices all, or values per class all", dense),
        ("voxel_weights", "one dtype", [weight.dtype for weight in weights]),
        ("voxel_weights", "one number of channels", [weight.shape[1] for weight in weights]),
    ):
        if len(set(found)) > 1:
            raise ValueError(f"{name} must have {what}, got {found}")


def preference(inputs: Sequence[Tensor], most: int = REGISTER_CLASSES) -> tuple[str, ...]:
    """Return the kernels that impl="auto" tries, the expected fastest first.

    On CUDA, Triton streams up to so many classes at the speed of memory (see :func:`most_classes`);
    the C++ kernels stage tiles in shared memory, which more classes, channels-last memory and many
    small tensors need. The rule follows from the bytes that each must move and from the
    instructions of their code; it has not been measured on a device yet.
    """
    x = inputs[0]
    if x.device.type != "cuda":
        return ("native",)  # on the CPU Triton only interprets: for tests, on request
    if len(inputs) == 1 and x.shape[1] <= most and not _channels_last(x):
        return ("triton", "native")
    return ("native", "triton")


def most_classes(input: Tensor, target: Tensor, weighted: bool, options: Options) -> int:
    """Return up to how many classes Triton is expected to be the faster one on CUDA.

    Of a softmax against class indices most terms see one class of each voxel, which makes its
    kernel for them leaner than the one in C++ up to the classes of a tile.
    """
    softmax = options.activation == options.ce_activation == "softmax"
    own = softmax and not weighted and input.dim() != target.dim()
    # What is not a number reaches the sums of other classes by way of pred.
    spread = "pred" in options.terms or not {"tp", "fp", "fn"}.intersection(options.terms)
    own = own and spread and OF_OWN_CLASS.issuperset(options.terms)
    return TILE_CLASSES if own else REGISTER_CLASSES


def _channels_last(x: Tensor) -> bool:
    return x.shape[1] > 1 and x.stride(1) == 1 and x.stride(-1) != 1


def choose(
    impl: str,
    inputs: Sequence[Tensor],
    targets: Sequence[Tensor],
    weights: Sequence[Tensor],
    options: Options | None = None,
) -> str:
    """Return the implementation that serves a call of :func:`region_sums_multi`.

    Without options, which decide between kernels only, it is one that serves it.
    """
    only_reference = _only_reference([*targets, *weights])
    x = inputs[0]
    most = REGISTER_CLASSES
    if options is not None and x.device.type == "cuda":
        most = most_classes(x, targets[0], bool(weights), options)
    return resolve(
        impl,
        preference(inputs, most),
        lambda name: op.kernels.why_not(name, x.device, x.dtype, x.shape[1]) or only_reference,
        x,
    )


def _only_reference(others: Sequence[Tensor]) -> str | None:
    """Return why the reference alone can serve a call, None where kernels can."""
    if torch.is_grad_enabled() and any(tensor.requires_grad for tensor in others):
        return "the gradient of target and of voxel_weight is computed by the reference only"
    if transforms_active():
        return "the transforms of torch.func and forward mode are served by the reference only"
    return None


def _reference(
    inputs: Sequence[Tensor],
    targets: Sequence[Tensor],
    weights: Sequence[Tensor],
    options: Options,
) -> Tensor:
    found = [
        reference.forward(x, target, weight, options)
        for x, target, weight in zip(inputs, targets, reference.each(weights, inputs), strict=True)
    ]
    rows, invalid = found[0] if len(found) == 1 else reference.join(found)
    return marked(rows, invalid, inputs[0], targets[0])

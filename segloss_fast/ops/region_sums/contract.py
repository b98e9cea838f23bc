"""region_sums as callers see it: checks, the choice of implementation, the result's record."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from segloss_fast import _check
from segloss_fast._impl import debug_enabled, resolve
from segloss_fast.ops.region_sums import op, reference
from segloss_fast.ops.region_sums.options import ACTIVATIONS, GAMMA_TERMS, TERMS, Options


@dataclass(frozen=True, eq=False)
class RegionSums:
    """Rows of sums, one per term, as attributes: ``sums.tp`` is ``[B, C]``.

    Two records with the same terms add up (chunks of a volume, ranks).

    Attributes:
        terms: Names of the rows.
        rows: ``[K, B, C]``, float64 (float32 on devices without it).
    """

    terms: tuple[str, ...]
    rows: Tensor
    # The rows one by one, once asked for: one unbind has a cheaper gradient than an index per row.
    _unbound: list[Tensor] = field(default_factory=list, init=False, repr=False)

    def __getattr__(self, name: str) -> Tensor:
        if name in TERMS:
            if name in self.terms:
                rows = self._unbound or self.rows.unbind()
                # Rows taken under no_grad have no gradient: not those to hand out later.
                if torch.is_grad_enabled() or not self.rows.requires_grad:
                    self._unbound[:] = rows
                return rows[self.terms.index(name)]
            raise AttributeError(f"the row {name!r} was not asked for: terms is {self.terms}")
        raise AttributeError(f"RegionSums has no attribute {name!r}")

    def __add__(self, other: RegionSums) -> RegionSums:
        if not isinstance(other, RegionSums):
            return NotImplemented
        if self.terms != other.terms:
            raise ValueError(
                f"only sums of the same terms add up, got {self.terms} and {other.terms}"
            )
        return RegionSums(self.terms, self.rows + other.rows)

    def __radd__(self, other: int) -> RegionSums:
        return self if other == 0 else NotImplemented  # sum() begins with 0


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

    The formulas stand in the docstring of :mod:`segloss_fast.ops.region_sums`.

    Differentiable in ``input``; in a floating-point dense ``target`` and in ``voxel_weight``
    through the reference. Double backward is an error except in the reference.

    Args:
        input: ``[B, C, *S]``, S of one to three dimensions, any strides; float16, bfloat16, float32
            or float64. Logits, or probabilities in [0, 1].
        target: Class indices ``[B, *S]`` or ``[B, 1, *S]`` in [0, C), any integer or floating dtype
            (for C = 1, t = (target != 0)); or one-hot, multi-label or soft values ``[B, C, *S]`` of
            any real dtype. For C = 1 a floating-point ``[B, 1, *S]`` target is read as values.
        activation: ``"softmax"`` over the classes, ``"sigmoid"``, or ``"probabilities"`` (none).
        terms: Names of the rows to compute.
        gamma: Exponent of nll_pow, focal and focal_neg, at least 0.
        ce_activation: Activation of the terms with a logarithm; ``activation`` if None.
        voxel_weight: ``[B, 1, *S]`` or ``[B, C, *S]``, floating point, any sign.
        ignore_index: Voxels with this class index do not count, not even if the input is NaN there.
        impl: ``"auto"``, ``"reference"``, ``"native"`` or ``"triton"``.

    Returns:
        The rows ``[K, B, C]``, float64 (float32 on devices without it).

    Raises:
        TypeError: If an argument's type or dtype is not one of those above.
        ValueError: If a shape, device or option is not, or if class indices lie outside [0, C) and
            are not ``ignore_index`` (on a GPU, where looking would need a synchronisation, the rows
            become NaN; under :class:`segloss_fast.debug` it raises there too).
        RuntimeError: If ``impl`` names kernels that are not available for this call.
    """
    options = _options(input, activation, ce_activation, terms, gamma, ignore_index)
    target = _check_target(input, target, ignore_index)
    if voxel_weight is not None:
        _check_voxel_weight(input, voxel_weight)
    only_reference = _only_reference(target, voxel_weight)
    impl = resolve(impl, op.KERNELS, lambda name: op.why_not(name, input.device) or only_reference)
    if impl == "reference":
        rows = _reference(input, target, voxel_weight, options)
    else:
        rows = op.call(input, target, voxel_weight, options, impl)
    return RegionSums(options.terms, rows)


def _only_reference(target: Tensor, voxel_weight: Tensor | None) -> str | None:
    """Return why the reference alone can serve a call, None where kernels can."""
    if torch.is_grad_enabled() and (
        target.requires_grad or (voxel_weight is not None and voxel_weight.requires_grad)
    ):
        return "the gradient of target and of voxel_weight is computed by the reference only"
    if not torch.compiler.is_compiling() and torch._C._are_functorch_transforms_active():
        return "the transforms of torch.func are served by the reference only"
    return None


def _reference(
    input: Tensor, target: Tensor, voxel_weight: Tensor | None, options: Options
) -> Tensor:
    rows, invalid = reference.forward(input, target, voxel_weight, options)
    if target.dim() == input.dim():
        return rows
    if (input.device.type == "cpu" and not torch.compiler.is_compiling()) or debug_enabled():
        _check.check_labels(invalid, input.shape[1])
        return rows
    return torch.where(invalid[0] > 0, torch.nan, rows)


def _options(
    input: Tensor,
    activation: str,
    ce_activation: str | None,
    terms: Sequence[str],
    gamma: float | None,
    ignore_index: int | None,
) -> Options:
    _check.check_input(input)
    _check.check_option("activation", activation, ACTIVATIONS)
    ce_activation = activation if ce_activation is None else ce_activation
    _check.check_option("ce_activation", ce_activation, ACTIVATIONS)
    if "probabilities" in (activation, ce_activation) and activation != ce_activation:
        raise ValueError(
            "activation and ce_activation must agree on whether input holds probabilities, "
            f"got {activation!r} and {ce_activation!r}"
        )
    if input.shape[1] == 1 and "softmax" in (activation, ce_activation):
        raise ValueError(
            "the softmax of one class is 1 everywhere: input must have at least two classes with "
            f"activation 'softmax', got shape {list(input.shape)}; use 'sigmoid'"
        )
    if isinstance(terms, str) or not all(isinstance(term, str) for term in terms or ()):
        raise TypeError(f"terms must be a sequence of names, got {terms!r}")
    terms = tuple(terms or ())
    if not terms or len(set(terms)) < len(terms) or not set(terms) <= set(TERMS):
        raise ValueError(f"terms must be different names among {', '.join(TERMS)}, got {terms}")
    if not GAMMA_TERMS.isdisjoint(terms):
        _check.check_number("gamma", gamma, minimum=0)
    _check.check_ignore_index(ignore_index)
    exponent = 0.0 if gamma is None or GAMMA_TERMS.isdisjoint(terms) else float(gamma)
    return Options(terms, activation, ce_activation, exponent, ignore_index)


def _check_target(input: Tensor, target: Tensor, ignore_index: int | None) -> Tensor:
    """Return class indices as ``[B, *S]``, values as ``[B, C, *S]``."""
    _check.check_dtype("target", target, _check.REAL)
    _check.check_device("target", target, input)
    index_shape = (input.shape[0], *input.shape[2:])
    if target.shape == index_shape and target.dim() < input.dim():
        return target
    dense = target.shape == input.shape
    if target.shape == (index_shape[0], 1, *index_shape[1:]) and not (
        dense and target.dtype in _check.FLOATING
    ):
        return target.squeeze(1)
    if not dense:
        raise ValueError(
            f"target must be class indices of shape {list(index_shape)} or "
            f"{[index_shape[0], 1, *index_shape[1:]]}, or values of shape {list(input.shape)} like "
            f"input, got {list(target.shape)}"
        )
    if ignore_index is not None:
        raise ValueError(
            "ignore_index goes with class indices, got a target that holds a value per class "
            f"({target.dtype}, shape {list(target.shape)}); use voxel_weight instead"
        )
    return target


def _check_voxel_weight(input: Tensor, voxel_weight: Tensor) -> None:
    _check.check_dtype("voxel_weight", voxel_weight, _check.FLOATING)
    _check.check_device("voxel_weight", voxel_weight, input)
    shared = torch.Size((input.shape[0], 1, *input.shape[2:]))
    if voxel_weight.shape not in (shared, input.shape):
        raise ValueError(
            f"voxel_weight must have shape {list(shared)} or {list(input.shape)}, "
            f"got {list(voxel_weight.shape)}"
        )

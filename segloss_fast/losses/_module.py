"""The base of all loss modules: a function and the keywords to call it with."""

from __future__ import annotations

import functools
import inspect
import warnings
from collections.abc import Callable, Mapping
from numbers import Real
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor, nn

from segloss_fast._check import as_weight
from segloss_fast.losses import _compiled, _planned
from segloss_fast.losses._declare import Unscripted, plain, signature_of, unknown
from segloss_fast.losses._planned import Call, freeze
from segloss_fast.losses._ready import Ready, ready_for
from segloss_fast.ops._voxels.maps import row_dtype

if TYPE_CHECKING:
    from segloss_fast.losses.weighted_sum import WeightedSum

WEIGHTS = ("class_weight", "pos_weight", "alpha", "distance_matrix")
# Where the losses of MONAI, torch and segmentation-models-pytorch keep theirs in a state dict.
PEERS_WEIGHTS = (
    "class_weight",
    "weight",
    "pos_weight",
    "dice.class_weight",
    "cross_entropy.weight",
    "binary_cross_entropy.pos_weight",
)


class Option:
    """A keyword of a loss as an attribute of its modules: read, and set with all checks."""

    def __init__(self, name: str, default: object) -> None:
        self.name = name
        self.default = default

    def __get__(self, loss: Loss | None, owner: type) -> Any:  # noqa: ANN401
        if loss is None:
            return self
        found = loss._buffers.get(self.name)
        return loss._keywords.get(self.name, self.default) if found is None else found

    def __set__(self, loss: Loss, value: object) -> None:
        loss._set_option(self.name, value)


class Addable(Unscripted):
    """What can be added and multiplied: the result is a WeightedSum."""

    def __add__(self, other: Any) -> WeightedSum:  # noqa: ANN401
        found: WeightedSum = _weighted_sum((self, other), (1.0, 1.0))
        return found

    def __radd__(self, other: Any) -> Any:  # noqa: ANN401
        return self if type(other) is int and other == 0 else NotImplemented  # sum() begins with 0

    def __mul__(self, factor: Any) -> WeightedSum:  # noqa: ANN401
        if not isinstance(factor, Real):
            return NotImplemented
        found: WeightedSum = _weighted_sum((self,), (float(factor),))
        return found

    __rmul__ = __mul__


def _weighted_sum(losses: tuple[Any, ...], weights: tuple[float, ...]) -> Any:  # noqa: ANN401
    from segloss_fast.losses.weighted_sum import WeightedSum  # which is made of losses

    if not all(isinstance(loss, Addable) for loss in losses):
        return NotImplemented
    return WeightedSum(losses, weights)


class Loss(Addable, nn.Module):
    """Calls a functional loss with fixed keywords.

    Every keyword can be read as an attribute, and set: the constructor's checks run again, and the
    next call has the new value. Weights per class are buffers, which follow ``.to(device)`` but
    keep their precision, whatever ``.half()`` does to the model around them. They are not part of
    the state dict: the constructor's arguments say them.

    Attributes:
        shares_sums: Whether the function's keywords are those of Voxel, through which deep
            supervision hands it the sums of a level.
        over_sums: Whether it is formed from sums of its arguments as they came, and nothing else.
        field_kind: Which field it takes as ``target_field``.
        without_map: By the name of a map that ``forward`` takes, the keywords where there is none.
    """

    shares_sums: ClassVar[bool] = True
    over_sums: ClassVar[bool] = False
    field_kind: ClassVar[str | None] = None
    without_map: ClassVar[Mapping[str, Mapping[str, object]]] = {}
    _declared: ClassVar[Callable[..., Loss]]
    _ready: Ready | None = None
    # In graphs of torch.compile, which makes one each. Of options that change it makes one for all.
    _name: str | None = None

    def __init_subclass__(cls) -> None:
        """Declare the keywords of a class of this package: its signature, attributes, errors."""
        super().__init_subclass__()
        if not cls.__module__.startswith(__package__ or "") or "__init__" not in vars(cls):
            return
        initialise: Any = cls.__init__
        signature = signature_of(initialise)
        keywords = {n: p for n, p in signature.parameters.items() if p.kind is p.KEYWORD_ONLY}
        cls._declared = cls
        for name, parameter in keywords.items():
            setattr(cls, name, Option(name, parameter.default))

        @functools.wraps(initialise)
        def checked(self: Loss, *arguments: object, **given: object) -> None:
            for name in given:
                if name not in keywords:
                    raise unknown(cls.__name__, name, keywords)
            initialise(self, *arguments, **{name: plain(value) for name, value in given.items()})

        checked.__signature__ = signature  # type: ignore[attr-defined]
        cls.__init__ = checked  # type: ignore[method-assign]

    def __init__(self, function: Callable[..., Tensor], **keywords: object) -> None:
        super().__init__()
        self._function = function
        self._keywords: dict[str, object] = {}
        for name, value in keywords.items():
            if name in WEIGHTS and value is not None and not isinstance(value, (int, float)):
                device = value.device if isinstance(value, Tensor) else torch.device("cpu")
                exact = torch.as_tensor(value, dtype=row_dtype(device), device=device)
                # register_buffer refuses the name of an attribute, which an Option is.
                self._buffers[name] = exact.detach().clone()
                self._non_persistent_buffers_set.add(name)
            else:
                self._keywords[name] = value
        self._frozen = freeze(self._keywords)
        self._name = self._named()

    def _named(self) -> str | None:
        """Return what stands for the loss in graphs; None if its operations do."""
        body = getattr(self._function, "body", self._function)
        return _compiled.name_of(body, self._keywords, self._frozen if self.over_sums else None)

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)  # type: ignore[no-untyped-call]
        if self._name is not None:
            self._name = self._named()

    def __setattr__(self, name: str, value: Any) -> None:  # noqa: ANN401
        """Set an attribute; a keyword by its Option, where a module would set a buffer."""
        if isinstance(inspect.getattr_static(type(self), name, None), Option):
            object.__setattr__(self, name, value)
        else:
            super().__setattr__(name, value)

    def _set_option(self, name: str, value: object) -> None:
        """Take the keywords of a new module, which checks them all."""
        old = self._buffers.get(name)
        fresh = type(self)._declared(**{**self._keywords, **self._buffers, name: value})
        self.__dict__["_ready"] = self.__dict__["_name"] = None
        self._keywords = fresh._keywords
        self._frozen = fresh._frozen
        self._buffers = fresh._buffers
        self._non_persistent_buffers_set = fresh._non_persistent_buffers_set
        new = self._buffers.get(name)
        if old is not None and new is not None and not isinstance(value, Tensor):
            self._buffers[name] = new.to(old.device)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Loss:
        for name, exact in self._buffers.items():
            if exact is not None:
                device = fn(exact.float()).device  # float32 exists everywhere
                self._buffers[name] = exact.to(device, row_dtype(device))
        return self

    def _load_from_state_dict(
        self,
        state_dict: dict[str, Any],
        prefix: str,
        *others: Any,  # noqa: ANN401
    ) -> None:
        """Leave out the weights of the loss that was here when the checkpoint was written."""
        old = [prefix + name for name in PEERS_WEIGHTS if prefix + name in state_dict]
        for key in old:
            del state_dict[key]
        if old:
            warnings.warn(
                f"the checkpoint's {', '.join(old)} are not loaded: {type(self).__name__} has the "
                "weights that its constructor got",
                stacklevel=2,
            )
        super()._load_from_state_dict(state_dict, prefix, *others)

    def forward(self, input: Tensor, target: Tensor, voxel_weight: Tensor | None = None) -> Tensor:
        """Return the loss.

        Args:
            input: ``[B, C, *S]``.
            target: Class indices ``[B, *S]`` or ``[B, 1, *S]``, or values ``[B, C, *S]``.
            voxel_weight: ``[B, 1, *S]`` or ``[B, C, *S]``.

        Returns:
            A scalar, or ``[B, C']`` rows (``[C']`` where the batch is pooled) for the reduction
            "none".
        """
        return self.call(input, target, voxel_weight)

    def call(
        self,
        input: Tensor,
        target: Tensor,
        voxel_weight: Tensor | None,
        **others: object,
    ) -> Tensor:
        """Return the loss with other keywords beside, or instead of, those of the module."""
        if torch.compiler.is_compiling() and self._name is not None and not others:
            tensors = input, target, voxel_weight
            in_graph = _compiled.in_graph(self._name, self._buffers, *tensors)
            if in_graph is not None:
                return in_graph
        if torch.compiler.is_compiling() or others or not hasattr(self._function, "body"):
            keywords = {**self._keywords, **self._buffers, **others}
            return self._function(input, target, voxel_weight, **keywords)
        given = (input, target) if voxel_weight is None else (input, target, voxel_weight)
        ready = self._ready
        if ready is not None and ready.keywords is self._keywords:
            found = ready.value(given, [self._buffers.get(name) for name in ready.names])
            if found is not None:
                return found
        return self._by_plan(given)

    def _by_plan(self, given: tuple[Any, ...]) -> Tensor:
        """Return the loss by a plan, if it has one, which is then ready for the next call."""
        # The keywords have been checked, and so has what they are called.
        before = self._keywords  # another dict once one is set, perhaps by another thread
        input, target, voxel_weight = (*given, None)[:3]
        tensors = plain(input), plain(target), as_weight(plain(voxel_weight))
        asked = self.planned()
        plan = _planned.plan_of(asked, tensors)
        found = None if plan is None else _planned.by_plan(plan, asked, tensors)
        if plan is None or found is None:
            alone: Tensor = asked.function(*tensors, **asked.keywords)
            return alone
        if all(one is other for one, other in zip(given, tensors, strict=False)):
            arguments = [asked.keywords[name] for name in plan.names]
            ready = ready_for(plan.formula, given, arguments, plan.names, before)
            self.__dict__["_ready"] = ready
        return found

    def planned(self) -> Call:
        """Return what is to be called, for a plan of it."""
        body = getattr(self._function, "body", self._function)
        if not self._buffers:
            return Call(body, self._keywords, body, self._frozen)
        kinds = self._frozen, freeze(self._buffers)
        kind = None if None in kinds else kinds
        return Call(body, {**self._keywords, **self._buffers}, body, kind)

    @property
    def keywords(self) -> Mapping[str, object]:
        """The keywords that are no weights per class."""
        return self._keywords

    def extra_repr(self) -> str:
        buffers = {name: buffer.tolist() for name, buffer in self.named_buffers()}
        return ", ".join(
            f"{name}={value!r}" for name, value in {**self._keywords, **buffers}.items()
        )


class FieldLoss(Loss):
    """A loss whose field of the target can be computed beforehand, as in a data loader."""

    def forward(
        self,
        input: Tensor,
        target: Tensor,
        voxel_weight: Tensor | None = None,
        target_field: Tensor | None = None,
    ) -> Tensor:
        """Return the loss.

        Args:
            input: ``[B, C, *S]``.
            target: Class indices ``[B, *S]`` or ``[B, 1, *S]``, or values ``[B, C, *S]``.
            voxel_weight: ``[B, 1, *S]`` or ``[B, C, *S]``.
            target_field: What the loss's class says, floating point.

        Returns:
            A scalar, or ``[B, C']`` rows (``[C']`` where the batch is pooled) for the reduction
            "none".
        """
        if target_field is None:
            return self.call(input, target, voxel_weight)
        return self.call(input, target, voxel_weight, target_field=target_field)

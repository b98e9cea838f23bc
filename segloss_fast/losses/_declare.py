"""What users see of a loss: its keywords with their defaults, and errors that name the loss."""

from __future__ import annotations

import dataclasses
import difflib
import functools
import inspect
from collections.abc import Callable, Iterable
from typing import Any, NoReturn, ParamSpec, TypeVar

import torch
from torch import Tensor, nn

from segloss_fast._check import as_weight
from segloss_fast.losses import _keywords, _planned

P = ParamSpec("P")
R = TypeVar("R")
PYTHON = (float, int, str, bool, type(None))
# What other libraries call what losses here have, or do without.
PEERS = {
    "to_onehot_y": "targets may be class indices; drop it",
    "softmax": "it is the default; drop it",
    "use_softmax": "it is the default; drop it",
    "sigmoid": "use activation='sigmoid'",
    "other_act": "activate the input yourself, and use activation='probabilities'",
    "apply_nonlin": "use activation",
    "from_logits": "logits are the default; for probabilities use activation='probabilities'",
    "mode": "use activation='sigmoid' for 'binary' and 'multilabel'; 'multiclass' is the default",
    "multiclass": "it is the default; drop it",
    "weight": "use class_weight",
    "weights": "use class_weight",
    "classes": "use class_weight, with 0 for the classes that do not count",
    "squared_pred": "use squared",
    "jaccard": "use JaccardLoss",
    "log_loss": "it is not there",
    "batch_dice": "use batch",
    "do_bg": "use include_background",
    "ignore_label": "use ignore_index",
    "ignore": "use ignore_index",
    "smooth": "use smooth_nr and smooth_dr",
    "smooth_factor": "use label_smoothing",
    "eps": "use smooth_dr",
    "ddp": "use sync",
    "size_average": "use reduction",
    "reduce": "use reduction",
    "normalized": "it is not there",
    "soft_label": "only losses that compare an overlap have it",
    "w_type": "use weighting",
    "iter_": "use iterations",
    "dist_matrix": "use distance_matrix",
    "weighting_mode": "use weighting",
    "weight_ce": "use lambda_ce",
    "weight_dice": "use lambda_dice",
    "soft_dice_kwargs": "give the keywords themselves",
    "ce_kwargs": "give the keywords themselves",
}


class Unscripted:
    """A module that TorchScript does not compile, and says so."""

    def __prepare_scriptable__(self) -> NoReturn:
        raise TypeError(
            f"torch.jit.script does not compile {type(self).__name__}, whose keywords are checked "
            "in Python; use torch.compile, torch.export or torch.jit.trace"
        )


def signature_of(function: Callable[..., object]) -> inspect.Signature:
    """Return the signature with the common keywords, which ``**keywords`` stands for."""
    declared = inspect.signature(function)
    named = {name: p for name, p in declared.parameters.items() if p.kind is not p.VAR_KEYWORD}
    for parameter in declared.parameters.values():
        if parameter.kind is parameter.VAR_KEYWORD:
            common = common_parameters(str(parameter.annotation))
            named.update((p.name, p) for p in common if p.name not in named)
    return declared.replace(parameters=list(named.values()))


def common_parameters(annotation: str) -> Iterable[inspect.Parameter]:
    """Return the parameters that an annotation such as ``Unpack[RegionKeywords]`` stands for."""
    name = annotation.removeprefix("Unpack[").removesuffix("Keywords]")
    for field in dataclasses.fields(_keywords.RECORDS[name]):
        if not field.name.startswith("_"):
            kind = inspect.Parameter.KEYWORD_ONLY
            yield inspect.Parameter(field.name, kind, default=field.default, annotation=field.type)


def unknown(loss: str, keyword: str, allowed: Iterable[str]) -> TypeError:
    """Return the error of a keyword that a loss does not have."""
    near = difflib.get_close_matches(keyword, list(allowed), 1)
    if keyword in PEERS:
        help_ = PEERS[keyword]
    elif near:
        help_ = f"did you mean {near[0]!r}?"
    else:
        help_ = f"it has {', '.join(allowed)}"
    return TypeError(f"{loss} has no keyword {keyword!r}: {help_}")


def loss_function(function: Callable[P, R]) -> Callable[P, R]:
    """Declare the functional form of a loss: its whole signature, and errors that name it."""
    signature = signature_of(function)
    allowed = tuple(name for name, p in signature.parameters.items() if p.kind is p.KEYWORD_ONLY)
    known = {*signature.parameters, "_source"}  # see Voxel

    @functools.wraps(function)
    def call(*arguments: P.args, **keywords: P.kwargs) -> R:
        for name in keywords:
            if name not in known:
                raise unknown(function.__name__, name, allowed)
        taken: Any = list(arguments)
        named: Any = dict(keywords)
        compiling = torch.compiler.is_compiling()
        if not compiling:
            taken = [plain(value) for value in arguments]
            named = {name: plain(value) for name, value in keywords.items()}
        if len(taken) > 2:
            taken[2] = as_weight(taken[2])
        elif "voxel_weight" in named:
            named["voxel_weight"] = as_weight(named["voxel_weight"])
        tensors = [*taken, *(given for name, given in named.items() if name == "voxel_weight")]
        if not compiling and len(taken) >= 2 and len(tensors) <= 3 and "_source" not in named:
            others = {name: value for name, value in named.items() if name != "voxel_weight"}
            asked = _planned.Call(function, others, function, _planned.freeze(others))
            found: Any = _planned.value_of(asked, (*tensors, None)[:3])
            if found is not None:
                return found  # type: ignore[no-any-return]
        return function(*taken, **named)

    call.body = function  # type: ignore[attr-defined]
    call.__signature__ = signature  # type: ignore[attr-defined]
    return call


def plain(value: object) -> object:
    """Return what people have as what the losses take.

    NumPy's numbers and arrays become Python's numbers and lists of them, and tensors of classes
    that only wrap torch's functions (MONAI's MetaTensor, fastai's TensorImage) plain tensors: two
    of different classes do not go into one operator.
    """
    kind: Any = type(value)
    if kind is Tensor or kind in PYTHON:
        return value
    if isinstance(value, Tensor):
        if kind is nn.Parameter or kind.__torch_dispatch__ is not Tensor.__torch_dispatch__:
            return value
        with torch._C.DisableTorchFunctionSubclass():
            return value.as_subclass(Tensor)
    if kind.__module__ == "numpy":
        return value.tolist()  # type: ignore[attr-defined]
    if isinstance(value, (list, tuple)) and any(type(v).__module__ == "numpy" for v in value):
        return [plain(v) for v in value]
    return value

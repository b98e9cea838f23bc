"""Drop-ins over sums under torch.compile on the CPU: one operator each way, with peers' values."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable, Iterator
from typing import Any

import monai.losses
import pytest
import torch
from monai.losses import unified_focal_loss
from torch import Tensor
from torch._dynamo.backends.common import aot_autograd
from torch._dynamo.testing import CompileCounterWithBackend
from torch._functorch._aot_autograd.utils import make_boxed_func
from torch.fx import GraphModule

import segloss_fast
from segloss_fast.compat import _planned
from segloss_fast.compat import kornia as our_kornia
from segloss_fast.compat import monai as ours
from segloss_fast.compat import smp as our_smp
from segloss_fast.compat.monai import unified_focal
from segloss_fast.ops.confusion_sums import graphs
from tests.helpers import gradient
from tests.suite.tiers import few

pytestmark = [
    pytest.mark.torch_compile,
    pytest.mark.peers,
    pytest.mark.usefixtures("native"),
    pytest.mark.filterwarnings("ignore::UserWarning"),
]
SOFTMAX: dict[str, Any] = {"softmax": True, "to_onehot_y": True}
LABELS: dict[str, Any] = {"to_onehot_y": True}
SIZE = (6, 5)
Loss = Callable[..., Tensor]

G = torch.Generator().manual_seed(3)
X = torch.randn(2, 3, *SIZE, generator=G)
T = torch.randint(0, 3, (2, 1, *SIZE), generator=G)
P = torch.rand(2, 2, *SIZE, generator=G)
P[:, :, 0] = torch.tensor([-0.5, 0.0, 1e-9, 1.0, 1.5])  # beyond what the focal losses clamp
T2 = torch.randint(0, 2, (2, 1, *SIZE), generator=G)
MASK = torch.rand(2, 1, *SIZE, generator=G) > 0.4
MATRIX = torch.tensor([[0.0, 1.0, 0.5], [0.7, 0.0, 1.0], [0.2, 0.9, 0.0]])


@pytest.fixture(autouse=True)
def fresh() -> Iterator[None]:
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


class Operators:
    """A backend of torch.compile that writes down the operators of both graphs of a step."""

    def __init__(self) -> None:
        self.forward: list[list[str]] = []
        self.backward: list[list[str]] = []

    def compile(self, loss: Loss, **options: Any) -> Any:  # noqa: ANN401
        backend = aot_autograd(
            fw_compiler=self._keep(self.forward), bw_compiler=self._keep(self.backward)
        )
        return torch.compile(loss, fullgraph=True, backend=backend, **options)

    def _keep(self, found: list[list[str]]) -> Any:  # noqa: ANN401
        def compiler(graph: GraphModule, _: Any) -> Any:  # noqa: ANN401
            targets = [str(node.target) for node in graph.graph.nodes]
            own = (target.split(".")[1] for target in targets if target.startswith("segloss_fast"))
            found.append(list(own))
            return make_boxed_func(graph.forward)

        return compiler


def compare(loss: Loss, peer: Loss, x: Tensor, *others: Tensor, rounding: float = 2e-6) -> None:
    """Compare value and gradient with the peer's."""
    found = gradient(lambda x: loss(x, *others), x)
    expected = gradient(lambda x: peer(x, *others), x)
    for one, other in zip(found, expected, strict=True):
        assert one.dtype == other.dtype
        torch.testing.assert_close(one, other, rtol=rounding, atol=rounding, equal_nan=True)


def are_one_operator(loss: Loss, peer: Loss, *tensors: Tensor, of: str = "region") -> None:
    operators = Operators()
    compare(operators.compile(loss), peer, *tensors)
    assert operators.forward == [[f"{of}_formula"]]
    assert operators.backward == [[f"{of}_formula_backward"]]


WHOLE: list[tuple[str, dict[str, Any], tuple[Tensor, ...]]] = [
    ("DiceLoss", {**SOFTMAX, "batch": True, "include_background": False}, (X, T)),
    ("DiceCELoss", {**SOFTMAX, "weight": torch.tensor([1.0, 2.0, 0.5])}, (X, T)),
    ("AsymmetricUnifiedFocalLoss", LABELS, (P, T2)),
    ("MaskedDiceLoss", {**SOFTMAX, "jaccard": True}, (X, T, MASK.float())),
    ("MaskedDiceLoss", SOFTMAX, (X, T.byte(), MASK)),
    ("MaskedDiceLoss", SOFTMAX, (X, T.float(), torch.rand(1, 1, *SIZE, generator=G))),
    ("MaskedDiceLoss", {"sigmoid": True}, (X, (X > 0).float(), MASK)),
    ("AsymmetricFocalLoss", LABELS, (P, T2)),
    ("AsymmetricFocalTverskyLoss", LABELS, (P, T2)),
    ("GeneralizedDiceLoss", SOFTMAX, (X, T)),
    ("DiceFocalLoss", SOFTMAX, (X, T)),
    ("TverskyLoss", SOFTMAX, (X, T)),
    ("MCCLoss", SOFTMAX, (X, T)),
    ("FocalLoss", {**LABELS, "gamma": 1.5}, (X, T)),
]


def pair_of(name: str, options: dict[str, Any]) -> tuple[Any, Any]:
    """Return the drop-in and the peer."""
    parts = name in ("AsymmetricFocalLoss", "AsymmetricFocalTverskyLoss")
    of = (unified_focal, unified_focal_loss) if parts else (ours, monai.losses)
    own, peer = (getattr(module, name)(**options) for module in of)
    return own, peer


@pytest.mark.parametrize("case", few(WHOLE, test=4), ids=lambda case: case[0])
def test_a_graph_is_one_operator(case: tuple[str, dict[str, Any], tuple[Tensor, ...]]) -> None:
    name, options, tensors = case
    are_one_operator(*pair_of(name, options), *tensors)


def wassersteins(mode: str) -> Iterator[Any]:
    """Yield the drop-in and the peer."""
    for of in (ours, monai.losses):
        yield of.GeneralizedWassersteinDiceLoss(
            MATRIX.numpy(), weighting_mode=mode, reduction="sum"
        )


@pytest.mark.followed  # where torch traces, coverage sees nothing
def test_what_is_traced_is_right_where_it_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    pairs = [(*pair_of(name, options), tensors) for name, options, tensors in WHOLE]
    pairs += [(*wassersteins(mode), (X, T)) for mode in ("default", "GDL")]
    for own, peer, tensors in pairs:

        def traced(*tensors: Tensor, own: Loss = own) -> Tensor:
            with monkeypatch.context() as patch:
                patch.setattr(torch.compiler, "is_compiling", lambda: True)
                return own(*tensors)

        compare(traced, peer, *tensors)


@pytest.mark.parametrize("mode", few(["default", "GDL"], test=1))
def test_a_graph_of_confusions_is_one_operator(mode: str) -> None:
    own, peer = wassersteins(mode)
    are_one_operator(own, peer, X, T, of="confusion")
    compiled: Any = torch.compile(own, fullgraph=True, backend="aot_eager")
    with pytest.raises(ValueError, match=r"class indices in \[0, 3\).*the first of which is 7"):
        compiled(X, torch.full_like(T, 7))


@pytest.mark.parametrize(
    "loss",
    few([our_smp.DiceLoss("multiclass"), our_kornia.DiceLoss(average="macro")], test=1),
    ids=lambda loss: type(loss).__module__,
)
def test_the_other_peers(loss: Any) -> None:  # noqa: ANN401
    are_one_operator(loss, copy.deepcopy(loss), X, T[:, 0])


def test_attributes_that_change() -> None:
    own, peer = (of.DiceCELoss(**SOFTMAX) for of in (ours, monai.losses))
    counter = CompileCounterWithBackend("aot_eager")
    compiled = torch.compile(own, fullgraph=True, backend=counter)
    for path, name, value in (
        ("", "lambda_ce", 0.5),
        ("", "lambda_ce", 0.25),
        ("", "lambda_ce", 0.125),
        ("dice", "batch", True),
        ("dice", "softmax", False),
    ):
        compare(compiled, peer, X, T)
        for loss in (own, peer):
            setattr(loss.get_submodule(path), name, value)
    compare(compiled, peer, X, T)
    assert counter.frame_count <= 4  # one for all numbers


def test_weights_and_a_matrix_that_change() -> None:
    matrix = MATRIX.clone()
    own: Any = ours.GeneralizedWassersteinDiceLoss(matrix)
    counter = CompileCounterWithBackend("aot_eager")
    compiled = torch.compile(own, fullgraph=True, backend=counter)
    for _ in range(2):
        compare(compiled, monai.losses.GeneralizedWassersteinDiceLoss(matrix.numpy()), X, T)
        own(X, T)  # which keeps what it makes of the matrix
        matrix[0, 1] = 0.25
    assert counter.frame_count == 1


def test_lightning_writes_into_what_it_compiles() -> None:
    loss, peer = (of.DiceLoss(**SOFTMAX) for of in (ours, monai.losses))
    operators = Operators()
    compiled = operators.compile(loss)
    compiled._compile_kwargs = {"backend": operators}
    assert "_compile_kwargs" in vars(loss)
    compare(compiled, peer, X, T)
    assert operators.forward == [["region_formula"]]
    assert _planned._kind(loss, (X, T), []) is not None  # its plan when it is called eagerly


def test_modules_alike_share_a_graph() -> None:
    counter = CompileCounterWithBackend("eager")
    loss = ours.MaskedDiceLoss(**SOFTMAX)
    for own in (loss, pickle.loads(pickle.dumps(loss)), ours.MaskedDiceLoss(**SOFTMAX)):
        torch.compile(own, fullgraph=True, backend=counter)(X, T, MASK.float())
    assert counter.frame_count == 1


def test_sizes_that_change_get_the_operations_of_the_formula() -> None:
    operators = Operators()
    own, peer = (of.DiceLoss(**SOFTMAX) for of in (ours, monai.losses))
    compiled = operators.compile(own)
    for rows in (6, 5, 3):
        compare(compiled, peer, X[:, :, :rows], T[:, :, :rows])
    assert operators.forward == [["region_formula"], ["region_sums"]]


class _Negative(ours.DiceLoss):
    """A subclass that has a value of its own."""

    def forward(self, input: Tensor, target: Tensor) -> Tensor:
        return -super().forward(input, target)


TRACED: list[tuple[dict[str, Any], Tensor, Tensor]] = [
    ({"other_act": lambda x: torch.softmax(x, 1), "to_onehot_y": True}, X, T),
    ({**SOFTMAX, "reduction": "none"}, X, T),
    ({"sigmoid": True}, X[:, :1], T2.float()),
]


@pytest.mark.parametrize("case", few(TRACED, test=1), ids=["activation", "rows", "one class"])
def test_what_has_no_program_is_traced(case: tuple[dict[str, Any], Tensor, Tensor]) -> None:
    options, x, target = case
    operators = Operators()
    own, peer = (of.DiceLoss(**options) for of in (ours, monai.losses))
    compiled = operators.compile(lambda x: own(x, target).sum())
    compare(compiled, lambda x: peer(x, target).sum(), x)
    assert operators.forward == [["region_sums"]]


def test_subclasses_settings_and_autocast() -> None:
    operators = Operators()
    own, peer = _Negative(**SOFTMAX), monai.losses.DiceLoss(**SOFTMAX)
    compiled = operators.compile(own)
    compare(compiled, lambda x, t: -peer(x, t), X, T)
    assert operators.forward == [["region_formula"]]
    with segloss_fast.use_impl("reference"):
        compare(compiled, lambda x, t: -peer(x, t), X, T)
    with torch.autocast("cpu", torch.bfloat16):
        compare(compiled, lambda x, t: -peer(x, t), X, T)
    assert operators.forward[1:] == [[], ["region_sums"]]


def test_labels_that_are_masked_out_may_be_anything() -> None:
    own, peer = (of.MaskedDiceLoss(**SOFTMAX) for of in (ours, monai.losses))
    compiled: Any = torch.compile(own, fullgraph=True, backend="aot_eager")
    target = torch.where(MASK, T, 255)
    compare(compiled, peer, X, target, MASK.float())
    with pytest.raises(ValueError, match=r"class indices in \[0, 3\)"):
        compiled(X, target, torch.ones_like(X[:, :1]))


def test_no_items() -> None:
    compiled: Any = torch.compile(ours.MaskedDiceLoss(**SOFTMAX), backend="aot_eager")
    assert compiled(X[:0], T[:0], MASK[:0].float()).isnan()  # a mean of nothing, as MONAI's


def test_opcheck() -> None:
    written: list[str] = []
    found = graphs.write

    def write(*arguments: Any) -> str:  # noqa: ANN401
        written.append(found(*arguments))
        return written[0]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(graphs, "write", write)
        loss = ours.GeneralizedWassersteinDiceLoss(MATRIX)
        torch.compile(loss, fullgraph=True, backend="eager")(X, T)
    (text,) = written
    matrix = loss.m.double().flatten()
    leaf = X.clone().requires_grad_()
    torch.library.opcheck(graphs.operator, (leaf, T, None, matrix, text))
    _, rows = graphs.operator(X, T, None, matrix, text)
    backward = torch.ops.segloss_fast.confusion_formula_backward
    torch.library.opcheck(backward, (torch.tensor(0.5), rows, X, T, None, text))

"""Which of the collected tests run, and in which order: hooks and options of pytest."""

from __future__ import annotations

import gc
import os
import random
from collections import Counter
from functools import cache
from pathlib import Path

import pytest
import torch

from segloss_fast import backends
from tests.suite import kinds, tiers

NOT_RUN = pytest.StashKey[Counter[str]]()
COLLECTIONS = pytest.StashKey[int]()  # whole garbage collections, as of the last freeze
WORKER_KEY = "segloss_not_run"
# Why a test does not run, which for a tier is its name, and what runs it.
HOW = {
    "part": "the other --part",
    "test": "make test",
    "all": "make test-all",
    "hand": "make sanitize, make huge",
    "impl": "--impl all",
    "process": "native kernels, or a process with TRITON_INTERPRET=1, or without",
    "gpu": "a machine with a CUDA device",
}


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the options that choose tests."""
    group = parser.getgroup("segloss_fast")
    group.addoption("--tier", choices=tiers.TIERS, default="test", help="how much to run")
    group.addoption(
        "--impl",
        choices=("all", "native", "reference"),
        default="all",
        help="of the tests that name an implementation, run those of this one",
    )
    group.addoption(
        "--part",
        choices=("all", "native", "pure"),
        default="all",
        help="pure: without native kernels, the tests of tier test that name no implementation and "
        "do not trace, and of the reference those that begin in tier all; native: with them, all "
        "tests but these last ones",
    )
    group.addoption("--shuffle", type=int, metavar="SEED", help="run the tests in random order")


def pytest_configure(config: pytest.Config) -> None:
    """Tell modules that draw their cases when imported which tier runs."""
    os.environ[tiers.VARIABLE] = config.getoption("--tier")
    config.stash[NOT_RUN] = Counter()
    workers = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
    if workers > 1:  # threads of several workers that wait for each other cost more than they do
        torch.set_num_threads(max(1, torch.get_num_threads() // workers))
    if config.getoption("--impl") == "native" and "native" not in available():
        raise pytest.UsageError("--impl native, but the native kernels are not built: make build")


@cache  # asked for every test, and slow: it looks for versions of packages
def available() -> set[str]:
    """Return the implementations of region_sums that run on the CPU here."""
    return {
        backend.impl
        for backend in backends()
        if (backend.primitive, backend.device) == ("region_sums", "cpu") and backend.available
    }


def pytest_ignore_collect(collection_path: Path) -> bool | None:
    """Leave out files whose kernels Triton interprets, or only those: see kinds.interpreting."""
    name = collection_path.name
    if not name.startswith("test_"):
        return None
    interpreted, in_both = "interpreted" in name, kinds.is_contract(collection_path)
    other_process = interpreted != kinds.interpreting() and not in_both
    of_triton = kinds.interpreting() or "_compiled" in name
    return True if other_process or (of_triton and kinds.why_no_triton() is not None) else None


def why_not(item: pytest.Item, config: pytest.Config) -> str | None:
    """Return why a test does not run, one of the keys of HOW; None where it does."""
    kind, impl = kinds.kind_of(item), kinds.implementation(item)
    if runs_elsewhere(item):
        return "process"
    if kind == "gpu" and not torch.cuda.is_available():
        return "gpu"
    wanted = config.getoption("--impl")
    if wanted != "all" and impl in ("native", "reference") and impl != wanted:
        return "impl"
    marked = [mark.args[0] for mark in item.iter_markers("tier")]
    by_kind = kinds.TIER[kind]
    if kind == "reference" and "native" not in available():
        by_kind = kinds.TIER["native"]  # it is what users get here
    begins = max((by_kind, *marked), key=tiers.TIERS.index)
    if not in_part(config.getoption("--part"), kind, impl, begins):
        return "part"
    later = tiers.TIERS.index(begins) > tiers.TIERS.index(config.getoption("--tier"))
    return begins if later else None


def in_part(part: str, kind: str, impl: str | None, begins: str) -> bool:
    """Whether a test that begins in a tier is of a part of the tests.

    What names no implementation runs twice where it is among the first cases. More seeds of the
    same, and the graphs of what lies above an implementation, say nothing new about another one.
    """
    apart = impl == "reference" and begins == "all"
    if part == "pure":
        return apart or (impl is None and begins != "all" and kind != "torch_compile")
    return part == "all" or not apart


def runs_elsewhere(item: pytest.Item) -> bool:
    """Whether a test of a contract has no machine in this process, or needs none and runs once."""
    machine = kinds.machine(item)
    if machine is None:
        return kinds.interpreting() and kinds.is_contract(item.path)
    return getattr(machine, "family", None) == "nowhere"


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Deselect what does not run, and order the rest."""
    reasons = {item: why_not(item, config) for item in items}
    dropped = [item for item in items if reasons[item] is not None]
    items[:] = [item for item in items if reasons[item] is None]
    config.hook.pytest_deselected(items=dropped)
    config.stash[NOT_RUN].update(str(reasons[item]) for item in dropped)
    seed = config.getoption("--shuffle")
    if seed is None:
        items.sort(key=lambda item: kinds.order_of(item))  # stable: files keep their order
    else:
        random.Random(seed).shuffle(items)


def pytest_collection() -> None:
    """Collect no garbage among tests, a sixth of the time that it takes to collect these."""
    gc.disable()


def pytest_collection_finish() -> None:
    """Let garbage collection look at no test again: torch.compile asks for it after each trace."""
    freeze()
    gc.enable()


@pytest.hookimpl(trylast=True)
def pytest_runtest_teardown(item: pytest.Item) -> None:
    """Nor at what torch.compile leaves behind, a million objects and half a second at last."""
    if gc.get_stats()[-1]["collections"] != item.config.stash.get(COLLECTIONS, 0):
        freeze()
        item.config.stash[COLLECTIONS] = gc.get_stats()[-1]["collections"]


def freeze() -> None:
    """Free what nothing refers to, and let later collections pass over the rest."""
    gc.collect()
    gc.freeze()


def pytest_report_header(config: pytest.Config) -> str:
    """Name what was chosen."""
    tier, impl, seed = (config.getoption(name) for name in ("--tier", "--impl", "--shuffle"))
    order = "" if seed is None else f", in random order {seed}"
    triton = ", Triton's kernels interpreted" if kinds.interpreting() else ""
    said = f"segloss_fast: tier {tier}, implementations: {impl}{triton}{order}"
    reason = kinds.why_no_triton()
    return said if reason is None else f"{said}\nwithout tests of Triton's kernels: {reason}"


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Tell the controlling process of a parallel run what this worker left out."""
    output = getattr(session.config, "workeroutput", None)
    left_out = session.config.stash[NOT_RUN]
    if output is not None:
        output[WORKER_KEY] = dict(left_out)


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: object) -> None:
    """Take it over; all workers leave out the same."""
    config: pytest.Config = node.config  # type: ignore[attr-defined]
    counts: dict[str, int] = getattr(node, "workeroutput", {}).get(WORKER_KEY, {})
    left_out = config.stash[NOT_RUN]
    left_out.update(Counter(counts) - left_out)


def pytest_unconfigure(config: pytest.Config) -> None:
    """Say last what was not run, and how to run it."""
    gc.unfreeze()  # or Triton's bindings take what lives on for a leak
    left_out = config.stash.get(NOT_RUN, None)
    reporter = config.pluginmanager.get_plugin("terminalreporter")
    if hasattr(config, "workerinput") or reporter is None or not left_out:
        return
    parts = [f"{left_out[why]} ({how})" for why, how in HOW.items() if left_out[why]]
    reporter.write_line(f"Not run, and what runs them: {', '.join(parts)}.")

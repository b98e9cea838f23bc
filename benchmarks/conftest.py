"""pytest in this folder: its options, a fixed thread count, results that do not name the host."""

from __future__ import annotations

import warnings
from collections.abc import MutableMapping

import pytest
import torch

from benchmarks.measure.harness import FULL, QUICK, Effort
from benchmarks.measure.provenance import THREADS, Session, machine

SESSION = pytest.StashKey[Session]()


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add ``--quick`` and ``--device``."""
    parser.addoption("--quick", action="store_true", help="small benchmarks, in about a minute")
    parser.addoption(
        "--device", choices=("cpu", "cuda"), help="of what is measured; all if not given"
    )


def pytest_configure(config: pytest.Config) -> None:
    """Fix what all benchmarks depend on."""
    torch.set_num_threads(THREADS)
    # torch.compile imports modules of torch that warn; the tests' setting makes warnings errors.
    config.addinivalue_line("filterwarnings", "ignore")
    # That filter is for tests; pytest-benchmark says this after them, where no case was asked for.
    warnings.filterwarnings("ignore", "Not saving anything, no benchmarks have been run!")
    config.stash[SESSION] = Session()


def pytest_benchmark_generate_machine_info() -> dict[str, str]:
    """Replace pytest-benchmark's description of the machine, which names the host."""
    return machine()


def pytest_benchmark_update_json(
    config: pytest.Config, output_json: MutableMapping[str, object]
) -> None:
    """Add where the results come from."""
    output_json["provenance"] = config.stash[SESSION].provenance()


@pytest.fixture(scope="session")
def effort(request: pytest.FixtureRequest) -> Effort:
    """How long to measure."""
    return QUICK if request.config.getoption("quick") else FULL

"""set_impl, use_impl and debug: nested, kept, and in overlapping blocks of several threads."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest

import segloss_fast
from segloss_fast import _impl


@pytest.fixture(autouse=True)
def as_before() -> Iterator[None]:
    assert _impl._default == "auto"
    assert not _impl.debug_enabled()
    yield
    assert _impl._default == "auto"
    assert not _impl.debug_enabled()


@pytest.mark.parametrize("first_leaves_first", [True, False])
def test_overlapping_blocks_of_threads_leave_what_was_before(first_leaves_first: bool) -> None:
    """A enters, B enters, and they leave in this order or the other."""
    entered, leave = [threading.Event() for _ in "AB"], [threading.Event() for _ in "AB"]

    def block(number: int, impl: str) -> None:
        with segloss_fast.use_impl(impl), segloss_fast.debug(number == 0):
            entered[number].set()
            assert leave[number].wait(10)

    threads = [
        threading.Thread(target=block, args=(number, impl))
        for number, impl in enumerate(("reference", "native"))
    ]
    for number, thread in enumerate(threads):
        thread.start()
        assert entered[number].wait(10)
    assert _impl._default == "native"  # the last that was entered
    order = [0, 1] if first_leaves_first else [1, 0]
    leave[order[0]].set()
    threads[order[0]].join()
    assert _impl._default == ("native" if first_leaves_first else "reference")
    assert _impl.debug_enabled() == (not first_leaves_first)
    leave[order[1]].set()
    threads[order[1]].join()


def test_a_default_that_is_set_inside_a_block_takes_effect_after_it() -> None:
    with segloss_fast.use_impl("native"):
        segloss_fast.set_impl("reference")
        assert _impl._default == "native"
    assert _impl._default == "reference"
    segloss_fast.set_impl("auto")


def test_an_error_leaves_the_block() -> None:
    with pytest.raises(KeyError), segloss_fast.use_impl("reference"), segloss_fast.debug():
        raise KeyError


def test_debug_may_be_kept_and_used_as_a_block_later() -> None:
    kept = segloss_fast.debug(True)
    assert _impl.debug_enabled()
    segloss_fast.debug(False)
    assert not _impl.debug_enabled()
    for _ in range(2):
        with kept:
            assert _impl.debug_enabled()
            with kept, segloss_fast.debug(False):
                assert not _impl.debug_enabled()
            assert _impl.debug_enabled()
        assert not _impl.debug_enabled()


def test_debug_kept_while_it_is_on_is_off_after_its_block() -> None:
    kept = segloss_fast.debug(True)
    with kept:
        assert _impl.debug_enabled()
    assert not _impl.debug_enabled()

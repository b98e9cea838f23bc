"""Processes that call losses together over gloo, started once for all that they are asked."""

from __future__ import annotations

import datetime
import pickle
import socket
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch.multiprocessing.spawn import ProcessExitedException, ProcessRaisedException, spawn
from typing_extensions import Self

from tests.suite.following import following

SECONDS = 20  # how long a rank waits for others that do not come

# Called with the rank, and the group of the first so many ranks.
Task = Callable[[int, dist.ProcessGroup], object]


class Results(dict[str, list[list[Any]]]):
    """What each task of a name returned on each of its ranks; see :func:`together`.

    Where a process ended before its time there is nothing, and whoever asks fails with the reason.
    """

    reason = ""

    @classmethod
    def of(cls, ranks: int, tasks: Mapping[str, Sequence[tuple[int, Task]]], folder: Path) -> Self:
        """Run the tasks of all names one after another."""
        results = cls()
        try:
            found = iter(together(ranks, [one for some in tasks.values() for one in some], folder))
        except (ProcessExitedException, ProcessRaisedException) as error:
            results.reason = str(error)
        else:
            for name, some in tasks.items():
                results[name] = [next(found) for _ in some]
        return results

    def __missing__(self, name: str) -> list[list[Any]]:
        raise AssertionError(f"nothing for {name}: {self.reason}")


def together(ranks: int, tasks: Sequence[tuple[int, Task]], folder: Path) -> list[list[Any]]:
    """Return what each task returned on each of its ranks, with the seconds that it took there.

    What it raised counts as returned. The next one begins when a rank is through, so that ranks
    that make other collectives than the rest show.

    Args:
        ranks: How many processes there are.
        tasks: For the first so many ranks; they can be pickled.
        folder: For files of the processes.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    spawn(_work, (ranks, tasks, port, str(folder)), nprocs=ranks)
    by_rank = [pickle.loads((folder / f"{rank}.pickle").read_bytes()) for rank in range(ranks)]
    return [
        [by_rank[rank][place] for rank in range(of_ranks)]
        for place, (of_ranks, _) in enumerate(tasks)
    ]


def _work(rank: int, ranks: int, tasks: Sequence[tuple[int, Task]], port: int, folder: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo",
        init_method=f"tcp://127.0.0.1:{port}",
        rank=rank,
        world_size=ranks,
        timeout=datetime.timedelta(seconds=SECONDS),
    )
    groups = {n: dist.new_group(list(range(n))) for n in range(1, ranks)}
    assert dist.group.WORLD is not None
    groups[ranks] = dist.group.WORLD
    found: list[Any] = []
    with following() if rank == 0 else nullcontext():
        for of_ranks, task in tasks:
            begun = time.monotonic()
            result: object = None
            if rank < of_ranks:
                try:
                    result = task(rank, groups[of_ranks])
                except Exception as error:
                    result = error
            found.append((result, time.monotonic() - begun))
    Path(folder, f"{rank}.pickle").write_bytes(pickle.dumps(found))
    dist.barrier()
    dist.destroy_process_group()

"""Several processes of one training, for tests: a few that share what a test asks of them, or torchrun's.

python processes.py FOLDER SHARDS RECIPE ...
"""

from __future__ import annotations

import faulthandler
import multiprocessing
import os
import pickle
import signal
import socket
import sys
import tempfile
import warnings
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from conftest import brief, made_up, train_unprobed
from diptych import catalog
from diptych.alarms.learning import FEWEST
from diptych.measuring.quick import QuickExam
from diptych.runs import Run
from diptych.system.parallel import joined
from diptych.training.state import Settings

SETTINGS = Settings("24-images", ticks=1, snapshots=0, device="cpu", seed=3)
EXAMINED = ("edm2", "r3gan")
STARTER = multiprocessing.get_context("forkserver")  # it imports torch once, and its children not at all
STARTER.set_forkserver_preload(
    ["diptych.training.loop", "diptych.measuring.quick", "diptych.catalog", "torch._dynamo"]
)


def trained(
    name: str,
    out: Path,
    shards: int = 1,
    examined: bool = False,
    arguments: Mapping[str, Any] | None = None,
    **changes: Any,
) -> Run:
    """A few steps of a small recipe, with so many shards to a batch."""
    spec = brief(catalog.recipe(name))
    data = made_up(n=96, held_out=48) if examined else made_up()
    given = {**spec.small, **(arguments or {})}
    batch = spec(data.train, **given).batch
    settings = replace(SETTINGS, **{"microbatch": -(-batch // shards) if shards > 1 else 0, **changes})
    examine = QuickExam(data, FEWEST) if examined else None  # the smallest that alarms learn from
    return train_unprobed(spec, data, out, arguments=given, settings=settings, examine=examine)


def together(n: int, work: Callable[..., Any], *given: Any, patience: float = 60) -> list[Any]:
    """What `work(*given)` returns, or raises, in each of n processes that have joined.

    Once in some hundred starts a process was seen to die in native code (malloc found its heap damaged), and
    neither valgrind nor glibc's own checks found a cause: that is tried again once, with a warning.
    """
    for last in (False, True):
        found, signals = attempt(n, work, given, patience)
        if last or not {signal.SIGABRT, signal.SIGSEGV} & signals:
            return found
        warnings.warn(f"a process of {work.__name__} died in native code: once more", stacklevel=2)
    raise AssertionError


def attempt(n: int, work: Callable[..., Any], given: Any, patience: float) -> tuple[list[Any], set[int]]:
    """One start of n processes: what they found, and the signals that ended any of them."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    with tempfile.TemporaryDirectory() as folder:
        members = [STARTER.Process(target=member, args=(i, n, port, folder, work, given)) for i in range(n)]
        for one in members:
            one.start()
        for one in members:
            one.join(patience)
        late = [one for one in members if one.is_alive()]
        for one in late:
            one.kill()
            one.join()
        assert not late, "a process is still waiting for another"
        files = [Path(folder) / str(i) for i in range(n)]
        found = [pickle.loads(file.read_bytes()) if file.exists() else None for file in files]
        return found, {-(one.exitcode or 0) for one in members}


def member(rank: int, n: int, port: int, folder: str, work: Callable[..., Any], given: Any) -> None:
    """One of the processes, as torchrun would have started it."""
    faulthandler.enable()
    torch.set_num_threads(1)
    place = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": n, "MASTER_PORT": port}
    os.environ |= {**{k: str(v) for k, v in place.items()}, "MASTER_ADDR": "127.0.0.1"}
    try:
        with joined():
            found = work(*given)
    except (Exception, KeyboardInterrupt) as error:
        found = error
    Path(folder, str(rank)).write_bytes(pickle.dumps(found))


def main(folder: str, shards: str, *names: str) -> None:
    """A few steps of each, in FOLDER/RECIPE."""
    torch.set_num_threads(1)
    with joined():
        for name in names:
            trained(name, Path(folder) / name, int(shards), name in EXAMINED)


if __name__ == "__main__":
    main(*sys.argv[1:])

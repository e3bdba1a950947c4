"""Training in several processes: what it must be equal to, who writes, and how it ends."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from conftest import made_up, newest
from diptych import catalog
from diptych.errors import Diverged, RunError, WrongUse
from diptych.method import Batch, Clock, Loss, Method, Phase
from diptych.model import Condition, Model, Noise
from diptych.recipe import Recipe
from diptych.runs import Run
from diptych.system import parallel
from diptych.system.files import read_tensors
from diptych.training.shards import count_shards, split
from diptych.training.state import Settings, Training
from processes import EXAMINED, together, trained

NAMES = list(catalog.recipes())
TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1"}
TIMES = ("seconds", "tick_seconds", "sheet_seconds", "exam_seconds")

JUDGED = {"collapse", "quality", "copying"}  # alarms that need to know what is usual


def assert_same(one: Run, other: Run) -> None:
    """Checkpoints, weights, logs without times, samples: bit for bit."""
    assert newest(one).name == newest(other).name
    for file in (f"checkpoints/{newest(one).name}", "model.safetensors"):
        (ours, _), (theirs, _) = (read_tensors(run.path / file) for run in (one, other))
        assert ours.keys() == theirs.keys()
        assert not [key for key in ours if not torch.equal(ours[key], theirs[key])]
    ours, theirs = (
        [{k: v for k, v in line.items() if k not in TIMES} for line in run.log()] for run in (one, other)
    )
    assert ours == theirs
    pictures = [sorted((run.path / "samples").glob("*.png")) for run in (one, other)]
    assert pictures[0]
    assert [p.read_bytes() for p in pictures[0]] == [p.read_bytes() for p in pictures[1]]


@pytest.fixture(scope="module")
def catalog_in_two(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A short run of every recipe in two processes, in one start of torchrun."""
    folder = tmp_path_factory.mktemp("two")
    command = [*TORCHRUN, str(Path(__file__).with_name("processes.py")), str(folder), "2", *NAMES]
    done = subprocess.run(command, env=ENVIRONMENT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return folder


@pytest.mark.parametrize("name", NAMES)
def test_two_processes_are_one_process_with_two_shards(
    name: str, catalog_in_two: Path, tmp_path: Path
) -> None:
    one = trained(name, tmp_path / "one", shards=2, examined=name in EXAMINED)
    assert one.recipe["shards"] == 2
    assert bool(one.log()[-1]["exam"]) == (name in EXAMINED)
    two = Run(catalog_in_two / name)
    assert_same(one, two)
    if name in EXAMINED:
        assert one.recipe["exam"]["calibration"]["limits"].keys() == JUDGED
        assert one.recipe["exam"] == two.recipe["exam"]
        assert one.log()[-1]["alarms"].keys() > JUDGED


# ---------------------------------------------------------------- gradients


class Still(Model):
    """Images that nobody looks at."""

    image_shape = (1, 8, 8)

    def forward(self, noise: Noise, condition: Condition = Condition()) -> Tensor:
        return noise.normal(1, 8, 8)


class Three(Method):
    """f(x) = (w.x)^2 / 2 in three losses without randomness, each with weights of its own and a step of 1."""

    def __init__(self) -> None:
        super().__init__()
        self.model = Still()
        self.model.weight = nn.Parameter(torch.zeros(1))
        start = torch.randn(3, 64, generator=torch.Generator().manual_seed(0)) / 16
        self.weights = nn.ParameterList(start.clone().unbind())

    def phases(self) -> Sequence[Phase]:
        losses = (self.squares, self.r1, self.tangent)
        return [
            Phase(loss.__name__, loss, torch.optim.SGD([w], 1.0))
            for loss, w in zip(losses, self.weights, strict=True)
        ]

    def squares(self, batch: Batch, clock: Clock) -> Loss:
        """(w.x - 1)^2 / 2, with gradient (w.x - 1) x."""
        return (batch.image.flatten(1) @ self.weights[0] - 1).square().mean() / 2, {}

    def r1(self, batch: Batch, clock: Clock) -> Loss:
        """|df/dx|^2 = (w.x)^2 |w|^2, with gradient 2 (w.x) |w|^2 x + 2 (w.x)^2 w."""
        x = batch.image.flatten(1).requires_grad_()
        f = (x @ self.weights[1]).square().sum() / 2
        (slope,) = torch.autograd.grad(f, x, create_graph=True)
        return slope.square().sum(1).mean(), {}

    def tangent(self, batch: Batch, clock: Clock) -> Loss:
        """(df/dx x)^2 = (w.x)^4, with gradient 4 (w.x)^3 x."""
        x = batch.image.flatten(1)
        _, along = torch.func.jvp(lambda x: (x @ self.weights[2]).square() / 2, (x,), (x,))
        return along.square().mean(), {}


def gradients(microbatch: int = 0) -> tuple[list[Tensor], dict[str, float]]:
    """Of the three losses for the first batch of ten images, from one step; and what was logged."""
    settings = Settings("10-images", device="cpu", microbatch=microbatch)
    training = Training(Recipe(Three(), batch=10), made_up().train, 10, settings)
    before = [w.detach().clone() for w in training.method.weights]
    training.step()
    after = [w.detach() for w in training.method.weights]
    return [b - a for b, a in zip(before, after, strict=True)], training.logs.means()


def expected() -> tuple[list[Tensor], list[float]]:
    """The same in closed form, in float64; and the losses."""
    x = made_up().train.batch(0, 0, 10).image.flatten(1).double()
    w1, w2, w3 = (w.detach().double() for w in Three().weights)
    a, b, c = x @ w1 - 1, x @ w2, x @ w3
    found = [
        (a[:, None] * x).mean(0),
        (2 * b[:, None] * w2.square().sum() * x + 2 * b.square()[:, None] * w2).mean(0),
        (4 * (c**3)[:, None] * x).mean(0),
    ]
    losses = [a.square().mean() / 2, (b.square() * w2.square().sum()).mean(), c.pow(4).mean()]
    return found, [float(loss) for loss in losses]


@pytest.mark.filterwarnings("ignore:.torch.jit.script. is deprecated")  # torch's own, on the first jvp
@pytest.mark.parametrize(("processes", "microbatch"), [(1, 0), (1, 3), (2, 0), (2, 2), (3, 0), (4, 1)])
def test_the_gradient_is_that_of_the_whole_batch(processes: int, microbatch: int) -> None:
    """Of ten images, which three or four processes cannot share evenly; double backward and jvp included."""
    exact, losses = expected()
    answers = together(processes, gradients, microbatch) if processes > 1 else [gradients(microbatch)]
    for found, logs in answers:
        for ours, theirs in zip(found, exact, strict=True):
            torch.testing.assert_close(ours.double(), theirs, rtol=1e-5, atol=1e-6)
        assert [logs[name] for name in ("squares", "r1", "tangent")] == pytest.approx(losses, rel=1e-5)
        assert all(torch.equal(*pair) for pair in zip(found, answers[0][0], strict=True))


def test_shards() -> None:
    assert count_shards(8, 0, 1) == 1
    assert count_shards(8, 3, 1) == 3
    assert count_shards(8, 3, 2) == 4  # alike many for both
    assert count_shards(8, 0, 3) == 3
    assert count_shards(8, 0, 2, recorded=4) == 4
    assert count_shards(8, 0, 4, recorded=2) == 4
    assert count_shards(8, 0, 1, recorded=2) == 2  # as it was begun
    assert [s.stop - s.start for s in split(10, 4)] == [3, 3, 2, 2]
    with pytest.raises(WrongUse, match="batch of 2 images cannot be shared by 3 processes"):
        count_shards(2, 0, 3)


@pytest.mark.parametrize("processes", [3, 4])
def test_more_processes_agree_to_rounding(processes: int, tmp_path: Path) -> None:
    """Eight images in as many shards as processes: sums of more than two are not in one order."""
    one = trained("edm", tmp_path / "one", shards=processes)
    assert together(processes, run_of, "edm", tmp_path / "more") == [True] * processes
    (ours, _), (theirs, _) = (read_tensors(newest(Run(tmp_path / name))) for name in ("one", "more"))
    networks = [key for key in ours if key.startswith("/method/")]
    assert len(networks) > 10
    for key in networks:
        torch.testing.assert_close(ours[key], theirs[key], rtol=1e-4, atol=1e-5)
    assert Run(tmp_path / "more").log()[-1]["losses"] == pytest.approx(one.log()[-1]["losses"], rel=1e-4)


def run_of(name: str, out: Path, ticks: int = 1) -> bool:
    """A run to its end: whether it is whole when `train` returns."""
    return trained(name, out, ticks=ticks).finished


# ------------------------------------------------------------- who and when


@lru_cache(1)
def places() -> dict[bytes, int]:
    """Which training image it is, by its pixels."""
    train = made_up().train
    return {train.pixels[i].tobytes(): i for i in range(len(train))}


def watched(stop_after: int, out: Path, budget: str = "48-images") -> tuple[str, dict[int, list[int]]]:
    """A run of edm that the last process interrupts after so many steps, by SIGINT to itself.

    How it ended, and by images seen and row the training image that this process worked on.
    """
    seen: dict[int, list[int]] = {}
    shards_of, step = Training.my_shards, Training.step

    def my_shards(training: Training, images: int) -> list[tuple[int, Batch]]:
        found = shards_of(training, images)
        for first, batch in found:
            levels = ((batch.image + 1) * 127.5).round().to(torch.uint8).permute(0, 2, 3, 1)
            for row, image in enumerate(levels):
                seen[images + first + row] = places()[image.contiguous().numpy().tobytes()]
        return found

    def step_and_stop(training: Training) -> None:
        step(training)
        if training.steps == stop_after and parallel.rank() == parallel.world() - 1:
            os.kill(os.getpid(), signal.SIGINT)

    patch = pytest.MonkeyPatch()
    with patch.context() as patch:
        patch.setattr(Training, "my_shards", my_shards)
        patch.setattr(Training, "step", step_and_stop)
        try:
            trained("edm", out, budget=budget)
        except KeyboardInterrupt:
            return "interrupted", seen
    return "finished", seen


ORDER = [int(i) for i in np.random.default_rng([3, 0, 0x0D17]).permutation(64)[:48]]


@pytest.mark.parametrize(("before", "after"), [(2, 1), (1, 2), (2, 3)])
def test_all_stop_together_and_any_number_goes_on(before: int, after: int, tmp_path: Path) -> None:
    """SIGINT to one of them: a checkpoint; then the rest of the same images in the same order."""
    out = tmp_path / "run"
    first = together(before, watched, 3, out)
    assert [how for how, _ in first] == ["interrupted"] * before
    assert newest(Run(out)).stem == f"{24:012d}"
    assert not Run(out).finished
    second = together(after, watched, 0, out)
    assert [how for how, _ in second] == ["finished"] * after
    for answers, rows in ((first, range(24)), (second, range(24, 48))):
        seen = [item for _, part in answers for item in part.items()]
        assert len(seen) == 24  # nobody does what another does
        assert [dict(seen)[row] for row in rows] == ORDER[rows.start : rows.stop]
    if (before, after) == (2, 1):
        assert_same(trained("edm", tmp_path / "whole", shards=2, budget="48-images"), Run(out))


def writing(out: Path) -> set[str]:
    """Files and folders in `out` that this process opens for writing, makes, moves or removes in a run."""
    touched: set[str] = set()

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        writes = event in ("os.mkdir", "os.rename", "os.remove", "os.link", "os.truncate", "os.chmod") or (
            event == "open" and isinstance(arguments[2], int) and arguments[2] & (os.O_WRONLY | os.O_RDWR)
        )
        if writes and isinstance(arguments[0], str | os.PathLike):
            place = Path(arguments[0])
            if place.is_relative_to(out):
                touched.add(str(place.relative_to(out)))

    sys.addaudithook(hook)
    trained("r3gan", out, budget="16-images", ticks=2)
    return touched


def test_one_process_writes(tmp_path: Path) -> None:
    first, second, third = together(3, writing, tmp_path / "run")
    assert {"log.jsonl", "checkpoints"} <= first
    assert not second | third


# ------------------------------------------------------------ when one fails


def dying(out: Path) -> None:
    """The second process is killed in its third step, without a word."""
    step = Training.step

    def step_or_die(training: Training) -> None:
        if training.steps == 2 and parallel.rank() == 1:
            os.kill(os.getpid(), signal.SIGKILL)
        step(training)

    Training.step = step_or_die  # type: ignore[method-assign]
    trained("r3gan", out, ticks=3)


def filling(out: Path) -> None:
    """The disk is full when the first process writes its second checkpoint."""
    if parallel.rank() == 0:
        reserve, calls = os.posix_fallocate, []

        def full(descriptor: int, start: int, size: int) -> None:
            calls.append(os.readlink(f"/proc/self/fd/{descriptor}"))
            if sum("/checkpoints/" in name for name in calls) == 2:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            reserve(descriptor, start, size)

        os.posix_fallocate = full
    trained("r3gan", out, ticks=3)


def test_a_killed_process_ends_the_run_and_the_same_command_resumes(tmp_path: Path) -> None:
    first, second = together(2, dying, tmp_path / "run")
    assert second is None
    assert isinstance(first, RunError)
    assert first.message == "another process of this run has ended"
    assert "goes on from the last checkpoint" in first.hint
    assert together(2, run_of, "r3gan", tmp_path / "run", 3) == [True, True]
    assert together(2, run_of, "r3gan", tmp_path / "whole", 3) == [True, True]
    assert_same(Run(tmp_path / "run"), Run(tmp_path / "whole"))


@pytest.mark.skipif(not hasattr(os, "posix_fallocate"), reason="the disk is filled where it is reserved")
def test_an_error_of_one_ends_the_others(tmp_path: Path) -> None:
    first, second = together(2, filling, tmp_path / "run")
    assert isinstance(first, RunError)
    assert "No space left" in first.message
    assert isinstance(second, RunError)
    assert second.message == "another process of this run has ended"
    assert newest(Run(tmp_path / "run")).stem == f"{8:012d}"
    assert together(1, run_of, "r3gan", tmp_path / "run", 3) == [True]


def poisoned(out: Path) -> None:
    """One image that only the second process sees is not a number."""
    batch = catalog.recipe("edm")
    shards_of = Training.my_shards

    def my_shards(training: Training, images: int) -> list[tuple[int, Batch]]:
        found = shards_of(training, images)
        if parallel.rank() == 1:
            found[0][1].image[0, 0, 0, 0] = torch.nan
        return found

    Training.my_shards = my_shards  # type: ignore[method-assign]
    trained(batch.name, out)


def test_what_diverges_in_one_diverges_in_all(tmp_path: Path) -> None:
    for error in together(2, poisoned, tmp_path / "run"):
        assert isinstance(error, Diverged)
        assert "'denoiser' was no longer finite in step 0" in error.message


def crowded(out: Path) -> None:
    trained("edm", out, arguments={"batch": 2})


def test_more_processes_than_images(tmp_path: Path) -> None:
    for error in together(3, crowded, tmp_path / "run"):
        assert isinstance(error, WrongUse)
        assert "2 images cannot be shared by 3 processes" in error.message
    assert not (tmp_path / "run" / "recipe.json").exists()


def apart(folder: Path) -> None:
    """Each process, as on a machine of its own, with another directory of the same name."""
    trained("r3gan", folder / str(parallel.rank()) / "run")


def test_processes_that_do_not_share_a_directory(tmp_path: Path) -> None:
    trained("r3gan", tmp_path / "0" / "run")
    for error in together(2, apart, tmp_path):
        assert isinstance(error, RunError)
        assert "is not the same directory for all processes" in error.message


def at_odds(out: Path) -> None:
    """Each process with a seed of its own."""
    trained("r3gan", out, seed=parallel.rank())


def test_processes_that_were_told_different_things(tmp_path: Path) -> None:
    for error in together(2, at_odds, tmp_path / "run"):
        assert isinstance(error, WrongUse)
        assert error.message == "the processes of this training do not agree in settings"
    assert not (tmp_path / "run").exists()


# ------------------------------------------------------- from the command line


def of_rank(rank: int, starter: int) -> int:
    """The number of the process that torchrun has started with this rank."""
    for child in Path(f"/proc/{starter}/task/{starter}/children").read_text().split():
        if f"RANK={rank}".encode() in Path(f"/proc/{child}/environ").read_bytes().split(b"\0"):
            return int(child)
    raise AssertionError("it has not started")


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="processes are found in /proc")
def test_torchrun_starts_a_killed_training_again(tmp_path: Path) -> None:
    """kill -9 of one: a sentence, no traceback of ours; the same command goes on, and ends in one voice."""
    run = Run(tmp_path / "run")
    flags = ["--width", "8", "--budget", "2016-images", "--ticks", "5", "--exam", "32", "--device", "cpu"]
    arguments = ["train", "r3gan", "digits", "--out", str(run.path), *flags]
    command = [*TORCHRUN, "--max-restarts", "1", "-m", "--", "diptych", *arguments]
    pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, env=ENVIRONMENT, **pipes) as torchrun:
        while torchrun.poll() is None and run.checkpoints.newest is None:
            time.sleep(0.02)
        os.kill(of_rank(1, torchrun.pid), signal.SIGKILL)
        out, said = torchrun.communicate(timeout=120)
    assert torchrun.returncode == 0, said
    assert said.count("error: another process of this run has ended") == 1
    assert "goes on from the last checkpoint" in said
    assert "diptych/" not in said  # of a traceback through this package
    assert out.startswith(f"{run.path}: 2,016 images")
    assert out.count(" images in ") == 1  # one process tells it
    bars = [line.split("  0 s left")[1] for line in said.splitlines() if "r3gan 100 %" in line]
    assert len(bars) == len(set(bars)) >= 1  # nobody else says it too
    images = [line["images"] for line in run.log()]
    assert images == sorted(set(images))
    assert run.log()[-1]["exam"]["fid"] > 0

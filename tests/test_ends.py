"""How trainings end before their time: another process, interrupts, a failing exam, full disks and memory."""

from __future__ import annotations

import errno
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from conftest import newest
from diptych.errors import RunError, WrongUse
from diptych.methods.adversarial import Adversarial
from diptych.runs import Run
from diptych.system.shortage import enough_memory
from faults import Scores, broken_off, go, hint_of, same

HERE = Path(__file__).parent
ENV = {**os.environ, "PYTHONPATH": f"{HERE.parent / 'src'}:{HERE}", "OMP_NUM_THREADS": "1"}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A run that nothing happened to, with all of its checkpoints."""
    return go(tmp_path_factory.mktemp("whole") / "run", keep=100)


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """A run broken off in its third tick."""
    return broken_off(tmp_path / "run", 32)


# --- another process -------------------------------------------------------------------------------------

HOLD = """
import sys; from pathlib import Path; from diptych.system.lock import locked
with locked(Path(sys.argv[1])):
    print(1, flush=True); input()
"""


@pytest.fixture
def holder(run: Run) -> Iterator[subprocess.Popen[str]]:
    """A process that is at work in the run."""
    command = [sys.executable, "-c", HOLD, str(run.path)]
    with subprocess.Popen(command, env=ENV, stdin=-1, stdout=-1, text=True) as process:
        assert process.stdout
        assert process.stdout.readline() == "1\n"
        yield process
        process.kill()


def test_a_second_process_is_turned_away_until_the_first_has_ended(
    run: Run, holder: subprocess.Popen[str], whole: Run
) -> None:
    before = newest(run).read_bytes()
    with pytest.raises(
        RunError, match=rf"is being written by process {holder.pid} on \S+ since 20"
    ) as raised:
        go(run.path)
    assert "choose another --out" in raised.value.hint
    assert newest(run).read_bytes() == before
    holder.kill()
    holder.wait()
    assert str(holder.pid) in (run.path / ".lock").read_text()  # what it left is no obstacle
    assert same(go(run.path), whole)


def test_a_directory_that_is_no_run_is_not_locked(tmp_path: Path) -> None:
    (tmp_path / "photo.png").write_bytes(b"")
    with pytest.raises(RunError):
        go(tmp_path)
    with pytest.raises(WrongUse):
        go(tmp_path / "new", init=str(tmp_path / "nowhere"))
    assert [file.name for file in tmp_path.iterdir()] == ["photo.png"]


# --- interrupts, exams, memory ---------------------------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_leaves_a_checkpoint(
    number: int, tmp_path: Path, whole: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """SIGTERM is what Slurm and Kubernetes send before they kill."""
    loss = Adversarial.generator_loss

    def struck(self: Adversarial, batch: Any, clock: Any) -> Any:
        if clock.images == 40:
            os.kill(os.getpid(), number)
        return loss(self, batch, clock)

    with monkeypatch.context() as patch:
        patch.setattr(Adversarial, "generator_loss", struck)
        with pytest.raises(KeyboardInterrupt):
            go(tmp_path / "run")
    run = Run(tmp_path / "run")
    assert list(run.checkpoints.kept) == [32, 48]  # the step is ended, and this one comes to a tick
    assert same(go(run.path), whole)


def test_a_second_interrupt_breaks_off_a_checkpoint(
    tmp_path: Path, whole: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    reserve = os.posix_fallocate

    def struck(descriptor: int, start: int, size: int) -> None:
        reserve(descriptor, start, size)
        if "checkpoints/.000000000048" in os.readlink(f"/proc/self/fd/{descriptor}"):
            os.kill(os.getpid(), signal.SIGINT)
            os.kill(os.getpid(), signal.SIGINT)

    with monkeypatch.context() as patch:
        patch.setattr(os, "posix_fallocate", struck)
        with pytest.raises(KeyboardInterrupt):
            go(tmp_path / "run")
    run = Run(tmp_path / "run")
    assert list(run.checkpoints.kept) == [16, 32]
    assert not list(run.path.rglob("*.tmp"))
    assert same(go(run.path), whole)


def test_an_exam_that_fails_is_said_and_can_be_left_out(tmp_path: Path) -> None:
    with pytest.raises(
        RunError, match="the exam after 48 images failed: ValueError: there is no such"
    ) as raised:
        go(tmp_path / "run", exam=Scores(fails=48))
    assert "--exam 0" in raised.value.hint
    run = Run(tmp_path / "run")
    assert list(run.checkpoints.kept) == [16, 32]
    assert go(run.path, exam=None).finished


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.\nGPU 0 has ..."),
        RuntimeError("[enforce fail] DefaultCPUAllocator: not enough memory: you tried to allocate 9 bytes."),
        MemoryError(),
    ],
)
def test_too_little_memory_is_a_sentence_and_smaller_microbatches_help(
    error: Exception, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loss = Adversarial.generator_loss

    def greedy(self: Adversarial, batch: Any, clock: Any) -> Any:
        if clock.images >= 40 and len(batch.image) > 4:
            raise error
        return loss(self, batch, clock)

    monkeypatch.setattr(Adversarial, "generator_loss", greedy)
    with pytest.raises(RunError, match="training needs more memory than there is") as raised:
        go(tmp_path / "run")
    assert "\n" not in raised.value.message
    fewer = int(hint_of(raised.value, r"--microbatch .+: (\d+), say"))
    assert "with --force" in raised.value.hint
    assert go(tmp_path / "run", microbatch=fewer, force=True).finished


def test_other_errors_are_not_taken_for_a_lack_of_memory() -> None:
    for error in (RuntimeError("shape mismatch"), OSError(errno.EIO, "broken")):
        with pytest.raises(type(error), match=re.escape(str(error))), enough_memory("this", "more"):
            raise error


# --- on a real disk --------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def disk(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What trainings said on a small disk of their own; see faults.py."""
    unshare = shutil.which("unshare")
    alone = [unshare or "", "--map-root-user", "--mount"]
    if not unshare or subprocess.run([*alone, "true"], capture_output=True, check=False).returncode:
        pytest.skip("no file system can be mounted here")
    command = [*alone, sys.executable, HERE / "faults.py", tmp_path_factory.mktemp("disk")]
    done = subprocess.run(command, env=ENV, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def test_a_full_disk_is_said_and_takes_nothing_away(disk: dict[str, Any]) -> None:
    """Whatever it is that does not fit any more."""
    full = disk["full"]
    parts = {re.sub(r"\d+", "N", said) for said in full["said"].values()}
    assert all(re.fullmatch(r"RUN/\S+ could not be written: No space left on device", part) for part in parts)
    assert {part.split()[0] for part in parts} >= {"RUN/model.safetensors", "RUN/checkpoints/N.safetensors"}
    assert (full["torn"], full["left"], full["finished"]) == (0, 0, True)


def test_a_disk_that_cannot_be_written_to_is_said(disk: dict[str, Any]) -> None:
    assert disk["read only"] == {
        "begun": "DISK/begun cannot be written to: Read-only file system",
        "new": "DISK cannot be written to",
        "afterwards": "True",
    }


def test_a_machine_with_too_little_memory_is_said(disk: dict[str, Any]) -> None:
    """Said by torch's own allocator, under a limit of the operating system."""
    assert re.match(r"training needs more memory than there is: .*allocate", disk["memory"])
    assert "--microbatch" in disk["memory"]

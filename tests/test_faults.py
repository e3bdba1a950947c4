"""What goes wrong on disks and machines: an error that names the file, an untouched checkpoint, a way out."""

from __future__ import annotations

import errno
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import torch

from conftest import newest
from diptych.checkpoints import Checkpoints
from diptych.errors import RunError, WrongUse
from diptych.files import append_line, read_tensors, write_state
from diptych.methods.adversarial import Adversarial
from diptych.resumption import OLDER
from diptych.runs import Run, best_of
from diptych.shortage import enough_memory
from faults import Scores, broken_off, go

HERE = Path(__file__).parent
ENV = {**os.environ, "PYTHONPATH": f"{HERE.parent / 'src'}:{HERE}", "OMP_NUM_THREADS": "1"}
TIMES = ("seconds", "tick_seconds", "sheet_seconds", "exam_seconds")


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A run that nothing happened to, with all of its checkpoints."""
    return go(tmp_path_factory.mktemp("whole") / "run", keep=100)


@pytest.fixture(scope="module")
def begun(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A run broken off in its fifth tick: checkpoints after 48 and 64 images, and the best."""
    return broken_off(tmp_path_factory.mktemp("begun") / "run", 64)


@pytest.fixture
def run(begun: Run, tmp_path: Path) -> Run:
    """A copy of it, to be damaged."""
    shutil.copytree(begun.path, tmp_path / "run")
    return Run(tmp_path / "run")


def same(one: Run, other: Run) -> bool:
    """Whether two finished runs ended alike: state, weights, log, pictures."""
    for file in ("model.safetensors", "best/model.safetensors", "best/model.json"):
        assert (one.path / file).read_bytes() == (other.path / file).read_bytes(), file
    ours, theirs = (read_tensors(newest(run))[0] for run in (one, other))
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[key], theirs[key]) for key in ours)
    logs = [[{k: v for k, v in line.items() if k not in TIMES} for line in run.log()] for run in (one, other)]
    assert logs[0] == logs[1]
    sheets = [{file.name: file.read_bytes() for file in (r.path / "samples").iterdir()} for r in (one, other)]
    return sheets[0] == sheets[1]


def hint_of(error: RunError, pattern: str) -> str:
    """What a hint names."""
    found = re.search(pattern, error.hint)
    assert found, error.hint
    return found[1]


# --- damaged checkpoints ---------------------------------------------------------------------------------


def test_each_flipped_bit_is_found(run: Run) -> None:
    """In the length of the header, in the header with its skeleton and its checksum, in the tensors."""
    file, rng = newest(run), random.Random(0)
    good = file.read_bytes()
    head = 8 + int.from_bytes(good[:8], "little")
    summed = good.index(b'"crc32"')
    places = [*range(8), *rng.sample(range(8, head), 120), *range(summed, summed + 20)]
    for place in [*places, *rng.sample(range(head, len(good)), 60)]:
        bad = bytearray(good)
        bad[place] ^= 1 << rng.randrange(8)
        file.write_bytes(bad)
        with pytest.raises(RunError, match=re.escape(str(file))) as raised:
            run.checkpoints.read(file)
        assert file.name in raised.value.hint


@pytest.mark.parametrize("size", [0, 7, 8, 100, 5000, -1])
def test_a_truncated_checkpoint_is_named_and_the_one_before_it_goes_on(
    size: int, run: Run, whole: Run
) -> None:
    file = newest(run)
    before = run.checkpoints.at(48).read_bytes()
    file.write_bytes(file.read_bytes()[:size])
    with pytest.raises(RunError, match=re.escape(str(file))) as raised:
        go(run.path)
    assert run.checkpoints.at(48).read_bytes() == before
    assert hint_of(raised.value, r"goes on from (.+)") == str(run.checkpoints.at(48))
    (file.parent / hint_of(raised.value, r"remove (\S+),")).unlink()
    assert same(go(run.path), whole)


def test_where_the_only_checkpoint_is_damaged_the_best_weights_begin_a_new_run(tmp_path: Path) -> None:
    run = broken_off(tmp_path / "run", 32, keep=1)
    file = newest(run)
    file.write_bytes(file.read_bytes()[:-3])
    with pytest.raises(RunError) as raised:
        go(run.path, keep=1)
    best = hint_of(raised.value, r"--init (.+)")
    assert best == str(run.best)
    assert go(tmp_path / "new", init=best).finished
    file.unlink()
    with pytest.raises(RunError, match="has seen 48 images, but its checkpoints are gone") as raised:
        go(run.path, keep=1)
    assert len(run.log()) == 3  # nothing was started over
    assert go(tmp_path / "other", init=hint_of(raised.value, r"--init ([^;]+)")).finished


def test_a_finished_run_whose_checkpoints_were_removed_stays_finished(whole: Run, tmp_path: Path) -> None:
    shutil.copytree(whole.path, tmp_path / "run", ignore=shutil.ignore_patterns("checkpoints"))
    again = go(tmp_path / "run")
    assert again.log() == whole.log()
    assert again.checkpoints.newest is None


def test_a_checkpoint_of_an_older_format_lends_its_weights(run: Run, tmp_path: Path) -> None:
    state = run.checkpoints.read(newest(run))
    del state["format"]
    write_state(newest(run), state)
    with pytest.raises(RunError, match="format 1; this version reads format 2") as raised:
        go(run.path)
    assert newest(run).name in str(raised.value)
    assert "--init" in raised.value.hint
    assert go(tmp_path / "new", init=str(run.path)).finished


def test_a_run_of_an_older_version_is_not_started_over(run: Run, tmp_path: Path) -> None:
    newest(run).rename(run.path / OLDER)
    shutil.rmtree(run.checkpoints.directory)
    with pytest.raises(RunError, match=re.escape(str(run.path / OLDER))) as raised:
        go(run.path)
    assert len(run.log()) == 5
    assert go(tmp_path / "new", init=hint_of(raised.value, r"--init (.+)")).finished


# --- what is kept ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("keep", [1, 3])
def test_the_last_few_and_the_best_are_kept(keep: int, whole: Run, tmp_path: Path) -> None:
    run = go(tmp_path / "run", keep=keep)
    assert list(run.checkpoints.kept) == [16 * i for i in range(1, 7)][-keep:]
    best = best_of(whole.log())
    assert best
    assert best["images"] < 16 * (7 - keep)  # it outlived the others
    ours, theirs = (
        read_tensors(path)[0] for path in (run.checkpoints.best, whole.checkpoints.at(best["images"]))
    )
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[key], theirs[key]) for key in ours)
    weights, _ = read_tensors(run.best / "model.safetensors")
    average = run.checkpoints.read(run.checkpoints.best)["average"]
    assert all(torch.equal(tensor, average[key]) for key, tensor in weights.items())


def test_a_kill_between_checkpoint_and_best(
    whole: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(checkpoints: Checkpoints, images: int) -> None:
        raise SystemExit

    with monkeypatch.context() as patch, suppress(SystemExit):
        patch.setattr(Checkpoints, "mark_best", killed)
        go(tmp_path / "run")
    assert not Run(tmp_path / "run").checkpoints.best.exists()
    run = broken_off(tmp_path / "run", 16)
    assert run.checkpoints.best.samefile(run.checkpoints.at(16))
    assert same(go(run.path), whole)


# --- other files -----------------------------------------------------------------------------------------


def test_a_damaged_recipe_is_named_and_its_copy_helps(run: Run, whole: Run) -> None:
    file = run.path / "recipe.json"
    for bad in (file.read_bytes()[:100], b"", b"[]", b'{"recipe": "dcgan"}'):
        file.write_bytes(bad)
        with pytest.raises(RunError, match=re.escape(str(file))) as raised:
            go(run.path)
    shutil.copy(hint_of(raised.value, r"^(\S+) is a copy"), file)
    assert same(go(run.path), whole)


def test_a_lost_recipe_is_asked_for(run: Run, whole: Run) -> None:
    (run.path / "recipe.json").unlink()
    with pytest.raises(RunError, match="not empty and not a run") as raised:
        go(run.path)
    shutil.copy(hint_of(raised.value, r"put (\S+) in its place"), run.path / "recipe.json")
    assert same(go(Run(run.path).path), whole)


def test_a_torn_log_line_is_written_again(run: Run, whole: Run, caplog: pytest.LogCaptureFixture) -> None:
    log = run.path / "log.jsonl"
    assert len(run.log()) == 5  # one more than there are checkpoints for
    log.write_bytes(log.read_bytes()[:-40])
    assert same(go(run.path), whole)
    assert not caplog.records


def test_a_log_that_is_damaged_before_the_checkpoint_is_said(
    run: Run, caplog: pytest.LogCaptureFixture
) -> None:
    log = run.path / "log.jsonl"
    lines = log.read_text().splitlines()
    log.write_text("\n".join([*lines[:2], lines[2][:50], *lines[3:]]) + "\n")
    assert [line["images"] for line in go(run.path).log()] == [16, 32, 80, 96]
    assert f"{log} is damaged after line 2" in caplog.text


def test_a_log_that_cannot_be_written_is_named(run: Run, whole: Run) -> None:
    log = run.path / "log.jsonl"
    log.rename(run.path / "aside")
    log.mkdir()
    with pytest.raises(RunError, match=re.escape(str(log))):
        go(run.path)
    log.rmdir()
    (run.path / "aside").rename(log)
    assert same(go(run.path), whole)


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EROFS, errno.EDQUOT, errno.EIO])
def test_what_the_system_says_of_a_log_is_passed_on(
    number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(descriptor: int) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(RunError, match=f"log.jsonl could not be written: {os.strerror(number)}"):
        append_line(tmp_path / "log.jsonl", "{}")


def test_what_a_kill_leaves_half_written_is_no_obstacle(tmp_path: Path, whole: Run) -> None:
    """Before the first file was whole, and after."""
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / ".recipe.json.99.tmp").write_text("{")
    run = broken_off(tmp_path / "run", 16)
    parts = ("checkpoints", "best", "samples")
    for part in parts:
        (run.path / part / ".x.99.tmp").write_text("half")
    assert same(go(run.path), whole)
    assert not list(run.path.rglob("*.tmp"))


# --- another process -------------------------------------------------------------------------------------

HOLD = """
import sys; from pathlib import Path; from diptych.lock import locked
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

"""What goes wrong on disks and machines: an error that names the file, an untouched checkpoint, a way out."""

from __future__ import annotations

import errno
import json
import os
import random
import re
import shutil
from contextlib import suppress
from pathlib import Path

import pytest
import torch

from conftest import made_up, newest
from diptych.checkpoints import Checkpoints
from diptych.errors import RunError
from diptych.runs import Run, best_of
from diptych.system.files import append_line, read_tensors, write_state
from diptych.training.loop import build
from diptych.training.resumption import take_up
from faults import GAN, SETTINGS, SMALL, broken_off, go, hint_of, same

HERE = Path(__file__).parent
ENV = {**os.environ, "PYTHONPATH": f"{HERE.parent / 'src'}:{HERE}", "OMP_NUM_THREADS": "1"}


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


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="only Linux tells what is mapped")
def test_a_run_that_goes_on_holds_no_checkpoint(run: Run) -> None:
    """One that is mapped keeps its space on the disk when it is removed, and on Windows it cannot be."""
    training = build(GAN, made_up(), SMALL, SETTINGS, 96, run.recipe["shards"])
    take_up(run, training)
    assert training.images == 64
    assert str(run.path) not in Path("/proc/self/maps").read_text()


def test_a_checkpoint_of_an_older_format_lends_its_weights(run: Run, tmp_path: Path) -> None:
    state = run.checkpoints.read(newest(run))
    del state["format"]
    write_state(newest(run), state)
    with pytest.raises(RunError, match="format 1; this version reads format 2") as raised:
        go(run.path)
    assert newest(run).name in str(raised.value)
    assert "--init" in raised.value.hint
    assert go(tmp_path / "new", init=str(run.path)).finished


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


@pytest.mark.parametrize("at", [0, 2, 4])
def test_a_damaged_log_costs_nothing(at: int, run: Run, whole: Run) -> None:
    """Neither the lines after the damage are lost, nor the best of them."""
    log, sound = run.path / "log.jsonl", (run.path / "log.jsonl").read_text()
    lines = sound.splitlines(keepends=True)
    lines[at] = lines[at][:50] + "\n"
    log.write_text("".join(lines))
    before = {path: path.read_bytes() for path in sorted(run.path.rglob("*.*")) if path.is_file()}
    with pytest.raises(RunError, match=f"line {at + 1} of {re.escape(str(log))} is damaged") as raised:
        go(run.path)
    assert "mend it from a copy" in raised.value.hint
    assert {path: path.read_bytes() for path in sorted(run.path.rglob("*.*")) if path.is_file()} == before
    log.write_text(sound)
    assert same(go(run.path), whole)


@pytest.mark.parametrize("lost", [slice(0, 5), slice(1, 2)])
def test_a_log_that_lost_lines_is_not_gone_on_with(lost: slice, run: Run, whole: Run) -> None:
    log, sound = run.path / "log.jsonl", (run.path / "log.jsonl").read_text()
    lines = sound.splitlines(keepends=True)
    del lines[lost]
    log.write_text("".join(lines))
    with pytest.raises(RunError, match=r"of the first 64 images, where 4 were written"):
        go(run.path)
    log.unlink()
    with pytest.raises(RunError, match=r"holds 0 lines of the first 64 images, where 4 were written"):
        go(run.path)
    log.write_text(sound)
    assert same(go(run.path), whole)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"alarms": "x"}, "alarms"),
        ({"alarms": {"collapse": 1}}, "alarm collapse"),
        ({"alarms": {"collapse": {}}}, "no state"),
    ],
)
def test_a_log_line_of_something_else_is_named(change: dict[str, object], said: str, run: Run) -> None:
    first, rest = (run.path / "log.jsonl").read_text().split("\n", 1)
    (run.path / "log.jsonl").write_text(json.dumps(json.loads(first) | change) + "\n" + rest)
    with pytest.raises(RunError, match=said):
        go(run.path)


@pytest.mark.parametrize(
    "change",
    [
        {"threads": 10**6},
        {"images": -32},
        {"images": 100.5},
        {"steps": "x"},
        {"reactions": "x"},
        {"reactions": 10**6},
        {"seconds": float("nan")},
        {"processes": None},
        {"lines": "x"},
    ],
    ids=str,
)
def test_numbers_that_no_training_has_are_refused(change: dict[str, object], run: Run) -> None:
    """In a checkpoint whose checksum is right."""
    file = newest(run)
    write_state(file, {**run.checkpoints.read(file), **change})
    (name,) = change
    with pytest.raises(RunError, match=f"{file.name} cannot be read: {name} ") as raised:
        go(run.path)
    assert f"remove {file.name}, and the same command goes on from" in raised.value.hint


@pytest.mark.parametrize("name", ["000000000064 (copy)", "٠٠٠٠٠٠٠٠٠٠٦٤", "64", "old"])
def test_other_files_among_checkpoints_are_left_alone(name: str, run: Run, whole: Run) -> None:
    for folder in ("checkpoints", "snapshots"):
        (run.path / folder).mkdir(exist_ok=True)
        (run.path / folder / f"{name}.safetensors").write_bytes(b"mine")
    assert max(Run(run.path).snapshots, default=0) <= 96
    assert same(go(run.path), whole)
    assert (run.path / "checkpoints" / f"{name}.safetensors").read_bytes() == b"mine"


@pytest.mark.parametrize("part", [".lock", "log.jsonl", "checkpoints", "best", "samples", "snapshots"])
def test_a_run_writes_and_removes_nothing_through_a_link(part: str, run: Run, tmp_path: Path) -> None:
    mine, there = tmp_path / "mine", run.path / part
    if there.is_dir():
        shutil.move(there, mine)
        (mine / ".x.99.tmp").write_text("not of the run")
    else:
        mine.write_bytes(there.read_bytes() if there.exists() else b"not of the run")
        there.unlink(missing_ok=True)
    there.symlink_to(mine)
    files = [path for path in ([mine] if mine.is_file() else sorted(mine.iterdir())) if path.is_file()]
    before = [path.read_bytes() for path in files]
    with pytest.raises(RunError, match=f"{re.escape(part)} is a link") as raised:
        go(run.path)
    assert "remove it" in raised.value.hint
    assert [path.read_bytes() for path in files] == before


def test_a_run_may_lie_behind_a_link(run: Run, whole: Run, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(run.path)
    assert same(go(tmp_path / "link"), whole)


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

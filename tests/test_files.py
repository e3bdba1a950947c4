"""Files that are whole or not there, and states that come back as they were."""

from __future__ import annotations

import errno
import json
import os
import tempfile
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from diptych.data import open_data
from diptych.errors import DataError, RunError
from diptych.system.files import (
    cache_folder,
    expanded,
    read_state,
    read_tensors,
    write,
    write_state,
    write_tensors,
)

TENSORS = {
    "double": torch.randn(3, dtype=torch.float64),
    "single": torch.randn(2, 3, 4, 5).to(memory_format=torch.channels_last),
    "half": torch.randn(7).half(),
    "brain": torch.randn(5).bfloat16(),
    "long": torch.arange(4),
    "int": torch.arange(4, dtype=torch.int32),
    "short": torch.arange(3, dtype=torch.int16),
    "tiny": torch.arange(3, dtype=torch.int8),
    "byte": torch.arange(3, dtype=torch.uint8),
    "truth": torch.tensor([True, False, True]),
    "scalar": torch.tensor(2.5),
    "empty": torch.zeros(0, 3),
    "view": torch.arange(12.0).view(3, 4)[:, ::2],
    "same everywhere": torch.ones(1).expand(4, 4),
}


def test_safetensors_itself_reads_what_we_write(tmp_path: Path) -> None:
    write_tensors(tmp_path / "a.safetensors", TENSORS, {"who": "we"})
    theirs = load_file(tmp_path / "a.safetensors")
    ours, metadata = read_tensors(tmp_path / "a.safetensors")
    assert metadata == {"who": "we"}
    for name, tensor in TENSORS.items():
        for read in (theirs[name], ours[name]):
            assert read.dtype == tensor.dtype
            assert torch.equal(read, tensor)
    assert ours.keys() == theirs.keys() == TENSORS.keys()


def test_the_same_bytes_as_safetensors_writes_but_for_the_order(tmp_path: Path) -> None:
    dense = {name: tensor.contiguous() for name, tensor in TENSORS.items()}
    write_tensors(tmp_path / "ours", TENSORS)
    save_file(dense, tmp_path / "theirs")
    sizes = [
        path.stat().st_size - 8 - int.from_bytes(path.read_bytes()[:8], "little")
        for path in tmp_path.iterdir()
    ]
    assert sizes[0] == sizes[1] == sum(tensor.nbytes for tensor in dense.values())


def test_a_state_comes_back(tmp_path: Path) -> None:
    state = {
        "tensors": TENSORS,
        "list": [1, 2.5, None, "x", (True, {"deep": torch.ones(2)})],
        3: {"by number": 4},
    }
    write_state(tmp_path / "state", state)
    read = read_state(tmp_path / "state")
    assert read["list"][:4] == [1, 2.5, None, "x"]
    assert read["list"][4][0] is True
    assert torch.equal(read["list"][4][1]["deep"], torch.ones(2))
    assert read[3] == {"by number": 4}
    for name, tensor in TENSORS.items():
        assert torch.equal(read["tensors"][name], tensor), name
    assert read["tensors"]["single"].is_contiguous(memory_format=torch.channels_last)  # no copy on the way


@pytest.mark.parametrize(
    "skeleton", ["", "{}", '{"tensor": ["a", 0, 1, 2]}', '{"tensor": ["b"]}', '{"tensor": 3}']
)
def test_a_state_that_is_none(tmp_path: Path, skeleton: str) -> None:
    write_tensors(tmp_path / "state", {"a": torch.zeros(2)}, {"skeleton": skeleton})
    with pytest.raises(RunError, match="is not a training state"):
        read_state(tmp_path / "state")


@pytest.mark.parametrize("keep", [0, 4, 20, 200, -1])
def test_a_torn_file_is_named(tmp_path: Path, keep: int) -> None:
    path = tmp_path / "state"
    write_tensors(path, TENSORS)
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(RunError, match="state"):
        read_tensors(path)


def test_a_write_that_fails_leaves_what_was_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "state"
    write_state(path, {"step": 1})

    def full(descriptor: int, offset: int, size: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "posix_fallocate", full, raising=False)
    with pytest.raises(RunError, match="No space left"):
        write_state(path, {"step": 2})

    def unable(descriptor: int, offset: int, size: int) -> None:
        raise OSError(errno.EOPNOTSUPP, "not here")

    assert read_state(path) == {"step": 1}
    monkeypatch.setattr(os, "posix_fallocate", unable, raising=False)
    write_state(path, {"step": 3})
    assert read_state(path) == {"step": 3}
    assert [file.name for file in tmp_path.iterdir()] == ["state"]


def test_an_interrupt_while_writing_leaves_nothing_behind(tmp_path: Path) -> None:
    def interrupted(temporary: Path) -> None:
        temporary.write_text(json.dumps("half"))
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write(tmp_path / "file", interrupted)
    assert not list(tmp_path.iterdir())


def test_nobody_needs_a_home_directory(monkeypatch: pytest.MonkeyPatch) -> None:
    """As in a container that runs under a number which belongs to no user."""
    for name in ("HOME", "USERPROFILE", "XDG_CACHE_HOME", "DIPTYCH_CACHE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(os.path, "expanduser", lambda path: path)  # what it does without one
    assert cache_folder() == Path(tempfile.gettempdir(), "diptych")
    assert expanded("~/here") == Path("~/here")
    assert len(open_data("digits").train)
    with pytest.raises(DataError, match="'~/photos'"):
        open_data("~/photos")


def test_a_cache_of_the_desktop_is_an_absolute_path(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("DIPTYCH_CACHE", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    for told, found in (("", "~/.cache"), ("here", "~/.cache"), ("~/c", "~/c"), ("/x", "/x")):
        monkeypatch.setenv("XDG_CACHE_HOME", told)
        assert cache_folder() == expanded(found) / "diptych"

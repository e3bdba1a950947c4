"""The same seed is the same image, bit for bit: whatever the other seeds, the batch, threads, processes."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from conftest import made_up
from diptych import catalog
from diptych.model import Condition, Model, Noise
from diptych.runs import save_model
from diptych.system.blocks import exact_blocks, one_thread, while_it_fits

RECIPES = catalog.recipes()


def drawn(seeds: list[int], size: int) -> dict[int, tuple[int, ...]]:
    """In which rows each seed's image was read."""
    found: dict[int, tuple[int, ...]] = {}
    places: list[int] = []
    for place, rows in exact_blocks(seeds, size):
        assert len(rows) == size
        for image, row in place.items():
            assert rows[row] == image
            found[seeds[image]] = (*found.get(seeds[image], ()), row)
            places.append(image)
    assert sorted(places) == list(range(len(seeds)))
    return found


def test_a_seed_has_its_own_row() -> None:
    seeds = [5, 9, 1, 1, 13, 6, 1000003]
    assert all(set(rows) == {seed % 4} for seed, rows in drawn(seeds, 4).items())
    assert drawn([2], 4) == {2: (2,)}
    assert drawn([], 4) == {}


@pytest.mark.parametrize("first", [0, 5, 63])
def test_neighbours_fill_their_blocks(first: int) -> None:
    blocks = list(exact_blocks(range(first, first + 64), 16))
    assert len(blocks) == 4
    assert all(len(places) == 16 for places, _ in blocks)


def test_blocks_are_as_large_as_asked_for() -> None:
    assert [(list(rows), found) for rows, found in while_it_fits(len, 5, 2)] == [
        ([0, 1], 2),
        ([2, 3], 2),
        ([4], 1),
    ]


class Small(Model):
    """A model of which so many images at once take more memory than there is."""

    image_shape, wants = (1, 2, 2), frozenset[str]()

    def __init__(self, room: int, said: Exception) -> None:
        super().__init__()
        self.room, self.said, self.seen = room, said, list[int]()

    def forward(self, noise: Noise, condition: Condition = Condition()) -> torch.Tensor:
        image = noise.normal(*self.image_shape)
        self.seen.append(len(image))
        if len(image) > self.room:
            raise self.said
        return image


def test_several_ask_for_one_thread_at_once() -> None:
    torch.set_num_threads(2)
    first, second = one_thread(), one_thread()
    first.__enter__()
    second.__enter__()
    first.__exit__(None, None, None)
    assert torch.get_num_threads() == 1  # the second still counts on it
    second.__exit__(None, None, None)
    assert torch.get_num_threads() == 2
    torch.set_num_threads(1)  # as all tests have it


def test_parts_are_in_the_mode_they_were_in_after_an_error() -> None:
    model = Small(0, MemoryError())
    model.part = torch.nn.Dropout()
    model.part.eval()
    with pytest.raises(MemoryError):
        model.sample([0])
    assert (model.training, model.part.training) == (True, False)


@pytest.mark.parametrize("said", [torch.OutOfMemoryError("CUDA out of memory"), MemoryError()])
def test_fewer_images_at_once_where_memory_does_not_suffice(
    said: Exception, caplog: pytest.LogCaptureFixture
) -> None:
    model, roomy = Small(3, said), Small(99, said)
    assert torch.equal(model.sample(range(11), batch=8), roomy.sample(range(11)))
    assert model.seen == [8, 4, 2, 2, 2, 2, 2, 1]
    assert "no memory for 8 images at once: 4" in caplog.text
    assert "no memory for 4 images at once: 2" in caplog.text


def test_what_does_not_fit_at_all_or_is_no_shortage_is_raised() -> None:
    with pytest.raises(MemoryError):
        Small(0, MemoryError()).sample(range(5))
    with pytest.raises(RuntimeError, match="shapes differ"):
        Small(1, RuntimeError("shapes differ")).sample(range(5))


def test_one_thread_and_then_as_many_as_before() -> None:
    torch.set_num_threads(2)
    with one_thread():
        assert torch.get_num_threads() == 1
    assert torch.get_num_threads() == 2
    torch.set_num_threads(1)  # as all tests have it


def loud(name: str) -> Model:
    """A recipe's small model with weights that let differences through."""
    spec = RECIPES[name]
    torch.manual_seed(0)
    model = spec(made_up((3, 8, 8)).train, **spec.small).method.model.eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.05 * torch.randn(parameter.shape))
    return model.to(memory_format=torch.channels_last)  # type: ignore[call-overload, no-any-return]


@pytest.fixture
def last_bits(monkeypatch: pytest.MonkeyPatch) -> None:
    """Images of the eight last bits of each value: what rounding to 256 levels would hide."""

    def low(image: torch.Tensor) -> torch.Tensor:
        return (image.float().contiguous().view(torch.int32) & 255).to(torch.uint8)

    monkeypatch.setattr("diptych.model.to_uint8", low)


@pytest.mark.parametrize("name", RECIPES)
def test_same_seed_same_image(name: str, last_bits: None) -> None:
    model = loud(name)
    if hasattr(model.options, "steps"):
        model = model.using(steps=2)
    whole = model.sample(range(9), exact=True)
    before = torch.get_num_threads()
    for batch, threads in ((1, 1), (3, 2)):
        torch.set_num_threads(threads)
        assert torch.equal(model.sample(range(9), batch=batch, exact=True), whole)
    torch.set_num_threads(before)
    assert torch.equal(model.sample([7], exact=True)[0], whole[7])
    assert torch.equal(model.sample([100, 3, 8, 3], exact=True)[[1, 2, 3]], whole[[3, 8, 3]])


def test_what_is_not_exact_is_not(last_bits: None) -> None:
    """The last bits are worth looking at: some network's differ with the batch."""
    models = [loud(name) for name in ("r3gan", "stylegan2", "stylegan3", "sngan", "pggan")]
    pairs = [(model.sample(range(8), batch=1), model.sample(range(8), batch=8)) for model in models]
    assert not all(torch.equal(one, other) for one, other in pairs)


def test_labels_go_with_their_seeds() -> None:
    model = loud("r3gan")
    labels = torch.tensor([3, 1, 0, 2, 2, 1])
    seeds = [4, 8, 8, 0, 1, 12]
    together = model.sample(seeds, Condition(label=labels), exact=True)
    for image, seed, label in zip(together, seeds, labels, strict=True):
        alone = model.sample([seed], Condition(label=label[None]), exact=True)[0]
        assert torch.equal(image, alone)
    assert not torch.equal(together[1], together[2])  # same seed, other label


def test_other_processes_with_other_threads_draw_the_same(tmp_path: Path) -> None:
    model = loud("edm").using(steps=2)
    save_model(model, tmp_path)
    code = (
        "import sys, torch; from diptych.runs import load_model; torch.set_num_threads(int(sys.argv[2])); "
        "print(load_model(sys.argv[1], 'cpu').sample([1, 6], exact=True).flatten().tolist())"
    )
    env = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1] / "src")}
    command = [sys.executable, "-c", code, str(tmp_path), "2"]
    done = subprocess.run(command, capture_output=True, text=True, env=env, check=True)
    assert done.stdout.strip() == str(model.sample(range(8), exact=True)[[1, 6]].flatten().tolist())


def test_two_processes_draw_what_one_draws(tmp_path: Path) -> None:
    """The command under torchrun: every row of the array, one file."""
    from diptych.cli import run

    save_model(loud("stylegan2"), tmp_path / "model")
    given = ["sample", str(tmp_path / "model"), "--seeds", "3-40", "--exact", "--device", "cpu", "--out"]
    assert run([*given, str(tmp_path / "one.npz")]) == 0
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    env = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1] / "src"), "OMP_NUM_THREADS": "2"}
    command = [*torchrun, "-m", "diptych", *given, str(tmp_path / "two.npz")]
    done = subprocess.run(command, capture_output=True, text=True, env=env, check=False)
    assert done.returncode == 0, done.stderr
    one, two = (np.load(tmp_path / f"{name}.npz")["arr_0"] for name in ("one", "two"))
    assert (one == two).all()
    assert len(one) == 38
    assert done.stdout.split() == [str(tmp_path / "two.npz")]

"""Shards: how a batch falls into them, and that what they leave is that of the whole batch."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from conftest import made_up, train_unprobed
from diptych import catalog
from diptych.errors import RunError, WrongUse
from diptych.method import Batch
from diptych.methods.adversarial import Adversarial
from diptych.training.shards import Together, caveats, count_shards, fewest, reseed, split
from diptych.training.state import Settings, Training


@pytest.mark.parametrize(
    ("batch", "microbatch", "processes", "recorded", "expected"),
    [
        (64, 0, 1, 0, 1),
        (64, 0, 2, 0, 2),
        (64, 32, 2, 0, 2),
        (64, 16, 2, 0, 4),
        (64, 25, 2, 0, 4),  # three would leave one process with two and the other with one
        (64, 0, 1, 2, 2),  # begun in two processes, resumed in one: the same shards
        (64, 0, 4, 2, 4),  # too few for four
        (8, 3, 1, 0, 3),
        (8, 1, 3, 0, 8),
    ],
)
def test_count(batch: int, microbatch: int, processes: int, recorded: int, expected: int) -> None:
    assert count_shards(batch, microbatch, processes, recorded) == expected


def test_more_processes_than_images_are_refused() -> None:
    with pytest.raises(WrongUse, match="batch of 4 images cannot be shared by 8 processes"):
        count_shards(4, 0, 8)


@pytest.mark.parametrize("batch", [1, 7, 64])
def test_split_covers_the_batch_evenly(batch: int) -> None:
    for shards in range(1, batch + 1):
        rows = split(batch, shards)
        assert [i for part in rows for i in range(batch)[part]] == list(range(batch))
        lengths = {part.stop - part.start for part in rows}
        assert max(lengths) - min(lengths) <= 1


def test_seeds_are_a_function_of_the_key() -> None:
    draws = []
    for key in ((0, 1, 2), (0, 1, 3), (0, 1, 2)):
        reseed(*key)
        draws.append(torch.randn(4))
    assert torch.equal(draws[0], draws[2])
    assert not torch.equal(draws[0], draws[1])


class Counter(nn.Module):
    """A mean that moves, a counter, a constant, a batch norm."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(1, momentum=0.5)
        self.register_buffer("mean", torch.tensor(10.0))
        self.register_buffer("turn", torch.tensor(7))
        self.register_buffer("fixed", torch.tensor(3.0))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.mean.lerp_(x.mean(), 0.1)  # type: ignore[operator]
        self.turn.add_(1)  # type: ignore[operator]
        return self.norm(x)  # type: ignore[no-any-return]


def test_buffers_move_once_by_the_mean_of_all_shards() -> None:
    """Of unequal shards, by their share: 0.9 * 10 + 0.1 * mean; the counter counts one turn."""
    torch.manual_seed(0)
    network, x = Counter(), torch.randn(12, 1)
    together, statistics = Together(network, 3), []
    for rows in (slice(0, 6), slice(6, 9), slice(9, 12)):
        assert network.turn == 7
        with together.shard((rows.stop - rows.start) / 12):
            network(x[rows])
        statistics.append((x[rows].mean(), x[rows].var(), (rows.stop - rows.start) / 12))
    together.finish([])
    assert network.turn == 8
    assert network.norm.num_batches_tracked == 1
    assert network.fixed == 3
    torch.testing.assert_close(network.mean, 9.0 + 0.1 * x.mean())
    torch.testing.assert_close(network.norm.running_mean, 0.5 * x.mean(0))
    expected = 0.5 + 0.5 * sum(share * var for _, var, share in statistics)
    torch.testing.assert_close(network.norm.running_var, torch.as_tensor(expected).reshape(1))


def test_one_shard_leaves_buffers_to_themselves() -> None:
    network = Counter()
    together = Together(network, 1)
    with together.shard(1.0):
        network(torch.ones(2, 1))
    assert not together.moved
    assert network.turn == 8


def test_logs_are_means_over_images() -> None:
    together = Together(nn.Identity(), 2)
    together.add({"loss": torch.tensor(1.0)}, 0.75)
    together.add({"loss": torch.tensor(5.0)}, 0.25)
    assert together.logs["loss"].item() == pytest.approx(2.0)


def test_every_shard_sees_its_own_rows_and_its_own_numbers() -> None:
    spec = catalog.recipe("edm")
    training = Training(
        spec(made_up().train, **spec.small), made_up().train, 1000, Settings(device="cpu", microbatch=4)
    )
    whole = training.data.batch(0, 16, 8)
    first, second = training.my_shards(16)
    assert (first[0], second[0]) == (0, 4)
    assert torch.equal(torch.cat([first[1].image, second[1].image]), whole.image)
    seen = []

    def loss(batch: Batch, clock: object) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        seen.append(torch.randn(3))
        weight = training.phases[0].parameters[0]
        return weight.sum() * 0 + batch.image.mean(), {}

    object.__setattr__(training.phases[0], "loss", loss)
    training.step()
    assert not torch.equal(*seen)


# ------------------------------------------------------------- what compares images


def begun(name: str, microbatch: int = 0, shards: int = 0, **arguments: Any) -> Training:
    """At its first step, with batches of 8."""
    spec, data = catalog.recipe(name), made_up().train
    settings = Settings(device="cpu", microbatch=microbatch)
    return Training(spec(data, **{**spec.small, **arguments}), data, 1000, settings, shards)


@pytest.mark.parametrize("name", ["pggan", "stylegan2", "stylegan3"])
def test_shards_that_minibatch_deviation_cannot_work_in_are_refused(name: str) -> None:
    for microbatch in (1, 3):
        with pytest.raises(WrongUse, match="compares 4 images at a time, and a batch of 8 in") as caught:
            begun(name, microbatch)
        assert "--microbatch 4 or more" in caught.value.hint
    assert not begun(name, 4).caveats
    assert not begun(name, 1, group=1).caveats
    assert not begun(name, batch=2).caveats  # no microbatch's fault


def test_a_run_that_has_begun_goes_on_in_small_shards_with_a_warning() -> None:
    """On any number of processes."""
    (said,) = begun("stylegan2", shards=4).caveats
    assert said.endswith("a batch of 8 in 4 shards shows it 2")


def test_the_smallest_microbatch_keeps_together_what_is_compared(monkeypatch: pytest.MonkeyPatch) -> None:
    network = nn.Sequential(nn.Linear(1, 1), nn.Identity())
    assert fewest(network, 18, 1) == 1
    network[1].at_once = 4  # type: ignore[assignment]
    for batch, processes, expected in ((18, 1, 5), (16, 1, 4), (16, 2, 4), (24, 4, 6), (8, 4, 0), (2, 1, 2)):
        size = fewest(network, batch, processes)
        assert size == expected
        if size:
            shards = count_shards(batch, size, processes)
            assert batch // shards >= min(4, batch)
            assert size == batch or batch // count_shards(batch, size - 1, processes) < 4
    monkeypatch.setattr("diptych.system.parallel.world", lambda: 4)
    with pytest.raises(WrongUse, match="in 4 shards shows it 2") as caught:
        caveats(network, 8, 4, begun=False)
    assert caught.value.hint.startswith("--batch 16, fewer processes")


def test_batch_norms_in_shards_are_warned_of_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert not begun("dcgan").caveats
    assert not begun("edm", 4).caveats
    spec, settings = catalog.recipe("dcgan"), Settings("16-images", device="cpu", microbatch=4)
    with caplog.at_level(logging.WARNING, "diptych"):
        train_unprobed(spec, made_up(), tmp_path / "run", arguments=spec.small, settings=settings)
    (said,) = [line for line in caplog.messages if "batch norms" in line]
    assert "the 4 images of a shard, not the 8 of a batch" in said


@pytest.mark.parametrize(("microbatch", "hint"), [(0, "at once: 5, say"), (5, "no fewer images can go")])
def test_too_little_memory_is_no_reason_to_tear_apart_what_is_compared(
    microbatch: int, hint: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def greedy(self: Adversarial, batch: Batch, clock: object) -> None:
        raise MemoryError

    monkeypatch.setattr(Adversarial, "generator_loss", greedy)
    spec = catalog.recipe("stylegan2")
    settings = Settings("16-images", device="cpu", microbatch=microbatch)
    given = {**spec.small, "group": 4, "batch": 9}  # in halves, not in three
    with pytest.raises(RunError, match="more memory than there is") as caught:
        train_unprobed(spec, made_up(), tmp_path / "run", arguments=given, settings=settings)
    assert hint in caught.value.hint

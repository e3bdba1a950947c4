"""Shards: how a batch falls into them, and that what they leave is that of the whole batch."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from conftest import made_up
from diptych import catalog
from diptych.errors import WrongUse
from diptych.method import Batch
from diptych.shards import Together, count_shards, reseed, split
from diptych.training import Settings, Training


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

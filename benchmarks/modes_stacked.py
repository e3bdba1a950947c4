"""Stacked digits: three at random in the three channels of an image make 1,000 modes.

As in VEEGAN (Srivastava et al., 2017, arXiv:1705.07761) and PacGAN (Lin et al., 2018, arXiv:1712.04086).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from diptych import catalog
from diptych.data import open_data
from diptych.data.images import DataCard, DataSet, Images
from diptych.errors import Diverged
from diptych.model import from_uint8
from diptych.runs import Run
from diptych.system.files import read_tensors, write_tensors
from diptych.training.loop import train
from diptych.training.state import Settings
from modes_points import kl_to_uniform

N = 25_600  # samples that are counted
STACKS = 50_000  # images that are trained on


def single(source: str, root: Path) -> DataSet:
    """Grey digits: the built-in ones at 8 px, or MNIST."""
    return open_data(root / "mnist") if source == "mnist" else open_data("digits")


def stacked(digits: DataSet) -> DataSet:
    """Images of three channels, each an independent training digit; held-out ones of held-out digits."""

    def side(images: Images, n: int, seed: int) -> Images:
        rows = np.random.default_rng([seed, 0x57AC]).integers(0, len(images), (n, 3))
        return Images(np.ascontiguousarray(images.pixels[rows, :, :, 0].transpose(0, 2, 3, 1)))

    train, held_out = side(digits.train, STACKS, 0), side(digits.held_out, 2000, 1)
    name = f"stacked {digits.card.name}"
    card = DataCard(name, name, STACKS, 2000, train.shape, "as they are", train.sha256, held_out.sha256)
    return DataSet(train, held_out, card)


class Reader(nn.Module):
    """Reads a digit: two convolutions and two layers."""

    def __init__(self, side: int) -> None:
        super().__init__()
        last = side // 4 if side >= 16 else side // 2
        pool = nn.MaxPool2d(2)
        self.layers = nn.Sequential(
            nn.Conv2d(1, 24, 3, padding=1), nn.ReLU(), pool if side >= 16 else nn.Identity(),
            nn.Conv2d(24, 48, 3, padding=1), nn.ReLU(), pool,
            nn.Flatten(), nn.Linear(48 * last * last, 128), nn.ReLU(), nn.Dropout(0.3), nn.Linear(128, 10),
        )  # fmt: skip

    def forward(self, image: Tensor) -> Tensor:
        return self.layers(image)  # type: ignore[no-any-return]

    @torch.inference_mode()
    def read(self, images: Tensor) -> Tensor:
        """The digits (n,) in uint8 images (n, 1, H, W)."""
        self.eval()
        return torch.cat([self(from_uint8(part)).argmax(1) for part in images.split(1024)])


def reader(digits: DataSet, kept: Path) -> tuple[Reader, float]:
    """A classifier trained on the single digits of the training side; its accuracy on the held-out side."""
    torch.manual_seed(0)
    network = Reader(digits.train.shape[1])
    if (kept / "reader.safetensors").exists():
        network.load_state_dict(read_tensors(kept / "reader.safetensors")[0])
    else:
        taught(network, digits.train, epochs=max(2, 120_000 // len(digits.train)))
        kept.mkdir(parents=True, exist_ok=True)
        write_tensors(kept / "reader.safetensors", network.state_dict())
    truth = torch.from_numpy(np.asarray(digits.held_out.labels))
    accuracy = (network.read(digits.held_out.tensor()) == truth).double().mean().item()
    return network, accuracy


def taught(network: Reader, images: Images, epochs: int, batch: int = 128) -> None:
    """Cross-entropy under Adam, the learning rate falling on a line."""
    network.train()
    optimizer = torch.optim.Adam(network.parameters(), 1e-3)
    total = epochs * len(images)
    for start in range(0, total, batch):
        image, condition = images.batch(0, start, batch)
        assert condition.label is not None
        loss = F.cross_entropy(network(image), condition.label)
        optimizer.zero_grad()
        loss.backward()
        optimizer.param_groups[0]["lr"] = 1e-3 * (1 - start / total)
        optimizer.step()


def counted(images: Tensor, network: Reader) -> dict[str, float]:
    """Modes of 1,000 among uint8 images (n, 3, H, W), and KL(samples || equal shares) in nats."""
    digits = network.read(images.flatten(0, 1)[:, None]).view(-1, 3)
    counts = torch.bincount(digits @ torch.tensor([100, 10, 1]), minlength=1000)
    return {"modes": float((counts > 0).sum()), "kl": kl_to_uniform(counts)}


def run(
    name: str, source: str, seed: int, budget: str, root: Path, work: Path, samples: int = N
) -> dict[str, Any]:
    """What is counted after training a recipe on stacked digits; goes on where it was stopped."""
    digits, spec = single(source, root), catalog.recipe(name)
    network, accuracy = reader(digits, work / f"reader-{source}")
    data, out = stacked(digits), work / f"stacked-{source}-{name}-{budget}-seed{seed}"
    found: dict[str, Any] = {"ended": "finished", "accuracy": accuracy}
    found["floor"] = counted(data.train.tensor(slice(0, samples)), network)
    if spec.needs_labels:
        return {**found, "ended": "needs labels"}
    try:
        train(spec, data, out, settings=Settings(budget=budget, seed=seed, ticks=4, snapshots=0))
    except Diverged as error:
        found["ended"] = error.message
    if (out / "model.json").exists():
        finished = Run(out)
        drawn = finished.model("auto").sample(range(samples), batch=256)
        found |= {"images": finished.spent["images"], **counted(drawn, network)}
    return found

"""Trains the built-in ruler diptych-1 on the sets whose licences allow it, and writes its weights.

    python scripts/train_ruler.py --data ../shared/data --out ruler --minutes 60

Four tasks share one vector of 128 numbers: which class of all sets an image shows, which of the other views
comes from the same image (SimCLR: Chen et al., 2020, arXiv:2002.05709), what damage was planted and how
strong it is, and that no two numbers say the same (Bardes et al., 2022, arXiv:2105.04906, equation 3).
"""

from __future__ import annotations

import argparse
import copy
import json
import math
import time
from pathlib import Path
from typing import Any

import torch
from ruler_data import SOURCES, Source
from ruler_views import KINDS, Sampler, Views
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, normalize
from torch.nn.utils.fusion import fuse_conv_bn_eval

from diptych.features.diptych_1 import DIM, MAPS, STATISTICS, WIDTHS, Network, canvas, statistics
from diptych.features.extractor import to_rgb
from diptych.system.device import keep_buffers

TEMPERATURE = 0.2
WEIGHTS = {"class": 1.0, "instance": 0.5, "kind": 0.5, "strength": 2.0, "decorrelation": 0.1}


class Learner(nn.Module):
    """The network with batch norms, and the heads that are thrown away after training."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.network = Network(classes, nn.BatchNorm2d)
        self.before = nn.BatchNorm1d(STATISTICS, affine=False)
        self.after = nn.BatchNorm1d(DIM, affine=False)
        self.instance = nn.Sequential(nn.Linear(DIM, 256), nn.ReLU(), nn.Linear(256, 96))
        self.kind = nn.Linear(DIM, 1 + len(KINDS))
        self.strength = nn.Linear(DIM, len(KINDS))

    def forward(self, image: Tensor) -> Tensor:
        """The pooled vector (N, 128)."""
        stats = statistics(self.network.maps(image))
        pooled: Tensor = self.after(self.network.project(self.before(stats)))
        return pooled

    def loss(self, views: Views) -> dict[str, Tensor]:
        """The tasks' losses, and accuracies for the log."""
        pooled = self(views.image)
        b = len(views.label)
        logits = self.network.classify(pooled)
        label = views.label.repeat(2)
        clean = views.damage == 0
        kind = torch.cat([torch.zeros_like(views.damage), views.damage])
        told = self.kind(pooled)
        hurt = ~clean
        guess = self.strength(pooled[b:][hurt]).gather(1, views.damage[hurt][:, None] - 1)[:, 0]
        # the square root spreads the weak damages, which matter most
        error = (guess - views.strength[hurt].sqrt()).square().mean() if hurt.any() else pooled.sum() * 0
        return {
            "class": cross_entropy(logits, label, label_smoothing=0.05),
            "instance": nt_xent(self.instance(pooled[:b][clean]), self.instance(pooled[b:][clean])),
            "kind": cross_entropy(told, kind),
            "strength": error,
            "decorrelation": decorrelation(pooled),
            "class accuracy": (logits.argmax(1) == label).float().mean().detach(),
            "kind accuracy": (told[b:].argmax(1) == views.damage).float().mean().detach(),
        }


def nt_xent(a: Tensor, b: Tensor) -> Tensor:
    """Which of all other views shows the same image? (SimCLR, equation 1.)"""
    z = normalize(torch.cat([a, b]), dim=1)
    similarity = (z @ z.T / TEMPERATURE).fill_diagonal_(-math.inf)
    partner = torch.arange(len(z), device=z.device).roll(len(a))
    return cross_entropy(similarity, partner)


def decorrelation(pooled: Tensor) -> Tensor:
    """Mean over dimensions of the squared covariances with all others (VICReg, equation 3)."""
    x = pooled - pooled.mean(0)
    covariance = x.T @ x / (len(x) - 1)
    return (covariance.square().sum() - covariance.diagonal().square().sum()) / DIM


def train(
    learner: Learner, sampler: Sampler, minutes: float, lr: float, out: Path, facts: dict[str, Any]
) -> None:
    """Steps until the time is up; writes weights every five minutes, so that an early end leaves some."""
    decay = [p for p in learner.parameters() if p.ndim > 1]
    rest = [p for p in learner.parameters() if p.ndim <= 1]
    groups: list[dict[str, Any]] = [
        {"params": decay, "weight_decay": 0.05},
        {"params": rest, "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(groups, lr=lr, betas=(0.9, 0.98), fused=True)
    averaged = copy.deepcopy(learner)
    learner.train()
    start = written = time.monotonic()
    step = images = 0
    sums: dict[str, float] = {}
    logged = 0
    while (spent := time.monotonic() - start) < 60 * minutes:
        progress = spent / (60 * minutes)
        for group in optimizer.param_groups:
            group["lr"] = (
                lr * min(1.0, (step + 1) / 200) * (0.01 + 0.99 * math.cos(math.pi / 2 * progress) ** 2)
            )
        views = sampler.batch(step)
        parts = learner.loss(views)
        optimizer.zero_grad()
        sum(WEIGHTS[name] * parts[name] for name in WEIGHTS).backward()  # type: ignore[union-attr]
        nn.utils.clip_grad_norm_(learner.parameters(), 5.0)
        optimizer.step()
        average(averaged, learner, min(0.998, (1 + step) / (10 + step)))
        step, images = step + 1, images + len(views.label)
        for name, value in parts.items():
            sums[name] = sums.get(name, 0.0) + float(value.detach())
        logged += 1
        if step in (10, 50) or step % 200 == 0:
            line = " ".join(f"{name.replace(' ', '_')}={total / logged:.3f}" for name, total in sums.items())
            print(f"{spent:7.0f}s step {step} images {images} {line}", flush=True)
            sums, logged = {}, 0
        if time.monotonic() - written > 300:
            finish(averaged, sampler, out, {**facts, "steps": step, "images": images}, light=True)
            written = time.monotonic()
    finish(averaged, sampler, out, {**facts, "steps": step, "images": images}, light=False)


@torch.no_grad()
def average(averaged: Learner, learner: Learner, decay: float) -> None:
    """Moves the averaged weights towards the trained ones."""
    torch._foreach_lerp_(list(averaged.parameters()), list(learner.parameters()), 1 - decay)
    for kept, new in zip(averaged.buffers(), learner.buffers(), strict=True):
        kept.copy_(new)


@torch.no_grad()
def finish(averaged: Learner, sampler: Sampler, out: Path, facts: dict[str, Any], *, light: bool) -> None:
    """Folds the norms of a copy into its convolutions, and writes it in float16 with how it was made."""
    learner = copy.deepcopy(averaged)
    settle(learner, sampler, 20 if light else 200)
    network = folded(learner)
    scale(network, [sampler.batch(-1 - i & 0xFFFFFF).image for i in range(20 if light else 100)])
    network.half().float()
    facts = {**facts, "classes": [f"{s.name}: {c}" for s in sampler.sources.values() for c in s.classes]}
    facts["held_out_accuracy"] = {
        name: held_out(network, s, sampler.first[name]) for name, s in sampler.sources.items()
    }
    print(json.dumps(facts["held_out_accuracy"]), flush=True)
    out.mkdir(parents=True, exist_ok=True)
    weights = {name: value.half().contiguous() for name, value in network.state_dict().items()}
    save_file(weights, out / "partial.safetensors", {"ruler": json.dumps(facts)})
    (out / "partial.safetensors").rename(out / "diptych_1.safetensors")
    torch.save(averaged.state_dict(), out / "learner.pt")


def settle(learner: Learner, sampler: Sampler, batches: int) -> None:
    """Measures the norms' statistics anew, for the averaged weights."""
    norms = [m for m in learner.modules() if isinstance(m, (nn.BatchNorm1d, nn.BatchNorm2d))]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # a plain mean over all batches
    learner.train()
    for i in range(batches):
        learner(sampler.batch(0x2000000 + i).image)
    learner.eval()


def folded(learner: Learner) -> Network:
    """The same function without norms."""
    classes = learner.network.classify.out_features
    plain = Network(classes)
    source = learner.network.eval()
    units = dict(source.named_modules())
    for name, module in plain.named_modules():
        if isinstance(module, nn.Conv2d) and name != "look":
            conv, norm = units[name], units[name.rsplit(".", 1)[0] + ".1"]
            module.load_state_dict(fuse_conv_bn_eval(conv, norm).state_dict())
    (mean_in, spread_in), (mean_out, spread_out) = moments(learner.before), moments(learner.after)
    project = source.project
    plain.project.weight.copy_(project.weight / spread_in / spread_out[:, None])
    plain.project.bias.copy_((project.bias - project.weight @ (mean_in / spread_in) - mean_out) / spread_out)
    plain.classify.load_state_dict(source.classify.state_dict())
    return plain.eval()


def moments(norm: nn.BatchNorm1d) -> tuple[Tensor, Tensor]:
    """The mean and the standard deviation that a norm has measured."""
    if norm.running_mean is None or norm.running_var is None:
        raise ValueError("this norm keeps no statistics")
    return norm.running_mean, (norm.running_var + norm.eps).sqrt()


def scale(network: Network, batches: list[Tensor]) -> None:
    """Sets the spatial view to the middle stage's 8 principal directions, of unit standard deviation."""
    maps = torch.cat(
        [network.maps(image)[2].permute(0, 2, 3, 1).reshape(-1, WIDTHS[2])[::7] for image in batches]
    )
    mean = maps.mean(0)
    values, vectors = torch.linalg.eigh((maps - mean).T.double() @ (maps - mean).double() / len(maps))
    weight = (vectors[:, -MAPS:] / values[-MAPS:].sqrt()).T.float().flip(0)
    network.look.load_state_dict({"weight": weight[:, :, None, None], "bias": -weight @ mean})


def held_out(network: Network, source: Source, first: int, most: int = 300) -> float:
    """Accuracy on the first held-out images of a set, among all classes."""
    right = 0
    images, labels = source.test.images[:most], source.test.labels[:most]
    for image, label in zip(images, labels, strict=True):
        value = canvas(to_rgb(torch.from_numpy(image).permute(2, 0, 1)[None]))
        right += int(network(value)["logits"].argmax()) == first + label
    return round(right / len(images), 3)


def main() -> None:
    """Reads the arguments and trains."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--data", type=Path, required=True, help="the folder that holds the sets")
    parser.add_argument("--out", type=Path, default=Path("ruler"))
    parser.add_argument("--minutes", type=float, default=60)
    parser.add_argument("--lr", type=float, default=2e-3)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    keep_buffers()
    torch.manual_seed(given.seed)
    sources = [read(given.data) for read in SOURCES]
    for source in sources:
        print(source.name, len(source.train.images), len(source.test.images), len(source.classes), flush=True)
    learner = Learner(sum(len(source.classes) for source in sources))
    learner.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    facts = {"minutes": given.minutes, "threads": given.threads, "seed": given.seed, "lr": given.lr}
    train(learner, Sampler(sources, given.seed), given.minutes, given.lr, given.out, facts)


if __name__ == "__main__":
    main()

"""Features drawn from known distributions, and a stand-in that hands them to metrics in an exam's place."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from types import SimpleNamespace
from typing import Any, TypeVar

import torch
from torch import Tensor

from diptych.metrics.fid import frechet_distance

T = TypeVar("T")
CLASSES = 10  # of the classifier whose logits are features too
SIDE = 16  # of the textures that have a known spectrum


class DrawnExam:
    """What a metric asks an exam for, with drawn features; see diptych.exam.Exam.

    `shared` outlives the exam where it is handed in: a classifier is then fitted once, as a ruler is.
    """

    price = None
    seed = 0
    device = torch.device("cpu")

    def __init__(
        self,
        features: Mapping[str, Mapping[str, Tensor]],
        labels: Mapping[str, Tensor | None],
        images: Mapping[str, Tensor],
        classes: Sequence[str] = (),
        shared: Mapping[str, Any] | None = None,
    ) -> None:
        self._features, self._labels, self._images = features, labels, images
        self.classes = tuple(classes)
        views = {view: part.shape[1] for view, part in features["real"].items()}
        self.extractor = SimpleNamespace(name="drawn", dim=views["pooled"], views=views, sha256="")
        self.n = len(features["fake"]["pooled"])
        self._shared = dict(shared or {})

    def of(self, other: DrawnExam, scale: float) -> DrawnExam:
        """These fakes, scaled, against the other's reals."""
        fakes = {view: scale * part for view, part in self._features["fake"].items()}
        return DrawnExam(
            {**other._features, "fake": fakes},
            {**other._labels, "fake": self._labels["fake"]},
            {**other._images, "fake": self._images["fake"]},
            self.classes,
        )

    def features(self, which: str, view: str = "pooled") -> Tensor:
        """float32 (N, D)."""
        return self._features[which][view]

    def labels(self, which: str) -> Tensor | None:
        """int64 (N,): which mode each image is from."""
        return self._labels[which]

    def images(self, which: str) -> Tensor:
        """uint8 (N, C, H, W)."""
        return self._images[which]

    def shared(self, key: str, compute: Callable[[], T]) -> T:
        """Computed once."""
        if key not in self._shared:
            self._shared[key] = compute()
        found: T = self._shared[key]
        return found


@dataclass(frozen=True, eq=False)
class Mixture:
    """A mixture of Gaussians, or with `skew` of its elementwise exponentials, as heavy to one side."""

    weights: Tensor  # (K,)
    means: Tensor  # (K, D)
    roots: Tensor  # (K, D, D), covariances are root rootᵀ
    skew: float = 0.0

    def draw(self, n: int, stream: torch.Generator) -> tuple[Tensor, Tensor]:
        """Features (n, D) float32 and the modes that they are from (n,)."""
        mode = torch.multinomial(self.weights, n, replacement=True, generator=stream)
        normal = torch.randn(n, self.means.shape[1], generator=stream, dtype=torch.float64)
        values = self.means[mode]
        for k in range(len(self.weights)):
            values[mode == k] += normal[mode == k] @ self.roots[k].T
        return (torch.expm1(self.skew * values) if self.skew else values).float(), mode

    @cached_property
    def moments(self) -> tuple[Tensor, Tensor]:
        """Mean (D,) and covariance (D, D) of the whole mixture."""
        means, second = [], []
        for mean, root in zip(self.means, self.roots, strict=True):
            covariance = root @ root.T
            if self.skew:  # of a lognormal less 1
                level = (self.skew * mean + self.skew**2 * covariance.diagonal() / 2).exp()
                covariance = level[:, None] * level * torch.expm1(self.skew**2 * covariance)
                mean = level - 1
            means.append(mean)
            second.append(covariance + mean[:, None] * mean)
        mean = torch.einsum("k,kd->d", self.weights, torch.stack(means))
        return mean, torch.einsum("k,kde->de", self.weights, torch.stack(second)) - mean[:, None] * mean


@dataclass(frozen=True, eq=False)
class Scene:
    """What reals and fakes are drawn from."""

    name: str
    real: Mixture
    fake: Mixture
    truths: Mapping[str, float] = field(default_factory=dict)  # what is known in closed form

    def exam(
        self, n: int, seed: int, shared: Mapping[str, Any] | None = None, train: int = 2000
    ) -> DrawnExam:
        """n reals, n fakes, and training images that are other reals, the same for every seed."""
        stream = torch.Generator().manual_seed(seed)
        sides = {"real": self.real.draw(n, stream), "fake": self.fake.draw(n, stream)}
        sides["train"] = self.real.draw(train, torch.Generator().manual_seed(7))
        weight = torch.randn(self.real.means.shape[1], CLASSES, generator=torch.Generator().manual_seed(3))
        features = {
            which: {"pooled": part, "spatial": part, "logits": part @ (weight / math.sqrt(len(weight)))}
            for which, (part, _) in sides.items()
        }
        labels: dict[str, Tensor | None] = {which: mode for which, (_, mode) in sides.items()}
        modes = len(self.real.weights)
        pixels = {
            "real": textures(n, 0.8, stream),
            "fake": textures(n, 0.8 if self.name == "equal" else 1, stream),
        }
        pixels["train"] = torch.zeros(train, 1, SIDE, SIDE, dtype=torch.uint8)
        return DrawnExam(
            features,
            labels if modes > 1 else dict.fromkeys(labels),
            pixels,
            [f"mode {k}" for k in range(modes)] if modes > 1 else [],
            shared,
        )


def textures(n: int, slope: float, stream: torch.Generator) -> Tensor:
    """uint8 (n, 1, 16, 16): noise whose amplitude falls as 1 / (1 + f)^slope, each of its own contrast."""
    noise = torch.randn(n, SIDE, SIDE, generator=stream)
    f = SIDE * (torch.fft.fftfreq(SIDE)[:, None] ** 2 + torch.fft.rfftfreq(SIDE) ** 2).sqrt()
    image = torch.fft.irfft2(torch.fft.rfft2(noise) / (1 + f) ** slope, s=(SIDE, SIDE))
    contrast = torch.exp(0.4 * torch.randn(n, 1, 1, generator=stream))
    levels: Tensor = (127.5 + 90 * contrast * image).round().clamp(0, 255)
    return levels.to(torch.uint8)[:, None]


def scenes(dim: int) -> dict[str, Scene]:
    """Gaussians, equal, different or far apart; modes of which some are rare or dropped; skewed features."""
    draw = torch.Generator().manual_seed(dim)
    turn = torch.linalg.qr(torch.randn(dim, dim, generator=draw, dtype=torch.float64)).Q
    zero = torch.zeros(1, dim, dtype=torch.float64)
    plain, other = (root(turn, power)[None] for power in (1.0, 1.3))
    shift = turn[:, 2:3].T * 0.3 * math.sqrt(dim)
    centres = torch.randn(8, dim, generator=draw, dtype=torch.float64)
    narrow = 0.6 * plain.expand(8, dim, dim)
    one = torch.ones(1, dtype=torch.float64)
    even = torch.full((8,), 1 / 8, dtype=torch.float64)
    uneven = torch.tensor([0.22, 0.22, 0.22, 0.12, 0.12, 0.08, 0.02, 0.0], dtype=torch.float64)
    pairs = {
        "equal": (Mixture(one, zero, plain), Mixture(one, zero, plain)),
        "shifted": (Mixture(one, zero, plain), Mixture(one, shift, other)),
        "far": (Mixture(one, zero, plain), Mixture(one, 7 * shift, other)),
        "modes": (Mixture(even, centres, narrow), Mixture(uneven, centres, narrow)),
        "skewed": (Mixture(one, zero, plain, 0.5), Mixture(one, shift / 2, other, 0.5)),
    }
    return {name: Scene(name, real, fake, closed_forms(real, fake)) for name, (real, fake) in pairs.items()}


def root(turn: Tensor, power: float) -> Tensor:
    """A root of a covariance whose spectrum falls as i^-power, its trace the dimension."""
    spectrum = torch.arange(1, len(turn) + 1, dtype=torch.float64) ** -power
    scaled: Tensor = turn * (spectrum * len(turn) / spectrum.sum()).sqrt()
    return scaled


def closed_forms(real: Mixture, fake: Mixture) -> dict[str, float]:
    """FID of infinitely many images; where nothing is skewed also KID; and the ratio that diversity is."""
    (mean_x, cov_x), (mean_y, cov_y) = real.moments, fake.moments
    truths = {
        "fid_infinity": frechet_of(mean_x, cov_x, mean_y, cov_y),
        "diversity": math.sqrt(float(cov_y.trace() / cov_x.trace())),
    }
    if not (real.skew or fake.skew):
        truths["kid"] = (
            expected_kernel(real, real) + expected_kernel(fake, fake) - 2 * expected_kernel(real, fake)
        )
    return truths


def frechet_of(mean_x: Tensor, cov_x: Tensor, mean_y: Tensor, cov_y: Tensor) -> float:
    """By eigenvalues of Cx Cy, another way than the metric's."""
    cross = torch.linalg.eigvals(cov_x @ cov_y).real.clamp_min(0).sqrt().sum()
    return float((mean_x - mean_y).square().sum() + cov_x.trace() + cov_y.trace() - 2 * cross)


def expected_kernel(x: Mixture, y: Mixture) -> float:
    """E (x·y/d + 1)³ of independent draws: by the moments of Gaussians, over the pairs of modes."""
    total, dim = 0.0, x.means.shape[1]
    for w, a, p in zip(x.weights, x.means, x.roots, strict=True):
        for v, b, q in zip(y.weights, y.means, y.roots, strict=True):
            A, B, ab = p @ p.T, q @ q.T, a @ b
            first = ab / dim
            second = (ab**2 + a @ B @ a + b @ A @ b + (A * B).sum()) / dim**2
            third = ab**3 + 3 * ab * (a @ B @ a + b @ A @ b + (A * B).sum()) + 6 * (b @ A @ B @ a)
            total += float(w * v * (1 + 3 * first + 3 * second + third / dim**3))
    return total


def check() -> None:
    """The closed forms against a large sample."""
    for scene in scenes(16).values():
        exam = scene.exam(200_000, 1)
        found = frechet_distance(exam.features("real"), exam.features("fake"))
        print(f"{scene.name:8} FID of 200,000: {found:.5f}, closed form {scene.truths['fid_infinity']:.5f}")


if __name__ == "__main__":
    check()

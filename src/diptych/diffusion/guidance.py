"""Guidance: denoisers around denoisers that trade diversity for agreement with what was asked."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from diptych.diffusion.denoiser import Denoiser, Wrapper, each, never_unlabelled, no_label, number, one_level
from diptych.diffusion.samplers.grids import HIGHEST
from diptych.errors import WrongUse
from diptych.model import Condition
from diptych.saveable import saveable


def lowered(x: Tensor, sigma: Tensor) -> tuple[Tensor, Tensor]:
    """x (B, C, H, W) and sigma (B,) or (1,), where sigma is above HIGHEST both scaled down to that.

    For what follows a network's slope. Up there x / sigma is noise alone at any level, and a correction
    sigma^2 slope needs a slope that is right to 1 / sigma^2, which no network's is.
    """
    level = number(sigma)
    if level is None:
        scale = (HIGHEST / sigma).clamp_max(1.0)
        return x * each(scale), sigma.clamp_max(HIGHEST)
    if level <= HIGHEST:
        return x, sigma
    return x * (HIGHEST / level), one_level(HIGHEST, sigma.device, sigma.dtype)


@dataclass(frozen=True)
class Strength:
    """How strongly, at which noise levels, and how what is too much is taken back."""

    scale: float = 1.0  # 1: the conditional density itself
    low: float = 0.0  # guided from this noise level ...
    high: float = float("inf")  # ... to this one (Kynkäänniemi et al., 2024, arXiv:2404.07724)
    rescale: float = 0.0  # 1: it keeps the deviation of the unguided image (Lin et al., 2023, eq. 16)

    def acts(self, sigma: Tensor) -> bool:
        """Whether anything is led at this level; where that is not known without asking the device, yes."""
        level = number(sigma)
        return level is None or self.low <= level <= self.high

    def apply(self, good: Tensor, weak: Tensor, sigma: Tensor, plain: Tensor | None = None) -> Tensor:
        """weak + scale (good - weak) where sigma is in the interval, the unguided image, good, elsewhere.

        plain: the unguided image where it is not `good`.
        """
        plain = good if plain is None else plain
        found = torch.lerp(weak, good, self.scale)
        if self.low > 0 or self.high < float("inf"):
            found = torch.where(each((sigma >= self.low) & (sigma <= self.high)), found, plain)
        if not self.rescale:
            return found
        was, now = (image.std((1, 2, 3), keepdim=True) for image in (plain, found))
        return found * torch.lerp(torch.ones_like(was), was / now.clamp_min(1e-8), self.rescale)


def twice(x: Tensor, sigma: Tensor, one: Condition, other: Condition) -> tuple[Tensor, Tensor, Condition]:
    """What a denoiser is asked for two conditions, as one batch: those of `one`, then of `other`."""
    assert one.label is not None
    assert other.label is not None
    both = replace(one, label=torch.cat([one.label, other.label]))
    return torch.cat([x, x]), sigma if sigma.shape[0] == 1 else torch.cat([sigma, sigma]), both


class Guided(Wrapper):
    """Classifier-free guidance: D(x) + scale (D(x, label) - D(x)) (Ho and Salimans, arXiv:2207.12598).

    negative: a class to be led away from, in the place of no label.
    """

    def __init__(self, denoiser: Denoiser, strength: Strength | float, negative: int | None = None) -> None:
        super().__init__(denoiser)
        self.strength = strength if isinstance(strength, Strength) else Strength(strength)
        self.negative = negative

    def forward(self, x: Tensor, sigma: Tensor, condition: Condition) -> Tensor:
        """x (B, C, H, W), sigma (B,) or (1,); both terms go through the network as one batch."""
        if condition.label is None or not self.strength.acts(sigma):
            return self.denoiser(x, sigma, condition)  # type: ignore[no-any-return]
        seen = self.denoiser(*twice(x, sigma, condition, self.weak(condition.label)))
        n = x.shape[0]  # chunk(2) would fix the batch size of an exported graph
        return self.strength.apply(seen[:n], seen[n:], sigma)

    def moments(self, x: Tensor, sigma: Tensor, condition: Condition) -> tuple[Tensor, Tensor]:
        """The guided clean image, and the learned variance under the condition."""
        if condition.label is None or not self.strength.acts(sigma):
            return self.denoiser.moments(x, sigma, condition)
        seen, fraction = self.denoiser.moments(*twice(x, sigma, condition, self.weak(condition.label)))
        n = x.shape[0]
        return self.strength.apply(seen[:n], seen[n:], sigma), fraction[:n]

    def weak(self, label: Tensor) -> Condition:
        """What is led away from: no label, or the negative one."""
        if self.negative is None:
            return Condition(label=no_label(label, self.classes))
        return Condition(label=torch.full_like(label, self.negative))


class AutoGuided(Wrapper):
    """Autoguidance: away from a weaker version of the model, for labels or without
    (Karras et al., 2024, arXiv:2406.02507)."""

    def __init__(self, denoiser: Denoiser, weak: Denoiser, strength: Strength) -> None:
        super().__init__(denoiser)
        self.weak, self.strength = weak, strength

    def forward(self, x: Tensor, sigma: Tensor, condition: Condition) -> Tensor:
        """x (B, C, H, W), sigma (B,) or (1,)."""
        good: Tensor = self.denoiser(x, sigma, condition)
        if not self.strength.acts(sigma):
            return good
        return self.strength.apply(good, self.weak(x, sigma, condition), sigma)

    def moments(self, x: Tensor, sigma: Tensor, condition: Condition) -> tuple[Tensor, Tensor]:
        """The guided clean image, and the better model's learned variance."""
        good, fraction = self.denoiser.moments(x, sigma, condition)
        if not self.strength.acts(sigma):
            return good, fraction
        return self.strength.apply(good, self.weak(x, sigma, condition), sigma), fraction


class ClassifierGuided(Wrapper):
    """Classifier guidance: D(x) + scale sigma^2 grad log p(label | x) (Dhariwal and Nichol, 2021,
    arXiv:2105.05233, algorithm 1). The denoiser hears the label only where it was trained with labels."""

    def __init__(self, denoiser: Denoiser, guide: ClassifierGuide, strength: Strength) -> None:
        super().__init__(denoiser)
        self.guide, self.strength = guide, strength
        self.classes = guide.classifier.classes  # type: ignore[assignment]

    def forward(self, x: Tensor, sigma: Tensor, condition: Condition) -> Tensor:
        """x (B, C, H, W), sigma (B,) or (1,)."""
        return self.led(self.denoiser(x, sigma, self.heard(condition)), x, sigma, condition)

    def moments(self, x: Tensor, sigma: Tensor, condition: Condition) -> tuple[Tensor, Tensor]:
        """The guided clean image, and the denoiser's learned variance."""
        clean, fraction = self.denoiser.moments(x, sigma, self.heard(condition))
        return self.led(clean, x, sigma, condition), fraction

    def heard(self, condition: Condition) -> Condition:
        """What the denoiser is told."""
        return condition if self.denoiser.classes else replace(condition, label=None)

    def led(self, clean: Tensor, x: Tensor, sigma: Tensor, condition: Condition) -> Tensor:
        """The clean image, moved to where the classifier is surer of the label."""
        if condition.label is None or not self.strength.acts(sigma):
            return clean
        x, sigma_seen = lowered(x, sigma)
        moved = clean + each(sigma_seen).square() * self.guide(x, sigma_seen, condition.label)
        return self.strength.apply(moved, clean, sigma, plain=clean)


class Composed(Wrapper):
    """Several conditions at once: D(x) + sum_i weight_i (D(x, label_i) - D(x)); a negative weight leads away
    (Liu et al., 2022, arXiv:2206.01714, equation 11)."""

    def __init__(self, denoiser: Denoiser, labels: Sequence[int], weights: Sequence[float]) -> None:
        super().__init__(denoiser)
        if not denoiser.classes:
            raise WrongUse("conditions are composed of labels", "this model knows no classes")
        if not labels or len(labels) != len(weights):
            raise WrongUse(f"there are {len(labels)} labels but {len(weights)} weights", "one for each label")
        if odd := [label for label in labels if not 0 <= label < denoiser.classes]:
            raise WrongUse(
                f"labels are 0 to {denoiser.classes - 1}, not {', '.join(map(str, odd))}",
                f"the model knows {denoiser.classes} classes",
            )
        if not denoiser.unlabelled and not math.isclose(sum(weights), 1.0):  # at 1 no label has no share
            raise never_unlabelled("give weights that add up to 1")
        self.labels, self.weights = tuple(labels), tuple(weights)

    def forward(self, x: Tensor, sigma: Tensor, condition: Condition) -> Tensor:
        """x (B, C, H, W), sigma (B,) or (1,); all terms go through the network as one batch."""
        return self.sum(self.denoiser(*self.asked(x, sigma, condition)), x.shape[0])

    def moments(self, x: Tensor, sigma: Tensor, condition: Condition) -> tuple[Tensor, Tensor]:
        """The composed clean image, and the variance that was learned without labels."""
        n = x.shape[0]
        seen, fraction = self.denoiser.moments(*self.asked(x, sigma, condition))
        return self.sum(seen, n), fraction[:n]

    def asked(self, x: Tensor, sigma: Tensor, condition: Condition) -> tuple[Tensor, Tensor, Condition]:
        """All terms as one batch, that without a label first."""
        terms = (self.classes, *self.labels)
        label = torch.cat([torch.full(x.shape[:1], term, device=x.device) for term in terms])
        many = sigma if sigma.shape[0] == 1 else torch.cat([sigma] * len(terms))
        return torch.cat([x] * len(terms)), many, replace(condition, label=label)

    def sum(self, seen: Tensor, n: int) -> Tensor:
        """Of the terms' clean images, n of each."""
        none = seen[:n]
        total = none
        for i, weight in enumerate(self.weights, 1):
            total = total + weight * (seen[i * n : (i + 1) * n] - none)
        return total


def weighed(text: str) -> tuple[list[int], list[float]]:
    """Labels and their weights from "3:1.5,7:-0.5". Raises WrongUse for anything else.

    >>> weighed("3:1.5,7")
    ([3, 7], [1.5, 1.0])
    """
    labels, weights = [], []
    for part in text.split(","):
        label, colon, weight = part.partition(":")
        try:
            labels.append(int(label))
            weights.append(float(weight) if colon else 1.0)
        except ValueError:
            weights.append(math.nan)
        if not math.isfinite(weights[-1]):
            raise WrongUse(f"{text!r} is no list of labels and finite weights", "write 3:1.5,7:-0.5")
    return labels, weights


class Thresholded(Wrapper):
    """Clean images within [-1, 1]: cut there (percentile 1), or first divided by this percentile of their own
    absolute values where it is larger (dynamic thresholding; Saharia et al., 2022, arXiv:2205.11487).
    """

    def __init__(self, denoiser: Denoiser, percentile: float = 0.995) -> None:
        super().__init__(denoiser)
        if not 0 < percentile <= 1:
            raise WrongUse(
                f"threshold must lie above 0 and at most at 1, not at {percentile:g}",
                "1 cuts at -1 and 1; 0.995 is dynamic thresholding",
            )
        self.percentile = percentile

    def forward(self, x: Tensor, sigma: Tensor, condition: Condition) -> Tensor:
        """x (B, C, H, W), sigma (B,) or (1,)."""
        return self.within(self.denoiser(x, sigma, condition))

    def moments(self, x: Tensor, sigma: Tensor, condition: Condition) -> tuple[Tensor, Tensor]:
        """The clean image within [-1, 1], and the learned variance."""
        clean, fraction = self.denoiser.moments(x, sigma, condition)
        return self.within(clean), fraction

    def within(self, clean: Tensor) -> Tensor:
        """The image, cut or divided and cut."""
        if self.percentile == 1:
            return clean.clamp(-1, 1)
        ordered = clean.flatten(1).abs().sort(1).values  # torch.quantile refuses large batches
        place = self.percentile * (ordered.shape[1] - 1)
        below = int(place)
        bound = torch.lerp(ordered[:, below], ordered[:, below + 1], place - below).clamp_min(1)
        return torch.minimum(torch.maximum(clean, -each(bound)), each(bound)) / each(bound)


class Guide(nn.Module, ABC):
    """What leads a diffusion model where its options ask for guidance; saved with it."""

    neutral: float = 1.0  # the strength that changes nothing
    composes: bool = True  # whether what it leads has a meaning for each label of several
    needs_label: bool = False  # whether it leads nowhere where there is no label
    differentiates: bool = False  # whether its forward pass takes a gradient, which an exporter writes out

    @abstractmethod
    def around(self, denoiser: Denoiser, strength: Strength) -> Denoiser:
        """The denoiser, led."""


@saveable
class WeakGuide(Guide):
    """Away from a weaker denoiser: an earlier checkpoint, or a smaller network."""

    def __init__(self, weak: Denoiser) -> None:
        super().__init__()
        self.weak = weak

    def around(self, denoiser: Denoiser, strength: Strength) -> Denoiser:
        """Autoguidance."""
        return AutoGuided(denoiser, self.weak, strength)


@saveable
class ClassifierGuide(Guide):
    """Towards what a classifier of noisy images takes for the label.

    Strength 1 makes an unconditional model the conditional one; 0 leaves it alone.
    """

    neutral = 0.0
    composes = False
    needs_label = True
    differentiates = True

    def __init__(self, classifier: nn.Module) -> None:
        super().__init__()
        self.classifier = classifier

    def around(self, denoiser: Denoiser, strength: Strength) -> Denoiser:
        """Classifier guidance."""
        return ClassifierGuided(denoiser, self, strength)

    def forward(self, x: Tensor, sigma: Tensor, label: Tensor) -> Tensor:
        """grad log p(label | x) with respect to x (B, C, H, W); sigma (B,) or (1,), label (B,).

        A label that is no class leads nowhere. Differentiable where x asks for a gradient.
        """
        tracked = x.requires_grad  # by a likelihood, whose divergence is of the slope too
        twice_differentiable = sdpa_kernel(SDPBackend.MATH) if tracked else nullcontext()
        with torch.inference_mode(False), torch.enable_grad(), twice_differentiable:
            noisy = x if tracked else x.detach().clone().requires_grad_(True)
            logits = self.classifier(noisy, sigma.clone())
            classes, label = logits.shape[1], label.clone()[:, None]
            chosen = logits.log_softmax(1).gather(1, label.clamp_max(classes - 1))
            named = torch.where(label < classes, chosen, 0.0).sum()
            (slope,) = torch.autograd.grad(named, noisy, create_graph=tracked)
        return slope

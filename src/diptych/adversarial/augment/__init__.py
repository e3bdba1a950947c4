"""What a critic sees images through where there are few of them: adaptive augmentation, DiffAugment."""

from __future__ import annotations

from torch import nn

from diptych.adversarial.augment.adaptive import Adaptive
from diptych.adversarial.augment.diffaugment import POLICY, DiffAugment
from diptych.adversarial.augment.pipeline import PRESETS, Pipeline
from diptych.errors import WrongUse, did_you_mean

NAMES = ("none", "ada", *(f"ada-{preset}" for preset in PRESETS), "diffaugment")


def augmentation(name: str, *, channels: int = 0) -> nn.Module | None:
    """The augmentation of this name, None for "none": "ada" is "ada-bgc", as in the paper.

    channels: of an image, where the critic sees stacks of them. Raises WrongUse with the names there are.
    """
    if name not in NAMES:
        raise WrongUse(f"there is no augmentation called {name}", did_you_mean(name, list(NAMES)))
    if name == "none":
        return None
    if name == "diffaugment":
        return DiffAugment(POLICY, channels)
    preset = name.partition("-")[2] or "bgc"
    return Adaptive(Pipeline(preset, p=0.0, channels=channels))


__all__ = ["NAMES", "Adaptive", "DiffAugment", "Pipeline", "augmentation"]

"""Labels as networks take them: classes, continuous attributes, or none."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from diptych.saveable import saveable


class LabelEmbedding(nn.Module):
    """A label to a vector. "No label", for classifier-free guidance, has a vector of its own.

    Classes are int64 (B,), `classes` for none; attributes float (B, K), not-a-number for none.
    """

    def __init__(self, width: int, *, classes: int = 0, attributes: int = 0) -> None:
        super().__init__()
        self.classes = classes
        self.table = nn.Embedding(classes + 1, width) if classes else None
        self.linear = nn.Linear(attributes, width) if attributes else None
        self.none = nn.Parameter(torch.zeros(width)) if attributes else None

    def forward(self, label: Tensor | None, device: torch.device) -> Tensor | None:
        """(B, width), (1, width) where there is no label, None where none can be given."""
        if self.table is not None:
            none = torch.full((1,), self.classes, device=device)
            return self.table(none if label is None else label)  # type: ignore[no-any-return]
        if self.linear is None or self.none is None:
            return None
        if label is None:
            return self.none[None]
        unknown = label.isnan().any(1, keepdim=True)
        return torch.where(unknown, self.none, self.linear(label.nan_to_num()))


class LabelVector(nn.Module):
    """A label to a vector, for networks that are always told one; "no label" is the mean of all labels.

    Classes are int64 (B,); attributes float (B, K) in the network's units, not-a-number for the mean.
    """

    def __init__(self, width: int, *, classes: int = 0, attributes: int = 0) -> None:
        super().__init__()
        self.classes = classes
        self.table = nn.Embedding(classes, width) if classes else None
        self.linear = nn.Linear(attributes, width) if attributes and not classes else None

    def forward(self, label: Tensor | None, n: int) -> Tensor:
        """(n, width)."""
        if self.table is not None:
            return self.table.weight.mean(0).expand(n, -1) if label is None else self.table(label)
        if self.linear is None:
            raise TypeError("there are no labels here")
        return self.linear.bias.expand(n, -1) if label is None else self.linear(label.nan_to_num())


def label_vector(width: int, classes: int, attributes: int) -> LabelVector | None:
    """None where there are no labels."""
    return LabelVector(width, classes=classes, attributes=attributes) if classes or attributes else None


def quiet(label: LabelVector | None) -> None:
    """Has classes begin with a variance of 1 / classes, as R3GAN's do (Huang et al., 2025, arXiv:2501.05441).

    Where they are as loud as the latent, a generator learns one image of each class first, and forgets the
    latent for long.
    """
    if label is not None and label.table is not None:
        nn.init.normal_(label.table.weight, std=label.classes**-0.5)


@saveable
class Units(nn.Module):
    """Attributes in the user's own units, (B, K), as networks hear them: with mean 0 and deviation 1.

    examples: some that images had, (N, K), to be asked for where none are.
    """

    mean: Tensor
    deviation: Tensor

    def __init__(
        self,
        names: tuple[str, ...],
        mean: tuple[float, ...],
        deviation: tuple[float, ...],
        examples: tuple[tuple[float, ...], ...] = (),
    ) -> None:
        super().__init__()
        self.attribute_names, self.attributes, self.examples = names, len(names), examples
        self.register_buffer("mean", torch.tensor(mean), persistent=False)
        self.register_buffer("deviation", torch.tensor(deviation), persistent=False)

    def forward(self, label: Tensor) -> Tensor:
        """label (B, K), not-a-number for none."""
        return (label - self.mean) / self.deviation


@saveable
class Attributed(nn.Module):
    """A network that is asked for attributes in the user's own units (see `Units`)."""

    def __init__(
        self,
        network: nn.Module,
        names: tuple[str, ...],
        mean: tuple[float, ...],
        deviation: tuple[float, ...],
        examples: tuple[tuple[float, ...], ...] = (),
    ) -> None:
        super().__init__()
        self.network, self.units = network, Units(names, mean, deviation, examples)
        self.image_shape, self.classes, self.attributes = network.image_shape, 0, len(names)
        self.attribute_names, self.examples = names, examples

    def forward(self, x: Tensor, level: Tensor, label: Tensor | None = None, *done: Tensor) -> Tensor:
        """As the network; label (B, K), not-a-number for none."""
        heard = None if label is None else self.units(label)
        return self.network(x, level, heard, *done)  # type: ignore[no-any-return]


def agreement(seen: Tensor, told: Tensor) -> Tensor:
    """How well what a critic has seen (B, c) goes with what it was told (B, c), as logits (B,)."""
    return (seen * told).sum(1) / math.sqrt(seen.shape[1])

"""Bits per dimension of held-out 8-bit images, of a density (Theis et al., 2016, arXiv:1511.01844).

Uniform dequantisation: level u of a pixel is anywhere in u - 1/2 to u + 1/2. On average, that is at least as
many bits as the model's own distribution over the 256 levels would take. A variational bound is on the bits
of the 256 levels themselves: two numbers of two models, to be compared with their like only.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import partial

import torch
from torch import Tensor

from diptych.errors import NotMeasurable
from diptych.exam import Exam
from diptych.metric import metric
from diptych.metrics.intervals import from_influence, normal
from diptych.model import Condition, Model, evaluating
from diptych.scores import Estimate
from diptych.system.blocks import while_it_fits

MOST = 256  # a density may cost as much as a hundred samples
BLOCK = 32  # images at once, where memory suffices
PER_LEVEL = math.log2(127.5)  # 127.5 levels to a unit of [-1, 1]
WAYS = {  # what an estimator gives bits of
    "bits_per_dim": "density under uniform dequantisation",
    "bits_per_dim_bound": "variational bound on the 256 levels",
}


@metric({"bits_per_dim": "lower", "bits_per_dim_bound": "lower"}, asked_only=True, floored=False)
def bits_per_dim(exam: Exam) -> Mapping[str, Estimate]:
    """Bits that the model needs for a channel of a pixel of a held-out image; 8 is knowing nothing.

    A diffusion model has two, and both are measured whatever its option `likelihood` says: `bits_per_dim` is
    of its ODE's density of dequantised images, `bits_per_dim_bound` the variational bound of its chain of
    steps from noise to one of the 256 levels.
    """
    model = exam.asked("bits per dimension")
    images = exam.images("real")[:MOST]
    asked = exam.condition("real")
    label = None if asked is None or asked.label is None else asked.label[:MOST]
    if len(images) < 2:
        raise NotMeasurable("an interval of bits per dimension needs 2 held-out images or more")
    told = f"{len(images)} held-out images" + (", given their labels" if label is not None else "")
    return {
        name: estimated(bits_of(twin, images, label, exam.device), f"{WAYS[name]} of {told}")
        for name, twin in estimators(model).items()
    }


def estimators(model: Model) -> dict[str, Model]:
    """The model as it is, and with its variational bound in the place of its density where it has both."""
    if not hasattr(getattr(model, "options", None), "likelihood"):
        return {"bits_per_dim": model}
    names = {"bits_per_dim": "ode", "bits_per_dim_bound": "bound"}
    return {name: model.using(likelihood=likelihood) for name, likelihood in names.items()}


def estimated(bits: Tensor, of: str) -> Estimate:
    """The mean of bits (N,) of images, with a note of what they are bits of."""
    value = float(bits.mean())
    spread = from_influence(bits - value, None)
    return Estimate(
        value,
        *normal(value, spread.error),
        len(bits),
        "lower",
        "bits",
        f"{of}. Interval: normal, over the images",
        replicates=spread.replicates,
    )


def bits_of(
    model: Model, images: Tensor, label: Tensor | None = None, device: torch.device | str = "cpu"
) -> Tensor:
    """Bits per dimension (N,) of uint8 images (N, C, H, W). Raises NotMeasurable without a density."""
    with evaluating(model):
        of_rows = partial(_nats, model, images, label, device)
        nats = torch.cat([found for _, found in while_it_fits(of_rows, len(images), BLOCK)])
    odd = ~nats.isfinite()
    if odd.any():
        raise NotMeasurable(
            f"the density is not finite for {int(odd.sum())} of {len(nats)} held-out images",
            f"the first is number {int(odd.nonzero()[0])}",
        )
    return PER_LEVEL - nats / (math.log(2) * math.prod(images.shape[1:]))


def dequantised(images: Tensor, first: int = 0) -> Tensor:
    """uint8 (N, C, H, W) as float32 about [-1, 1], each level spread evenly; image i has its own seed."""
    noise = [
        torch.rand(image.shape, generator=torch.Generator().manual_seed(first + i))
        for i, image in enumerate(images)
    ]
    return (images.float() + torch.stack(noise) - 0.5) / 127.5 - 1


@torch.no_grad()
def _nats(
    model: Model, images: Tensor, label: Tensor | None, device: torch.device | str, rows: range
) -> Tensor:
    part = slice(rows.start, rows.stop)
    condition = Condition(label=None if label is None else label[part]).to(device)
    return model.log_prob(dequantised(images[part], rows.start).to(device), condition).cpu().double()

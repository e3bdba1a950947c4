"""Walks from image to image: closed loops through latent space, or through noise where there is none."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial

import torch
from torch import Tensor

from diptych.adversarial.latent import GeneratorModel
from diptych.errors import WrongUse
from diptych.latent.arcs import slerp
from diptych.latent.points import Points, drawn, labels, rendered, styled
from diptych.model import Condition, Model, Noise, evaluating, to_uint8


def walk(
    model: Model, seeds: Sequence[int], frames: int, *, label: Tensor | None = None, batch: int = 64
) -> Tensor:
    """A closed loop through the images of these seeds, uint8 (frames, C, H, W), for any model.

    Styles follow a smooth curve; latents and noise great circles, slow at each seed. label: () or (K,), for
    all; else each seed's own, but a class that is no part of the latents is the first seed's all along.
    """
    if isinstance(model, GeneratorModel):
        return tour(model, drawn(model, seeds, label), frames, batch=batch)
    return through_noise(model, seeds, frames, labels(model, seeds, label), batch)


def tour(model: Model, points: Points, frames: int, *, batch: int = 64) -> Tensor:
    """A closed loop through points of latent space, uint8 (frames, C, H, W)."""
    leg, share = schedule(frames, len(points))
    if styled(model):
        latents, told = closed_spline(points.latents, leg, share), None
    else:
        after = (leg + 1) % len(points)
        latents = slerp(points.latents[leg], points.latents[after], eased(share))
        told = on_the_way(points.label, leg, share)
    return rendered(model, Points(latents, told), batch)


@torch.inference_mode()
def through_noise(
    model: Model, seeds: Sequence[int], frames: int, label: Tensor | None = None, batch: int = 64
) -> Tensor:
    """A closed loop through the noise of these seeds: all that the model draws follows great circles."""
    leg, share = schedule(frames, len(seeds))
    told, along, device = on_the_way(label, leg, share), eased(share), model.device
    parts = []
    with evaluating(model):
        for start in range(0, frames, batch):
            rows = slice(start, start + batch)
            one = Noise([seeds[i] for i in leg[rows].tolist()], device)
            other = Noise([seeds[(i + 1) % len(seeds)] for i in leg[rows].tolist()], device)
            noise = Noise.between(one, other, partial(slerp, share=along[rows]))
            parts.append(to_uint8(model(noise, Condition(label=told)[rows].to(device))).cpu())
    return torch.cat(parts)


def schedule(frames: int, stops: int) -> tuple[Tensor, Tensor]:
    """For each frame of a closed loop, the stop behind it, int64 (frames,), and how far it is to the next."""
    if stops < 2:
        raise WrongUse(f"a walk needs at least 2 seeds, not {stops}", "--seeds 0,5,9")
    if frames < stops:
        raise WrongUse(f"a walk through {stops} seeds needs as many frames, not {frames}", "30 for each, say")
    place = torch.arange(frames, dtype=torch.float64) * stops / frames
    leg = (place + 1e-9).long()
    return leg, (place - leg).clamp(min=0)


def eased(share: Tensor) -> Tensor:
    """From 0 to 1 along half a cosine: no jerk at the ends."""
    return (1 - (math.pi * share).cos()) / 2


def on_the_way(label: Tensor | None, leg: Tensor, share: Tensor) -> Tensor | None:
    """The labels of frames: attributes pass into each other, a class is the first one's all along."""
    if label is None:
        return None
    if not label.is_floating_point():
        return label[:1].expand(len(leg))
    return label[leg].lerp(label[(leg + 1) % len(label)], eased(share)[:, None].to(label))


def closed_spline(points: Tensor, leg: Tensor, share: Tensor) -> Tensor:
    """A closed curve through points (N, ...) with a continuous velocity, at shares (F,) of legs: (F, ...).

    Catmull and Rom, 1974.
    """
    t = share.view(-1, *[1] * (points.ndim - 1)).to(points)
    before, one, other, after = (points[(leg + step) % len(points)] for step in (-1, 0, 1, 2))
    linear = other - before
    square = 2 * before - 5 * one + 4 * other - after
    cube = 3 * (one - other) + after - before
    return one + (linear + (square + cube * t) * t) * t / 2

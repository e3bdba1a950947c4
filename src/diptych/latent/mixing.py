"""Style mixing: some layers hear one image's style, the others another's (StyleGAN, Karras et al., 2018,
arXiv:1812.04948, section 3.1)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from diptych.errors import WrongUse
from diptych.latent.points import Points, chosen_layers, drawn, rendered, styles_of
from diptych.model import Model


def mix(
    model: Model,
    rows: Sequence[int],
    columns: Sequence[int],
    layers: Iterable[int] = (),
    *,
    label: Tensor | None = None,
    batch: int = 64,
) -> Tensor:
    """uint8 (1 + R, 1 + C, c, H, W): the images of these seeds on the edges, their mixtures inside.

    A mixture is its row's image, but that it has its column's style in `layers` (all of them: the column's
    image). The corner is white. label: () or (K,), for all; else each seed's own.
    """
    count = styles_of(model, "style mixing")
    chosen = chosen_layers(layers, count)
    if not rows or not columns:
        raise WrongUse("there is nothing to mix", "at least one row and one column: --rows 0,1 --columns 5")
    across, down = drawn(model, columns, label), drawn(model, rows, label)
    mixed = mixtures(down.latents, across.latents, chosen)
    sources = rendered(model, Points(torch.cat([down.latents, across.latents])), batch)
    inside = rendered(model, Points(mixed.flatten(0, 1)), batch)
    inside = inside.view(len(rows), len(columns), *inside.shape[1:])
    top = torch.cat([torch.full_like(sources[:1], 255), sources[len(rows) :]])
    return torch.cat([top[None], torch.cat([sources[: len(rows), None], inside], 1)])


def mixtures(rows: Tensor, columns: Tensor, layers: Sequence[int]) -> Tensor:
    """(R, C, L, D) of styles (R, L, D) and (C, L, D): the rows', but in `layers` the columns'."""
    mixed = rows[:, None].repeat(1, len(columns), 1, 1)
    mixed[:, :, layers] = columns[None, :, layers]
    return mixed

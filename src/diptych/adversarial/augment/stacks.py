"""Stacks of images that are changed alike: the levels of one image that GAT's generator makes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import reduce

import torch
from torch import Tensor

Change = Callable[[Tensor], Tensor]


def alike(image: Tensor, channels: int, draw: Callable[[Tensor], Sequence[Change]]) -> Tensor:
    """Stacks (B, L channels, H, W) with the changes drawn for their first images (B, channels, H, W) made to
    all L; channels 0: L is 1."""
    parts = torch.split(image, channels or image.shape[1], 1)
    changes = draw(parts[0])
    changed = [reduce(lambda x, change: change(x), changes, part) for part in parts]
    return changed[0] if len(changed) == 1 else torch.cat(changed, 1)

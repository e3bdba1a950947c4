"""Real images in the fakes' place, many times over: distances are computed once, draws only look them up."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from diptych.alarms.statistics import Reference
from diptych.metrics.manifolds import DENSITY_K, PRECISION_K
from diptych.metrics.neighbours import radii

FEW, TIMES, ROOMY = 4096, 16, 4  # of the pool: 16 times an exam, up to 4,096 images, but at least 4 times
REACH = 20  # neighbours kept, times the pool over an exam: fewer than 3 of them in a draw is one case in 2e6
CACHED = 128  # rows of distances that a processor's cache holds
ROWS = 512  # whose distances to the pool are held at once


class Pool:
    """Training images of which draws of n play the fakes of an exam against the reference's held-out images.

    Raises ValueError where there are fewer than 2 n of them.
    """

    def __init__(self, reference: Reference, n: int) -> None:
        size = min(len(reference.train), max(ROOMY * n, min(FEW, TIMES * n)))
        if size < 2 * n:
            raise ValueError(f"{size} training images do not make two exams of {n}")
        self.reference, self.n, self.size = reference, n, size
        self.points = reference.train[:size]
        # draws from a finite pool vary less than fresh images would, and share the pool's own deviation
        self.stretch = math.sqrt((1 + n / size) / (1 - n / size))
        narrow, wide = radii(reference.real, (PRECISION_K, DENSITY_K)).sqrt().float()
        self.apart = torch.cdist(self.points, reference.real)  # (Q, N): a draw takes rows, which lie together
        self.inside = self.apart <= wide
        self.precise = (self.apart <= narrow).any(1).double()
        self.density = self.inside.sum(1).double() / DENSITY_K
        kept = min(size - 1, max(REACH, math.ceil(REACH * size / n)))
        found = [self._near(start, kept) for start in range(0, size, ROWS)]
        self.near = torch.cat([distance for distance, _ in found])  # (Q, L)
        self.whose = torch.cat([index for _, index in found])

    def _near(self, start: int, kept: int) -> tuple[Tensor, Tensor]:
        """Distances to the nearest others of the pool, and which they are."""
        apart = torch.cdist(self.points[start : start + ROWS], self.points)
        apart.diagonal(start).fill_(torch.inf)
        return apart.topk(kept, dim=1, largest=False)

    def pair(self, generator: torch.Generator) -> tuple[dict[str, float], dict[str, float]]:
        """The statistics of two disjoint draws."""
        order = torch.randperm(self.size, generator=generator).to(self.points.device)
        return self.of(order[: self.n]), self.of(order[self.n : 2 * self.n])

    def of(self, rows: Tensor) -> dict[str, float]:
        """The statistics, but for copying, of these images of the pool (n,)."""
        reference, fake = self.reference, self.points[rows]
        around = self._radii(rows)[:, None]
        recalled, covered = torch.zeros_like(self.inside[0]), torch.zeros_like(self.inside[0])
        for start in range(0, self.n, CACHED):
            part = slice(start, start + CACHED)
            recalled |= (self.apart[rows[part]] <= around[part]).any(0)
            covered |= self.inside[rows[part]].any(0)
        return {
            "coverage": float(covered.double().mean()),
            "recall": float(recalled.double().mean()),
            "precision": float(self.precise[rows].mean()),
            "density": float(self.density[rows].mean()),
            "vendi_ratio": reference.diversity(fake),
            **reference.histogram(fake),
            "fid": reference.distance(fake),
        }

    def _radii(self, rows: Tensor) -> Tensor:
        """Distances (n,) of these images to the third nearest among them."""
        chosen = torch.zeros(self.size, dtype=torch.bool, device=rows.device)
        chosen[rows] = True
        places = chosen[self.whose[rows]].cumsum(1)
        last = self.near.shape[1] - 1
        column = (places < PRECISION_K).sum(1, keepdim=True).clamp_max(last)
        return self.near[rows].gather(1, column).squeeze(1)

"""Prepared images: uint8 in memory or memory-mapped; a batch is a pure function of (seed, images seen)."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property, lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from diptych.model import Batch, Condition, from_uint8
from diptych.system.device import moved

UInt8 = npt.NDArray[np.uint8]
Int64 = npt.NDArray[np.int64]
Float32 = npt.NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class Images:
    """One split of a data set, ready to train on or to measure against."""

    pixels: UInt8  # (N, H, W, C), C = 1, 3 or 4
    labels: Int64 | None = None  # (N,)
    class_names: tuple[str, ...] = ()
    captions: tuple[str, ...] | None = None
    factors: Mapping[str, npt.NDArray[Any]] = field(default_factory=dict)  # known causes, (N,) each
    attributes: Float32 | None = None  # (N, K) continuous labels, in their own units; not-a-number: not known
    attribute_names: tuple[str, ...] = ()
    flip: bool = False  # mirror half of the images, chosen by (seed, images seen)

    def __len__(self) -> int:
        return len(self.pixels)

    @property
    def shape(self) -> tuple[int, int, int]:
        """(C, H, W), as models count."""
        _, height, width, channels = self.pixels.shape
        return channels, height, width

    @property
    def classes(self) -> int:
        """How many labels there are; 0 where there are none."""
        return len(self.class_names) if self.labels is not None else 0

    @property
    def told(self) -> int:
        """How many continuous labels models are told; 0 where there are none, or classes in their place."""
        return len(self.attribute_names) if self.attributes is not None and self.labels is None else 0

    @cached_property
    def sha256(self) -> str:
        """Of pixels, shape and labels: what a ruler card calls the held-out split."""
        digest = hashlib.sha256(repr(self.pixels.shape).encode())
        for start in range(0, len(self), 4096):
            digest.update(np.ascontiguousarray(self.pixels[start : start + 4096]).data)
        if self.labels is not None:
            digest.update(np.ascontiguousarray(self.labels).data)
        if self.attributes is not None:
            digest.update(repr(self.attribute_names).encode())
            digest.update(np.ascontiguousarray(self.attributes).data)
        return digest.hexdigest()

    def subset(self, indices: npt.NDArray[Any] | slice) -> Images:
        """These images alone, in this order."""
        return replace(
            self,
            pixels=self.pixels[indices],
            labels=None if self.labels is None else self.labels[indices],
            captions=None if self.captions is None else tuple(np.array(self.captions, object)[indices]),
            factors={name: values[indices] for name, values in self.factors.items()},
            attributes=None if self.attributes is None else self.attributes[indices],
        )

    def joined(self, other: Images) -> Images:
        """These images, then others of the same kind; what is not known of both is left out."""

        def both(one: Any, two: Any) -> Any:
            return None if one is None or two is None else np.concatenate([one, two])

        named = self.class_names == other.class_names
        told = self.attribute_names == other.attribute_names
        return replace(
            self,
            pixels=both(self.pixels, other.pixels),
            labels=both(self.labels, other.labels) if named else None,
            class_names=self.class_names if named else (),
            captions=None
            if self.captions is None or other.captions is None
            else (*self.captions, *other.captions),
            factors={
                name: both(values, other.factors[name])
                for name, values in self.factors.items()
                if name in other.factors
            },
            attributes=both(self.attributes, other.attributes) if told else None,
            attribute_names=self.attribute_names if told else (),
        )

    def label(self, indices: npt.NDArray[Any] | slice = slice(None)) -> torch.Tensor | None:
        """What models are told of these images: classes, int64 (n,), or attributes, float32 (n, K)."""
        known = self.labels if self.labels is not None else self.attributes
        return (
            None if known is None else torch.from_numpy(np.require(known[indices], requirements=("C", "W")))
        )

    def condition(self, indices: npt.NDArray[Any] | slice, device: torch.device | str = "cpu") -> Condition:
        """What models are told of these images, as they are asked."""
        label = self.label(indices)
        return Condition(label=None if label is None else moved(label, device))

    def tensor(self, indices: npt.NDArray[Any] | slice = slice(None)) -> torch.Tensor:
        """uint8 (n, C, H, W) in channels-last order."""
        # copied where it is read-only, as memory-mapped pixels are: torch has no such tensors
        pixels = np.require(self.pixels[indices], requirements=("C", "W"))
        return torch.from_numpy(pixels).permute(0, 3, 1, 2)

    def batch(self, seed: int, start: int, size: int, device: torch.device | str = "cpu") -> Batch:
        """Images `start` to `start + size` of the endless stream that `seed` shuffles, epoch by epoch."""
        order, mirrored = _stream(seed, start, size, len(self))
        pixels = self.pixels[order]
        if self.flip:
            pixels[mirrored] = pixels[mirrored, :, ::-1]
        image = from_uint8(moved(torch.from_numpy(pixels), device).permute(0, 3, 1, 2))
        return Batch(image, self.condition(order, device))


def _stream(seed: int, start: int, size: int, n: int) -> tuple[Int64, npt.NDArray[np.bool_]]:
    """Which of n images come at `start` to `start + size`, and which of them are mirrored."""
    orders, coins = [], []
    for epoch in range(start // n, max(start, start + size - 1) // n + 1):
        order, coin = _epoch(seed, epoch, n)
        rows = slice(max(0, start - epoch * n), start + size - epoch * n)
        orders.append(order[rows])
        coins.append(coin[rows])
    return np.concatenate(orders), np.concatenate(coins)


@lru_cache(maxsize=4)
def _epoch(seed: int, epoch: int, n: int) -> tuple[Int64, npt.NDArray[np.bool_]]:
    """The order of one epoch, and which of its images are mirrored."""
    rng = np.random.default_rng([seed, epoch, 0x0D17])
    return rng.permutation(n), rng.random(n) < 0.5


@dataclass(frozen=True)
class Incident:
    """A file that was odd, and what was done about it."""

    file: str
    what: str  # "truncated JPEG", "4,096 bytes, no image format that we open"
    done: str  # "left out", "first frame taken", "turned upright"


@dataclass(frozen=True)
class DataCard:
    """What a data set is, for people and for every report."""

    name: str
    source: str  # as the user named it
    n_train: int
    n_held_out: int
    shape: tuple[int, int, int]  # (C, H, W)
    fit: str  # "crop", "pad" or "stretch", and how it was resized
    train_sha256: str
    held_out_sha256: str
    class_counts: Mapping[str, int] = field(default_factory=dict)
    incidents: tuple[Incident, ...] = ()
    licence: str = ""
    arguments: Mapping[str, Any] = field(default_factory=dict)  # of open_data, to open it again


@dataclass(frozen=True, eq=False)
class DataSet:
    """Images to train on, images held out to measure against, and the card that describes both."""

    train: Images
    held_out: Images
    card: DataCard

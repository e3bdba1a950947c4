"""What an extractor sees in images: in blocks, shared among processes, kept on disk by content hash."""

from __future__ import annotations

import contextlib
import hashlib
import os
import time
from collections.abc import Callable, Iterable
from pathlib import Path

import torch
from torch import Tensor

from diptych.errors import NotMeasurable, RunError
from diptych.features.extractor import Extractor
from diptych.system.files import cache_folder, read_tensors, write_tensors
from diptych.system.parallel import anywhere, my_blocks, rank, united

Views = dict[str, Tensor]
LIMIT = 4 << 30  # bytes kept on disk; the least recently used go first
SHARE = 1024  # images that a process takes at a time


def seen(
    ruler: Extractor,
    block: Callable[[slice], Tensor],
    n: int,
    sha256: str,
    *,
    device: torch.device | str = "cpu",
    what: str = "given",
    views: Iterable[str] | None = None,
    keep: bool = True,
) -> Views:
    """float32 (N, D) on the CPU for each view (None: all), of n images that `block` hands out as uint8.

    `sha256` is of the images; with `keep`, what was seen is read from and left in the cache.
    Raises NotMeasurable where a feature is not finite.
    """
    wanted = sorted(ruler.views if views is None else views)
    if not keep:
        return _looked(ruler, block, n, wanted, device, what)
    # the kind of device is in the key: the last bits differ
    key = "\n".join([sha256, ruler.name, ruler.sha256, ruler.resize, torch.device(device).type, *wanted])
    file = folder() / f"{hashlib.sha256(key.encode()).hexdigest()}.safetensors"
    known = _stored(file)
    if not anywhere(known is None) and known is not None:
        return known
    views = _looked(ruler, block, n, wanted, device, what)
    if rank() == 0:
        _store(file, views)
    return views


def content(images: Tensor) -> str:
    """The sha256 of uint8 images (N, C, H, W): of shape and pixels."""
    digest = hashlib.sha256(repr(tuple(images.shape)).encode())
    for part in torch.split(images, 4096):
        digest.update(part.permute(0, 2, 3, 1).contiguous().numpy().data)
    return digest.hexdigest()


@torch.inference_mode()
def _looked(
    ruler: Extractor,
    block: Callable[[slice], Tensor],
    n: int,
    views: list[str],
    device: torch.device | str,
    what: str,
) -> Views:
    whole = {view: torch.zeros(n, ruler.views[view]) for view in views}
    for share in my_blocks(n, SHARE):
        images = block(share)
        for start in range(0, len(images), ruler.block):
            part = ruler(images[start : start + ruler.block].to(device))
            rows = slice(share.start + start, share.start + start + len(part["pooled"]))
            for view in views:
                whole[view][rows] = part[view].float().cpu()
    whole = {view: united(part) for view, part in whole.items()}
    for view, found in whole.items():
        odd = ~found.isfinite().all(1)
        if odd.any():
            raise NotMeasurable(
                f"{ruler.name} ({view}) is not finite for {int(odd.sum())} of {n} {what} images",
                f"the first is number {int(odd.nonzero()[0])}",
            )
    return whole


def folder() -> Path:
    """Where features are kept."""
    return cache_folder() / "features"


def _stored(file: Path) -> Views | None:
    with contextlib.suppress(RunError, OSError):  # a missing or damaged file is looked at anew
        views, _ = read_tensors(file)
        os.utime(file)
        return views
    return None


def _store(file: Path, views: Views) -> None:
    """Leaves a file where that can be done. A full or read-only disk costs time later, nothing else."""
    with contextlib.suppress(RunError, OSError):
        write_tensors(file, views)
        _forget_old()


def _forget_old() -> None:
    files = [(f.stat().st_mtime, f.stat().st_size, f) for f in folder().glob("*.safetensors")]
    left = sum(size for _, size, _ in files) - LIMIT
    for age, size, file in sorted(files):
        if left <= 0 or time.time() - age < 60:  # another process may be reading what is that new
            return
        with contextlib.suppress(OSError):
            file.unlink()
        left -= size

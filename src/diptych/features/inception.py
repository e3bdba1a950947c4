"""Inception-v3 of 2015-12-05, the features of FID (Heusel et al., 2017, arXiv:1706.08500) and of most tables.

The numbers are those of TensorFlow's graph, and so of torch-fidelity and of guided-diffusion's evaluator:
`pooled` is pool_3:0; `spatial` is mixed_6/conv:0[..., :7] (after its ReLU), in TensorFlow's order, for sFID
(Nash et al., 2021, arXiv:2103.03841); `logits` have no bias, because the Inception Score (Salimans et al.,
2016, arXiv:1606.03498) has been computed without it from its first implementation on.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from diptych.errors import WrongUse
from diptych.features._inception_net import CLASSES, SIZE, SPATIAL, Network, shapes
from diptych.features._resize import rgb, tf1_bilinear
from diptych.features._weights import check_shapes, fetch, read_weights, sha256_of, weights_folder
from diptych.features.extractor import Extractor
from diptych.system.files import expanded

log = logging.getLogger("diptych")

URL = "https://github.com/toshas/torch-fidelity/releases/download/v0.2.0/weights-inception-2015-12-05-6726825d.pth"
FILE = "pt_inception-2015-12-05-6726825d.pth"
SHA256 = "6726825d0af5f729cebd5821db510b11b1cfad8faad88a03f1befd49fb9129b2"
BYTES = 95_628_359


def build(where: str = "") -> Extractor:
    """The extractor with the weights of a file (.pth or .safetensors), or fetched where it says "download".

    Without either, what was fetched before is taken. Raises WrongUse or RunError that names the file where it
    is not there, damaged, or of another network. Another file than the known one is a warning.
    """
    path = _found(where)
    sha256 = sha256_of([path])
    if sha256 != SHA256:
        log.warning(
            "%s is not the known Inception file (sha256 %s..., not %s...): its scores are comparable only "
            "with scores of the same file",
            *(path, sha256[:8], SHA256[:8]),
        )
    weights = read_weights(path)
    check_shapes(path, weights, shapes())
    return Inception(weights, sha256)


class Inception(Extractor):
    """FID's Inception-v3, ours: batch norms folded, 1x1 branches joined, channels last."""

    name = "inception"
    dim = 2048
    resize = "TensorFlow 1's bilinear grid (no antialiasing, first pixel at 0) to 299x299"
    block = 16
    views: Mapping[str, int] = {"pooled": 2048, "spatial": 17 * 17 * SPATIAL, "logits": CLASSES}
    classifier: Tensor

    def __init__(self, weights: Mapping[str, Tensor], sha256: str) -> None:
        super().__init__()
        self.sha256 = sha256
        self.network = Network(weights)
        self.register_buffer("classifier", weights["fc.weight"].float())

    def forward(self, image: Tensor) -> dict[str, Tensor]:
        # exact in float32, and resizing leaves it alone: its weights sum to one
        level = (rgb(image).float() - 128) / 128
        with _full_precision(image.device):
            pooled, spatial = self.network(tf1_bilinear(level, SIZE))
            return {"pooled": pooled, "spatial": spatial.flatten(1), "logits": pooled @ self.classifier.T}


def _full_precision(device: torch.device) -> contextlib.AbstractContextManager[object]:
    """cuDNN rounds convolutions' inputs to 10 bits unless it is told not to."""
    if device.type != "cuda":
        return contextlib.nullcontext()
    cudnn = torch.backends.cudnn
    return cudnn.flags(
        enabled=True, benchmark=cudnn.benchmark, deterministic=cudnn.deterministic, allow_tf32=False
    )


def _found(where: str) -> Path:
    kept = weights_folder() / FILE
    if where == "download":
        if not kept.is_file() or sha256_of([kept]) != SHA256:
            log.info("fetching %s (%.0f MB) to %s", URL, BYTES / 1e6, kept)
            fetch(URL, kept, SHA256, BYTES)
        return kept
    if where:
        path = expanded(where)
        if not path.is_file():
            raise WrongUse(
                f"there is no file {path}",
                f"inception:FILE takes the path of {FILE}; inception:download fetches it",
            )
        return path
    if not kept.is_file():
        raise WrongUse(
            f"Inception needs its weights, and there is no {kept}",
            f"inception:download fetches them ({BYTES / 1e6:.0f} MB); inception:FILE takes a path of {FILE}",
        )
    return kept

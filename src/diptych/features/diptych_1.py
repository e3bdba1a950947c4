"""diptych-1, the built-in ruler: a small residual network (He et al., 2016, arXiv:1512.03385) trained here.

scripts/train_ruler.py taught it classes, instances (SimCLR) and planted damage, all read from one vector, on
288,058 draws (0.36 PFLOP) from Fashion-MNIST, MNIST, Noto Emoji, LPC sprites, spectrograms of FSDD, flowers
of TensorFlow, subjects of DreamBooth, Caltech-101 and drawn shapes; licences are in docs/reference/ruler.md.
Linear probe and 5 neighbours on held-out images, diptych-0 in brackets: Fashion-MNIST 0.871, 0.861 (0.841,
0.807), flowers 0.829, 0.781 (0.595, 0.542), emoji 0.856, 0.810 (0.761, 0.761); never seen: CIFAR-10 as JPEG
0.586, 0.482 (0.506, 0.393), digits 0.990, 0.990 (0.990, 0.985). FID grows with each of seven planted
damages on all nine sets, Spearman 0.92 to 1.00; on three others too, but for JPEG of JPEG files (0.86, 0.88).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.functional import adaptive_avg_pool2d, avg_pool2d, interpolate, relu

from diptych.errors import WrongUse
from diptych.features._weights import check_shapes, read_weights, sha256_of
from diptych.features.extractor import Extractor, to_rgb

WEIGHTS = Path(__file__).with_suffix(".safetensors")
SHA256 = "5fb5ce2e668c5a266cb489da53fd759ac4a81119217476c121177365bb348768"  # of the published weights
WIDTHS = (32, 64, 96, 192)  # channels at strides 1, 2, 4, 8
DEPTHS = (1, 1, 2, 2)  # residual blocks
STATISTICS = 2 * sum(WIDTHS[:3]) + WIDTHS[3]
DIM = 128
GRID, MAPS = 6, 8  # the spatial view: 8 maps of 6x6
SMALLEST, LARGEST = 32, 128  # sides of the canvas
PIXELS = 64 * 32 * 32  # looked at together: as many as stay in a processor's cache

Norm = Callable[[int], nn.Module]


def build(where: str = "") -> Extractor:
    """The extractor with the package's weights, or with those that scripts/train_ruler.py left in `where`.

    Raises WrongUse or RunError where these weights are not the published ones, or are not such weights.
    """
    ruler = Diptych1(Path(where) if where else WEIGHTS)
    if not where and ruler.sha256 != SHA256:
        raise WrongUse(
            f"{WEIGHTS} is not the published file: its sha256 is {ruler.sha256}, not {SHA256}",
            "install diptych again: with other weights scores would not be comparable",
        )
    return ruler


class Diptych1(Extractor):
    """What is shown, what it is made of and what was done to it, in 128 numbers; and two further views."""

    name = "diptych-1"
    dim = DIM
    block = 64
    resize = "bilinear, antialiased; a side below 32 to 32, above 128 to 128, others as they are"

    def __init__(self, weights: Path) -> None:
        super().__init__()
        self.sha256 = sha256_of([weights])
        state = read_weights(weights)
        # one row a class: the only size that the file decides
        classes = state["classify.bias"].numel() if "classify.bias" in state else 1
        with torch.device("meta"):
            self.network = Network(classes)
        shapes = {name: tuple(value.shape) for name, value in self.network.state_dict().items()}
        check_shapes(weights, state, shapes)
        state = {name: state[name].float() for name in shapes}
        self.network.load_state_dict(state, assign=True)
        self.network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.views: Mapping[str, int] = {"pooled": DIM, "spatial": MAPS * GRID**2, "logits": classes}

    def forward(self, image: Tensor) -> dict[str, Tensor]:
        height, width = (min(max(side, SMALLEST), LARGEST) for side in image.shape[-2:])
        rows = max(1, PIXELS // (height * width))
        parts = [self._seen(image[start : start + rows]) for start in range(0, len(image), rows)]
        return {view: torch.cat([part[view] for part in parts]) for view in self.views}

    def _seen(self, image: Tensor) -> dict[str, Tensor]:
        value = canvas(to_rgb(image)).contiguous(memory_format=torch.channels_last)
        seen: dict[str, Tensor] = self.network(value)
        return seen


class Network(nn.Module):
    """RGB (N, 3, H, W) in [-1, 1] to "pooled" (N, 128), "spatial" (N, 288), "logits" (N, classes).

    `norm` follows each convolution in training; it is folded into the weights that are kept.
    """

    def __init__(self, classes: int, norm: Norm = lambda channels: nn.Identity()) -> None:
        super().__init__()
        self.stem = unit(3, WIDTHS[0], 3, norm)
        self.stages = nn.ModuleList()
        before = WIDTHS[0]
        for width, depth in zip(WIDTHS, DEPTHS, strict=True):
            blocks = [Block(before if i == 0 else width, width, norm) for i in range(depth)]
            self.stages.append(nn.Sequential(*blocks))
            before = width
        self.project = nn.Linear(STATISTICS, DIM)
        self.look = nn.Conv2d(WIDTHS[2], MAPS, 1)
        self.classify = nn.Linear(DIM, classes)

    def forward(self, image: Tensor) -> dict[str, Tensor]:
        maps = self.maps(image)
        pooled = self.project(statistics(maps))
        spatial = self.look(adaptive_avg_pool2d(maps[2], GRID)).flatten(1)
        return {"pooled": pooled, "spatial": spatial, "logits": self.classify(pooled)}

    def maps(self, image: Tensor) -> list[Tensor]:
        """What each stage sees: (N, 32, H, W), (N, 64, H/2, W/2), (N, 96, H/4, W/4), (N, 192, H/8, W/8)."""
        level = relu(self.stem(image), inplace=True)
        maps = []
        for stage in self.stages:
            level = stage(level)
            maps.append(level)
        return maps


class Block(nn.Module):
    """Two convolutions beside a path that skips them; it halves the image where it changes the width."""

    def __init__(self, before: int, width: int, norm: Norm) -> None:
        super().__init__()
        self.halves = before != width
        self.first = unit(before, width, 3, norm, stride=2 if self.halves else 1)
        self.second = unit(width, width, 3, norm)
        self.skip = unit(before, width, 1, norm) if self.halves else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        change = self.second(relu(self.first(x), inplace=True))
        # an odd side is rounded up, as the strided convolution rounds it
        kept = self.skip(avg_pool2d(x, 2, ceil_mode=True, count_include_pad=False) if self.halves else x)
        return relu(change.add_(kept), inplace=True)


def unit(before: int, width: int, kernel: int, norm: Norm, stride: int = 1) -> nn.Sequential:
    """A convolution that keeps the size (or halves it), and its norm."""
    return nn.Sequential(nn.Conv2d(before, width, kernel, stride, kernel // 2), norm(width))


def statistics(maps: list[Tensor]) -> Tensor:
    """Means of all stages and standard deviations of the first three (N, 576): content and texture."""
    means = [level.mean((2, 3)) for level in maps]
    spreads = [
        ((level - mean[:, :, None, None]).square().mean((2, 3)) + 1e-5).sqrt()
        for level, mean in zip(maps[:3], means, strict=False)
    ]
    return torch.cat(means + spreads, 1)


def canvas(image: Tensor) -> Tensor:
    """The image with sides below 32 enlarged to 32, and sides above 128 shrunk to 128."""
    size = [min(max(side, SMALLEST), LARGEST) for side in image.shape[-2:]]
    if size == list(image.shape[-2:]):
        return image
    return interpolate(image, size=size, mode="bilinear", antialias=True, align_corners=False)

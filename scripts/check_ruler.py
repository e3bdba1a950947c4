"""How good is a ruler? Probes on its features, and whether its distances grow with planted damage.

    python scripts/check_ruler.py --data ../shared/data --rulers diptych-0 diptych-1

Probes learn from training images and are read on held-out ones. A damage's figure is Spearman's rank
correlation between its strength and the Fréchet distance of damaged images from other, undamaged ones.
"""

from __future__ import annotations

import argparse
import io
import json
import warnings
import zipfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image
from ruler_data import SOURCES, Split, UInt8
from scipy.stats import spearmanr
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import KNeighborsClassifier
from sklearn.preprocessing import StandardScaler
from torch import Tensor

from diptych.data.builtin import digits
from diptych.features.extractor import Extractor, extractor
from diptych.measuring.planted import DAMAGES, drop_modes, invent_modes
from diptych.metrics.fid import frechet_distance
from diptych.system.device import keep_buffers

STRENGTHS = (0.0, 0.05, 0.1, 0.2, 0.3, 0.45, 0.7, 1.0)
SIDES = {"flowers": 64, "caltech_photos": 64, "dreambooth_subjects": 64}  # of sets that have larger images


class Set(NamedTuple):
    """One set, all images of one shape, uint8 (N, C, H, W)."""

    name: str
    train: Tensor
    train_labels: Tensor
    test: Tensor
    test_labels: Tensor


def seen_sets(root: Path, most: int) -> Iterator[Set]:
    """The sets that the ruler learned from."""
    for read in SOURCES:
        source = read(root)
        side = SIDES.get(source.name) or len(source.train.images[0])
        parts = [stacked(split, side, most) for split in (source.train, source.test)]
        yield Set(source.name, *parts[0], *parts[1])


def unseen_sets(root: Path, most: int) -> Iterator[Set]:
    """Sets that it did not learn from: scikit-learn's digits, CIFAR-10 as JPEG, two seasons."""
    bunch = digits()
    pixels, labels = torch.from_numpy(bunch.pixels).permute(0, 3, 1, 2), torch.as_tensor(bunch.labels)
    order = torch.from_numpy(np.random.default_rng(0).permutation(len(pixels)))
    pixels, labels = pixels[order], labels[order]
    yield Set("digits (unseen)", pixels[:1200], labels[:1200], pixels[1200:], labels[1200:])
    file = np.load(root / "cifar10_jpeg/cifar10_jpeg.npz")
    parts: list[Tensor] = []
    for part in ("train", "test"):
        data, ends, y = file[f"jpeg_{part}"].tobytes(), file[f"offsets_{part}"], file[f"y_{part}"]
        chosen = np.random.default_rng(0).permutation(len(y))[:most]
        images = [decoded(data[ends[i] : ends[i + 1]]) for i in chosen]
        parts += [tensor(images), torch.from_numpy(y[chosen].astype(np.int64))]
    yield Set("cifar10 (unseen)", *parts)
    with zipfile.ZipFile(root / "summer2winter/summer2winter_64.zip") as archive:
        parts = []
        for part in ("train", "test"):
            names = [n for n in archive.namelist() if n.startswith(part) and n.endswith(("jpg", "png"))]
            parts += [tensor([decoded(archive.read(n)) for n in names])]
            parts += [torch.tensor([int(n[len(part)] == "B") for n in names])]
    yield Set("summer2winter (unseen)", *parts)


def stacked(split: Split, side: int, most: int) -> tuple[Tensor, Tensor]:
    """At most `most` images, drawn by chance, all of one size, and their labels."""
    chosen = np.random.default_rng(0).permutation(len(split.images))[:most]
    images = [shrunk(split.images[i], side) for i in chosen]
    return tensor(images), torch.tensor([split.labels[i] for i in chosen])


def shrunk(image: UInt8, side: int) -> UInt8:
    """An image of this side (side, side, C)."""
    if image.shape[:2] == (side, side):
        return image
    return np.asarray(Image.fromarray(image).resize((side, side), Image.Resampling.LANCZOS))


def decoded(content: bytes) -> UInt8:
    return np.asarray(Image.open(io.BytesIO(content)).convert("RGB"))


def tensor(images: list[UInt8]) -> Tensor:
    return torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).contiguous()


@torch.no_grad()
def features(ruler: Extractor, images: Tensor) -> Tensor:
    """Pooled features (N, dim)."""
    return torch.cat(
        [ruler(images[i : i + ruler.block])["pooled"] for i in range(0, len(images), ruler.block)]
    )


def probes(ruler: Extractor, data: Set) -> tuple[float, float]:
    """Accuracy of a linear probe and of 5 nearest neighbours, on standardised features."""
    train, test = features(ruler, data.train).numpy(), features(ruler, data.test).numpy()
    scaler = StandardScaler().fit(train)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        linear = LogisticRegression(C=0.1, max_iter=300).fit(scaler.transform(train), data.train_labels)
    near = KNeighborsClassifier(5).fit(train, data.train_labels)
    return linear.score(scaler.transform(test), data.test_labels), near.score(test, data.test_labels)


def damages(data: Set, n: int) -> tuple[Tensor, Tensor, dict[str, Callable[[Tensor, float], Tensor]]]:
    """Real images, other images of the same set, and what is done to the latter."""
    pool, labels = torch.cat([data.test, data.train]), torch.cat([data.test_labels, data.train_labels])
    order = torch.from_numpy(np.random.default_rng(1).permutation(len(pool)))
    half = min(n, len(pool) // 2)
    real, fake = pool[order[:half]], pool[order[half : 2 * half]]
    kinds: dict[str, Callable[[Tensor, float], Tensor]] = {
        name: partial(lambda damage, images, s: damage(images, s, 0), damage)
        for name, damage in DAMAGES.items()
    }
    kinds["drop"] = lambda images, s: drop_modes(images, labels[order[half : 2 * half]], s, 0)
    # strangers: the same pictures as negatives and upside down are another kind with equal statistics
    strangers = fake.flip(2).clone()
    strangers[:, :3] = 255 - strangers[:, :3]
    kinds["invent"] = lambda images, s: invent_modes(images, s, 0, strangers)
    return real, fake, kinds


def growth(ruler: Extractor, data: Set, n: int) -> dict[str, float]:
    """Spearman's correlation of strength and distance, for each kind of damage."""
    real, fake, kinds = damages(data, n)
    reference = features(ruler, real)
    floor = frechet_distance(reference, features(ruler, fake))
    found = {"n": float(len(real)), "floor": floor}
    for name, damage in kinds.items():
        distances = [floor] + [
            frechet_distance(reference, features(ruler, damage(fake, s))) for s in STRENGTHS[1:]
        ]
        found[name] = float(spearmanr(STRENGTHS, distances).statistic)
        found[f"{name} x0.1"] = distances[2] / floor
        found[f"{name} x1"] = distances[-1] / floor
    # whole changes that a ruler may be blind to
    opaque = fake[:, :3].float().mean(1, keepdim=True).to(torch.uint8)
    changes = {
        "mirrored": fake.flip(3),
        "upside down": fake.flip(2),
        "without colour": torch.cat([opaque.expand(-1, min(3, fake.shape[1]), -1, -1), fake[:, 3:]], 1),
        "moved by an eighth": fake.roll(fake.shape[3] // 8, 3),
        "half of them twice": fake[: len(fake) // 2].repeat(2, 1, 1, 1),
    }
    for name, changed in changes.items():
        found[f"{name} x"] = frechet_distance(reference, features(ruler, changed)) / floor
    return found


def main() -> None:
    """Reads the arguments, prints one JSON line a set and ruler."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--rulers", nargs="+", default=["diptych-0", "diptych-1"])
    parser.add_argument("--sets", nargs="*", default=[], help="only sets whose names begin so")
    parser.add_argument("--most", type=int, default=4000, help="images that a probe learns from")
    parser.add_argument("--n", type=int, default=1000, help="images on each side of a distance")
    parser.add_argument("--skip", choices=["probes", "growth"])
    given = parser.parse_args()
    torch.set_num_threads(1)
    keep_buffers()
    for sets in (seen_sets, unseen_sets):
        for data in sets(given.data, given.most):
            if given.sets and not data.name.startswith(tuple(given.sets)):
                continue
            for name in given.rulers:
                ruler = extractor(name)
                line: dict[str, object] = {"set": data.name, "ruler": name.partition("/")[0]}
                if given.skip != "probes":
                    linear, near = probes(ruler, data)
                    line |= {"linear": round(linear, 3), "5-NN": round(near, 3)}
                if given.skip != "growth":
                    line |= {kind: round(value, 3) for kind, value in growth(ruler, data, given.n).items()}
                print(json.dumps(line), flush=True)


if __name__ == "__main__":
    main()

"""What the ruler learns from: the sets whose licences allow it, as uint8 images with their classes."""

from __future__ import annotations

import hashlib
import io
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from diptych.data.builtin import KINDS, shapes

UInt8 = npt.NDArray[np.uint8]
SIDE = 144  # photographs are kept at most this large


@dataclass(frozen=True)
class Split:
    """Images (H, W, C) of one set, C = 1, 3 or 4, and the number of each one's class within the set."""

    images: list[UInt8]
    labels: list[int]


@dataclass(frozen=True)
class Source:
    """One set: what is learned from, what is held out, and whether a mirrored image is as good."""

    name: str
    classes: tuple[str, ...]
    train: Split
    test: Split
    mirrors: bool


def fashion_mnist(root: Path) -> Source:
    """60,000 + 10,000 grey pictures of clothes, 28x28 (Zalando, MIT)."""
    names = ["t-shirt", "trouser", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "boot"]
    return _arrays(root / "fashion_mnist/fashion_mnist.npz", "fashion_mnist", names, mirrors=True)


def mnist(root: Path) -> Source:
    """60,000 + 10,000 grey digits, 28x28 (LeCun, Cortes, Burges, CC BY-SA 3.0)."""
    return _arrays(root / "mnist/mnist.npz", "mnist", [f"digit {i}" for i in range(10)])


def noto_emoji(root: Path) -> Source:
    """3,246 + 326 drawings with transparency, 72x72, 9 groups (Google, Apache-2.0 / OFL 1.1)."""
    return _arrays(
        root / "noto_emoji/noto_emoji_72.npz", "noto_emoji", [f"emoji group {i}" for i in range(9)], True
    )


def lpc_sprites(root: Path) -> Source:
    """9,600 + 1,200 frames of drawn figures, 64x64, 9 motions (LPC, CC BY-SA 3.0 / GPL 3.0)."""
    file = np.load(root / "lpc_sprites/lpc_sprites_video.npz")
    names = [f"{a} {d}" for a in file["actions"] for d in file["directions"]]

    def split(part: str) -> Split:
        clips, y = file[f"x_{part}"], file[f"y_{part}"].astype(int)
        labels = np.repeat(y[:, 0] * len(file["directions"]) + y[:, 1], clips.shape[1])
        return Split(list(clips.reshape(-1, *clips.shape[2:])), labels.tolist())

    return Source("lpc_sprites", tuple(names), split("train"), split("test"), mirrors=False)


def fsdd(root: Path) -> Source:
    """2,700 + 300 spectrograms of spoken digits, grey, 64x64 (Jackson et al., CC BY-SA 4.0)."""
    file = np.load(root / "fsdd/fsdd.npz")

    def split(part: str) -> Split:
        ends, audio = file[f"offsets_{part}"], file[f"audio_{part}"]
        clips = [spectrogram(audio[a:b]) for a, b in pairwise(ends)]
        return Split(clips, file[f"y_{part}"].tolist())

    return Source("fsdd", tuple(f"spoken {i}" for i in range(10)), split("train"), split("test"), False)


def spectrogram(audio: npt.NDArray[np.int16], size: int = 64) -> UInt8:
    """Logarithm of the short-time spectrum of a clip (size, size, 1), time from left to right, 80 dB deep."""
    window = np.hanning(2 * size)
    starts = np.linspace(0, max(1, len(audio) - 2 * size), size).astype(int)
    padded = np.pad(audio.astype(np.float64), (0, 2 * size))
    frames = np.stack([padded[start : start + 2 * size] * window for start in starts])
    power = np.abs(np.fft.rfft(frames))[:, 1:].T[::-1] + 1e-9
    level = 20 * np.log10(power / power.max())
    grey: UInt8 = np.rint((level + 80).clip(0, 80) * (255 / 80)).astype(np.uint8)
    return grey[..., None]


def flowers(root: Path) -> Source:
    """2,927 + 736 photographs, 128x128, 5 classes (TensorFlow's flower photos, CC BY 2.0)."""
    with zipfile.ZipFile(root / "flowers/flowers_128.zip") as file:
        names = [name.split("/") for name in file.namelist() if name.endswith(".jpg")]
        classes = sorted({parts[1] for parts in names})
        splits = [
            Split(
                [_photo(file.read("/".join(parts))) for parts in names if parts[0] == part],
                [classes.index(parts[1]) for parts in names if parts[0] == part],
            )
            for part in ("train", "test")
        ]
    return Source("flowers", tuple(classes), splits[0], splits[1], mirrors=True)


def dreambooth_subjects(root: Path) -> Source:
    """158 photographs of 30 subjects (Ruiz et al., CC BY 4.0 / Unsplash); the first of each is held out."""
    return _folders(
        root / "dreambooth_subjects/dreambooth_subjects_256.zip",
        "dreambooth_subjects",
        lambda name: name.endswith("/00.jpg"),
    )


def caltech_photos(root: Path) -> Source:
    """869 photographs of 97 categories (Li et al., CC BY 4.0); about 15 % are held out."""
    return _folders(
        root / "caltech_photos/caltech_photos.zip",
        "caltech_photos",
        lambda name: hashlib.sha256(name.encode()).digest()[0] < 38,
    )


def drawn_shapes(root: Path) -> Source:
    """6,000 + 600 drawn scenes, 64x64, 5 kinds of shape (made here)."""
    stack = shapes(6600, 64)
    images, labels = list(stack.pixels), stack.labels.tolist()  # type: ignore[union-attr]
    return Source("shapes", KINDS, Split(images[600:], labels[600:]), Split(images[:600], labels[:600]), True)


SOURCES: tuple[Callable[[Path], Source], ...] = (
    fashion_mnist,
    mnist,
    noto_emoji,
    lpc_sprites,
    fsdd,
    flowers,
    dreambooth_subjects,
    caltech_photos,
    drawn_shapes,
)


def _arrays(path: Path, name: str, classes: list[str], mirrors: bool = False) -> Source:
    """A set that is four arrays: x_train, y_train, x_test, y_test."""
    file = np.load(path)
    splits = []
    for part in ("train", "test"):
        pixels = file[f"x_{part}"]
        pixels = pixels[..., None] if pixels.ndim == 3 else pixels
        splits.append(Split(list(pixels), file[f"y_{part}"].astype(int).tolist()))
    return Source(name, tuple(classes), splits[0], splits[1], mirrors)


def _folders(path: Path, name: str, held_out: Callable[[str], bool]) -> Source:
    """A set that is a zip of CLASS/IMAGE.jpg."""
    with zipfile.ZipFile(path) as file:
        names = sorted(entry for entry in file.namelist() if entry.endswith(".jpg"))
        classes = sorted({entry.split("/")[0] for entry in names})
        parts: dict[bool, Any] = {False: Split([], []), True: Split([], [])}
        for entry in names:
            split = parts[held_out(entry)]
            split.images.append(_photo(file.read(entry)))
            split.labels.append(classes.index(entry.split("/")[0]))
    return Source(name, tuple(classes), parts[False], parts[True], mirrors=True)


def _photo(content: bytes) -> UInt8:
    """The middle square of a photograph, at most 144 pixels wide (H, W, 3)."""
    image = Image.open(io.BytesIO(content)).convert("RGB")
    side = min(image.size)
    left, top = (image.width - side) // 2, (image.height - side) // 2
    image = image.crop((left, top, left + side, top + side))
    if side > SIDE:
        image = image.resize((SIDE, SIDE), Image.Resampling.LANCZOS)
    return np.array(image)

"""The exam: what metrics may look at, each part computed once; and what a metric is."""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import cached_property, lru_cache
from typing import Any, Literal, TypeVar

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from diptych.data.images import DataSet, Images
from diptych.errors import NotMeasurable, WrongUse, dimensions
from diptych.features.extractor import Extractor, extractor
from diptych.features.store import content, seen
from diptych.model import Condition, Model
from diptych.scores import RulerCard
from diptych.system import parallel

VERSION = "3"  # of the metrics' code: rises when a number could change
Which = Literal["real", "fake", "train"]
T = TypeVar("T")


class Exam:
    """Everything a metric may look at. Each part is computed once, when first asked for.

    `n` is cut to the held-out images, and to the fakes where images are given in a model's place.
    `extractor` is a name (see diptych.features), `price` the machine's per hour. With `keep`, the features of
    the fakes stay on disk for the next exam of the same images. Images are drawn `batch` at a time.
    """

    def __init__(
        self,
        model: Model | None,
        data: DataSet,
        *,
        n: int = 2000,
        seed: int = 0,
        extractor: str = "builtin",
        fakes: Images | None = None,
        batch: int = 256,
        price: float | None = None,
        keep: bool = True,
    ) -> None:
        if n < 1:
            raise WrongUse(f"n is {n}", "n is how many images are looked at, 1 or more")
        expected = data.held_out.shape
        shape = model.image_shape if model is not None else fakes.shape if fakes is not None else expected
        if tuple(shape) != expected:
            raise WrongUse(
                f"the fakes are {dimensions(shape)} but the held-out images are {dimensions(expected)}",
                "measure a model on the data that it was trained for, or bring both to one --size",
            )
        self.model, self.data, self.seed, self.batch, self.price = model, data, seed, batch, price
        self.n = min(n, len(data.held_out), *([] if fakes is None else [len(fakes)]))
        self._name, self._fakes, self._keep = extractor, fakes, keep
        self._shared: dict[str, Any] = {}
        self.seen: npt.NDArray[np.int64] | None = None  # which training images the fakes are, of a floor

    # ------------------------------------------------------------------ images

    def images(self, which: Which) -> Tensor:
        """uint8 (N, C, H, W) on the CPU: n held-out images, n fakes, or all training images."""
        if which == "fake":
            return self.fake
        return self._training().tensor() if which == "train" else self.data.held_out.tensor(self.chosen)

    def labels(self, which: Which) -> Tensor | None:
        """int64 (N,) on the CPU, of the same images. Of fakes: what was asked for (see `asking`), or came
        with them."""
        if which == "fake":
            return self._fake_labels()
        images = self._training() if which == "train" else self.data.held_out
        rows = slice(None) if which == "train" else self.chosen
        return None if images.labels is None else torch.from_numpy(np.ascontiguousarray(images.labels[rows]))

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the data's classes; none where it has no labels."""
        return self.data.held_out.class_names if self.data.held_out.labels is not None else ()

    @cached_property
    def chosen(self) -> npt.NDArray[np.int64]:
        """Which held-out images are looked at: the first n of a shuffle that never changes."""
        return shuffle(len(self.data.held_out))[: self.n]

    @cached_property
    def asking(self) -> tuple[Images, npt.NDArray[np.int64]]:
        """Whose labels and captions a model is asked for: images, and n rows of them.

        Training images as the floor takes them; where these are too few, drawn with replacement, of held-out
        images where there are none. Asked for the very labels of the held-out images, a model would be
        nearer to them than other real images are: distances take both sides for independent draws.
        """
        train, held_out = self.data.train, self.data.held_out
        source = train if len(train) else held_out
        if len(train) >= self.n:
            return source, shuffle(len(source))[: self.n]
        return source, np.random.default_rng([len(source), 0xA5]).integers(len(source), size=self.n)

    @cached_property
    def fake(self) -> Tensor:
        """The images in question: drawn with the labels of `asking` where the model wants labels."""
        if self._fakes is not None:
            return self._fakes.tensor(self._fake_rows)
        model = self.asked("samples")
        whole = torch.zeros(self.n, *model.image_shape, dtype=torch.uint8)
        mine = [i for rows in parallel.my_blocks(self.n, self.batch) for i in range(self.n)[rows]]
        if mine:
            told, seeds = self.condition("fake"), [self.seed + i for i in mine]
            whole[mine] = model.sample(seeds, told and told.of(mine), self.batch).cpu()
        return parallel.united(whole)

    def condition(self, which: Which) -> Condition | None:
        """What a model is told of each of n images: labels and captions, where it wants them and they are
        known. Of held-out images their own, of fakes those of `asking`."""
        model = self.asked("what it is told")
        images, rows = self.asking if which == "fake" else (self.data.held_out, self.chosen)
        known = (images.classes, images.attribute_names if images.told else ())
        fits = "label" in model.wants and known == (model.classes, tuple(model.attribute_names))
        label = images.label(rows) if fits else None  # a model of others cannot be asked for these
        text = None
        if images.captions is not None and "text" in model.wants:
            text = [images.captions[i] for i in rows]
        return None if label is None and text is None else Condition(label=label, text=text)

    @property
    def _fake_rows(self) -> npt.NDArray[np.int64]:
        # sample files are often sorted by class, so that their first n would not do
        assert self._fakes is not None
        return np.sort(shuffle(len(self._fakes))[: self.n])

    def _fake_labels(self) -> Tensor | None:
        if self._fakes is None:
            told = self.condition("fake") if self.model is not None and self.model.classes else None
            return None if told is None else told.label
        if self._fakes.labels is None or len(self._fakes.class_names) > len(self.classes):
            return None
        if any(name not in self.classes for name in self._fakes.class_names):
            return None
        place = np.array([self.classes.index(name) for name in self._fakes.class_names])
        return torch.from_numpy(place[self._fakes.labels[self._fake_rows]])

    def _training(self) -> Images:
        if not len(self.data.train):
            raise NotMeasurable(
                "no training images are known", "measure against the data set of the training"
            )
        return self.data.train

    def asked(self, what: str) -> Model:
        """The model. Raises NotMeasurable where only images were given."""
        if self.model is None:
            raise NotMeasurable(f"there is no model here, only images: {what} cannot be had")
        return self.model

    # ---------------------------------------------------------------- features

    def features(self, which: Which, view: str = "pooled") -> Tensor:
        """float32 (N, D): what the extractor sees in these images, on the CPU or on the model's CUDA device.

        Raises NotMeasurable where the extractor has no such view, or a feature is not finite.
        """
        if view not in self.extractor.views:
            raise NotMeasurable(
                f"{self.extractor.name} has no {view} features", f"it has: {', '.join(self.extractor.views)}"
            )
        if which == "fake":
            found = self.shared("fake features", self._fake_features)
        else:
            chosen = None if which == "train" else self.n
            found = _seen_of(
                self.data, chosen, self._name, str(self.device), view if chosen is None else None
            )
        return found[view].to(self.device if self.device.type == "cuda" else "cpu")

    def _fake_features(self) -> dict[str, Tensor]:
        fake = self.fake
        key = content(fake) if self._keep else ""
        return seen(
            self.extractor,
            lambda rows: fake[rows],
            len(fake),
            key,
            device=self.device,
            what="fake",
            keep=self._keep,
        )

    @property
    def extractor(self) -> Extractor:
        """The feature extractor, where the model is."""
        return extractor(self._name, self.device)

    @cached_property
    def device(self) -> torch.device:
        """Where features are computed: where the model is."""
        return torch.device("cpu") if self.model is None else self.model.device

    def shared(self, key: str, compute: Callable[[], T]) -> T:
        """What `compute` gives, computed once: for work that several metrics need."""
        if key not in self._shared:
            self._shared[key] = compute()
        found: T = self._shared[key]
        return found

    @cached_property
    def card(self) -> RulerCard:
        """What this exam's scores are measured with."""
        ruler = self.extractor
        return RulerCard(
            extractor=ruler.name,
            extractor_sha256=ruler.sha256,
            data=self.data.card.name,
            held_out_sha256=self.data.held_out.sha256,
            n=self.n,
            resize=ruler.resize,
            seed=self.seed,
            version=VERSION,
        )

    def seen_by(self, extractor: str) -> Exam:
        """The same images under another ruler; what was drawn is not drawn again."""
        other = copy.copy(self)
        other._name, other._shared = extractor, {}
        other.__dict__.pop("card", None)
        return other

    def against_real(self) -> Exam:
        """The floor: as many real training images in the fakes' place."""
        train = self._training()
        rows = np.sort(shuffle(len(train))[: self.n])
        fakes = train.subset(rows)
        floor = Exam(None, self.data, n=self.n, seed=self.seed, extractor=self._name, fakes=fakes)
        floor.seen = rows[floor._fake_rows]
        return floor


def nearest_training_images(
    images: Tensor, data: DataSet, near: int = 5, extractor_name: str = "builtin"
) -> npt.NDArray[np.int64]:
    """Indices (N, near) of the training images nearest in features to uint8 (N, C, H, W)."""
    ruler = extractor(extractor_name)
    known = _seen_of(data, None, extractor_name, "cpu", "pooled")["pooled"].double()
    given = seen(ruler, lambda rows: images[rows], len(images), "", views=["pooled"], keep=False)["pooled"]
    return torch.cdist(given.double(), known).topk(min(near, len(known)), largest=False).indices.numpy()


@lru_cache(maxsize=6)
def _seen_of(data: DataSet, n: int | None, name: str, device: str, view: str | None) -> dict[str, Tensor]:
    """Features of n held-out images, or of all training images; the next model needs them again."""
    images = data.train if n is None else data.held_out
    rows = np.arange(len(images)) if n is None else shuffle(len(images))[:n]
    return seen(
        extractor(name, device),
        lambda share: images.tensor(rows[share]),
        len(rows),
        f"{images.sha256} {n}",
        device=device,
        what="training" if n is None else "real",
        views=None if view is None else [view],
    )


def shuffle(n: int) -> npt.NDArray[np.int64]:
    """An order of n images that never changes."""
    return np.random.default_rng([n, 0xE1]).permutation(n)

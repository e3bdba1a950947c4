"""The ruler: an Exam hands metrics what they may look at, evaluate makes a Report of their answers."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, is_dataclass
from functools import cached_property, lru_cache
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from diptych.data.images import DataSet, Images
from diptych.errors import NotMeasurable, WrongUse, did_you_mean
from diptych.features.extractor import Extractor, extractor
from diptych.machine import machine
from diptych.model import Condition, Model
from diptych.scores import Estimate, Report, RulerCard

log = logging.getLogger("diptych")

VERSION = "1"  # of the metrics' code: rises when a number could change
QUICK = ("fid", "kid", "density_coverage")
Which = Literal["real", "fake"]


class Exam:
    """Everything a metric may look at. Each part is computed once, when first asked for.

    `n` is cut to the held-out split. Where `fakes` are given, they stand in for the model's samples.
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
    ) -> None:
        if n < 1:
            raise WrongUse(f"n is {n}", "n is how many images are looked at, 1 or more")
        shape = (
            model.image_shape
            if model is not None
            else fakes.shape
            if fakes is not None
            else data.held_out.shape
        )
        if tuple(shape) != data.held_out.shape:
            raise WrongUse(
                f"the fakes are {_size(shape)} but the held-out images are {_size(data.held_out.shape)}",
                "measure a model on the data that it was trained for",
            )
        self.model, self.data, self.seed, self.batch = model, data, seed, batch
        self.n = min(n, len(data.held_out))
        self._extractor, self._fakes = extractor, fakes
        self._features: dict[str, Tensor] = {}

    def images(self, which: Which) -> Tensor:
        """uint8 (N, C, H, W) on the CPU: n held-out images, or fakes that have the same labels."""
        return self.fake if which == "fake" else self.data.held_out.tensor(self.chosen)

    @cached_property
    def chosen(self) -> npt.NDArray[np.int64]:
        """Which held-out images are looked at: the first n of a shuffle that never changes."""
        return _shuffle(len(self.data.held_out))[: self.n]

    @cached_property
    def fake(self) -> Tensor:
        """The images in question."""
        if self._fakes is not None:
            return self._fakes.tensor(slice(0, self.n))
        model = self.asked("samples")
        labels = self.data.held_out.labels
        condition = None
        if labels is not None and "label" in model.wants:
            condition = Condition(label=torch.from_numpy(np.ascontiguousarray(labels[self.chosen])))
        return model.sample(range(self.seed, self.seed + self.n), condition, self.batch)

    def asked(self, what: str) -> Model:
        """The model. Raises NotMeasurable where only images were given."""
        if self.model is None:
            raise NotMeasurable(f"there is no model here, only images: {what} cannot be had")
        return self.model

    def features(self, which: Which, extractor: str | None = None) -> Tensor:
        """(N, D) float32 on the CPU. Raises NotMeasurable where a feature is not finite."""
        name = self.extractor(extractor).name
        if which == "real":
            return _real_features(self.data, self.n, name, str(self.device))
        if name not in self._features:
            self._features[name] = extracted(self.extractor(name), self.images("fake"), self.device, "fake")
        return self._features[name]

    def extractor(self, name: str | None = None) -> Extractor:
        """The feature extractor of this name; this exam's own if none is named."""
        return extractor(name or self._extractor, self.device)

    @cached_property
    def device(self) -> torch.device:
        """Where features are computed: where the model is."""
        first = None if self.model is None else next(self.model.parameters(), None)
        return torch.device("cpu") if first is None else first.device

    @cached_property
    def card(self) -> RulerCard:
        """What this exam's scores are measured with."""
        ruler = self.extractor()
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

    def against_real(self) -> Exam:
        """The floor: as many real training images in the fakes' place."""
        train = self.data.train
        other = train.subset(np.sort(_shuffle(len(train))[: self.n]))
        return Exam(None, self.data, n=self.n, seed=self.seed, extractor=self._extractor, fakes=other)


@dataclass(frozen=True)
class Metric:
    """A measure by name: a function from an exam to named estimates. Made by @metric."""

    name: str
    measure: Callable[[Exam], Mapping[str, Estimate]]

    @property
    def doc(self) -> str:
        """The function's docstring."""
        return self.measure.__doc__ or ""

    def __call__(self, exam: Exam) -> Mapping[str, Estimate]:
        return self.measure(exam)


def metric(measure: Callable[[Exam], Mapping[str, Estimate]]) -> Metric:
    """Marks a function as a metric; its name is the function's."""
    return Metric(measure.__name__, measure)


def evaluate(
    model: Model,
    data: DataSet,
    *,
    name: str,
    recipe: str,
    options: Mapping[str, Any] | None = None,
    n: int = 2000,
    seed: int = 0,
    extractor: str = "builtin",
    metrics: Sequence[str] | None = None,
    floor: bool | Mapping[str, Estimate] = True,
    run: str = "",
    training: Mapping[str, Any] | None = None,
) -> Report:
    """One model at one setting, measured against held-out images.

    Metrics that are named must succeed (NotMeasurable otherwise); of all, those that cannot be had are
    logged and left out. A floor that was measured before (`floor_of`) can be handed in.
    """
    exam = Exam(model, data, n=n, seed=seed, extractor=extractor)
    if exam.n < n:
        log.info("%d images were asked for; all %d held-out ones are looked at", n, exam.n)
    if options is None:
        options = asdict(model.options) if is_dataclass(model.options) else {}  # type: ignore[arg-type]
    if isinstance(floor, bool):
        floor = floor_of(data, n=n, seed=seed, extractor=extractor, metrics=metrics) if floor else {}
    return Report(
        name=name,
        recipe=recipe,
        options=options,
        scores=measured(exam, metrics, strict=metrics is not None),
        floor=floor,
        ruler=exam.card,
        machine=machine(exam.device),
        training=training or {},
        run=run,
    )


def measured(
    exam: Exam, metrics: Sequence[str] | None = None, *, strict: bool = False
) -> dict[str, Estimate]:
    """Scores of these metrics (None: of all). What is not measurable raises if `strict`, else is logged."""
    scores: dict[str, Estimate] = {}
    for each in metrics_named(metrics):
        try:
            scores |= each(exam)
        except NotMeasurable as error:
            if strict:
                raise
            # real images in a model's place have no latency: nothing to tell
            log.log(
                logging.DEBUG if exam.model is None else logging.WARNING, "%s: %s", each.name, error.message
            )
    return scores


def metrics_named(names: Sequence[str] | None) -> list[Metric]:
    """These metrics, or all. Raises WrongUse with the nearest name for one that is not there."""
    from diptych.catalog import metrics  # the catalog lists the metrics, and the metrics import this module

    known = metrics()
    for name in names or ():
        if name not in known:
            raise WrongUse(f"there is no metric called {name}", did_you_mean(name, list(known)))
    return list(known.values()) if names is None else [known[name] for name in names]


def floor_of(
    data: DataSet,
    *,
    n: int = 2000,
    seed: int = 0,
    extractor: str = "builtin",
    metrics: Sequence[str] | None = None,
) -> dict[str, Estimate]:
    """What real training images score in the fakes' place: no model can be expected to do better."""
    return measured(Exam(None, data, n=n, seed=seed, extractor=extractor).against_real(), metrics)


class QuickExam:
    """The small exam of every training tick, in one unit for all families. The real side is computed once."""

    def __init__(
        self,
        data: DataSet,
        n: int = 512,
        *,
        seed: int = 0,
        extractor: str = "builtin",
        metrics: Sequence[str] = QUICK,
    ) -> None:
        self.data, self.n, self.seed, self.extractor, self.metrics = data, n, seed, extractor, metrics

    def __call__(self, model: Model) -> dict[str, float]:
        """Score by name; what cannot be measured is left out."""
        exam = Exam(model, self.data, n=self.n, seed=self.seed, extractor=self.extractor)
        return {name: estimate.value for name, estimate in measured(exam, self.metrics).items()}


def nearest_training_images(
    images: Tensor, data: DataSet, near: int = 5, extractor_name: str = "builtin"
) -> npt.NDArray[np.int64]:
    """Indices (N, near) of the training images nearest in features to uint8 (N, C, H, W)."""
    ruler = extractor(extractor_name)
    known = _train_features(data, ruler.name).double()
    distance = torch.cdist(extracted(ruler, images, "cpu", "given").double(), known)
    return distance.topk(min(near, len(known)), largest=False).indices.numpy()


@torch.inference_mode()
def extracted(ruler: Extractor, images: Tensor, device: torch.device | str, which: str) -> Tensor:
    """Features (N, D) float32 on the CPU of uint8 images. Raises NotMeasurable where one is not finite."""
    parts = [ruler(block.to(device)).float().cpu() for block in torch.split(images, ruler.block)]
    features = torch.cat([torch.empty(0, ruler.dim), *parts])
    odd = ~features.isfinite().all(1)
    if odd.any():
        raise NotMeasurable(
            f"{ruler.name} is not finite for {int(odd.sum())} of {len(odd)} {which} images",
            f"the first is number {int(odd.nonzero()[0])}",
        )
    return features


@lru_cache(maxsize=8)
def _real_features(data: DataSet, n: int, name: str, device: str) -> Tensor:
    images = data.held_out.tensor(_shuffle(len(data.held_out))[:n])
    return extracted(extractor(name, device), images, device, "real")


@lru_cache(maxsize=1)
def _train_features(data: DataSet, name: str) -> Tensor:
    blocks = (data.train.tensor(slice(start, start + 4096)) for start in range(0, len(data.train), 4096))
    return torch.cat([extracted(extractor(name), block, "cpu", "training") for block in blocks])


def _shuffle(n: int) -> npt.NDArray[np.int64]:
    return np.random.default_rng([n, 0xE1]).permutation(n)


def _size(shape: Sequence[int]) -> str:
    channels, height, width = shape
    return f"{width}x{height} with {channels} channel{'s' if channels > 1 else ''}"

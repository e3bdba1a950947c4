"""What is measured against: held-out images, all images of a set, or another model's samples."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np

from diptych.checking import misfit, shown
from diptych.data.decode import Channels, Fit
from diptych.data.images import DataCard, DataSet, Images
from diptych.data.ingest import open_data, open_whole
from diptych.data.prepare import MixedSizes
from diptych.errors import DataError, RunError, WrongUse, dimensions
from diptych.measuring.subject import Shape, Source, Subject, check_prompts, open_subject, recognise, square

log = logging.getLogger("diptych")

Split = Literal["auto", "held_out", "all"]
_ARGUMENTS: dict[str, Any] = {
    "size": int | None,
    "fit": Fit,
    "channels": Channels | None,
    "held_out": float | None,
    "attributes": str | None,
}  # of open_data
FIRST_SEED = 1 << 40  # of the samples of a model that is the reference: no fakes are drawn up there


def open_all(
    sources: Sequence[Source],
    against: Source | None = None,
    *,
    split: Split = "auto",
    size: int | None = None,
    fit: Fit | None = None,
    channels: Channels | None = None,
    n: int = 2000,
    seed: int = 0,
    device: str = "auto",
) -> tuple[list[Subject], DataSet]:
    """Everything that is to be measured, in order, and what it is measured against, all in one shape.

    Models set the shape; where there are none, the reference does. Arguments as in `open_reference`; `fit`
    and `channels` are for the images among the sources too, which are fitted as a run's data were unless it
    says otherwise.
    """
    models = {i: open_subject(s, device=device) for i, s in enumerate(sources) if not _holds_images(s)}
    own: Fit = _arguments([model for model in models.values() if model.data is not None], None, fit, None)[
        "fit"
    ]
    if against is None and not any(model.data for model in models.values()):
        for i, source in enumerate(sources):  # what cannot be opened at all is the first thing to say
            if i not in models:
                open_subject(source, fit=own)
    how: dict[str, Any] = {"split": split, "fit": fit, "channels": channels, "n": n, "seed": seed}
    how["like"], how["device"] = list(models.values()), device
    try:
        data = open_reference(against, size=size, **how)
    except MixedSizes:
        if size is not None or models:
            raise
        height = open_subject(sources[0], fit=own).shape[1]  # samples have one size: the reference takes it
        log.warning("%s: images of several sizes are brought to %d px, as the samples have", against, height)
        data = open_reference(against, size=height, **how)
    shape, names = data.held_out.shape, data.held_out.class_names
    asked = channels if channels == shape[0] else None  # models may have set another number
    subjects = [
        models[i] if i in models else open_subject(s, shape=shape, classes=names, fit=own, channels=asked)
        for i, s in enumerate(sources)
    ]
    return subjects, data


def check_used(
    sources: Sequence[Source],
    against: Source | None,
    *,
    split: Split = "auto",
    size: int | None = None,
    fit: Fit | None = None,
    channels: Channels | None = None,
) -> None:
    """Raises WrongUse for what was asked of a reference that is taken as it is: a model, images in memory."""
    if against is None or (isinstance(against, str | Path) and recognise(against) == "images"):
        return
    asked: dict[str, Any] = {"size": size, "channels": channels}
    if not any(map(_holds_images, sources)):  # else they are brought to the reference's shape by it
        asked["fit"] = fit
    if not isinstance(against, DataSet):
        asked["split"] = None if split == "auto" else split
    for name, value in asked.items():
        if value is not None:
            what = str(against) if isinstance(against, str | Path) else "what is measured against"
            raise WrongUse(
                f"--{name} {value} is not for {what}, which is taken as it is",
                f"leave --{name} out, or name files of images with --against",
            )


def _holds_images(source: Source) -> bool:
    if isinstance(source, Subject):
        return source.images is not None
    if isinstance(source, str | Path):
        return recognise(source) == "images"
    return isinstance(source, Images | DataSet)


def open_reference(
    source: Source | None = None,
    *,
    split: Split = "auto",
    like: Sequence[Subject] = (),
    size: int | None = None,
    fit: Fit | None = None,
    channels: Channels | None = None,
    n: int = 2000,
    seed: int = 0,
    device: str = "auto",
) -> DataSet:
    """The images to measure against, as the held-out side of a data set; its training side where it is known.

    split: "held_out", "all", or "auto": held out where one of the subjects `like` is a run, which was trained
    on the rest; else all, as published sets are measured. Without a source, the data that the runs recorded.
    Of a model as the source, n samples are drawn, from seeds that no fakes have. Opened as the runs recorded
    it, else in the models' shape, else as found; `size`, `fit` ("crop") and `channels` win, but models and
    images in memory are taken as they are (see `check_used`).
    Raises WrongUse where nothing says what to measure against, or subjects do not fit together.
    """
    if split not in ("auto", "held_out", "all"):
        raise WrongUse(f"there is no split called {split!r}", "there are: auto, held_out, all")
    shape = _one_shape(like) if size is None else None
    runs = [subject for subject in like if subject.data is not None]
    recorded = source is None
    source = _recorded(runs) if source is None else source
    if isinstance(source, DataSet):
        return _whole(source) if split == "all" else source
    if not isinstance(source, str | Path) or recognise(source) != "images":
        return _of_subject(open_subject(source, device=device), n, seed)
    whole = split == "all" or (split == "auto" and not runs)
    try:
        data = _opened_like(source, shape, whole, _arguments(runs, size, fit, channels))
    except DataError as error:
        if not recorded or isinstance(error, MixedSizes):
            raise
        where = f"the data of {runs[0].name} cannot be opened: {error.message}"
        raise DataError(where, "name the place where it is now with --against") from error
    exactly = recorded and size is None and channels is None and fit is None
    _say_what_differs(data, runs, whole, exactly)
    return data


def _one_shape(like: Sequence[Subject]) -> Shape | None:
    """The shape of the models, where there are any."""
    models = [subject for subject in like if subject.model is not None]
    for model in models[1:]:
        if model.shape != models[0].shape:
            raise WrongUse(
                f"{models[0].name} draws {dimensions(models[0].shape)}, "
                f"but {model.name} {dimensions(model.shape)}",
                "models of one shape can be compared; measure these one by one",
            )
    return models[0].shape if models else None


def _recorded(runs: Sequence[Subject]) -> str:
    """The source that the runs were trained on."""
    if not runs:
        raise WrongUse(
            "nothing says what to measure against", "name a data set, or a model, with --against: photos/"
        )
    hashes = {(run.data or {}).get("held_out_sha256"): run.name for run in runs}
    if len(hashes) > 1:
        names = " and ".join(list(hashes.values())[:2])
        raise WrongUse(
            f"{names} were trained on different data", "name the one to measure against: --against"
        )
    return str((runs[0].data or {}).get("source", ""))


def _arguments(
    runs: Sequence[Subject], size: int | None, fit: Fit | None, channels: Channels | None
) -> dict[str, Any]:
    """How the reference is opened: as the first run recorded it, with what was asked for here on top."""
    asked = {"size": size, "fit": fit, "channels": channels}
    recorded = _as_recorded(runs[0]) if runs else {}
    asked_for = {name: value for name, value in asked.items() if value is not None}
    return {"fit": "crop", **recorded, **asked_for}


def _as_recorded(run: Subject) -> dict[str, Any]:
    """The arguments that a run's data were opened with. Raises RunError where they are none."""
    found = dict((run.data or {}).get("arguments", {}))
    found.pop("flip", None)
    for name, value in found.items():
        if name not in _ARGUMENTS or misfit(value, _ARGUMENTS[name], name):
            raise RunError(f"recipe.json of {run.name} records {name} = {shown(value)} of its data")
    return found


def _opened_like(source: str | Path, shape: Shape | None, whole: bool, arguments: dict[str, Any]) -> DataSet:
    """The data set, brought to the models' shape where it has another."""
    open_it: Callable[..., DataSet] = open_whole if whole else open_data
    if whole:
        arguments.pop("held_out", None)
    try:
        data = open_it(source, **arguments)
        if shape is None or data.held_out.shape == shape:
            return data
        found = dimensions(data.held_out.shape)
    except MixedSizes:
        if shape is None:
            raise
        found = "images of several sizes"
    arguments |= {"size": square(shape, str(source)), "channels": shape[0]}
    data = open_it(source, **arguments)
    log.warning("%s: %s were brought to %s: %s", source, found, dimensions(shape), data.card.fit)
    return data


def _say_what_differs(data: DataSet, runs: Sequence[Subject], whole: bool, exactly: bool) -> None:
    """Warns where a run may have seen the images. Raises RunError where `exactly` its own are meant."""
    source = data.card.source
    for run in runs:
        if whole:
            log.warning("%s: all images of %s count, those that it was trained on too", run.name, source)
        elif (run.data or {}).get("held_out_sha256") != data.card.held_out_sha256:
            if exactly:
                raise RunError(
                    f"{source} is no longer what {run.name} was trained on: the held-out images differ",
                    "bring the old files back, or name another place with --against",
                )
            log.warning(
                "%s was not trained beside these held-out images of %s: it may have seen some of them",
                run.name,
                source,
            )


def _whole(data: DataSet) -> DataSet:
    """Every image of a data set on the held-out side."""
    images = open_subject(data).images
    assert images is not None
    made = _of_images(images, f"{data.card.name}, all images", data.card.fit)
    return replace(made, card=replace(made.card, source=data.card.source, licence=data.card.licence))


def _of_images(images: Images, name: str, fit: str) -> DataSet:
    """A data set of which nothing is known but what is measured against."""
    none = images.subset(slice(0, 0))
    card = DataCard(name, name, 0, len(images), images.shape, fit, none.sha256, images.sha256)
    return DataSet(none, images, card)


def _of_subject(subject: Subject, n: int, seed: int) -> DataSet:
    """Images whole; of a model n samples."""
    if subject.images is not None:
        return _of_images(subject.images, subject.name, "as they are")
    assert subject.model is not None
    check_prompts(subject, None)
    model, seeds = subject.model, range(FIRST_SEED + seed, FIRST_SEED + seed + n)
    told = model.labels_for(seeds)
    labels, attributes = (None, told) if model.attributes else (told, None)
    images = Images(
        np.ascontiguousarray(model.sample(seeds).permute(0, 2, 3, 1).numpy()),
        None if labels is None else labels.numpy(),
        tuple(map(str, range(model.classes))),
        attributes=None if attributes is None else attributes.numpy(),
        attribute_names=model.attribute_names,
    )
    return _of_images(images, f"samples of {subject.name}", f"as drawn, seeds from {seeds.start:,}")

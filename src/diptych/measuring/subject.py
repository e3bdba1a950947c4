"""What can be measured, recognised by looking: runs, saved models, diffusers pipelines, images."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from diptych.data import builtin
from diptych.data.arrays import Stack
from diptych.data.decode import Channels, Fit, Policy
from diptych.data.images import DataSet, Images, Incident
from diptych.data.ingest import open_whole
from diptych.data.prepare import MixedSizes, prepare_stack
from diptych.errors import DataError, RunError, WrongUse
from diptych.model import Model
from diptych.runs import load_model, open_run
from diptych.system.files import expanded

log = logging.getLogger("diptych")

Shape = tuple[int, int, int]  # (C, H, W)
_WEIGHTS = {".safetensors", ".pt", ".pth", ".ckpt", ".bin", ".pkl"}
_SHOWN = 10  # odd files that are named one by one


@dataclass(frozen=True, eq=False)
class Subject:
    """One thing to be measured: a model, or images in a model's place."""

    name: str
    kind: str  # in words: "run", "saved model", "diffusers pipeline", "images"
    model: Model | None = None
    images: Images | None = None
    recipe: str = ""  # of a run; of another model the name of its class
    run: str = ""  # the directory, as it was named, where there is a run in it
    training: Mapping[str, Any] = field(default_factory=dict)  # images, seconds, flops that were spent
    data: Mapping[str, Any] | None = None  # what a run recorded of its data
    notes: tuple[str, ...] = ()  # what was odd about it, and what was done

    @property
    def shape(self) -> Shape:
        """(C, H, W) of its images."""
        if self.model is not None:
            return self.model.image_shape
        assert self.images is not None
        return self.images.shape

    @property
    def asked(self) -> Model | Images:
        """What is put to the exam."""
        found = self.model if self.model is not None else self.images
        assert found is not None
        return found


Source = str | Path | Model | Images | DataSet | Subject


def open_subject(
    source: Source,
    *,
    shape: Shape | None = None,
    classes: tuple[str, ...] = (),
    fit: Fit = "crop",
    channels: Channels | None = None,
    device: str = "auto",
    name: str = "",
) -> Subject:
    """A run directory, a saved model, a diffusers pipeline, images, or an object, ready to be measured.

    Of images all count: nothing is held out. Where `shape` is given (the reference's), images of another size
    or colour are brought to it, which is logged and noted; `classes` are the names that their labels are
    matched with. Colour becomes grey only where `channels` asks for it.
    Raises DiptychError where there is nothing to measure, or it cannot be brought to `shape`.
    """
    found = _recognised(source, shape, fit, channels, device)
    if found.images is not None:
        found = _checked(replace(found, images=_relabelled(found.images, classes)), shape, fit, channels)
    told = source.notes if isinstance(source, Subject) else ()
    for note in found.notes[len(told) :]:
        log.warning("%s: %s", name or found.name, note)
    return replace(found, name=name or found.name)


def recognise(source: str | Path) -> str:
    """What kind of thing is at a path, in a word: run, saved model, diffusers pipeline, images.

    Nothing is opened. Raises RunError or DataError for a file or a folder that cannot be measured.
    """
    path = expanded(source)
    if isinstance(source, str) and source.partition(":")[0] in builtin.NAMES:
        return "images"
    if not path.is_dir():
        if path.suffix.lower() in _WEIGHTS and path.is_file():
            raise DataError(
                f"{path} holds weights without a description of their model",
                "name the directory: a run, a saved model with model.json, or a diffusers pipeline",
            )
        return "images"
    for file, kind in (
        ("model_index.json", "diffusers pipeline"),
        ("recipe.json", "run"),
        ("model.json", "saved model"),
    ):
        if (path / file).is_file():
            return kind
    if inside := sorted(p.parent.name for p in path.glob("[!.]*/recipe.json")):
        raise RunError(
            f"{path} is not a run, but holds {len(inside)}", " ".join(str(path / run) for run in inside[:5])
        )
    return "images"


def _recognised(
    source: Source, shape: Shape | None, fit: Fit, channels: Channels | None, device: str
) -> Subject:
    if isinstance(source, Subject):
        return source
    if isinstance(source, Model):
        return Subject(type(source).__name__, "model", source, recipe=type(source).__name__)
    if isinstance(source, DataSet):
        return Subject(source.card.name, "images", images=_together(source))
    if isinstance(source, Images):
        return Subject("images", "images", images=source)
    kind, path = recognise(source), expanded(source)
    if kind == "run":
        return _run(path, str(source), device)
    if kind == "saved model":
        model = load_model(path, device)
        return Subject(_stem(path), kind, model, recipe=type(model).__name__, run=str(source))
    if kind == "diffusers pipeline":
        from diptych.pipeline import open_pipeline

        pipeline = open_pipeline(path, device)
        return Subject(_stem(path), kind, pipeline, recipe=pipeline.kind)
    return _images(source, shape, fit, channels)


def _run(path: Path, named: str, device: str) -> Subject:
    run = open_run(path)
    recorded = run.recipe
    model = load_model(path, device)
    notes = () if run.finished else ("its training has not finished",)
    data = recorded.get("data")
    return Subject(_stem(path), "run", model, None, recorded["recipe"], named, run.spent, data, notes)


def _stem(path: Path) -> str:
    return path.resolve().name


# ------------------------------------------------------------------------------------------- images


def _images(source: str | Path, shape: Shape | None, fit: Fit, channels: Channels | None) -> Subject:
    """All images of a source, at the shape that is wanted where their own size is another."""
    if channels is None and shape is not None and shape[0] == 4:
        channels = 4  # keeps transparency
    notes = list[str]()
    try:
        data = open_whole(source, channels=channels)
        other = shape is not None and data.held_out.shape[1:] != shape[1:]
        found = f"{data.held_out.shape[2]}x{data.held_out.shape[1]} images"
    except MixedSizes as mixed:
        if shape is None:
            raise
        common = ", ".join(f"{w}x{h} ({n:,})" for (w, h), n in mixed.sizes.most_common(3))
        other, found = (
            True,
            f"images of {len(mixed.sizes):,} sizes, {common}{' ...' * (len(mixed.sizes) > 3)},",
        )
    if shape is not None and other:
        size = square(shape, str(source))
        notes.append(f"{found} were resized: {Policy(size, fit)}")
        data = open_whole(source, size=size, fit=fit, channels=channels)
    notes += _told(data.card.incidents)
    label = data.card.name.removesuffix(", all images")
    return Subject(label, "images", images=data.held_out, notes=tuple(notes))


def square(shape: Shape, name: str) -> int:
    """The side that images are brought to for this shape. Raises DataError where it is not a square."""
    if shape[1] != shape[2]:
        raise DataError(
            f"{name} cannot be brought to {shape[2]}x{shape[1]}: images are resized to squares only",
            "bring both sides to one --size",
        )
    return shape[1]


def _told(incidents: tuple[Incident, ...]) -> list[str]:
    told = [f"{incident.file}: {incident.what} ({incident.done})" for incident in incidents[:_SHOWN]]
    rest = len(incidents) - _SHOWN
    return told + ([f"... and {rest} more: diptych data inspect"] if rest > 0 else [])


def _together(data: DataSet) -> Images:
    return data.train.joined(data.held_out) if len(data.train) else data.held_out


def _checked(subject: Subject, shape: Shape | None, fit: Fit, channels: Channels | None) -> Subject:
    """The subject with its images in this shape, and with notes of what was odd about them."""
    images, notes = subject.images, list(subject.notes)
    assert images is not None
    if not len(images):
        raise DataError(f"{subject.name} holds no images")
    if channels is not None:  # before the size, as files are opened
        images = _refitted(images, Policy(None, fit, channels), subject.name)
    if shape is not None and images.shape[1:] != shape[1:]:
        size = square(shape, subject.name)
        notes.append(f"{images.shape[2]}x{images.shape[1]} images were resized: {Policy(size, fit)}")
        images = _refitted(images, Policy(size, fit, images.shape[0]), subject.name)  # type: ignore[arg-type]
    if shape is not None and shape[0] == 1 < images.shape[0]:
        images = _refitted(images, Policy(None, fit), subject.name)  # three equal channels are grey
    if shape is not None and images.shape[0] != shape[0]:
        notes.append(_recolouring(images.shape[0], shape[0], subject.name))
        images = _refitted(images, Policy(None, fit, shape[0]), subject.name)  # type: ignore[arg-type]
    same = f"all {len(images):,} images are the same"
    if len(images) > 1 and same not in notes and all_same(images):
        notes.append(same)
    return replace(subject, images=images, notes=tuple(notes))


def _recolouring(have: int, want: int, name: str) -> str:
    """What is said about another number of channels. Raises DataError where colour would be lost."""
    if want == 1:
        raise DataError(
            f"{name} holds colour images, but the reference is grey",
            "measure against a colour reference, or open both with --channels 1",
        )
    if have == 1:
        return "grey images were given three equal channels" + ", and are opaque" * (want == 4)
    return (
        "transparency was composited on white"
        if have == 4
        else "images without transparency were taken as opaque"
    )


def _refitted(images: Images, policy: Policy, name: str) -> Images:
    """The same images under another policy of size and colour."""
    stack = prepare_stack(Stack(images.pixels, ()), policy, lambda shape: np.empty(shape, np.uint8), name)
    return replace(images, pixels=stack.pixels)


def all_same(images: Images) -> bool:
    """Whether every image equals the first."""
    first = images.pixels[:1]
    blocks = (images.pixels[start : start + 1024] for start in range(0, len(images), 1024))
    return all(bool((block == first).all()) for block in blocks)


def _relabelled(images: Images, classes: tuple[str, ...]) -> Images:
    """Labels as the reference numbers its classes.

    Files of samples often hold class numbers where the reference has names.
    """
    if images.labels is None or not classes or set(images.class_names) <= set(classes):
        return images
    numbers = [int(name) if name.isdecimal() else -1 for name in images.class_names]
    if not all(0 <= number < len(classes) for number in numbers):
        return images
    return replace(images, labels=np.array(numbers, np.int64)[images.labels], class_names=classes)


def check_prompts(subject: Subject, captions: tuple[str, ...] | None) -> None:
    """Raises WrongUse where a model draws from texts, and neither captions nor a prompt are given."""
    model = subject.model
    if (
        model is not None
        and "text" in model.wants
        and captions is None
        and not getattr(model.options, "prompt", "")
    ):
        raise WrongUse(
            f"{subject.name} draws from texts, and the reference has no captions",
            "give all images one with --prompt, or a reference that has captions",
        )

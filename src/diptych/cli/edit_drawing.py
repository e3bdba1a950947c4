"""What every `diptych edit` of a diffusion model shares: which images, and where to."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, get_type_hints

from cyclopts import Parameter

from diptych.cli.common import OUTPUT, Json, answer, numbers, say_on_stderr, with_options
from diptych.cli.labels import class_number, values
from diptych.cli.sample import SHEETS, is_folder, leave, spare
from diptych.errors import WrongUse

if TYPE_CHECKING:
    from torch import Tensor

Sources = Sequence[Path | str | int | None]
FIT = "How an image of another size or of more colours is brought to the model's; else it is an error."


@Parameter(name="*")
@dataclass(frozen=True)
class Drawing:
    """What to draw and where to put it."""

    out: Annotated[
        Path,
        Parameter(group=OUTPUT, help="A picture (.png) for one sheet, .npz for an array, else a folder."),
    ]
    seeds: Annotated[
        str | None, Parameter(help="0-3 or 1,5,9: the same seed is the same image. By default 0-3.")
    ] = None
    label: Annotated[str | None, Parameter(help="A class, by number or name; else any.")] = None
    attributes: Annotated[
        str | None, Parameter(help="Continuous labels, 0.3,1.7 or x=0.3,y=1.7; else any.")
    ] = None
    fit: Annotated[Literal["crop", "pad", "stretch"] | None, Parameter(help=FIT)] = None
    batch: Annotated[int, Parameter(help="Images made at once; changes nothing but speed and memory.")] = 16
    device: Annotated[str, Parameter(help="auto, cpu, cuda or mps.")] = "auto"
    as_json: Json = False

    def start(
        self,
        run: Path,
        options: dict[str, str],
        *,
        reads: Sources = (),
        labelled: bool = False,
        frames: int = 0,
    ) -> tuple[Any, dict[str, Any]]:
        """The run's model with its options, and the arguments that functions of `diptych.edit` share.

        reads: pictures that must not be written over; labelled: whether the edit has labels of its own;
        frames: how many images there will be, where seeds do not say. Raises WrongUse for a flag that this
        edit does not have.
        """
        from diptych.diffusion.editing import check_guidance, diffusion_of
        from diptych.runs import load_model
        from diptych.system.device import keep_buffers

        say_on_stderr()
        keep_buffers()
        unheard = self.unheard()
        for name in unheard:
            if name in options:
                raise WrongUse(f"--{name} means nothing to this edit", "leave it out")
        seeds = numbers(self.seeds or "0-3")
        self.check_out(range(frames) if frames else seeds, reads)
        found, changes = with_options(diffusion_of(load_model(run, self.device)), options)
        model = diffusion_of(found)
        label: Any = None if self.label is None else class_number(self.label, run, model)
        if self.attributes is not None:
            label = values(self.attributes, model.attribute_names)
        check_guidance(model, changes, labelled or label is not None)
        shared = {"label": label, "fit": self.fit, "batch": self.batch, "seeds": seeds}
        return model, {name: value for name, value in shared.items() if name not in unheard}

    @classmethod
    def unheard(cls) -> list[str]:
        """The flags that this edit does not have: its fields that are not parsed."""
        hints = get_type_hints(cls, include_extras=True)
        marks = {f.name: getattr(hints[f.name], "__metadata__", ()) for f in fields(cls)}
        return [
            name for name, of in marks.items() if any(getattr(mark, "parse", None) is False for mark in of)
        ]

    def check_out(self, names: Sequence[int], reads: Sources) -> None:
        """Raises WrongUse for a suffix that means nothing, and for a picture that is read: before images are
        drawn for it."""
        if not is_folder(self.out) and self.out.suffix.lower() not in (*SHEETS, ".npz"):
            raise WrongUse(
                f"--out {self.out}: there is no way to write {self.out.suffix}",
                f"{', '.join(SHEETS)} for a sheet, .npz for an array, no suffix for a folder",
            )
        files = [self.out / f"{name:06d}.png" for name in names] if is_folder(self.out) else [self.out]
        spare(files, [source for source in reads if not isinstance(source, int)])

    def finish(self, edit: str, images: Tensor, **done: Any) -> None:
        """Writes the images and says so."""
        self.write(images)
        told = {k: str(v) if isinstance(v, Path) else v for k, v in done.items() if v is not None}
        made = {"out": str(self.out), "images": len(images), "shape": list(images.shape[1:])}
        answer(self.as_json, {"edit": edit} | made | told, self.out)

    def write(self, images: Tensor) -> None:
        """A sheet, an array, or a folder with a file a seed."""
        leave(images, numbers(self.seeds or "0-3"), self.out)


Unheard = Annotated[
    str | None, Parameter(parse=False)
]  # no flag of this edit, so that --help does not list it
UnheardFit = Annotated[Literal["crop", "pad", "stretch"] | None, Parameter(parse=False)]


@Parameter(name="*")
@dataclass(frozen=True)
class Wide(Drawing):
    """Of any size: there is nothing to fit."""

    fit: UnheardFit = None


@Parameter(name="*")
@dataclass(frozen=True)
class Areas(Wide):
    """With labels of its own, for each area."""

    label: Unheard = None
    attributes: Unheard = None


@Parameter(name="*")
@dataclass(frozen=True)
class Frames(Drawing):
    """From one to another, which say the seeds, with labels of its own."""

    seeds: Unheard = None
    label: Unheard = None
    attributes: Unheard = None

    def write(self, images: Tensor) -> None:
        """A sheet of one row, an array, or a folder with a file a frame."""
        from diptych import pictures

        if is_folder(self.out) or self.out.suffix.lower() == ".npz":
            leave(images, range(len(images)), self.out)
        else:
            pictures.save(pictures.sheet(images, columns=len(images)), self.out)

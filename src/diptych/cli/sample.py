"""diptych sample RUN: images from a run, and walks among them."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Group, Parameter

from diptych.cli.common import Json, Options, answer, numbers, say_on_stderr, together, with_options
from diptych.cli.labels import Attributes, OrAny, asked, no_label
from diptych.errors import WrongUse

if TYPE_CHECKING:
    from torch import Tensor

    from diptych.latent.points import Points
    from diptych.model import Model

WALK = Group.create_ordered("Walk (where --out is .gif, .webp or .mp4)")


@Parameter(name="*", group=WALK)
@dataclass(frozen=True)
class Walk:
    """A film of a walk from seed to seed, and back to the first."""

    frames: Annotated[int, Parameter(help="Of the whole loop; 0: 30 for each seed.")] = 0
    fps: Annotated[float, Parameter(help="Frames a second; a .gif has at most 50.")] = 30.0
    tiles: Annotated[
        str, Parameter(help="Rows x columns of walks beside each other, which share the seeds out.")
    ] = "1x1"


def sample(
    run: Annotated[Path, Parameter(help="A run directory.")],
    *,
    out: Annotated[
        Path,
        Parameter(
            help="A picture (.png) for one sheet, .npz for an array (arr_0), a film (.gif, .webp, .mp4) of a "
            "walk from seed to seed, else a folder."
        ),
    ],
    seeds: Annotated[
        str | None,
        Parameter(help="0-63 or 1,5,9: the same seed is the same image. By default 0-63; 0-3 for a walk."),
    ] = None,
    latents: Annotated[
        Path | None, Parameter(help="Points that `diptych invert` left, in the place of seeds.")
    ] = None,
    label: OrAny = None,
    attributes: Attributes = None,
    batch: Annotated[int, Parameter(help="Images drawn at once; changes nothing but speed and memory.")] = 64,
    exact: Annotated[
        bool,
        Parameter(
            negative="",
            help="The same image bit for bit, whatever other seeds, batch, threads and processes; slower.",
        ),
    ] = False,
    device: Annotated[str, Parameter(help="auto, cpu, cuda or mps.")] = "auto",
    precision: Annotated[
        str,
        Parameter(help="float32, bfloat16 (images differ a little), or auto: bfloat16 where it is native."),
    ] = "float32",
    compile: Annotated[
        bool, Parameter(negative="", help="Compile the network: minutes to begin, then faster; for GPUs.")
    ] = False,
    graph: Annotated[
        bool, Parameter(negative="", help="Replay the whole sampling as one CUDA graph.")
    ] = False,
    walk: Walk = Walk(),
    as_json: Json = False,
    **options: Options,
) -> None:
    """Draw images from a run.

    The model's own options are flags: --steps 4, --guidance 2, --truncation 0.7. Started by torchrun, several
    processes share the images of seeds.
    """
    from diptych import pictures
    from diptych.latent.points import LIMITS, check_noise, read_points
    from diptych.runs import load_model
    from diptych.system.device import keep_buffers, mixed, pick

    say_on_stderr()
    keep_buffers()
    check_name(out)
    spare([out], [latents])
    moving = out.suffix.lower() in pictures.MOVING
    if not moving and walk != Walk():
        raise WrongUse(f"--out {out} is no film: --frames, --fps and --tiles mean nothing", "--out walk.gif")
    of_seeds = not moving and latents is None
    for flag, given_too in (("--graph", graph), ("--exact", exact)):
        if given_too and not of_seeds:
            raise WrongUse(f"{flag} is about the sampling of seeds, nothing else", "leave it out")
    with together() as rank:
        model, changes = with_options(load_model(run, device), options)
        free = no_label(model, label, changes)
        if free and (not of_seeds or attributes is not None):
            raise WrongUse("--label any is about images of seeds alone", "leave it out")
        told = None if free else asked(model, run, label, attributes)
        if compile:
            for network in model.networks():
                network.compile()
        product: Film | OfPoints | OfSeeds
        if of_seeds:
            whole = compile or graph
            product = OfSeeds(numbers(seeds or "0-63"), told, batch, exact, graph, whole=whole, free=free)
        elif latents is None:
            product = Film(numbers(seeds or "0-3"), told, batch, walk)
        else:
            refuse({"--seeds": seeds, "--label or --attributes": told}, set(LIMITS) & changes.keys())
            points = read_points(latents, model)
            product = Film(points, None, batch, walk) if moving else OfPoints(points, batch)
        if not of_seeds:
            check_noise(changes)
        if rank and not of_seeds:  # which one process makes
            return
        with mixed(pick(device), precision):
            made = product.make(model, out)
    if rank == 0:
        shape = list(model.image_shape)
        answer(as_json, {"out": str(out), "shape": shape, "options": changes} | made, out)


def refuse(flags: dict[str, Any], options: set[str]) -> None:
    """Raises WrongUse for what means nothing to points that are already there."""
    asked = [name for name, value in flags.items() if value is not None]
    for name in [*asked, *(f"--{option}" for option in sorted(options))]:
        raise WrongUse(
            f"{name} means nothing to points that are given", "leave it out, or leave --latents out"
        )


SHARE = 16  # images that a process draws in one go where they are to be exact: whole blocks


@dataclass(frozen=True)
class OfSeeds:
    """Images of seeds, shared out among the processes that torchrun started."""

    seeds: list[int]
    label: Tensor | None
    batch: int = 64
    exact: bool = False
    graph: bool = False
    whole: bool = False  # in whole batches, so that one size is compiled or captured
    free: bool = False  # told no label at all, where none would be labels in turn

    def make(self, model: Model, out: Path) -> dict[str, int]:
        """Draws them and, in the first process, writes them: how many there are."""
        from diptych.system.parallel import rank

        images = self.drawn(model)
        if rank() == 0:
            leave(images, self.seeds, out)
        return {"images": len(images)}

    def drawn(self, model: Model) -> Tensor:
        """uint8 (N, C, H, W)."""
        import torch

        from diptych.graphs import Graphed
        from diptych.model import Condition
        from diptych.system.parallel import my_blocks, united

        seeds, source = self.seeds, Graphed(model) if self.graph else model
        if self.whole and not self.exact:
            seeds = seeds + seeds[:1] * (-len(seeds) % min(self.batch, len(seeds)))
        told = self.label
        condition = None if told is None else Condition(label=told.expand(len(seeds), *told.shape))
        condition = Condition() if self.free else condition
        images = torch.zeros(len(seeds), *model.image_shape, dtype=torch.uint8)
        for rows in my_blocks(len(seeds), SHARE if self.exact else max(1, self.batch)):
            asked_for = None if condition is None else condition[rows]
            images[rows] = source.sample(seeds[rows], asked_for, self.batch, self.exact)
        return united(images)[: len(self.seeds)]


@dataclass(frozen=True)
class OfPoints:
    """Images of points in latent space."""

    points: Points
    batch: int

    def make(self, model: Model, out: Path) -> dict[str, int]:
        """Renders and writes them: how many there are."""
        from diptych.latent.points import rendered

        leave(rendered(model, self.points, self.batch), range(len(self.points)), out)
        return {"images": len(self.points)}


@dataclass(frozen=True)
class Film:
    """A walk from seed to seed, or from point to point, and back to the first; several beside each other."""

    stops: list[int] | Points
    label: Tensor | None
    batch: int
    walk: Walk

    def make(self, model: Model, out: Path) -> dict[str, int]:
        """Renders and writes it: how many frames it has."""
        import torch

        from diptych import pictures
        from diptych.latent import walking
        from diptych.latent.points import Points

        pictures.check_moving(out, self.walk.fps)
        rows, columns = self.tiles()
        each = len(self.stops) // (rows * columns)
        frames = self.walk.frames or 30 * each
        parts = [self.stops[i : i + each] for i in range(0, len(self.stops), each)]
        walks = [
            walking.tour(model, part, frames, batch=self.batch)
            if isinstance(part, Points)
            else walking.walk(model, part, frames, label=self.label, batch=self.batch)
            for part in parts
        ]
        least = 128 if len(walks) == 1 else 64
        sheets = [pictures.sheet(frame, columns, least=least) for frame in torch.stack(walks, 1)]
        pictures.save_moving(sheets, out, self.walk.fps)
        return {"frames": frames}

    def tiles(self) -> tuple[int, int]:
        """Rows and columns. Raises WrongUse where so many seeds cannot be shared out."""
        rows, _, columns = self.walk.tiles.partition("x")
        if not (rows.isdecimal() and columns.isdecimal() and int(rows) * int(columns) > 0):
            raise WrongUse(f"--tiles {self.walk.tiles} is not rows x columns", "write 2x3")
        stops, walks = len(self.stops), int(rows) * int(columns)
        if stops % walks or stops // walks < 2:
            raise WrongUse(
                f"{stops} seeds cannot be shared out among {walks} walks of at least 2 each",
                f"--seeds 0-{4 * walks - 1} gives each of them 4",
            )
        return int(rows), int(columns)


SHEETS = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff")


def is_folder(out: Path) -> bool:
    """Whether a name stands for a folder: one that is there, or no suffix; runs-v1.5 has none."""
    return out.is_dir() or not out.suffix.strip(".") or out.suffix[1:].isdecimal()


def check_name(out: Path) -> None:
    """Raises WrongUse for a suffix that means nothing: before images are drawn for it."""
    from diptych.pictures import MOVING

    if not is_folder(out) and out.suffix.lower() not in (*SHEETS, ".npz", *MOVING):
        raise WrongUse(
            f"--out {out}: there is no way to write {out.suffix}",
            f"{', '.join(SHEETS)} for a sheet, .npz for an array, {', '.join(MOVING)} for a walk, "
            "no suffix for a folder",
        )


def spare(written: Iterable[Path], read: Iterable[Path | str | None]) -> None:
    """Raises WrongUse where a file that is to be written is one that is read."""
    inputs = {Path(source).resolve() for source in read if source is not None}
    for out in written:
        if out.resolve() in inputs:
            raise WrongUse(f"{out} is read here, and would be written over", "another name for --out")


def warn_of_others(out: Path, names: Sequence[str]) -> None:
    """Says how many files of a folder are not of this call: who measures it measures them too."""
    from diptych.data.files import list_folder

    others = {file.name for file in list_folder(out).files} - set(names)
    if others:
        logging.getLogger("diptych").warning(
            "%s holds %d %s not from this call: `diptych evaluate %s` would measure the mixture",
            out,
            len(others),
            "file that is" if len(others) == 1 else "files that are",
            out,
        )


def leave(images: Tensor, seeds: Sequence[int], out: Path) -> None:
    """A sheet, an array, or a folder of pictures."""
    import numpy as np

    from diptych import pictures
    from diptych.latent.points import write_arrays

    if is_folder(out):
        names = [f"{seed:06d}.png" for seed in seeds]
        for name, image in zip(names, images, strict=True):
            pictures.save(pictures.sheet(image[None], least=1), out / name)
        warn_of_others(out, names)
    elif out.suffix.lower() == ".npz":
        write_arrays(out, {"arr_0": images.permute(0, 2, 3, 1).numpy(), "seeds": np.array(seeds)})
    else:
        pictures.save(pictures.sheet(images), out)

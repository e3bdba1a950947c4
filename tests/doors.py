"""Every door through which a stranger's file comes in: sound files to damage, and what opens them."""

from __future__ import annotations

import gzip
import io
import json
import pickle
import shutil
import struct
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from random import Random

import numpy as np
import torch
from PIL import Image

import mutations
import official
from conftest import made_up, train_unprobed
from diptych import catalog
from diptych.adversarial.latent import LatentModel
from diptych.choice import choose
from diptych.cli.reports import reports_in
from diptych.convert.official import convert
from diptych.data import cache, decode, open_data
from diptych.data.decode import Unreadable, open_image
from diptych.data.images import DataSet
from diptych.diffusion.denoiser import EDMDenoiser
from diptych.diffusion.model import DiffusionModel
from diptych.errors import DataError
from diptych.features._weights import read_weights
from diptych.latent.directions import read_directions
from diptych.latent.points import read_points
from diptych.measuring.subject import open_subject
from diptych.networks.r3gan import R3Generator
from diptych.networks.unet import UNet
from diptych.pretrained import trusted_index
from diptych.report.record import DuelRecord
from diptych.runs import Run, load_model, open_run, save_model
from diptych.scores import Estimate, Report, RulerCard
from diptych.system.files import read_json, read_state, read_tensors, write_json, write_state
from diptych.training.agreement import compared
from diptych.training.claims import claim, describe
from diptych.training.loop import build
from diptych.training.rerun import circumstances, repeatable, settings_of
from diptych.training.resumption import take_up
from diptych.training.state import Settings
from mutations import Mutator

PIXELS = np.random.default_rng(0).integers(0, 256, (24, 12, 12, 3), dtype=np.uint8)
PIXELS[..., :6, :] = 128  # so that there is something to compress


@dataclass(frozen=True)
class Door:
    """What is damaged, how, and who reads it."""

    name: str
    lay: Callable[[Path], list[Path]]  # writes sound files into a folder, returns those to be damaged
    open: Callable[[Path], object]  # what reads the folder
    special: tuple[Mutator, ...] = ()
    plain: bool = field(default=True)  # whether bytes are damaged too

    def damage(self, data: bytes, draw: Random) -> bytes:
        """The file, damaged."""
        if not self.plain:
            return draw.choice(self.special)(data, draw)
        return mutations.any_of(data, draw, *self.special)


# -------------------------------------------------------------------------------------------------- pictures


def picture(kind: str, variant: int, which: int = 0) -> bytes:
    """One of several sound pictures of a format: colours, palettes, transparency, frames, EXIF."""
    out, image = io.BytesIO(), Image.fromarray(PIXELS[which])
    more: dict[str, object] = {}
    mode = ("RGB", "L", "P", "RGBA", "RGB", "RGB")[variant % 6]
    if kind == "PNG" and variant % 6 == 5:
        image = Image.fromarray(PIXELS[0, ..., 0].astype(np.uint16) * 257)
    elif kind == "JPEG":
        image = image.convert(("RGB", "L", "CMYK", "RGB", "RGB", "RGB")[variant % 6])
        exif = Image.Exif()
        exif[0x0112] = variant % 8 + 1
        more = {"progressive": variant % 2 == 1, "exif": exif, "quality": 80}
    else:
        image = image.convert(mode)
    if kind in ("GIF", "WEBP", "PNG") and variant % 6 == 4:
        more |= {"save_all": True, "append_images": [Image.fromarray(PIXELS[1]).convert(image.mode)]}
    if kind == "WEBP":
        more |= {"lossless": variant % 2 == 0}
    image.save(out, kind, **more)
    return out.getvalue()


def pictures(kind: str) -> Callable[[Path], list[Path]]:
    """Lays one picture of each variant."""

    def lay(folder: Path) -> list[Path]:
        files = [folder / f"{i}.{kind.lower()}" for i in range(6)]
        for i, file in enumerate(files):
            file.write_bytes(picture(kind, i))
        return files

    return lay


def look(folder: Path) -> None:
    """Every picture of a folder: its size from the header, and its pixels, of some for a small side."""
    files, failed = sorted(folder.iterdir()), 0
    with decode.strict_pillow():
        for file in files:
            data = file.read_bytes()
            with suppress(Unreadable):
                decode.header_size(data)
            try:
                open_image(data, 8 if len(data) % 2 else None)
            except Unreadable:
                failed += 1
    if failed:
        raise DataError(f"{failed} could not be read")


def folder_of_pictures(folder: Path) -> list[Path]:
    """Pictures in two classes, with a table of numbers."""
    files = []
    for i in range(12):
        file = folder / "set" / "ab"[i % 2] / f"{i}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(picture("PNG", 0, i))
        files.append(file)
    table = folder / "set" / "labels.csv"
    table.write_text("file,x,y\n" + "".join(f"{'ab'[i % 2]}/{i}.png,{i / 2},{i % 3}\n" for i in range(12)))
    return [table, table, *files]


def zip_of_pictures(folder: Path) -> list[Path]:
    """The same in an archive."""
    import zipfile

    with zipfile.ZipFile(folder / "set.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        for i in range(8):
            archive.writestr(f"{'ab'[i % 2]}/{i}.png", picture("PNG", 0, i))
    return [folder / "set.zip"]


# ---------------------------------------------------------------------------------------------------- arrays


def npz(folder: Path) -> list[Path]:
    """An .npz with labels, one compressed, and an .npy with labels beside it."""
    arrays = {
        "x_train": PIXELS[:16],
        "y_train": np.arange(16) % 3,
        "x_test": PIXELS[16:],
        "y_test": np.arange(8) % 3,
    }
    more = {"class_names": np.array(["a", "b", "c"]), "attributes": np.ones((24, 2), np.float32)}
    np.savez(folder / "a.npz", **arrays)
    np.savez_compressed(folder / "b.npz", images=PIXELS / np.float32(255), labels=np.arange(24) % 3, **more)
    np.save(folder / "c.npy", PIXELS)
    np.save(folder / "c.labels.npy", np.arange(24) % 2)
    return sorted(folder.iterdir())


def idx(folder: Path) -> list[Path]:
    """MNIST's four files, two of them packed."""
    grey = np.ascontiguousarray(PIXELS[..., 0])
    for name, n in (("train", 16), ("t10k", 8)):
        pixels = struct.pack(">IIII", 2051, n, 12, 12) + grey[:n].tobytes()
        labels = struct.pack(">II", 2049, n) + bytes(i % 3 for i in range(n))
        packed = gzip.compress if name == "train" else bytes
        end = ".gz" if name == "train" else ""
        (folder / f"{name}-images-idx3-ubyte{end}").write_bytes(packed(pixels))
        (folder / f"{name}-labels-idx1-ubyte{end}").write_bytes(packed(labels))
    return sorted(folder.iterdir())


def repacked(data: bytes, draw: Random) -> bytes:
    """What a gzip file unpacks to is damaged, and packed again."""
    try:
        return gzip.compress(draw.choice(mutations.PLAIN)(gzip.decompress(data), draw))
    except (OSError, EOFError, ValueError):
        return data
    except Exception as error:
        if "zlib" in type(error).__module__:
            return data
        raise


def cifar(folder: Path) -> list[Path]:
    """Batches of CIFAR-10, small ones."""
    rng = np.random.default_rng(1)
    for name in ("data_batch_1", "data_batch_2", "test_batch"):
        rows = rng.integers(0, 256, (6, 3072), dtype=np.uint8)
        tree = {b"data": rows, b"labels": [i % 3 for i in range(6)], b"batch_label": name.encode()}
        (folder / name).write_bytes(pickle.dumps(tree, protocol=2))
    (folder / "batches.meta").write_bytes(pickle.dumps({b"label_names": [b"x", b"y", b"z"]}, protocol=2))
    return sorted(folder.iterdir())


def opened(folder: Path) -> None:
    """Every source in a folder, or the folder itself, as data; of what can be opened a batch is drawn."""
    inner = folder / "set"
    files = [
        f for f in sorted(folder.iterdir()) if f.suffix in (".npz", ".npy", ".zip") and "labels" not in f.name
    ]
    refused: DataError | None = None
    for source in [inner] if inner.is_dir() else files or [folder]:
        try:
            data = open_data(source, size=8 if source.suffix == ".zip" else None)
        except DataError as error:
            refused = error
        else:
            if len(data.train) >= 2:
                data.train.batch(0, 0, 2)
    if refused is not None:
        raise refused


def prepared(folder: Path) -> list[Path]:
    """A cache entry."""
    np.savez(folder / "set.npz", images=PIXELS, labels=np.arange(24) % 2)
    place = folder / "cache"
    opened_data = open_data(folder / "set.npz", cache=place)
    assert len(opened_data.train)
    (entry,) = [p for p in place.iterdir() if p.is_dir()]
    return sorted(entry.iterdir())


def load_prepared(folder: Path) -> None:
    """The entry: it is there, or it counts as damaged."""
    (entry,) = [p for p in (folder / "cache").iterdir() if p.is_dir()]
    if (data := cache.load(entry)) is not None and len(data.train) >= 2:
        data.train.batch(0, 0, 2)


# ------------------------------------------------------------------------------------------- runs and models


def gan() -> LatentModel:
    """A very small one."""
    torch.manual_seed(0)
    return LatentModel(R3Generator((1, 8, 8), classes=3, width=8, blocks=1))


def diffusion() -> DiffusionModel:
    """A very small one."""
    torch.manual_seed(0)
    return DiffusionModel(EDMDenoiser(UNet((1, 8, 8), width=8, multipliers=(1,), blocks=1)))


def saved(folder: Path) -> list[Path]:
    """Two models."""
    save_model(gan(), folder / "gan")
    save_model(diffusion(), folder / "diffusion")
    return [folder / name / "model.json" for name in ("gan", "diffusion")]


def weights(folder: Path) -> list[Path]:
    """The same: their weights are damaged, and a training state."""
    saved(folder)
    state = {"method": gan().state_dict(), "numbers": {1: [2.5, None]}, "pair": (1, "two")}
    write_state(folder / "state.safetensors", state)
    return [
        *(folder / name / "model.safetensors" for name in ("gan", "diffusion")),
        folder / "state.safetensors",
    ]


def load(folder: Path) -> None:
    """Each model, and each state."""
    last: Exception | None = None
    for name in ("gan", "diffusion"):
        try:
            load_model(folder / name, "cpu")
        except Exception as error:
            last = error
            if not hasattr(error, "hint"):
                raise
    if (folder / "state.safetensors").exists():
        read_tensors(folder / "state.safetensors")
        read_state(folder / "state.safetensors")
    if last is not None:
        raise last


REPORT = Report(
    name="edm, 18 steps",
    recipe="edm",
    options={"steps": 18},
    scores={
        "fid": Estimate(12.0, 11.0, 13.0, 2000, replicates=(0.1, -0.2, 0.3)),
        "latency_ms": Estimate.exact(5.0, unit="ms"),
    },
    floor={"fid": Estimate(1.0, 0.5, 1.5, 2000)},
    ruler=RulerCard("builtin", "0" * 64, "digits", "1" * 64, 2000, "none", 0, "1"),
    machine={"cpu": "one"},
    training={"images": 1000, "seconds": 1.5, "flop": 1e9},
    run="runs/edm",
)


def reports(folder: Path) -> list[Path]:
    """Reports of a run, and a duel's record."""
    for name in ("a", "b"):
        write_json(folder / "run" / "reports" / f"{name}.json", REPORT.to_json() | {"name": name})
    record = {
        "title": "a duel",
        "data": {"name": "digits"},
        "contenders": [
            {"name": "edm", "recipe": "edm", "points": [REPORT.to_json()], "curve": [{"images": 1}]}
        ],
        "choice": choose([REPORT]).to_json(),
        "budget": "1m",
        "seeds": [0],
    }
    write_json(folder / "duel.json", record)
    return [*sorted((folder / "run" / "reports").iterdir()), folder / "duel.json"]


def read_reports(folder: Path) -> None:
    """As `diptych choose` does, and the page."""
    choose(reports_in([folder / "run"])).to_json()
    DuelRecord.from_json(read_json(folder / "duel.json")).to_json()


def run(folder: Path) -> list[Path]:
    """A run directory with its recipe and its log."""
    save_model(gan(), folder / "run")
    recipe = {
        "recipe": "r3gan",
        "arguments": {"width": 8},
        "data": {
            "name": "digits",
            "source": "digits",
            "arguments": {"size": None},
            "shape": [1, 8, 8],
            "n_train": 9,
        },
        "settings": {"budget": "1m", "seed": 0},
        "versions": {"diptych": "0.1.0"},
        "images": 1000,
        "probe": {"flop_per_image": 1.0, "seconds": 2.0},
        "exam": {"n": 10, "every": 1},
    }
    write_json(folder / "run" / "recipe.json", recipe)
    line = {
        "images": 100,
        "step": 5,
        "seconds": 1.5,
        "flop": 1e9,
        "losses": {"critic": 0.5},
        "exam": {"fid": 3.5},
    }
    lines = [json.dumps(line | {"images": 100 * i, "finished": i == 3}) for i in range(4)]
    (folder / "run" / "log.jsonl").write_text("\n".join(lines) + "\n")
    return [folder / "run" / "recipe.json", folder / "run" / "log.jsonl"]


def read_run(folder: Path) -> None:
    """As evaluate and the report do."""
    found = open_run(folder / "run")
    _ = found.finished, found.spent, found.log(), found.snapshots
    open_subject(folder / "run", device="cpu")


SMALL = {"width": 8, "largest": 16, "blocks": 1, "latent": 8, "batch": 8}
BRIEF = Settings(budget="16-images", ticks=2, device="cpu")


@lru_cache(maxsize=1)
def set_of_noise() -> DataSet:
    """What the small run was trained on."""
    return made_up((1, 8, 8))


def trained(folder: Path) -> list[Path]:
    """A run that is done: its recipe, its log and its checkpoints are damaged."""
    train_unprobed(catalog.recipe("r3gan"), set_of_noise(), folder / "run", arguments=SMALL, settings=BRIEF)
    found = sorted((folder / "run" / "checkpoints").glob("0*.safetensors"))
    return [folder / "run" / "recipe.json", folder / "run" / "log.jsonl", *found[-1:] * 2]


def resume(folder: Path) -> None:
    """A copy of the run is taken up, as far as the step that would come next."""
    spec, data, place = catalog.recipe("r3gan"), set_of_noise(), folder.parent / "copy"
    shutil.rmtree(place, ignore_errors=True)
    shutil.copytree(folder / "run", place)
    description = describe(spec, data, SMALL, BRIEF)
    recorded = claim(Run(place), description, False, spec.defaults)
    if "images" in recorded:
        take_up(Run(place), build(spec, data, SMALL, BRIEF, recorded["images"], recorded.get("shards", 0)))


def repeated(folder: Path) -> list[Path]:
    """A run and its repetition: what the run recorded is damaged, and its sheets of samples."""
    train_unprobed(catalog.recipe("r3gan"), set_of_noise(), folder / "run", arguments=SMALL, settings=BRIEF)
    shutil.copytree(folder / "run", folder / "again")
    sheets = sorted((folder / "run" / "samples").glob("0*.png"))
    return [folder / "run" / "recipe.json", folder / "run" / "log.jsonl", *sheets]


def compare(folder: Path) -> None:
    """As `diptych rerun` does, once it has trained."""
    found, again = open_run(folder / "run"), Run(folder / "again")
    recorded = repeatable(found)
    settings_of(recorded, "cpu")
    compared(found, again, set_of_noise(), circumstances(recorded, again.recipe)).to_json()


def latents(folder: Path) -> list[Path]:
    """Latents and directions of a generator."""
    save_model(gan(), folder / "gan")
    np.savez_compressed(
        folder / "points.npz",
        latents=np.zeros((2, 1, 64), np.float32),
        label=np.array([0, 1]),
        names=np.array(["0", "1"]),
    )
    names = {"names": np.array(["a", "b"]), "layers": np.arange(1)}
    numbers = {"deviation": np.ones(2, np.float32), "strength": np.ones(2, np.float32)}
    np.savez(folder / "directions.npz", vectors=np.zeros((2, 64), np.float32), **numbers, **names)
    return [folder / "points.npz", folder / "directions.npz"]


def read_latents(folder: Path) -> None:
    """Both."""
    model = load_model(folder / "gan", "cpu")
    try:
        read_points(folder / "points.npz", model)
    finally:
        read_directions(folder / "directions.npz")


def pickles(folder: Path) -> list[Path]:
    """An official pickle of StyleGAN2."""
    arguments = {"z_dim": 16, "w_dim": 24, "img_channels": 3, "c_dim": 0, "img_resolution": 8}
    arguments["synthesis_kwargs"] = {"channel_base": 128, "channel_max": 512, "num_fp16_res": 4}  # type: ignore[assignment]
    tensors = official.stylegan2(2, 8, 128, 0)
    with official.named():
        made = official.network("Generator", tensors, arguments, {"z_dim": 16})
        (folder / "network.pkl").write_bytes(official.written({"G_ema": made}, 4))
    return [folder / "network.pkl"]


def torch_pickles(folder: Path) -> list[Path]:
    """Weights as torch.save writes them, in its two formats."""
    state = {"a": torch.arange(6.0).view(2, 3), "b": torch.ones(3).half()}
    torch.save(state, folder / "new.pt")
    torch.save(state, folder / "old.pt", _use_new_zipfile_serialization=False)
    return [folder / "new.pt", folder / "old.pt"]


def read_torch_pickles(folder: Path) -> None:
    """Both."""
    try:
        read_weights(folder / "new.pt")
    finally:
        read_weights(folder / "old.pt")


def pipeline(folder: Path) -> list[Path]:
    """The index of a diffusers pipeline."""
    index = {
        "_class_name": "DDPMPipeline",
        "unet": ["diffusers", "UNet2DModel"],
        "scheduler": ["diffusers", "X"],
    }
    (folder / "unet").mkdir()
    write_json(folder / "model_index.json", index)
    return [folder / "model_index.json"]


JSON = (mutations.json_text,)
PICTURES = {
    kind: Door(kind, pictures(kind), look, (special,))
    for kind, special in (
        ("PNG", mutations.png),
        ("JPEG", mutations.jpeg),
        ("WEBP", mutations.webp),
        ("GIF", mutations.gif),
    )
}
OTHERS: Mapping[str, Door] = {
    door.name: door
    for door in (
        Door("folder", folder_of_pictures, opened),
        Door("zip", zip_of_pictures, opened, (mutations.zipped, mutations.renamed)),
        Door("npz", npz, opened, (mutations.npy, mutations.zipped)),
        Door("idx", idx, opened, (repacked,)),
        Door("cifar", cifar, opened, (mutations.pickled,)),
        Door("cache", prepared, load_prepared, (mutations.json_text, mutations.npy)),
        Door("model.json", saved, load, JSON * 9),
        Door("safetensors", weights, load, (mutations.safetensors,)),
        Door("reports", reports, read_reports, JSON * 9),
        Door("run", run, read_run, (*JSON, mutations.json_lines)),
        Door("resume", trained, resume, (mutations.json_text, mutations.json_lines, mutations.safetensors)),
        Door("rerun", repeated, compare, (mutations.json_text, mutations.json_lines, mutations.png)),
        Door("latents", latents, read_latents, (mutations.npy, mutations.zipped)),
        Door(
            "official pickles", pickles, lambda folder: convert(folder / "network.pkl"), (mutations.pickled,)
        ),
        Door("torch pickles", torch_pickles, read_torch_pickles, (mutations.pickled, mutations.zipped)),
        Door("pipeline", pipeline, lambda folder: trusted_index(folder), JSON),
    )
}

"""Using a GAN as a user types it: walks, mixing, inversion, directions."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from conftest import made_up
from diptych.cli import run
from diptych.data.images import Images
from diptych.latent.points import drawn, write_points
from diptych.methods.edm import edm
from diptych.methods.r3gan import r3gan
from diptych.methods.stylegan2 import stylegan2
from diptych.runs import load_model, save_model

NAMES = ("edm", "plain", "style", "told", "nowhere")


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Runs of edm, r3gan (of classes, and of attributes) and stylegan2; pictures; labelled pictures."""
    folder = tmp_path_factory.mktemp("gan")
    torch.manual_seed(0)
    grey = made_up(classes=2, n=40)
    values = np.linspace(-1, 1, 40, dtype=np.float32)[:, None]
    light = Images(grey.train.pixels, attributes=values, attribute_names=("light",))
    for name, recipe, data in (
        ("edm", edm, grey.train),
        ("plain", r3gan, grey.train),
        ("style", stylegan2, grey.train),
        ("told", r3gan, light),
    ):
        model = recipe(data, **recipe.small).method.model
        with torch.no_grad():
            for parameter in model.parameters():  # layers that begin at zero would say nothing
                parameter.add_(0.1 * torch.randn_like(parameter))
        save_model(model, folder / name)
    stream = np.random.default_rng(0)
    for kind, level in (("dark", 40), ("light", 200)):
        (folder / "labelled" / kind).mkdir(parents=True)
        for i in range(12):
            pixels = stream.normal(level, 15, (8, 8)).clip(0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(folder / "labelled" / kind / f"{i}.png")
    Image.fromarray(np.zeros((9, 9), np.uint8)).save(folder / "large.png")
    return folder


def typed(place: Path, text: str) -> int:
    """Runs diptych in that folder: words that name what is there become paths, --out too."""
    words = text.split()
    known = [i for i, word in enumerate(words) if (place / word).exists() or word in NAMES]
    outs = [i + 1 for i, word in enumerate(words) if word == "--out"]
    words = [str(place / word) if i in known + outs else word for i, word in enumerate(words)]
    return run([*words, "--device", "cpu"])


def shown(path: Path) -> np.ndarray:
    return np.asarray(Image.open(path).convert("L")).astype(int)


@pytest.mark.parametrize("name", ["edm", "plain", "style", "told"])
def test_a_walk_of_any_family(name: str, place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    more = " --steps 2" if name == "edm" else ""
    assert typed(place, f"sample {name} --out {name}.gif --seeds 1,2 --frames 6 --fps 20{more} --json") == 0
    told = json.loads(capsys.readouterr().out)
    assert told["frames"] == 6
    with Image.open(place / f"{name}.gif") as film:
        assert film.n_frames == 6
        assert film.size == (128, 128)
        first = np.asarray(film.convert("L")).astype(int)[::16, ::16]
    assert typed(place, f"sample {name} --out {name}.npz --seeds 1{more}") == 0
    with np.load(place / f"{name}.npz") as file:
        assert np.abs(file["arr_0"][0, :, :, 0] - first).max() <= 1


def test_walks_beside_each_other(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert (
        typed(place, "sample style --out grid.webp --seeds 0-11 --tiles 2x3 --frames 4 --label 1 --json") == 0
    )
    assert json.loads(capsys.readouterr().out)["frames"] == 4
    with Image.open(place / "grid.webp") as film:
        assert film.n_frames == 4
        assert film.size == (3 * 65 - 1, 2 * 65 - 1)


def test_options_of_a_style_model_are_flags(place: Path) -> None:
    for name, flags in (("whole", ""), ("none", "--truncation 0"), ("some", "--truncation 0 --cutoff 1")):
        assert typed(place, f"sample style --out {name} --seeds 0-2 {flags}") == 0
    whole, none, some = (
        [shown(file) for file in sorted((place / name).iterdir())] for name in ("whole", "none", "some")
    )
    assert all(np.abs(image - none[0]).max() <= 1 for image in none)  # the mean image
    assert np.abs(some[0] - some[1]).max() > 1
    assert np.abs(whole[0] - some[0]).max() > 1


def test_a_mixing_grid(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert typed(place, "edit mix style --rows 0,1 --columns 5,6,7 --layers 0 --out mix.png --json") == 0
    assert json.loads(capsys.readouterr().out)["columns"] == [5, 6, 7]
    assert shown(place / "mix.png").shape == (3 * 33 - 1, 4 * 33 - 1)


@pytest.mark.parametrize("name", ["plain", "style"])
def test_invert_then_sample_then_edit(name: str, place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert typed(place, f"sample {name} --out own --seeds 4,5") == 0
    quick = "--steps 25 --lr 0.2 --candidates 16"
    assert typed(place, f"invert {name} own --out {name}-found {quick}") == 0
    capsys.readouterr()
    found = json.loads((place / f"{name}-found" / "inversion.json").read_text())
    assert found["space"] == ("w" if name == "style" else "z")
    assert [Path(one["image"]).name for one in found["images"]] == ["000004.png", "000005.png"]
    assert all(one["distance"] <= one["start"] for one in found["images"])
    assert any(one["distance"] < one["start"] for one in found["images"])
    assert all(np.isfinite([one["mse"], one["psnr"]]).all() for one in found["images"])
    assert shown(place / f"{name}-found" / "reconstruction.png").shape == (2 * 65 - 1, 2 * 65 - 1)
    latents = f"{name}-found/latents.npz"
    assert typed(place, f"sample {name} --latents {latents} --out {name}-again") == 0
    again = [shown(file) for file in sorted((place / f"{name}-again").iterdir())]
    pairs = shown(place / f"{name}-found" / "reconstruction.png")
    assert np.array_equal(pairs[:64:8, 65::8], again[0])
    assert (
        typed(place, f"edit direction {name} --sefa 2 --latents {latents} --steps 3 --out {name}-moved.png")
        == 0
    )
    moved = shown(place / f"{name}-moved.png")
    assert moved.shape == (4 * 65 - 2 + 8, 3 * 65 - 1)
    for top in (0, 2 * 65 - 1 + 8):  # of each direction
        assert np.abs(moved[top : top + 64 : 8, 65:129:8] - again[0]).max() <= 1  # the middle has not moved
    assert typed(place, f"sample {name} --latents {latents} --out {name}-walk.gif --frames 4") == 0


def test_directions_are_used_again(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert typed(place, "edit direction style --sefa 3 --layers 1 --seeds 0,1 --out one.png --json") == 0
    told = json.loads(capsys.readouterr().out)
    assert told["layers"] == [1]
    assert list(told["strength"]) == ["sefa 0", "sefa 1", "sefa 2"]
    assert (
        typed(
            place, "edit direction style --direction one.directions.npz --which 1 --seeds 0,1 --out two.png"
        )
        == 0
    )
    assert np.array_equal(shown(place / "two.png"), shown(place / "one.png")[2 * 65 + 7 : 4 * 65 + 6])
    whole = (place / "one.directions.npz").read_bytes()
    again = "edit direction style --direction one.directions.npz --which 1 --seeds 0,1 --out one.png"
    assert typed(place, again) == 0
    assert (place / "one.directions.npz").read_bytes() == whole  # what was asked of it is not all of it
    assert (
        typed(place, "edit direction style --direction two.directions.npz --seeds 0 --out film.gif --steps 4")
        == 0
    )
    with Image.open(place / "film.gif") as film:
        assert film.n_frames == 6  # there and back


def test_no_file_of_another_kind_is_written_over(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Data sets and latents lie beside pictures of the same name, and are inputs of these very commands."""
    (place / "kept").mkdir()
    np.savez(place / "kept" / "photos.npz", images=np.zeros((4, 8, 8), np.uint8))
    np.savez(place / "kept" / "other.directions.npz", images=np.zeros((4, 8, 8), np.uint8))
    model = load_model(place / "style", "cpu")
    write_points(place / "kept" / "latents.npz", drawn(model, [0, 1]))
    Image.fromarray(np.zeros((8, 8), np.uint8)).save(place / "kept" / "reconstruction.png")
    (place / "data").mkdir()
    np.savez(place / "data" / "latents.npz", images=np.zeros((4, 8, 8), np.uint8))
    sound = {file: file.read_bytes() for folder in ("kept", "data") for file in (place / folder).iterdir()}
    assert typed(place, "edit direction style --sefa 1 --seeds 0 --out kept/photos.png") == 0
    latents = "--sefa 1 --latents kept/latents.npz"
    assert typed(place, f"edit direction style {latents} --out kept/latents.png") == 0
    capsys.readouterr()
    for text, said in {
        "edit direction style --sefa 1 --seeds 0 --out kept/other.png": "holds something else",
        f"edit direction style {latents} --out kept/latents.npz": "is no picture",
        "edit mix style --rows 0 --columns 1 --out kept/latents.npz": "is no picture",
        "sample style --latents kept/latents.npz --out kept/latents.npz": "would be written over",
        "invert style kept --out kept": "reconstruction.png is read here",
        "invert style kept --out data": "holds something else",
    }.items():
        assert typed(place, text) == 2
        found = capsys.readouterr()
        assert said in " ".join(found.err.split()), text
        assert "hint: " in found.err
    assert all(file.read_bytes() == data for file, data in sound.items())


def test_directions_from_labels(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = "--labels light --samples 80 --label 0 --seeds 0 --out light.png --json"
    assert typed(place, f"edit direction plain --from-labels labelled {words}") in (0, 2)
    said = capsys.readouterr()
    if said.out:
        assert list(json.loads(said.out)["strength"]) == ["light"]
    else:
        assert "look like light" in said.err
    model = load_model(place / "told", "cpu")
    assert model.attribute_names == ("light",)
    assert typed(place, "edit direction told --jacobian 1 --attributes 0.5 --seeds 0 --out told.png") == 0


WRONG = {
    "sample plain --out x.gif --seeds 3": "at least 2 each",
    "sample plain --out x.gif --seeds 0-4 --tiles 2x2": "cannot be shared out",
    "sample plain --out x.gif --tiles 2": "not rows x columns",
    "sample plain --out x.gif --seeds 0-3 --frames 2": "as many frames",
    "sample plain --out x.gif --fps 90": "do not show 90 frames",
    "sample plain --out x.png --frames 30": "is no film",
    "sample plain --out x.png --latents missing.npz": "there is no missing.npz",
    "sample plain --out x.png --latents large.png": "cannot be read",
    "sample plain --out x.png --latents large.png --seeds 1": "--seeds means nothing",
    "sample plain --out x.png --latents large.png --truncation 0.5": "--truncation means nothing",
    "edit direction plain --sefa 1 --latents large.png --truncation 0.5 --out x.png": "--truncation means",
    "edit mix plain --rows 0 --columns 1 --out x.png": "a style for each layer",
    "edit mix edm --rows 0 --columns 1 --out x.png": "no latent space",
    "edit mix style --rows 0 --columns 1 --layers 99 --out x.png": "no layer 99",
    "edit direction plain --out x.png": "one way to a direction",
    "edit direction plain --sefa 2 --jacobian 2 --out x.png": "one way to a direction",
    "edit direction plain --sefa 0 --out x.png": "directions, not 0",
    "edit direction style --sefa 2 --seeds 0 --scale nan --out x.png": "scale must be finite",
    "invert plain labelled/dark/0.png --out x --pixels nan": "pixels must be at least 0 and finite, not nan",
    "edit direction plain --direction labelled --out x.png": "cannot be read",
    "edit direction edm --sefa 1 --out x.png": "no latent space",
    "edit mix style --rows 0 --columns 1 --out x.png --noise random": "--noise random means nothing",
    "sample style --out x.gif --noise random": "--noise random means nothing",
    "invert style large.png --out x --noise random": "--noise random means nothing",
    "invert edm large.png --out x": "no latent space",
    "invert plain large.png --out x": "is 9x9, but 8x8 is needed",
    "invert plain large.png --out x.png": "a folder is filled",
    "invert plain large.png --out x --space w --fit crop": "without styles",
    "invert plain large.png --out x --truncation 0.5": "truncation means nothing here",
    "invert plain plain --out x": "no pictures",
    "invert plain missing.png --out x": "missing.png cannot be read",
}


@pytest.mark.parametrize("text", WRONG)
def test_bad_input_is_a_sentence_and_a_hint(
    text: str, place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = sorted(place.iterdir())
    assert typed(place, text) in (1, 2)
    said = capsys.readouterr()
    assert WRONG[text] in " ".join(said.err.split())
    assert "Traceback" not in said.err
    assert said.out == ""
    assert sorted(place.iterdir()) == before

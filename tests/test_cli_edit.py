"""diptych edit as a user types it, and diptych.edit as a user calls it."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import diptych
from conftest import made_up
from diptych.cli import run
from diptych.cli.edit_drawing import Areas, Drawing, Frames, Wide
from diptych.data.picture import areas, picture, selection
from diptych.errors import DataError, WrongUse
from diptych.methods.edm import edm
from diptych.methods.r3gan import r3gan
from diptych.runs import save_model

RUNS = ("edm", "gan", "nowhere", "missing.png")
QUICK = ["--steps", "3", "--device", "cpu", "--seeds", "0-2"]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of edm, a run of r3gan, and pictures of every kind that edits read."""
    folder = tmp_path_factory.mktemp("edit")
    torch.manual_seed(0)
    for name, recipe in (("edm", edm), ("gan", r3gan)):
        model = recipe(made_up(classes=10).train, **recipe.small).method.model
        with torch.no_grad():
            for parameter in model.parameters():  # layers that begin at zero would say nothing of labels
                parameter.add_(0.05 * torch.randn_like(parameter))
        save_model(model, folder / name)
    grey = np.arange(64, dtype=np.uint8).reshape(8, 8) * 4
    half = np.zeros((8, 8), np.uint8)
    half[:, 4:] = 255
    pictures = {
        "photo": grey,
        "other": grey.T,
        "mask": half,
        "black": 0 * half,
        "large": np.kron(grey, np.ones((2, 3), np.uint8)),
        "colourful": np.stack([grey, grey.T, 255 - grey], 2),
        "tiny": grey[::2, ::2],
    }
    for name, pixels in pictures.items():
        Image.fromarray(pixels).save(folder / f"{name}.png")
    (folder / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\nnothing")
    return folder


def edit(place: Path, text: str, out: str) -> int:
    """Runs `diptych edit`, names of pictures turned into paths."""
    verb, *words = text.split()
    names = [str(place / word) if (place / word).is_file() or word in RUNS else word for word in words]
    return run(["edit", verb, *names, "--out", str(place / out)])


def shown(path: Path) -> np.ndarray:
    return np.asarray(Image.open(path))


EDITS = {
    "inpaint": "edm photo.png --mask mask.png --resamplings 2 --label 3",
    "outpaint": "edm photo.png --left 4 --bottom 2 --resamplings 1",
    "panorama": "edm --height 8 --width 20",
    "vary": "edm photo.png --strength 0.6 --guidance 1.5 --label 1",
    "stroke": "edm colourful.png --fit crop",
    "colour": "edm photo.png --cells 2",
    "restore": "edm tiny.png --operator superres:2 --method pigdm",
    "regions": "edm --map mask.png --labels 3,any",
}


@pytest.mark.parametrize("name", EDITS)
def test_each_edit_fills_a_folder_and_says_so(
    name: str, place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert edit(place, f"{name} {EDITS[name]} {' '.join(QUICK)} --json", name) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["edit"] == name
    assert told["images"] == 3
    assert told["options"]["steps"] == "3"
    files = sorted((place / name).iterdir())
    assert [file.name for file in files] == ["000000.png", "000001.png", "000002.png"]
    images = [shown(file) for file in files]
    assert list(images[0].shape) == told["shape"][1:]
    assert not np.array_equal(images[0], images[1])
    again = edit(place, f"{name} {EDITS[name]} {' '.join([*QUICK[:-1], '2'])}", f"{name}-again")
    assert again == 0
    difference = images[2].astype(int) - shown(place / f"{name}-again" / "000002.png").astype(int)
    assert abs(difference).max() <= 1  # kernels differ by batch


def test_what_is_kept_is_kept_to_the_bit(place: Path) -> None:
    photo = shown(place / "photo.png")
    assert edit(place, f"inpaint edm photo.png --mask mask.png {' '.join(QUICK)}", "kept") == 0
    assert edit(place, f"outpaint edm photo.png --left 4 --bottom 2 {' '.join(QUICK)}", "around") == 0
    assert edit(place, "vary edm photo.png --strength 0 --device cpu --seeds 5", "same") == 0
    assert np.array_equal(shown(place / "kept" / "000001.png")[:, :4], photo[:, :4])
    assert np.array_equal(shown(place / "around" / "000001.png")[:8, 4:], photo)
    assert shown(place / "around" / "000001.png").shape == (10, 12)
    assert np.array_equal(shown(place / "same" / "000005.png"), photo)


def test_no_picture_that_was_read_is_written_over(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = (place / "photo.png").read_bytes()
    assert edit(place, f"inpaint edm photo.png --mask mask.png {' '.join(QUICK)}", "photo.png") == 2
    assert "photo.png is read here, and would be written over" in " ".join(capsys.readouterr().err.split())
    assert (place / "photo.png").read_bytes() == before


OVER = {
    "inpaint edm photo.png --mask mask.png": "mask.png",
    "colour edm photo.png": "photo.png",
    "interpolate edm photo.png other.png": "other.png",
    "regions edm --map mask.png --labels 1,2": "mask.png",
    "stroke edm 000003.png --seeds 3": "",  # in a folder of pictures
}


@pytest.mark.parametrize("text", OVER)
def test_what_would_be_written_over_is_known_before_images_are_drawn(
    text: str, place: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (place / "000003.png").write_bytes((place / "photo.png").read_bytes())
    monkeypatch.setattr("diptych.edit.opened", None)
    assert edit(place, f"{text} --device cpu", OVER[text]) == 2
    assert "is read here, and would be written over" in " ".join(capsys.readouterr().err.split())


def test_what_out_is_called_says_what_is_written(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """As for `sample`: a sheet, an array, or a folder, whose name may have a number in it."""
    words = "vary edm photo.png --steps 2 --seeds 1,4 --device cpu"
    assert edit(place, words, "array.npz") == 0
    with np.load(place / "array.npz") as arrays:
        images, seeds = arrays["arr_0"], arrays["seeds"]
    assert images.shape == (2, 8, 8, 1)
    assert seeds.tolist() == [1, 4]
    assert edit(place, words, "runs-v1.5") == 0
    assert sorted(file.name for file in (place / "runs-v1.5").iterdir()) == ["000001.png", "000004.png"]
    assert np.array_equal(shown(place / "runs-v1.5" / "000004.png"), images[1, :, :, 0])
    assert edit(place, "interpolate edm 1 2 --frames 3 --inversion-steps 3 --device cpu", "frames.npz") == 0
    with np.load(place / "frames.npz") as arrays:
        assert arrays["arr_0"].shape == (3, 8, 8, 1)
    capsys.readouterr()
    for name in ("x.xyz", "x.gif"):
        assert edit(place, words, name) == 2
        assert f"there is no way to write {name[1:]}" in " ".join(capsys.readouterr().err.split())
        assert not (place / name).exists()


def test_interpolation_of_images_and_of_seeds(place: Path) -> None:
    words = "--frames 4 --inversion-steps 30 --device cpu"
    assert edit(place, f"interpolate edm photo.png other.png {words}", "between") == 0
    frames = [shown(file).astype(int) for file in sorted((place / "between").iterdir())]
    assert len(frames) == 4
    assert abs(frames[0] - shown(place / "photo.png")).max() <= 3  # there and back
    assert abs(frames[3] - shown(place / "other.png")).max() <= 3
    assert edit(place, f"interpolate edm 4 9 {words} --labels 1,2", "seeds.png") == 0
    assert shown(place / "seeds.png").shape == (32, 4 * 33 - 1)  # one row


def test_flags_do_what_arguments_of_their_names_do(place: Path) -> None:
    """The flags of a restoration and of an interpolation, each beside the same call in Python."""
    model, photo = diptych.load(place / "edm", "cpu"), place / "photo.png"
    words = "--operator blur:1 --method pigdm --deviation 0.2 --seeds 4 --steps 3 --device cpu"
    assert edit(place, f"restore edm photo.png {words}", "narrow.npz") == 0
    how = {"method": "pigdm", "seeds": [4], "steps": 3}
    made = [diptych.edit.restore(model, photo, "blur:1", deviation=d, **how) for d in (0.2, 0.5)]
    with np.load(place / "narrow.npz") as arrays:
        assert np.array_equal(arrays["arr_0"], made[0].permute(0, 2, 3, 1).numpy())
    assert not torch.equal(*made)
    between = diptych.edit.interpolate(model, 1, 2, frames=3, steps=4).permute(0, 2, 3, 1).numpy()
    for flag in ("--steps", "--inversion-steps"):
        assert edit(place, f"interpolate edm 1 2 --frames 3 {flag} 4 --device cpu", "four.npz") == 0
        with np.load(place / "four.npz") as arrays:
            assert np.array_equal(arrays["arr_0"], between)


def test_flags_that_are_not_of_an_edit_follow_from_its_fields() -> None:
    assert {kind: kind.unheard() for kind in (Drawing, Wide, Areas, Frames)} == {
        Drawing: [],
        Wide: ["fit"],
        Areas: ["label", "attributes", "fit"],
        Frames: ["seeds", "label", "attributes"],
    }


def test_python_takes_tensors_and_models(place: Path) -> None:
    model = diptych.load(place / "edm", "cpu")
    photo = picture(place / "photo.png", (1, 8, 8))
    mask = torch.zeros(8, 8, dtype=torch.bool)
    mask[2:5, 2:5] = True
    found = diptych.edit.inpaint(model, photo, mask, seeds=[3], steps=3, method="ddnm")
    assert found.dtype == torch.uint8
    assert torch.equal(found[0][:, ~mask], photo[:, ~mask])
    small = diptych.edit.restore(model, photo, "superres:4", degrade=True, seeds=range(2), steps=8)
    cells = torch.nn.functional.avg_pool2d(small.float(), 4)
    assert (cells - torch.nn.functional.avg_pool2d(photo.float(), 4)).abs().max() < 60
    assert diptych.edit.colour(model, (40,), seeds=[0], steps=3).shape == (1, 1, 8, 8)
    noisy = diptych.edit.restore(model, photo, "noise:0.3", degrade=True, seeds=[0], steps=3)
    assert noisy.shape == (1, 1, 8, 8)


WRONG = {
    "inpaint gan photo.png --mask mask.png": "has no denoiser",
    "inpaint edm photo.png --mask tiny.png": "tiny.png is 4x4, but 8x8 is needed",
    "inpaint edm photo.png --mask black.png": "black all over",
    "inpaint edm large.png --mask mask.png": "large.png is 16x24, but 8x8 is needed",
    "inpaint edm colourful.png --mask mask.png": "is RGB, but grey is needed",
    "inpaint edm photo.png --mask mask.png --label 12": "label 12 is out of range",
    "inpaint edm photo.png --mask mask.png --resamplings 0": "resamplings 0",
    "inpaint edm photo.png --mask mask.png --steps 0": "steps must be at least 1",
    "inpaint edm photo.png --mask mask.png --stpes 4": "no option 'stpes'",
    "inpaint edm missing.png --mask mask.png": "missing.png cannot be read",
    "inpaint edm broken.png --mask mask.png": "broken.png cannot be read",
    "inpaint nowhere photo.png --mask mask.png": "there is no ",
    "vary edm photo.png --strength 1.5": "strength 1.5 is out of range",
    "vary edm photo.png --attributes 0.5": "told no attributes",
    "vary edm photo.png --guidance 4": "guidance means nothing without a label",
    "colour edm 40 --guidance 4 --negative 1": "guidance, negative mean nothing without a label",
    "regions edm --map mask.png --labels any,any --guidance 4": "guidance means nothing without a label",
    "vary edm photo.png --strength 0.4 --steps 1": "strength 0.4 of 1 step is none or all of it",
    "vary edm photo.png --compose 3:nan": "'3:nan' is no list of labels and finite weights",
    "colour edm photo.png --above nan": "above nan finite and not negative",
    "outpaint edm colourful.png --left 4": "is RGB, but grey is needed",
    "regions edm --map mask.png --labels 1,2 --label 3": "--label means nothing",
    "outpaint edm photo.png": "nothing to add",
    "outpaint edm tiny.png --left 1": "smaller than the model's images",
    "outpaint edm photo.png --left 4 --fit crop": "--fit means nothing",
    "restore edm photo.png --operator sharpen:2": "no operator called sharpen",
    "restore edm photo.png --operator superres:3": "cannot be made 3 times smaller",
    "restore edm photo.png --operator superres": "does not say how much",
    "restore edm photo.png --operator superres:2": "but 4x4 is needed\n\nhint: degrade (--degrade)",
    "restore edm photo.png --operator grey": "3 channels",
    "restore edm photo.png --operator blur:nan": "does not say how much",
    "restore edm photo.png --operator blur:1 --noise nan": "noise nan",
    "restore edm photo.png --operator blur:1 --method dps --noise 0.9": "noise 0.9 means nothing to it",
    "restore edm photo.png --operator blur:1 --deviation 0.9": "deviation is of pigdm",
    "regions edm --map mask.png --labels 1,2,3": "has 2 greys, but there are 3 labels",
    "regions edm --map mask.png --labels 1,44": "label 44 is out of range",
    "regions edm --map tiny.png --labels 1,2": "tiny.png is 4x4",
    "regions edm --map mask.png --labels 0,1 --compose 2:1": "would take the place of the labels",
    "colour edm 300": "is no colour",
    "interpolate edm photo.png 3": "an image and a seed",
    "interpolate edm photo.png other.png --labels 3": "must be two classes",
    "interpolate edm photo.png other.png --labels 3,4 --compose 2:1": "would take the place of the labels",
    "interpolate edm photo.png other.png --eta 0.5": "eta means nothing to an interpolation",
    "interpolate edm 1 2 --sampler euler --grid linear": "grid, sampler mean nothing to an interpolation",
    "interpolate edm 1 2 --seeds 0-5": "--seeds means nothing to this edit",
    "interpolate edm 1 2 --batch 0": "batch must be at least 1",
    "interpolate edm 1 2 --fit crop": "fit means nothing to seeds",
    "interpolate edm 1 2 --guidance 3": "guidance means nothing without a label",
    "panorama edm --height 4 --width 20": "smaller than the model's images",
}


def test_help_has_a_line_for_each_edit(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["edit", "--help"]) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "mix Style mixing" in said
    assert "direction Find directions" in said


@pytest.mark.parametrize("text", WRONG)
def test_bad_input_is_a_sentence_and_a_hint(
    text: str, place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert edit(place, f"{text} --device cpu", "never") in (1, 2)
    said = capsys.readouterr()
    assert WRONG[text] in said.err
    assert "Traceback" not in said.err
    assert said.out == ""
    assert not (place / "never").exists()


def test_pictures_are_brought_to_the_shape_that_is_asked_for(place: Path) -> None:
    assert picture(place / "large.png", (1, 8, 8), "stretch").shape == (1, 8, 8)
    assert picture(place / "large.png", (3, 4, 6), "stretch").shape == (3, 4, 6)
    assert picture(place / "photo.png", (3, 8, 8)).shape == (3, 8, 8)  # grey loses nothing in colour
    with pytest.raises(WrongUse, match="to a square"):
        picture(place / "large.png", (1, 8, 6), "crop")
    with pytest.raises(WrongUse, match="uint8"):
        picture(torch.zeros(1, 8, 8), (1, 8, 8))
    with pytest.raises(DataError):
        picture(place / "broken.png", (1, 8, 8))
    assert selection(place / "mask.png", (8, 8)).float().mean() == 0.5
    assert areas(place / "mask.png", (8, 8), 2).sum(0).eq(1).all()

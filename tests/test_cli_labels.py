"""Classes by name: --label, the images of directions, the names that an exported file has."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from PIL import Image

import diptych
from conftest import made_up
from diptych.cli import run
from diptych.cli.common import Ingest
from diptych.methods.edm import edm
from diptych.methods.r3gan import r3gan
from diptych.model import Condition
from diptych.runs import load_model, save_model
from diptych.system.files import write_json

COUNTS = {"cat": 20, "dog": 20}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Runs of edm and r3gan whose recipe.json names two classes; pictures of them in several sizes."""
    folder = tmp_path_factory.mktemp("labels")
    torch.manual_seed(0)
    data = made_up(classes=2, n=40).train
    for recipe in (edm, r3gan):
        model = recipe(data, **recipe.small).method.model
        with torch.no_grad():
            for parameter in model.parameters():  # layers that begin at zero would say nothing
                parameter.add_(0.1 * torch.randn_like(parameter))
        save_model(model, folder / recipe.name)
        recorded = {"class_counts": COUNTS, "arguments": {"size": 8, "fit": "pad"}}
        write_json(folder / recipe.name / "recipe.json", {"recipe": recipe.name, "data": recorded})
    save_model(load_model(folder / "edm", "cpu"), folder / "bare")
    stream = np.random.default_rng(0)
    for kind, level in (("cat", 40), ("dog", 200)):
        (folder / "photos" / kind).mkdir(parents=True)
        for i in range(12):
            pixels = stream.normal(level, 15, (8 + i % 3, 9, 3)).clip(0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(folder / "photos" / kind / f"{i}.png")
    grey = np.arange(64, dtype=np.uint8).reshape(8, 8) * 4
    Image.fromarray(grey).save(folder / "photo.png")
    Image.fromarray(np.where(grey > 128, 255, 0).astype(np.uint8)).save(folder / "map.png")
    return folder


def typed(place: Path, text: str) -> int:
    """Runs diptych in that folder: words that name what is there become paths, --out too."""
    words = text.split()
    outs = [i + 1 for i, word in enumerate(words) if word == "--out"]
    known = [i for i, word in enumerate(words) if (place / word).exists()]
    words = [str(place / word) if i in known + outs else word for i, word in enumerate(words)]
    return run([*words, "--device", "cpu"])


@pytest.mark.parametrize(
    ("command", "names", "numbers"),
    [
        ("sample edm --seeds 0-2 --steps 2 --label", "dog", "1"),
        ("edit vary edm photo.png --seeds 0 --steps 3 --label", "dog", "1"),
        ("edit regions edm --map map.png --seeds 0 --steps 2 --labels", "dog,any", "1,any"),
        ("edit interpolate edm 1 2 --frames 3 --inversion-steps 3 --labels", "dog,cat", "1,0"),
        ("edit direction r3gan --jacobian 1 --seeds 0 --label", "dog", "1"),
    ],
)
def test_a_class_has_a_name_and_a_number(place: Path, command: str, names: str, numbers: str) -> None:
    assert typed(place, f"{command} {names} --out by-name.png") == 0
    assert typed(place, f"{command} {numbers} --out by-number.png") == 0
    assert (place / "by-name.png").read_bytes() == (place / "by-number.png").read_bytes()


def test_a_model_draws_images_of_no_label(place: Path, tmp_path: Path) -> None:
    assert typed(place, f"sample edm --seeds 0-2 --steps 2 --label any --out {tmp_path / 'any.npz'}") == 0
    free = np.load(tmp_path / "any.npz")["arr_0"]
    model = load_model(place / "edm", "cpu").using(steps=2)
    assert (free == model.sample(range(3), Condition()).permute(0, 2, 3, 1).numpy()).all()
    assert (free != model.sample(range(3)).permute(0, 2, 3, 1).numpy()).any()


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("sample r3gan --label any --out x.png", "never learned to draw images of no label"),
        ("sample edm --label any --guidance 2 --out x.png", "guidance means nothing without a label"),
        ("sample edm --label any --out x.gif", "--label any is about images of seeds"),
        ("sample edm --label cta --out x.png", "did you mean cat?"),
        ("sample edm --label 7 --out x.png", "0 to 1"),
        ("sample bare --label cat --out x.png", "its numbers are 0 to 1"),
    ],
)
def test_another_name_is_refused(
    place: Path, text: str, answer: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert typed(place, text) == 2
    assert answer in " ".join(capsys.readouterr().err.split())


def test_an_exported_file_knows_the_names(place: Path, tmp_path: Path) -> None:
    assert diptych.class_names(place / "edm") == ("cat", "dog")
    assert diptych.class_names(place / "bare") == ()
    assert run(["export", str(place / "r3gan"), "--out", str(tmp_path / "a.onnx")]) == 0
    diptych.export(place / "r3gan", tmp_path / "b.onnx")
    for file in tmp_path.glob("*.onnx"):
        about = {entry.key: entry.value for entry in onnx.load(file).metadata_props}
        assert json.loads(about["class_names"]) == ["cat", "dog"]


def test_labelled_images_are_read_as_the_run_read_its_own(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = load_model(place / "r3gan", "cpu")
    assert Ingest().like(place / "r3gan", model) == Ingest(size=8, fit="pad", channels=1)
    own = Ingest(size=16, fit="stretch", channels=3)
    assert own.like(place / "r3gan", model) == own
    assert typed(place, "edit direction r3gan --from-labels photos --samples 40 --out x.png") in (0, 2)
    assert "size" not in capsys.readouterr().err  # several, and colours: all are brought to 8x8 grey

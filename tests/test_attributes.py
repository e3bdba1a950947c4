"""Continuous labels, from the files that hold them to what the network hears and an exported graph takes."""

from __future__ import annotations

import csv
import json
import math
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from conftest import brief
from conftest import train_unprobed as train
from diptych import catalog, cli
from diptych.data import DataSet, Images, open_data, open_whole
from diptych.diffusion.denoiser import EDMDenoiser
from diptych.diffusion.guidance import Guided
from diptych.diffusion.model import DiffusionModel, DiffusionOptions
from diptych.errors import DataError, WrongUse
from diptych.exam import Exam, shuffle
from diptych.exporter import export
from diptych.methods.denoising import in_units
from diptych.model import Condition, Noise
from diptych.networks.labels import Attributed
from diptych.networks.unet import UNet
from diptych.runs import load_model
from diptych.saveable import from_tree, to_tree
from diptych.training.state import Settings

NAMES = ("brightness", "year")


def plain(n: int = 24) -> tuple[np.ndarray, np.ndarray]:
    """Grey 8x8 images of one level each, and what is known of them: that level, and a year."""
    level = np.linspace(10, 240, n)
    pixels = np.rint(level).astype(np.uint8)[:, None, None].repeat(8, 1).repeat(8, 2)
    return pixels, np.stack([level / 255, 1990 + np.arange(n) % 7], 1).astype(np.float32)


def levels_agree(data: DataSet, place: int = 0) -> bool:
    """Whether each image still has its own brightness."""
    parts = [part for part in (data.train, data.held_out) if len(part)]
    assert all(part.attributes is not None for part in parts)
    return all(np.abs(p.pixels[:, 0, 0, 0] / 255 - p.attributes[:, place]).max() < 0.003 for p in parts)  # type: ignore[index]


def write_folder(root: Path, table: str = "labels.csv", classes: bool = False) -> Path:
    pixels, values = plain()
    lines = []
    for i, image in enumerate(pixels):
        name = f"{'ab'[i % 2]}/{i:02d}.png" if classes else f"{i:02d}.png"
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(root / name)
        lines.append([name, f"{values[i, 0]:.6f}", "by hand", str(int(values[i, 1]))])
    with (root / table).open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([["file_name", "brightness", "taken", "year"], *lines[::-1]])
    return root


@pytest.mark.parametrize("table", ["labels.csv", "metadata.csv"])
def test_a_folder_with_a_table(tmp_path: Path, table: str) -> None:
    data = open_data(write_folder(tmp_path / "set", table))
    assert data.train.attribute_names == NAMES
    assert data.train.labels is None
    assert data.train.told == 2
    assert levels_agree(data)
    assert {(i.file, i.what, i.done) for i in data.card.incidents} == {
        (table, "numbers: brightness, year", "taken as continuous labels"),
        (table, "not all numbers: taken ('by hand')", "left out"),
    }
    batch = data.train.batch(0, 0, 8)
    label = batch.condition.label
    assert label is not None
    assert label.dtype == torch.float32
    shown = (batch.image[:, 0, 0, 0] + 1) / 2
    torch.testing.assert_close(label[:, 0], shown, atol=0.003, rtol=0)


def test_a_zip_and_a_cache_keep_them(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "set")
    with zipfile.ZipFile(tmp_path / "set.zip", "w") as archive:
        for path in sorted(folder.iterdir()):
            archive.write(path, f"deep/{path.name}")
    for source in (folder, tmp_path / "set.zip"):
        first, again = (open_data(source, cache=tmp_path / "cache") for _ in range(2))
        assert levels_agree(first)
        assert levels_agree(again)
        assert isinstance(again.train.pixels, np.memmap)
        assert first.card.train_sha256 == again.card.train_sha256 == again.train.sha256
        assert again.train.attribute_names == NAMES
        assert again.train.subset(slice(3, 5)).batch(0, 0, 2).condition.label is not None


def test_a_changed_table_is_another_data_set(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "set")
    before = open_data(folder, cache=tmp_path / "cache")
    text = (folder / "labels.csv").read_text().replace("1990", "2020")
    (folder / "labels.csv").write_text(text)
    after = open_data(folder, cache=tmp_path / "cache")
    assert before.card.train_sha256 != after.card.train_sha256
    assert np.array_equal(before.train.pixels, after.train.pixels)


def fate(data: DataSet) -> str:
    """What is said to have become of the columns of numbers."""
    return next(i.done for i in data.card.incidents if i.what.startswith("numbers"))


def test_classes_win_unless_attributes_are_asked_for(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "set", classes=True)
    data = open_data(folder)
    assert data.train.classes == 2
    assert data.train.told == 0
    assert data.train.batch(0, 0, 4).condition.label.dtype == torch.int64  # type: ignore[union-attr]
    asked = open_data(folder, attributes="year")
    assert (asked.train.classes, asked.train.told, asked.train.attribute_names) == (0, 1, ("year",))
    assert asked.card.class_counts == {}
    assert asked.card.arguments["attributes"] == "year"
    assert asked.card.train_sha256 == asked.train.sha256 != data.card.train_sha256
    whole = open_whole(folder, attributes=["year", "brightness"])
    assert levels_agree(whole, place=1)
    for source in (folder, write_folder(tmp_path / "plain")):
        none = open_data(source, attributes="none")  # neither attributes nor classes
        assert none.train.batch(0, 0, 4).condition.label is None
        assert (none.train.classes, none.held_out.labels, none.card.class_counts) == (0, None, {})
        assert none.card.held_out_sha256 == none.held_out.sha256
        assert fate(none) == "not told"
    assert fate(data) == "known, not told: the classes are; --attributes x tells them"
    assert fate(asked) == "taken as continuous labels"
    with pytest.raises(WrongUse, match="no continuous label called 'yaer'"):
        open_data(folder, attributes="yaer")


def test_known_causes_can_be_told() -> None:
    data = open_data("shapes:40", size=16, attributes="radius,x")
    assert data.train.told == 2
    assert np.array_equal(data.train.attributes[:, 0], data.train.factors["radius"].astype(np.float32))  # type: ignore[index]


def test_images_without_a_line_have_none(tmp_path: Path) -> None:
    folder = write_folder(tmp_path)
    lines = (folder / "labels.csv").read_text().splitlines()
    lines[1] = lines[1].replace("by hand,", "by hand,").rpartition(",")[0] + ","
    (folder / "labels.csv").write_text("\n".join(lines[:-2]))
    data = open_data(folder)
    missing = sum(int(np.isnan(part.attributes).any(1).sum()) for part in (data.train, data.held_out))  # type: ignore[arg-type]
    assert missing == 3
    assert "3 images have no line, or gaps in it" in {i.what for i in data.card.incidents}
    network = in_units(Spy(2), data.train)
    assert isinstance(network, Attributed)
    assert all(map(math.isfinite, (*network.units.mean.tolist(), *network.units.deviation.tolist())))
    assert not any(math.isnan(value) for example in network.examples for value in example)


def test_tables_are_read_as_people_write_them(tmp_path: Path) -> None:
    """Semicolons, a byte-order mark, names without an ending or a folder, a column with words."""
    folder = write_folder(tmp_path / "set", classes=True)
    (folder / "labels.csv").write_bytes(
        b"\xef\xbb\xbfid;light;word\r\n"
        + b"".join(b"%02d;%.4f;x\r\n" % (i, value) for i, value in enumerate(plain()[1][:, 0]))
    )
    data = open_data(folder, attributes="light")
    assert levels_agree(data)
    for text, words in (
        ("file,a,a\n00.png,1,2\n", "two columns of one name"),
        ("file,a\n00.png,1,2\n", "a line of 3"),
    ):
        (folder / "labels.csv").write_text(text)
        with pytest.raises(DataError, match=words):
            open_data(folder)
    (folder / "labels.csv").write_text("file,a\n00.png,word\n")
    assert "no column of numbers" in {i.what for i in open_data(folder).card.incidents}


def test_arrays(tmp_path: Path) -> None:
    pixels, values = plain()
    sets = {
        "named": {"images": pixels, "attributes": values, "attribute_names": np.array(NAMES)},
        "floats": {"images": pixels, "labels": values},
        "split": {
            "x_train": pixels[:16],
            "y_train": values[:16],
            "x_test": pixels[16:],
            "y_test": values[16:],
        },
    }
    for name, arrays in sets.items():
        np.savez(tmp_path / f"{name}.npz", **arrays)
        data = open_data(tmp_path / f"{name}.npz")
        assert levels_agree(data)
        assert data.train.attribute_names == (NAMES if name == "named" else ("attribute0", "attribute1"))
    np.save(tmp_path / "bare.npy", pixels)
    np.save(tmp_path / "bare.attributes.npy", values[:, 0])
    data = open_data(tmp_path / "bare.npy")
    assert levels_agree(data)
    assert data.train.attribute_names == ("attribute",)
    both = {"images": pixels, "labels": np.arange(24) % 3, "attributes": values}
    np.savez(tmp_path / "both.npz", **both)
    assert open_data(tmp_path / "both.npz").train.classes == 3
    assert open_data(tmp_path / "both.npz", attributes="attribute0").train.told == 1


@pytest.mark.parametrize(
    ("arrays", "words"),
    [
        ({"attributes": np.zeros((5, 2))}, "24 images, its continuous labels the shape"),
        ({"attributes": np.full((24, 2), np.inf)}, "not all finite"),
        ({"attributes": np.zeros((24, 2)), "attribute_names": np.array(["a", "a"])}, "named a, a"),
        ({"labels": np.zeros((24, 2, 2))}, "the shape"),
    ],
)
def test_arrays_that_cannot_be_meant(tmp_path: Path, arrays: dict[str, np.ndarray], words: str) -> None:
    np.savez(tmp_path / "a.npz", images=plain()[0], **arrays)
    with pytest.raises(DataError, match=words):
        open_data(tmp_path / "a.npz")


class Spy(nn.Module):
    """A network that remembers what it was told, and answers with its first attribute."""

    def __init__(self, attributes: int) -> None:
        super().__init__()
        self.image_shape, self.classes, self.attributes = (1, 8, 8), 0, attributes
        self.weight = nn.Parameter(torch.ones(()))
        self.heard: list[Tensor | None] = []

    def forward(self, x: Tensor, level: Tensor, label: Tensor | None = None) -> Tensor:
        self.heard.append(label)
        told = 0.0 if label is None else label[:, 0].nan_to_num(-7.0).view(-1, 1, 1, 1)
        return self.weight * (0 * x + told)


def shown() -> Images:
    pixels, values = plain()
    return Images(pixels[..., None], attributes=values, attribute_names=NAMES)


def test_the_network_hears_them_standardised() -> None:
    data, spy = shown(), Spy(2)
    denoiser = EDMDenoiser(in_units(spy, data))
    assert (denoiser.attributes, denoiser.attribute_names) == (2, NAMES)
    batch = data.batch(0, 0, 24)  # one epoch
    denoiser(batch.image, torch.ones(24), batch.condition)
    heard = spy.heard[-1]
    assert heard is not None
    torch.testing.assert_close(heard.mean(0), torch.zeros(2), atol=1e-4, rtol=0)
    torch.testing.assert_close(heard.std(0, correction=0), torch.ones(2), atol=1e-4, rtol=0)
    denoiser(batch.image, torch.ones(24), Condition())
    assert spy.heard[-1] is None


def test_guidance_leads_away_from_none() -> None:
    denoiser = EDMDenoiser(in_units(spy := Spy(2), shown()))
    told = Condition(label=torch.tensor([[0.5, 1993.0]]))
    Guided(denoiser, 2.0)(torch.zeros(1, 1, 8, 8), torch.ones(1), told)
    heard = spy.heard[-1]
    assert heard is not None
    assert heard.isnan().all(1).tolist() == [False, True]


def model(guidance: float = 1.0, sampler: str = "heun") -> DiffusionModel:
    torch.manual_seed(0)
    network = in_units(
        UNet((1, 8, 8), attributes=2, width=8, multipliers=(1,), blocks=1, attention=0), shown()
    )
    for parameter in network.parameters():
        parameter.data.add_(0.1 * torch.randn(parameter.shape))
    return DiffusionModel(EDMDenoiser(network), DiffusionOptions(2, sampler, guidance=guidance)).eval()


def test_a_model_asks_in_the_units_of_the_data() -> None:
    ours, values = model(), plain()[1]
    assert (ours.attributes, ours.attribute_names, ours.wants) == (2, NAMES, {"label"})
    asked = ours.labels_for(range(30))
    assert asked is not None
    np.testing.assert_allclose(asked[:24].numpy(), values, rtol=1e-6)
    assert torch.equal(asked[24:], asked[:6])  # in turn
    same = ours.sample([1], Condition(label=asked[1:2]))
    assert torch.equal(ours.sample([0, 1])[1:], same)
    other = ours.sample([1], Condition(label=asked[20:21]))
    assert not torch.equal(same, other)
    for wrong, words in (
        (torch.tensor([3]), "brightness, year"),
        (torch.zeros(1, 3), "brightness, year"),
        (torch.tensor([[0.1, math.inf]]), "infinite"),
    ):
        with pytest.raises(WrongUse, match=words):
            ours.sample([1], Condition(label=wrong))
    twin = from_tree(json.loads(json.dumps(to_tree(ours))))
    twin.load_state_dict(ours.state_dict())
    assert torch.equal(twin.eval().sample(range(3)), ours.sample(range(3)))


def test_an_exam_asks_for_what_training_images_have() -> None:
    data, ours = open_data("shapes:40", size=8, channels=1, attributes="radius,x"), model()
    exam = Exam(ours, data, n=8)
    assert exam.condition("fake") is None  # other attributes: the model's own examples are taken
    ours.attribute_names = ("radius", "x")
    chosen = {"real": (data.held_out, exam.chosen), "fake": (data.train, shuffle(len(data.train))[:8])}
    for which, (images, rows) in chosen.items():
        condition = exam.condition(which)  # type: ignore[arg-type]
        assert condition is not None
        assert condition.label is not None
        np.testing.assert_array_equal(condition.label.numpy(), images.attributes[rows])  # type: ignore[index]
    assert exam.labels("fake") is None  # nothing that metrics of classes could take


def test_the_exported_graph_takes_them(tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    done = export(model(2.0, "euler"), tmp_path / "m.onnx", batches=(3,))
    assert done.inputs["label"] == "float32 (batch, 2)"
    assert done.difference is not None
    assert done.difference < 1e-4


RECIPES = [name for name, spec in catalog.recipes().items() if not spec.needs_labels]


@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_learns_them(name: str) -> None:
    spec, data = brief(catalog.recipes()[name]), shown()
    ours = spec(data, **spec.small).method.model
    assert (ours.attributes, ours.attribute_names) == (2, NAMES)
    with torch.no_grad():
        for parameter in ours.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1)))
        asked = [Condition(label=torch.tensor([[light, 1993.0]])) for light in (0.1, 0.9)]
        low, high = (ours.eval()(Noise([1]), condition) for condition in asked)
    assert not torch.allclose(low, high, atol=1e-4)


def test_from_a_folder_to_a_picture(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Trained on a folder with a table, opened again, and asked by name on the command line."""
    data = open_data(write_folder(tmp_path / "set"))
    spec = brief(catalog.recipe("edm"))
    settings = Settings(budget="16-images", ticks=1, device="cpu")
    run = train(spec, data, tmp_path / "run", arguments=spec.small, settings=settings)
    found = load_model(run.path, "cpu")
    assert found.attribute_names == NAMES
    out = tmp_path / "asked.npz"
    flags = ["sample", str(run.path), "--out", str(out), "--seeds", "4", "--steps", "1"]
    assert cli.run([*flags, "--attributes", "year=1991,brightness=0.3"]) == 0
    expected = found.using(steps=1).sample([4], Condition(label=torch.tensor([[0.3, 1991.0]])))
    assert np.array_equal(np.load(out)["arr_0"], expected.permute(0, 2, 3, 1).numpy())
    assert cli.run([*flags, "--attributes", "0.3"]) == 2
    assert cli.run([*flags, "--attributes", "0.3,1991", "--label", "7"]) == 2
    assert "brightness=0,year=0" in capsys.readouterr().err
    with pytest.raises(WrongUse, match="is told brightness, year"):
        catalog.recipe("consistency")(plain_only(), **spec.small, teacher=str(run.path))


def plain_only() -> Images:
    """The same images, of which nothing is known."""
    return Images(plain()[0][..., None])

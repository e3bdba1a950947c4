"""Sweeps: the same model at several values of an option, and what is drawn of them."""

from __future__ import annotations

import json
from pathlib import Path
from xml.etree import ElementTree

import pytest

from conftest import brief, made_up
from conftest import train_unprobed as train
from diptych import catalog
from diptych.adversarial.style import StyleModel
from diptych.cli import run as command
from diptych.drawing import drawn_schedules, named_schedule, noised
from diptych.errors import WrongUse
from diptych.measuring.sweep import steps_between, sweep
from diptych.networks.stylegan2 import StyleGAN2Generator
from diptych.report.lines import Line, Panel, Point, figure
from diptych.runs import Run, save_model
from diptych.training.state import Settings


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    spec = brief(catalog.recipe("edm"))
    settings = Settings(budget="96-images", ticks=2, device="cpu")
    out = tmp_path_factory.mktemp("sweep") / "run"
    return train(spec, made_up(n=128), out, arguments=spec.small, settings=settings)


def test_each_value_is_measured_as_if_alone(run: Run) -> None:
    data = made_up(n=128)
    model = run.model()
    metrics = ["fid", "precision_recall"]
    found = sweep(model, "guidance", [1, 2.5], options={"steps": 3}, against=data, n=20, metrics=metrics)
    from diptych.measuring.grading import grade

    alone = grade([model.using(guidance=2.5, steps=3)], data, n=20, metrics=metrics).reports[0]
    assert found.values == (1, 2.5)
    assert found.reports[1].scores["fid"].value == pytest.approx(alone.scores["fid"].value, rel=1e-6)
    assert found.reports[0].options["guidance"] == 1
    assert set(found.best) == {"fid", "precision", "recall"}
    assert found.best["fid"] == min(found.values, key=lambda v: found.reports[v > 1].scores["fid"].value)
    ElementTree.fromstring(found.drawn())


def test_integers_stay_integers(run: Run) -> None:
    found = sweep(run.model(), "steps", [2.0, 3.0], against=made_up(n=128), n=20, metrics=["fid"])
    assert [report.options["steps"] for report in found.reports] == [2, 3]


def test_names_have_places_of_their_own(run: Run, tmp_path: Path) -> None:
    """No line joins them; the axis has names where numbers were."""
    model, names = run.model(), ["heun", "ddim", "dpm++2m"]
    metrics = ["fid", "precision_recall"]
    found = sweep(
        model, "sampler", names, options={"steps": 3}, against=made_up(n=128), n=20, metrics=metrics
    )
    assert [report.options["sampler"] for report in found.reports] == names
    assert found.best["fid"] in names
    found.save(tmp_path)
    rows = (tmp_path / f"{found.stem}.md").read_text().splitlines()
    assert [row.split(" | ")[0] for row in rows[2:]] == [
        f"| {name}" for name in (*names, "floor (real images)")
    ]
    assert rows[0] == "| sampler | fid ↓ (n = 20) | precision ↑ (n = 20) | recall ↑ (n = 20) |"
    assert rows[2] == f"| heun | {' | '.join(map(str, found.reports[0].scores.values()))} |"
    assert rows[-1].endswith(f"| {' | '.join(str(found.reports[0].floor[s]) for s in found.scores)} |")
    root = ElementTree.fromstring((tmp_path / f"{found.stem}.svg").read_text())
    texts = [text.text for text in root.iter("{http://www.w3.org/2000/svg}text")]
    assert all(texts.count(name) == 3 for name in names)  # under two panels, at the points of the third
    assert not [p for p in root.iter("{http://www.w3.org/2000/svg}polyline") if p.get("class") == "curve"]
    with pytest.raises(WrongUse, match="twice"):
        sweep(model, "sampler", ["heun", "heun"], against=made_up(n=128), n=20)
    with pytest.raises(WrongUse, match="sampler"):
        sweep(model, "sampler", ["heun", "nonsense"], against=made_up(n=128), n=20)


def test_every_score_that_was_asked_for_is_drawn_with_its_floor(run: Run, tmp_path: Path) -> None:
    asked = ["fid", "precision_recall", "kid", "sharpness"]
    found = sweep(run.model(), "steps", [1, 2], against=made_up(n=128), n=20, metrics=asked)
    svg = ElementTree.fromstring(found.drawn())
    space = "{http://www.w3.org/2000/svg}"
    heads = [text.text for text in svg.iter(f"{space}text") if text.get("class") == "head"]
    assert heads == [
        "fid ↓",
        "precision and recall ↑",
        "kid ↓",
        "spectrum_distance ↓",
        "sharpness_ratio",
        "precision against recall, by steps",
    ]
    floors = [path for path in svg.iter(f"{space}path") if path.get("class") == "floor"]
    assert len(floors) == len(found.reports[0].floor) == 6
    bare = sweep(run.model(), "steps", [1, 2], against=made_up(n=128), n=20, metrics=["kid"], floor=False)
    assert "floor" not in [path.get("class") for path in ElementTree.fromstring(bare.drawn()).iter()]
    assert "real images" not in bare.drawn()
    assert [row[0] for row in bare.rows()] == ["1", "2"]


def test_names_keep_their_places_where_nothing_is_measured() -> None:
    """The last of three has no number: its name still has a place of its own."""
    line = Line("fid", [Point(0, 1.0), Point(1, 2.0), Point(2, float("nan"))], joined=False)
    svg = str(figure("x", "x", [Panel("fid", "sampler", [line], names=["a", "b", "c"])]))
    texts = ElementTree.fromstring(svg).iter("{http://www.w3.org/2000/svg}text")
    places = [float(text.get("x", "nan")) for text in texts if text.text in ("a", "b", "c")]
    assert places[1] - places[0] == pytest.approx(places[2] - places[1], abs=0.2)
    assert places[1] - places[0] > 50


def test_command_leaves_table_and_drawing(
    run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = brief(catalog.recipe("edm"))
    from diptych.data import open_data

    out = tmp_path / "digits"
    train(spec, open_data("digits"), out, arguments=spec.small, settings=Settings(budget="16-images"))
    arguments = ["sweep", str(out), "--guidance", "1,2", "--steps", "2", "--n", "20", "--metric", "fid"]
    assert command([*arguments, "--json"]) == 0
    tree = json.loads(capsys.readouterr().out)
    assert tree["values"] == [1, 2]
    assert "2 steps" in tree["model"]
    assert {p.suffix for p in (out / "sweeps").glob("guidance-steps-2.*")} == {".json", ".md", ".svg"}
    assert command([*arguments[:4], "--steps", "1", *arguments[6:]]) == 0  # leaves the other one there
    assert len(list((out / "sweeps").iterdir())) == 6
    assert "guidance-steps-1.svg" in capsys.readouterr().out
    named = ["sweep", str(out), "--sampler", "heun, ddim", "--steps", "2", "--n", "20", "--metric", "fid"]
    assert command([*named, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["values"] == ["heun", "ddim"]
    assert (out / "sweeps" / "sampler-steps-2.svg").exists()
    assert command(["sweep", str(out), "--steps", "2"]) == 2
    assert "given as a range" in capsys.readouterr().err
    assert command(["sweep", str(out), "--nonsense", "1:2:1"]) == 2
    assert "no option" in capsys.readouterr().err


def test_words_of_a_fixed_list_are_swept(tmp_path: Path) -> None:
    network = StyleGAN2Generator((1, 8, 8), style=8, latent=8, base=64, largest=8)
    save_model(StyleModel(network), tmp_path / "style")
    words = f"sweep {tmp_path / 'style'} --noise const,none --against digits --n 20 --metric fid"
    assert command(words.split()) == 0
    assert (tmp_path / "style" / "sweeps" / "noise.svg").exists()


@pytest.mark.parametrize("text", ["1:2", "a:b:c", "1:2:0", "2:1:1", "1:inf:1", "x,y", "0:1e9:1"])
def test_ranges_that_mean_nothing(text: str) -> None:
    with pytest.raises(WrongUse, match="range"):
        steps_between(text)


def test_ranges() -> None:
    assert steps_between("1:4:0.5") == [1, 1.5, 2, 2.5, 3, 3.5, 4]
    assert steps_between("3:1:-1") == [3, 2, 1]
    assert steps_between("5,10,20") == [5, 10, 20]
    with pytest.raises(WrongUse, match="2 to 50"):
        sweep(made_up(), "guidance", [1.0])  # type: ignore[arg-type]


def test_schedules_are_drawn(run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "s.svg"
    assert command(["draw", "schedule", "linear", "flow", str(run.path), "--out", str(out)]) == 0
    root = ElementTree.fromstring(out.read_text())
    images = root.findall("{http://www.w3.org/2000/svg}image")
    assert len(images) == 3
    assert command(["draw", "schedule", "lineer", "--out", str(out)]) == 2
    assert "linear" in capsys.readouterr().err
    ElementTree.fromstring(drawn_schedules({"cosine": named_schedule("cosine")}))


def test_schedules_with_a_setting_are_drawn_sampled_and_swept(
    run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, picture = tmp_path / "s.svg", tmp_path / "x.png"
    assert command(["draw", "schedule", "flow:3", "linear:zero-snr", "--out", str(out)]) == 0
    assert "linear:zero-snr" in out.read_text()
    assert command(["draw", "schedule", "flow:three", "--out", str(out)]) == 2
    assert "flow:three is not a number" in capsys.readouterr().err
    sample = ["sample", str(run.path), "--out", str(picture), "--seeds", "0-1", "--steps", "2"]
    assert command([*sample, "--grid", "trailing", "--schedule", "flow:3"]) == 0
    assert command([*sample, "--grid", "trailing", "--schedule", "ve:3"]) == 2
    assert "the schedule ve has no setting '3'" in capsys.readouterr().err
    how = ["--grid", "trailing", "--against", "digits", "--n", "40", "--metric", "fid", "--json"]
    swept = ["sweep", str(run.path), *how, "--out", str(tmp_path)]
    for options, values in (
        (["--schedule", "flow,flow:3", "--steps", "2"], ["flow", "flow:3"]),
        (["--schedule", "flow:3", "--steps", "2,3"], [2, 3]),  # a colon alone makes no range of it
    ):
        assert command([*swept, *options]) == 0
        assert json.loads(capsys.readouterr().out)["values"] == values


def test_forward_noising_ends_are_image_and_noise() -> None:
    images = made_up().train.tensor(slice(0, 2))
    for name in ("linear", "flow", "ve"):
        steps = noised(images, named_schedule(name), [0.0, 1.0])
        assert steps.shape == (2, 2, *images.shape[1:])
        assert (steps[:, 0].int() - images.int()).abs().max() < 12
        other = noised(255 - images, named_schedule(name), [1.0])
        assert (
            steps[:, 1].int() - other[:, 0].int()
        ).abs().float().mean() < 3  # nothing is left of the image

"""Run directories and files: round trips, atomic writes, and what a damaged or hostile file may do."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from conftest import train_unprobed as train
from diptych import api, catalog, contest, exporter
from diptych.adversarial.latent import LatentModel, LatentOptions
from diptych.data.images import DataSet
from diptych.errors import RunError, WrongUse
from diptych.model import Condition, Noise
from diptych.networks.r3gan import R3Generator
from diptych.runs import Run, load_model, open_run, save_model, vacant
from diptych.saveable import from_tree, rebuilt, saveable, to_tree
from diptych.system.files import read_json, read_state, write, write_json, write_state, write_tensors
from diptych.training.rerun import runs_in
from diptych.training.state import Settings


@pytest.fixture
def model() -> LatentModel:
    torch.manual_seed(0)
    return LatentModel(R3Generator((1, 8, 8), classes=3, width=8, blocks=1), LatentOptions(truncation=0.5))


def test_model_round_trip(model: LatentModel, tmp_path: Path) -> None:
    save_model(model, tmp_path)
    twin = load_model(tmp_path, "cpu")
    assert twin.options == LatentOptions(truncation=0.5)
    assert torch.equal(twin.sample(range(4)), model.sample(range(4)))
    assert not any(p.requires_grad for p in twin.parameters())
    assert not twin.training


def test_state_round_trip(tmp_path: Path) -> None:
    shared = torch.randn(3)
    state: dict[str, Any] = {
        "numbers": {1: "one", 2: [1.5, None, True]},
        "pair": (torch.arange(4), {"deep": torch.tensor(7.0, dtype=torch.float64)}),
        "channels-last": torch.randn(2, 3, 4, 4).contiguous(memory_format=torch.channels_last),
        "twice": [shared, shared],
        "empty": {},
        "half": torch.randn(3).bfloat16(),
    }
    write_state(tmp_path / "s.safetensors", state)
    back = read_state(tmp_path / "s.safetensors")
    assert back["numbers"] == state["numbers"]
    assert isinstance(back["pair"], tuple)
    assert torch.equal(back["pair"][0], state["pair"][0])
    assert back["pair"][1]["deep"].dtype == torch.float64
    assert torch.equal(back["channels-last"], state["channels-last"])
    assert torch.equal(back["twice"][0], back["twice"][1])
    assert back["half"].dtype == torch.bfloat16
    assert back["empty"] == {}


def test_a_failed_write_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    write_json(path, {"good": 1})

    def fail(temporary: Path) -> None:
        temporary.write_text("half of")
        raise OSError(28, "No space left on device")

    with pytest.raises(RunError, match=r"a\.json could not be written: No space left"):
        write(path, fail)
    assert read_json(path) == {"good": 1}
    assert [p.name for p in tmp_path.iterdir()] == ["a.json"]


def test_files_are_readable_by_others(tmp_path: Path) -> None:
    write_tensors(tmp_path / "t.safetensors", {"a": torch.zeros(1)})
    write_json(tmp_path / "t.json", {})
    plain = tmp_path / "plain"
    plain.write_text("")
    modes = {path.stat().st_mode for path in tmp_path.iterdir()}
    assert modes == {plain.stat().st_mode}


@pytest.mark.parametrize(
    ("tree", "said"),
    [
        ({"class": "os:system", "command": "true"}, "not a @saveable"),
        ({"class": "builtins:eval", "source": "1"}, "not a @saveable"),
        ({"class": "diptych.cli:main"}, "not a @saveable"),
        ({"class": "diptych.networks.unet:Block", "c_in": 1}, "not a @saveable"),
        ({"class": "diptych.networks.nothing:X"}, "does not exist"),
        ({"class": "diptych.cli.nothing:X"}, "not a @saveable"),
        ({"class": "diptych.__import__('os'):X"}, "not a @saveable"),
        ({"class": 7}, "without a class"),
        ({"no": "class"}, "without a class"),
        ({"class": "diptych.adversarial.latent:LatentModel", "extra": 1}, "'extra'"),
        ({"class": "diptych.adversarial.latent:LatentModel"}, "cannot be built"),
        ({"class": "diptych.adversarial.latent:LatentOptions", "truncation": 5.0}, "cannot be built"),
        ({"class": "diptych.networks.r3gan:R3Generator", "image_shape": "abc"}, "cannot be built"),
        ([1, 2], "does not describe a model"),
        ({"class": "diptych.adversarial.latent:LatentOptions"}, "does not describe a model"),
    ],
    ids=str,
)
def test_hostile_or_damaged_model_json(tree: Any, said: str, tmp_path: Path) -> None:
    write_json(tmp_path / "model.json", tree)
    with pytest.raises(RunError, match=said):
        load_model(tmp_path, "cpu")


def test_damaged_files_are_named(model: LatentModel, tmp_path: Path) -> None:
    save_model(model, tmp_path)
    weights = tmp_path / "model.safetensors"
    whole = weights.read_bytes()
    for damaged in (b"", whole[: len(whole) // 2], b"\xff" * 64 + whole[64:]):
        weights.write_bytes(damaged)
        with pytest.raises(RunError, match=r"model\.safetensors"):
            load_model(tmp_path, "cpu")
    write_tensors(weights, {"other": torch.zeros(1)})
    with pytest.raises(RunError, match="does not fit"):
        load_model(tmp_path, "cpu")
    weights.unlink()
    with pytest.raises(RunError, match="there is no"):
        load_model(tmp_path, "cpu")
    (tmp_path / "model.json").write_text("{")
    with pytest.raises(RunError, match=r"model\.json cannot be read"):
        load_model(tmp_path, "cpu")
    write_tensors(tmp_path / "x.safetensors", {"a": torch.zeros(1)})
    with pytest.raises(RunError, match="not a training state"):
        read_state(tmp_path / "x.safetensors")


def test_missing_runs_say_how_to_make_one(tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"there is no .*nothing") as error:
        open_run(tmp_path / "nothing")
    assert "diptych train" in error.value.hint
    with pytest.raises(RunError, match="no run in"):
        open_run(tmp_path)


def test_a_torn_log_line_is_left_out(tmp_path: Path) -> None:
    (tmp_path / "log.jsonl").write_text(json.dumps({"images": 1}) + "\n" + '{"images": 2, "los')
    assert Run(tmp_path).log() == [{"images": 1}]


def test_saveable_remembers_defaults_and_nesting(model: LatentModel) -> None:
    tree = to_tree(model)
    assert tree["network"]["group"] == 16  # a default, so that a later default does not change an old model
    assert tree["options"] == {
        "class": "diptych.adversarial.latent:LatentOptions",
        "truncation": 0.5,
        "threshold": 0.0,
    }
    assert to_tree(from_tree(tree)) == tree


def test_rebuilt_shares_its_parts(model: LatentModel) -> None:
    twin = rebuilt(model, options=LatentOptions())
    assert twin.network is model.network
    assert model.options.truncation == 0.5


def test_what_cannot_be_saved_says_so() -> None:
    class Plain(nn.Module):
        pass

    @saveable
    class Holder(nn.Module):
        def __init__(self, part: object) -> None:
            super().__init__()

    with pytest.raises(RunError, match="Plain"):
        to_tree(Plain())
    with pytest.raises(RunError, match="Plain"):
        to_tree(Holder(Plain()))
    with pytest.raises(RunError, match="set"):
        to_tree(Holder({1, 2}))


def test_noise_is_one_stream_an_image() -> None:
    together, alone = Noise([5, 6, 7]), Noise([6])
    first, second = together.normal(2, 3), together.normal(4)
    assert torch.equal(first[1], alone.normal(2, 3)[0])
    assert torch.equal(second[1], alone.normal(4)[0])
    again = Noise.given([first, second])
    assert torch.equal(again.normal(2, 3), first)
    assert torch.equal(again.normal(4), second)
    assert abs(Noise(range(5000)).normal(8).std().item() - 1) < 0.01


def test_conditions(model: LatentModel) -> None:
    condition = Condition(label=torch.tensor([0, 1, 2]))
    assert condition[1:].label is not None
    assert condition.given() == {"label"}
    assert model.wants == {"label"}
    with pytest.raises(WrongUse, match="3 seeds but 2"):
        model.sample(range(3), Condition(label=torch.tensor([0, 1])))


def test_runs_at_home_are_written_there(
    data: DataSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where no shell has replaced the ~: in Python, and after --out=."""
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    spec = catalog.recipe("dcgan")
    settings = Settings(budget="16-images", ticks=1, device="cpu")
    run = train(spec, data, "~/runs/a", arguments=spec.small, settings=settings)
    assert run.path == tmp_path / "home" / "runs" / "a" == Run(Path("~/runs/a")).path
    assert open_run("~/runs/a").finished
    assert vacant("~/runs/b") == tmp_path / "home" / "runs" / "b"
    assert [found.path for found in runs_in("~/runs")] == [run.path]
    assert [path.name for path in tmp_path.iterdir()] == ["home"]


def test_verbs_of_python_write_at_home(
    model: LatentModel, data: DataSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    places: list[Path] = []
    monkeypatch.setattr(contest, "duel", lambda data, entries, out, **how: places.append(out))
    monkeypatch.setattr(exporter, "export", lambda model, out, **how: places.append(out))
    api.duel(data, "~/duel")
    api.export(model, "~/model.onnx")
    assert places == [tmp_path / "duel", tmp_path / "model.onnx"]


def test_a_model_knows_where_it_lies(model: LatentModel) -> None:
    assert model.device == torch.device("cpu")
    assert model.to("meta").device == torch.device("meta")
    model.network = nn.Identity()
    assert model.device == torch.device("cpu")  # no weights: nothing to move

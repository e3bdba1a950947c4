"""Arguments out of Python: numbers of numpy, paths and devices are taken, what cannot be meant is named."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import diptych
from conftest import made_up
from diptych import catalog
from diptych.cli.duel import apart, entry
from diptych.data.images import DataSet
from diptych.errors import WrongUse
from diptych.recipe import Recipe, recipe
from diptych.system.files import read_json
from diptych.training.state import Settings

GAN = catalog.recipe("dcgan")
SHORT: dict[str, Any] = {**GAN.small, "budget": "16-images", "ticks": 1, "device": "cpu", "exam": 0}


def test_numbers_of_numpy_paths_and_devices_are_arguments_as_any(data: DataSet, tmp_path: Path) -> None:
    first = diptych.train("dcgan", data, tmp_path / "first", **SHORT)
    given = {**SHORT, "width": np.int64(8), "lr": np.float32(1e-4), "ticks": np.int32(1)}
    given |= {
        "exam": np.int64(0),
        "init": first.path,
        "device": torch.device("cpu"),
        "compile": np.bool_(False),
    }
    run = diptych.train("dcgan", data, tmp_path / "run", **given)
    recorded = read_json(run.path / "recipe.json")
    assert recorded["arguments"]["width"] == 8
    assert recorded["arguments"]["lr"] == float(np.float32(1e-4))
    assert recorded["settings"]["device"] == "cpu"
    assert recorded["settings"]["init"] == str(first.path)
    plain = {**given, "width": 8, "lr": float(np.float32(1e-4)), "init": str(first.path), "device": "cpu"}
    assert diptych.train("dcgan", data, run.path, **plain).log() == run.log()  # the same command


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"budget": 32}, "budget is 32, not text"),
        ({"width": "8"}, "width is '8', not a whole number"),
        ({"width": 8.0}, "width is 8.0, not a whole number"),
        ({"lr": "fast"}, "lr is 'fast', not a finite number"),
        ({"augment": None}, "augment is None, not text"),
        ({"compile": "no"}, "compile is 'no', not true or false"),
        ({"seed": 1.5}, "seed is 1.5, not a whole number"),
        ({"exam": "all"}, "exam is 'all', not a whole number or 'auto'"),
        ({"force": "no"}, "force is 'no', not true or false"),
        ({"size": (8, 8)}, "size is a list of 2, not a whole number or null"),
        ({"flip": "no"}, "flip is 'no', not true or false"),
        ({"fit": "zoom"}, "fit is 'zoom', not 'crop' or 'pad' or 'stretch'"),
    ],
    ids=str,
)
def test_an_argument_of_another_type_is_named(wrong: dict[str, Any], says: str, tmp_path: Path) -> None:
    with pytest.raises(WrongUse) as raised:
        diptych.train("dcgan", "digits", tmp_path / "run", **{**SHORT, **wrong})
    assert raised.value.message == says
    (name,) = wrong
    assert raised.value.hint.startswith(f"the default is {name}=")
    assert not (tmp_path / "run").exists()


def test_what_data_and_duels_are_told_may_be_of_numpy_too(tmp_path: Path) -> None:
    short: dict[str, Any] = {"size": np.int64(8), "cache": tmp_path, "held_out": np.int64(100)}
    run = diptych.train("dcgan", "digits", tmp_path / "run", **{**SHORT, **short})
    assert run.recipe["data"]["arguments"]["size"] == 8
    with pytest.raises(WrongUse, match="n is 'many', not a whole number"):
        diptych.duel(made_up(), tmp_path / "duel", [("dcgan", GAN.small)], n="many")
    with pytest.raises(WrongUse, match=r"at_most\.fid is 'low', not a finite number"):
        diptych.duel(made_up(), tmp_path / "duel", [("dcgan", GAN.small)], at_most={"fid": "low"})


def test_options_may_be_of_numpy() -> None:
    model = GAN(made_up().train, **GAN.small).method.model
    truncation = model.using(truncation=np.float64(0.5)).options.truncation
    assert type(truncation) is float


def test_whole_numbers_of_any_length_reach_those_who_bound_them() -> None:
    assert Settings(seed=2**64 - 1).seed == 2**64 - 1
    assert GAN.fitted({"lr": 1}) == {**GAN.defaults, "lr": 1}  # a whole number will do


def test_a_duel_types_what_its_line_says() -> None:
    """Its text is looked at for names first; ranges are of numbers."""
    assert entry("edm:dropout=0.1:width=16").arguments == {"dropout": 0.1, "width": 16}
    assert entry("ddpm:betas=flow:3:width=16").arguments == {"betas": "flow:3", "width": 16}
    assert entry("dcgan:penalties=r1:0.1:16,lecam").arguments == {"penalties": "r1:0.1:16,lecam"}
    with pytest.raises(WrongUse, match="'width' in 'edm:width' is not argument=value"):
        entry("edm:width")


@pytest.mark.parametrize(
    "contenders",
    [
        ["r3gan", " edm:width=32:lr=1e-3", "consistency"],
        ["dcgan:penalties=r1:0.1:16,lecam:lr=1e-3", "edm"],
        ["sngan:penalties=dragan,lecam", "edm"],
        ["edm:width=16", "emd"],  # an unknown name is one, after a number
        ["nothing", "edm"],
    ],
)
def test_commas_end_contenders_unless_an_argument_has_them(contenders: list[str]) -> None:
    assert apart(",".join(contenders)) == contenders


def test_a_directory_ends_an_argument_too(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    contenders = ["dcgan:penalties=lecam", f"mine={tmp_path / 'run'}", str(tmp_path / "run"), "edm"]
    assert apart(",".join(contenders)) == contenders


def test_a_recipe_need_not_say_its_types() -> None:
    def mine(data, *, width=8):  # type: ignore[no-untyped-def]
        return Recipe(GAN(data, **GAN.small).method, batch=width)

    spec = recipe()(mine)
    assert spec(made_up().train, width=np.int64(4)).batch == 4
    assert spec.runs == []

"""A recipe of classes on images without labels: it says so at the start, and its model when it is asked."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
import torch

from conftest import made_up
from diptych import catalog
from diptych.cli import run
from diptych.errors import WrongUse
from diptych.methods.biggan import say_unlabelled
from diptych.model import Condition
from diptych.runs import save_model


@pytest.mark.parametrize("name", ["biggan", "biggan-deep"])
def test_a_recipe_of_classes_says_that_there_are_none(name: str, caplog: pytest.LogCaptureFixture) -> None:
    spec = catalog.recipe(name)
    say_unlabelled.cache_clear()
    with caplog.at_level(logging.WARNING, "diptych"):
        spec(made_up().train, **spec.small)
        assert not caplog.messages
        for _ in range(3):  # a training builds it for the probe too
            spec(made_up(classes=0).train, **spec.small)
    (said,) = caplog.messages
    assert said.startswith(f"no labels were found, so {name} is trained without classes")
    assert "numbers in a labels.csv give attributes" in said  # and no classes
    with caplog.at_level(logging.WARNING, "diptych"):
        spec(made_up(classes=0, n=65).train, **spec.small)  # another training of the same process
    assert len(caplog.messages) == 2


def test_a_model_without_classes_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    spec = catalog.recipe("r3gan")
    model = spec(made_up(classes=0).train, **spec.small).method.model
    with pytest.raises(WrongUse, match="this model was trained without classes"):
        model.sample([0], Condition(label=torch.tensor([3])))
    save_model(model, tmp_path / "run")
    words = ["sample", str(tmp_path / "run"), "--out", str(tmp_path / "x.png"), "--label", "3"]
    assert run([*words, "--device", "cpu"]) == 2
    assert "trained without classes" in " ".join(capsys.readouterr().err.split())


def test_a_list_of_files_has_no_flag_that_empties_it(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["invert", "--help"]) == 0
    assert "--empty-" not in capsys.readouterr().out

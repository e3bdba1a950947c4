"""Losses and penalties by name: what a recipe's `loss` and `penalties` mean, and what they refuse."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

import diptych
from conftest import made_up
from diptych import catalog
from diptych.adversarial.losses import GAMES
from diptych.adversarial.named import PENALTIES, penalties_of
from diptych.adversarial.penalties import LeCam, SlopePenalty
from diptych.errors import WrongUse
from diptych.method import Clock
from diptych.methods.adversarial import Adversarial

GANS = [name for name, spec in catalog.recipes().items() if "penalties" in spec.defaults]
START = Clock(0, 100, 0)


def built(name: str, **given: object) -> Adversarial:
    """A small one, for made-up images."""
    spec = catalog.recipes()[name]
    method = spec(made_up().train, **{**spec.small, **given}).method
    assert isinstance(method, Adversarial)
    return method


def test_a_text_names_terms_with_their_weights_and_steps() -> None:
    lazy, lecam = penalties_of("r1:0.1:16, lecam")
    assert isinstance(lazy, SlopePenalty)
    assert (lazy.name, lazy.weight(START), lazy.every) == ("r1", 0.1, 16)
    assert isinstance(lecam, LeCam)
    assert (lecam.weight, lecam.every) == (0.3, 1)
    assert penalties_of("none") == penalties_of("") == []


def test_every_gan_has_them() -> None:
    assert len(GANS) == 10


@pytest.mark.parametrize("name", PENALTIES)
def test_each_term_reaches_the_critic(name: str) -> None:
    """The critic's loss differs from the one without by the term's share of the size that is logged."""
    batch = made_up().train.batch(0, 0, 16)
    losses = {}
    for weight in (0.0, 1.0):
        torch.manual_seed(0)
        losses[weight] = built("dcgan", penalties=f"{name}:{weight}").critic_loss(batch, START)
    (without, _), (loss, logs) = losses[0.0], losses[1.0]
    parts = ("r1", "r2") if name.endswith("r1r2") else (name.replace("-", "_"),)
    size = torch.stack([logs[part] for part in parts]).sum()
    assert size > 0
    torch.testing.assert_close(loss - without, size / 2 if parts[0] in ("r1", "r2") else size)


@pytest.mark.parametrize("name", [name for name in GANS if name != "wgan-gp"])  # Wasserstein's, or another
def test_each_recipe_takes_another_loss_and_a_term(name: str) -> None:
    own = built(name, loss="least-squares")
    method = built(name, loss="least-squares", penalties="lecam:0.1")
    assert method.game is GAMES["least-squares"]
    assert [term.name for term in method.penalties] == [*(term.name for term in own.penalties), "lecam"]


def test_a_training_logs_them(tmp_path: Path) -> None:
    flags = {**catalog.recipes()["sngan"].small, "loss": "hinge", "penalties": "dragan:1,r1:0.1:2"}
    diptych.train("sngan", made_up(), tmp_path / "run", budget="64-images", exam=0, **flags)
    lines = [json.loads(line) for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    assert lines[-1]["losses"]["dragan"] > 0
    assert any(line["losses"].get("r1", 0) > 0 for line in lines)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("r1:much", "'r1:much' is not name:weight:every"),
        ("r1:1:0", "is not name:weight:every"),
        ("r1:1:2:3", "is not name:weight:every"),
        ("r1:-1", "at least 0 and finite"),
        ("r1:nan", "at least 0 and finite"),
        ("lecamm", "there is no penalty called 'lecamm'"),
        ("r1,", "there is no penalty called ''"),
    ],
)
def test_what_cannot_be_read_is_named(text: str, says: str) -> None:
    with pytest.raises(WrongUse, match=says):
        built("sngan", penalties=text)


def test_a_term_twice_is_refused() -> None:
    with pytest.raises(WrongUse, match="has r1 twice"):
        built("stylegan2", penalties="r1:1")


def test_wasserstein_wants_a_bounded_slope() -> None:
    with pytest.raises(WrongUse, match="needs a bounded slope") as error:
        built("dcgan", loss="wasserstein")
    assert "--penalties gradient-penalty" in str(error.value.hint)
    built("dcgan", loss="wasserstein", penalties="gradient-penalty")
    with pytest.raises(WrongUse, match="no adversarial loss called wassertsein"):
        built("dcgan", loss="wassertsein")

"""Tuned noise levels: against exhaustive search, on data with a known denoiser, and from the command line."""

from __future__ import annotations

import json
import math
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from diptych.cli import run
from diptych.diffusion.denoiser import EDMDenoiser
from diptych.diffusion.model import DiffusionModel, DiffusionOptions
from diptych.diffusion.samplers import SAMPLERS
from diptych.diffusion.tuning import Case, candidates, difference, shortest, step_errors, tune, usual
from diptych.errors import WrongUse
from diptych.model import Noise
from diptych.runs import load_model, save_model
from diptych.saveable import saveable


@saveable
class Clusters(nn.Module):
    """EDM's F of the exact denoiser of two tight clusters a pixel: images are decided late and sharply."""

    image_shape, classes, attributes = (1, 4, 4), 0, 0

    def __init__(self, deviation: float = 0.05) -> None:
        super().__init__()
        self.deviation = nn.Parameter(torch.tensor(deviation))

    def forward(self, x: Tensor, level: Tensor, label: Tensor | None = None) -> Tensor:
        """x is scaled by 1 / sqrt(sigma^2 + 1/4), level is log(sigma) / 4."""
        sigma = (4 * level).exp().view(-1, 1, 1, 1)
        total = sigma**2 + 0.25
        noisy, s2 = x * total.sqrt(), self.deviation**2
        mean = 0.4 * (0.4 * noisy / (s2 + sigma**2)).tanh()
        clean = (s2 * noisy + sigma**2 * mean) / (s2 + sigma**2)
        return (clean - 0.25 / total * noisy) * total.sqrt() / (sigma * 0.5)


def model(sampler: str = "dpm++2m") -> DiffusionModel:
    """A model of clusters."""
    return DiffusionModel(EDMDenoiser(Clusters()), DiffusionOptions(sampler=sampler))


def test_shortest_path_is_the_best_of_all() -> None:
    """Dynamic programming against every choice of levels, where a step's error depends on the one before."""
    i, j, k = np.ogrid[:9, :9, :9]
    errors = np.where((i <= j) & (j < k), np.random.default_rng(0).random((9, 9, 9)), np.inf)

    def total(path: tuple[int, ...]) -> float:
        whole = (0, *path, 8)
        first = errors[0, 0, whole[1]]
        return first + sum(errors[i, j, k] for i, j, k in zip(whole, whole[1:], whole[2:], strict=False))

    for steps in (1, 2, 4):
        best = min(combinations(range(1, 8), steps - 1), key=total)
        assert shortest(errors, steps) == [0, *best]


@pytest.mark.parametrize(("kind", "sampler"), [("euler", "euler"), ("two", "dpm++2m")])
def test_errors_of_steps_are_those_of_the_sampler(kind: str, sampler: str) -> None:
    """The quadratic form beside the sampler itself, let loose on the fine solution."""
    levels = candidates(model(), 16)
    case = Case(model(), levels, range(4))
    assert case.seen is not None
    flat = case.seen.detach().flatten(1).double()
    n = len(levels)
    found = step_errors((flat @ flat.T).numpy() / flat.shape[1], levels, kind)
    assert not np.isnan(found).any()
    cleans, noises = case.seen[:n].detach(), case.seen[n:].detach()
    for i, j, k in ((2, 4, 7), (5, 6, 12), (3, 8, n)):
        start, at_j = (cleans[row] + levels[row] * noises[row] for row in (i, j))
        seen = {levels[i]: cleans[i], levels[j]: cleans[j]}
        # the first step takes the sampler from i to somewhere near j: from there on it is linear in x
        sigmas = [levels[i], levels[j], levels[k] if k < n else 0.0]
        kept = sigmas[2] / sigmas[1]
        near = SAMPLERS[sampler](lambda x, s, seen=seen: seen[s], start, sigmas[:2], Noise(()))
        end = SAMPLERS[sampler](lambda x, s, seen=seen: seen[s], start, sigmas, Noise(()))
        reached = end + kept * (at_j - near)
        true = cleans[k] + levels[k] * noises[k] if k < n else cleans[-1]
        assert found[i, j, k] == pytest.approx((reached - true).square().mean().sqrt().item(), rel=1e-3)


@pytest.mark.parametrize("sampler", ["dpm++2m", "heun", "euler"])
def test_tuned_levels_are_better_on_other_seeds(sampler: str) -> None:
    tuned = tune(model(sampler), 6, seeds=range(8), others=range(100, 116), fine=24, rounds=1)
    assert tuned.best == "found"
    assert len(tuned.sigmas) == 7
    assert tuned.sigmas[0] == pytest.approx(80)
    assert tuned.model.sigmas == tuned.sigmas
    gain, doubt = tuned.gain()
    assert gain > 3 * doubt
    assert tuned.mean("found")[0] < 0.7 * min(tuned.mean("karras")[0], tuned.mean("trailing")[0])


def test_the_error_is_that_of_the_model_itself() -> None:
    """What is reported is the difference between the model's images and those of many steps."""
    tuned = tune(model(), 5, seeds=range(4), others=range(8, 16), fine=24, rounds=0)
    few = tuned.model(Noise(range(8, 16)))
    levels = (*candidates(model(), 24), 0.0)
    many = model("flow-heun").using(sigmas=levels, steps=len(levels) - 1)(Noise(range(8, 16)))
    torch.testing.assert_close(
        (few - many).detach().square().mean((1, 2, 3)).sqrt(), tuned.errors[tuned.best]
    )


def test_what_is_no_better_is_not_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    """A bad search: all found levels at the top."""
    monkeypatch.setattr("diptych.diffusion.tuning.moved", lambda *_: [80, 79, 78, 77, 76, 0.0])
    tuned = tune(model(), 5, seeds=range(2), others=range(8, 12), fine=24)
    assert tuned.best in ("karras", "trailing")
    assert tuned.model.options.grid == tuned.best
    assert tuned.model.options.sigmas == ()
    assert tuned.gain()[0] < 0
    best = difference([Case(model(), candidates(model(), 24), range(8, 12))], usual(model(), tuned.best, 5))
    torch.testing.assert_close(best, tuned.errors[tuned.best])


@pytest.mark.parametrize(
    ("sampler", "steps", "others", "says"),
    [
        ("ddpm", 5, range(9, 12), "draws noise"),
        ("heun", 1, range(9, 12), "from 2 to half"),
        ("heun", 30, range(9, 12), "from 2 to half"),
        ("heun", 5, range(3), "other seeds"),
    ],
)
def test_what_cannot_be_tuned(sampler: str, steps: int, others: range, says: str) -> None:
    with pytest.raises(WrongUse, match=says):
        tune(model(sampler), steps, seeds=range(2), others=others)


def test_levels_belong_to_a_number_of_steps() -> None:
    with pytest.raises(WrongUse, match="2 steps, not of 4"):
        model().using(sigmas=(80.0, 1.0, 0.0), steps=4)


def test_from_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    save_model(model("heun"), tmp_path / "run")
    command = f"tune-steps {tmp_path / 'run'} --out {tmp_path / 'tuned'} --steps 5 --sampler dpm++2m"
    command += " --seeds 0-3 --others 8-11 --fine 16 --rounds 1 --device cpu --json"
    assert run(command.split()) == 0
    told = json.loads(capsys.readouterr().out)
    opened = load_model(tmp_path / "tuned", "cpu")
    assert told["best"] == "found"
    assert opened.options.sigmas == tuple(told["sigmas"])
    assert opened.options.sampler == "dpm++2m"
    assert opened.options.steps == 5
    assert math.isclose(told["sigmas"][0], 80)
    assert load_model(tmp_path / "run", "cpu").options.sigmas == ()
    assert run(command.split()) == 2  # nothing is overwritten
    assert "there is something in" in capsys.readouterr().err

"""ddpm's learned weighting and EDM's target: what they reach, and that a run of them resumes to the bit."""

from __future__ import annotations

import os
import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from conftest import brief, made_up
from conftest import train_unprobed as train
from diptych import catalog
from diptych.diffusion.objective import Uncertainty
from diptych.errors import WrongUse
from diptych.method import Batch, Clock
from diptych.methods.denoising import Denoising
from diptych.model import Condition
from diptych.runs import Run
from diptych.system.files import read_tensors
from diptych.training.state import Settings, Training

SPEC = brief(catalog.recipe("ddpm"))
SMALL: dict[str, Any] = {**SPEC.small, "weighting": "uncertainty", "target": "F"}
SETTINGS = Settings(budget="48-images", ticks=2, device="cpu", seed=3)


def method(**changes: Any) -> Denoising:
    torch.manual_seed(0)
    found = SPEC(made_up().train, **{**SMALL, **changes}).method
    assert isinstance(found, Denoising)
    return found


def test_the_uncertainty_learns_how_large_the_error_is() -> None:
    """Its gradient is that of error / exp(u) + u, and reaches the network as well."""
    it, x = method(), torch.rand(8, 1, 8, 8) * 2 - 1
    assert isinstance(it.uncertainty, Uncertainty)
    it.levels = lambda n, device: torch.full((n,), 0.7, device=device)
    batch, clock = Batch(x, Condition(label=torch.zeros(8).long())), Clock(0, 8, 0)
    loss, _ = it.loss(batch, clock)
    loss.backward()
    found = it.uncertainty.weight.grad
    # u is 0 at first, where du / dweight = cos(...) sqrt(2 / n) and d loss / du = 1 - the mean weighted error
    sigma = torch.tensor([0.7])
    slope = torch.autograd.grad(it.uncertainty(sigma).sum(), it.uncertainty.weight)[0]
    assert found is not None
    torch.testing.assert_close(found, (1 - loss.detach()) * slope, rtol=1e-4, atol=1e-6)
    assert any(p.grad is not None and p.grad.abs().max() > 0 for p in it.denoiser.parameters())
    (phase,) = it.phases()
    held = {id(p) for group in phase.optimizer.param_groups for p in group["params"]}
    assert id(it.uncertainty.weight) in held
    before = it.uncertainty.weight.detach().clone()
    phase.optimizer.step()
    assert not torch.equal(it.uncertainty.weight, before)


def test_the_other_weightings_have_none() -> None:
    assert method(weighting="uniform").uncertainty is None
    with pytest.raises(WrongUse, match="no weighting called uncertain") as said:
        method(weighting="uncertain")
    assert said.value.hint == "did you mean uncertainty?"
    with pytest.raises(WrongUse, match="no target called f") as said:
        method(target="f")
    assert "F" in said.value.hint


def test_it_is_that_of_edm2_on_the_same_levels() -> None:
    """The loss of F, balanced, is EDM2's where levels, weights and noise are the same."""
    ours, x = method(augment=0.0, label_dropout=0.0), torch.rand(8, 1, 8, 8) * 2 - 1
    sigma = ours.levels(8, x.device)
    theirs = (sigma**2 + 0.25) / (sigma * 0.5) ** 2  # lambda(sigma), EDM, table 1
    torch.testing.assert_close(ours.weight(sigma, ours.c_out(sigma)), theirs)


def test_an_interrupted_run_equals_an_uninterrupted_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = train(SPEC, made_up(), tmp_path / "whole", arguments=SMALL, settings=SETTINGS)
    step = Training.step

    def step_and_interrupt(training: Training) -> None:
        step(training)
        if training.steps == 4:
            os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(Training, "step", step_and_interrupt)
    with pytest.raises(KeyboardInterrupt):
        train(SPEC, made_up(), tmp_path / "run", arguments=SMALL, settings=SETTINGS)
    monkeypatch.undo()
    assert not Run(tmp_path / "run").finished
    resumed = train(SPEC, made_up(), tmp_path / "run", arguments=SMALL, settings=SETTINGS)
    for file in (Path("checkpoints") / "000000000048.safetensors", Path("model.safetensors")):
        (ours, _), (theirs, _) = (read_tensors(run.path / file) for run in (resumed, whole))
        assert ours.keys() == theirs.keys()
        assert all(torch.equal(ours[key], theirs[key]) for key in ours)
        learned = [key for key in ours if "uncertainty.weight" in key]
        assert bool(learned) == (len(file.parts) > 1)
        assert all(ours[key].abs().max() > 0 for key in learned)
    assert not any("uncertainty" in name for name, _ in whole.model().named_parameters())
    assert whole.model().sample(range(2)).shape == (2, 1, 8, 8)


def test_f_is_learned(tmp_path: Path) -> None:
    """A few hundred images lower the loss of F."""
    settings = replace(SETTINGS, budget="480-images", ticks=4)
    run = train(SPEC, made_up(), tmp_path / "run", arguments={**SMALL, "lr": 0.003}, settings=settings)
    losses = [next(v for k, v in line["losses"].items() if k.endswith("mse")) for line in run.log()]
    assert losses[-1] < losses[0]

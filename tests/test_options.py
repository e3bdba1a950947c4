"""Options of diffusion models: values of their kinds, and schedules of one's own under a trained network."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from conftest import made_up
from diptych.cli import run as command
from diptych.diffusion.denoiser import EDMDenoiser, ScheduleDenoiser
from diptych.diffusion.levels import schedule_of
from diptych.diffusion.model import DiffusionModel, DiffusionOptions
from diptych.diffusion.schedules import VE, VP, Cosine, Discrete, Flow, Schedule, Tabulated
from diptych.errors import WrongUse
from diptych.measuring.grading import grade
from diptych.networks.unet import UNet
from diptych.runs import load_model, save_model
from diptych.saveable import saveable
from diptych.scores import Report

OWN: dict[str, Schedule] = {
    "Tabulated": Tabulated.of(alpha=lambda t: 1 - t**2, sigma=lambda t: t),
    "numpy": Tabulated(np.linspace(1, 0, 50), np.linspace(0, 1, 50)),  # type: ignore[arg-type]
    "VP": VP(0.2, 12.0),
    "VE": VE(0.01, 50.0),
    "Cosine": Cosine(),
    "Flow": Flow(np.float64(2.5)),
    "Discrete": Discrete("linear", 200, zero_snr=True),
    "ends": Discrete("scaled-linear", beta_start=1e-4, beta_end=0.03),
}


@saveable
class Halfway(VE):
    """A class of the user's own."""

    def __init__(self, most: float = 9.0) -> None:
        super().__init__(0.02, most)


class Unsaved(VE):
    """One that no file describes."""


@pytest.fixture(scope="module")
def model() -> DiffusionModel:
    torch.manual_seed(0)
    network = UNet((1, 8, 8), classes=0, width=8, multipliers=(1,), blocks=1)
    with torch.no_grad():
        for parameter in network.parameters():  # it begins as zero: make it loud
            parameter.add_(0.05 * torch.randn_like(parameter))
    denoiser = ScheduleDenoiser(network, Flow(), "flow", told="level")
    options = DiffusionOptions(steps=5, sampler="euler", grid="trailing")
    return DiffusionModel(denoiser, options).eval()


def levels(own: Schedule, steps: int) -> tuple[float, ...]:
    """Equal steps of time from the end, by hand: of rows where the schedule has rows."""
    if own.exact:
        n = len(own.exact)
        return (*(own.exact[round(n - i * n / steps) - 1] for i in range(steps)), 0.0)
    times = torch.tensor([1 - i / steps for i in range(steps)], dtype=torch.float64)
    return (*own.level(times).tolist(), 0.0)


@pytest.mark.parametrize("own", [*OWN.values(), Halfway()], ids=[*OWN, "Halfway"])
def test_a_schedule_of_ones_own_is_sampled_along(
    model: DiffusionModel, own: Schedule, tmp_path: Path
) -> None:
    """It is the same as its noise levels, and comes back from a file."""
    found = model.using(schedule=own)
    wanted = levels(own, 5)
    assert found.sigmas == pytest.approx(wanted, rel=1e-6)
    images = found.sample(range(3))
    assert (images.int() - model.using(sigmas=wanted).sample(range(3)).int()).abs().max() <= 1
    assert not torch.equal(images, model.sample(range(3)))
    save_model(found, tmp_path / "own")
    again = load_model(tmp_path / "own", "cpu")
    assert again.options == found.options
    assert again.sigmas == found.sigmas
    assert torch.equal(again.sample(range(3)), images)
    # other options come and go around it
    assert again.using(steps=4).sigmas == pytest.approx(levels(own, 4), rel=1e-6)
    assert torch.equal(again.using(schedule="").sample(range(3)), model.sample(range(3)))


def test_a_schedules_text_is_one_too(
    model: DiffusionModel, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """What an option holds is plain: it compares, and the command line takes it."""
    found = model.using(schedule=VP(0.2, 12.0))
    assert found.options == model.using(schedule=VP(0.2, 12.0)).options
    assert hash(found.options) == hash(model.using(schedule=VP(0.2, 12.0)).options)
    text = found.options.schedule
    assert model.using(schedule=text).sigmas == found.sigmas
    assert isinstance(schedule_of(text), VP)
    save_model(model, tmp_path / "run")
    words = ["sample", str(tmp_path / "run"), "--out", str(tmp_path / "x.png"), "--device", "cpu"]
    assert command([*words, "--schedule", text]) == 0, capsys.readouterr().err
    assert (tmp_path / "x.png").is_file()


def test_reports_of_a_schedule_of_ones_own_are_plain(model: DiffusionModel) -> None:
    data = made_up(classes=0)
    led = model.using(schedule=OWN["Tabulated"], steps=2)
    (report,) = grade([led], data, n=20, metrics=["fid"]).reports
    tree = json.loads(json.dumps(report.to_json()))
    assert Report.from_json(tree).options == report.options
    assert model.using(**report.options).sigmas == led.sigmas


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        (3, "schedule must be text, not 3"),
        (None, "schedule must be text, not None"),
        (Flow, "schedule must be text, not <class"),
        (lambda t: t, "schedule must be text, not <function"),
        (torch.nn.Identity(), "schedule must be text, not Identity()"),
        (Unsaved(), "this Unsaved cannot be an option: Unsaved cannot be saved"),
        ("cosin", "no schedule called cosin"),
        ("{", "the text describes no schedule"),
        ('{"class":"diptych.networks.unet:UNet","image_shape":[1,8,8]}', "a UNet is no schedule"),
        ('{"class":"os:system"}', "not a @saveable class"),
        ('{"class":"diptych.diffusion.schedules:Flow","shift":-1}', "shift must be a number above 0"),
        (Tabulated.of(lambda t: 1 - t, lambda t: t, n=9001), "characters, more than the 65,536"),
    ],
)
def test_what_is_no_schedule_is_refused(model: DiffusionModel, wrong: Any, says: str) -> None:
    with pytest.raises(WrongUse, match=re.escape(says)) as said:
        model.using(schedule=wrong)
    assert said.value.hint


def test_a_schedule_that_no_grid_follows_is_refused(model: DiffusionModel) -> None:
    with pytest.raises(WrongUse, match="the grid karras follows no schedule"):
        model.using(grid="karras", schedule=Flow(3.0))
    model.using(schedule=Flow(3.0)).using(grid="karras", schedule="")


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"guidance": "2"}, "guidance must be a finite number, not '2'"),
        ({"guidance": True}, "guidance must be a finite number, not True"),
        ({"guidance": None}, "guidance must be a finite number, not None"),
        ({"guidance": 2j}, "guidance must be a finite number, not 2j"),
        ({"steps": True}, "steps must be a whole number, not True"),
        ({"steps": 2.5}, "steps must be a whole number, not 2.5"),
        ({"steps": "4"}, "steps must be a whole number, not '4'"),
        ({"steps": 10**20}, "steps must be a whole number, not 1e+20"),
        ({"sampler": 3}, "sampler must be text, not 3"),
        ({"sampler": ["heun"]}, "sampler must be text, not a list of 1"),
        ({"grid": None}, "grid must be text, not None"),
        ({"sigmas": "80,0"}, "sigmas must be a list, not '80,0'"),
        ({"sigmas": (80.0, "1", 0.0), "steps": 2}, "sigmas[1] must be a finite number, not '1'"),
        ({"sigma_min": "a"}, "sigma_min must be a finite number, not 'a'"),
        ({"negative": 1.5}, "negative must be a whole number or null, not 1.5"),
        ({"compose": 3}, "compose must be text, not 3"),
        ({"threshold": "1"}, "threshold must be a finite number, not '1'"),
        ({"eta": "0.5", "sampler": "ddim"}, "eta must be a finite number or null, not '0.5'"),
        ({"variance": 1, "sampler": "ddpm"}, "variance must be text or null, not 1"),
        ({"likelihood": 1}, "likelihood must be text, not 1"),
        ({"tolerance": "1e-4"}, "tolerance must be a finite number, not '1e-4'"),
        ({"probes": 1.0}, "probes must be a whole number, not 1.0"),
    ],
    ids=str,
)
def test_options_of_another_kind_are_named(model: DiffusionModel, wrong: dict[str, Any], says: str) -> None:
    with pytest.raises(WrongUse, match=re.escape(says)) as said:
        model.using(**wrong)
    assert said.value.hint
    with pytest.raises(WrongUse, match=re.escape(says)):
        DiffusionOptions(**wrong)


def test_numbers_of_numpy_and_torch_are_numbers(model: DiffusionModel) -> None:
    plain = DiffusionOptions(steps=3, threshold=0.5, sigmas=(4.0, 2.0, 1.0, 0.0), guidance=1)
    for given in (
        {"steps": np.int64(3), "threshold": np.float32(0.5), "sigmas": np.array([4, 2, 1, 0])},
        {"steps": torch.tensor(3), "threshold": np.float64(0.5), "sigmas": list(np.array([4.0, 2, 1, 0]))},
    ):
        options = DiffusionOptions(**given)  # type: ignore[arg-type]
        assert options == plain
        assert type(options.steps) is int
        assert type(options.threshold) is float
        assert model.using(**given).sigmas == plain.sigmas


def test_edm_follows_one_where_its_grid_does() -> None:
    class Zero(torch.nn.Module):
        image_shape, classes, attributes = (1, 2, 2), 0, 0

        def forward(self, x: Tensor, told: Tensor, label: Tensor | None) -> Tensor:
            return torch.zeros_like(x)

    edm = DiffusionModel(EDMDenoiser(Zero()), DiffusionOptions(steps=4))
    own = OWN["Tabulated"]
    assert edm.using(grid="trailing", schedule=own).sigmas == pytest.approx(levels(own, 4), rel=1e-6)

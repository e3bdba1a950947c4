"""Samplers' own options: each can be set from everywhere, a new sampler's as well, whatever it is called."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_origin

import numpy as np
import pytest
import torch
from torch import Tensor

import diptych
from conftest import made_up
from diptych.checking import Misfit, Within, at_least, between, unfit
from diptych.cli import run as command
from diptych.diffusion.denoiser import EDMDenoiser
from diptych.diffusion.editing import Vary, VaryOptions
from diptych.diffusion.model import DiffusionModel, DiffusionOptions
from diptych.diffusion.samplers import SAMPLERS, kinds
from diptych.diffusion.samplers.grids import karras
from diptych.diffusion.samplers.options import Option, parsed, written
from diptych.diffusion.samplers.sampler import Denoise, renoised, sampler
from diptych.diffusion.sight import Sight
from diptych.errors import WrongUse
from diptych.measuring.grading import grade
from diptych.measuring.sweep import sweep
from diptych.model import Condition, Noise, from_uint8
from diptych.networks.unet import UNet
from diptych.runs import load_model, save_model
from diptych.saveable import from_tree, to_tree
from diptych.scores import Report

ROOT = Path(__file__).parents[1]
STOCHASTIC = {"sampler": "edm-stochastic", "steps": 6}
ALL = [(name, option) for name, found in SAMPLERS.items() for option in found.options]


def denoiser(jumps: bool = False) -> EDMDenoiser:
    torch.manual_seed(0)
    network = UNet((1, 8, 8), classes=0, width=8, multipliers=(1,), blocks=1)
    with torch.no_grad():
        for parameter in network.parameters():  # it begins as zero: make it loud
            parameter.add_(0.05 * torch.randn_like(parameter))
    return EDMDenoiser(network, jumps=jumps)


@pytest.fixture(scope="module")
def model() -> DiffusionModel:
    return DiffusionModel(denoiser(), DiffusionOptions(steps=6)).eval()


@pytest.fixture
def saved(model: DiffusionModel, tmp_path: Path) -> Path:
    save_model(model, tmp_path / "run")
    return tmp_path / "run"


def another(option: Option) -> Any:
    """A value that is not the default."""
    if get_origin(option.kind) is Literal:
        return next(one for one in get_args(option.kind) if one != option.default)
    if option.kind is int:
        return option.default - 1
    return option.default / 4 or 0.5


@torch.inference_mode()
def images(model: DiffusionModel) -> Tensor:
    found: Tensor = model(Noise(range(3)))
    return found


def drawn(run: Path, *flags: str) -> np.ndarray:
    out = run.parent / "drawn.npz"
    words = ["sample", str(run), "--out", str(out), "--seeds", "0-2", "--device", "cpu", *flags]
    assert command(words) == 0
    return np.load(out)["arr_0"]  # type: ignore[no-any-return]


def test_there_are_options() -> None:
    """Those of the literature, each with a kind and a range or with the words that it may be."""
    assert {"S_tmin", "S_tmax", "S_noise", "restarts", "restart_low", "order", "eta"} <= kinds("").keys()
    for name, option in ALL:
        found = SAMPLERS[name].options[option]
        marks = getattr(found.annotation, "__metadata__", ())
        assert get_origin(found.kind) is Literal or isinstance(marks[0], Within), (name, option)
        assert found.fitted(found.default) == found.default
    assert list(SAMPLERS["edm-stochastic"].options) == ["churn", "S_tmin", "S_tmax", "S_noise"]  # no "whole"


@pytest.mark.parametrize(("name", "option"), ALL)
def test_every_option_of_every_sampler_is_heard(model: DiffusionModel, name: str, option: str) -> None:
    """As the function itself hears it, bit for bit; it is kept in files, and gone with the sampler."""
    value = another(SAMPLERS[name].options[option])
    found = model.using(sampler=name, steps=30, **{option: value})
    with torch.inference_mode():
        noise = Noise(range(3))
        start = noise.normal(1, 8, 8).contiguous(memory_format=torch.channels_last)
        sight, sigmas = Sight(found.denoiser, Condition()), found.sigmas
        expected = SAMPLERS[name].walk(sight, sigmas[0] * start, sigmas, noise, **{option: value})
    assert torch.equal(images(found), expected)
    assert not torch.equal(expected, images(model.using(sampler=name, steps=30)))
    for other in (
        DiffusionOptions(sampler=name, steps=30, sampler_options=f"{option}={value}"),
        DiffusionOptions(sampler=name, steps=30, sampler_options={option: value}),  # type: ignore[arg-type]
        from_tree(json.loads(json.dumps(to_tree(found.options)))),
        found.using(steps=3).using(steps=30).options,
    ):
        assert other == found.options
        assert other.of_sampler() == {option: value}
    assert found.using(**{option: None}).options == model.using(sampler=name, steps=30).options
    assert found.using(sampler="heun").options == model.using(sampler="heun", steps=30).options


def test_options_come_one_by_one_or_all_together(model: DiffusionModel) -> None:
    found = model.using(**STOCHASTIC, S_noise=np.float64(1.007), churn=3)
    assert found.options.sampler_options == "S_noise=1.007"
    found = found.using(S_tmin=torch.tensor(0.5, dtype=torch.float64))
    assert found.options.sampler_options == "S_tmin=0.5,S_noise=1.007"  # in the sampler's order
    assert found.options.of_sampler() == {"churn": 3, "S_tmin": 0.5, "S_noise": 1.007}
    assert hash(found.options) == hash(model.using(**STOCHASTIC, churn=3, S_noise=1.007, S_tmin=0.5).options)
    assert found.using(sampler_options={"S_tmax": 9}).options.of_sampler() == {"churn": 3, "S_tmax": 9.0}
    assert found.using(sampler_options="").options.of_sampler() == {"churn": 3}
    assert found.using(sampler_options="churn=5").options.churn == 5  # one that has a field of its own
    assert model.using(sampler="lms", order=3).using(sampler="ipndm").options.of_sampler() == {"order": 3}


@pytest.mark.parametrize(
    ("wrong", "says", "hint"),
    [
        ({"S_noise": 1.0}, "sampler heun has no S_noise: it has no options", "these have: edm-stochastic"),
        (
            {"sampler": "restart", "S_noise": 1.0},
            "sampler restart has no S_noise: it has restarts, restart_steps, restart_low, restart_high",
            "these have: edm-stochastic",
        ),
        (
            {"sampler": "restart", "sampler_options": "restart=1"},
            "restart has no restart: it has",
            "restarts",
        ),
        ({"sampler_options": {"zeta": 1}}, "sampler heun has no zeta", "leave it out"),
        ({**STOCHASTIC, "S_noize": 1.0}, "DiffusionModel has no option 'S_noize'", "did you mean S_noise?"),
        ({**STOCHASTIC, "S_noise": -1.0}, "S_noise must be at least 0, not -1", "1.003"),
        (
            {**STOCHASTIC, "S_noise": "1.0"},
            "S_noise must be a finite number, not '1.0'",
            "default is S_noise",
        ),
        ({**STOCHASTIC, "sampler_options": {"S_noise": [1]}}, "S_noise must be a number, a word, or yes", ""),
        (
            {**STOCHASTIC, "sampler_options": "S_noise=loud"},
            "S_noise must be a finite number, not 'loud'",
            "default is S_noise",
        ),
        ({**STOCHASTIC, "S_noise": True}, "S_noise must be a finite number, not True", "default is S_noise"),
        (
            {**STOCHASTIC, "S_noise": float("inf")},
            "S_noise must be finite, not inf",
            "default is S_noise=1.003",
        ),
        ({**STOCHASTIC, "S_noise": [1.0]}, "S_noise must be a finite number, not a list of 1", "default"),
        ({**STOCHASTIC, "S_tmin": 60.0}, "S_tmin 60 must not be above S_tmax 50", "noise levels"),
        ({**STOCHASTIC, "sampler_options": "S_noise"}, "'S_noise' is no option=value", "write S_noise=1.007"),
        ({**STOCHASTIC, "sampler_options": "S_tmin=1,S_tmin=2"}, "S_tmin is given twice", "write"),
        (
            {**STOCHASTIC, "sampler_options": 3, "S_tmin": 1.0},
            "sampler_options must be text, not 3",
            "default",
        ),
        ({"sampler": "restart", "restart_steps": 1}, "restart_steps must be at least 2, not 1", "both ends"),
        ({"sampler": "restart", "restarts": 1.5}, "restarts must be a whole number, not 1.5", "default"),
        (
            {"sampler": "restart", "restart_low": 0.3},
            "restart_low 0.3 must be below restart_high 0.3",
            "levels",
        ),
        ({"sampler": "unipc", "order": 4}, "order must be from 1 to 3, not 4", "unipc3"),
        ({"sampler": "deis", "order": 0}, "order must be at least 1, not 0", "euler"),
        (
            {"sampler": "ddpm", "variance": "lerned"},
            "variance must be 'small' or 'large' or 'learned'",
            "small",
        ),
        ({"sampler": "hein", "S_noise": 1.0}, "there is no sampler called hein", "heun"),
    ],
    ids=str,
)
def test_what_a_sampler_does_not_take_is_refused(
    model: DiffusionModel, wrong: dict[str, Any], says: str, hint: str
) -> None:
    with pytest.raises(WrongUse, match=re.escape(says)) as said:
        model.using(**wrong)
    assert hint in said.value.hint


def test_an_older_file_opens(model: DiffusionModel) -> None:
    """From before there was the text; and one that was made to hold a wrong one does not."""
    tree = to_tree(model.using(sampler="ddim", eta=0.5).options)
    old = {name: value for name, value in tree.items() if name != "sampler_options"}
    assert from_tree(old) == model.using(sampler="ddim", eta=0.5).options
    with pytest.raises(diptych.errors.RunError, match="has no S_noise"):
        from_tree(tree | {"sampler_options": "S_noise=1"})


def test_the_command_line_takes_each_by_its_name(
    model: DiffusionModel, saved: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    wanted = model.using(**STOCHASTIC, S_noise=1.3, S_tmin=0.2).sample(range(3)).permute(0, 2, 3, 1).numpy()
    flags = ["--sampler", "edm-stochastic", "--steps", "6"]
    assert np.array_equal(drawn(saved, *flags, "--S_noise", "1.3", "--S-tmin", "0.2"), wanted)
    assert np.array_equal(drawn(saved, *flags, "--sampler-options", "S_noise=1.3,S_tmin=0.2"), wanted)
    plain = drawn(saved, *flags)
    assert not np.array_equal(plain, wanted)
    assert np.array_equal(drawn(saved, *flags, "--S_noise", "none"), plain)
    capsys.readouterr()
    words = ["sample", str(saved), "--out", str(saved.parent / "x.png"), "--device", "cpu", *flags]
    assert command([*words, "--S_noise", "1.3", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["options"]["S_noise"] == 1.3
    for odd, says in (
        (["--S_noise", "loud"], "S_noise=loud is not a number"),
        (["--S_noise", "-1"], "S_noise must be at least 0"),
        (["--order", "3"], "sampler edm-stochastic has no order: it has churn, S_tmin, S_tmax, S_noise"),
    ):
        assert command([*words, *odd]) == 2
        assert says in capsys.readouterr().err


def test_reports_and_sweeps_know_them(
    model: DiffusionModel, saved: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = made_up(classes=0)
    led = model.using(**STOCHASTIC, S_noise=1.3)
    (report,) = grade([led], data, n=20, metrics=["fid"]).reports
    tree = json.loads(json.dumps(report.to_json()))
    assert tree["options"]["sampler_options"] == "S_noise=1.3"
    assert model.using(**Report.from_json(tree).options).options == led.options
    found = sweep(model, "S_noise", [1.0, 1.3], options=STOCHASTIC, against=data, n=20, metrics=["fid"])
    assert found.reports[1].scores["fid"].value == report.scores["fid"].value
    assert found.reports[0].scores["fid"].value != report.scores["fid"].value
    np.save(tmp_path / "real.npy", np.random.default_rng(0).integers(0, 255, (40, 8, 8, 1), dtype=np.uint8))
    words = ["sweep", str(saved), "--against", str(tmp_path / "real.npy"), "--n", "20", "--metric", "fid"]
    words += ["--steps", "3", "--device", "cpu", "--json"]
    for flags, values in (
        (["--sampler", "lms", "--order", "1:3:1"], ["order=1", "order=2", "order=3"]),
        (["--sampler", "ddpm", "--variance", "small,large"], ["", ""]),
        (["--sampler", "heun,restart", "--sampler-options", ""], ["", ""]),
        (
            ["--churn", "0,3", "--sampler", "edm-stochastic", "--sampler-options", "S_tmin=1,S_tmax=2"],
            ["S_tmin=1.0,S_tmax=2.0"] * 2,
        ),
    ):
        capsys.readouterr()
        assert command([*words, *flags]) == 0, capsys.readouterr().err
        reports = json.loads(capsys.readouterr().out)["reports"]
        assert [one["options"]["sampler_options"] for one in reports] == values


def test_edits_walk_with_them(model: DiffusionModel) -> None:
    photo = from_uint8(torch.full((1, 1, 8, 8), 90, dtype=torch.uint8))
    asked = Condition(image=photo)
    with torch.inference_mode():
        plain, loud = (
            Vary(model.using(**STOCHASTIC, **own), VaryOptions(strength=0.5))(Noise([4]), asked)
            for own in ({}, {"S_noise": 1.5})
        )
    assert not torch.equal(plain, loud)
    from diptych.diffusion.editing import check_heard

    with pytest.raises(WrongUse, match="S_noise means nothing to an interpolation"):
        check_heard(["S_noise", "guidance"])


Shake = Annotated[float, between(0, 0.5, "0 is euler")]
Often = Annotated[int, at_least(1, "1 is once")]


@sampler("shaken", order=0)
def shaken(
    denoise: Denoise,
    x: Tensor,
    sigmas: Sequence[float],
    noise: Noise,
    *,
    shake: Shake = 0.1,
    often: Often = 1,
    last: bool = False,
    until: Literal["end", "half"] = "end",
    threshold: float | None = None,  # called as an option of the model is
) -> Tensor:
    """A sampler that nothing else knows of."""
    for step, (sigma, following) in enumerate(pairwise(sigmas)):
        x = denoise(x, sigma).lerp(x, following / sigma)
        if until == "end" or 2 * step < len(sigmas):
            for _ in range(often):
                x = renoised(x, noise, shake * (following or 0.01 * last))
    return x if threshold is None else x.clamp(-threshold, threshold)


def test_a_new_sampler_brings_its_options(
    model: DiffusionModel, saved: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(SAMPLERS, "shaken", shaken)
    given = {"shake": 0.25, "often": 2, "last": True, "until": "half"}
    found = model.using(sampler="shaken", **given)
    assert found.options.sampler_options == "shake=0.25,often=2,last=true,until=half"
    assert found.options.of_sampler() == given
    save_model(found, saved.parent / "new")
    assert load_model(saved.parent / "new", "cpu").options == found.options
    pixels = found.sample(range(3)).permute(0, 2, 3, 1).numpy()
    flags = ["--sampler", "shaken", "--shake", "0.25", "--often", "2", "--until", "half"]
    assert np.array_equal(drawn(saved, *flags, "--last", "yes"), pixels)
    # one that is called as an option of the model is reached by the text alone
    both = model.using(sampler="shaken", threshold=0.9, sampler_options={"threshold": 0.2})
    assert (both.options.threshold, both.options.of_sampler()) == (0.9, {"threshold": 0.2})
    assert images(both).abs().max() <= 0.2
    assert images(model.using(sampler="shaken", threshold=0.9)).abs().max() > 0.2
    for odd, says in (
        ({"shake": 0.7}, "shake must be from 0 to 0.5, not 0.7"),
        ({"often": 0}, "often must be at least 1, not 0"),
        ({"until": "never"}, "until must be 'end' or 'half', not 'never'"),
        ({"last": 2}, "last must be true or false, not 2"),
        ({"eta": 1.0}, "sampler shaken has no eta: it has shake, often, last, until, threshold"),
    ):
        with pytest.raises(WrongUse, match=re.escape(says)):
            model.using(sampler="shaken", **odd)


def test_a_sampler_says_that_it_is_for_jumps(model: DiffusionModel, monkeypatch: pytest.MonkeyPatch) -> None:
    """No name is asked for."""
    monkeypatch.setitem(SAMPLERS, "leap", sampler("leap", order=0, jumps=True)(shaken.walk))
    jumping = DiffusionModel(denoiser(jumps=True), DiffusionOptions(steps=2, sampler="leap"))
    assert images(jumping).isfinite().all()
    with pytest.raises(WrongUse, match="the sampler leap needs a denoiser that jumps"):
        model.using(sampler="leap")
    with pytest.raises(WrongUse, match="the sampler heun walks along means") as said:
        jumping.using(sampler="heun")
    assert said.value.hint == "--sampler consistency is the one for it"


def test_the_sampler_of_the_reference_works(tmp_path: Path, saved: Path) -> None:
    """One new file in a copy of the package, nothing else edited: its options are flags."""
    code = re.findall(r"```python\n(.*?)```", (ROOT / "docs/reference/samplers.md").read_text("utf-8"), re.S)[
        0
    ]
    shutil.copytree(ROOT / "src" / "diptych", tmp_path / "src" / "diptych")
    (tmp_path / "src" / "diptych" / "diffusion" / "samplers" / "shaken.py").write_text(code, "utf-8")
    words = [
        "sample",
        str(saved),
        "--out",
        "x.npz",
        "--seeds",
        "0-1",
        "--device",
        "cpu",
        "--sampler",
        "shaken",
    ]
    words += ["--steps", "4", "--shake", "0.3", "--until", "half", "--json"]
    env = {**os.environ, "PYTHONPATH": str(tmp_path / "src"), "OMP_NUM_THREADS": "1"}
    line = [sys.executable, "-m", "diptych", *words]
    done = subprocess.run(line, cwd=tmp_path, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    told = {"sampler": "shaken", "steps": 4, "shake": 0.3, "until": "half"}
    assert json.loads(done.stdout)["options"] == told
    assert np.load(tmp_path / "x.npz")["arr_0"].shape == (2, 8, 8, 1)


def test_a_sampler_checks_what_it_is_given_in_python() -> None:
    def see(x: Tensor, sigma: float) -> Tensor:
        return x / (1 + sigma**2)

    start = torch.ones(1, 1, 2, 2)
    with pytest.raises(WrongUse, match="S_tmin 60 must not be above"):
        SAMPLERS["edm-stochastic"](see, start, karras(3, 0.1, 9.0), Noise([0]), S_tmin=60.0)
    with pytest.raises(TypeError, match="S_noise"):
        SAMPLERS["heun"](see, start, karras(3, 0.1, 9.0), Noise([0]), S_noise=1.0)


def test_texts_of_options_and_back() -> None:
    given = {"a": 0.1 + 0.2, "b": -3, "c": "half", "d": False, "e": 1e-300}
    assert written(given) == "a=0.30000000000000004,b=-3,c=half,d=false,e=1e-300"
    assert float(parsed(written(given))["a"]) == given["a"]
    assert parsed("") == parsed("  ") == {}
    with pytest.raises(WrongUse, match="must be a number, a word"):
        written({"a": "b,c"})


def test_what_is_of_another_kind_is_told_in_parts(
    model: DiffusionModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No sentence is taken apart: another wording changes none of the refusals."""
    assert unfit([8.0, "1"], tuple[float, ...], "sigmas") == Misfit("sigmas[1]", "'1'", "a finite number")
    assert unfit("a is b, not c", int | None, "n") == Misfit("n", "'a is b, not c'", "a whole number or null")
    assert unfit([1], tuple[int, int], "size") == Misfit("size", "a list of 1", "of 2")
    assert unfit({"a": [0.5]}, dict[str, list[int]], "it") == Misfit("it.a[0]", "0.5", "a whole number")
    assert unfit([1, 2], tuple[int, int], "size") is None
    monkeypatch.setattr(Misfit, "__str__", lambda self: "something else")
    with pytest.raises(WrongUse, match="steps must be a whole number, not 'is 2, not 3'"):
        model.using(steps="is 2, not 3")

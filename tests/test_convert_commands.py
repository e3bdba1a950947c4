"""Converted weights say how training begins from them: with flags that give the very same networks."""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch

import official
from conftest import made_up
from diptych import catalog
from diptych.cli import run as command
from diptych.convert.commands import training_line
from diptych.convert.official import convert
from diptych.training.state import Settings, Training
from diptych.training.transfer import other_settings, transfer
from official import Tensors
from test_convert import Image, snapshot, three, three_r, two, two_later


def line_of(tmp_path: Path, capsys: pytest.CaptureFixture[str], networks: Mapping[str, Tensors]) -> str:
    """What `diptych convert` says about a training that begins from these networks."""
    with official.named():
        made = {name: official.plain_network(tensors) for name, tensors in networks.items()}
        (tmp_path / "network.pkl").write_bytes(official.written(made))
    assert command(["convert", str(tmp_path / "network.pkl"), str(tmp_path / "run"), "--json"]) == 0
    return str(json.loads(capsys.readouterr().out)["train"])


@pytest.mark.parametrize("classes", [0, 3])
def test_the_command_that_trains_on_gives_the_same_networks(
    classes: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    mean, critic = official.r3gan(1, [32, 32, 16], 16, 1, 12, classes), official.r3gan_critic
    networks = {"G_ema": mean, "D": critic(6, [16, 32, 32], 16, classes)}
    said, _, though = line_of(tmp_path, capsys, networks).partition("  # though ")
    words = shlex.split(said)
    assert words[:4] == ["diptych", "train", "r3gan", "DATA"]
    given = dict(zip(words[4::2], words[5::2], strict=True))
    assert given.pop("--init") == str(tmp_path / "run")
    assert (given.pop("--size"), given.pop("--channels")) == ("16", "3")
    data = made_up((3, 16, 16), classes=classes).train
    flags = {name.removeprefix("--"): int(value) for name, value in given.items()}
    recipe = catalog.recipe("r3gan")(data, **flags, batch=4)
    training = Training(recipe, data, 8, Settings(device="cpu", init=str(tmp_path / "run")))
    left = transfer(training, str(tmp_path / "run")).left
    if classes:  # this critic's labels are vectors of 20 numbers
        assert though == "the critic has tensors of other shapes, and those begin anew"
        assert set(left) == {"critic.label.table.weight", "critic.project.weight"}
    else:
        assert (left, though) == ((), "")
    assert not list(other_settings(training, str(tmp_path / "run")))


@pytest.mark.parametrize("family", [two, two_later, three, three_r])
def test_style_networks_say_how_they_are_trained_on(
    family: Callable[[int], tuple[Tensors, dict[str, Any], Image]], tmp_path: Path
) -> None:
    tensors, arguments, _ = family(3)
    converted = convert(snapshot(tmp_path / "network.pkl", tensors, arguments))
    said = training_line(converted, tmp_path / "run")
    recipe = "stylegan2" if "two" in family.__name__ else "stylegan3"
    assert said.startswith(f"diptych train {recipe} DATA --init {tmp_path / 'run'} --size ")
    assert " --label-gain 1.0 " in said
    assert " --latent 16 --style 24 " in said
    clamped = "  # though clamp of the generator is 256.0, there it is 0.0"
    assert said.partition("  #")[1:] == (("", "") if recipe == "stylegan2" else clamped.partition("  #")[1:])


def test_networks_that_no_flags_give_are_said_to_be(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    networks = {"G_ema": official.r3gan(1, [16, 48, 16], 16, 2, 12, 0)}
    said = line_of(tmp_path, capsys, networks)
    assert said.startswith("no flags of r3gan give these networks")


@pytest.mark.parametrize("channels", [1, 2, 4])
def test_the_command_names_the_channels_though_there_is_no_critic(
    channels: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Else images would be read in colour, and the layers at the image would begin anew."""
    tensors, arguments, _ = two(0)
    for name in [name for name in tensors if ".torgb.weight" in name or ".torgb.bias" in name]:
        three_colours = tensors[name].detach()
        tensors[name] = torch.cat([three_colours, three_colours])[:channels].requires_grad_()
    path = snapshot(tmp_path / "network.pkl", tensors, {**arguments, "img_channels": channels})
    assert command(["convert", str(path), str(tmp_path / "run")]) == 0
    (said,) = [line for line in capsys.readouterr().out.splitlines() if line.startswith("to train on")]
    said = said.removeprefix("to train on, with a critic that begins anew: ")
    if channels == 2:
        assert said == "no flags of stylegan2 give these networks: no data is read as images of 2 channels"
        return
    words = shlex.split(said.partition("  #")[0])
    assert words[:4] == ["diptych", "train", "stylegan2", "DATA"]
    given = dict(zip(words[4::2], words[5::2], strict=True))
    assert given["--channels"] == str(channels)
    assert given["--size"] == "16"

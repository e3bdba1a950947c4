"""Official weights: read without running anything, equal to the papers' formulas, usable like a run."""

from __future__ import annotations

import io
import json
import pickle
import random
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import official
from conftest import made_up
from diptych import catalog
from diptych.adversarial.style import StyleModel
from diptych.cli import run as command
from diptych.convert import stylegan
from diptych.convert import tensors as held
from diptych.convert.contents import Network
from diptych.convert.official import Converted, convert, save
from diptych.errors import RunError
from diptych.model import Condition
from diptych.networks.stylegan2_critic import StyleGAN2Critic
from diptych.runs import load_model
from diptych.training.state import Settings, Training
from diptych.training.transfer import transfer
from diptych.unpickler import ConvertError, Made, Name, read_pickle
from official import Tensors

Image = Callable[[Tensors, Tensor, Tensor | None, float], Tensor]
PLAN = official.stylegan3_plan(16, 6, 2, 64)
STYLE: dict[str, Any] = {"z_dim": 16, "w_dim": 24, "img_channels": 3}
SIZED = {"channel_base": 128, "channel_max": 512, "num_fp16_res": 4}


def two(classes: int, side: int = 16) -> tuple[Tensors, dict[str, Any], Image]:
    """StyleGAN2 as stylegan2-ada-pytorch leaves it."""
    arguments = {**STYLE, "c_dim": classes, "img_resolution": side, "synthesis_kwargs": SIZED}
    return official.stylegan2(2, side, 128, classes), arguments, official.stylegan2_image


def two_later(classes: int) -> tuple[Tensors, dict[str, Any], Image]:
    """StyleGAN2 as stylegan3's code leaves it: the same with arguments named elsewhere."""
    arguments = {
        **STYLE,
        **SIZED,
        "c_dim": classes,
        "img_resolution": 32,
        "mapping_kwargs": {"num_layers": 3},
    }
    return official.stylegan2(4, 32, 128, classes), arguments, official.stylegan2_image


def three(classes: int, radial: bool = False) -> tuple[Tensors, dict[str, Any], Image]:
    """StyleGAN3, t or r."""
    arguments = {**STYLE, "c_dim": classes, "img_resolution": 16, "channel_base": 64, "num_layers": 6}
    arguments |= {"conv_kernel": 1, "use_radial_filters": True} if radial else {"magnitude_ema_beta": 0.999}
    tensors = official.stylegan3(3, 16, 6, 64, radial, classes)
    return tensors, arguments, lambda t, z, label, psi: official.stylegan3_image(t, z, label, psi, PLAN)


def three_r(classes: int) -> tuple[Tensors, dict[str, Any], Image]:
    """StyleGAN3-r."""
    return three(classes, radial=True)


def snapshot(path: Path, tensors: Tensors, arguments: dict[str, Any], protocol: int = 4) -> Path:
    """A pickle of one generator of StyleGAN2 or 3."""
    with official.named():
        made = official.network("Generator", tensors, arguments, {"z_dim": 16})
        path.write_bytes(official.written({"G_ema": made}, protocol))
    return path


def r3gan(path: Path, classes: int) -> tuple[Path, Tensors, Tensors]:
    """A pickle of R3GAN with G, D and G_ema, and the tensors of the last two."""
    mean, live = (official.r3gan(seed, [32, 32, 16], 16, 2, 12, classes) for seed in (1, 5))
    critic = official.r3gan_critic(6, [16, 32, 32], 16, classes)
    with official.named():
        networks = {"G": live, "D": critic, "G_ema": mean}
        path.write_bytes(official.written({k: official.plain_network(v) for k, v in networks.items()}))
    return path, mean, critic


@pytest.mark.parametrize("classes", [0, 3])
@pytest.mark.parametrize(
    ("family", "protocol"), [(two, 3), (two, 2), (two_later, 4), (three, 4), (three_r, 5)]
)
def test_style_generators_agree_with_the_formulas(
    family: Callable[[int], tuple[Tensors, dict[str, Any], Image]],
    protocol: int,
    classes: int,
    tmp_path: Path,
) -> None:
    tensors, arguments, image = family(classes)
    converted = convert(snapshot(tmp_path / "network.pkl", tensors, arguments, protocol))
    model = converted.model
    assert isinstance(model, StyleModel)
    assert model.classes == classes
    z = torch.randn(2, 16, generator=torch.Generator().manual_seed(1))
    label = torch.tensor([0, 2]) if classes else None
    for psi in (1.0, 0.7):
        told = model.using(truncation=psi)
        with torch.no_grad():
            ours = told.render(told.truncated(told.network.mapping(z, label)), Condition(label=label))
            torch.testing.assert_close(ours, image(tensors, z, label, psi), rtol=0, atol=3e-5)


@pytest.mark.parametrize("classes", [0, 3])
def test_r3gan_agrees_with_the_formulas(classes: int, tmp_path: Path) -> None:
    path, tensors, critic = r3gan(tmp_path / "network.pkl", classes)
    converted = convert(path)
    z = torch.randn(2, 12, generator=torch.Generator().manual_seed(1))
    label = torch.tensor([0, 2]) if classes else None
    expected = official.r3gan_image(tensors, z, label)
    assert expected.std() > 0.3
    torch.testing.assert_close(converted.model.network(z, label), expected, rtol=0, atol=1e-5)
    assert converted.critic is not None
    logit = official.r3gan_logit(critic, expected, label)
    torch.testing.assert_close(converted.critic(expected, label), logit, rtol=0, atol=1e-5)


@pytest.fixture(scope="module")
def style(tmp_path_factory: pytest.TempPathFactory) -> tuple[Converted, Path]:
    """A conditional StyleGAN2, converted, and the directory that it is in."""
    folder = tmp_path_factory.mktemp("converted")
    converted = convert(snapshot(folder / "network.pkl", *two(3)[:2]))
    save(converted, folder / "run")
    return converted, folder / "run"


def test_what_is_written_is_a_model_like_any_other(style: tuple[Converted, Path]) -> None:
    converted, path = style
    model = load_model(path, "cpu")
    label = torch.tensor([2, 0, 1])
    assert torch.equal(
        model.sample([5, 6, 7], Condition(label=label)),
        converted.model.sample([5, 6, 7], Condition(label=label)),
    )
    assert model.labels_for([0, 1, 2, 3]).tolist() == [0, 1, 2, 0]  # type: ignore[union-attr]
    told = json.loads((path / "source.json").read_text())
    assert told["family"] == "StyleGAN2"
    assert told["sha256"] == converted.sha256
    assert "commercial" in told["licence"]
    assert not (path / "recipe.json").exists()  # no recipe of ours made it


def test_what_is_there_is_not_written_over(style: tuple[Converted, Path], tmp_path: Path) -> None:
    converted, path = style
    with pytest.raises(RunError, match="converted before"):
        save(converted, path)
    save(converted, path, force=True)
    (tmp_path / "else").mkdir()
    (tmp_path / "else" / "thesis.tex").write_text("years")
    with pytest.raises(RunError, match="not made by convert"):
        save(converted, tmp_path / "else", force=True)


def test_a_training_begins_from_it_with_its_critic(tmp_path: Path) -> None:
    path, _, _ = r3gan(tmp_path / "network.pkl", 4)
    converted = convert(path)
    save(converted, tmp_path / "run")
    small = {"width": 16, "largest": 32, "blocks": 2, "latent": 12, "batch": 4}
    recipe = catalog.recipes()["r3gan"](made_up((3, 16, 16)).train, **small)
    training = Training(recipe, made_up((3, 16, 16)).train, 8, Settings(device="cpu"))
    taken = transfer(training, str(tmp_path / "run"))
    assert not [name for name in taken.left if name.startswith("model.")]
    assert converted.trained is not None
    assert converted.critic is not None
    method: Any = training.method
    assert torch.equal(method.model.network.basis, converted.trained.network.basis)
    assert torch.equal(method.critic.from_image.weight, converted.critic.from_image.weight)
    assert torch.equal(training.average.network.basis, converted.model.network.basis)  # type: ignore[union-attr, operator]
    training.step()
    training.check_finite()


def test_a_dict_without_networks_is_a_sentence_and_a_hint(tmp_path: Path) -> None:
    (tmp_path / "dict.pkl").write_bytes(pickle.dumps({"a": 1, "b": [2]}))
    with pytest.raises(ConvertError, match="it holds no generator, nor another network") as caught:
        convert(tmp_path / "dict.pkl")
    assert "G_ema" in caught.value.hint


def test_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path, _, _ = r3gan(tmp_path / "network.pkl", 0)
    assert command(["convert", str(path), str(tmp_path / "run")]) == 0
    said = capsys.readouterr()
    assert "R3GAN from" in said.out
    assert "16x16 pixels" in said.out
    assert "licence" in said.err
    assert command(["convert", str(path), str(tmp_path / "run")]) == 1
    assert "--force" in capsys.readouterr().err
    assert command(["convert", str(path), str(tmp_path / "run"), "--force", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["family"] == "R3GAN"
    assert command(["convert", str(tmp_path / "nothing.pkl"), str(tmp_path / "run")]) == 1


# ------------------------------------------------------------------------------- what is not understood


WRONG: dict[str, tuple[dict[str, Any], str]] = {
    "another activation": ({"synthesis_kwargs": {**SIZED, "activation": "relu"}}, "activation=relu"),
    "another activation of the mapping": ({"mapping_kwargs": {"activation": "relu"}}, "activation=relu"),
    "an unknown argument of the mapping": ({"mapping_kwargs": {"nonsense": 7}}, "nonsense=7"),
    "a mapping's rate of another kind": ({"mapping_kwargs": {"lr_multiplier": "fast"}}, "lr_multiplier=fast"),
    "an unknown argument": ({"synthesis_kwargs": {**SIZED, "attention": True}}, "attention=True"),
    "an odd size": ({"img_resolution": 24}, "power of two"),
    "an endless size": ({"img_resolution": 2**40}, "img_resolution"),
    "text for a number": ({"img_channels": "three"}, "img_channels"),
    "not a number": ({"synthesis_kwargs": {"channel_base": float("nan")}}, "channel_base"),
    "other widths": (
        {"synthesis_kwargs": {"channel_base": 2**24, "channel_max": 2**16}},
        "another architecture",
    ),
    "another size": ({"img_resolution": 32}, "b32"),
    "arguments of another kind": ({"synthesis_kwargs": [1, 2]}, "synthesis_kwargs"),
}


@pytest.mark.parametrize("wrong", WRONG.values(), ids=WRONG.keys())
def test_options_that_are_not_known_are_named(wrong: tuple[dict[str, Any], str], tmp_path: Path) -> None:
    tensors, arguments, _ = two(0)
    path = snapshot(tmp_path / "network.pkl", tensors, arguments | wrong[0])
    with pytest.raises(ConvertError, match=wrong[1]) as caught:
        convert(path)
    assert str(path) in str(caught.value)


def test_a_mapping_is_read_as_it_was_made(tmp_path: Path) -> None:
    """What tensors tell is left to them; the learning rate is in the scale of the weights."""
    tensors, arguments, _ = two(0)
    path = tmp_path / "network.pkl"
    told = {"num_layers": 3, "embed_features": None, "layer_features": 24, "activation": "lrelu"}
    told |= {"w_avg_beta": 0.99}
    made = [
        convert(snapshot(path, tensors, {**arguments, "mapping_kwargs": kwargs})).model.state_dict()
        for kwargs in ({}, told, {**told, "lr_multiplier": 0.1})
    ]
    for name, tensor in made[0].items():
        assert torch.equal(made[1][name], tensor)
        times = 10 if "mapping.stack" in name else 1
        torch.testing.assert_close(made[2][name], times * tensor)
    gain = {"z_dim": 16, "mapping.fc0.bias_gain": 0.01}
    with official.named():
        network = official.network(
            "Generator", tensors, {**arguments, "mapping_kwargs": {"lr_multiplier": 0.1}}, gain
        )
        path.write_bytes(official.written({"G_ema": network}))
    with pytest.raises(ConvertError, match=r"lr_multiplier=0\.1, and its mapping has 0\.01"):
        convert(path)


def test_an_alias_free_mapping_is_read_too(tmp_path: Path) -> None:
    tensors, arguments, _ = three(0)
    path = tmp_path / "network.pkl"
    with pytest.raises(ConvertError, match="activation=relu"):
        convert(snapshot(path, tensors, {**arguments, "mapping_kwargs": {"activation": "relu"}}))
    convert(snapshot(path, tensors, {**arguments, "mapping_kwargs": {"num_layers": 2}}))
    given = {"img_resolution": 16, "mapping_kwargs": {"activation": "relu"}}
    with pytest.raises(ConvertError, match="activation=relu"):  # so is a critic's
        stylegan.critic(Network("Discriminator", given, {}, {}))


def test_a_critic_may_compare_the_whole_batch() -> None:
    """As networks of TensorFlow do: mbstd_group_size=None is one group, however many images there are."""
    torch.manual_seed(0)
    ours = StyleGAN2Critic((1, 8, 8), base=64, largest=16, group=7).eval()
    official_names = {"blocks.0": "b8", "end": "b4", "from_image": "fromrgb", "dense": "fc"}
    tensors = {
        "".join(official_names.get(part, part) for part in re.split(r"(blocks\.0|\w+|\.)", name)): tensor
        for name, tensor in ours.state_dict().items()
    }
    given = {"img_resolution": 8, "img_channels": 1, "channel_base": 64, "channel_max": 16}
    told = [
        stylegan.critic(Network("Discriminator", {**given, "epilogue_kwargs": end}, tensors, {}))
        for end in ({"mbstd_group_size": None}, {"mbstd_group_size": 2}, {"mbstd_group_size": 7})
    ]
    for n in (7, 4, 1):
        image = torch.randn(n, 1, 8, 8)
        torch.testing.assert_close(told[0](image), ours(image))
        assert torch.equal(told[0](image), told[2](image))
        assert n < 4 or not torch.allclose(told[0](image), told[1](image))
    x = torch.randn(6, 3, 2, 2)
    mean = x.var(0, correction=0).add(1e-8).sqrt().mean()
    torch.testing.assert_close(told[0].end.deviation(x)[:, 3], mean.expand(6, 2, 2))
    with pytest.raises(ConvertError, match="mbstd_group_size=0"):
        stylegan.critic(
            Network("Discriminator", {**given, "epilogue_kwargs": {"mbstd_group_size": 0}}, tensors, {})
        )


def test_tensors_that_do_not_belong_are_named(tmp_path: Path) -> None:
    tensors, arguments, _ = two(0)
    changed: dict[str, tuple[Tensors, str]] = {
        "more": ({**tensors, "synthesis.b4.extra": torch.ones(2)}, "synthesis.b4.extra"),
        "fewer": ({k: v for k, v in tensors.items() if k != "mapping.w_avg"}, "mapping.w_avg"),
        "infinite": ({**tensors, "mapping.w_avg": torch.full((24,), torch.inf)}, "not finite"),
        "filter": ({**tensors, "synthesis.b8.resample_filter": torch.ones(4, 4)}, "resamples"),
    }
    for name, (given, said) in changed.items():
        with pytest.raises(ConvertError, match=said):
            convert(snapshot(tmp_path / f"{name}.pkl", given, arguments))


def test_another_family_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConvertError, match="no family that is known"):
        convert(snapshot(tmp_path / "network.pkl", {"main.weight": torch.ones(3)}, {}))


# -------------------------------------------------------------------------------------------- hostile files


def asking(module: str, name: str, argument: bytes) -> bytes:
    """A pickle that calls module.name(argument)."""
    return (
        b"\x80\x04c"
        + f"{module}\n{name}\n".encode()
        + b"\x8c"
        + bytes([len(argument)])
        + argument
        + b"\x85R."
    )


def in_bytes(inner: bytes) -> bytes:
    """A snapshot with a tensor whose values are `inner`, to be loaded by torch.storage."""
    called = b"ctorch.storage\n_load_from_bytes\nB" + len(inner).to_bytes(4, "little") + inner + b"\x85R"
    tensor = b"ctorch._utils\n_rebuild_tensor_v2\n(" + called + b"K\x00K\x01\x85K\x01\x85\x89}tR"
    state = b"}(\x8c\x0b_parameters}\x8c\x01w" + tensor + b"s\x8c\x08_modules}\x8c\x08_buffers}u"
    meta = b"}(\x8c\x0aclass_name\x8c\x01G\x8c\x05state" + state + b"u"
    name = b"ctorch_utils.persistence\n_reconstruct_persistent_obj\n"
    return b"\x80\x04}\x8c\x05G_ema" + name + meta + b"\x85Rs."


def canary(path: Path) -> bytes:
    """A shell command that leaves a file."""
    return f"touch {path}".encode()


def nested(depth: int) -> bytes:
    """A tuple in a tuple in a tuple."""
    return b"\x80\x04)" + b"\x85" * depth + b"."


def laughs(depth: int) -> bytes:
    """A module with two parts, which are the same, with two parts, which are the same ..."""
    one = b"ctraining.networks\nGenerator\n)\x81"
    made = b"\x80\x04" + one + b"}\x8c\x08_modules}sb\x94"
    for i in range(depth):
        made += one + b"}\x8c\x08_modules}(\x8c\x01ah" + bytes([i]) + b"\x8c\x01bh" + bytes([i]) + b"usb\x94"
    return made + b"0}\x8c\x05G_emah" + bytes([depth]) + b"s."


HOSTILE: dict[str, tuple[Callable[[bytes], bytes], str]] = {
    "os.system": (lambda c: asking("os", "system", c), "os.system"),
    "posix.system": (lambda c: asking("posix", "system", c), "posix.system"),
    "subprocess": (lambda c: asking("subprocess", "getoutput", c), "subprocess"),
    "eval": (lambda c: asking("builtins", "eval", b"__import__('os').system('%s')" % c), "builtins.eval"),
    "python 2's eval": (lambda c: asking("__builtin__", "eval", b"1"), "__builtin__.eval"),
    "exec": (lambda c: asking("builtins", "exec", b"import os; os.system('%s')" % c), "builtins.exec"),
    "getattr": (lambda c: asking("builtins", "getattr", b"x"), "builtins.getattr"),
    "a dotted name": (lambda c: asking("torch", "os.system", c), "torch.os.system"),
    "a layer's dotted name": (lambda c: asking("torch.nn.modules.module", "Module.apply", c), "Module.apply"),
    "a module's module": (lambda c: asking("torch.nn.modules.os", "system", c), "system"),
    "a name on the stack": (lambda c: b"\x80\x04\x8c\x02os\x8c\x06system\x93\x8c\x01x\x85R.", "os.system"),
    "an instance": (lambda c: b"\x80\x02(cos\nsystem\n\x8c\x01xo.", "os.system"),
    "INST": (lambda c: b"\x80\x02(\x8c\x01xios\nsystem\n.", "INST"),
    "EXT1": (lambda c: b"\x80\x02\x82\x01.", "EXT1"),
    "torch.load": (lambda c: asking("torch", "load", c), "torch.load"),
    "operator": (lambda c: asking("operator", "methodcaller", b"system"), "operator"),
    "a name for the terminal": (lambda c: asking("\x1b[2Jos", "system", c), r"\?\[2Jos"),
    "a call of a call": (lambda c: b"\x80\x04ccollections\nOrderedDict\n)R)R.", "not a name"),
    "a call of text": (lambda c: b"\x80\x04\x8c\x01x)R.", "not a name"),
    "arguments that are a list": (lambda c: b"\x80\x04ccollections\nOrderedDict\n]R.", "not a tuple"),
    "a state for a name": (lambda c: b"\x80\x04ccollections\nOrderedDict\n}b.", "a state"),
    "a state for a dict": (lambda c: b"\x80\x04}}b.", "a state"),
    "a key that is a tuple": (lambda c: b"\x80\x04}))s.", "a key"),
    "a pickle in the values": (lambda c: in_bytes(asking("os", "system", c)), "os.system"),
    "a pickle in the pickle's values": (lambda c: in_bytes(b"\x80\x02\x8a\x01\x05."), "torch did not write"),
    "values outside": (lambda c: b"\x80\x04\x8c\x03abcQ.", "outside"),
    "a memo of four billion": (lambda c: b"\x80\x02}r\xff\xff\xff\xff.", "memo"),
    "a memo that is not there": (lambda c: b"\x80\x02h\x07.", "damaged"),
    "eight exabytes": (lambda c: b"\x80\x04\x8e" + b"\xff" * 7 + b"\x7f.", "damaged"),
    "a frame of eight exabytes": (lambda c: b"\x80\x04\x95" + b"\xff" * 7 + b"\x7f}.", "no generator"),
    "a long text": (lambda c: b"\x80\x04X\xff\xff\xff\x7f.", "damaged"),
    "a stack that is empty": (lambda c: b"\x80\x02.", "damaged"),
    "no mark": (lambda c: b"\x80\x02}u.", "no mark"),
    "a mark for a value": (lambda c: b"\x80\x02(.", "a mark"),
    "two hundred thousand tuples": (lambda c: nested(200_000), "no networks by name"),
    "two to the thirty parts": (lambda c: laughs(30), "describes more than"),
    "no end": (lambda c: b"\x80\x04}", "damaged"),
    "nothing": (lambda c: b"", "empty|cannot be read"),
    "a web page": (lambda c: b"<!DOCTYPE html><html>", "web page"),
    "a zip": (lambda c: b"PK\x03\x04 and more", "zip"),
    "a pointer": (lambda c: b"version https://git-lfs.github.com/spec/v1\n", "git-lfs"),
    "text": (lambda c: b"hello, world, this is not a pickle", "not a pickle"),
    "protocol 0": (lambda c: b"cos\nsystem\n(S'x'\ntR.", "not a pickle"),
    "TensorFlow": (lambda c: b"\x80\x02cdnnlib.tflib.network\nNetwork\n)\x81.", "TensorFlow"),
    "a number": (lambda c: b"\x80\x02K\x07.", "no networks by name"),
}


@pytest.mark.parametrize("hostile", HOSTILE.values(), ids=HOSTILE.keys())
def test_hostile_files_are_refused(hostile: tuple[Callable[[bytes], bytes], str], tmp_path: Path) -> None:
    make, said = hostile
    path, left = tmp_path / "network.pkl", tmp_path / "left"
    path.write_bytes(make(canary(left)))
    before = set(sys.modules)
    with pytest.raises(ConvertError) as caught:
        convert(path)
    assert str(path) in caught.value.message
    assert re.search(said, str(caught.value)), str(caught.value)
    assert len(str(caught.value)) < 600
    assert not left.exists()
    assert set(sys.modules) == before


def test_the_hostile_files_do_run_elsewhere(tmp_path: Path) -> None:
    """So that the test above tests something: an ordinary unpickler does what they ask for."""
    for name in ("os.system", "eval", "exec"):
        left = tmp_path / name
        path = tmp_path / "network.pkl"
        path.write_bytes(HOSTILE[name][0](canary(left)))
        code = "import pickle, sys; pickle.load(open(sys.argv[1], 'rb'))"
        subprocess.run([sys.executable, "-c", code, str(path)], check=True)
        assert left.exists()


def test_the_source_in_a_pickle_is_not_executed(tmp_path: Path) -> None:
    """The classes of official pickles bring their source; that of the made-up ones raises SystemExit."""
    tensors, arguments, _ = two(0)
    path = snapshot(tmp_path / "network.pkl", tensors, arguments)
    assert b"SystemExit" in path.read_bytes()
    assert convert(path).model.image_shape == (3, 16, 16)


def test_damaged_files_end_in_a_sentence(tmp_path: Path) -> None:
    """Bytes changed, left out or put in anywhere: a ConvertError, or weights that are as finite as before."""
    path, _, _ = r3gan(tmp_path / "network.pkl", 3)
    whole = path.read_bytes()
    values = [i for i in range(len(whole) - 8) if whole[i : i + 8] != whole[i + 1 : i + 9]]
    names = [i for i in values if i % 4000 < 2000] or values
    draw, refused = random.Random(0), 0
    damaged = tmp_path / "damaged.pkl"
    for _ in range(60):
        data = bytearray(whole)
        for _ in range(draw.randrange(1, 4)):
            place = draw.choice(names)
            match draw.randrange(3):
                case 0:
                    data[place] = draw.randrange(256)
                case 1:
                    del data[place : place + draw.randrange(1, 9)]
                case _:
                    data[place:place] = draw.randbytes(4)
        damaged.write_bytes(bytes(data[: draw.choice([len(data), len(data), place])]))
        try:
            convert(damaged)
        except ConvertError:
            refused += 1
    assert refused > 20


def test_a_truncated_file_is_refused_wherever_it_ends(tmp_path: Path) -> None:
    tensors, arguments, _ = two(0)
    whole = snapshot(tmp_path / "network.pkl", tensors, arguments).read_bytes()
    for end in range(10, len(whole) - 1, len(whole) // 25):
        (tmp_path / "short.pkl").write_bytes(whole[:end])
        with pytest.raises(ConvertError, match="damaged"):
            convert(tmp_path / "short.pkl")


def saved(values: Tensor) -> Made:
    """A storage as tensors bring it within a pickle."""
    made = read_pickle(io.BytesIO(pickle.dumps(values)), lambda name: True)
    return made.arguments[0]  # type: ignore[no-any-return]


REBUILT = Name("torch._utils", "_rebuild_tensor_v2")
BEYOND: dict[str, tuple[Any, Any, Any]] = {
    "too many": (0, (3, 3), (3, 1)),
    "too far": (4, (2, 2), (2, 1)),
    "repeated": (0, (2**30,), (0,)),
    "backwards": (5, (3,), (-1,)),
    "before": (-1, (2,), (1,)),
    "without a stride": (0, (2, 2), (1,)),
    "many dimensions": (0, (1,) * 9, (1,) * 9),
    "not whole": (0, (2.0,), (1,)),
    "true": (True, (2,), (1,)),
    "text": ("0", (2,), (1,)),
    "no shape": (0, 6, 1),
}


@pytest.mark.parametrize("place", BEYOND.values(), ids=BEYOND.keys())
def test_tensors_cannot_reach_beyond_their_values(place: tuple[Any, Any, Any]) -> None:
    made = saved(torch.arange(6.0))
    with pytest.raises(ConvertError, match="it has a tensor"):
        read_tensor(Made(REBUILT, (made, *place)))


def read_tensor(made: Made) -> Tensor:
    """The tensor that was meant."""
    return held.Tensors().tensor(made)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16, torch.float64, torch.int64])
def test_tensors_lie_as_they_lay(dtype: torch.dtype) -> None:
    values = torch.arange(6.0).to(dtype)
    made = Made(REBUILT, (saved(values), 1, (2, 2), (1, 2)))
    assert torch.equal(read_tensor(made), values.as_strided((2, 2), (1, 2), 1))


def test_values_that_are_too_few_are_refused() -> None:
    (data,) = saved(torch.arange(6.0)).arguments
    for wrong in (data[:-4], data + b"1234", data[:-30]):
        with pytest.raises(ConvertError):
            read_tensor(
                Made(REBUILT, (Made(Name("torch.storage", "_load_from_bytes"), (wrong,)), 0, (6,), (1,)))
            )


def test_the_pickles_are_pickles(tmp_path: Path) -> None:
    """The made-up ones open with pickle itself, where the classes that they name are there."""
    tensors, arguments, _ = two(0)
    with official.named(), pytest.raises(AssertionError, match="executed"):
        pickle.loads(official.written({"G_ema": official.network("G", tensors, arguments, {})}))

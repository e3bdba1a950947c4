"""What is fast gives the same numbers: kept coefficients, compiled networks, graphs, bfloat16."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from conftest import made_up, newest
from conftest import train_unprobed as train
from diptych import catalog
from diptych.cli import run as typed
from diptych.diffusion import denoiser as denoisers
from diptych.diffusion.denoiser import (
    Coefficients,
    EDMDenoiser,
    NetworkDenoiser,
    ScheduleDenoiser,
    each,
    one_level,
)
from diptych.diffusion.model import DiffusionModel, DiffusionOptions
from diptych.diffusion.schedules import Discrete, Flow, Schedule
from diptych.errors import RunError, WrongUse
from diptych.graphs import Graphed
from diptych.model import Condition, Model, Noise
from diptych.networks.unet import Block, UNet
from diptych.runs import save_model
from diptych.system.files import read_tensors
from diptych.training.state import Settings
from test_unet import loud

SHAPE = (1, 8, 8)
CUDA = torch.cuda.is_available()


def network() -> nn.Module:
    return loud(UNet(SHAPE, classes=4, width=8, multipliers=(1,), blocks=1))


def denoisers_of_each_kind() -> dict[str, NetworkDenoiser]:
    found: dict[str, NetworkDenoiser] = {"edm": EDMDenoiser(network())}
    schedules: dict[str, Schedule] = {"linear": Discrete("linear"), "flow": Flow()}
    for name, schedule in schedules.items():
        for target in ("eps", "x0", "v", "flow"):
            for told in ("time", "level"):
                found[f"{name} {target} {told}"] = ScheduleDenoiser(network(), schedule, target, told)
    return found


DENOISERS = denoisers_of_each_kind()


@pytest.mark.parametrize("name", DENOISERS)
def test_one_level_for_all_is_as_many_equal_ones(name: str) -> None:
    """The kept coefficients of a level are those of a tensor of levels, and D is a_x x + a_F F as it says."""
    denoiser, x = DENOISERS[name], torch.randn(3, *SHAPE)
    for sigma in (0.01, 0.7, 30.0):
        kept, many = one_level(sigma, x.device, x.dtype), torch.full((3,), sigma)
        condition = Condition(label=torch.tensor([0, 1, 4]))
        found, expected = denoiser(x, kept, condition), denoiser(x, many, condition)
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
        assert torch.equal(denoiser(x, kept, condition), found)
        c = denoiser.coefficients(many)
        torch.testing.assert_close(c.c_out.abs(), each(denoiser.c_out(many)))
        # a network that knows the answer gives the clean image
        clean, eps = torch.randn(2, 3, *SHAPE, dtype=torch.float64)
        if isinstance(denoiser, ScheduleDenoiser):
            alpha, noise = (each(part) for part in denoiser.schedule.coefficients(many.double()))
            F = {"eps": eps, "x0": clean, "v": alpha * eps - noise * clean, "flow": eps - clean}[
                denoiser.target
            ]
            exact = denoisers.read((clean + sigma * eps).float(), c, F.float())
            torch.testing.assert_close(exact, clean.float(), rtol=1e-3, atol=2e-6 * max(1, sigma / 1e-2))


class Same(nn.Module):
    """A network that says what it reads."""

    def forward(self, x: Tensor, told: Tensor, label: Tensor | None = None) -> Tensor:
        return x


class Counting(NetworkDenoiser):
    """Counts how often its coefficients are asked for."""

    image_shape, classes = SHAPE, 0

    def __init__(self) -> None:
        super().__init__()
        self.network, self.schedule = Same(), Flow()
        self.levels = list[Tensor]()

    @property
    def asked(self) -> int:
        return len(self.levels)

    def c_out(self, sigma: Tensor) -> Tensor:
        return sigma

    def coefficients(self, sigma: Tensor) -> Coefficients:
        self.levels.append(sigma)
        return Coefficients(each(1 / (1 + sigma)), None, each(-sigma / (1 + sigma)), sigma)


def test_coefficients_are_worked_out_once_a_level() -> None:
    first, second = Counting(), Counting()
    model = DiffusionModel(first, DiffusionOptions(steps=7, sampler="euler", grid="trailing"))
    a = model.sample(range(3))
    assert first.asked == 7
    assert torch.equal(model.sample(range(3), batch=2), a)
    assert first.asked == 7
    sigma = one_level(0.5, torch.device("cpu"), torch.float32)
    with torch.inference_mode():
        second(torch.randn(1, *SHAPE), sigma, Condition())
    assert second.asked == 1
    x = torch.randn(1, *SHAPE, requires_grad=True)  # coefficients kept by inference are fit for gradients
    second(x, sigma, Condition()).sum().backward()
    assert second.asked == 1
    assert x.grad is not None
    second(x, torch.tensor([0.5]), Condition())  # a tensor of nobody's is not taken for a level
    assert second.asked == 2
    kept = weakref.ref(next(iter(first._known.values()))[1].c_out)
    del first, model
    gc.collect()
    assert kept() is None  # nothing outlives its denoiser


def test_kept_levels_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(denoisers, "MOST_LEVELS", 5)
    denoiser = Counting()
    for i in range(12):
        denoiser(torch.randn(1, *SHAPE), one_level(1.0 + i, torch.device("cpu"), torch.float32), Condition())
    assert len(denoiser.lasting()) <= 5


def by_hand(call: Callable[[], Tensor]) -> tuple[Callable[[], object], Tensor]:
    """What a CUDA graph does, without one: the same call on the same tensors, the result in one place."""
    image = call().clone()

    def replay() -> None:
        with torch.inference_mode():
            image.copy_(call())

    return replay, image


def model(**options: object) -> DiffusionModel:
    return DiffusionModel(EDMDenoiser(network()), DiffusionOptions(**{"steps": 3, **options})).eval()  # type: ignore[arg-type]


@pytest.mark.parametrize("options", [{}, {"sampler": "ddpm", "grid": "trailing"}, {"guidance": 2.0}], ids=str)
def test_a_graph_draws_the_same_images(options: dict[str, object]) -> None:
    captured = 0

    def capture(call: Callable[[], Tensor]) -> tuple[Callable[[], object], Tensor]:
        nonlocal captured
        captured += 1
        return by_hand(call)

    plain = model(**options)
    graphed = Graphed(plain, capture)
    for seeds, batch in ((range(8), 4), (range(20, 28), 4), (range(5), 4), (range(3), 64)):
        assert torch.equal(graphed.sample(seeds, batch=batch), plain.sample(seeds, batch=batch))
    assert captured == 3  # batches of 4, of 1 and of 3
    label = Condition(label=torch.tensor([3, 3, 1, 1]))
    assert torch.equal(graphed.sample(range(4), label), plain.sample(range(4), label))
    assert not torch.equal(graphed.sample(range(4), label), graphed.sample(range(4)))
    kept = graphed(Noise(range(4)), label)
    before = kept.clone()
    graphed(Noise(range(4, 8)), label)
    assert torch.equal(kept, before)  # images given out are not written over


def test_a_graph_needs_cuda() -> None:
    with pytest.raises(WrongUse, match="CUDA") as error:
        Graphed(model())
    assert "--graph" in error.value.hint


def test_a_graph_takes_labels_only() -> None:
    class Editor(DiffusionModel):
        @property
        def wants(self) -> frozenset[str]:
            return frozenset({"mask"})

    with pytest.raises(WrongUse, match="wants mask"):
        Graphed(Editor(EDMDenoiser(network())), by_hand)


@pytest.mark.skipif(not CUDA, reason="needs a GPU")
def test_a_cuda_graph_draws_the_same_images() -> None:
    plain = model(guidance=1.5).cuda()
    graphed = Graphed(plain)
    for seeds in (range(8), range(8, 16)):
        off = graphed.sample(seeds, batch=4).int() - plain.sample(seeds, batch=4).int()
        assert off.abs().max() <= 1


def test_what_is_compiled() -> None:
    """The generator and the denoiser's network; never a critic, whose penalty is differentiated twice."""
    data = made_up().train
    for name, spec in catalog.recipes().items():
        method = spec(data, **spec.small).method
        parts = method.compilable()
        assert parts, name
        inside = {id(p) for p in method.model.parameters()}
        assert {id(p) for part in parts for p in part.parameters()} <= inside
        assert not any(isinstance(part, Model) for part in parts)


def test_training_compiled_in_place_equals_eager_and_goes_on_without(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`--compile` changes no name; a run may be continued without it. (Traced here, compiled below.)"""
    spec, arguments = catalog.recipe("edm"), {"width": 8, "blocks": 1, "batch": 8, "steps": 2}
    settings = Settings(budget="24-images", ticks=1, device="cpu", seed=3)
    eager = train(spec, made_up(), tmp_path / "eager", arguments=arguments, settings=settings)
    asked: list[nn.Module] = []

    def trace(self: nn.Module) -> None:
        asked.append(self)
        self._compiled_call_impl = torch.compile(self._call_impl, backend="eager")

    monkeypatch.setattr(nn.Module, "compile", trace)
    compiling = replace(settings, compile=True)
    out = tmp_path / "compiled"
    ours = train(spec, made_up(), out, arguments=arguments, settings=compiling)
    assert [type(part) for part in asked] == [UNet]
    (found, _), (wanted, _) = (read_tensors(newest(run)) for run in (ours, eager))
    assert found.keys() == wanted.keys()
    for key in found:
        torch.testing.assert_close(found[key], wanted[key], rtol=1e-3, atol=1e-4)
    longer = replace(settings, budget="32-images")
    with pytest.raises(RunError, match="budget") as error:  # nothing is said of compiling
        train(spec, made_up(), out, arguments=arguments, settings=longer)
    assert "settings.compile" not in error.value.message
    assert train(spec, made_up(), out, arguments=arguments, settings=settings).finished


@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")  # within torch's compiler
@pytest.mark.parametrize(
    ("device", "backend"),
    [
        ("cpu", "aot_eager"),  # torch's C++ takes minutes on a CPU, and its kernels are not ours to test
        pytest.param("cuda", "inductor", marks=pytest.mark.skipif(not CUDA, reason="needs a GPU")),
    ],
)
def test_a_compiled_block_equals_an_eager_one(device: str, backend: str) -> None:
    block = Block(8, 12, 16, 0.0, 4, attends=True)
    loud(block).to(device)
    x, embedding = (
        torch.randn(2, 8, 4, 4, device=device, requires_grad=True),
        torch.randn(2, 16, device=device),
    )
    (expected,) = torch.autograd.grad(block(x, embedding).square().sum(), x)
    names = list(block.state_dict())
    block.compile(backend=backend)
    (found,) = torch.autograd.grad(block(x, embedding).square().sum(), x)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
    assert list(block.state_dict()) == names


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    save_model(model(), tmp_path / "run")
    return tmp_path / "run"


def drawn(run: Path, *flags: str) -> np.ndarray:
    out = run.parent / "drawn.npz"
    assert typed(["sample", str(run), "--out", str(out), "--seeds", "0-4", "--device", "cpu", *flags]) == 0
    return np.load(out)["arr_0"]  # type: ignore[no-any-return]


def test_sampling_in_bfloat16(saved: Path) -> None:
    exact, rough = drawn(saved), drawn(saved, "--precision", "bfloat16")
    off = np.abs(exact.astype(int) - rough.astype(int))
    assert 0 < off.mean() < 8
    assert np.array_equal(exact, drawn(saved, "--precision", "float32"))


def test_sampling_by_a_graph_without_cuda_is_refused(saved: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert typed(["sample", str(saved), "--out", "a.png", "--device", "cpu", "--graph"]) == 2
    assert "a CUDA graph needs a model on a CUDA device" in capsys.readouterr().err

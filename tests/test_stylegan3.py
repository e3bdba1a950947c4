"""StyleGAN3: its bands and filters against the paper's and scipy's, its layers against the usual operations;
that images move with their Fourier features."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from conftest import made_up
from diptych.adversarial.blur import blurred, fading
from diptych.adversarial.equivariance import (
    common_band,
    lanczos_shifted,
    periodic,
    pseudo_rotated,
    rotated,
    rotation,
    shifted,
    transformed,
    translation,
)
from diptych.adversarial.latent import GeneratorModel, LatentModel
from diptych.adversarial.style import StyleModel, StyleOptions
from diptych.catalog import recipes
from diptych.errors import NotMeasurable, WrongUse
from diptych.exam import Exam
from diptych.exporter import export
from diptych.method import Clock
from diptych.metrics.equivariance import decibels, equivariance
from diptych.model import Model
from diptych.networks.bands import Band, bands, layers_for, lowpass
from diptych.networks.r3gan import R3Generator
from diptych.networks.stylegan2 import StyleGAN2Generator
from diptych.networks.stylegan3 import AliasFreeLayer, FourierInput, StyleGAN3Generator
from diptych.saveable import arguments
from diptych.scores import Estimate
from diptych.training.state import Settings, Training
from usual_operations import usual_form

signal = pytest.importorskip("scipy.signal")

PAPER = {
    "layers": 14,
    "critical": 2,
    "base": 32768,
    "largest": 512,
    "first_cutoff": 2.0,
    "first_stopband": 2**2.1,
    "last_stopband": 2**0.3,
    "margin": 10,
}
SMALL = {"latent": 16, "style": 16, "base": 512, "largest": 24}
TURNING = {**SMALL, "kernel": 1, "radial": True}


def small(
    kind: type[nn.Module] = StyleGAN3Generator, shape: tuple[int, int, int] = (3, 32, 32), **more: object
) -> nn.Module:
    torch.manual_seed(0)
    return kind(shape, **{**SMALL, **more}).eval()  # type: ignore[call-arg]


def test_bands_are_those_of_the_paper() -> None:
    """1024 pixels, configuration t: sizes and channels as its published networks name their layers."""
    plan = bands((3, 1024, 1024), **PAPER)  # type: ignore[arg-type]
    sizes = [36, 36, 52, 52, 84, 148, 148, 276, 276, 532, 1044, 1044, 1044, 1024, 1024]
    channels = [512, 512, 512, 512, 512, 512, 512, 323, 203, 128, 81, 51, 32, 32, 3]
    assert [band.size for band in plan] == [(n, n) for n in sizes]
    assert [band.channels for band in plan] == channels
    assert plan[0].cutoff == 2
    assert plan[-1].cutoff == plan[-3].cutoff == 512  # critically sampled: half of the rate
    assert plan[-3].rate == 1024
    assert all(band.cutoff + band.half_width >= band.rate / 2 - 1e-9 for band in plan)


def test_any_image_is_a_cut_of_a_square() -> None:
    plan = bands((1, 20, 30), **{**PAPER, "layers": layers_for((1, 20, 30))})  # type: ignore[arg-type]
    assert len(plan) == 9
    assert plan[-1].size == plan[-2].size == (20, 30)
    assert plan[-3].rate == 32
    assert plan[-3].size == (40, 50)
    assert plan[0].size == (math.ceil(plan[0].rate * 20 / 32) + 20, math.ceil(plan[0].rate * 30 / 32) + 20)
    assert [layers_for((3, n, n)) for n in (8, 16, 28, 64, 256, 1024)] == [4, 6, 8, 10, 14, 14]


@pytest.mark.parametrize(
    ("taps", "cutoff", "width", "rate"), [(12, 2.0, 4.57, 32), (24, 12.3, 8.0, 128), (7, 3, 30.0, 64)]
)
def test_filters_are_scipys(taps: int, cutoff: float, width: float, rate: float) -> None:
    expected = signal.firwin(numtaps=taps, cutoff=cutoff, width=width, fs=rate)
    found = lowpass(taps, cutoff, width, rate)
    assert found is not None
    np.testing.assert_allclose(found.numpy(), expected, atol=1e-7)
    assert lowpass(1, cutoff, width, rate) is None


def test_radial_filters_are_round() -> None:
    """The response is the same in all directions, 1 at 0 and small beyond the stop band."""
    taps = lowpass(24, 6.0, 8.0, 64, radial=True)
    assert taps is not None
    torch.testing.assert_close(taps, taps.T)
    torch.testing.assert_close(taps, taps.flip(0))
    x = (torch.arange(24) - 11.5) / 64
    wave = [torch.cos(2 * math.pi * f * x) for f in (0.0, 5.0, 5 / math.sqrt(2), 20.0)]
    at = [float(wave[i] @ taps @ wave[j]) for i, j in ((0, 0), (1, 0), (2, 2), (3, 0))]
    assert at[0] == pytest.approx(1)
    assert at[1] == pytest.approx(at[2], abs=0.02)
    assert abs(at[3]) < 0.01


def test_fourier_features_in_closed_form() -> None:
    """Sines of the stored frequencies, turned and moved as the style says, under the matrix of weights."""
    torch.manual_seed(0)
    layer = FourierInput(Band(16, 2.0, 1.0, (6, 10), 5), style=4).double()
    radius = layer.freqs.norm(dim=1)
    assert radius.max() <= 2
    with torch.no_grad():
        layer.affine.bias.copy_(torch.tensor([2 * math.cos(0.3), 2 * math.sin(0.3), 0.2, -0.4]))
    found = layer(torch.zeros(1, 4, dtype=torch.float64))[0]
    turn = torch.tensor(
        [[math.cos(0.3), -math.sin(0.3)], [math.sin(0.3), math.cos(0.3)]], dtype=torch.float64
    )
    for row, column in ((0, 0), (5, 2), (3, 9)):
        place = torch.tensor([(column - 4.5) / 16, (row - 2.5) / 16], dtype=torch.float64)
        source = turn @ (place - torch.tensor([0.1, -0.2], dtype=torch.float64))  # shifts are normalised too
        waves = torch.sin(2 * math.pi * (layer.freqs @ source + layer.phases))
        torch.testing.assert_close(found[:, row, column], layer.weight @ waves / math.sqrt(5))


def test_frequencies_out_of_the_band_are_dampened() -> None:
    layer = FourierInput(Band(16, 2.0, 1.0, (6, 6), 5), style=4)
    layer.transform.copy_(torch.diag(torch.tensor([100.0, 100.0, 1.0])))
    assert layer(torch.zeros(1, 4)).abs().max() == 0


@pytest.mark.parametrize(
    ("kind", "more"), [(StyleGAN3Generator, {}), (StyleGAN3Generator, TURNING), (StyleGAN2Generator, {})]
)
@torch.no_grad()
def test_equals_the_usual_form(kind: type[nn.Module], more: dict[str, object]) -> None:
    """Weights modulated for each image, grouped convolutions, zeros inserted: the same images."""
    network = small(kind, (3, 20, 32), **more)
    for name, parameter in network.named_parameters():
        if name.endswith(("bias", "strength", "affine.weight")):
            parameter.add_(0.3 * torch.randn_like(parameter))
    for name, buffer in network.named_buffers():
        if name.endswith("magnitude"):
            buffer.fill_(0.7)
    z = torch.randn(3, 16)
    ours = network(z)
    with usual_form():
        usual = network(z)
    assert not torch.equal(ours, usual)
    assert ours.std() > 0.01
    torch.testing.assert_close(ours, usual, atol=1e-5, rtol=1e-4)


def test_second_derivatives_equal_those_of_the_usual_form() -> None:
    network = small(shape=(1, 8, 8), largest=8).double()
    z = torch.randn(2, 16, dtype=torch.float64)

    def penalty() -> Tensor:
        styles = network.mapping(z)  # type: ignore[operator]
        image = network.synthesis(styles)  # type: ignore[operator]
        (slope,) = torch.autograd.grad(image.square().sum(), styles, create_graph=True)
        return torch.stack(
            [
                g.square().sum()
                for g in torch.autograd.grad(slope.square().sum(), list(network.synthesis.parameters()))
            ]
        )  # type: ignore[union-attr]

    ours = penalty()
    with usual_form():
        torch.testing.assert_close(ours, penalty())


@torch.no_grad()
def test_a_layer_does_not_change_the_variance() -> None:
    """Inputs of unit variance, whatever the scale of styles, and outputs in kind (section 3.2)."""
    torch.manual_seed(0)
    band = Band(64, 8.0, 10.0, (84, 84), 64)
    layer = AliasFreeLayer(
        band,
        band,
        style=4,
        kernel=3,
        image=False,
        radial=False,
        taps=6,
        oversampling=2,
        clamp=256,
        half_life=1,
    ).eval()
    layer.affine.bias.fill_(37.0)
    x, style = torch.randn(1, 64, 84, 84), torch.zeros(1, 4)
    blurred = layer(x, style)
    assert blurred.shape == x.shape
    layer.affine.bias.fill_(1.0)
    torch.testing.assert_close(layer(x, style), blurred, atol=1e-4, rtol=1e-4)
    layer.magnitude.fill_(4.0)
    torch.testing.assert_close(layer(2 * x, style), blurred, atol=1e-4, rtol=1e-4)
    smooth = torch.ones_like(x)
    flat = layer(smooth / 2, style)[0, :, 40, 40]  # a constant passes both filters as it is
    weight = layer.weight / layer.weight.square().mean((1, 2, 3), keepdim=True).sqrt()
    expected = weight.sum((1, 2, 3)) / weight.square().sum((1, 2, 3)).sqrt() / 4
    expected = torch.where(expected > 0, expected, 0.2 * expected) * math.sqrt(2)
    torch.testing.assert_close(flat, expected, atol=2e-2, rtol=2e-2)


def test_training_moves_the_running_means() -> None:
    network = small().train()
    z = torch.randn(8, 16)
    network(z)
    styles = network.mapping(z)  # type: ignore[operator]
    torch.testing.assert_close(network.mean, 0.002 * styles[:, 0].mean(0))
    layer = network.synthesis.stack[0]  # type: ignore[union-attr, index]
    features = network.synthesis.input(styles[:, 0])  # type: ignore[union-attr, operator]
    keep = 0.5 ** (8 / 40_000)
    torch.testing.assert_close(layer.magnitude, keep + (1 - keep) * features.square().mean())
    before = {name: buffer.clone() for name, buffer in network.named_buffers()}
    network.eval()(z)
    assert all(torch.equal(before[name], buffer) for name, buffer in network.named_buffers())


def test_sizes_it_cannot_do() -> None:
    with pytest.raises(WrongUse, match="too small"):
        StyleGAN3Generator((3, 4, 4))
    with pytest.raises(WrongUse, match="critical"):
        StyleGAN3Generator((3, 32, 32), layers=2)
    with pytest.raises(WrongUse, match="sampling rate"):
        StyleGAN3Generator((3, 32, 32), oversampling=1)
    with pytest.raises(WrongUse, match="config is 'tt', not 't' or 'r'"):
        recipes()["stylegan3"](made_up().train, config="tt")


def measured(network: nn.Module) -> GeneratorModel:
    return StyleModel(network)


def of(model: Model, n: int) -> dict[str, Estimate | None]:
    return {name: decibels(rows) for name, rows in model.equivariance(n).items()}


def test_images_follow_their_features() -> None:
    """With random weights already: t follows translations, r rotations as well, StyleGAN2 neither."""
    t, r, two = (
        {name: one.value for name, one in of(measured(small(kind, **more)), 16).items() if one}
        for kind, more in ((StyleGAN3Generator, {}), (StyleGAN3Generator, TURNING), (StyleGAN2Generator, {}))
    )
    assert t["eq_t"] > 60
    assert t["eq_t_frac"] > 50
    assert r["eq_r"] > 45
    assert r["eq_r"] > t["eq_r"] + 10
    assert two["eq_t"] < 30
    assert two["eq_r"] < t["eq_r"]
    assert of(measured(small(shape=(1, 8, 8))), 2)["eq_r"] is None
    with pytest.raises(NotMeasurable, match="nothing that could be moved"):
        LatentModel(R3Generator((1, 8, 8), width=8, largest=8, group=8)).equivariance(2)


def test_it_is_a_score_like_others() -> None:
    data = made_up((3, 32, 32))
    exam = Exam(measured(small()), data, n=8)
    found = equivariance(exam)
    assert list(found) == ["eq_t", "eq_t_frac", "eq_r"]
    assert all(one.low < one.value < one.high and one.unit == "dB" for one in found.values())
    assert found["eq_t"].value > 60
    other = equivariance(Exam(exam.model, data, n=8, seed=5))
    assert all(other[name].value != one.value for name, one in found.items())  # other images and transforms
    with pytest.raises(NotMeasurable, match="only images"):
        equivariance(Exam(None, data, n=8, fakes=data.held_out))


def test_the_interval_of_a_signal_to_noise_ratio() -> None:
    """It holds the value of a hundred times as many transforms about 95 % of the time."""
    stream = torch.Generator().manual_seed(0)
    count = torch.randint(100, 200, (400, 60), generator=stream).double()
    error = 0.01 * count * torch.rand(400, 60, generator=stream).double() * 2
    truth = 10 * math.log10(4 / 0.01)
    held = 0
    for rows in torch.stack([error, count], 2):
        found = decibels(rows)
        assert found is not None
        held += found.low <= truth <= found.high
    assert 0.9 < held / 400 < 0.99
    known = decibels(torch.tensor([[1.0, 100.0], [1.0, 100.0]]))
    assert known is not None
    assert known.value == pytest.approx(10 * math.log10(400))
    assert known.high - known.low < 1e-9
    assert decibels(torch.zeros(3, 2)) is None


def test_a_transform_is_taken_back() -> None:
    for kind in (StyleGAN3Generator, StyleGAN2Generator):
        network = small(kind)
        before = {name: value.clone() for name, value in network.state_dict().items()}
        z = torch.randn(2, 16)
        still = network(z)
        with transformed(network, translation(3.0, 1.0)):
            assert not torch.allclose(network(z), still, atol=1e-3)
        assert torch.equal(network(z), still)
        assert all(torch.equal(before[name], value) for name, value in network.state_dict().items())


def waves(h: int, w: int, matrix: Tensor) -> Tensor:
    """Slow waves on a plane that is transformed so, in pixels from the middle: (1, 1, h, w)."""
    y, x = torch.meshgrid(torch.arange(h) - (h - 1) / 2, torch.arange(w) - (w - 1) / 2, indexing="ij")
    back = torch.linalg.inv(matrix)
    u, v = (back[i, 0] * x + back[i, 1] * y + back[i, 2] for i in (0, 1))
    return (torch.sin(0.3 * u + 0.2 * v) + torch.cos(0.45 * v - 0.1 * u + 1))[None, None]


def test_images_are_moved_as_they_should_be() -> None:
    """Against waves that were drawn moved; what the mask leaves out is unknown."""
    still = waves(40, 52, torch.eye(3))
    for moved, mask, matrix in (
        (*shifted(still, 3, -5), translation(3, -5)),
        (*lanczos_shifted(still, 3.4, -5.7), translation(3.4, -5.7)),
        (*rotated(still, 0.4), rotation(0.4)),
        (*pseudo_rotated(still, 0.4), torch.eye(3)),
    ):
        assert mask.mean() > 0.3
        error = (moved - waves(40, 52, matrix))[0, 0] * mask
        assert error.abs().max() < 0.02


@pytest.mark.parametrize(("h", "w"), [(4, 4), (5, 7), (4, 6)])
def test_a_constant_moves_as_a_periodic_signal(h: int, w: int) -> None:
    constant = torch.randn(3, h, w, generator=torch.Generator().manual_seed(0))
    shape = (3, 8 * h, 8 * w)
    torch.testing.assert_close(periodic(constant, torch.eye(3), 8, shape), constant, atol=1e-5, rtol=1e-5)
    by_cells = periodic(constant, torch.linalg.inv(translation(8, -16)), 8, shape)
    torch.testing.assert_close(by_cells, constant.roll((-2, 1), (1, 2)), atol=1e-5, rtol=1e-5)
    if h == w:
        turned = periodic(constant, torch.linalg.inv(rotation(math.pi / 2)), 8, shape)
        torch.testing.assert_close(turned, constant.rot90(-1, (1, 2)), atol=1e-5, rtol=1e-5)


def test_common_band_keeps_what_both_can_show() -> None:
    taps = common_band(math.pi / 4, 1)
    assert taps.sum() == pytest.approx(1, abs=1e-5)
    x = torch.arange(11) - 5.0
    inside, corner = torch.cos(2 * math.pi * 0.25 * x), torch.cos(2 * math.pi * 0.48 * x)
    assert float(inside @ taps @ torch.ones(11)) > 0.9
    assert abs(float(corner @ taps @ corner)) < 0.05  # the corners of one square lie outside of the other


@pytest.mark.parametrize("shape", [(3, 16, 64), (3, 64, 16), (3, 32, 32)])
def test_the_critic_is_as_wide_as_asked_whatever_the_shape(shape: tuple[int, int, int]) -> None:
    spec = recipes()["stylegan3"]
    method = spec(made_up(shape, n=4).train, **{**spec.small, "width": 8, "largest": 64}).method
    assert method.critic.blocks[0].from_image.weight.shape[0] == 8  # type: ignore[union-attr]


@pytest.mark.parametrize(
    "wrong",
    [
        {"style": 0},
        {"style": -1},
        {"mapping": 0},
        {"blur": math.inf},
        {"blur": math.nan},
        {"blur": 9.0},
        {"blur_share": -1.0, "blur": 1.0},
        {"blur_share": 1.5},
        {"margin": 9},
        {"margin": 1000},
        {"label_gain": -1.0},
    ],
)
def test_what_cannot_be_meant_is_refused(wrong: dict[str, float]) -> None:
    spec = recipes()["stylegan3"]
    with pytest.raises(WrongUse, match=next(iter(wrong))):
        spec(made_up().train, **{**spec.small, **wrong})


def test_a_learning_rate_is_refused_as_it_was_given() -> None:
    """Not after the correction for lazy terms: -1 was "not -0.94"."""
    spec = recipes()["stylegan3"]
    for name in ("lr", "critic_lr"):
        with pytest.raises(WrongUse, match=rf"^{name} must be at least 0, not -1.0"):
            spec(made_up().train, **spec.small, **{name: -1.0})


def test_a_margin_below_0_is_the_default() -> None:
    spec = recipes()["stylegan3"]
    for given, margin in ((-1, 4), (0, 0), (8, 8)):
        method = spec(made_up().train, **{**spec.small, "margin": given}).method
        assert arguments(method.generator)["margin"] == margin  # type: ignore[arg-type]


@pytest.mark.parametrize("noise", ["random", "none"])
def test_noise_inputs_that_there_are_not(noise: str) -> None:
    model = StyleModel(small(shape=(1, 8, 8), layers=4, margin=2))
    with pytest.raises(WrongUse, match="no noise inputs"):
        model.using(noise=noise)
    assert model.using(noise="const", truncation=0.5).options.truncation == 0.5


def test_the_critics_blur_fades() -> None:
    fade = fading(4.0, 0.1)
    image = torch.zeros(1, 1, 33, 33)
    image[0, 0, 16, 20] = 1
    seen = []
    for images in (0, 500, 1000, 5000):
        sigma = fade(Clock(images, 10_000, 0))
        seen.append((sigma, float(blurred(image, sigma)[0, 0, 16, 16])))
    assert [sigma for sigma, _ in seen] == pytest.approx([4, 2, 0, 0])
    weights = [sum(2 ** -((i / s) ** 2) for i in range(-int(3 * s), int(3 * s) + 1)) for s in (4, 2)]
    assert [value for _, value in seen] == pytest.approx(
        [0.5 / weights[0] ** 2, 2**-4 / weights[1] ** 2, 0, 0]
    )


@pytest.mark.parametrize(("more", "sigma"), [({}, None), ({"config": "r"}, 10 * 8 / 256), ({"blur": 3.0}, 3)])
def test_the_recipe_blurs_for_rotation_alone(more: dict[str, object], sigma: float | None) -> None:
    spec, data = recipes()["stylegan3"], made_up().train
    blur = spec(data, **spec.small, **more).method.blur  # type: ignore[union-attr]
    assert (blur and blur(Clock(0, 100, 0))) == (sigma and pytest.approx(sigma))
    assert blur is None or blur(Clock(2, 100, 0)) == 0


@pytest.mark.parametrize(("kind", "more"), [(StyleGAN3Generator, {"layers": 3}), (StyleGAN2Generator, {})])
def test_exports_with_any_batch(kind: type[nn.Module], more: dict[str, object], tmp_path: Path) -> None:
    """As onnxruntime runs it: below 1e-4."""
    pytest.importorskip("onnxruntime")
    network = small(kind, (1, 8, 8), classes=3, largest=8, mapping_layers=1, **more)
    model = StyleModel(network, StyleOptions(truncation=0.7)).eval()
    done = export(model, tmp_path / "model.onnx", batches=(1, 5))
    assert done.difference is not None
    assert done.difference < 1e-4
    assert done.inputs == {"noise": "float32 (batch, 16)", "label": "int64 (batch)"}


def test_magnitudes_move_alike_in_one_shard_and_in_eight() -> None:
    """The first layer's inputs are the same for all latents at first, so that only the decay could differ."""

    def magnitudes(microbatch: int) -> Tensor:
        torch.manual_seed(0)
        spec, data = recipes()["stylegan3"], made_up().train
        settings = Settings(device="cpu", microbatch=microbatch)
        training = Training(spec(data, **spec.small, group=1), data, 1000, settings)
        assert training.shards == (8 if microbatch else 1)
        for layer in training.method.model.network.synthesis.stack:
            layer.half_life = 100.0
        training.step()
        assert all(layer.batch == 8 for layer in training.method.model.network.synthesis.stack)
        return training.method.model.network.synthesis.stack[0].magnitude.clone()

    whole, parts = magnitudes(0), magnitudes(1)
    assert abs(whole - 1) > 0.01
    torch.testing.assert_close(parts, whole, rtol=1e-5, atol=0)


def test_a_half_life_is_counted_in_images_of_the_step() -> None:
    layer = small().train().synthesis.stack[0]  # type: ignore[union-attr, index]
    layer.half_life, layer.batch = 64.0, 64
    layer.observe(torch.full((8, 1, 1, 1), 2.0))
    assert layer.magnitude.item() == pytest.approx((1 + 4) / 2)
    layer.batch = 0  # as many as there are
    layer.observe(torch.full((64, 1, 1, 1), 2.0))
    assert layer.magnitude.item() == pytest.approx((2.5 + 4) / 2)

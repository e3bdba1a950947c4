"""StyleGAN2: its layers and networks against the paper's definition, written plainly; what training adds."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from conftest import made_up
from diptych import catalog
from diptych.adversarial.regularisers import PathLength
from diptych.adversarial.style import StyleModel, StyleOptions
from diptych.errors import WrongUse
from diptych.exporter import export
from diptych.method import Batch, Clock, Condition
from diptych.methods.adversarial import Adversarial
from diptych.model import Noise
from diptych.networks.equalized import EqualizedConv2d, EqualizedLabel, EqualizedLinear, MinibatchStd
from diptych.networks.mapping import Mapping
from diptych.networks.modulated import SynthesisLayer, ToImage, modulated_conv2d, resampling
from diptych.networks.stylegan2 import StyleGAN2Generator, Synthesis, SynthesisBlock
from diptych.networks.stylegan2_critic import StyleGAN2Critic

SMALL = {"base": 64, "largest": 8}


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(0)


def generator(shape: tuple[int, int, int] = (3, 16, 16), **changes: object) -> StyleGAN2Generator:
    sizes = {"latent": 6, "style": 5, "mapping_layers": 2, **SMALL}
    return StyleGAN2Generator(shape, **{**sizes, **changes})  # type: ignore[arg-type]


def loud(network: nn.Module) -> nn.Module:
    """Biases and noise strengths begin at 0, which would hide mistakes."""
    with torch.no_grad():
        for p in network.parameters():
            if p.ndim < 2:
                p.add_(0.5 * torch.randn(p.shape))
    return network


# the definition, written for one image at a time, with zeros inserted and weights modulated


def filtered(x: Tensor, before: int, after: int) -> Tensor:
    """x (1, C, H, W) convolved with the outer product of [1, 3, 3, 1] / 8."""
    taps = torch.tensor([1.0, 3.0, 3.0, 1.0], dtype=x.dtype) / 8
    kernel = (taps[:, None] * taps)[None, None]
    return torch.cat([F.conv2d(F.pad(c, (before, after) * 2), kernel) for c in x.split(1, 1)], 1)


def doubled(x: Tensor) -> Tensor:
    """Zeros between pixels, filtered, four times as large."""
    y = x.new_zeros(1, x.shape[1], 2 * x.shape[2], 2 * x.shape[3])
    y[:, :, ::2, ::2] = x
    return 4 * filtered(y, 2, 1)


def plain_conv(x: Tensor, weight: Tensor, scale: Tensor, demodulate: bool = True, up: bool = False) -> Tensor:
    """Equations 1 and 3; the convolution proper acts on the image with zeros inserted, and is filtered."""
    out = []
    for image, s in zip(x.split(1), scale, strict=True):
        w = weight * s[None, :, None, None]
        if demodulate:
            w = w / (w.square().sum((1, 2, 3), keepdim=True) + 1e-8).sqrt()
        if up:
            out.append(4 * filtered_after(image, w))
        else:
            out.append(F.conv2d(image, w, padding=weight.shape[2] // 2))
    return torch.cat(out)


def filtered_after(image: Tensor, w: Tensor) -> Tensor:
    """Zeros inserted, convolved (so the kernel is flipped) and filtered in full, cut to the middle."""
    height, width = image.shape[2:]
    y = image.new_zeros(1, image.shape[1], 2 * height, 2 * width)
    y[:, :, ::2, ::2] = image
    y = filtered(F.conv2d(F.pad(y, (2, 2, 2, 2)), w.flip(2, 3)), 3, 3)
    return y[:, :, 2 : 2 + 2 * height, 2 : 2 + 2 * width]


@pytest.mark.parametrize("up", [False, True])
@pytest.mark.parametrize("demodulate", [False, True])
def test_modulated_convolution_is_one_convolution_an_image(demodulate: bool, up: bool) -> None:
    x = torch.randn(3, 4, 6, 5, dtype=torch.float64)
    weight = torch.randn(2, 4, 3, 3, dtype=torch.float64)
    scale = torch.randn(3, 4, dtype=torch.float64)
    taps = resampling().double() if up else None
    ours = modulated_conv2d(x, weight, scale, demodulate=demodulate, taps=taps, gain=1.5)
    theirs = 1.5 * plain_conv(x, weight, scale, demodulate, up)
    assert ours.shape == (3, 2, 12, 10) if up else (3, 2, 6, 5)
    torch.testing.assert_close(ours, theirs, atol=1e-10, rtol=1e-10)


@pytest.mark.parametrize("up", [False, True])
def test_modulated_convolution_has_the_same_slopes_and_curvature(up: bool) -> None:
    """First derivatives against the plain form's, and those of their squared norm (the double backward)."""
    inputs = [
        torch.randn(shape, dtype=torch.float64, requires_grad=True)
        for shape in ((2, 3, 4, 4), (2, 3, 3, 3), (2, 3))
    ]
    taps, target = resampling().double() if up else None, torch.randn(1, dtype=torch.float64)
    found = []
    for y in (modulated_conv2d(*inputs, taps=taps), plain_conv(*inputs, up=up)):
        loss = (y * target).sin().sum()
        slopes = torch.autograd.grad(loss, inputs, create_graph=True)
        curvature = torch.autograd.grad(sum(s.square().sum() for s in slopes), inputs)
        found.append([*slopes, *curvature])
    for ours, theirs in zip(*found, strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-9, rtol=1e-9)


def plain_layer(layer: SynthesisLayer, x: Tensor, style: Tensor, gain: float = 1.0) -> Tensor:
    """Convolution, noise, bias, leaky ReLU with a gain of sqrt(2)."""
    scale = style @ layer.affine.weight.T / math.sqrt(style.shape[1]) + layer.affine.bias
    y = plain_conv(x, layer.weight, scale, up=layer.taps is not None) + layer.strength * layer.noise
    return F.leaky_relu(y + layer.bias[:, None, None], 0.2) * math.sqrt(2) * gain


def plain_colours(to_image: ToImage, x: Tensor, style: Tensor) -> Tensor:
    """A 1x1 convolution with modulation alone."""
    scale = style @ to_image.affine.weight.T / math.sqrt(style.shape[1]) + to_image.affine.bias
    y = plain_conv(x, to_image.weight / math.sqrt(x.shape[1]), scale, demodulate=False)
    return y + to_image.bias[:, None, None]


def plain_synthesis(network: Synthesis, styles: Tensor) -> Tensor:
    """Figure 2 and figure 7, for whole powers of two."""
    at, x, image = 0, styles.new_zeros(0), styles.new_zeros(())
    for block in network.blocks:
        assert isinstance(block, SynthesisBlock)
        if block.start is not None:
            x = plain_layer(block.conv1, block.start.expand(len(styles), -1, -1, -1), styles[:, 0])
            at = 1
        else:
            assert block.conv0 is not None
            gain = math.sqrt(0.5) if block.skip is not None else 1.0
            side = x
            x = plain_layer(block.conv0, x, styles[:, at])
            x = plain_layer(block.conv1, x, styles[:, at + 1], gain)
            at += 2
            if block.skip is not None:
                thin = F.conv2d(side, block.skip.weight / math.sqrt(side.shape[1]))
                x = x + gain * torch.cat([doubled(one) for one in thin.split(1)])
            if image.ndim:
                image = torch.cat([doubled(one) for one in image.split(1)])
        if block.to_image is not None:
            image = image + plain_colours(block.to_image, x, styles[:, at])
    return image


@pytest.mark.parametrize("architecture", ["skip", "resnet", "orig"])
def test_the_generator_is_the_papers(architecture: str) -> None:
    made = loud(generator(architecture=architecture)).eval()
    assert isinstance(made, StyleGAN2Generator)
    assert made.layers == 6
    assert made.noise_shapes == [(1, 4, 4), (1, 8, 8), (1, 8, 8), (1, 16, 16), (1, 16, 16)]
    styles = torch.randn(3, made.layers, 5)
    with torch.no_grad():
        torch.testing.assert_close(
            made.synthesis(styles), plain_synthesis(made.synthesis, styles), atol=1e-4, rtol=1e-4
        )


def test_the_mapping_is_the_papers() -> None:
    """Latent and label are normalised; weights and biases act through the multiplier 0.01."""
    made = loud(generator(classes=3))
    z, label = torch.randn(4, 6), torch.tensor([0, 2, 1, 2])
    embed = made.mapping.embed.linear
    told = F.one_hot(label, 3).float() @ embed.weight.T / math.sqrt(3) + embed.bias
    x = torch.cat([v / (v.square().mean(1, keepdim=True) + 1e-8).sqrt() for v in (z, told)], 1)
    for layer in made.mapping.stack:
        x = F.linear(x, layer.weight * 0.01 / math.sqrt(x.shape[1]), layer.bias * 0.01)
        x = F.leaky_relu(x, 0.2) * math.sqrt(2)
    styles = made.mapping(z, label)
    assert styles.shape == (4, 6, 5)
    torch.testing.assert_close(styles, x[:, None].expand(-1, 6, -1))


def test_labels_are_as_loud_as_they_are_said_to_be() -> None:
    z, label = torch.randn(300, 32), torch.arange(300) % 3

    def spreads(gain: float) -> tuple[float, float]:
        """Variance of styles from label to label, and from latent to latent."""
        torch.manual_seed(0)
        styles = Mapping(32, 64, 0, depth=2, classes=3, label_gain=gain).style
        same_z, same_label = styles(z[:1].expand(3, -1), torch.arange(3)), styles(z, torch.zeros_like(label))
        return same_z.var(0).mean().item(), same_label.var(0).mean().item()

    (loud_label, loud_z), (quiet_label, quiet_z) = spreads(1.0), spreads(0.1)
    assert loud_label > 0.3 * loud_z
    assert quiet_label < 0.03 * quiet_z


@pytest.mark.parametrize(("batch", "group"), [(8, 4), (7, 4), (3, 4), (1, 4), (10, 3)])
def test_minibatch_deviation(batch: int, group: int) -> None:
    """Image i is in group i mod n; the mean over channels and pixels of the deviation within the group."""
    x = torch.randn(batch, 4, 3, 2, dtype=torch.float64)
    n = max(1, batch // group)
    expected = np.empty((batch, 2))
    for i in range(batch):
        mine = x.numpy()[i % n :: n]
        deviation = np.sqrt(mine.var(0) + 1e-8)
        expected[i] = deviation[:2].mean(), deviation[2:].mean()
    out = MinibatchStd(group, features=2)(x)
    torch.testing.assert_close(out[:, :4], x)
    torch.testing.assert_close(out[:, 4:], torch.tensor(expected)[:, :, None, None].expand(-1, -1, 3, 2))


def test_what_has_no_name_in_a_recipe_is_refused_with_a_hint() -> None:
    for make, said in (
        (lambda: MinibatchStd(0), r"group of 0 images(.|\n)*hint: .*--group 4"),
        (lambda: Mapping(4, 4, 1, depth=0), r"at least one layer, not 0(.|\n)*hint: --mapping 2"),
        (lambda: StyleOptions(truncation=3.0), r"truncation must lie in -2..2(.|\n)*hint: 0.7"),
        (lambda: StyleOptions(cutoff=-1), r"cutoff is a number of layers(.|\n)*hint: 0"),
    ):
        with pytest.raises(WrongUse, match=said):
            make()


def test_equalised_layers_keep_the_variance_and_learn_at_one_rate() -> None:
    linear, conv = EqualizedLinear(300, 200, lr_multiplier=0.01), EqualizedConv2d(40, 50, 3)
    assert conv.weight.std().item() == pytest.approx(1, abs=0.02)
    assert linear.weight.std().item() == pytest.approx(100, rel=0.02)  # acts as N(0, 1 / 300)
    assert linear(torch.randn(500, 300)).std().item() == pytest.approx(1, abs=0.02)
    assert conv(torch.randn(8, 40, 16, 16))[:, :, 1:-1, 1:-1].std().item() == pytest.approx(1, abs=0.03)
    x = torch.randn(7, 300)
    linear(x).sum().backward()
    assert linear.weight.grad is not None
    torch.testing.assert_close(linear.weight.grad[0], 0.01 * x.sum(0) / math.sqrt(300))
    assert linear.bias.grad is not None
    assert linear.bias.grad[0].item() == pytest.approx(7 * 0.01)


def test_no_label_is_the_mean_label() -> None:
    embed = loud(EqualizedLabel(5, classes=4))
    torch.testing.assert_close(embed(None, 2), embed(torch.arange(4), 4).mean(0).expand(2, -1))
    embed = loud(EqualizedLabel(5, attributes=2))
    none = torch.full((2, 2), math.nan)
    torch.testing.assert_close(embed(None, 2), embed(none, 2))


def test_one_attribute_is_more_than_its_sign() -> None:
    """Other values are other styles from the start, and the unknown one is no vector of zeros."""
    told = Mapping(0, 16, 0, depth=2, attributes=1)
    styles = told(None, torch.tensor([[0.5], [2.0], [-1.0], [math.nan]]))
    assert (styles[:, None] - styles).norm(dim=2)[~torch.eye(4, dtype=torch.bool)].min() > 0.05
    assert told.embed is not None
    seen = told.normalise(told.embed(torch.zeros(1, 1), 1))
    assert seen.square().mean().item() == pytest.approx(1, abs=1e-4)


def test_the_mean_style_is_followed_in_training_only() -> None:
    made = generator((1, 8, 8), mixing=0.0)
    z = torch.randn(64, 6)
    made.eval()(z)
    assert not made.mean.any()
    styles = made.train().mapping(z)[:, 0]
    made(z)
    torch.testing.assert_close(made.mean, 0.005 * styles.mean(0))
    with torch.no_grad():
        for _ in range(60):
            made(torch.randn(400, 6))
    expected = made.mapping(torch.randn(20_000, 6))[:, 0].mean(0) * (1 - 0.995**61)
    torch.testing.assert_close(made.mean, expected, atol=0.01, rtol=0.02)


def test_style_mixing_takes_late_styles_of_another_latent() -> None:
    """In the asked share of images, from a uniformly drawn layer on."""
    made = generator((1, 16, 16), mixing=0.75, base=16)
    z = torch.randn(4000, 6)
    styles = made.mapping(z)
    mixed = made.mixed(styles, None)
    same = (mixed == styles).all(2)  # (B, layers)
    first = same.sum(1)
    assert same[:, 0].all()
    assert (same.int().diff(dim=1) <= 0).all()  # own styles first, then the other's to the end
    assert (first < 6).float().mean().item() == pytest.approx(0.75, abs=0.02)
    counts = torch.bincount(first, minlength=7)[1:6]
    assert (counts / 3000).tolist() == pytest.approx([0.2] * 5, abs=0.03)
    torch.manual_seed(3)
    calls: list[Tensor] = []
    made.synthesis.register_forward_pre_hook(lambda module, given: calls.append(given[0]))
    made.train()(z)
    made.eval()(z)
    assert not torch.equal(calls[0], styles)
    assert torch.equal(calls[1], styles)


def test_truncation() -> None:
    """psi = 0 is the image of the mean style whatever the seed; psi pulls each style by its share."""
    made = loud(generator())
    made.mean.normal_()
    model = StyleModel(made).eval()
    with torch.no_grad():
        mean = made.eval().synthesis(made.mean.expand(1, 6, -1))
        none = model.using(truncation=0.0)(Noise([1, 2]))
        torch.testing.assert_close(none, mean.expand(2, -1, -1, -1), atol=1e-5, rtol=1e-5)
        half, whole = (model.using(truncation=psi).latents(Noise([1])) for psi in (0.5, 1.0))
        torch.testing.assert_close(half, (made.mean + whole) / 2)
        coarse = model.using(truncation=0.5, cutoff=2).latents(Noise([1]))
    torch.testing.assert_close(coarse, torch.cat([half[:, :2], whole[:, 2:]], 1))
    assert torch.equal(model.using(truncation=0.5, cutoff=6).latents(Noise([1])), half)  # all of them
    with pytest.raises(WrongUse, match=r"cutoff 8 is beyond the 6 layers.*\n\nhint: 1 to 6.*0 truncates all"):
        model.using(truncation=0.5, cutoff=8)


def test_a_cutoff_of_no_truncation_is_refused() -> None:
    model = StyleModel(generator())
    with pytest.raises(WrongUse, match=r"cutoff means nothing without a truncation(.|\n)*--truncation 0.7"):
        model.using(cutoff=2)
    assert model.using(truncation=0.5).using(cutoff=2).options.cutoff == 2
    assert model.using(cutoff=2, truncation=1.0).options.cutoff == 2  # the end of a scale of them


def test_noise_inputs() -> None:
    made = loud(generator())
    model = StyleModel(made).eval()
    with torch.no_grad():
        const, none, drawn = (model.using(noise=kind)(Noise([5, 6])) for kind in ("const", "none", "random"))
        alone = model.using(noise="random")(Noise([6]))
        for layer in made.synthesis.convs():
            layer.strength.zero_()
        silent = model(Noise([5, 6]))
    assert (const - none).abs().max() > 0.1
    assert (drawn - const).abs().max() > 0.1
    torch.testing.assert_close(alone, drawn[1:], atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(silent, none)
    with pytest.raises(WrongUse, match="5 noise inputs, not 1"):
        made.synthesis(torch.zeros(1, 6, 5), [torch.zeros(1, 1, 4, 4)])


class Linear(nn.Module):
    """An image that is a linear map of the styles of three layers."""

    latent = 4

    def __init__(self) -> None:
        super().__init__()
        self.matrix = nn.Parameter(torch.randn(3, 4, 2 * 5 * 5))
        self.one = nn.Parameter(torch.ones(()))

    def mapping(self, z: Tensor, label: Tensor | None = None) -> Tensor:
        return (self.one * z)[:, None].expand(-1, 3, -1)

    def draw(self, z: Tensor, label: Tensor | None = None) -> tuple[Tensor, str]:
        return self.mapping(z, label), "const"

    def synthesis(self, styles: Tensor, noise: str = "const") -> Tensor:
        return torch.einsum("bld,ldn->bn", styles, self.matrix).view(-1, 2, 5, 5)


def test_path_length_of_a_linear_generator() -> None:
    """The slope is A y whatever the style: (sqrt(mean over layers of |A_l y|^2) - a)^2."""
    made, term = Linear(), PathLength(2.0, decay=0.25, shrink=2)
    batch = Batch(torch.zeros(8, 2, 5, 5), Condition())
    torch.manual_seed(7)
    loss, _ = term(made, batch, Clock(0, 1, 0))
    torch.manual_seed(7)
    torch.randn(4, 4)
    y = torch.randn(4, 2, 5, 5).flatten(1) / 5
    length = torch.einsum("ldn,bn->bld", made.matrix, y).square().sum(2).mean(1).sqrt()
    torch.testing.assert_close(term.mean, 0.25 * length.mean())
    torch.testing.assert_close(loss, 2 * (length - 0.25 * length.mean().detach()).square().mean())
    ours, theirs = (
        torch.autograd.grad(v, made.matrix)[0] for v in (loss, 2 * (length - term.mean).square().mean())
    )
    torch.testing.assert_close(ours, theirs)


def test_path_length_is_of_the_pass_that_training_renders() -> None:
    """Styles of two latents are mixed and noise is random, as in the generator's own step."""
    made = loud(generator(mixing=1.0)).train()
    calls: list[tuple[Tensor, list[Tensor]]] = []
    made.synthesis.register_forward_pre_hook(lambda module, given: calls.append(given))
    batch, mean = Batch(torch.zeros(8, 3, 16, 16), Condition()), made.mean.clone()  # type: ignore[operator]
    PathLength(shrink=1)(made, batch, Clock(0, 1, 0))
    ((styles, noise),) = calls
    mixed = (styles != styles[:, :1]).any(2).any(1)
    assert mixed.all()
    convs = made.synthesis.convs()  # type: ignore[union-attr, operator]
    assert [x.shape for x in noise] == [(8, *conv.noise_shape) for conv in convs]
    assert not any(torch.equal(x[0], x[1]) for x in noise)
    assert torch.equal(made.mean, mean)
    torch.manual_seed(3)
    made(torch.randn(8, 6))
    torch.manual_seed(3)
    expected = made.draw(torch.randn(8, 6))  # type: ignore[operator]
    assert torch.equal(calls[1][0], expected[0])
    assert all(map(torch.equal, calls[1][1], expected[1]))


@pytest.mark.parametrize("architecture", ["resnet", "skip", "orig"])
def test_the_critic_can_be_penalised(architecture: str) -> None:
    """Its slope at the image, and the slope of that slope's square, against finite differences."""
    critic = StyleGAN2Critic(
        (2, 8, 8), classes=2, architecture=architecture, mapping_layers=1, base=24, largest=3
    )
    critic = loud(critic.double())  # type: ignore[assignment]
    image = torch.randn(3, 2, 8, 8, dtype=torch.float64, requires_grad=True)
    label = torch.tensor([0, 1, 1])

    def penalty() -> Tensor:
        (slope,) = torch.autograd.grad(critic(image, label).sum(), image, create_graph=True)
        return slope.square().sum()

    (way,) = torch.autograd.grad(critic(image, label).sum(), image)
    step = 1e-6 * torch.randn_like(image)
    with torch.no_grad():
        rise = critic(image + step, label).sum() - critic(image - step, label).sum()
    assert rise.item() == pytest.approx(2 * (way * step).sum().item(), rel=1e-5)
    weight = critic.blocks[0].conv0.weight
    (slope,) = torch.autograd.grad(penalty(), weight)
    step = 1e-6 * torch.randn_like(weight)
    sizes = []
    for sign in (1, -2):
        weight.data.add_(sign * step)
        sizes.append(penalty().item())
    assert sizes[0] - sizes[1] == pytest.approx(2 * (slope * step).sum().item(), rel=1e-4)


def test_parts_hold_all_of_the_critic() -> None:
    critic = StyleGAN2Critic((1, 32, 32), classes=3, **SMALL)
    held = [id(p) for part in critic.parts() for p in part.parameters()]
    assert sorted(held) == sorted(id(p) for p in critic.parameters())
    assert len(critic.parts()) == 4


def test_sizes_that_are_no_powers_of_two_are_cut_from_larger_ones() -> None:
    made = generator((2, 18, 27)).eval()
    assert made.noise_shapes[-1] == (1, 20, 28)
    assert made(torch.randn(3, 6)).shape == (3, 2, 18, 27)
    assert StyleGAN2Critic((2, 18, 27), **SMALL)(torch.randn(3, 2, 18, 27)).shape == (3,)
    with pytest.raises(WrongUse, match=r"architecture.*\n\nhint: did you mean resnet"):
        generator(architecture="resnets")


def test_clamp_bounds_activations() -> None:
    made = generator(clamp=0.01).eval()
    image = made(torch.randn(3, 6))
    assert image.abs().max() <= 0.01 * 4  # three sizes, each filtered with a gain of at most 4/4, and its own
    assert generator().eval()(torch.randn(3, 6)).abs().max() > 0.5


def test_bfloat16_stays_near() -> None:
    made = loud(generator((3, 32, 32), base=1024, largest=64)).eval()
    z = torch.randn(4, 6)
    with torch.no_grad():
        exact = made(z)
        with torch.autocast("cpu", torch.bfloat16):
            near = made(z)
            styles = made.mapping(z)
    assert styles.dtype == near.dtype == torch.float32
    assert (near - exact).std() < 0.02 * exact.std()


def test_lazy_terms_and_their_correction() -> None:
    """Learning rate and decay of k of k + 1 steps (appendix B)."""
    spec = catalog.recipe("stylegan2")
    small = spec(made_up((1, 32, 32), n=4).train, **spec.small).method
    large = spec(made_up((1, 64, 64), n=4).train, **spec.small).method
    assert [(p.name, p.every) for p in small.phases()] == [("critic", 1), ("r1", 16), ("generator", 1)]
    assert [(p.name, p.every) for p in large.phases()][2:] == [("generator", 1), ("path_length", 4)]
    assert isinstance(large, Adversarial)
    assert large.lr == pytest.approx((0.0025 * 4 / 5, 0.0025 * 16 / 17))
    assert large.betas[0] == pytest.approx((0, 0.99**0.8))
    assert large.betas[1] == pytest.approx((0, 0.99 ** (16 / 17)))
    assert large.generator.mixing == 0.9
    assert small.generator.mixing == 0.0  # type: ignore[union-attr]


@pytest.mark.parametrize(
    "wrong",
    [
        {"clamp": -1.0},
        {"clamp": math.nan},
        {"mixing": 2.0},
        {"mixing": math.nan},
        {"style": 0},
        {"style": -1},
        {"mapping": 0},
        {"label_gain": -1.0},
        {"lr": -1.0},
    ],
)
def test_what_cannot_be_meant_is_refused(wrong: dict[str, float]) -> None:
    spec = catalog.recipe("stylegan2")
    with pytest.raises(WrongUse, match=next(iter(wrong))):
        spec(made_up().train, **{**spec.small, **wrong})


def test_no_architecture_is_the_one_that_goes_with_the_size() -> None:
    spec = catalog.recipe("stylegan2")
    for side in (8, 64):
        data = made_up((1, side, side), n=4).train
        usual, none = (spec(data, **spec.small, critic=kind).method for kind in ("", "none"))
        assert str(none.critic) == str(usual.critic)  # type: ignore[union-attr]


def test_exports_with_any_batch(tmp_path: Path) -> None:
    """Labels, truncation, random noise as inputs, a cut size; parity with eager at batches 1, 3 and 8."""
    model = StyleModel(loud(generator((2, 8, 9), classes=3))).using(noise="random", truncation=0.7)
    done = export(model.eval(), tmp_path / "model.onnx")
    assert done.difference is not None
    assert done.difference < 1e-4


@pytest.mark.parametrize(
    ("name", "network", "side", "channels"),
    [
        ("stylegan2", "StyleGAN2Generator", 512, 64),
        ("stylegan2", "StyleGAN2Generator", 1024, 32),
        ("stylegan3", "StyleGAN3Generator", 1024, 32),
        ("pggan", "PGGenerator", 1024, 16),
    ],
)
def test_large_images_get_the_papers_widths(
    name: str, network: str, side: int, channels: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Channels at full resolution where none are asked for: looked at before the networks are built."""

    def built(*given: object, base: int, **sizes: object) -> None:
        raise StopIteration(base // side)

    monkeypatch.setattr(f"diptych.methods.{name}.{network}", built)
    with pytest.raises(StopIteration) as found:
        catalog.recipe(name)(made_up((3, side, side), n=64, held_out=4).train)
    assert found.value.value == channels

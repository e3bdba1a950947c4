"""Edits against a Gaussian, whose conditional distributions are known; and what no edit may do."""

from __future__ import annotations

import json
import math

import pytest
import torch
from torch import Tensor, nn

from diptych.diffusion.denoiser import EDMDenoiser, ScheduleDenoiser, Wrapper
from diptych.diffusion.editing import (
    Colour,
    ColourOptions,
    Inpaint,
    InpaintOptions,
    Outpaint,
    Pooling,
    Regions,
    RegionsOptions,
    Restore,
    RestoreOptions,
    Vary,
    VaryOptions,
    interpolate,
    invert,
    wide,
)
from diptych.diffusion.editing.inpaint import stretches
from diptych.diffusion.editing.interpolate import back, levels
from diptych.diffusion.editing.inverse import PseudoinverseGuided
from diptych.diffusion.editing.windows import places
from diptych.diffusion.guidance import ClassifierGuide, WeakGuide
from diptych.diffusion.model import DiffusionModel, DiffusionOptions
from diptych.diffusion.samplers import SAMPLERS
from diptych.diffusion.schedules import Discrete, Flow
from diptych.errors import WrongUse
from diptych.latent.arcs import slerp
from diptych.methods.r3gan import r3gan
from diptych.model import Condition, Model, Noise, from_uint8, to_uint8
from diptych.networks.adm import ADM
from diptych.networks.unet import UNet
from diptych.saveable import from_tree, to_tree
from gaussian import Gaussian, LabelledMean, conditional, correlated, many, model_of

SHAPE = (1, 4, 4)
N = 3000
PICTURE = torch.linspace(-0.8, 0.8, 16).view(1, 1, 4, 4)
LEFT = torch.zeros(1, 1, 4, 4)
LEFT[..., :2] = 1


def field() -> Gaussian:
    return Gaussian(SHAPE, torch.full((16,), 0.2), correlated(4, 4))


def given(image: Tensor, mask: Tensor | None = None, n: int = N) -> Condition:
    return Condition(
        image=image.expand(n, *image.shape[1:]), mask=None if mask is None else mask.expand(n, -1, -1, -1)
    )


def right_half() -> tuple[Tensor, Tensor]:
    """Mean and covariance of the right half, given the left half of PICTURE."""
    A = torch.eye(16)[LEFT.flatten() > 0]
    mean, covariance = conditional(torch.full((16,), 0.2), correlated(4, 4), A, A @ PICTURE.flatten(), 0.0)
    free = LEFT.flatten() == 0
    return mean[free], covariance[free][:, free]


def painted(options: InpaintOptions, **kwargs: object) -> Tensor:
    found = Inpaint(model_of(field(), **kwargs), options)(many(N), given(PICTURE, LEFT))
    assert torch.equal(found[..., :2], PICTURE[..., :2].expand(N, -1, -1, -1))
    return found.flatten(1)[:, LEFT.flatten() == 0].double()


def twice(method: str, jump: int = 0) -> tuple[int, ...]:
    """Two resamplings, for the method that has them."""
    return (2, jump) if method == "repaint" else ()


def test_repaint_approaches_the_conditional_mean_with_resamplings() -> None:
    """The known part put in place, no more, leaves the new part near the mean: RePaint's observation."""
    mean, _ = right_half()
    errors = [
        (painted(InpaintOptions(resamplings=turns, jump=1)).mean(0) - mean).abs().max().item()
        for turns in (1, 3, 10)
    ]
    assert errors[0] > 0.2
    assert errors[1] < 0.18
    assert errors[2] < 0.07


def test_repaint_has_the_conditional_covariance() -> None:
    """What is left is Euler's own bias, which shrinks variances by a few hundredths at 100 steps."""
    mean, covariance = right_half()
    found = painted(InpaintOptions(resamplings=10), steps=100)
    assert (found.mean(0) - mean).abs().max() < 0.07
    assert (torch.cov(found.T) - covariance).abs().max() < 0.03
    assert (torch.cov(found.T).diag() / covariance.diag()).min() > 0.88


def test_independent_pixels_are_inpainted_exactly_by_every_method() -> None:
    white = Gaussian(SHAPE, torch.full((16,), 0.2), 0.25 * torch.eye(16))
    for method in ("repaint", "ddnm", "pigdm"):
        edit = Inpaint(model_of(white, sampler="heun"), InpaintOptions(method, *twice(method)))
        found = edit(many(N), given(PICTURE, LEFT))[..., 2:]
        assert found.mean().item() == pytest.approx(0.2, abs=0.02)
        assert found.var().item() == pytest.approx(0.25, rel=0.06)


def test_stretches_are_those_of_the_paper() -> None:
    """T = 6, jumps of 2, 2 resamplings: 6 5 4 | 3 2 3 4 3 2 | 1 0 1 2 1 0."""
    assert list(stretches(6, 2, 2)) == [(0, 2, 1), (2, 4, 2), (4, 6, 2)]
    assert list(stretches(5, 2, 3)) == [(0, 1, 1), (1, 3, 3), (3, 5, 3)]
    assert list(stretches(1, 4, 9)) == [(0, 1, 1)]


def test_strength_0_is_the_image_and_1_is_sampling() -> None:
    model = model_of(field())
    assert torch.equal(
        Vary(model, VaryOptions(0.0))(Noise(range(3)), given(PICTURE, n=3)), PICTURE.expand(3, -1, -1, -1)
    )
    sampled = model(Noise(range(3)))
    assert torch.equal(Vary(model, VaryOptions(1.0))(Noise(range(3)), given(PICTURE, n=3)), sampled)


def test_sdedit_of_independent_pixels_has_a_known_distribution() -> None:
    """The ODE carries image + sigma z to m + (image + sigma z - m) s / sqrt(s^2 + sigma^2)."""
    white = Gaussian(SHAPE, torch.full((16,), 0.2), 0.25 * torch.eye(16))
    edit = Vary(model_of(white, sampler="heun"), VaryOptions(0.4))
    sigma = edit.levels()[0]
    assert len(edit.levels()) == 21
    found = edit(many(N), given(PICTURE))
    shrink = 0.5 / math.sqrt(0.25 + sigma**2)
    torch.testing.assert_close(found.mean(0), 0.2 + (PICTURE[0] - 0.2) * shrink, atol=0.04, rtol=0)
    assert found.var(0).mean().item() == pytest.approx((sigma * shrink) ** 2, rel=0.04)


def test_sdedit_moves_further_with_strength_and_keeps_what_is_masked() -> None:
    model = model_of(field())
    moved = [
        (Vary(model, VaryOptions(s))(Noise(range(64)), given(PICTURE, n=64)) - PICTURE).square().mean().item()
        for s in (0.1, 0.3, 0.5, 0.8)
    ]
    assert moved == sorted(moved)
    assert moved[0] < 0.01
    found = Vary(model, VaryOptions(0.5))(Noise(range(4)), given(PICTURE, LEFT, n=4))
    assert torch.equal(found[..., :2], PICTURE[..., :2].expand(4, -1, -1, -1))
    assert (found[..., 2:] - PICTURE[..., 2:]).abs().min() > 1e-4


def test_inversion_is_undone_by_sampling() -> None:
    model = model_of(field())
    images = torch.stack([PICTURE[0], -PICTURE[0], PICTURE[0].flip(-1)])
    errors = [
        (back(model, invert(model, images, steps=steps), steps=steps) - images).abs().max().item()
        for steps in (25, 50, 100)
    ]
    assert errors[1] < 0.01
    assert errors[2] < errors[0] / 8  # second order


def test_the_latent_of_a_gaussian_is_known() -> None:
    """For N(0, s^2) the ODE is x / sqrt(s^2 + sigma^2) = constant."""
    white = Gaussian(SHAPE, torch.zeros(16), 0.25 * torch.eye(16))
    model = model_of(white)
    low, high = levels(model, 80)[-2], levels(model, 80)[0]
    expected = PICTURE * math.sqrt((0.25 + high**2) / (0.25 + low**2)) / high
    torch.testing.assert_close(invert(model, PICTURE, steps=80), expected, rtol=5e-3, atol=0)


def test_slerp_stays_on_the_sphere() -> None:
    a, b = (torch.randn(1, 3, 8, 8, generator=torch.Generator().manual_seed(i)) for i in (0, 1))
    a, b = a / a.norm(), b / b.norm()
    found = slerp(a, b, torch.linspace(0, 1, 5))
    torch.testing.assert_close(found.flatten(1).norm(dim=1), torch.ones(5))
    torch.testing.assert_close(found[0], a[0])
    torch.testing.assert_close(found[-1], b[0])
    assert (found[2] * a[0]).sum().item() == pytest.approx((found[2] * b[0]).sum().item(), abs=1e-6)
    torch.testing.assert_close(slerp(a, a, torch.tensor([0.3])), a)


def test_interpolation_begins_and_ends_with_the_two() -> None:
    denoiser = LabelledMean(SHAPE, classes=3, variance=0.04)
    model = model_of(denoiser)
    frames = interpolate(model, PICTURE[0] + 1, PICTURE[0] + 2, 5, labels=(1, 2), steps=60)
    assert (frames[0] - PICTURE[0] - 1).abs().max() < 0.02
    assert (frames[-1] - PICTURE[0] - 2).abs().max() < 0.02
    assert frames[2].mean().item() == pytest.approx(1.5, abs=0.05)  # between the labels' means


def test_one_window_is_the_denoiser_itself() -> None:
    model = model_of(field())
    assert wide(model, 4, 4) is model
    many_windows = wide(model, 4, 9, overlap=0.75)
    assert places(9, 4, 0.75) == [0, 1, 2, 3, 4, 5]
    assert many_windows.image_shape == (1, 4, 9)
    found = many_windows.denoiser.denoiser  # type: ignore[union-attr]
    assert found is model.denoiser


def test_windows_change_nothing_where_pixels_are_independent() -> None:
    small = LabelledMean((1, 4, 4), classes=3)
    large = LabelledMean((1, 6, 11), classes=3)
    told = Condition(label=torch.tensor([1, 2, 0]))
    ours = wide(model_of(small, guidance=2.0), 6, 11)(Noise(range(3)), told)
    theirs = model_of(large, guidance=2.0)(Noise(range(3)), told)
    torch.testing.assert_close(ours, theirs, atol=2e-5, rtol=0)


def test_no_seams_in_a_stationary_field() -> None:
    """Neighbours differ as much at windows' edges as elsewhere; at those of tiles twice as much."""
    model = model_of(Gaussian((1, 8, 8), torch.zeros(64), correlated(8, 8, 1.5)), steps=25)

    def steps(overlap: float) -> Tensor:
        found = wide(model, 8, 24, overlap)(many(600), Condition())
        jumps = (found[..., 1:] - found[..., :-1]).square().mean((0, 1, 2))
        return jumps / jumps.median()

    assert steps(0.5).max() < 1.15
    assert steps(0.5).min() > 0.88
    tiles = steps(0.0)
    assert tiles[[7, 15]].min() > 1.8


def test_outpainting_keeps_the_image_and_continues_it() -> None:
    model = model_of(Gaussian((1, 8, 8), torch.zeros(64), correlated(8, 8, 3.0)))
    factor = torch.linalg.cholesky(correlated(8, 6, 3.0)).float()
    image = (torch.randn(400, 48, generator=torch.Generator().manual_seed(1)) @ factor.T).view(400, 1, 8, 6)
    edit = Outpaint(model, 8, 14, left=4, options=InpaintOptions(resamplings=4, jump=1))
    found = edit(many(400), Condition(image=image))
    assert found.shape == (400, 1, 8, 14)
    assert torch.equal(found[..., 4:10], image)
    for inside, outside in ((4, 3), (9, 10)):
        pair = torch.stack([found[..., inside].flatten(), found[..., outside].flatten()])
        assert torch.corrcoef(pair)[0, 1].item() == pytest.approx(math.exp(-1 / 3), abs=0.1)


def test_regions_are_what_their_labels_say() -> None:
    model = model_of(LabelledMean((1, 6, 8), classes=3, variance=1e-4), sampler="heun")
    areas = torch.zeros(1, 2, 6, 8)
    areas[:, 0, :, :4], areas[:, 1, :, 4:] = 1, 1
    told = Condition(mask=areas.expand(4, -1, -1, -1))
    hard = Regions(model, (1, 2), RegionsOptions(0.0))(Noise(range(4)), told)
    torch.testing.assert_close(hard.mean((0, 1, 2)), torch.tensor([1.0] * 4 + [2.0] * 4), atol=0.02, rtol=0)
    soft = Regions(model, (1, 2), RegionsOptions(1.0))(Noise(range(4)), told).mean((0, 1, 2))
    assert (soft.diff() > -0.02).all()
    assert 1.15 < soft[3] < 1.45
    assert soft[0].item() == pytest.approx(1, abs=0.02)


def test_one_region_everywhere_is_its_label() -> None:
    model = model_of(LabelledMean((1, 4, 4), classes=3), guidance=1.5)
    ours = Regions(model, (2,))(Noise(range(3)), Condition(mask=torch.ones(3, 1, 4, 4)))
    theirs = model(Noise(range(3)), Condition(label=torch.full((3,), 2)))
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=0)


def test_colours_are_followed_down_to_a_level() -> None:
    model = model_of(field())
    cells = nn.AvgPool2d(2)
    for above, within in ((0.0, 1e-4), (1.0, 0.6)):
        found = Colour(model, ColourOptions(2, above))(Noise(range(200)), given(PICTURE, n=200))
        error = (cells(found) - cells(PICTURE)).square().mean().sqrt().item()
        assert error < within
    assert error > 0.05  # they drifted
    one = Colour(model, ColourOptions(1))(Noise(range(8)), given(torch.full((1, *SHAPE), 0.3), n=8))
    torch.testing.assert_close(one.mean((1, 2, 3)), torch.full((8,), 0.3))


def network(shape: tuple[int, int, int] = (3, 8, 8), seed: int = 0) -> UNet:
    torch.manual_seed(seed)
    net = UNet(shape, classes=3, width=8, multipliers=(1, 2), blocks=1).eval().requires_grad_(False)
    for parameter in net.parameters():
        parameter.add_(0.05 * torch.randn_like(parameter))
    return net


FAMILIES = {
    "edm": lambda: EDMDenoiser(network()),
    "ddpm": lambda: ScheduleDenoiser(network(), Discrete("linear"), "eps"),
    "flow": lambda: ScheduleDenoiser(network(), Flow(), "flow", told="level"),
}
PHOTO = to_uint8(torch.rand(3, 8, 8, generator=torch.Generator().manual_seed(5)) * 2 - 1)
KEEP = torch.zeros(1, 8, 8)
KEEP[:, :5] = 1


@pytest.mark.parametrize("name", SAMPLERS)
def test_every_sampler_keeps_the_kept_pixels(name: str) -> None:
    """To the 8-bit level, and under inference mode, which sample() runs in."""
    denoiser = EDMDenoiser(network(), jumps=name == "consistency")
    model = DiffusionModel(denoiser, DiffusionOptions(steps=6, sampler=name, threshold=1.0))
    told = Condition(label=torch.tensor([0, 2]), **shown(2))
    for method in ("repaint", "ddnm"):
        found = Inpaint(model, InpaintOptions(method, *twice(method, 2))).sample([3, 4], told)
        assert torch.equal(found[:, :, :5], PHOTO[None, :, :5].expand(2, -1, -1, -1))
        assert not torch.equal(found[0, :, 5:], found[1, :, 5:])


def shown(n: int) -> dict[str, Tensor]:
    return {"image": from_uint8(PHOTO).expand(n, -1, -1, -1), "mask": KEEP.expand(n, -1, -1, -1)}


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_is_edited_seed_by_seed(family: str) -> None:
    """Image i depends on seed i alone, with labels and guidance."""
    model = DiffusionModel(FAMILIES[family](), DiffusionOptions(steps=3, sampler="euler", guidance=1.5))
    mask = {"mask": torch.cat([KEEP, 1 - KEEP]).expand(3, -1, -1, -1)}
    label, image = torch.tensor([0, 1, 2]), shown(3)["image"]
    edits = [
        (Inpaint(model, InpaintOptions(resamplings=2)), {"label": label, **shown(3)}),
        (Inpaint(model, InpaintOptions("pigdm")), {"label": label, **shown(3)}),
        (Inpaint(model, InpaintOptions("dps")), {"label": label, **shown(3)}),
        (Vary(model, VaryOptions(0.7)), {"label": label, "image": image}),
        (Colour(model), {"label": label, "image": image}),
        (Outpaint(model, 8, 12, left=2), {"label": label, "image": image}),
        (Regions(model, (0, 2)), mask),
        (wide(model, 12, 8), {"label": label}),
    ]
    for edit, told in edits:
        together = edit.sample([7, 8, 9], Condition(**told))
        apart = edit.sample([9], Condition(**told)[2:3])
        assert (together[2:].int() - apart.int()).abs().max() <= 1
        assert not torch.equal(apart, edit.sample([1], Condition(**told)[2:3]))


def test_labels_and_guidance_are_heard() -> None:
    model = DiffusionModel(EDMDenoiser(network()), DiffusionOptions(steps=4))
    one, other = (
        Vary(model).sample([1], Condition(label=torch.tensor([k]), image=shown(1)["image"])) for k in (0, 2)
    )
    assert not torch.equal(one, other)
    guided = Vary(model.using(guidance=4.0)).sample(
        [1], Condition(label=torch.tensor([0]), image=shown(1)["image"])
    )
    assert not torch.equal(one, guided)


def test_a_guide_leads_each_window() -> None:
    """Autoguidance's weaker network knows no larger images than the model's own."""
    weak = EDMDenoiser(network(seed=1))
    model = DiffusionModel(EDMDenoiser(network()), DiffusionOptions(steps=3, guidance=2.0), WeakGuide(weak))
    canvas = wide(model, 8, 13)
    assert canvas.sample([0], Condition()).shape == (1, 3, 8, 13)
    x = torch.randn(1, 3, 8, 13)
    D, W = wide(model.using(guidance=1.0), 8, 13).denoiser, wide(DiffusionModel(weak), 8, 13).denoiser
    level = torch.ones(1)
    expected = W(x, level, Condition()).lerp(D(x, level, Condition()), 2.0)
    torch.testing.assert_close(canvas.guided()(x, level, Condition()), expected)
    elsewhere = canvas.to("meta").guided()  # what is made anew lies where the model does
    assert {buffer.device.type for buffer in elsewhere.buffers()} == {"meta"}


def test_an_edit_is_a_model_that_can_be_saved() -> None:
    model = DiffusionModel(EDMDenoiser(network()), DiffusionOptions(steps=2))
    for edit in (
        Inpaint(model),
        Vary(model),
        Colour(model),
        Outpaint(model, 8, 12),
        Regions(model, (0, 1)),
        wide(model, 8, 9),
    ):
        tree = json.loads(json.dumps(to_tree(edit)))
        twin = from_tree(tree)
        assert to_tree(twin) == tree
        assert twin.state_dict().keys() == edit.state_dict().keys()
    assert Inpaint(model).using(resamplings=3).options.resamplings == 3
    assert Inpaint(model).wants == {"label", "image", "mask"}


def test_bad_input_is_a_sentence_and_a_hint() -> None:
    model = DiffusionModel(EDMDenoiser(network()), DiffusionOptions(steps=2))
    image, mask = shown(1)["image"], shown(1)["mask"]
    cases = [
        (lambda: Inpaint(model).sample([0], Condition(None, None, image, mask[..., :7])), "mask is 7x8"),
        (lambda: Inpaint(model).sample([0], Condition(None, None, image[:, :1], mask)), "1 channel, but"),
        (lambda: Inpaint(model).sample([0], Condition(image=image)), "needs 'mask'"),
        (lambda: Vary(model, VaryOptions(1.2)), "strength 1.2 is out of range"),
        (lambda: Vary(model, VaryOptions(float("nan"))), "strength nan is out of range"),
        (lambda: Vary(model).sample([0], Condition(torch.tensor([3]), image=image)), "label 3 is out"),
        (lambda: Vary(model).sample([0, 1], Condition(image=image)), "2 seeds but 1 of 'image'"),
        (lambda: Regions(model, (0, 7)), "label 7 is out of range"),
        (lambda: Regions(model, (9, 0, 7)), "labels 9, 7 are out of range"),
        (lambda: Regions(model, ()), "regions need labels"),
        (lambda: InpaintOptions("repiant"), "no way to inpaint called repiant"),
        (lambda: InpaintOptions(resamplings=0), "resamplings 0"),
        (lambda: InpaintOptions("ddnm", resamplings=50), "resamplings and jump are of repaint: ddnm"),
        (lambda: InpaintOptions("dps", jump=2), "are of repaint: dps"),
        (lambda: Inpaint(model, InpaintOptions(jump=2)), "2 steps and a jump of 2 nothing is looked at"),
        (lambda: Outpaint(model, 8, 14, options=InpaintOptions(jump=9)), "nothing is looked at again"),
        (lambda: RestoreOptions("ddnm", scale=5.0), "scale is of dps: it means nothing to ddnm"),
        (lambda: RestoreOptions("dps", deviation=0.3), "deviation is of pigdm"),
        (lambda: wide(model, 8, 6), "smaller than the model's images"),
        (lambda: wide(model, 8, 16, overlap=1.0), "overlap 1.0"),
        (lambda: Outpaint(model, 8, 10, left=4).sample([0], Condition(image=image)), "does not lie on"),
        (lambda: interpolate(model, image[0], image[0], frames=1), "at least 2 frames"),
        (lambda: interpolate(model, image[0], image[0], labels=(0, 9)), "label 9 is out of range"),
        (lambda: invert(model, image[..., :4]), "4x8 with 3 channels"),
        (lambda: invert(model, image, steps=1), "at least 2 steps"),
        (lambda: ColourOptions(cells=0), "cells 0"),
        (lambda: RegionsOptions(-1.0), "feather -1.0"),
        (lambda: RegionsOptions(math.nan), "feather nan must be finite"),
        (lambda: ColourOptions(above=math.nan), "above nan finite"),
        (lambda: RestoreOptions(noise=math.nan), "noise nan"),
        (lambda: RestoreOptions(deviation=math.inf), "deviation inf must be positive, and all"),
        (lambda: RestoreOptions("dps", noise=0.9), "dps does not hear how noisy"),
        (lambda: Vary(model.using(steps=1), VaryOptions(0.4)), "strength 0.4 of 1 step is none or all of it"),
        (lambda: interpolate(model, image[0], image[0], batch=0), "batch must be at least 1"),
        (lambda: Regions(model.using(compose="2:1"), (0, 1)), "2:1 would take the place of the labels"),
        (
            lambda: interpolate(model.using(compose="2:1"), image[0], image[0], labels=(0, 1)),
            "2:1 would take the place of the labels",
        ),
    ]  # fmt: skip
    for case, sentence in cases:
        with pytest.raises(WrongUse, match=sentence):
            case()


def test_a_gan_has_no_denoiser() -> None:
    from conftest import made_up

    gan = r3gan(made_up().train, **r3gan.small).method.model
    with pytest.raises(WrongUse, match="has no denoiser") as raised:
        Inpaint(gan)
    assert "edm" in raised.value.hint


def test_an_unconditional_model_has_no_regions() -> None:
    with pytest.raises(WrongUse, match="this model knows no classes"):
        Regions(model_of(field()), (0, 1))


def test_continuous_labels_are_heard() -> None:
    from diptych import edit

    torch.manual_seed(0)
    net = UNet((1, 8, 8), attributes=2, width=8, multipliers=(1, 2), blocks=1).eval().requires_grad_(False)
    for parameter in net.parameters():
        parameter.add_(0.1 * torch.randn_like(parameter))
    model = DiffusionModel(EDMDenoiser(net), DiffusionOptions(steps=3))
    found = [
        edit.vary(model, PHOTO[:1], strength=0.9, seeds=[1], label=at) for at in ((0.0, 1.0), (1.0, 0.0))
    ]
    assert not torch.equal(*found)
    canvas = edit.panorama(model, 8, 12, seeds=[1, 2], label=(0.5, 0.5))
    assert canvas.shape == (2, 1, 8, 12)
    with pytest.raises(WrongUse, match="this model knows no classes"):
        Regions(model, (0, 1))
    with pytest.raises(WrongUse, match="this model knows no classes"):
        model.using(compose="0:1")


def learned(seed: int = 0) -> ScheduleDenoiser:
    """As iddpm's: variances that are learned."""
    torch.manual_seed(seed)
    net = ADM((3, 8, 8), classes=3, out_channels=6, width=8, multipliers=(1, 2), blocks=1, attention=())
    for parameter in net.eval().requires_grad_(False).parameters():
        parameter.add_(0.05 * torch.randn_like(parameter))
    return ScheduleDenoiser(net, Discrete("cosine"), "eps", learned_variance=True)


def test_learned_variances_are_heard_through_every_denoiser_around_a_denoiser() -> None:
    """The usual sampler of iddpm and adm asks for them."""
    around, ours = list(Wrapper.__subclasses__()), 0
    for kind in around:
        around += kind.__subclasses__()
        if kind.__module__.startswith("diptych."):
            ours += 1
            assert "moments" in vars(kind), f"{kind.__name__} has no moments"
    assert ours > 8
    options = DiffusionOptions(steps=3, sampler="ddpm", grid="trailing", variance="learned", threshold=1.0)
    model, told = DiffusionModel(learned(), options), Condition(label=torch.tensor([0, 2]), **shown(2))
    for method in ("ddnm", "pigdm", "dps"):
        found = Inpaint(model, InpaintOptions(method)).sample([3, 4], told)
        assert torch.equal(found[:, :, :5], PHOTO[None, :, :5].expand(2, -1, -1, -1))
        small = Restore(model, Pooling((3, 8, 8), 4, 4), RestoreOptions(method))
        assert small.sample([3], Condition(image=torch.zeros(1, 3, 4, 4))).shape == (1, 3, 8, 8)


def test_pseudoinverse_guidance_leaves_learned_variances_alone() -> None:
    """The clean image is that of `forward`, the fraction the denoiser's own, of one call."""
    denoiser, operator = learned(), Pooling((3, 8, 8), 4, 4)
    calls: list[int] = []
    denoiser.network.register_forward_hook(lambda module, inputs, result: calls.append(1))
    led = PseudoinverseGuided(denoiser, operator, torch.zeros(2, 3, 4, 4))
    x, sigma = torch.randn(2, 3, 8, 8), torch.tensor([0.5, 2.0])
    with torch.inference_mode():
        clean, fraction = led.moments(x, sigma, Condition())
        assert len(calls) == 1
        torch.testing.assert_close(clean, led(x, sigma, Condition()))
        torch.testing.assert_close(fraction, denoiser.moments(x, sigma, Condition())[1])


class Watched(Gaussian):
    """A Gaussian's denoiser that remembers at which levels it was asked."""

    def __init__(self) -> None:
        super().__init__(SHAPE, torch.zeros(16), 0.25 * torch.eye(16))
        self.levels: list[float] = []

    def forward(self, x: Tensor, sigma: Tensor, condition: Condition) -> Tensor:
        self.levels.append(sigma.item())
        return super().forward(x, sigma, condition)


@pytest.mark.parametrize("sampler", [{"sampler": "edm-stochastic", "churn": 1.0}, {"sampler": "restart"}])
def test_a_sampler_means_the_same_in_an_edit_as_in_sampling(sampler: dict[str, object]) -> None:
    """Its share of the steps, and the level to which it goes back, are those of the whole walk."""
    denoiser = Watched()
    model, picture = model_of(denoiser, **sampler), given(PICTURE, LEFT, n=2)

    def asked(edit: Model, condition: Condition) -> list[float]:
        denoiser.levels.clear()
        edit(Noise([0, 1]), condition)
        return list(denoiser.levels)

    sampled = asked(model, Condition())
    assert asked(Inpaint(model, InpaintOptions(resamplings=1)), picture) == sampled
    led = asked(Inpaint(model, InpaintOptions("dps")), picture)  # once more at each of the model's levels
    assert sorted(led) == pytest.approx(sorted([*sampled, *model.sigmas[:-1]]))
    varied = asked(Vary(model, VaryOptions(0.4)), given(PICTURE, n=2))
    assert 20 < len(varied) < len(sampled)
    assert varied == sampled[-len(varied) :]


def test_some_and_not_all_of_the_steps_are_done_between_strengths_0_and_1() -> None:
    """At the one step of a consistency model every strength would be a new image."""
    model = model_of(field(), steps=3)
    done = [len(Vary(model, VaryOptions(s)).levels()) - 1 for s in (0.0, 0.01, 0.4, 0.7, 0.99, 1.0)]
    assert done == [0, 1, 1, 2, 2, 3]
    for strength in (0.1, 0.5, 0.9):
        with pytest.raises(WrongUse, match="of 1 step is none or all") as said:
            Vary(model.using(steps=1), VaryOptions(strength))
        assert "--steps" in said.value.hint
    assert len(Vary(model.using(steps=1), VaryOptions(1.0)).levels()) == 2


class Means(nn.Module):
    """p(label | noisy image) where the images of each label are LabelledMean's."""

    classes = 3

    def forward(self, x: Tensor, sigma: Tensor) -> Tensor:
        variance = (0.01 + sigma.square()).view(-1, 1)
        return torch.stack([-(x - k).square().sum((1, 2, 3)) for k in range(3)], 1) / 2 / variance


def test_a_classifier_tells_regions_and_frames_apart() -> None:
    """The denoiser itself knows no labels: images of any grey, which the classifier pulls to a label's."""
    grey = Gaussian(SHAPE, torch.ones(16), 0.01 * torch.eye(16) + torch.ones(16, 16))
    model = DiffusionModel(grey, DiffusionOptions(steps=50), ClassifierGuide(Means()))
    assert (model.denoiser.classes, model.classes) == (0, 3)
    areas = torch.stack([LEFT[0, 0], 1 - LEFT[0, 0]]).expand(2, -1, -1, -1)
    found = Regions(model, (0, 2), RegionsOptions(0.0))(Noise([0, 1]), Condition(mask=areas))
    assert (found[..., 2:].mean() - found[..., :2].mean()).item() > 1
    anywhere = Regions(model, (3, 3)).sample([0, 1], Condition(mask=areas))
    assert torch.equal(anywhere, model.sample([0, 1], Condition()))  # "any" leads nowhere
    one = torch.zeros(1, 4, 4)
    plain, led = (interpolate(model, one, one, 3, labels=pair, steps=9) for pair in (None, (0, 2)))
    assert (led[1] - plain[1]).abs().max() > 0.05
    with pytest.raises(WrongUse, match="label 4 is out of range"):
        Regions(model, (0, 4))
    with pytest.raises(WrongUse, match="at guidance 0 this model hears no label"):
        Regions(model.using(guidance=0.0), (0, 2))


def test_frames_go_down_in_batches() -> None:
    model = model_of(LabelledMean(SHAPE, classes=3, variance=0.04))
    for labels in (None, (1, 1), (1, 2)):
        whole = interpolate(model, PICTURE[0], -PICTURE[0], 5, labels=labels, steps=8)
        parts = interpolate(model, PICTURE[0], -PICTURE[0], 5, labels=labels, steps=8, batch=2)
        torch.testing.assert_close(parts, whole, atol=1e-5, rtol=1e-5)


def test_guidance_that_is_asked_for_needs_a_label() -> None:
    """What a run was saved with may lead nowhere; what is asked for in a call may not."""
    from diptych import edit

    model, how = DiffusionModel(EDMDenoiser(network()), DiffusionOptions(steps=2)), {"seeds": [0]}
    unheard = (
        ({"guidance": 4.0}, "guidance means nothing without a label"),
        ({"guidance": 4.0, "negative": 1}, "guidance, negative mean nothing without a label"),
    )
    for options, says in unheard:
        for draw in (
            lambda given: edit.vary(model, PHOTO, **how, **given),
            lambda given: edit.panorama(model, 8, 12, **how, **given),
            lambda given: edit.interpolate(model, 1, 2, **given),
        ):
            with pytest.raises(WrongUse, match=says) as said:
                draw(options)
            assert "--label" in said.value.hint
    with pytest.raises(WrongUse, match="guidance means nothing without a label"):
        edit.regions(model, PHOTO[:1], [None], guidance=2.0)
    stored = model.using(guidance=4.0)
    assert torch.equal(edit.vary(stored, PHOTO, **how, steps=3), edit.vary(model, PHOTO, **how, steps=3))
    assert edit.vary(stored, PHOTO, **how, guidance=1.0).shape == (1, 3, 8, 8)
    assert edit.vary(model, PHOTO, **how, label=2, guidance=4.0).shape == (1, 3, 8, 8)
    weak = DiffusionModel(model.denoiser, model.options, WeakGuide(EDMDenoiser(network(seed=1))))
    led = edit.vary(weak, PHOTO, **how, guidance=4.0)  # away from a weaker model, whatever the label
    assert not torch.equal(led, edit.vary(weak, PHOTO, **how))
    classifier = DiffusionModel(model.denoiser, model.options, ClassifierGuide(Means()))
    with pytest.raises(WrongUse, match="guidance means nothing without a label"):
        edit.vary(classifier, PHOTO, **how, guidance=3.0)
    assert [wide(led_by, 8, 12).guide.needs_label for led_by in (weak, classifier)] == [False, True]


@pytest.mark.parametrize("name", ["sampler", "grid", "terms"])
def test_interpolation_refuses_what_only_samplers_hear(name: str) -> None:
    from diptych import edit

    model = DiffusionModel(EDMDenoiser(network()), DiffusionOptions(steps=2))
    given = {"sampler": "euler", "grid": "linear", "terms": 3}
    with pytest.raises(WrongUse, match=f"{name} means nothing to an interpolation"):
        edit.interpolate(model, 1, 2, **{name: given[name]})
    assert edit.interpolate(model, 1, 2, frames=3, steps=4, sigma_max=20.0, batch=2).shape == (3, 3, 8, 8)
    with pytest.raises(WrongUse, match="fit means nothing to seeds"):
        edit.interpolate(model, 1, 2, fit="crop")


def test_no_colours_are_lost_around_a_picture() -> None:
    from diptych import edit

    grey = DiffusionModel(EDMDenoiser(network((1, 8, 8))), DiffusionOptions(steps=2))
    with pytest.raises(WrongUse, match="is RGB, but grey is needed") as said:
        edit.outpaint(grey, PHOTO, left=4)
    assert "--fit" not in said.value.hint
    assert edit.outpaint(grey, PHOTO[:1], left=4, seeds=[0], method="ddnm").shape == (1, 1, 8, 12)


def test_a_model_that_jumps_is_not_followed_back() -> None:
    denoiser = field()
    denoiser.jumps = True
    model = DiffusionModel(denoiser, DiffusionOptions(steps=1, sampler="consistency"))
    with pytest.raises(WrongUse, match="no path leads back"):
        invert(model, torch.zeros(1, *denoiser.image_shape))

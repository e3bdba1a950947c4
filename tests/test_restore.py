"""Linear operators against dense matrices, and inverse problems against a Gaussian's conditional."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from diptych.diffusion.denoiser import each
from diptych.diffusion.editing import (
    Bicubic,
    Blur,
    Grey,
    Masked,
    Operator,
    Pooling,
    Product,
    Restore,
    RestoreOptions,
)
from diptych.diffusion.schedules import Flow
from diptych.errors import WrongUse
from diptych.model import Condition, from_uint8
from gaussian import Gaussian, conditional, many, model_of

SHAPE = (3, 6, 8)
HALF = (torch.rand(1, 1, 6, 8, generator=torch.Generator().manual_seed(2)) > 0.5).float()
OPERATORS: dict[str, Operator] = {
    "pooling": Pooling(SHAPE, 3, 4),
    "uneven": Pooling(SHAPE, 4, 3),
    "bicubic": Bicubic(SHAPE, 3, 4),
    "blur": Blur(SHAPE, 0.8),
    "strong blur": Blur(SHAPE, 2.0),
    "grey": Grey(SHAPE),
    "mask": Masked(SHAPE, HALF),
    "small and grey": Product(Pooling(SHAPE, 3, 4), Grey((3, 3, 4))),
}
every = pytest.mark.parametrize("name", OPERATORS)


def dense(operator: Operator) -> Tensor:
    n = torch.Size(operator.image_shape).numel()
    return operator(torch.eye(n).view(n, *operator.image_shape)).flatten(1).T.double()


@every
def test_inverse_is_the_pseudo_inverse(name: str) -> None:
    """Of the dense matrix, singular values below 3 % of the largest left out."""
    operator = OPERATORS[name]
    A = dense(operator)
    n = A.shape[0]
    found = operator.inverse(torch.eye(n).view(n, *operator.measured_shape)).flatten(1).T.double()
    torch.testing.assert_close(found, torch.linalg.pinv(A, rtol=0.03), atol=2e-4, rtol=1e-3)


@every
def test_gains_act_on_singular_values(name: str) -> None:
    """back with s is A^T, within with s^2 is A^T A, within with 1 nothing at all (small ones count as 0)."""
    operator = OPERATORS[name]
    A = dense(operator)
    U, s, Vt = torch.linalg.svd(A, full_matrices=False)
    A = U @ torch.diag(torch.where(s > 0.03 * s.max(), s, 0.0)) @ Vt
    n, m = A.shape
    transposed = operator.back(torch.eye(n).view(n, *operator.measured_shape), lambda s: s)
    torch.testing.assert_close(transposed.flatten(1).T.double(), A.T, atol=1e-5, rtol=0)
    eye = torch.eye(m).view(m, *operator.image_shape)
    squared = operator.within(eye, torch.square).flatten(1).T.double()
    torch.testing.assert_close(squared, A.T @ A, atol=1e-5, rtol=0)
    torch.testing.assert_close(operator.within(eye, torch.ones_like), eye, atol=1e-5, rtol=0)


def test_operators_are_what_they_are_called() -> None:
    x = torch.rand(2, *SHAPE, generator=torch.Generator().manual_seed(0)) * 2 - 1
    torch.testing.assert_close(Pooling(SHAPE, 3, 4)(x), F.avg_pool2d(x, 2))
    torch.testing.assert_close(Pooling(SHAPE, 4, 3)(x), F.adaptive_avg_pool2d(x, (4, 3)))
    small = F.interpolate(x, (3, 4), mode="bicubic", antialias=True)
    torch.testing.assert_close(Bicubic(SHAPE, 3, 4)(x), small, atol=1e-5, rtol=0)
    flat = torch.full((1, *SHAPE), 0.3)
    torch.testing.assert_close(Blur(SHAPE, 2.0)(flat), flat)
    assert Blur(SHAPE, 2.0)(x).var() < x.var() / 4
    pixels = np.random.default_rng(0).integers(0, 256, (6, 8, 3), dtype=np.uint8)
    luma = from_uint8(torch.from_numpy(np.asarray(Image.fromarray(pixels).convert("L")).copy()))
    ours = Grey(SHAPE)(from_uint8(torch.from_numpy(pixels).permute(2, 0, 1)[None]))
    assert (ours[0, 0] - luma).abs().max() <= 1 / 127.5
    torch.testing.assert_close(OPERATORS["small and grey"](x), Grey((3, 3, 4))(F.avg_pool2d(x, 2)))


VARIANCE, SMALL, N = 0.25, (1, 4, 4), 3000
PICTURE = torch.linspace(-0.8, 0.8, 16).view(1, 1, 4, 4)
SMALL_OPERATORS = {"pooling": Pooling(SMALL, 2, 2), "blur": Blur(SMALL, 0.7), "noise": Masked(SMALL)}


def restored(name: str, options: RestoreOptions, **model: object) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Images, their conditional mean and covariance, and how far their measurement is off."""
    operator = SMALL_OPERATORS[name]
    white = Gaussian(SMALL, torch.full((16,), 0.2), VARIANCE * torch.eye(16))
    measured = operator(PICTURE)
    edit = Restore(model_of(white, **{"sampler": "heun", **model}), operator, options)
    with torch.inference_mode():
        found = edit(many(N), Condition(image=measured.expand(N, -1, -1, -1)))
    mean, covariance = conditional(
        white.mean, VARIANCE * torch.eye(16), dense(operator), measured.flatten(), options.noise
    )
    return found.flatten(1).double(), mean, covariance, operator(found) - measured


@pytest.mark.parametrize("method", ["ddnm", "pigdm"])
@pytest.mark.parametrize("name", ["pooling", "blur", "noise"])
def test_without_noise_the_conditional_is_exact(name: str, method: str) -> None:
    """White images: what is measured is met, what is not is drawn from its own distribution."""
    found, mean, covariance, error = restored(name, RestoreOptions(method))
    assert error.abs().max() < 1e-3
    assert (found.mean(0) - mean).abs().max() < 0.03
    assert (torch.cov(found.T) - covariance).abs().max() < 0.02


@pytest.mark.parametrize("name", ["pooling", "blur", "noise"])
def test_with_noise_pseudoinverse_guidance_is_exact(name: str) -> None:
    found, mean, covariance, _ = restored(name, RestoreOptions("pigdm", noise=0.3))
    assert (found.mean(0) - mean).abs().max() < 0.03
    assert (torch.cov(found.T) - covariance).abs().max() < 0.02
    assert (torch.cov(found.T).diag() / covariance.diag()).sub(1).abs().max() < 0.08


@pytest.mark.parametrize("name", ["pooling", "blur", "noise"])
def test_with_noise_ddnm_does_not_copy_it(name: str) -> None:
    """DDNM+ stands between the measurement and the conditional mean, and varies too little: its bias."""
    found, mean, covariance, error = restored(name, RestoreOptions("ddnm", noise=0.3))
    assert (found.mean(0) - mean).abs().max() < 0.16
    assert torch.cov(found.T).diag().mean() < covariance.diag().mean()
    assert error.mean(0).abs().max() > 0.03  # plain DDNM meets the measurement, noise and all
    plain, *_ = restored(name, RestoreOptions("ddnm"))
    assert (found.mean(0) - mean).norm() < 0.6 * (plain.mean(0) - mean).norm()


class Imperfect(Gaussian):
    """A Gaussian's denoiser that is off by a hundredth, and its slope by more than what is left of it."""

    def forward(self, x: Tensor, sigma: Tensor, condition: Condition) -> Tensor:
        wave = torch.sin(5 * x / (1 + each(sigma)) + torch.arange(16).view(1, 1, 4, 4))
        return super().forward(x, sigma, condition) + 0.01 * wave


@pytest.mark.parametrize(("method", "allowed"), [("pigdm", 0.08), ("dps", 0.15)])
@pytest.mark.parametrize("steps", [20, 150])
def test_from_pure_noise_slopes_are_not_magnified(method: str, allowed: float, steps: int) -> None:
    """Level 1e5, where a correction sigma^2 J^T would need J to ten digits; 149 is the next of 150."""
    white = Imperfect(SMALL, torch.full((16,), 0.2), VARIANCE * torch.eye(16), schedule=Flow())
    model = model_of(white, sampler="heun", grid="trailing", steps=steps)
    assert model.sigmas[0] == pytest.approx(1e5)
    operator = SMALL_OPERATORS["pooling"]
    measured = operator(PICTURE)
    with torch.inference_mode():
        found = Restore(model, operator, RestoreOptions(method))(
            many(N), Condition(image=measured.expand(N, -1, -1, -1))
        )
    mean, covariance = conditional(
        white.mean, VARIANCE * torch.eye(16), dense(operator), measured.flatten(), 0.0
    )
    found = found.flatten(1).double()
    assert (found.mean(0) - mean).abs().max() < 0.1
    assert (torch.cov(found.T) - covariance).abs().max() < allowed


def test_dps_comes_near() -> None:
    """A step of fixed length hovers around the measurement, the closer the shorter it is: its known bias."""
    errors = []
    for scale in (1.0, 0.3):
        found, mean, covariance, error = restored("pooling", RestoreOptions("dps", scale=scale))
        errors.append(error.square().mean().sqrt().item())
        assert (found.mean(0) - mean).abs().max() < 0.08
        assert (torch.cov(found.T) - covariance).abs().max() < 0.06
    assert errors[0] < 0.2
    assert errors[1] < errors[0] / 2


def test_bad_input_is_a_sentence_and_a_hint() -> None:
    model, pool = model_of(Gaussian(SMALL, torch.zeros(16), torch.eye(16))), Pooling(SMALL, 2, 2)
    cases = [
        (lambda: Pooling(SMALL, 5, 2), "4 pixels cannot be pooled to 5"),
        (lambda: Bicubic(SMALL, 0, 2), "cannot be reduced to 0"),
        (lambda: Blur(SMALL, 0.0), "deviation must be positive"),
        (lambda: Grey(SMALL), "3 channels"),
        (lambda: Product(Grey(SHAPE), Grey(SHAPE)), "second operator reads"),
        (lambda: Restore(model, Pooling(SHAPE, 2, 2)), "the operator reads images"),
        (lambda: Restore(model, pool).sample([0], Condition(image=PICTURE)), "2x2 with 1 channel"),
        (lambda: RestoreOptions("ddmn"), "no method called ddmn"),
        (lambda: RestoreOptions(noise=-1.0), "must not be negative"),
    ]  # fmt: skip
    for case, sentence in cases:
        with pytest.raises(WrongUse, match=sentence):
            case()

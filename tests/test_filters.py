"""Filters against zero insertion written out, derivatives against differences, export and layouts."""

from __future__ import annotations

import io
import itertools
import warnings

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import usual_operations as usual
from diptych.errors import WrongUse
from diptych.networks.filters import downsample2d, filter2d, filtered_lrelu, upfirdn2d, upsample2d

LAYOUTS = [torch.contiguous_format, torch.channels_last]


def pixels(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def by_hand(x: Tensor, taps: Tensor, up: int, down: int, before: int, after: int) -> Tensor:
    """One axis of one signal, from the definition, with Python's loops."""
    n, t = len(x), len(taps)
    zeros = [0.0] * (n * up + before + after)
    for i in range(n):
        if 0 <= i * up + before < len(zeros):
            zeros[i * up + before] = float(x[i])
    sums = [sum(float(taps[k]) * zeros[m + t - 1 - k] for k in range(t)) for m in range(len(zeros) - t + 1)]
    return torch.tensor(sums[::down], dtype=torch.float64)


@pytest.mark.parametrize(("up", "down"), [(1, 1), (2, 1), (1, 2), (2, 2), (3, 2), (4, 3)])
@pytest.mark.parametrize("t", [1, 2, 3, 4, 8, 12])
def test_a_row_of_pixels(up: int, down: int, t: int) -> None:
    x, taps = pixels(7), pixels(t, seed=1)
    for before, after in [(0, t), (t, 0), (t + 2, 1), (-1, t + 1), (t, -2)]:
        expected = by_hand(x, taps, up, down, before, after)
        found = upfirdn2d(
            x.view(1, 1, 7, 1).expand(2, 3, -1, -1), taps[:, None], up, down, (0, 1 - up, before, after)
        )
        torch.testing.assert_close(found[1, 2, :, 0], expected)
        across = upfirdn2d(x.view(1, 1, 1, 7), taps[None, :], up, down, (before, after, 0, 1 - up))
        torch.testing.assert_close(across[0, 0, 0], expected)


def test_images_against_zero_insertion() -> None:
    """400 cases: sizes, taps for one axis or both, factors, paddings that pad or crop, layouts."""
    rng, checked = np.random.default_rng(0), 0
    for case in range(400):
        h, w = rng.integers(4, 20, 2)
        shape = [(4,), (12,), (1,), (7,), (5, 3), (12, 12), (1, 6)][case % 7]
        up, down = rng.integers(1, 5, 2)
        padding = rng.integers(-3, 10, 4).tolist()
        sizes = h * up + sum(padding[2:]), w * up + sum(padding[:2])
        if sizes[0] < shape[0] or sizes[1] < shape[-1]:
            continue
        x = pixels(2, 3, int(h), int(w), seed=case).contiguous(memory_format=LAYOUTS[case % 2])
        arguments = pixels(*shape, seed=case + 1), int(up), int(down), padding, 1.5
        torch.testing.assert_close(upfirdn2d(x, *arguments), usual.upfirdn2d(x, *arguments))
        checked += 1
    assert checked > 300


@pytest.mark.parametrize("t", [3, 4, 7, 12])
@pytest.mark.parametrize("factor", [1, 2, 3, 4])
def test_resampling_keeps_constants_and_places(t: int, factor: int) -> None:
    """What is constant stays so away from the edges; where a point goes, its centre of mass says."""
    taps = torch.ones(t, dtype=torch.float64)
    for _ in range(factor - 1):  # a comb with zeros at all of the spectrum's copies
        taps = torch.nn.functional.conv1d(
            taps.view(1, 1, -1), torch.ones(1, 1, factor, dtype=torch.float64), padding=factor - 1
        )[0, 0]
    taps = taps / taps.sum()
    x = torch.ones(1, 1, 48, 48, dtype=torch.float64)
    inside = slice(16, -16)
    for y in (upsample2d(x, taps, factor), downsample2d(x, taps, 1), filter2d(x, taps)):
        torch.testing.assert_close(y[..., inside, inside], torch.ones_like(y[..., inside, inside]))
    assert upsample2d(x, taps, factor).shape[2:] == (48 * factor, 48 * factor)
    assert downsample2d(x, taps, factor).shape[2:] == (48 // factor, 48 // factor)
    point = torch.zeros_like(x)
    point[0, 0, 20, 22] = 1
    y = upsample2d(point, taps, factor)[0, 0] / factor**2
    rows, columns = ((y.sum(d) * torch.arange(48 * factor)).sum() / y.sum() for d in (1, 0))
    even = (len(taps) + factor) % 2  # half a sample to one side where the taps have no middle
    for found, start in ((rows, 20), (columns, 22)):
        assert abs(float(found) - (start * factor + (factor - 1) / 2)) <= 0.5 * even + 1e-9


CASES = [(4, 2, 1), (4, 1, 2), (12, 2, 1), (12, 1, 2), (3, 1, 1), (9, 3, 2)]


@pytest.mark.parametrize(("t", "up", "down"), CASES)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_derivatives(t: int, up: int, down: int, layout: torch.memory_format) -> None:
    x = pixels(1, 2, 3, 2).contiguous(memory_format=layout).requires_grad_()
    taps = pixels(t, seed=1)

    def operation(x: Tensor) -> Tensor:
        return upfirdn2d(x, taps, up, down, t // 2 + 1).square()  # a second derivative that is not zero

    assert torch.autograd.gradcheck(operation, x)
    assert torch.autograd.gradgradcheck(operation, x)


@pytest.mark.parametrize("clamp", [None, 0.7])
@pytest.mark.parametrize("taps", [None, 6])
def test_filtered_lrelu(clamp: float | None, taps: int | None) -> None:
    """Against its steps one by one, with first and second derivatives."""
    x, bias = pixels(2, 2, 4, 3).requires_grad_(), pixels(2, seed=1).requires_grad_()
    up, down = (2, 3) if taps else (1, 1)
    up_taps, down_taps = (pixels(taps, seed=2), pixels(taps, seed=3)) if taps else (None, None)
    padding = (4, 3, 5, 6) if taps else 0

    def ours(x: Tensor, bias: Tensor) -> Tensor:
        return filtered_lrelu(x, up_taps, down_taps, bias, up, down, padding, 1.3, 0.2, clamp)

    def steps(x: Tensor, bias: Tensor) -> Tensor:
        y = x + bias[:, None, None]
        y = y if up_taps is None else usual.upfirdn2d(y, up_taps, up, 1, padding, up**2)
        y = F.leaky_relu(y, 0.2) * 1.3
        y = y if clamp is None else y.clamp(-clamp, clamp)
        return y if down_taps is None else usual.upfirdn2d(y, down_taps, 1, down)

    before = x.detach().clone()
    torch.testing.assert_close(ours(x, bias), steps(x, bias))
    assert torch.equal(x, before)
    assert torch.equal(
        filtered_lrelu(before.clone(), None, None, None, clamp=clamp), filtered_lrelu(x, clamp=clamp)
    )
    assert torch.autograd.gradcheck(ours, (x, bias))
    assert torch.autograd.gradgradcheck(ours, (x, bias))
    with torch.inference_mode():
        torch.testing.assert_close(ours(x, bias), steps(x, bias))


def test_channels_last_stays_so() -> None:
    x = torch.randn(2, 8, 9, 9).contiguous(memory_format=torch.channels_last)
    for t, (up, down) in itertools.product((4, 12), [(2, 1), (1, 2)]):
        y = upfirdn2d(x, torch.ones(t), up, down, (6, 5, 6, 5))
        assert y.is_contiguous(memory_format=torch.channels_last)


def test_taps_that_do_not_fit_are_refused() -> None:
    with pytest.raises(WrongUse, match="5 pixels become 7, fewer than the 8 taps"):
        upfirdn2d(torch.zeros(1, 1, 5, 5), torch.ones(8), padding=1)


class Resampler(nn.Module):
    """Each operation once, on ten channels."""

    def forward(self, x: Tensor) -> Tensor:
        short, long = torch.tensor([1.0, 3, 3, 1]) / 8, torch.hann_window(14)[1:13] / 6.5
        x = downsample2d(upsample2d(x, long), short)
        return filter2d(filtered_lrelu(x, long, long, up=2, down=2, padding=11, clamp=0.4), short)


def test_exports_with_any_batch() -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    module, x = Resampler().eval(), torch.randn(3, 10, 12, 9)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program = torch.onnx.export(
            module, (x[:2],), dynamo=True, dynamic_shapes=({0: torch.export.Dim("batch")},), verbose=False
        )
    assert program is not None
    file = io.BytesIO()
    program.save(file)
    session = onnxruntime.InferenceSession(file.getvalue(), providers=["CPUExecutionProvider"])
    (found,) = session.run(None, {session.get_inputs()[0].name: x.numpy()})
    torch.testing.assert_close(torch.from_numpy(found), module(x), atol=1e-5, rtol=0)


def test_is_one_graph() -> None:
    """Nothing in it makes the compiler break off."""
    module, x = Resampler(), torch.randn(2, 10, 12, 9, requires_grad=True)
    compiled = torch.compile(module, backend="eager", fullgraph=True)
    torch.testing.assert_close(compiled(x), module(x))

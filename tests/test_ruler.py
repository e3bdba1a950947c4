"""The built-in ruler diptych-1: the published weights, one row an image, any size, and it sees damage."""

from __future__ import annotations

import importlib
import math
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from scipy.stats import spearmanr
from torch import Tensor

from diptych.data.builtin import digits, shapes
from diptych.errors import DiptychError, RunError, WrongUse
from diptych.features import diptych_1
from diptych.features.diptych_1 import DIM, GRID, MAPS, WEIGHTS, Network, build, canvas
from diptych.features.extractor import extractor
from diptych.measuring.planted import DAMAGES, invent_modes
from diptych.metrics.fid import frechet_distance

STRENGTHS = (0.0, 0.05, 0.1, 0.2, 0.4, 0.8)


def seen(images: Tensor, view: str = "pooled") -> Tensor:
    """Their features."""
    return extractor("diptych-1")(images)[view]


def scenes(n: int, size: int, channels: int = 3) -> Tensor:
    """Drawn scenes, uint8 (n, channels, size, size)."""
    pixels = torch.from_numpy(shapes(n, size).pixels.copy()).permute(0, 3, 1, 2)
    return pixels[:, :channels].contiguous()


def test_weights_are_the_published_ones() -> None:
    ruler = extractor("diptych-1")
    assert ruler.sha256 == diptych_1.SHA256
    assert ruler.name == "diptych-1"
    assert WEIGHTS.stat().st_size <= 6_000_000
    assert all(value.dtype == torch.float16 for value in load_file(WEIGHTS).values())
    assert all(value.dtype == torch.float32 for value in ruler.state_dict().values())


@pytest.mark.parametrize("channels", [1, 3, 4])
@pytest.mark.parametrize(
    "size", [(8, 8), (28, 28), (32, 32), (33, 47), (64, 64), (9, 200), (256, 256), (1, 1)]
)
def test_views_at_any_size(size: tuple[int, int], channels: int) -> None:
    images = torch.randint(0, 256, (3, channels, *size), dtype=torch.uint8)
    ruler = extractor("diptych-1")
    views = ruler(images)
    assert {view: value.shape for view, value in views.items()} == {
        view: (3, numbers) for view, numbers in ruler.views.items()
    }
    assert ruler.views["pooled"] == ruler.dim == DIM
    assert ruler.views["spatial"] == MAPS * GRID**2
    assert all(value.dtype == torch.float32 and value.isfinite().all() for value in views.values())


@pytest.mark.parametrize("size", [8, 28, 32, 48, 100])
def test_one_image_is_seen_alike_in_any_company(size: int) -> None:
    n = 70 if size <= 32 else 20
    images = scenes(n, size)
    assert torch.equal(seen(images), seen(images))
    for view in ("pooled", "spatial", "logits"):
        together = seen(images, view)
        pieces = torch.cat([seen(images[start : start + 9], view) for start in range(0, n, 9)])
        alone = torch.cat([seen(images[i : i + 1], view) for i in range(5)])
        torch.testing.assert_close(pieces, together, atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(alone, together[:5], atol=1e-5, rtol=1e-5)


def test_grey_is_rgb_with_equal_channels() -> None:
    grey = scenes(5, 40, 1)
    assert torch.equal(seen(grey), seen(grey.expand(-1, 3, -1, -1)))


def test_transparency_is_laid_on_white() -> None:
    colour = scenes(4, 32)
    ones = torch.full((4, 1, 32, 32), 255, dtype=torch.uint8)
    torch.testing.assert_close(seen(torch.cat([colour, ones], 1)), seen(colour), atol=1e-4, rtol=1e-4)
    hidden = torch.cat([colour, torch.zeros_like(ones)], 1)
    white = torch.full_like(colour, 255)
    torch.testing.assert_close(seen(hidden), seen(white), atol=1e-4, rtol=1e-4)


def test_the_canvas_keeps_what_it_can() -> None:
    assert canvas(torch.zeros(1, 3, 8, 50)).shape == (1, 3, 32, 50)
    assert canvas(torch.zeros(1, 3, 300, 100)).shape == (1, 3, 128, 100)
    image = torch.rand(1, 3, 32, 128)
    assert canvas(image) is image
    # shrinking by 2 with antialiasing keeps the mean of a fine checkerboard, sampling would not
    board = (torch.arange(256)[:, None] + torch.arange(256)).remainder(2).float().expand(1, 3, 256, 256)
    torch.testing.assert_close(canvas(board)[..., 4:-4, 4:-4], torch.full((1, 3, 120, 120), 0.5))


def test_two_channels_are_refused() -> None:
    with pytest.raises(WrongUse, match="2 channels"):
        seen(torch.zeros(1, 2, 8, 8, dtype=torch.uint8))


def test_the_network_halves_odd_sides_alike_on_both_paths() -> None:
    maps = Network(2).maps(torch.zeros(1, 3, 33, 50))
    assert [tuple(level.shape[2:]) for level in maps] == [(33, 50), (17, 25), (9, 13), (5, 7)]


def test_other_weights_are_loaded_by_their_path(tmp_path: Path) -> None:
    state = {name: value.half() for name, value in Network(7).state_dict().items()}
    save_file(state, tmp_path / "own.safetensors")
    ruler = extractor(f"diptych-1:{tmp_path / 'own.safetensors'}")
    assert ruler.views["logits"] == 7
    assert ruler.sha256 != diptych_1.SHA256


def test_the_packaged_file_must_be_the_published_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    state = load_file(WEIGHTS)
    state["classify.bias"][0] += 1
    save_file(state, tmp_path / "changed.safetensors")
    monkeypatch.setattr(diptych_1, "WEIGHTS", tmp_path / "changed.safetensors")
    with pytest.raises(WrongUse, match=r"changed\.safetensors is not the published file"):
        build()


@pytest.mark.parametrize("fault", ["missing", "truncated", "text", "a tensor short", "another shape", "NaN"])
def test_unfit_weights_are_refused_by_name(tmp_path: Path, fault: str) -> None:
    file = tmp_path / "unfit.safetensors"
    state = load_file(WEIGHTS)
    if fault == "truncated":
        file.write_bytes(WEIGHTS.read_bytes()[:100_000])
    if fault == "text":
        file.write_text("version https://git-lfs.github.com/spec/v1\n")
    if fault == "a tensor short":
        del state["project.weight"]
    if fault == "another shape":
        state["project.weight"] = state["project.weight"][:, :-1].contiguous()
    if fault == "NaN":
        state["project.bias"][3] = float("nan")
    if fault in ("a tensor short", "another shape", "NaN"):
        save_file(state, file)
    with pytest.raises((WrongUse, RunError), match=r"unfit\.safetensors") as caught:
        build(str(file))
    assert isinstance(caught.value, DiptychError)


def test_features_are_scaled_as_kernels_expect() -> None:
    features = seen(scenes(300, 32))
    assert 0.1 < float(features.std(0).median()) < 3
    assert float(torch.linalg.matrix_rank(features - features.mean(0), rtol=1e-3)) > DIM // 2


@pytest.mark.parametrize("kind", DAMAGES)
@pytest.mark.parametrize("data", ["digits", "shapes"])
def test_distance_grows_with_the_damage(data: str, kind: str) -> None:
    pixels = digits().pixels if data == "digits" else shapes(600, 32).pixels
    order = np.random.default_rng(0).permutation(len(pixels))[:600]
    images = torch.from_numpy(pixels[order]).permute(0, 3, 1, 2)
    distances = growth(images, lambda fake, strength: DAMAGES[kind](fake, strength, 0))
    assert spearmanr(STRENGTHS, distances).statistic >= 0.9
    assert distances[-1] > 1.5 * distances[0]


def test_distance_grows_with_strangers() -> None:
    strangers = 255 - scenes(300, 64)[:, :, 16:48, 16:48]
    distances = growth(scenes(600, 32), lambda fake, strength: invent_modes(fake, strength, 0, strangers))
    assert spearmanr(STRENGTHS, distances).statistic >= 0.9
    assert distances[-1] > 3 * distances[0]


def growth(images: Tensor, damage: Callable[[Tensor, float], Tensor]) -> list[float]:
    """Fréchet distances of one half from the other, the more damaged the later."""
    real, fake = images[: len(images) // 2], images[len(images) // 2 :]
    features = seen(real)
    return [frechet_distance(features, seen(damage(fake, strength))) for strength in STRENGTHS]


@pytest.fixture
def training(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """scripts/train_ruler.py."""
    monkeypatch.syspath_prepend(str(Path(__file__).parents[1] / "scripts"))
    return importlib.import_module("train_ruler")


def test_folding_the_norms_keeps_the_function(training: ModuleType) -> None:
    torch.manual_seed(0)
    learner = training.Learner(5)
    for parameter in learner.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    learner(torch.randn(16, 3, 40, 40))  # gives the norms statistics of their own
    learner.eval()
    image = torch.randn(4, 3, 33, 47)
    with torch.no_grad():
        pooled = learner(image)
        views = training.folded(learner)(image)
    torch.testing.assert_close(views["pooled"], pooled, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(views["logits"], learner.network.classify(pooled), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("task", ["class", "instance", "kind", "strength", "decorrelation"])
def test_each_task_teaches_the_whole_network_and_its_own_head(training: ModuleType, task: str) -> None:
    torch.manual_seed(0)
    learner = training.Learner(5)
    views = training.Views(
        torch.rand(12, 3, 32, 32), torch.arange(6) % 5, torch.tensor([0, 1, 0, 3, 5, 0]), torch.rand(6)
    )
    learner.loss(views)[task].backward()
    reached = {name for name, p in learner.named_parameters() if p.grad is not None and bool(p.grad.any())}
    heads = {"class": "network.classify", "instance": "instance", "kind": "kind", "strength": "strength"}
    assert "network.stem.0.weight" in reached
    assert "network.project.weight" in reached
    # the look is set afterwards, from principal directions
    assert not any(name.startswith("network.look") for name in reached)
    for other, head in heads.items():
        assert any(name.startswith(f"{head}.") for name in reached) == (other == task)


def test_nt_xent_is_lowest_where_partners_agree(training: ModuleType) -> None:
    a = torch.eye(6)
    agree, apart = training.nt_xent(a, a), training.nt_xent(a, a.roll(1, 0))
    # similarity 1 / 0.2 to the partner, 0 to the ten others
    assert float(agree) == pytest.approx(math.log(math.exp(5) + 10) - 5, abs=1e-5)
    assert float(apart) == pytest.approx(math.log(math.exp(5) + 10), abs=1e-5)

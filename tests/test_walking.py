"""Walks through latent space and noise, and the films that they become."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from conftest import made_up
from diptych import pictures
from diptych.adversarial.latent import LatentModel
from diptych.adversarial.style import StyleModel
from diptych.errors import WrongUse
from diptych.latent.arcs import slerp
from diptych.latent.points import drawn
from diptych.latent.walking import closed_spline, on_the_way, schedule, tour, walk
from diptych.methods.edm import edm
from diptych.model import Condition, Model
from generators import Linear, Styled


def diffusion() -> Model:
    torch.manual_seed(0)
    model = edm(made_up(classes=3).train, **edm.small).method.model
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    return model.using(steps=3)


MODELS = {
    "latents": lambda: LatentModel(Linear(classes=3)),
    "styles": lambda: StyleModel(Styled(classes=3)),
    "noise": diffusion,
}


@pytest.mark.parametrize("kind", MODELS)
def test_a_walk_passes_the_seeds_and_does_not_depend_on_the_batch(kind: str) -> None:
    model = MODELS[kind]()
    frames = walk(model, [4, 7, 2], 12, label=torch.tensor(1))
    stops = model.sample([4, 7, 2], Condition(label=torch.tensor([1, 1, 1])))
    assert frames.shape == (12, 1, 8, 8)
    assert (frames[::4].int() - stops.int()).abs().max() <= 1
    assert not torch.equal(frames[1], frames[0])
    again = walk(model, [4, 7, 2], 12, label=torch.tensor(1), batch=5)
    assert (again.int() - frames.int()).abs().max() <= 1


@pytest.mark.parametrize("kind", MODELS)
def test_a_walk_is_a_closed_loop_without_jumps(kind: str) -> None:
    frames = walk(MODELS[kind](), [0, 1], 64).float()
    steps = (frames.roll(-1, 0) - frames).abs().mean((1, 2, 3))  # the last one leads to the first frame
    whole = (frames[32] - frames[0]).abs().mean()
    assert steps.max() < 0.15 * whole
    assert steps.sum() > 1.8 * whole  # there and back


def test_labels_on_the_way() -> None:
    leg, share = schedule(8, 2)
    classes = on_the_way(torch.tensor([2, 0]), leg, share)
    assert classes is not None
    assert classes.tolist() == [2] * 8
    values = on_the_way(torch.tensor([[0.0, 4.0], [1.0, 4.0]]), leg, share)
    assert values is not None
    assert torch.allclose(
        values[:, 0], torch.tensor([0, 0.1464, 0.5, 0.8536, 1, 0.8536, 0.5, 0.1464]), atol=1e-4
    )
    assert torch.equal(values[:, 1], torch.full((8,), 4.0))
    styled = StyleModel(Styled(classes=3))  # here each seed keeps its own class
    points = drawn(styled, [3, 4])
    assert torch.equal(tour(styled, points, 2), styled.sample([3, 4]))


def test_the_spline_passes_its_points_with_a_continuous_velocity() -> None:
    points = torch.randn(5, 2, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    h = 1e-5
    for stop in range(5):
        leg = torch.tensor([stop, (stop - 1) % 5, stop, (stop - 1) % 5])
        at, before, after, end = closed_spline(
            points, leg, torch.tensor([0.0, 1 - h, h, 1.0], dtype=torch.float64)
        )
        assert torch.allclose(at, points[stop])
        assert torch.allclose(end, points[stop])
        wanted = (points[(stop + 1) % 5] - points[(stop - 1) % 5]) / 2
        assert torch.allclose((after - at) / h, wanted, atol=1e-3)
        assert torch.allclose((at - before) / h, wanted, atol=1e-3)


def test_slerp_is_the_great_circle() -> None:
    one, other = torch.tensor([[1.0, 0.0, 0.0]] * 3), torch.tensor([[0.0, 1.0, 0.0]] * 3)
    share = torch.tensor([0.0, 1 / 3, 1.0])
    wanted = torch.stack([(share * math.pi / 2).cos(), (share * math.pi / 2).sin(), 0 * share], 1)
    assert torch.allclose(slerp(one, other, share), wanted, atol=1e-6)
    assert torch.allclose(slerp(one, one, share), one)
    assert slerp(one, -one, share).isfinite().all()


def test_walks_that_cannot_be() -> None:
    model = LatentModel(Linear())
    with pytest.raises(WrongUse, match="at least 2 seeds"):
        walk(model, [1], 10)
    with pytest.raises(WrongUse, match="as many frames"):
        walk(model, [1, 2, 3], 2)
    with pytest.raises(WrongUse, match="label"):
        walk(model, [1, 2], 10, label=torch.tensor(1))


def frames_of(channels: int) -> list[Image.Image]:
    stream = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (7, channels, 9, 6), generator=stream, dtype=torch.uint8)
    return [pictures.sheet(image[None], least=1) for image in images]


@pytest.mark.parametrize("channels", [1, 3, 4])
@pytest.mark.parametrize("suffix", [".gif", ".webp"])
def test_films_hold_their_frames_and_their_time(suffix: str, channels: int, tmp_path: Path) -> None:
    frames = frames_of(channels)
    pictures.save_moving(frames, tmp_path / f"a{suffix}", fps=24)
    with Image.open(tmp_path / f"a{suffix}") as film:
        assert film.n_frames == 7
        assert film.info["loop"] == 0
        total, distances = 0, []
        for i, frame in enumerate(frames):
            film.seek(i)
            shown = np.asarray(film.convert("RGBA" if channels == 4 and suffix == ".webp" else "RGB"))
            mode = "RGBA" if channels == 4 else "RGB"
            white = Image.new("RGBA", frame.size, "white")
            flat = Image.alpha_composite(white, frame) if channels == 4 and suffix == ".gif" else frame
            wanted = np.asarray(flat.convert("RGB" if suffix == ".gif" else mode))
            distances.append(np.abs(shown.astype(int) - wanted.astype(int)).mean())
            total += film.info["duration"]
    assert abs(total - 7000 / 24) <= 5
    if suffix == ".gif":
        assert max(distances) <= (0 if channels == 1 else 4)  # 54 colours fit into 256
    else:
        assert len(distances) == 7


def test_mp4(tmp_path: Path) -> None:
    av = pytest.importorskip("av")
    stream = torch.Generator().manual_seed(0)
    levels = torch.randint(0, 256, (7, 1, 1, 1), generator=stream, dtype=torch.uint8)
    frames = [pictures.sheet(level[None].expand(1, 3, 17, 15), least=1) for level in levels]
    pictures.save_moving(frames, tmp_path / "a.mp4", fps=25)
    with av.open(str(tmp_path / "a.mp4")) as film:
        shown = [frame.to_ndarray(format="rgb24") for frame in film.decode(video=0)]
        assert film.streams.video[0].average_rate == 25
    assert len(shown) == 7
    assert shown[0].shape == (18, 16, 3)
    assert all(abs(int(a.mean()) - int(b)) <= 4 for a, b in zip(shown, levels.flatten(), strict=True))


def test_films_that_cannot_be(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(WrongUse, match="no film"):
        pictures.save_moving(frames_of(1), tmp_path / "a.png")
    with pytest.raises(WrongUse, match="60 frames a second"):
        pictures.save_moving(frames_of(1), tmp_path / "a.gif", fps=60)
    monkeypatch.setattr(pictures.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(WrongUse, match=r"diptych\[video\]"):
        pictures.save_moving(frames_of(1), tmp_path / "a.mp4")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("suffix", [".jpg", ".jpeg", ".png", ".bmp", ".tif"])
def test_sheets_with_alpha_are_saved_in_every_format(suffix: str, tmp_path: Path) -> None:
    """A JPEG knows no transparency: what is clear is white there, as in films."""
    clear = torch.zeros(2, 4, 32, 32, dtype=torch.uint8)
    pictures.save(pictures.sheet(clear), tmp_path / f"sheet{suffix}")
    with Image.open(tmp_path / f"sheet{suffix}") as shown:
        assert suffix not in (".jpg", ".jpeg") or np.asarray(shown).min() >= 250
        assert shown.size == pictures.sheet(clear).size

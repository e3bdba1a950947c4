"""Directions of latent space against generators of which they are known."""

from __future__ import annotations

import math
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from diptych.adversarial.latent import LatentModel
from diptych.adversarial.style import StyleModel
from diptych.data.images import Images
from diptych.errors import RunError, WrongUse
from diptych.latent.directions import principal, read_directions, sefa, traverse, write_directions
from diptych.latent.labelled import auc, from_labels
from diptych.latent.mixing import mix
from diptych.latent.points import drawn, sampled
from diptych.model import Condition, to_uint8
from diptych.networks.biggan import BigGenerator
from diptych.networks.biggan_deep import DeepGenerator
from diptych.networks.dcgan import DCGenerator
from diptych.networks.gat import GATGenerator
from diptych.networks.pggan import PGGenerator
from diptych.networks.r3gan import R3Generator
from diptych.networks.resgan import ResGenerator
from diptych.networks.stylegan2 import StyleGAN2Generator
from diptych.networks.stylegan3 import StyleGAN3Generator
from generators import Linear, Styled


def cosines(found: Tensor, wanted: Tensor) -> Tensor:
    return (found.double() * wanted.double()).sum(1).abs()


def with_singular_values(values: list[float]) -> tuple[LatentModel, Tensor]:
    """A linear generator, and its right singular vectors in order."""
    generator = Linear(latent=len(values))
    stream = torch.Generator().manual_seed(5)
    left, _ = torch.linalg.qr(torch.randn(64, len(values), generator=stream))
    right, _ = torch.linalg.qr(torch.randn(len(values), len(values), generator=stream))
    with torch.no_grad():
        generator.matrix.copy_(left @ torch.diag(torch.tensor(values)) @ right.T)
    return LatentModel(generator), right.T


@pytest.mark.parametrize("way", ["sefa", "jacobian"])
def test_singular_vectors_are_found(way: str) -> None:
    model, vectors = with_singular_values([5.0, 3.0, 2.0, 1.0, 0.5])
    found = sefa(model, 3) if way == "sefa" else principal(model, 3, batch=2)
    assert cosines(found.vectors, vectors[:3]).min() > 1 - 1e-5
    scale = 1 if way == "sefa" else 16  # the image is a quarter of matrix z
    assert torch.allclose(found.strength * scale, torch.tensor([25.0, 9.0, 4.0]), rtol=1e-3)
    assert torch.allclose(found.deviation, torch.ones(3), atol=0.05)  # of normal latents
    assert found.layers == (0,)


def test_without_weights_the_images_are_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    model, vectors = with_singular_values([5.0, 3.0, 2.0])
    monkeypatch.delattr(Linear, "reads_latents")
    found = sefa(model, 2)
    assert found.names == ("jacobian 0", "jacobian 1")
    assert cosines(found.vectors, vectors[:2]).min() > 1 - 1e-5


@pytest.mark.parametrize("layers", [[], [1], [0, 2]])
def test_styles_are_stacked_over_the_layers_that_move(layers: list[int]) -> None:
    generator = Styled()
    model, matrices = StyleModel(generator), generator.synthesis.matrices.detach()
    chosen = layers or [0, 1, 2]
    stacked, summed = torch.cat([matrices[i] for i in chosen]), matrices[chosen].sum(0)
    for found, wanted in ((sefa(model, 2, layers), stacked), (principal(model, 2, layers), summed)):
        right = torch.linalg.svd(wanted.double()).Vh
        assert cosines(found.vectors, right[:2]).min() > 1 - 1e-5
        assert found.layers == tuple(chosen)


NARROW: dict[str, tuple[type[nn.Module], dict[str, Any]]] = {
    "r3gan": (R3Generator, {"latent": 200, "width": 8, "largest": 16, "blocks": 1}),
    "dcgan": (DCGenerator, {"latent": 200, "width": 4, "largest": 8}),
    "resgan": (ResGenerator, {"latent": 200, "width": 4, "largest": 8}),
    "pggan": (PGGenerator, {"latent": 200, "base": 32, "largest": 8}),
    "gat": (GATGenerator, {"latent": 200, "width": 16, "depth": 2, "levels": 2}),
    "biggan": (BigGenerator, {"latent": 400, "width": 4, "largest": 8}),
    "biggan-deep": (DeepGenerator, {"latent": 400, "width": 4, "largest": 8}),
    "stylegan2": (StyleGAN2Generator, {"latent": 8, "style": 40, "base": 32, "largest": 4}),
    "stylegan3": (StyleGAN3Generator, {"latent": 8, "style": 80, "base": 64, "largest": 8}),
}


@pytest.mark.parametrize("name", NARROW)
def test_nothing_else_reads_the_latents(name: str) -> None:
    """Latents are mirrored where the weights do not look, which changes no length: the image stays."""
    kind, arguments = NARROW[name]
    torch.manual_seed(0)
    network = kind((3, 8, 8), classes=3, **arguments).eval()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    styles = hasattr(network, "synthesis")
    model = StyleModel(network) if styles else LatentModel(network)
    with torch.no_grad():
        reads = network.reads_latents()  # type: ignore[operator]
    points = drawn(model, [0, 1])
    latents = points.latents.double()
    assert len(reads) == latents.shape[1]
    render = model.double().render
    mirrored, shifted = latents.clone(), latents.clone()
    for layer, weights in enumerate(reads):
        assert weights.shape[0] < weights.shape[1] == latents.shape[2]
        space = torch.linalg.svd(weights.double()).Vh
        hidden, seen = space[weights.shape[0] :], space[0]
        mirrored[:, layer] -= 2 * latents[:, layer] @ hidden.T @ hidden
        shifted[:, layer] -= 2 * (latents[:, layer] @ seen)[:, None] * seen
    condition = Condition(label=points.label)
    with torch.no_grad():
        image, same, other = (render(x, condition) for x in (latents, mirrored, shifted))
    assert (mirrored - latents).abs().max() > 0.5
    assert (same - image).abs().max() < 1e-5 * max(1.0, float(image.abs().max()))
    assert (other - image).abs().max() > 1e-4


def test_images_move_as_far_as_is_said() -> None:
    generator = Linear()
    model = LatentModel(generator)
    points, found = drawn(model, [3, 4]), sefa(model, 2)
    moved = traverse(model, points, found, scale=1.5, columns=3, batch=5)
    assert moved.shape == (2, 2, 3, 1, 8, 8)
    assert torch.equal(moved[0, :, 1], model.sample([3, 4]))
    z = points.latents[1] - 1.5 * found.deviation[1] * found.vectors[1]
    assert (moved[1, 1, 0].int() - to_uint8(generator(z))[0].int()).abs().max() <= 1
    styled = StyleModel(Styled())
    points, found = drawn(styled, [3]), sefa(styled, 1, [2])
    latents = points.latents.clone()
    latents[:, 2] += 2 * found.deviation * found.vectors
    wanted = to_uint8(styled.render(latents))
    assert (traverse(styled, points, found)[0, 0, -1].int() - wanted[0].int()).abs().max() <= 1
    reach = sampled(styled, 4096).latents[:, 2] @ found.vectors[0]
    assert torch.allclose(reach.std(), found.deviation[0])


def labelled_images(values: np.ndarray, **labels: Any) -> Images:
    """8x8 images as bright as the values say, with noise on them."""
    noise = np.random.default_rng(0).normal(0, 10, (len(values), 8, 8, 1))
    return Images((128 + 60 * values[:, None, None, None] + noise).clip(0, 255).astype(np.uint8), **labels)


def bright() -> LatentModel:
    """A generator whose third latent makes images bright; the others do something else."""
    generator = Linear()
    with torch.no_grad():
        generator.matrix -= generator.matrix.mean(0)
        generator.matrix /= 4
        generator.matrix[:, 2] = 2.0
    return LatentModel(generator)


def test_the_coordinate_that_a_class_hangs_on_is_found() -> None:
    values = np.linspace(-2, 2, 120)
    data = labelled_images(values, labels=(values > 0).astype(np.int64), class_names=("dark", "bright"))
    found = from_labels(bright(), data, n=400)
    assert found.names == ("dark", "bright")
    third = torch.eye(6)[2]
    assert float(found.vectors[1] @ third) > 0.97
    assert float(found.vectors[0] @ third) < -0.97
    assert found.strength.min() > 0.97
    assert from_labels(bright(), data, ["bright"], n=400).names == ("bright",)


def test_the_coordinate_that_an_attribute_hangs_on_is_found() -> None:
    values = np.linspace(-2, 2, 120).astype(np.float32)
    attributes = np.stack([values, np.random.default_rng(1).normal(size=120)], 1).astype(np.float32)
    attributes[::7, 0] = np.nan
    data = labelled_images(values, attributes=attributes, attribute_names=("light", "luck"))
    found = from_labels(bright(), data, n=400)
    assert found.names == ("light", "luck")
    assert float(found.vectors[0] @ torch.eye(6)[2]) > 0.97
    assert found.strength[0] > 0.9
    assert abs(found.strength[1]) < 0.3


def test_a_class_that_is_asked_for_is_in_the_styles() -> None:
    """Five classes in turn with the seeds, as bright as their number: the brightest is found."""
    generator = Styled(classes=5)
    with torch.no_grad():
        generator.synthesis.matrices *= 0.2
        generator.synthesis.matrices[:, :, 0] = 1.0
        generator.mapping.matrix[0] *= 0.05
        generator.mapping.shift.zero_()
        generator.mapping.shift[:, 0] = torch.linspace(-2, 2, 5)
    values = np.linspace(-1.5, 1.5, 100)
    data = labelled_images(values, labels=(values > 1).astype(np.int64), class_names=("other", "brightest"))
    found = from_labels(StyleModel(generator), data, ["brightest"], n=200)
    assert float(found.vectors[0] @ torch.eye(5)[0]) > 0.97
    assert found.strength[0] > 0.97


def test_labels_that_say_nothing() -> None:
    values = np.linspace(-2, 2, 40)
    data = labelled_images(values, labels=(values > 0).astype(np.int64), class_names=("dark", "bright"))
    with pytest.raises(WrongUse, match="no label 'brigth'"):
        from_labels(bright(), data, ["brigth"], n=64)
    with pytest.raises(WrongUse, match="no labels"):
        from_labels(bright(), labelled_images(values), n=64)
    with pytest.raises(WrongUse, match=r"\(1, 8, 8\), the model's \(1, 9, 8\)"):
        from_labels(LatentModel(Linear((1, 9, 8))), data, n=64)
    dim = bright()
    with torch.no_grad():
        dim.network.matrix *= 0.01
        dim.network.matrix[:, 2] = 0
    dark = labelled_images(values, labels=(values > -1.9).astype(np.int64), class_names=("black", "other"))
    with pytest.raises(WrongUse, match="look like"):
        from_labels(dim, dark, ["black"], n=64)


def test_auc_counts_ordered_pairs() -> None:
    along, has = torch.tensor([1.0, 2.0, 3.0, 2.0]), torch.tensor([0.0, 1.0, 1.0, 0.0])
    assert auc(along, has) == (1 + 0.5 + 1 + 1) / 4


def test_directions_come_back_from_their_file(tmp_path: Path) -> None:
    styled = StyleModel(Styled())
    found, file = sefa(styled, 3, [0, 1]), tmp_path / "d.npz"
    write_directions(file, found)
    again = read_directions(file)
    for name in ("vectors", "deviation", "strength"):
        assert torch.equal(getattr(again, name), getattr(found, name))
    assert (again.names, again.layers) == (found.names, (0, 1))
    assert read_directions(file, [2]).layers == (2,)
    assert again.only([2, 0]).names == ("sefa 2", "sefa 0")
    with pytest.raises(WrongUse, match=r"directions 0 to 2, not 3(.|\n)*hint: .*--sefa"):
        again.only([3])
    with pytest.raises(WrongUse, match="belong to the model"):
        traverse(LatentModel(Linear()), drawn(LatentModel(Linear()), [0]), again)
    for scale in (math.nan, math.inf, -1e300):
        with pytest.raises(WrongUse, match=r"scale must be finite(.|\n)*hint: 2, say"):
            traverse(styled, drawn(styled, [0]), found, scale)


def test_files_that_hold_no_directions(tmp_path: Path) -> None:
    np.savez(tmp_path / "other.npz", vectors=np.zeros((2, 3)), names=np.array(["a"]))
    with pytest.raises(WrongUse, match="holds no directions"):
        read_directions(tmp_path / "other.npz")
    np.savez(tmp_path / "empty.npz", a=np.zeros(1))
    with pytest.raises(RunError, match="holds no vectors"):
        read_directions(tmp_path / "empty.npz")
    (tmp_path / "pickled.npz").write_bytes(pickle.dumps({"vectors": [1, 2]}))
    with pytest.raises(RunError, match="cannot be read"):
        read_directions(tmp_path / "pickled.npz")
    with pytest.raises(RunError, match="there is no"):
        read_directions(tmp_path / "nowhere.npz")
    objects = np.empty(1, object)
    objects[0] = {"a": 1}
    np.savez(tmp_path / "objects.npz", vectors=objects, allow_pickle=True)
    with pytest.raises(RunError, match="cannot be read"):
        read_directions(tmp_path / "objects.npz")


@pytest.mark.parametrize("k", [0, 7])
def test_more_directions_than_there_are(k: int) -> None:
    with pytest.raises(WrongUse, match=f"1 to 6 directions, not {k}"):
        sefa(LatentModel(Linear()), k)


def test_mixtures_have_the_columns_styles_in_those_layers() -> None:
    styled = StyleModel(Styled(layers=4))
    grid = mix(styled, [0, 1], [5, 6, 7], [0, 3])
    assert grid.shape == (3, 4, 1, 8, 8)
    assert grid[0, 0].eq(255).all()
    assert torch.equal(grid[1:, 0], styled.sample([0, 1]))
    assert torch.equal(grid[0, 1:], styled.sample([5, 6, 7]))
    row, column = drawn(styled, [1]).latents, drawn(styled, [7]).latents
    mixed = torch.stack([column[:, 0], row[:, 1], row[:, 2], column[:, 3]], 1)
    assert (grid[2, 3].int() - to_uint8(styled.render(mixed))[0].int()).abs().max() <= 1
    every = mix(styled, [0, 1], [5, 6])
    assert torch.equal(every[1, 1:], every[0, 1:])
    with pytest.raises(WrongUse, match="a style for each layer"):
        mix(LatentModel(Linear()), [0], [1])
    with pytest.raises(WrongUse, match="no layer 4"):
        mix(styled, [0], [1], [4])
    with pytest.raises(WrongUse, match="nothing to mix"):
        mix(styled, [], [1])

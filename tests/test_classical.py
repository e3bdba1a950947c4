"""The classical GANs: their parts against closed forms, and what their models do with the normal noise."""

from __future__ import annotations

import copy
import math
import re
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import scipy.stats
import torch
from torch import Tensor, nn

from conftest import made_up
from diptych import catalog
from diptych.adversarial.latent import LatentModel, LatentOptions
from diptych.adversarial.regularisers import Orthogonal, overlap
from diptych.adversarial.standing import FIRST, standing_statistics
from diptych.adversarial.truncated import LARGEST, inverse_erf, truncated_normal
from diptych.errors import Diverged, WrongUse
from diptych.exporter import export
from diptych.method import Batch, Clock
from diptych.model import Condition, Noise
from diptych.networks.biggan import Attention, BigCritic, BigGenerator, ToldNorm, chunks, halvings
from diptych.networks.biggan_deep import DeepCritic, DeepGenerator
from diptych.networks.biggan_deep import DownBlock as DeepDown
from diptych.networks.biggan_deep import UpBlock as DeepUp
from diptych.networks.dcgan import DCCritic, DCGenerator
from diptych.networks.resgan import LabelNorm, Projection, ResCritic, ResGenerator
from diptych.networks.spectral import SpectralNorm, converge, spectral
from diptych.runs import load_model, save_model
from diptych.saveable import to_tree
from diptych.training.likeness import unlike
from diptych.training.state import Settings, Training

SHAPE = (3, 10, 12)  # not square, and not a multiple of what the networks crop from
SMALL = {"width": 8, "largest": 16}
GENERATORS: dict[str, Any] = {
    "dcgan": lambda **labels: DCGenerator(SHAPE, latent=12, **SMALL, **labels),
    "resgan": lambda **labels: ResGenerator(SHAPE, latent=12, **SMALL, **labels),
    "biggan": lambda **labels: BigGenerator(SHAPE, latent=12, shared=6, **SMALL, **labels),
    "biggan-deep": lambda **labels: DeepGenerator(SHAPE, latent=12, shared=6, **SMALL, **labels),
}
CRITICS: dict[str, Any] = {
    "dcgan": lambda **labels: DCCritic(SHAPE, **SMALL, **labels),
    "wgan-gp": lambda **labels: ResCritic(SHAPE, norm="layer", **SMALL, **labels),
    "sngan": lambda **labels: ResCritic(SHAPE, normalised=True, **SMALL, **labels),
    "biggan": lambda **labels: BigCritic(SHAPE, **SMALL, **labels),
    "biggan-deep": lambda **labels: DeepCritic(SHAPE, **SMALL, **labels),
}
CLASSICAL = ("dcgan", "wgan-gp", "sngan", "biggan", "biggan-deep")
GANS = (*CLASSICAL, "pggan", "stylegan2", "stylegan3", "r3gan", "gat")


def randn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def loud(network: nn.Module) -> nn.Module:
    """Normal weights everywhere, and vectors and statistics to match: nothing begins as the identity."""
    for seed, p in enumerate(network.parameters()):
        p.data = randn(*p.shape, seed=seed) * (p[0].numel() ** -0.5 if p.ndim > 1 else 0.3)
    converge(network, 50)
    return network.eval()


def training(name: str, **given: Any) -> Training:
    spec, data = catalog.recipe(name), made_up().train
    torch.manual_seed(0)
    return Training(spec(data, **{**spec.small, **given}), data, 1000, Settings(device="cpu"))


# spectral normalisation


@pytest.mark.parametrize("layer", [nn.Linear(7, 5), nn.Conv2d(3, 6, 3), nn.Embedding(9, 4)], ids=repr)
def test_spectral_norm_is_the_largest_singular_value(layer: nn.Module) -> None:
    weight = layer.weight.detach().clone()  # type: ignore[operator, union-attr]
    layer = spectral(layer)
    converge(layer, 200)
    expected = weight / torch.linalg.matrix_norm(weight.flatten(1), 2)
    torch.testing.assert_close(layer.eval().weight, expected)
    theirs = nn.utils.parametrizations._SpectralNorm(weight, n_power_iterations=200)
    torch.testing.assert_close(layer.weight, theirs(weight))


def test_spectral_norm_holds_its_gradient_back() -> None:
    """d/dW of c : W / sigma(W), against finite differences of the exact singular value; sigma is not a number
    to it (equation 12)."""
    torch.manual_seed(0)
    weight, c = randn(5, 4), randn(5, 4, seed=1)
    norm = SpectralNorm(weight).eval()
    norm.improve(weight, 500)
    weight.requires_grad_()
    (slope,) = torch.autograd.grad((c * norm(weight)).sum(), weight)
    exact = weight.detach().double().requires_grad_()
    (expected,) = torch.autograd.grad((c * exact / torch.linalg.matrix_norm(exact, 2)).sum(), exact)
    torch.testing.assert_close(slope, expected.float(), rtol=1e-4, atol=1e-5)


def test_spectral_norm_follows_in_training_and_stands_still_in_evaluation() -> None:
    layer = spectral(nn.Linear(6, 6))
    with torch.no_grad():
        layer.parametrizations.weight.original.copy_(randn(6, 6))  # type: ignore[union-attr, operator]
    layer.eval()
    assert torch.equal(layer.weight, layer.weight)
    layer.train()
    sizes = [float(torch.linalg.matrix_norm(layer.weight.detach(), 2)) for _ in range(300)]
    assert abs(sizes[0] - 1) > 0.01
    assert sizes[-1] == pytest.approx(1, abs=1e-3)


def test_spectral_norm_does_not_depend_on_the_memory_format() -> None:
    torch.manual_seed(0)
    conv = spectral(nn.Conv2d(4, 5, 3)).eval()
    expected = conv.weight.clone()
    conv = conv.to(memory_format=torch.channels_last)
    torch.testing.assert_close(conv.weight, expected)


def test_spectral_norm_under_autocast_is_that_of_float32() -> None:
    torch.manual_seed(0)
    layer = spectral(nn.Linear(32, 32)).eval()
    expected = layer.weight
    with torch.autocast("cpu", torch.bfloat16):
        assert layer.weight.dtype == torch.float32
        assert torch.equal(layer.weight, expected)
        assert layer.train()(randn(2, 32)).dtype == torch.bfloat16


@pytest.mark.parametrize("name", ["sngan", "biggan", "biggan-deep"])
def test_every_weight_of_a_normalised_critic_has_norm_one(name: str) -> None:
    critic = CRITICS[name](classes=3)
    layers = [m for m in critic.modules() if isinstance(m, nn.Conv2d | nn.Linear | nn.Embedding)]
    assert len(layers) > 5
    loud(critic)
    converge(critic, 300)
    for layer in layers:
        assert torch.linalg.matrix_norm(layer.weight.flatten(1), 2).item() == pytest.approx(1, abs=3e-3)


def test_averaged_weights_have_vectors_of_their_own() -> None:
    """Copied from the weights in training they give another norm; `settle` mends that, and no more."""
    run = training("biggan", lr=0.01)
    for _ in range(6):
        run.step()
    kept = copy.deepcopy(run.average.state_dict())

    def furthest() -> float:
        layers = [m for m in run.average.modules() if isinstance(m, nn.Conv2d | nn.Linear)]
        norms = [torch.linalg.matrix_norm(layer.weight.flatten(1), 2) for layer in layers]
        return float((torch.stack(norms) - 1).abs().max())

    before = furthest()
    run.settle()
    assert furthest() < before / 2
    changed = {k for k, v in run.average.state_dict().items() if not torch.equal(v, kept[k])}
    assert changed
    assert all(
        key.rsplit(".", 1)[1] in ("left", "right", "running_mean", "running_var", "num_batches_tracked")
        for key in changed
    )


def test_copies_share_nothing() -> None:
    generator = GENERATORS["biggan"](classes=3)
    twin = copy.deepcopy(generator)
    before = {key: value.clone() for key, value in generator.state_dict().items()}
    loud(twin)
    twin.train()(randn(4, 12), torch.tensor([0, 1, 2, 0]))
    assert all(torch.equal(value, before[key]) for key, value in generator.state_dict().items())


# labels


def test_projection() -> None:
    """psi(h) + y^T V h (Miyato and Koyama, 2018, equation 4), by hand."""
    head = Projection(5, 3, 0, normalised=False)
    h, label = randn(4, 5), torch.tensor([0, 2, 1, 2])
    psi, table = head.linear.weight, head.label.table.weight  # type: ignore[union-attr]
    torch.testing.assert_close(head(h, label), (h @ psi.T)[:, 0] + (table[label] * h).sum(1))
    torch.testing.assert_close(head(h, None), h @ (psi[0] + table.mean(0)))


def test_the_critic_of_a_label_differs_by_its_projection_only() -> None:
    """D(x, a) - D(x, b) is linear in the features: an image's features are found from two labels' logits."""
    critic = loud(CRITICS["biggan"](classes=7))
    image = randn(2, *SHAPE)
    logits = torch.stack([critic(image, torch.full((2,), label)) for label in range(7)], 1)
    table = critic.head.label.table.weight  # type: ignore[union-attr]
    mean = critic(image)
    torch.testing.assert_close(logits.mean(1), mean, rtol=1e-4, atol=1e-4)
    assert table.shape == (7, 16)
    assert (logits.std(1) > 1e-3).all()


def test_label_norm_is_batch_norm_with_each_labels_gain_and_bias() -> None:
    norm = LabelNorm(4, 3, 0)
    loud(norm).train()
    x, label = randn(5, 4, 6, 6), torch.tensor([0, 1, 2, 2, 1])
    plain = (x - x.mean((0, 2, 3), keepdim=True)) / (
        x.var((0, 2, 3), correction=0, keepdim=True) + 1e-5
    ).sqrt()
    gain, bias = norm.told.table.weight[label, :, None, None].chunk(2, 1)  # type: ignore[union-attr]
    torch.testing.assert_close(norm(x, label), plain * (1 + gain) + bias)


def test_told_norm_is_linear_in_what_it_is_told() -> None:
    norm = loud(ToldNorm(4, 5)).train()
    x, told = randn(6, 4, 3, 3), randn(6, 5, seed=1)
    plain = (x - x.mean((0, 2, 3), keepdim=True)) / (
        x.var((0, 2, 3), correction=0, keepdim=True) + 1e-4
    ).sqrt()
    image = norm(x, told)
    norm.eval()
    gain, bias = (told @ layer.weight.T for layer in (norm.gain, norm.bias))
    expected = plain * (1 + gain)[:, :, None, None] + bias[:, :, None, None]
    torch.testing.assert_close(image, expected, rtol=1e-3, atol=1e-3)  # eval's vectors are one step on


@pytest.mark.parametrize("name", GENERATORS)
@pytest.mark.parametrize("labels", [{}, {"classes": 3}, {"attributes": 2}], ids=str)
def test_no_label_is_the_mean_of_all(name: str, labels: dict[str, int]) -> None:
    """A label of the mean embedding, or of unknown attributes, draws what no label draws; others do not."""
    generator = loud(GENERATORS[name](**labels))
    z = randn(2, 12)
    image = generator(z)
    assert image.shape == (2, *SHAPE)
    assert image.std() > 0.05
    if not labels:
        return
    told = torch.tensor([0, 2]) if "classes" in labels else torch.tensor([[1.0, -1.0], [0.5, 2.0]])
    assert not torch.allclose(generator(z, told), image, atol=1e-3)
    if "attributes" in labels:
        torch.testing.assert_close(generator(z, torch.full((2, 2), math.nan)), image)


@pytest.mark.parametrize("name", CRITICS)
@pytest.mark.parametrize("labels", [{}, {"classes": 3}, {"attributes": 2}], ids=str)
def test_critics_name_all_their_parts_in_order(name: str, labels: dict[str, int]) -> None:
    critic = loud(CRITICS[name](**labels))
    parts = critic.parts()
    owned = [id(p) for part in parts for p in part.parameters()]
    assert len(owned) == len(set(owned))
    assert set(owned) == {id(p) for p in critic.parameters()}
    image = randn(2, *SHAPE)
    before = critic(image)
    assert before.shape == (2,)
    with torch.no_grad():
        for p in parts[0].parameters():
            p.add_(0.1 * randn(*p.shape, seed=5))
    assert not torch.equal(critic(image), before)


# attention


def test_attention_against_the_naive_form() -> None:
    """Equations 1 to 3 of Zhang et al. pixel by pixel, with keys and values of the half size."""
    attention = loud(Attention(16))
    assert attention.gain != 0
    x = randn(2, 16, 6, 4)
    expected = x.clone()
    for image in range(2):
        query = torch.einsum("oc,chw->ohw", attention.query.weight[:, :, 0, 0], x[image])
        key, value = (
            torch.einsum("oc,chw->ohw", layer.weight[:, :, 0, 0], x[image])
            .unflatten(2, (2, 2))
            .unflatten(1, (3, 2))
            .amax((2, 4))
            .flatten(1)
            for layer in (attention.key, attention.value)
        )
        for row in range(6):
            for column in range(4):
                share = torch.softmax(query[:, row, column] @ key, 0)
                seen = attention.leave.weight[:, :, 0, 0] @ (value @ share)
                expected[image, :, row, column] += attention.gain * seen
    torch.testing.assert_close(attention(x), expected, rtol=1e-4, atol=1e-5)


def test_attention_begins_as_the_identity_and_stands_where_it_is_told() -> None:
    x = randn(2, 16, 4, 4)
    assert torch.equal(Attention(16)(x), x)
    assert halvings((3, 128, 128), 64) == 1
    assert halvings((3, 256, 256), 64) == 2
    assert halvings((3, 32, 32), 64) == 1
    assert halvings((3, 64, 64), 4) == 4
    sizes: list[int] = []
    for network, given in (
        (BigGenerator((3, 64, 64), attention=16, **SMALL), randn(1, 100)),
        (BigCritic((3, 64, 64), attention=16, **SMALL), randn(1, 3, 64, 64)),
        (DeepGenerator((3, 64, 64), attention=16, latent=100, **SMALL), randn(1, 100)),
        (DeepCritic((3, 64, 64), attention=16, **SMALL), randn(1, 3, 64, 64)),
    ):
        assert isinstance(network.attention, Attention)
        network.attention.register_forward_pre_hook(lambda module, x: sizes.append(x[0].shape[2]))
        network(given)
    assert sizes == [16] * 4
    assert BigGenerator(SHAPE, attention=0).attention is None


# BigGAN's latent


def test_chunks_reach_their_own_block_and_those_after() -> None:
    """The last chunk tells the last block only: what leaves the first block does not know it."""
    assert chunks(120, 6) == [20] * 6
    assert chunks(14, 4) == [4, 4, 3, 3]
    with pytest.raises(WrongUse, match="cannot be cut into 6"):
        chunks(5, 6)
    generator = loud(BigGenerator((1, 16, 16), latent=9, **SMALL))
    left: list[Tensor] = []
    generator.blocks[0].register_forward_hook(lambda module, given, x: left.append(x))  # type: ignore[union-attr, operator]
    z = randn(1, 9)
    images = [generator(z + shift) for shift in (0, torch.eye(9)[8], torch.eye(9)[4], torch.eye(9)[0])]
    assert torch.equal(left[0], left[1])
    assert not torch.equal(left[0], left[2])
    assert not torch.equal(left[0], left[3])
    assert all(not torch.equal(images[0], image) for image in images[1:])


def test_deep_shortcuts_keep_drop_and_add_channels() -> None:
    """With the last convolution at zero only the shortcut is left."""
    up, down = loud(DeepUp(8, 4, 3, True)), loud(DeepDown(4, 8, True))
    x = randn(2, 8, 4, 4)
    with torch.no_grad():
        for layer in (up.convs[-1], down.leave):  # type: ignore[union-attr, index]
            layer.register_forward_hook(lambda module, given, out: torch.zeros_like(out))  # type: ignore[union-attr]
    expected = x[:, :4].repeat_interleave(2, 2).repeat_interleave(2, 3)
    assert torch.equal(up(x, randn(2, 3)), expected)
    shrunk = down(x[:, :4])
    torch.testing.assert_close(shrunk[:, :4], nn.functional.avg_pool2d(x[:, :4], 2))
    torch.testing.assert_close(shrunk[:, 4:], down.more(shrunk[:, :4]))  # type: ignore[operator]


# regularisation


@pytest.mark.parametrize("size", [(3, 7), (7, 3), (5, 5)])
def test_overlap_sums_the_products_of_different_rows(size: tuple[int, int]) -> None:
    matrix = randn(*size).double()
    rows = list(matrix)
    expected = sum((a @ b) ** 2 for i, a in enumerate(rows) for j, b in enumerate(rows) if i != j)
    torch.testing.assert_close(overlap(matrix), expected)


@pytest.mark.parametrize("labels", [{"classes": 3}, {"attributes": 2}])
def test_orthogonal_asks_for_the_learned_weights_and_leaves_embeddings_alone(labels: dict[str, int]) -> None:
    generator = GENERATORS["biggan"](**labels)
    batch, clock = Batch(randn(2, *SHAPE), Condition()), Clock(0, 1, 0)
    term, logs = Orthogonal(0.5)(generator, batch, clock)
    weights = [
        m.parametrizations.weight.original
        for name, m in generator.named_modules()
        if isinstance(m, nn.Conv2d | nn.Linear) and name != "label.linear"
    ]
    gram = [w.flatten(1) @ w.flatten(1).T for w in weights]
    expected = sum((g - g.diag().diag()).square().sum() for g in gram)
    torch.testing.assert_close(logs["orthogonal"], expected, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(term, expected / 2, rtol=1e-4, atol=1e-4)
    term.backward()
    reached = {key for key, p in generator.named_parameters() if p.grad is not None}
    assert reached == {key for key, p in generator.named_parameters() if key.endswith("original")}


def test_standing_statistics_are_those_of_the_images_sampled() -> None:
    """Every batch norm remembers the mean over 16 batches of its inputs' means and variances."""
    model = LatentModel(loud(GENERATORS["biggan"](classes=3))).eval()
    inputs: dict[str, list[Tensor]] = {}
    norms = {k: m for k, m in model.named_modules() if isinstance(m, nn.BatchNorm2d)}
    hooks = [
        norm.register_forward_pre_hook(lambda module, x, k=key: inputs.setdefault(k, []).append(x[0]))  # type: ignore[misc]
        for key, norm in norms.items()
    ]
    standing_statistics(model)
    for hook in hooks:
        hook.remove()
    assert len(norms) == 3  # two of the one block, one before the image
    for key, norm in norms.items():
        assert len(inputs[key]) == 16
        mean = torch.stack([x.mean((0, 2, 3)) for x in inputs[key]]).mean(0)
        variance = torch.stack([x.var((0, 2, 3)) for x in inputs[key]]).mean(0)
        torch.testing.assert_close(norm.running_mean, mean, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(norm.running_var, variance, rtol=1e-4, atol=1e-5)
    # the first norm meets the same values in evaluation, so its output has mean 0 and deviation 1
    seen: list[Tensor] = []
    norms["network.blocks.0.first_norm.norm"].register_forward_hook(lambda module, x, out: seen.append(out))
    seeds = range(FIRST, FIRST + 1024)
    with torch.no_grad():
        model(Noise(seeds), Condition(label=model.labels_for(seeds)))
    torch.testing.assert_close(seen[0].mean((0, 2, 3)), torch.zeros(16), rtol=0, atol=1e-3)
    torch.testing.assert_close(seen[0].std((0, 2, 3)), torch.ones(16), rtol=0, atol=0.02)


@pytest.mark.parametrize("counts", [(9, 0, 1), ()])
def test_standing_statistics_are_of_labels_as_training_met_them(counts: tuple[int, ...]) -> None:
    """The share of each class among the labels that the network is told, all of them within a batch."""
    model = LatentModel(loud(GENERATORS["biggan"](classes=3)), counts=counts).eval()
    met: list[Tensor] = []
    hook = model.network.register_forward_pre_hook(lambda module, told: met.append(told[1]))
    standing_statistics(model)
    hook.remove()
    shares = torch.bincount(torch.cat(met), minlength=3) / 1024
    torch.testing.assert_close(
        shares, torch.tensor([0.9, 0.0, 0.1] if counts else [1 / 3] * 3), rtol=0, atol=0.05
    )
    assert all(len(label.unique()) == (2 if counts else 3) for label in met)
    again = LatentModel(copy.deepcopy(model.network), counts=counts).eval()
    standing_statistics(again)
    assert all(torch.equal(a, b) for a, b in zip(model.buffers(), again.buffers(), strict=True))


def test_standing_statistics_meet_every_one_of_many_classes() -> None:
    """Above 64 pixels 256 images would do for a few classes."""
    network = DCGenerator((1, 72, 72), latent=8, width=4, largest=8, classes=1000)
    met: list[Tensor] = []
    network.register_forward_pre_hook(lambda module, told: met.append(told[1]))
    standing_statistics(LatentModel(network, counts=(1,) * 1000))
    assert len(torch.cat(met)) == 1024
    assert all(label.min() < 100 and label.max() > 900 for label in met)


def test_counts_are_of_the_data_and_are_saved(tmp_path: Path) -> None:
    data = made_up(classes=3).train
    assert data.labels is not None
    spec = catalog.recipe("sngan")
    model = spec(data, **spec.small).method.model
    assert isinstance(model, LatentModel)
    assert model.counts == tuple((data.labels == i).sum() for i in range(3))
    save_model(model, tmp_path)
    assert load_model(tmp_path).counts == model.counts  # type: ignore[attr-defined]
    other = to_tree(LatentModel(model.network, counts=(1, 2, 3)))
    assert not list(unlike(model, other, "generator"))  # --init may begin from other data
    with pytest.raises(WrongUse, match="2 counts for 3 classes"):
        LatentModel(model.network, counts=(1, 2))


def settled(name: str = "biggan") -> LatentModel:
    model = LatentModel(loud(GENERATORS[name](classes=3))).eval()
    standing_statistics(model)
    return model


@pytest.mark.parametrize("options", [{"threshold": 0.5}, {"threshold": 0.5, "truncation": 0.3}])
def test_each_threshold_has_standing_statistics_of_its_own(options: dict[str, float]) -> None:
    """Those of the same weights computed anew; the model that it comes from, and its images, stay."""
    model = settled()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    image = model.sample(range(8))
    narrow = model.using(**options)
    expected = LatentModel(copy.deepcopy(model.network), LatentOptions(threshold=0.5)).eval()
    stale = expected.using(**options).sample(range(8))
    standing_statistics(expected)
    expected = expected.using(**options)
    assert torch.equal(narrow.sample(range(8)), expected.sample(range(8)))
    assert (stale.float() - narrow.sample(range(8)).float()).abs().mean() > 1
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert torch.equal(model.sample(range(8)), image)
    weights = zip(model.parameters(), narrow.parameters(), strict=True)
    assert all(p.data_ptr() == q.data_ptr() for p, q in weights)  # no second copy of what is large


def test_standing_statistics_are_computed_once_and_again_for_other_weights() -> None:
    model = settled()
    narrow = model.using(threshold=0.5)
    assert model.using(threshold=0.5).network is narrow.network
    assert model.using(truncation=0.5).network is model.network
    assert narrow.using(threshold=0.0).network is model.network
    assert narrow.using(threshold=0.0).using(threshold=0.5).network is narrow.network
    assert copy.deepcopy(narrow).using(threshold=0.5).standings.kept == {}
    with torch.no_grad():
        model.network.to_image.bias.add_(0.1)
        next(model.network.blocks.parameters()).mul_(1.5)
    again = model.using(threshold=0.5)
    assert again.network is not narrow.network
    expected = LatentModel(copy.deepcopy(model.network), LatentOptions(threshold=0.5)).eval()
    standing_statistics(expected)
    assert torch.equal(again.sample(range(8)), expected.sample(range(8)))
    with torch.inference_mode():
        inside = model.using(threshold=0.25)
    assert inside.network is not model.network
    assert not any(buffer.is_inference() for buffer in inside.buffers())


def test_threads_find_the_same_standing_statistics() -> None:
    model = settled()
    expected = {t: LatentModel(copy.deepcopy(model.network)).using(threshold=t) for t in (0.2, 0.4, 0.6)}
    images = {t: found.eval().sample(range(4)) for t, found in expected.items()}
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda t: (t, model.using(threshold=t).sample(range(4))), [0.2, 0.4, 0.6] * 4))
    assert all(torch.equal(image, images[t]) for t, image in found)


@pytest.mark.parametrize("network", [nn.Linear(2, 2), *(make() for make in GENERATORS.values())])
def test_models_whose_norms_do_not_follow_share_their_network(network: nn.Module) -> None:
    """Without labels BigGAN's norms do not: what a threshold takes away they would bring back."""
    model = LatentModel(network)
    assert model.using(truncation=0.5, threshold=0.5).network is model.network


# truncation


@pytest.mark.parametrize("classes", [0, 3])
@pytest.mark.parametrize("name", GANS)
def test_truncation_takes_diversity_away_or_is_refused(name: str, classes: int) -> None:
    """Batch norms do not divide it out again; what a network normalises cannot be truncated at all."""
    spec, data = catalog.recipe(name), made_up(classes=classes).train
    torch.manual_seed(0)
    run = Training(spec(data, **spec.small), data, 1000, Settings(device="cpu"))
    run.settle()
    model, label = run.average, torch.zeros(64, dtype=torch.long) if classes else None
    options: list[dict[str, float]] = [{"truncation": 1.0}, {"truncation": 0.5}, {"truncation": 0.1}]
    if not name.startswith("stylegan") and not (name.startswith("biggan") and classes):
        options.append({"threshold": 0.1})  # whose deviation is 0.06; a biggan's norms learn to follow it
    if name in ("pggan", "gat"):
        for given in options[1:]:
            with pytest.raises(WrongUse, match=r"one length.*do nothing(.|\n)*hint: stylegan2"):
                model.using(**given)
        return
    spread = []
    for given in options:
        with torch.no_grad():
            image = model.using(**given)(Noise(range(64)), Condition(label=label))
        spread.append(float(image.std(0).mean()))
    assert spread[1] < 0.8 * spread[0]
    assert max(spread[2:]) < 0.3 * spread[0]


def test_inverse_erf() -> None:
    y = torch.cat([torch.linspace(-0.99994, 0.99994, 200_001), torch.tensor([0.0, 1e-30, -1e-12])]).float()
    exact = torch.erfinv(y.double())
    error = (inverse_erf(y).double() - exact).abs() / exact.abs().clamp(min=1e-30)
    assert float(error[y != 0].max()) < 1e-6
    assert inverse_erf(torch.zeros(1)) == 0


@pytest.mark.parametrize("threshold", [0.04, 0.5, 1.0, 2.0, LARGEST])
def test_truncated_normal_has_the_moments_of_one(threshold: float) -> None:
    """Against scipy, quantile by quantile: a fine grid of normal quantiles has the truncated one's."""
    p = (np.arange(100_000) + 0.5) / 100_000
    z = torch.from_numpy(scipy.stats.norm.ppf(p)).float()
    theirs = scipy.stats.truncnorm(-threshold, threshold)
    ours = truncated_normal(z, threshold)
    np.testing.assert_allclose(ours.numpy(), theirs.ppf(p), rtol=1e-3, atol=2e-5 * threshold)
    assert float(ours.double().var()) == pytest.approx(theirs.var(), rel=1e-3)
    assert float(ours.double().pow(4).mean()) == pytest.approx(theirs.moment(4), rel=1e-3)
    assert float(ours.abs().max()) <= threshold * (1 + 1e-6)
    assert (ours.diff() >= 0).all()  # seeds keep their order
    assert (
        float(truncated_normal(torch.tensor([-40.0, 40.0]), threshold).abs().sub(threshold).abs().max())
        < 1e-3
    )


def test_threshold_is_an_option_of_every_latent_model() -> None:
    model = LatentModel(loud(GENERATORS["resgan"]())).eval()
    noise = Noise(range(200))
    z = model.using(threshold=0.5, truncation=0.8).latents(noise)
    assert float(z.abs().max()) <= 0.4
    assert float(z.std()) == pytest.approx(0.8 * scipy.stats.truncnorm(-0.5, 0.5).std(), rel=0.03)
    assert not torch.equal(model.sample([1]), model.using(threshold=0.5).sample([1]))
    for wrong in (-1.0, 0.001, 5.0):
        with pytest.raises(WrongUse, match=r"threshold(.|\n)*hint: 0.5"):
            LatentOptions(threshold=wrong)


# whole models


@pytest.mark.parametrize("name", ["dcgan", "biggan"])
def test_exports_with_its_norms_folded(name: str, tmp_path: Path) -> None:
    """Two of the four: each takes seconds. (All were checked once.)"""
    model = settled(name).using(threshold=0.7)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    result = export(model, tmp_path / "model.onnx", batches=(1, 3, 8))
    assert result.difference is not None
    assert result.difference < 1e-4
    file = onnx.load(result.path)
    held = sum(int(np.prod(tensor.dims)) for tensor in file.graph.initializer)
    assert held < sum(p.numel() for p in model.parameters()) + 2000
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


@pytest.mark.parametrize("network", [DCGenerator, ResGenerator, BigGenerator, DeepGenerator])
def test_sizes_below_eight_are_refused(network: Any) -> None:
    with pytest.raises(WrongUse, match=r"cannot make 7x20(.|\n)*8 is the least"):
        network((1, 7, 20))


def test_wgan_is_clipped_or_penalised() -> None:
    clipped: Any = training("wgan-gp", clip=0.02)
    for _ in range(3):
        clipped.step()
    assert "gradient_penalty" not in clipped.logs.means()
    penalised = training("wgan-gp")
    penalised.step()
    assert penalised.logs.means()["gradient_penalty"] > 0
    with pytest.raises(WrongUse, match="bounded slope"):
        training("wgan-gp", penalty=0.0)
    with pytest.raises(WrongUse, match="at least 0"):
        training("wgan-gp", clip=-0.01)
    for wrong in (math.nan, math.inf):
        with pytest.raises(WrongUse, match="finite"):
            training("wgan-gp", penalty=wrong)
    with pytest.raises(WrongUse, match="none or layer"):
        ResCritic(SHAPE, norm="batch")  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["wgan-gp", "sngan", "biggan"])
def test_critics_of_residual_gans_can_be_differentiated_twice(name: str) -> None:
    """Slope penalties ask for it: the second derivative along a direction, against a difference of slopes."""
    critic = loud(CRITICS[name](classes=3)).double()
    image, direction = randn(2, *SHAPE).double().requires_grad_(), randn(2, *SHAPE, seed=3).double()
    label = torch.tensor([0, 2])
    (slope,) = torch.autograd.grad(critic(image, label).sum(), image, create_graph=True)
    assert slope.abs().max() > 0
    weight = next(p for p in critic.parameters() if p.ndim == 4)
    (second,) = torch.autograd.grad((slope * direction).sum(), weight)
    toward = randn(*weight.shape, seed=4).double()
    ends = []
    for step in (1e-6, -1e-6):
        weight.data += step * toward
        (moved,) = torch.autograd.grad(critic(image, label).sum(), image)
        ends.append((moved * direction).sum())
        weight.data -= step * toward
    assert float((second * toward).sum()) == pytest.approx(
        float(ends[0] - ends[1]) / 2e-6, rel=1e-4, abs=1e-6
    )


@pytest.mark.parametrize("name", CLASSICAL)
def test_learning_rates_fall_where_the_paper_lets_them(name: str) -> None:
    method: Any = training(name).method
    scales = [method.lr_scale(Clock(images, 1800, 5)) for images in (0, 900, 1700)]
    assert scales == pytest.approx([1, 1, 0.5] if name in ("wgan-gp", "sngan") else [1, 1, 1])


@pytest.mark.parametrize("name", ["biggan", "biggan-deep"])
@pytest.mark.parametrize(
    "wrong",
    [{"shared": -1}, {"shared": 0}, {"attention": -1}, {"orthogonal": -1.0}, {"orthogonal": math.nan}],
)
def test_what_cannot_be_meant_is_refused(name: str, wrong: dict[str, float]) -> None:
    with pytest.raises(WrongUse, match=next(iter(wrong))):
        training(name, **wrong)


@pytest.mark.parametrize("name", [*catalog.recipes()])
def test_the_remedy_of_divergence_is_one_that_the_recipe_has(name: str) -> None:
    """sngan was told to raise a --gamma that it does not have."""
    spec, data = catalog.recipe(name), made_up().train
    try:
        run = Training(spec(data, **spec.small), data, 1000, Settings(device="cpu"))
    except WrongUse:  # it needs a teacher
        return
    run.first_bad[0] = 3.0
    with pytest.raises(Diverged) as raised:
        run.check_finite()
    flags = re.findall(r"--(\w+)", raised.value.hint)
    assert "lr" in flags
    assert {flag.replace("-", "_") for flag in flags} <= spec.defaults.keys()
    assert ("gamma" in flags) == (name in ("r3gan", "stylegan2", "stylegan3", "gat"))


@pytest.mark.parametrize("name", ["biggan", "biggan-deep"])
def test_two_time_scales(name: str) -> None:
    phases = {phase.name: phase for phase in training(name, lr=1e-4, critic_lr=3e-4).phases}
    rates = {key: phase.optimizer.param_groups[0]["lr"] for key, phase in phases.items()}
    assert rates == {"critic": 3e-4, "generator": 1e-4}
    assert phases["generator"].every == 2

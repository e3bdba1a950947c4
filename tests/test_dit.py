"""DiT: equal to diffusers' on the same weights; positions, padding, the recipe."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import nn

from conftest import made_up
from diptych import catalog
from diptych.diffusion.denoiser import ScheduleDenoiser
from diptych.diffusion.schedules import Flow
from diptych.errors import WrongUse
from diptych.method import Condition
from diptych.methods.denoising import Denoising
from diptych.networks.dit import DiT, angles, places, sincos, turned
from diptych.system.flops import FlopCounter


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(0)


def loud(network: DiT) -> DiT:
    """Random weights everywhere: a fresh network is zero, and would hide mistakes."""
    with torch.no_grad():
        for p in network.parameters():
            p.copy_(torch.randn(p.shape) * (0.7 * p[0].numel() ** -0.5 if p.ndim > 1 else 0.1))
    return network


def network(**changes: object) -> DiT:
    made = DiT((2, 12, 8), **{"width": 32, "depth": 2, "patch": 2, **changes})  # type: ignore[arg-type]
    return loud(made)


def test_equals_diffusers_on_the_same_weights() -> None:
    from diffusers import DiTTransformer2DModel

    theirs = DiTTransformer2DModel(
        num_attention_heads=2,
        attention_head_dim=64,
        in_channels=3,
        out_channels=6,
        num_layers=2,
        sample_size=12,
        patch_size=2,
        num_embeds_ada_norm=5,
        norm_eps=1e-6,
    ).eval()
    for block in theirs.transformer_blocks:  # diffusers' times differ a little from the paper's code's
        block.norm1.emb.time_proj.downscale_freq_shift = 0
    ours = loud(DiT((3, 12, 12), classes=5, width=128, depth=2, patch=2, out_channels=6)).eval()

    def give(part: nn.Module, *sources: nn.Module) -> None:
        """Several of theirs are rows of one of ours."""
        values = [p.data for source in sources for p in source.parameters()]
        for i, p in enumerate(part.parameters()):
            for value, rows in zip(values[i::2], p.data.chunk(len(sources)), strict=True):
                value.copy_(rows.view(value.shape))

    give(ours.stem, theirs.pos_embed.proj)
    for mine, block in zip(ours.blocks, theirs.transformer_blocks, strict=True):
        emb = block.norm1.emb
        give(ours.time[1], emb.timestep_embedder.linear_1)
        give(ours.time[3], emb.timestep_embedder.linear_2)
        emb.class_embedder.embedding_table.weight.data.copy_(ours.label.table.weight)
        give(mine.affine, block.norm1.linear)
        give(mine.attention.qkv, block.attn1.to_q, block.attn1.to_k, block.attn1.to_v)
        give(mine.attention.out, block.attn1.to_out[0])
        give(mine.mlp[0], block.ff.net[0].proj)
        give(mine.mlp[2], block.ff.net[2])
    give(ours.affine, theirs.proj_out_1)
    give(ours.head, theirs.proj_out_2)
    x, time, label = torch.randn(4, 3, 12, 12), torch.rand(4) * 999, torch.tensor([0, 3, 4, 5])
    with torch.no_grad():
        expected = theirs(x, time, label).sample
        found = ours(x.to(memory_format=torch.channels_last), time, label)
    assert expected.std() > 0.1
    assert (found - expected).abs().max() < 1e-5


def test_begins_as_zero_and_its_blocks_as_the_identity() -> None:
    dit = DiT((2, 12, 8), width=32, depth=2, patch=2, positions="both", qk_norm=True)
    assert torch.equal(dit(torch.randn(3, 2, 12, 8), torch.rand(3)), torch.zeros(3, 2, 12, 8))
    tokens = torch.randn(3, 24, 32)
    assert torch.equal(dit.blocks[0](tokens, torch.randn(3, 32), dit.turns), tokens)


def test_positions_are_sines_and_cosines_of_column_and_row() -> None:
    table = sincos((3, 5), 16)[0].numpy()
    frequencies = 10_000 ** -(np.arange(4) / 4)
    for row in range(3):
        for column in range(5):
            waves = [f(value * frequencies) for value in (column, row) for f in (np.sin, np.cos)]
            np.testing.assert_allclose(table[5 * row + column], np.concatenate(waves), atol=1e-6)


def test_turned_vectors_know_their_distance_alone() -> None:
    """<R_p q, R_k k> is a function of p - k, in rows and in columns; lengths stay."""
    grid = (6, 7)
    turns, (row, column) = angles(grid, 32), places(grid)
    q, k = torch.randn(2, 1, 32, dtype=torch.float64)
    turned_q, turned_k = (turned(v.expand(42, 32), turns.double()) for v in (q, k))
    torch.testing.assert_close(turned_q.norm(dim=1), q.norm().expand(42))
    products = turned_q @ turned_k.T
    seen: dict[tuple[int, int], float] = {}
    for i in range(42):
        for j in range(42):
            apart = int(row[i] - row[j]), int(column[i] - column[j])
            assert products[i, j].item() == pytest.approx(
                seen.setdefault(apart, products[i, j].item()), abs=1e-5
            )
    assert len(seen) == 11 * 13
    assert len({round(value, 4) for value in seen.values()}) > 100  # and distances differ


@pytest.mark.parametrize("positions", ["sincos", "rotary", "both"])
def test_without_positions_patches_could_be_shuffled(positions: str) -> None:
    """Moving the patches moves the output with them only where positions are taken away."""
    dit = network(positions=positions)
    x, time = torch.randn(1, 2, 12, 8), torch.rand(1)

    def gap() -> float:
        moved = dit(x.roll((4, 2), (2, 3)), time).roll((-4, -2), (2, 3))
        return (moved - dit(x, time)).abs().max().item()

    assert gap() > 1e-3
    if dit.added is not None:
        dit.added.zero_()
    if dit.turns is not None:
        dit.turns.copy_(torch.tensor([1.0, 0.0]).view(2, 1, 1).expand_as(dit.turns))
    assert gap() < 1e-5


@pytest.mark.parametrize(("shape", "patch"), [((3, 9, 13), 4), ((1, 8, 8), 1), ((2, 10, 6), 2)])
def test_patches_go_back_to_where_they_came_from(shape: tuple[int, int, int], patch: int) -> None:
    """Without blocks a pixel depends on its own patch and on no other."""
    dit = loud(DiT(shape, width=16, depth=0, patch=patch))
    x = torch.randn(1, *shape, requires_grad=True)
    out = dit(x, torch.zeros(1))
    assert out.shape == x.shape
    for row, column in ((0, 0), (shape[1] - 1, shape[2] - 1), (5, 2)):
        (slope,) = torch.autograd.grad(out[0, :, row, column].sum(), x, retain_graph=True)
        own = torch.zeros(shape[1:], dtype=torch.bool)
        own[row // patch * patch :, column // patch * patch :][:patch, :patch] = True
        assert torch.equal(slope[0].abs().sum(0) > 0, own)


def test_normed_queries_and_keys_forget_their_size() -> None:
    for qk_norm in (True, False):
        dit = network(qk_norm=qk_norm)
        x, time = torch.randn(2, 2, 12, 8), torch.rand(2)
        before = dit(x, time)
        with torch.no_grad():
            dit.blocks[0].attention.qkv.weight[:64] *= 30
            dit.blocks[0].attention.qkv.bias[:64] *= 30
        assert torch.allclose(dit(x, time), before, atol=1e-4) == qk_norm


@pytest.mark.parametrize("kind", ["classes", "attributes"])
def test_no_label_is_one_thing(kind: str) -> None:
    dit = network(**{kind: 3})
    x, time = torch.randn(2, 2, 12, 8), torch.rand(2)
    classes = kind == "classes"
    none = torch.tensor([3, 3]) if classes else torch.full((2, 3), math.nan)
    some = torch.tensor([0, 3]) if classes else torch.tensor([[0.0, 1.0, 0.0], [math.nan] * 3])
    without, labelled = dit(x, time), dit(x, time, some)
    torch.testing.assert_close(dit(x, time, none), without)
    torch.testing.assert_close(labelled[1], without[1])
    assert (labelled[0] - without[0]).abs().max() > 1e-3


def test_computing_again_gives_the_same_gradient() -> None:
    plain, again = network(positions="both"), network(positions="both", checkpointing=True)
    again.load_state_dict(plain.state_dict())
    for dit in (plain, again):
        torch.manual_seed(1)
        dit(torch.randn(3, 2, 12, 8), torch.rand(3)).square().mean().backward()
    for ours, theirs in zip(again.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(ours.grad, theirs.grad)


def test_bfloat16_is_near_float32() -> None:
    dit = network(positions="both", qk_norm=True, classes=3)
    arguments = torch.randn(4, 2, 12, 8), 1000 * torch.rand(4), torch.arange(4)
    exact = dit(*arguments)
    with torch.autocast("cpu", torch.bfloat16):
        rough = dit(*arguments)
        rough.float().square().mean().backward()
    assert (rough.float() - exact).square().mean() < 0.03**2 * exact.square().mean()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in dit.parameters())


def test_learns_variances_where_asked() -> None:
    dit = network(out_channels=4)
    denoiser = ScheduleDenoiser(dit, Flow(), "flow", learned_variance=True)
    x, sigma = torch.randn(3, 2, 12, 8), torch.tensor([0.5])
    clean, variance = denoiser.moments(x, sigma, Condition())
    assert clean.shape == variance.shape == x.shape
    torch.testing.assert_close(clean, denoiser(x, sigma, Condition()))


def test_exports_with_any_batch() -> None:
    dit = network(positions="both", qk_norm=True, classes=3).eval()
    batch = torch.export.Dim("batch", min=1)
    example = (torch.randn(2, 2, 12, 8), torch.rand(2), torch.arange(2))
    program = torch.export.export(dit, example, dynamic_shapes=[{0: batch}] * 3)
    five = (torch.randn(5, 2, 12, 8), torch.rand(5), torch.arange(5) % 4)
    torch.testing.assert_close(program.module()(*five), dit(*five), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(("side", "patch"), [(8, 1), (16, 1), (28, 2), (32, 2), (64, 4), (256, 16)])
def test_the_recipe_takes_patches_by_size(side: int, patch: int) -> None:
    method = catalog.recipe("dit")(made_up((1, side, side), n=4).train, width=8, depth=1).method
    assert isinstance(method, Denoising)
    assert method.denoiser.network.patch == patch  # type: ignore[union-attr]


def test_costs_what_the_arithmetic_says() -> None:
    """Forward: 24 width^2 + 4 tokens width a token and block, the modulation, stem, head and embedding; twice
    that backward, but for attention, which computes its weights again."""
    width, tokens, depth, n = 64, 24, 2, 3
    dit = loud(DiT((2, 12, 8), width=width, depth=depth, patch=2))
    with FlopCounter() as forward:
        out = dit(torch.randn(n, 2, 12, 8), torch.rand(n))
    attention = n * depth * 4 * tokens**2 * width
    products = n * (depth * (tokens * 24 + 12) * width**2 + 2 * 2 * tokens * width * 8)
    products += n * (2 * 256 * width + 6 * width**2)
    assert forward.flops == attention + products
    with FlopCounter() as backward:
        out.sum().backward()
    unneeded = n * (2 * tokens * 8 * width + 2 * 256 * width)  # nobody asks for the slope of image and time
    assert backward.flops == 2.5 * attention + 2 * products - unneeded


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"width": 100}, "width 100 cannot be split"),
        ({"positions": "rotery"}, "there are no positions called rotery.*did you mean rotary"),
        ({"target": "eps"}, "target is flow or v"),
        ({"patch": -1}, "patch must be at least 0"),
    ],
)
def test_wrong_arguments_are_refused(wrong: dict[str, object], said: str) -> None:
    with pytest.raises(WrongUse, match=f"(?s){said}"):
        catalog.recipe("dit")(made_up().train, **wrong)


def test_trains_on_either_target() -> None:
    for target, weight_at_1 in (("flow", 4.0), ("v", 1.0)):
        method = catalog.recipe("dit")(made_up().train, width=32, depth=1, target=target).method
        assert isinstance(method, Denoising)
        one = torch.ones(1)
        found = method.weight(one, method.c_out(one)).item()
        assert found == pytest.approx(weight_at_1)  # flow: (1 + sigma)^2 / sigma^2; v: min(SNR, 5)


def test_compiles_as_one_graph() -> None:
    dit = network(positions="both", qk_norm=True, classes=3)
    arguments = (torch.randn(2, 2, 12, 8), torch.rand(2), torch.arange(2))
    whole = torch.compile(dit, backend="eager", fullgraph=True)
    torch.testing.assert_close(whole(*arguments), dit(*arguments))


@pytest.mark.parametrize("positions", ["rotary", "sincos", "both"])
def test_what_blocks_add_to_is_float32_under_autocast(positions: str) -> None:
    """Whatever positions there are: a sum over all of the depth."""
    network = DiT((1, 8, 8), width=16, depth=2, patch=2, positions=positions)
    seen: list[torch.dtype] = []
    network.blocks[1].register_forward_pre_hook(lambda module, given: seen.append(given[0].dtype))
    with torch.autocast("cpu", torch.bfloat16):
        network(torch.randn(2, 1, 8, 8), torch.tensor([10.0]))
    assert seen == [torch.float32]

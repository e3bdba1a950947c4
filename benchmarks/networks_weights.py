"""Weights of reference networks put in ours, for the table of networks.py."""

from __future__ import annotations

import importlib
import math
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import chain
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn

from paired import let_torchvision_load

Pair = tuple[Any, Any]  # a reference's residual block, and its attention or None


@contextmanager
def checkout(folder: str) -> Iterator[None]:
    """Imports find what is in a folder, and forget it after: EDM and EDM2 have packages of one name."""
    root, before = str(Path(folder).resolve()), set(sys.modules)
    sys.path.insert(0, root)
    try:
        yield
    finally:
        sys.path.remove(root)
        for name in set(sys.modules) - before:
            if (getattr(sys.modules[name], "__file__", None) or "").startswith(root):
                del sys.modules[name]


@torch.no_grad()
def scrambled(network: nn.Module) -> nn.Module:
    """All weights random, also those that begin as zeros and would hide what is before them."""
    generator = torch.Generator().manual_seed(1)
    for p in network.parameters():
        scale = 0.5 / math.sqrt(max(1, p[0].numel())) if p.ndim > 1 else 0.1
        p.copy_(torch.randn(p.shape, generator=generator) * scale)
    for layer in network.modules():
        if type(layer).__name__.startswith("GroupNorm"):
            layer.weight.add_(1)  # type: ignore[operator]
    return network.eval()


@torch.no_grad()
def blank(network: nn.Module) -> Any:
    """Not a number everywhere: a weight that the reference does not give shows in the result."""
    for p in network.parameters():
        p.fill_(math.nan)
    return network.eval()


@torch.no_grad()
def load(*pairs: tuple[Any, Any]) -> None:
    """Weight and bias of (ours, the reference's) layers, whose shapes differ at most by ones."""
    for ours, theirs in pairs:
        for name in ("weight", "bias"):
            if (value := getattr(theirs, name, None)) is not None:
                into = getattr(ours, name)
                into.copy_(value.reshape(into.shape))


def fill(parameter: Tensor, value: Tensor) -> None:
    """Sets a parameter of this very shape."""
    assert parameter.shape == value.shape, (parameter.shape, value.shape)
    parameter.detach().copy_(value)


def load_qkv(ours: Any, theirs: Any, heads: int, order: str) -> None:
    """Queries, keys and values; order: "what" before heads (ours), "head" first, "inner" is what last."""
    for name in ("weight", "bias"):
        if (value := getattr(theirs, name, None)) is None:
            continue
        into, c = getattr(ours, name), value.shape[0] // 3
        if order == "head":
            value = value.reshape(heads, 3, c // heads, -1).permute(1, 0, 2, 3)
        elif order == "inner":
            value = value.reshape(heads, c // heads, 3, -1).permute(2, 0, 1, 3)
        fill(into, value.reshape(into.shape))


def blocks(network: Any) -> list[Any]:
    """All residual blocks of our ADM, NCSN++ or classifier in the order of the forward pass."""
    encoder, decoder = network.encoder, getattr(network, "decoder", None)
    found = list(alternating(encoder.levels, encoder.shrink)) + list(encoder.middle)
    return found + (list(alternating(decoder.levels, decoder.grow)) if decoder else [])


def alternating(levels: Any, between: Any) -> Iterator[Any]:
    """The blocks of each level, and the one that leads to it from the level before."""
    for i, level in enumerate(levels):
        yield from [between[i - 1], *level] if i else level


def guided_pairs(reference: Any) -> list[Pair]:
    """guided-diffusion's residual blocks, each with the attention that follows it."""
    found: list[list[Any]] = []
    stages = [*reference.input_blocks, reference.middle_block, *getattr(reference, "output_blocks", [])]
    for layer in chain.from_iterable(stages):
        if hasattr(layer, "in_layers"):
            found.append([layer, None])
        elif hasattr(layer, "proj_out"):
            found[-1][1] = layer
    return [(block, attention) for block, attention in found]


def load_guided(ours: Any, theirs: Any) -> None:
    """What guided-diffusion's U-Net and its classifier have in common."""
    load((ours.time[1], theirs.time_embed[0]), (ours.time[3], theirs.time_embed[2]))
    load((ours.encoder.stem, theirs.input_blocks[0][0]))
    for block, (residual, attention) in zip(blocks(ours), guided_pairs(theirs), strict=True):
        load((block.norm1, residual.in_layers[0]), (block.conv1, residual.in_layers[2]))
        load((block.norm2, residual.out_layers[0]), (block.conv2, residual.out_layers[3]))
        load((block.affine, residual.emb_layers[1]))
        if isinstance(block.skip, nn.Conv2d):
            load((block.skip, residual.skip_connection))
        if attention is not None:
            kept = block.attention
            load((kept.norm, attention.norm), (kept.out, attention.proj_out))
            legacy = type(attention.attention).__name__ == "QKVAttentionLegacy"
            load_qkv(kept.qkv, attention.qkv, attention.num_heads, "head" if legacy else "what")


def load_pool(ours: Any, theirs: Any) -> None:
    """guided-diffusion's attention pooling."""
    weight, bias = theirs.qkv_proj.weight[:, :, 0], theirs.qkv_proj.bias
    c = len(bias) // 3
    fill(ours.place, theirs.positional_embedding.T)
    load((ours.ask, SimpleNamespace(weight=weight[:c], bias=bias[:c])))
    load((ours.answer, SimpleNamespace(weight=weight[c:], bias=bias[c:])), (ours.out, theirs.c_proj))


def load_edm(ours: Any, theirs: Any) -> None:
    """Encoder and decoder of EDM's U-Nets."""
    first, *encoder = theirs.enc.items()
    load((ours.encoder.stem, first[1]))
    images = [layer for name, layer in encoder if "aux" in name]
    for shrunk, layer in zip(ours.encoder.pyramid, images, strict=True):
        load((shrunk.conv, layer))
    residuals = [layer for name, layer in (*encoder, *theirs.dec.items()) if "aux" not in name]
    for block, residual in zip(blocks(ours), residuals, strict=True):
        load((block.norm1, residual.norm0), (block.conv1, residual.conv0), (block.affine, residual.affine))
        load((block.norm2, residual.norm1), (block.conv2, residual.conv1))
        if isinstance(block.skip, nn.Conv2d):
            load((block.skip, residual.skip))
        if residual.num_heads:
            kept = block.attention
            load((kept.norm, residual.norm2), (kept.out, residual.proj))
            load_qkv(kept.qkv, residual.qkv, residual.num_heads, "inner")


def load_song(ours: Any, theirs: Any) -> None:
    """What is around SongUNet's blocks. It has sines before cosines, a label of scaled ones, and a bias."""
    ends = [layer for name, layer in theirs.dec.items() if "aux_norm" in name or "aux_conv" in name]
    for head, norm, last in zip(ours.heads, ends[::2], ends[1::2], strict=True):
        load((head[0], norm), (head[2], last))
    load((ours.mapping[0], theirs.map_layer0), (ours.mapping[2], theirs.map_layer1))
    weight, bias = theirs.map_layer0.weight, theirs.map_label.bias
    half, classes = weight.shape[1] // 2, theirs.map_label.weight.shape[1]
    fill(ours.mapping[0].weight, weight.roll(half, 1))
    table = torch.cat([theirs.map_label.weight.T * math.sqrt(classes) + bias, bias[None]])
    fill(ours.label.table.weight, table.roll(half, 1))
    if hasattr(theirs.map_noise, "freqs"):
        fill(ours.level.frequencies, theirs.map_noise.freqs * (2 * math.pi))


def load_edm2(ours: Any, theirs: Any) -> None:
    """EDM2's U-Net, whose layers have weights alone."""
    fill(ours.fourier.frequencies, theirs.emb_fourier.freqs)
    fill(ours.fourier.phases, theirs.emb_fourier.phases)
    first, *encoder = theirs.enc.values()
    load((ours.level, theirs.emb_noise), (ours.label.linear, theirs.emb_label))
    load((ours.stem, first), (ours.head, theirs.out_conv))
    fill(ours.gain, theirs.out_gain)
    kept = [*ours.down, *ours.middle, *ours.up]
    for block, given in zip(kept, [*encoder, *theirs.dec.values()], strict=True):
        fill(block.gain, given.emb_gain)
        load((block.conv1, given.conv_res0), (block.conv2, given.conv_res1), (block.affine, given.emb_linear))
        if block.skip is not None:
            load((block.skip, given.conv_skip))
        if given.num_heads:
            load((block.attention.out, given.attn_proj))
            load_qkv(block.attention.qkv, given.attn_qkv, given.num_heads, "inner")


def load_dit(ours: Any, theirs: Any) -> None:
    """DiT, as facebookresearch/DiT names its parts."""
    time, last = theirs.t_embedder.mlp, theirs.final_layer
    load((ours.stem, theirs.x_embedder.proj), (ours.time[1], time[0]), (ours.time[3], time[2]))
    load((ours.label.table, theirs.y_embedder.embedding_table))
    load((ours.affine, last.adaLN_modulation[1]), (ours.head, last.linear))
    for kept, given in zip(ours.blocks, theirs.blocks, strict=True):
        load((kept.affine, given.adaLN_modulation[1]), (kept.mlp[0], given.mlp.fc1))
        load((kept.mlp[2], given.mlp.fc2))
        load((kept.attention.qkv, given.attn.qkv), (kept.attention.out, given.attn.proj))


def vision_transformer() -> bool:
    """Whether timm is there, which DiT imports; otherwise what follows is put in its place."""
    let_torchvision_load()
    try:
        importlib.import_module("timm.models.vision_transformer")
        return True
    except ImportError:
        stand_in = ModuleType("timm.models.vision_transformer")
        for part in (PatchEmbed, Attention, Mlp):
            setattr(stand_in, part.__name__, part)
        names: Sequence[str] = ("timm", "timm.models")
        sys.modules |= {name: ModuleType(name) for name in names} | {stand_in.__name__: stand_in}
        return False


class PatchEmbed(nn.Module):
    """An image's patches as tokens."""

    def __init__(self, size: int, patch: int, c: int, width: int, bias: bool = True) -> None:
        super().__init__()
        self.proj = nn.Conv2d(c, width, patch, stride=patch, bias=bias)
        self.num_patches, self.patch_size = (size // patch) ** 2, (patch, patch)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) to (B, T, width)."""
        return self.proj(x).flatten(2).transpose(1, 2)  # type: ignore[no-any-return]


class Attention(nn.Module):
    """Self-attention, written out."""

    def __init__(self, width: int, num_heads: int, qkv_bias: bool = True) -> None:
        super().__init__()
        self.heads, self.proj = num_heads, nn.Linear(width, width)
        self.qkv = nn.Linear(width, 3 * width, bias=qkv_bias)

    def forward(self, x: Tensor) -> Tensor:
        """(B, T, C)."""
        q, k, v = self.qkv(x).unflatten(2, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        share = (q @ k.transpose(-2, -1) / math.sqrt(q.shape[-1])).softmax(-1)
        return self.proj((share @ v).transpose(1, 2).flatten(2))  # type: ignore[no-any-return]


class Mlp(nn.Module):
    """Two layers."""

    def __init__(self, in_features: int, hidden_features: int, act_layer: Any = nn.GELU, drop: float = 0.0):
        super().__init__()
        self.fc1, self.act = nn.Linear(in_features, hidden_features), act_layer()
        self.fc2 = nn.Linear(hidden_features, in_features)

    def forward(self, x: Tensor) -> Tensor:
        """(B, T, C)."""
        return self.fc2(self.act(self.fc1(x)))  # type: ignore[no-any-return]

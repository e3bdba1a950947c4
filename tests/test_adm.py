"""ADM's U-Net: against diffusers' on the same weights, and what every network here must do."""

from __future__ import annotations

import pytest
import torch
from diffusers import UNet2DModel
from torch import Tensor, nn

from diptych.networks.adm import ADM, multipliers_for
from diptych.networks.blocks import Block, Levels
from diptych.networks.embedding import TimeEmbedding


def shaken(network: nn.Module) -> nn.Module:
    """The network with every parameter random, those that begin at zero too."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in network.parameters():
            size = 0.5 / parameter[0].numel() ** 0.5 if parameter.ndim > 1 else 0.1
            parameter.add_(size * torch.randn(parameter.shape, generator=generator))
    return network.eval()


def copy(ours: nn.Module, theirs: nn.Module) -> None:
    """The parameters of a layer, whatever shape the other library gives a 1x1 convolution."""
    own = dict(ours.named_parameters())
    for name, parameter in theirs.named_parameters():
        own[name].data.copy_(parameter.data.reshape(own[name].shape))


def copy_block(ours: Block, resnet: nn.Module, attention: nn.Module | None = None) -> None:
    parts = {
        "norm1": "norm1",
        "conv1": "conv1",
        "affine": "time_emb_proj",
        "norm2": "norm2",
        "conv2": "conv2",
    }
    for mine, name in parts.items():
        copy(getattr(ours, mine), getattr(resnet, name))
    if resnet.conv_shortcut is not None:
        copy(ours.skip, resnet.conv_shortcut)
    if attention is not None:
        copy(ours.attention.norm, attention.group_norm)
        copy(ours.attention.out, attention.to_out[0])
        for kind in ("weight", "bias"):
            three = [getattr(layer, kind).data for layer in (attention.to_q, attention.to_k, attention.to_v)]
            own = getattr(ours.attention.qkv, kind).data
            own.copy_(torch.cat(three).reshape(own.shape))


def test_equals_the_same_network_of_another_library() -> None:
    """Residual blocks that resample, scale-shift norms, attention at the coarse level, a label."""
    theirs = UNet2DModel(
        sample_size=16,
        in_channels=3,
        out_channels=6,
        freq_shift=0,
        block_out_channels=(128, 256),
        layers_per_block=1,
        down_block_types=("ResnetDownsampleBlock2D", "AttnDownBlock2D"),
        up_block_types=("AttnUpBlock2D", "ResnetUpsampleBlock2D"),
        downsample_type="resnet",
        upsample_type="resnet",
        attention_head_dim=64,
        attn_norm_num_groups=32,
        resnet_time_scale_shift="scale_shift",
        num_class_embeds=4,
    )
    shaken(theirs)
    ours = ADM(
        (3, 16, 16), classes=4, out_channels=6, width=128, multipliers=(1, 2), blocks=1, attention=(8,)
    )
    ours.eval()
    copy(ours.time[1], theirs.time_embedding.linear_1)
    copy(ours.time[3], theirs.time_embedding.linear_2)
    ours.label.table.weight.data[:4] = theirs.class_embedding.weight.data
    copy(ours.encoder.stem, theirs.conv_in)
    fine, coarse = theirs.down_blocks
    copy_block(ours.encoder.levels[0][0], fine.resnets[0])
    copy_block(ours.encoder.shrink[0], fine.downsamplers[0])
    copy_block(ours.encoder.levels[1][0], coarse.resnets[0], coarse.attentions[0])
    copy_block(ours.encoder.middle[0], theirs.mid_block.resnets[0], theirs.mid_block.attentions[0])
    copy_block(ours.encoder.middle[1], theirs.mid_block.resnets[1])
    coarse, fine = theirs.up_blocks
    for i in range(2):
        copy_block(ours.decoder.levels[0][i], coarse.resnets[i], coarse.attentions[i])
        copy_block(ours.decoder.levels[1][i], fine.resnets[i])
    copy_block(ours.decoder.grow[0], coarse.upsamplers[0])
    copy(ours.head[0], theirs.conv_norm_out)
    copy(ours.head[2], theirs.conv_out)
    x, time, label = torch.randn(2, 3, 16, 16), torch.tensor([3.0, 700.0]), torch.tensor([0, 3])
    with torch.no_grad():
        found, known = ours(x, time, label), theirs(x, time, label).sample
    assert known.std() > 0.1
    torch.testing.assert_close(found, known, rtol=0, atol=1e-5)


def test_time_embedding_is_cosines_then_sines() -> None:
    embedding = TimeEmbedding(6, 5)
    known = [torch.tensor(7.0 * 10_000 ** (-i / 3)) for i in range(3)]
    sinusoids = torch.stack([f.cos() for f in known] + [f.sin() for f in known])
    torch.testing.assert_close(embedding[0](torch.tensor([7.0]))[0], sinusoids)
    assert embedding(torch.tensor([7.0, 8.0])).shape == (2, 5)


def test_attention_lies_at_the_resolutions_asked_for() -> None:
    """A size that is no power of two counts as the next one."""
    assert Levels.of((3, 64, 64), 8, (1, 2, 3, 4), (32, 8), 1).attends == (False, True, False, True)
    assert Levels.of((3, 28, 40), 8, (1, 2, 3), (16,), 1).attends == (False, True, False)
    assert Levels.of((3, 8, 8), 8, (1,), (), 1).attends == (False,)
    assert multipliers_for(64) == (1, 2, 3, 4)
    assert multipliers_for(256) == (1, 1, 2, 2, 4, 4)
    for size in (4, 8, 9, 16, 28, 32, 64, 96, 128, 256):
        coarsest = -(-size // 2 ** (len(multipliers_for(size)) - 1))
        assert 4 <= coarsest <= 12


def gradients(network: nn.Module, x: Tensor) -> list[Tensor]:
    torch.manual_seed(0)
    loss = network(x, torch.tensor([3.0, 700.0])).square().mean()
    return list(torch.autograd.grad(loss, [p for p in network.parameters() if p.requires_grad]))


def test_checkpointing_changes_no_gradient() -> None:
    """With dropout, whose masks must be the same in both passes."""
    arguments = {"width": 16, "multipliers": (1, 2), "blocks": 1, "attention": (8,), "dropout": 0.3}
    plain = shaken(ADM((1, 8, 8), **arguments)).train()
    saving = ADM((1, 8, 8), **arguments, checkpointing=True).train()
    saving.load_state_dict(plain.state_dict())
    x = torch.randn(2, 1, 8, 8)
    torch.testing.assert_close(gradients(saving, x), gradients(plain, x))


@pytest.mark.parametrize(("shape", "out"), [((1, 8, 8), 0), ((3, 9, 13), 6), ((4, 17, 10), 0)], ids=str)
def test_any_size_and_a_batch_that_is_free(shape: tuple[int, int, int], out: int) -> None:
    network = shaken(ADM(shape, classes=2, out_channels=out, width=16, multipliers=(1, 2, 2), blocks=1))
    x, label = torch.randn(3, *shape), torch.tensor([0, 1, 2])
    with torch.no_grad():
        known = network(x, torch.tensor([5.0]), label)
        assert known.shape == (3, out or shape[0], *shape[1:])
        torch.testing.assert_close(network(x, torch.full((3,), 5.0), label), known)
        many = x.contiguous(memory_format=torch.channels_last)
        torch.testing.assert_close(network(many, torch.tensor([5.0]), label), known, rtol=1e-4, atol=1e-5)
        unlabelled = network(x[2:], torch.tensor([5.0]))
        torch.testing.assert_close(unlabelled, known[2:], rtol=1e-4, atol=1e-5)
    assert not torch.allclose(network(x[:1], torch.tensor([5.0]), label[1:2]), known[:1], atol=1e-3)

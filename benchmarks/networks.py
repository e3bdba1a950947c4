"""Our networks beside the papers' own code: the same weights and inputs must give the same outputs.

    python benchmarks/networks.py [--edm FOLDER] [--edm2 FOLDER] [--guided-diffusion FOLDER] [--dit FOLDER]

The folders are checkouts of github.com/NVlabs/edm, NVlabs/edm2, openai/guided-diffusion and
facebookresearch/DiT; what is not given is left out. Each network is built small with all of its parts; the
reference's weights are scrambled (zeros would hide errors) and copied to ours, which were not-a-number
before. A difference is relative where a value is above 1, otherwise absolute. Exits with 1 where one is
above 1e-5. Parameters are ours; (+n) counts those that the reference lacks: a vector for "no label".
"""

from __future__ import annotations

import argparse
import importlib
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import nn

from diptych.networks.adm import ADM
from diptych.networks.dit import DiT
from diptych.networks.edm2 import EDM2UNet
from diptych.networks.ncsnpp import DDPMPP, NCSNPP, NCSNpp
from diptych.networks.noisy_classifier import ADMClassifier
from networks_pieces import (
    CLASSES,
    LOGS,
    SIZE,
    TIMES,
    Row,
    bound,
    inputs,
    one_hot,
    profiles,
    row,
    trained,
    uncertainty,
)
from networks_weights import (
    blank,
    checkout,
    fill,
    load,
    load_dit,
    load_edm,
    load_edm2,
    load_guided,
    load_pool,
    load_song,
    scrambled,
    vision_transformer,
)
from paired import finish, table

LIMIT = 1e-5


def guided() -> Iterator[Row]:
    """ADM's U-Net with both orders of attention, its classifier, and the variational bound."""
    unet = importlib.import_module("guided_diffusion.unet")
    usual: dict[str, Any] = {"num_head_channels": 64, "use_scale_shift_norm": True, "resblock_updown": True}
    shape, form = (3, SIZE, SIZE), {"width": 128, "multipliers": (1, 2, 2), "blocks": 1, "attention": (16, 8)}
    for new in (True, False):
        theirs = unet.UNetModel(
            SIZE,
            3,
            128,
            6,
            1,
            (2, 4),
            channel_mult=(1, 2, 2),
            num_classes=CLASSES,
            use_new_attention_order=new,
            **usual,
        )
        ours = blank(ADM(shape, classes=CLASSES, out_channels=6, dropout=0.0, **form))  # type: ignore[arg-type]
        load_guided(ours, scrambled(theirs))
        load((ours.head[0], theirs.out[0]), (ours.head[2], theirs.out[2]))
        fill(ours.label.table.weight[:CLASSES], theirs.label_emb.weight)
        x, t, y = (part[:2] for part in inputs(TIMES))
        what = f"{'new' if new else 'legacy'} order of attention, 5 classes, learned variances"
        yield row(ours, theirs, "guided-diffusion UNetModel", what, ours(x, t, y), theirs(x, t, y))
    theirs = unet.EncoderUNetModel(
        SIZE, 3, 128, 7, 1, (2, 4), channel_mult=(1, 2, 2), pool="attention", **usual
    )
    ours = blank(ADMClassifier(shape, classes=7, **form))  # type: ignore[arg-type]
    load_guided(ours, scrambled(theirs))
    load((ours.norm, theirs.out[0]))
    load_pool(ours.pool, theirs.out[2])
    x, t, _ = inputs(TIMES)
    what = "attention pooling, 7 classes"
    yield row(ours, theirs, "guided-diffusion EncoderUNetModel", what, ours(x, t), theirs(x, t))
    yield from (bound(schedule) for schedule in ("linear", "cosine"))


def edm() -> Iterator[Row]:
    """ADM and the three forms of SongUNet as EDM has them."""
    networks = importlib.import_module("training.networks")
    common: dict[str, Any] = {"label_dim": CLASSES, "num_blocks": 2, "dropout": 0}
    theirs = networks.DhariwalUNet(
        SIZE, 3, 6, model_channels=64, channel_mult=[1, 2, 3], attn_resolutions=[16, 8], **common
    )
    form: dict[str, Any] = {"classes": CLASSES, "blocks": 2, "dropout": 0.0}
    shape = 3, SIZE, SIZE
    ours = blank(ADM(shape, out_channels=6, width=64, multipliers=(1, 2, 3), attention=(16, 8), **form))
    load_edm(ours, scrambled(theirs))
    load((ours.head[0], theirs.out_norm), (ours.head[2], theirs.out_conv))
    load((ours.time[1], theirs.map_layer0), (ours.time[3], theirs.map_layer1))
    fill(ours.label.table.weight, nn.functional.pad(theirs.map_label.weight.T, (0, 0, 0, 1)))
    x, t, y = inputs(TIMES)
    what = "two blocks a level, 5 classes and none"
    yield row(ours, theirs, "EDM DhariwalUNet", what, ours(x, t, y), theirs(x, t, one_hot(y)))
    standard = {"embedding_type": "positional", "channel_mult_noise": 1, "encoder_type": "standard"}
    residual = {"embedding_type": "fourier", "channel_mult_noise": 2, "encoder_type": "residual"}
    for name, mine, known, level in (
        ("DDPM++", DDPMPP, {**standard, "resample_filter": [1, 1]}, TIMES),
        ("NCSN++", NCSNPP, {**residual, "resample_filter": [1, 3, 3, 1]}, LOGS),
        (
            "NCSN++, skip decoder",
            {**NCSNPP, "decoder": "skip"},
            {**residual, "resample_filter": [1, 3, 3, 1], "decoder_type": "skip"},
            LOGS,
        ),
    ):
        theirs = networks.SongUNet(
            SIZE, 3, 3, model_channels=32, channel_mult=[1, 2, 2], attn_resolutions=[16], **common, **known
        )
        ours = blank(NCSNpp(shape, width=32, multipliers=(1, 2, 2), **form, **mine))
        load_edm(ours, scrambled(theirs))
        load_song(ours, theirs)
        x, t, y = inputs(level)
        a, b = ours(x, t, y), theirs(x, t, one_hot(y))
        yield row(ours, theirs, "EDM SongUNet", f"{name}, 5 classes and none", a, b)


def edm2_pair(networks: Any, blocks: int) -> tuple[Any, Any]:
    """Our U-Net and EDM2's with the same weights; its gains, which begin as zeros, are 0.7."""
    theirs = networks.UNet(
        16, 3, CLASSES, model_channels=64, channel_mult=[1, 2, 3], num_blocks=blocks, attn_resolutions=[4, 8]
    )
    for name, p in theirs.named_parameters():
        if name.endswith("gain"):
            p.fill_(0.7)
    ours = blank(EDM2UNet((3, 16, 16), classes=CLASSES, multipliers=(1, 2, 3), blocks=blocks))
    load_edm2(ours, theirs)
    return ours, theirs


def edm2() -> Iterator[Row]:
    """EDM2's U-Net at rest and in training, its uncertainty and its averages."""
    networks, averages = (
        importlib.import_module("training.networks_edm2"),
        importlib.import_module("training.phema"),
    )
    ours, theirs = edm2_pair(networks, 2)
    x, t, y = inputs(LOGS, 16)
    a, b = ours(x, t, y), theirs.eval()(x, t, one_hot(y))
    yield row(ours, theirs, "EDM2 UNet", "two blocks a level, 5 classes and none", a, b)
    ours, theirs = edm2_pair(networks, 1)
    losses = [trained(ours, one_hot=False), trained(theirs.train(), one_hot=True)]
    yield row(ours, theirs, "EDM2 UNet", "losses of 12 steps of Adam on weights of unit size", *losses)
    yield uncertainty(networks)
    yield profiles(averages)


def dit() -> Iterator[Row]:
    """DiT with its learned variances; with timm's blocks where timm is installed."""
    real = vision_transformer()
    theirs = importlib.import_module("models").DiT(
        input_size=12, hidden_size=128, depth=3, num_heads=2, in_channels=3, num_classes=CLASSES
    )
    positions = theirs.pos_embed.clone()
    scrambled(theirs).pos_embed.copy_(positions)  # type: ignore[operator]
    ours = blank(DiT((3, 12, 12), classes=CLASSES, width=128, depth=3, out_channels=6))
    load_dit(ours, theirs)
    x, t, y = inputs(TIMES, 12)
    name = "DiT" if real else "DiT, written-out attention for timm's"
    what = "12x12, patches of 2, 2 heads, learned variances, 5 classes and none"
    yield row(ours, theirs, name, what, ours(x, t, y), theirs(x, t, y))


REFERENCES: dict[str, Callable[[], Iterator[Row]]] = {
    "guided-diffusion": guided,
    "edm": edm,
    "edm2": edm2,
    "dit": dit,
}


@torch.no_grad()
def main() -> None:
    """Compares what checkouts there are, and prints one Markdown table."""
    flags = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in REFERENCES:
        flags.add_argument(f"--{name}", default="", metavar="FOLDER", help=f"a checkout of {name}")
    flags.add_argument("--threads", type=int, default=1)
    flags.add_argument("--out", type=Path, help="also write the numbers as JSON")
    args = flags.parse_args()
    torch.set_num_threads(args.threads)
    rows: list[Row] = []
    for name, compare in REFERENCES.items():
        if folder := getattr(args, name.replace("-", "_")):
            torch.manual_seed(0)
            with checkout(folder):
                rows += compare()
        else:
            print(f"left out: what --{name} would be compared with")
    print()
    head = ["network", "reference", "configuration", "largest difference", "parameters"]
    table(
        head, [[r.network, r.reference, r.configuration, f"{r.difference:.1e}", parameters(r)] for r in rows]
    )
    finish({"limit": LIMIT, "rows": [asdict(r) for r in rows]}, args.out)
    # not-a-number is not within the limit either
    if far := [r for r in rows if not r.difference <= LIMIT]:
        sys.exit(f"{len(far)} of {len(rows)} are more than {LIMIT:g} apart")


def parameters(row: Row) -> str:
    """How many, and how many more than the reference has."""
    return (f"{row.parameters:,}" if row.parameters else "") + (f" ({row.more:+,})" if row.more else "")


if __name__ == "__main__":
    main()

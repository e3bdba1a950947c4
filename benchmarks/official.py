"""Converted weights beside the official networks, on pickles that the official code writes here.

    python benchmarks/official.py [--stylegan2-ada FOLDER] [--stylegan3 FOLDER] [--r3gan FOLDER]

Each FOLDER is a checkout (github.com/NVlabs/stylegan2-ada-pytorch, NVlabs/stylegan3, brownvc/R3GAN), whose
code runs in a process of its own: small networks with random weights are pickled as its training does, and
asked for images in float32. Ours reads the pickles, runs nothing of them, and draws from the same latents.
"""

from __future__ import annotations

import argparse
import copy
import pickle
import subprocess
import sys
import tempfile
import types
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from diptych.convert.official import convert
from diptych.model import Condition
from paired import finish, table

Drawn = dict[str, Tensor]
Made = tuple[nn.Module, nn.Module, Callable[[nn.Module, nn.Module, Tensor, Tensor], Drawn]]
ASKED: dict[str, dict[str, Any]] = {
    "psi 1": {},
    "psi 0.7": {"truncation": 0.7},
    "psi 0.7, cutoff 3": {"truncation": 0.7, "cutoff": 3},
    "no noise": {"noise": "none"},
}


def stylegan_images(generator: nn.Module, critic: nn.Module, z: Tensor, c: Tensor) -> Drawn:
    """What the official network makes of latents, and the critic's logits."""
    found = {
        name: generator(
            z,
            c,
            truncation_psi=options.get("truncation", 1),
            truncation_cutoff=options.get("cutoff"),
            noise_mode=options.get("noise", "const"),
            force_fp32=True,
        )
        for name, options in ASKED.items()
    }
    return {**found, "critic": critic(found["psi 1"], c, force_fp32=True).flatten()}


def stylegan2(classes: int, size: int, channels: int, architecture: str, half: int = 0) -> Made:
    """One of stylegan2-ada-pytorch; half: how many of its layers are trained in half precision."""
    from training.networks import Discriminator, Generator

    sizes: dict[str, Any] = {"channel_base": 1024, "channel_max": 64, "num_fp16_res": half}
    sizes |= {"conv_clamp": 256 if half else None}
    image = {"c_dim": classes, "img_resolution": size, "img_channels": channels}
    layers = {"architecture": architecture, **sizes}
    generator = Generator(32, w_dim=48, mapping_kwargs={"num_layers": 2}, synthesis_kwargs=layers, **image)
    return (
        generator,
        Discriminator(epilogue_kwargs={"mbstd_group_size": 4}, **image, **sizes),
        stylegan_images,
    )


def stylegan3(classes: int, size: int, rotations: bool = False) -> Made:
    """One of stylegan3, with the critic of its repository."""
    from training.networks_stylegan2 import Discriminator
    from training.networks_stylegan3 import Generator

    image = {"c_dim": classes, "img_resolution": size, "img_channels": 3}
    kind = {"conv_kernel": 1, "use_radial_filters": True} if rotations else {}
    sizes = (
        {"channel_base": 2048, "channel_max": 64} if rotations else {"channel_base": 1024, "channel_max": 32}
    )
    generator = Generator(32, w_dim=48, mapping_kwargs={"num_layers": 2}, **image, **sizes, **kind)
    critic = Discriminator(
        channel_base=1024, channel_max=64, epilogue_kwargs={"mbstd_group_size": 4}, **image
    )
    return generator, critic, stylegan_images


def r3gan(classes: int, size: int, widths: list[int], group: int, blocks: int) -> Made:
    """One of R3GAN."""
    from training.networks import Discriminator, Generator

    def stages(order: list[int]) -> dict[str, Any]:
        return {
            "WidthPerStage": order,
            "CardinalityPerStage": [2 * w // group for w in order],
            "BlocksPerStage": [blocks] * len(order),
            "ExpansionFactor": 2,
            "FP16Stages": [],
            "c_dim": classes,
            "img_resolution": size,
        }

    told = [{"ConditionEmbeddingDimension": n} for n in (16, widths[0])] if classes else [{}, {}]
    generator = Generator(NoiseDimension=32, **stages(widths), **told[0])

    def images(generator: nn.Module, critic: nn.Module, z: Tensor, c: Tensor) -> Drawn:
        image = generator(z, c if classes else None)
        return {"psi 1": image, "critic": critic(image, c if classes else None)}

    return generator, Discriminator(**stages(widths[::-1]), **told[1]), images


CASES: dict[str, dict[str, Callable[[], Made]]] = {
    "stylegan2-ada": {
        "32 px, skip": lambda: stylegan2(0, 32, 3, "skip"),
        "64 px, skip, 5 classes": lambda: stylegan2(5, 64, 3, "skip"),
        "32 px, orig, 3 classes": lambda: stylegan2(3, 32, 3, "orig"),
        "16 px, resnet, grey": lambda: stylegan2(0, 16, 1, "resnet"),
        "128 px, skip, trained in half precision": lambda: stylegan2(0, 128, 3, "skip", half=4),
    },
    "stylegan3": {
        "t, 64 px": lambda: stylegan3(0, 64),
        "t, 32 px, 4 classes": lambda: stylegan3(4, 32),
        "t, 256 px": lambda: stylegan3(0, 256),
        "r, 64 px": lambda: stylegan3(0, 64, rotations=True),
    },
    "r3gan": {
        "16 px": lambda: r3gan(0, 16, [64, 48, 32], 16, 1),
        "32 px, 5 classes": lambda: r3gan(5, 32, [64, 64, 48, 32], 16, 2),
        "64 px": lambda: r3gan(0, 64, [96, 64, 64, 32, 16], 8, 1),
    },
}


def loud(network: nn.Module) -> None:
    """Moves what is initialised to nothing, so that a mistake in it would show."""
    for name, parameter in network.named_parameters():
        if "bias" in name.lower() or "noise_strength" in name:
            parameter.data.add_(0.2 * torch.randn_like(parameter))
        if "LinearLayer3" in name:  # R3GAN's blocks begin as the identity
            parameter.data.normal_(0, 0.3 / parameter[0].numel() ** 0.5)
    for name, buffer in network.named_buffers():
        if name.endswith("w_avg"):
            buffer.copy_(torch.randn_like(buffer) * 0.3)
        if name.endswith("magnitude_ema"):
            buffer.copy_(torch.rand_like(buffer) + 0.5)


def write(kind: str, checkout: str, folder: Path) -> None:
    """Runs the official code: a pickle and its images for each case."""
    warnings.simplefilter("ignore")
    sys.path.insert(0, checkout)
    for missing in ("distutils.util", "distutils.version", "pkg_resources", "requests", "psutil", "click"):
        stand_in(missing)
    torch.set_num_threads(1)
    for index, make in enumerate(CASES[kind].values()):
        torch.manual_seed(index)
        generator, critic, images = make()
        loud(generator)
        loud(critic)
        nets = [copy.deepcopy(net).eval().requires_grad_(False) for net in (generator, critic)]
        content = {"G": nets[0], "D": nets[1], "G_ema": nets[0], "training_set_kwargs": {}}
        (folder / f"{index}.pkl").write_bytes(pickle.dumps(content))
        classes = int(getattr(generator, "c_dim", 0))
        c = torch.eye(classes)[torch.arange(4) % classes] if classes else torch.zeros(4, 0)
        z = torch.randn(4, 32)
        with torch.no_grad():
            torch.save({"z": z, "c": c, **images(nets[0], nets[1], z, c)}, folder / f"{index}.pt")


def stand_in(name: str) -> None:
    """An empty module for one that the official code imports and that this does not need."""
    try:
        __import__(name)
    except ImportError:
        module: Any = types.ModuleType(name)
        module.strtobool, module.LooseVersion = bool, str
        module.parse_version = lambda text: tuple(int(part) for part in text.split("+")[0].split(".")[:2])
        sys.modules.setdefault(name.partition(".")[0], module)
        sys.modules[name] = module


def differences(folder: Path, index: int) -> dict[str, float]:
    """The largest of each kind, and how far the official images reach."""
    converted, theirs = convert(folder / f"{index}.pkl"), torch.load(folder / f"{index}.pt")
    model = converted.model
    label = theirs["c"].argmax(1) if theirs["c"].shape[1] else None
    found = {"reach": float(theirs["psi 1"].abs().max())}
    network: Any = model.network
    with torch.inference_mode():
        for name in ASKED.keys() & theirs.keys():
            asked = model.using(**ASKED[name])
            latents = theirs["z"][:, None]
            if hasattr(asked, "truncated"):
                latents = asked.truncated(network.mapping(theirs["z"], label))
            image = asked.render(latents, Condition(label=label))
            found[name] = float((image - theirs[name]).abs().max())
        if converted.critic is not None:
            found["critic"] = float((converted.critic(theirs["psi 1"], label) - theirs["critic"]).abs().max())
    return found


def main() -> None:
    """Measures and prints a Markdown table."""
    flags = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    for kind in CASES:
        flags.add_argument(f"--{kind}", metavar="FOLDER")
    flags.add_argument("--write", nargs=3, help=argparse.SUPPRESS)
    flags.add_argument("--out", type=Path, help="also write the numbers as JSON")
    args = flags.parse_args()
    if args.write:
        write(args.write[0], args.write[1], Path(args.write[2]))
        return
    torch.set_num_threads(1)
    results: dict[str, Any] = {}
    rows = []
    columns = [*ASKED, "critic"]
    for kind, cases in CASES.items():
        if not (checkout := getattr(args, kind.replace("-", "_"))):
            continue
        with tempfile.TemporaryDirectory() as folder:
            subprocess.run([sys.executable, __file__, "--write", kind, checkout, folder], check=True)
            for index, case in enumerate(cases):
                found = results[f"{kind}, {case}"] = differences(Path(folder), index)
                cells = [f"{found[name]:.1e}" if name in found else "" for name in columns]
                rows.append([f"{kind}, {case}", *cells, f"{found['reach']:.1f}"])
    table(["", *columns, "images reach"], rows)
    finish(results, args.out)


if __name__ == "__main__":
    main()

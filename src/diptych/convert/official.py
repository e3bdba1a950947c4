"""Official pickles of GANs as run directories: what was read, what became of it, where it came from."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import torch
from torch import nn

import diptych
from diptych.adversarial.latent import GeneratorModel
from diptych.convert import r3gan, stylegan
from diptych.convert.contents import Contents, Network, read_networks
from diptych.errors import RunError
from diptych.runs import SOURCE, Run, save_model
from diptych.saveable import to_tree
from diptych.system.files import write_json
from diptych.training.likeness import CRITIC
from diptych.unpickler import ConvertError

M = TypeVar("M", bound=nn.Module)
PREFERRED = ("G_ema", "Gs", "G")


@dataclass(frozen=True)
class Family:
    """Networks that were built by the same code."""

    name: str
    licence: str
    recognised: Callable[[Network], bool]
    model: Callable[[Network], GeneratorModel]
    critic: Callable[[Network], nn.Module]


NVIDIA = "official weights by NVIDIA are for research and evaluation only, not for commercial use"
UNSAID = "R3GAN's code came without a licence; ask its authors before you ship its weights"
FAMILIES = (
    Family("StyleGAN3", NVIDIA, stylegan.is_stylegan3, stylegan.stylegan3, stylegan.critic),
    Family("StyleGAN2", NVIDIA, stylegan.is_stylegan2, stylegan.stylegan2, stylegan.critic),
    Family("R3GAN", UNSAID, r3gan.recognised, r3gan.model, r3gan.critic),
)


@dataclass(frozen=True)
class Converted:
    """A file's networks as ours. `trained` and `critic` serve a training that begins from them."""

    family: Family
    chosen: str  # the file's own name of the network that became the model
    source: Path
    sha256: str
    model: GeneratorModel
    trained: GeneratorModel | None  # the generator in training, not averaged
    critic: nn.Module | None
    notes: tuple[str, ...]

    @property
    def parameters(self) -> int:
        """Of the generator."""
        return sum(parameter.numel() for parameter in self.model.parameters())

    def describe(self) -> dict[str, object]:
        """What is written beside the model."""
        return {
            "file": self.source.name,
            "sha256": self.sha256,
            "network": self.chosen,
            "family": self.family.name,
            "licence": self.family.licence,
            "image_shape": list(self.model.image_shape),
            "classes": self.model.classes,
            "parameters": self.parameters,
            "critic": self.critic is not None,
            "notes": list(self.notes),
            "versions": {"diptych": diptych.__version__, "torch": torch.__version__},
        }


def convert(path: str | Path) -> Converted:
    """The networks of an official pickle as ours, without running anything of it.

    Raises ConvertError that names the file and what was found.
    """
    path = Path(path)
    contents = read_networks(path)
    try:
        return translated(path, contents)
    except ConvertError as error:
        raise ConvertError(f"{path} was not converted: {error.message}", error.hint) from error


def translated(path: Path, contents: Contents) -> Converted:
    """The networks of what was read."""
    chosen = next((name for name in PREFERRED if name in contents.networks), None)
    if chosen is None:
        names = ", ".join(sorted(contents.networks)[:5])
        raise ConvertError(
            f"it holds no generator: its networks are {names[:100]}"
            if names
            else "it holds no generator, nor another network",
            f"a generator is called {', '.join(PREFERRED)}; official networks come as .pkl files with one",
        )
    family = family_of(contents.networks[chosen])
    model = family.model(contents.networks[chosen])
    notes = list[str]()
    trained = attempt(family.model, contents, "G", notes) if chosen != "G" else model
    critic = attempt(family.critic, contents, "D", notes)
    return Converted(family, chosen, path, contents.sha256, model, trained, critic, tuple(notes))


def family_of(network: Network) -> Family:
    """Whose code built it. Raises ConvertError where none of those that are known here did."""
    for family in FAMILIES:
        if family.recognised(network):
            return family
    known = ", ".join(family.name for family in FAMILIES)
    raise ConvertError(
        f"its generator ({network.kind[:60]}) is of no family that is known here", f"known: {known}"
    )


def attempt(translate: Callable[[Network], M], contents: Contents, name: str, notes: list[str]) -> M | None:
    """A network that the model can do without; why it is left out goes to the notes."""
    if name not in contents.networks:
        return None
    try:
        return translate(contents.networks[name])
    except ConvertError as error:
        notes.append(f"{name} was left out: {error.message}")
        return None


def save(converted: Converted, out: str | Path, *, force: bool = False) -> None:
    """Writes the model, what training can begin from, and source.json, which says where it is from.

    Raises RunError where `out` is not empty, unless `force` and it was converted before.
    """
    out = Path(out)
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        if not out.is_dir() or not (out / SOURCE).is_file():
            raise RunError(f"{out} is not empty, and was not made by convert", "choose another directory")
        if not force:
            raise RunError(f"{out} holds weights that were converted before", "choose another, or --force")
    save_model(converted.model, out)
    (out / CRITIC).unlink(missing_ok=True)
    state = {
        f"model.{key}": tensor for key, tensor in (converted.trained or converted.model).state_dict().items()
    }
    if converted.critic is not None:
        state |= {f"critic.{key}": tensor for key, tensor in converted.critic.state_dict().items()}
        write_json(out / CRITIC, to_tree(converted.critic))  # what shapes do not tell of it
    Run(out).checkpoints.write(0, {"method": state, "average": converted.model.state_dict()}, keep=1)
    write_json(out / SOURCE, converted.describe())

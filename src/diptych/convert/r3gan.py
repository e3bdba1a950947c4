"""R3GAN's official networks (Huang et al., 2025, arXiv:2501.05441) as ours."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from diptych.adversarial.latent import LatentModel
from diptych.convert.contents import Network
from diptych.convert.parts import Parts, fitted
from diptych.networks.r3gan import TAPS, R3Critic, R3Generator
from diptych.unpickler import ConvertError

STAGES = r"Model\.MainLayers\.(\d+)\."
BLOCK = r"{}\.\d+\.LinearLayer1\.Layer\.weight"
EMBEDDING = "Model.EmbeddingLayer.weight"
KERNELS = r"Model\.MainLayers\.\d+\.Layers\.\d+\.Resampler\.Kernel"
LAYERS = {
    "LinearLayer1.Layer.weight": "enter.weight",
    "LinearLayer2.Layer.weight": "spatial.weight",
    "LinearLayer3.Layer.weight": "leave.weight",
    "NonLinearity1.Bias": "enter.bias",
    "NonLinearity2.Bias": "spatial.bias",
}
BASE = 4  # pixels at the smallest size
MOST_STAGES = 10  # 2048 pixels


def recognised(network: Network) -> bool:
    """Whether a network is built like R3GAN's."""
    return any(name.startswith("Model.MainLayers.0.") for name in network.tensors)


@dataclass
class Reading:
    """What is found out about one network on the way through its blocks."""

    parts: Parts
    tensors: dict[str, Tensor] = field(default_factory=dict)
    width: list[int] = field(default_factory=list)
    blocks: list[int] = field(default_factory=list)
    group: list[int] = field(default_factory=list)
    expansion: set[float] = field(default_factory=set)

    def move(self, theirs: str, ours: str) -> Tensor:
        """One tensor under its new name."""
        self.tensors[ours] = self.parts.take(theirs)
        return self.tensors[ours]

    def stage(self, place: str, ours: str, first: int, shift: int) -> int:
        """All blocks of one size: theirs are numbered from `first` on, ours from first + shift."""
        blocks = sum(bool(re.fullmatch(BLOCK.format(re.escape(place)), name)) for name in self.parts.left)
        c = inner = group = 0
        for j in range(first, first + blocks):
            for theirs, name in LAYERS.items():
                self.move(f"{place}.{j}.{theirs}", f"{ours}.{j + shift}.{name}")
            inner, c = self.shape(f"{ours}.{j + shift}.enter.weight")[:2]
            group = self.shape(f"{ours}.{j + shift}.spatial.weight")[1]
        if not blocks or not c or not group:
            raise ConvertError(f"its network has no blocks in {place}")
        self.width.append(c)
        self.blocks.append(blocks)
        self.group.append(group)
        self.expansion.add(inner / c)
        return blocks

    def shape(self, ours: str) -> tuple[int, ...]:
        """A convolution's shape."""
        if self.tensors[ours].ndim != 4:
            raise ConvertError(f"its network has a convolution of {self.tensors[ours].ndim} dimensions")
        return tuple(self.tensors[ours].shape)

    def change(self, place: str, ours: str) -> None:
        """The convolution to another number of channels, where there is one."""
        if f"{place}.LinearLayer.Layer.weight" in self.parts:
            self.move(f"{place}.LinearLayer.Layer.weight", f"{ours}.change.weight")

    def label(self) -> tuple[int, int]:
        """How many classes there are, and the length of a label's vector; 0 for none."""
        if EMBEDDING not in self.parts:
            return 0, 0
        embedding, classes = self.parts.shape(EMBEDDING, 2)
        self.tensors["label.table.weight"] = self.parts.take(EMBEDDING).T
        return classes, embedding

    def arguments(self, colours: int, classes: int, embedding: int, from_base: bool) -> dict[str, Any]:
        """Those of our networks that were found out."""
        self.parts.check_filters(KERNELS, list(TAPS))
        self.parts.finish()
        if len(self.expansion) != 1 or not (expansion := self.expansion.pop()).is_integer():
            raise ConvertError("its network widens its blocks by factors that differ")
        turn = slice(None) if from_base else slice(None, None, -1)
        side = BASE * 2 ** (len(self.width) - 1)
        return {
            "image_shape": (colours, side, side),
            "classes": classes,
            "width": tuple(self.width[turn]),
            "blocks": tuple(self.blocks[turn]),
            "group": tuple(self.group[turn]),
            "expansion": int(expansion),
            "embedding": embedding,
        }


def stages_in(parts: Parts) -> int:
    """How many sizes there are. Raises ConvertError where they are none or too many."""
    stages = parts.numbers(STAGES)
    if not 2 <= stages <= MOST_STAGES:
        raise ConvertError(f"its network has {stages} sizes, not 2 to {MOST_STAGES}")
    return stages


def model(network: Network) -> LatentModel:
    """The generator, with normal latents. Raises ConvertError where it is not R3GAN's."""
    reading = Reading(Parts(network))
    classes, embedding = reading.label()
    start = "Model.MainLayers.0.Layers"
    reading.move(f"{start}.0.Basis", "basis")
    told = reading.parts.shape(f"{start}.0.LinearLayer.weight", 2)[1]
    reading.move(f"{start}.0.LinearLayer.weight", "project.weight")
    colours = reading.move("Model.AggregationLayer.Layer.weight", "to_image.weight").shape[0]
    for i in range(stages_in(reading.parts)):
        place = f"Model.MainLayers.{i}.Layers"
        if i:
            reading.change(f"{place}.0", f"stages.{i}.0")
        reading.stage(place, f"stages.{i}", first=1, shift=0 if i else -1)
    given = reading.arguments(colours, classes, embedding, from_base=True)
    if told <= embedding:
        raise ConvertError("its network has no latents")
    return LatentModel(fitted(lambda: R3Generator(**given, latent=told - embedding), reading.tensors)).eval()


def critic(network: Network) -> R3Critic:
    """The critic. Raises ConvertError where it is not R3GAN's."""
    reading = Reading(Parts(network))
    classes, embedding = reading.label()
    if embedding:  # ours divides by this root when it is called
        reading.tensors["label.table.weight"] = reading.tensors["label.table.weight"] * math.sqrt(embedding)
    colours = reading.parts.shape("Model.ExtractionLayer.Layer.weight", 4)[1]
    reading.move("Model.ExtractionLayer.Layer.weight", "from_image.weight")
    stages = stages_in(reading.parts)
    for i in range(stages):
        place = f"Model.MainLayers.{i}.Layers"
        blocks = reading.stage(place, f"stages.{i}", first=0, shift=0)
        if i < stages - 1:
            reading.change(f"{place}.{blocks}", f"stages.{i}.{blocks}")
        else:
            reading.move(f"{place}.{blocks}.Basis.weight", "basis.weight")
            reading.move(f"{place}.{blocks}.LinearLayer.weight", "project.weight")
    given = reading.arguments(colours, classes, embedding, from_base=False)
    return fitted(lambda: R3Critic(**given), reading.tensors)

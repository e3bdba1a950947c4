"""Pipeline: a diffusers pipeline directory seen as a Model (diffusers: von Platen et al., 2022)."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from diptych.errors import NotMeasurable, RunError, WrongUse
from diptych.model import Condition, Model, Noise, stream
from diptych.pretrained import Pretrained
from diptych.saveable import saveable
from diptych.system.device import pick
from diptych.system.files import expanded
from diptych.system.privacy import at_home

DIAL = (1, 2, 4, 10, 20, 50)  # steps worth measuring, as far as the pipeline's own number of them
_SEED_BITS = 62


@saveable
@dataclass(frozen=True)
class PipelineOptions:
    """How a pipeline is asked for images."""

    steps: int = 0  # 0: as many as the pipeline takes by default
    guidance: float = 0.0  # 0: the pipeline's default; 1: none
    prompt: str = ""  # for text-to-image pipelines, where an image has no caption of its own

    def __post_init__(self) -> None:
        if self.steps < 0 or self.guidance < 0:
            raise WrongUse(
                f"steps {self.steps} and guidance {self.guidance:g} cannot be negative",
                "0 takes the pipeline's default",
            )


def open_pipeline(path: str | Path, device: torch.device | str = "auto") -> Pipeline:
    """The pipeline in a directory with a model_index.json, in float32; `.half()` changes that.

    Raises RunError where it cannot be trusted or read.
    """
    return Pipeline(Pretrained(at_home(str(expanded(path).resolve())))).to(pick(str(device)))


@saveable
class Pipeline(Model):
    """A pipeline that draws images from noise, and from labels or texts where it takes them.

    `parameters()` are those of all its networks: denoiser, decoder (with the encoder that comes with it),
    text encoders. Raises WrongUse for options that the pipeline does not have.
    """

    def __init__(self, weights: Pretrained, options: PipelineOptions = PipelineOptions()) -> None:
        super().__init__()
        self.weights, self.options = weights, options
        self.kind = type(weights.pipe).__name__
        self.takes = inspect.signature(type(weights.pipe).__call__).parameters
        _check(self.kind, self.takes, options)
        self.image_shape = image_shape(weights.pipe)
        self.classes = _classes(weights.pipe) if "class_labels" in self.takes else 0
        self.own_stream = True  # until it is seen to draw from the global one
        self.eval()  # pipelines are never trained here, and a dropout left on would change the images

    @property
    def wants(self) -> frozenset[str]:
        """The Condition fields that it understands: labels, texts, or nothing."""
        found = {"label": self.classes > 0, "text": "prompt" in self.takes}
        return frozenset(name for name, wanted in found.items() if wanted)

    def dial(self) -> Sequence[dict[str, int]]:
        """Quality is a curve over the number of steps, where the pipeline lets them be chosen."""
        if "num_inference_steps" not in self.takes:
            return ({},)
        own = self.takes["num_inference_steps"].default
        most = max(4, own) if isinstance(own, int) else DIAL[-1]
        least = 1 if most == 4 else 4
        return [{"steps": steps} for steps in DIAL if least <= steps <= most]

    def forward(self, noise: Noise, condition: Condition = Condition()) -> Tensor:
        """Images (B, C, H, W) in [-1, 1]. Raises RunError where they are not finite or of another shape."""
        seeds = seeds_of(noise)
        image, alone = self._drawn(seeds, condition) if self.own_stream else (None, False)
        if image is None or (not alone and len(seeds) > 1):
            # a scheduler that is not handed the generators takes the global stream: one image at a time then
            self.own_stream = False
            image = torch.cat([self._drawn([seed], condition[i : i + 1])[0] for i, seed in enumerate(seeds)])
        return image

    def _drawn(self, seeds: Sequence[int], condition: Condition) -> tuple[Tensor, bool]:
        """Images, and whether they depended on their own generators alone."""
        device = self.device
        cuda = [device] if device.type == "cuda" else []
        with torch.random.fork_rng(cuda):
            torch.manual_seed(seeds[0])
            before = _global_states(cuda)
            (image, *_) = self.weights.pipe(**self.asked(seeds, condition))
            alone = all(map(torch.equal, before, _global_states(cuda)))
        value = torch.from_numpy(np.ascontiguousarray(np.asarray(image))).permute(0, 3, 1, 2)
        if tuple(value.shape[1:]) != self.image_shape:
            raise RunError(
                f"{self.kind} draws {tuple(value.shape[1:])} where its configuration says {self.image_shape}"
            )
        if not value.isfinite().all():
            raise RunError(f"{self.kind} draws images that are not finite", "its weights may be damaged")
        return (2 * value.float() - 1).to(device), alone

    def asked(self, seeds: Sequence[int], condition: Condition = Condition()) -> dict[str, Any]:
        """The arguments of the pipeline's call that draws these images, one generator an image."""
        options, n = self.options, len(seeds)
        wanted: dict[str, Any] = {"output_type": "np", "return_dict": False, "generator": generators(seeds)}
        if "prompt" in self.takes:
            wanted["prompt"] = list(condition.text or [options.prompt] * n)
        elif self.classes:
            label = condition.label
            wanted["class_labels"] = (
                [seed % self.classes for seed in seeds] if label is None else label.tolist()
            )
        if "batch_size" in self.takes:
            wanted["batch_size"] = n
        if options.steps:
            wanted["num_inference_steps"] = options.steps
        if options.guidance:
            wanted["guidance_scale"] = options.guidance
        return wanted


def seeds_of(noise: Noise) -> list[int]:
    """One seed an image for the generators that diffusers wants, drawn from the image's own stream.

    Signs are taken, because the last bits of a normal value differ from processor to processor.
    """
    signs = noise.normal(_SEED_BITS).cpu() > 0
    return [int("".join("1" if bit else "0" for bit in row), 2) for row in signs.tolist()]


def generators(seeds: Sequence[int]) -> list[torch.Generator]:
    """One stream an image, on the CPU whatever the device, so that a seed means the same image everywhere."""
    return [stream(seed) for seed in seeds]


def _global_states(cuda: Sequence[torch.device]) -> list[Tensor]:
    return [torch.get_rng_state(), *map(torch.cuda.get_rng_state, cuda)]


def _check(kind: str, takes: Mapping[str, inspect.Parameter], options: PipelineOptions) -> None:
    if "image" in takes or "video" in takes or "output_type" not in takes or "generator" not in takes:
        raise NotMeasurable(
            f"{kind} does not draw images from noise alone",
            "unconditional, class-conditional and text-to-image pipelines can be measured",
        )
    for option, argument in (
        ("steps", "num_inference_steps"),
        ("guidance", "guidance_scale"),
        ("prompt", "prompt"),
    ):
        if getattr(options, option) and argument not in takes:
            raise WrongUse(f"{kind} has no {option}", f"leave --{option} away")


def image_shape(pipe: Any) -> tuple[int, int, int]:
    """(C, H, W) of a pipeline's images at its default size, from its configuration."""
    parts = pipe.components
    core = next((parts[name] for name in ("unet", "transformer") if parts.get(name) is not None), None)
    decoder = next((parts[name] for name in ("vae", "vqvae", "movq") if parts.get(name) is not None), None)
    size = getattr(pipe, "default_sample_size", None) or getattr(
        getattr(core, "config", None), "sample_size", None
    )
    if core is None or size is None:
        raise NotMeasurable(f"{type(pipe).__name__} does not say how large its images are")
    height, width = (size, size) if isinstance(size, int) else size
    if decoder is None:
        return core.config.in_channels, height, width
    scale = getattr(pipe, "vae_scale_factor", None) or 2 ** (len(decoder.config.block_out_channels) - 1)
    return decoder.config.out_channels, height * scale, width * scale


def _classes(pipe: Any) -> int:
    core = pipe.components.get("unet") or pipe.components.get("transformer")
    return next((n for key in ("num_class_embeds", "num_embeds_ada_norm") if (n := core.config.get(key))), 0)

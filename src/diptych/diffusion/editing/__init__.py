"""Editing without training: models that read an image, made of any diffusion model, a file a kind of edit.

Almost every edit is a denoiser around a denoiser, a start and a range of noise levels.
"""

from __future__ import annotations

from diptych.diffusion.editing.edit import Edit, check_guidance, diffusion_of
from diptych.diffusion.editing.inpaint import Inpaint, InpaintOptions
from diptych.diffusion.editing.interpolate import check_heard, interpolate, invert
from diptych.diffusion.editing.operators import (
    Bicubic,
    Blur,
    Grey,
    Masked,
    Operator,
    Pooling,
    Product,
    named_operator,
)
from diptych.diffusion.editing.outpaint import Outpaint
from diptych.diffusion.editing.regions import Regional, Regions, RegionsOptions
from diptych.diffusion.editing.restore import Colour, ColourOptions, Restore, RestoreOptions
from diptych.diffusion.editing.vary import Vary, VaryOptions
from diptych.diffusion.editing.windows import Windows, wide

__all__ = [
    "Bicubic",
    "Blur",
    "Colour",
    "ColourOptions",
    "Edit",
    "Grey",
    "Inpaint",
    "InpaintOptions",
    "Masked",
    "Operator",
    "Outpaint",
    "Pooling",
    "Product",
    "Regional",
    "Regions",
    "RegionsOptions",
    "Restore",
    "RestoreOptions",
    "Vary",
    "VaryOptions",
    "Windows",
    "check_guidance",
    "check_heard",
    "diffusion_of",
    "interpolate",
    "invert",
    "named_operator",
    "wide",
]

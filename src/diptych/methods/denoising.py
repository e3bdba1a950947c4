"""What methods that train a denoiser share: the one phase, the U-Net by size, a run to start from."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence

from diptych.data.images import Images
from diptych.diffusion.denoiser import Denoiser
from diptych.diffusion.model import DiffusionModel, DiffusionOptions
from diptych.errors import WrongUse
from diptych.method import Batch, Clock, Loss, Method, Phase, adam, warmup_cosine
from diptych.networks.unet import UNet
from diptych.runs import load_model


class DenoiserMethod(Method):
    """Trains one denoiser by one loss; its model is that denoiser behind a sampler."""

    def __init__(self, denoiser: Denoiser, lr: float, options: DiffusionOptions) -> None:
        super().__init__()
        self.model: DiffusionModel = DiffusionModel(denoiser, options)
        self.lr = lr

    @property
    def denoiser(self) -> Denoiser:
        """The network in training, as the model sees it."""
        return self.model.denoiser

    def phases(self) -> Sequence[Phase]:
        """One: the denoiser learns."""
        return [Phase("denoiser", self.loss, adam(self.denoiser, self.lr), lr_scale=warmup_cosine, clip=1.0)]

    @abstractmethod
    def loss(self, batch: Batch, clock: Clock) -> Loss:
        """What the denoiser minimises."""


def unet_for(data: Images, *, width: int, blocks: int, dropout: float) -> UNet:
    """A U-Net whose coarsest level has 4 to 8 pixels, with attention there."""
    shortest = min(data.shape[1:])
    multipliers = (1, *(2 for size in (8, 16, 64, 128, 256) if shortest >= size))
    return UNet(
        data.shape, classes=data.classes, width=width, multipliers=multipliers, blocks=blocks, dropout=dropout
    )


def by_size(data: Images, width: int, blocks: int, lr: float) -> tuple[int, int, float]:
    """Width, blocks and learning rate, those that are 0 chosen by the images' size."""
    small = min(data.shape[1:]) <= 16
    width = width or (32 if small else 64)
    return width, blocks or (1 if small else 2), lr or 0.064 / width


def load_denoiser(run: str, data: Images) -> Denoiser:
    """The averaged denoiser of another run, for the same kind of images.

    Raises WrongUse where it does not fit.
    """
    model = load_model(run, "cpu")
    if not isinstance(model, DiffusionModel):
        raise WrongUse(f"teacher {run} has no denoiser", "a teacher is a run of edm or of consistency")
    if (model.image_shape, model.classes) != (data.shape, data.classes):
        raise WrongUse(
            f"teacher {run} makes images {model.image_shape} of {model.classes} classes, "
            f"but the data has {data.shape} and {data.classes}"
        )
    return model.denoiser.requires_grad_(True)

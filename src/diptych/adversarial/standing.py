"""Standing statistics: what batch norm is told when a generator draws one image at a time (BigGAN, Brock et
al., 2019, arXiv:1809.11096, appendix A)."""

from __future__ import annotations

import torch
from torch import nn

from diptych.adversarial.latent import GeneratorModel
from diptych.model import Condition, Noise

FIRST = 2**40  # seeds that nobody samples with


@torch.no_grad()
def standing_statistics(model: GeneratorModel, batches: int = 0, size: int = 64) -> None:
    """Makes batch norms remember means and variances over so many batches of the model's own images.

    batches: 0: 16 for images of up to 64 pixels, 4 above: a large image has as many pixels to count.
    Without it averaged weights meet the statistics of other weights. Does nothing where there are none.
    """
    norms = [m for m in model.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    if not norms:
        return
    batches = batches or (16 if max(model.image_shape[1:]) <= 64 else 4)
    device = next(model.parameters()).device
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # a plain mean over the batches
        norm.train()
    for start in range(FIRST, FIRST + batches * size, size):
        seeds = range(start, start + size)
        label = model.labels_for(seeds)
        model(Noise(seeds, device), Condition(label=label).to(device))
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
        norm.eval()

"""Standing statistics: what batch norm is told when a generator draws one image at a time (BigGAN, Brock et
al., 2019, arXiv:1809.11096, appendix), once for each threshold where a network's norms follow it."""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from diptych.model import Condition, Noise
from diptych.saveable import rebuilt

if TYPE_CHECKING:
    from diptych.adversarial.latent import GeneratorModel

FIRST = 2**40  # seeds that nobody samples with
Weights = tuple[tuple[int, int], ...]


class Standings:
    """The networks of models that `using` made of each other: one memory of weights, and for each threshold
    the statistics that batch norms meet there, where the network says that its `norms_follow`.

    BigGAN's published generators keep statistics for each of 51 thresholds (Brock et al., 2019,
    arXiv:1809.11096, appendix). Elsewhere they are those of all latents: norms that divide by what narrower
    latents leave would bring diversity back, all of it behind layers without biases. Those of a threshold are
    computed when it is first asked for, from seeds that are always the same, and forgotten when weights
    change. A copy begins empty: its weights may change alone.
    """

    def __init__(self) -> None:
        self.kept: dict[tuple[Weights, float], nn.Module] = {}  # replaced, never changed: threads read it

    def __reduce__(self) -> tuple[type[Standings], tuple[()]]:
        return type(self), ()

    def network(self, model: GeneratorModel, options: Any) -> nn.Module:
        """The model's network with the statistics of these options; its own where no norms follow them."""
        own: nn.Module = model.network
        if not getattr(own, "norms_follow", False) or options.threshold == model.options.threshold:
            return own
        now, before, threshold = weights(own), self.kept, options.threshold
        kept = {key: network for key, network in before.items() if key[0] == now}
        if not before:  # whose statistics came with its weights: a threshold that is taken back means those
            kept[now, model.options.threshold] = own
        if (now, threshold) not in kept:
            kept[now, threshold] = told(model, threshold)
        self.kept = kept
        return kept[now, threshold]


def told(model: GeneratorModel, threshold: float) -> nn.Module:
    """A twin of the model's network with the standing statistics of a threshold; the model is unchanged."""
    options = replace(model.options, truncation=1.0, threshold=threshold)
    with torch.inference_mode(False):  # else nothing could be differentiated through the statistics
        twin = rebuilt(model, network=twin_of(model.network), options=options).eval()
        standing_statistics(twin)
    return twin.network  # type: ignore[no-any-return]


def twin_of(network: nn.Module) -> nn.Module:
    """The same network, whose weights lie in the same memory, with statistics of its own."""
    own = {id(buffer) for norm in batch_norms(network) for buffer in norm.buffers()}
    shared: dict[int, Any] = {id(p): nn.Parameter(p.detach(), p.requires_grad) for p in network.parameters()}
    shared |= {id(buffer): buffer.detach() for buffer in network.buffers() if id(buffer) not in own}
    return copy.deepcopy(network, shared)


def weights(network: nn.Module) -> Weights:
    """What is another once a weight was changed or moved."""
    return tuple((p.data_ptr(), 0 if p.is_inference() else p._version) for p in network.parameters())


def batch_norms(module: nn.Module) -> list[nn.modules.batchnorm._BatchNorm]:
    """All that there are."""
    return [m for m in module.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]


@torch.no_grad()
def standing_statistics(model: GeneratorModel, batches: int = 0, size: int = 64) -> None:
    """Makes batch norms remember means and variances over so many batches of the model's own images.

    batches: 0: 16 for images of up to 64 pixels, 4 above: a large image has as many pixels to count; but at
    least an image for each class. Labels are drawn as often as training met them, any of them in a batch.
    Without it averaged weights meet the statistics of other weights. Does nothing where there are none.
    """
    norms = batch_norms(model)
    if not norms:
        return
    batches = batches or max(16 if max(model.image_shape[1:]) <= 64 else 4, -(-model.classes // size))
    device, luck = model.device, torch.Generator().manual_seed(0)
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # a plain mean over the batches
        norm.train()
    for start in range(FIRST, FIRST + batches * size, size):
        label = labels_met(model, size, luck)
        model(Noise(range(start, start + size), device), Condition(label=label).to(device))
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
        norm.eval()


def labels_met(model: GeneratorModel, n: int, luck: torch.Generator) -> Tensor | None:
    """So many labels at random: classes as often as there were images of them, or all alike where that is
    not known; of continuous labels, those of examples."""
    if model.counts:
        return torch.tensor(model.counts, dtype=torch.float64).multinomial(n, True, generator=luck)
    return model.labels_for(torch.randint(FIRST, (n,), generator=luck).tolist())

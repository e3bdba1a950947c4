"""R3GAN: a relativistic pairing loss with R1 and R2 penalties on a modern residual network
(Huang et al., 2025, arXiv:2501.05441)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from diptych.adversarial.latent import LatentModel
from diptych.adversarial.losses import gradient_penalty, relativistic
from diptych.data.images import Images
from diptych.method import Batch, Clock, Loss, Method, Phase, adam, warmup_cosine
from diptych.networks.r3gan import R3Critic, R3Generator
from diptych.recipe import Recipe, recipe


class R3GAN(Method):
    """A critic and a generator that take turns."""

    def __init__(
        self, generator: R3Generator, critic: R3Critic, *, lr: float = 2e-4, gamma: float = 1.0
    ) -> None:
        super().__init__()
        self.model: LatentModel = LatentModel(generator)
        self.critic, self.latent = critic, generator.latent
        self.lr, self.gamma = lr, gamma

    @property
    def generator(self) -> nn.Module:
        """The network in training, as the model sees it."""
        return self.model.network

    def phases(self) -> Sequence[Phase]:
        """The critic, then the generator."""
        optimize = [adam(net, self.lr, betas=(0.0, 0.99)) for net in (self.critic, self.generator)]
        return [
            Phase("critic", self.critic_loss, optimize[0], lr_scale=lr_scale),
            Phase("generator", self.generator_loss, optimize[1], lr_scale=lr_scale),
        ]

    def critic_loss(self, batch: Batch, clock: Clock) -> Loss:
        """Reals above fakes, with zero-centred gradient penalties on both (equation 3)."""
        real, label = batch.image.detach().requires_grad_(), batch.condition.label
        with torch.no_grad():
            fake = self.fakes(batch)
        fake.requires_grad_()
        real_logit, fake_logit = self.critic(real, label), self.critic(fake, label)
        r1, r2 = gradient_penalty(real_logit, real), gradient_penalty(fake_logit, fake)
        loss = relativistic(real_logit, fake_logit) + self.gamma_at(clock) / 2 * (r1 + r2)
        gap = (real_logit - fake_logit).detach().mean()
        return loss, {"logit_gap": gap, "r1": r1.detach(), "r2": r2.detach()}

    def generator_loss(self, batch: Batch, clock: Clock) -> Loss:
        """Fakes above reals."""
        label = batch.condition.label
        fake_logit = self.critic(self.fakes(batch), label)
        with torch.no_grad():
            real_logit = self.critic(batch.image, label)
        return relativistic(fake_logit, real_logit), {}

    def fakes(self, batch: Batch) -> Tensor:
        """One fake for each real, with its label."""
        z = torch.randn(batch.image.shape[0], self.latent, device=batch.image.device)
        return self.generator(z, batch.condition.label)  # type: ignore[no-any-return]

    def gamma_at(self, clock: Clock) -> float:
        """The penalties' weight falls to a tenth over training, geometrically (appendix D)."""
        return float(self.gamma * 0.1**clock.progress)


def lr_scale(clock: Clock) -> float:
    """Warm-up, then a cosine to a quarter, as in the paper's 2e-4 to 5e-5."""
    return warmup_cosine(clock, final=0.25)


@recipe(width=8, largest=16, blocks=1, batch=8)
def r3gan(
    data: Images,
    *,
    width: int = 0,
    largest: int = 256,
    blocks: int = 0,
    group: int = 16,
    latent: int = 64,
    batch: int = 64,
    gamma: float = 1.0,
    lr: float = 0.0,
) -> Recipe:
    """A modern GAN: one network call an image, the fastest to sample; watch coverage.

    Parameters
    ----------
    width
        Channels at full resolution, doubled at each halving of the size; 0: 32 up to 16 pixels, 64 above.
    largest
        Most channels at any size.
    blocks
        Residual blocks at each size; 0: one for images of up to 16 pixels, two above.
    group
        Channels of each group in the 3x3 convolutions.
    latent
        Length of the latent vector.
    batch
        Images a step.
    gamma
        Weight of the R1 and R2 penalties at the start; it falls to a tenth. More is stabler and blurrier.
    lr
        Peak learning rate of Adam for both networks; 0: 0.032 / width.
    """
    shape, classes, tiny = data.shape, data.classes, min(data.shape[1:]) <= 16
    width, blocks = width or (32 if tiny else 64), blocks or (1 if tiny else 2)
    sizes = {"classes": classes, "width": width, "largest": largest, "blocks": blocks, "group": group}
    generator, critic = R3Generator(shape, latent=latent, **sizes), R3Critic(shape, **sizes)
    return Recipe(R3GAN(generator, critic, lr=lr or 0.032 / width, gamma=gamma), batch=batch)

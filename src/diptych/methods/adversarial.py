"""What GANs share: a critic's turn, a generator's turn, the lazy terms, augmentation, frozen layers."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from functools import partial

import torch
from torch import Tensor, nn

from diptych.adversarial.blur import blurred
from diptych.adversarial.latent import GeneratorModel, LatentModel
from diptych.adversarial.look import Look
from diptych.adversarial.losses import Game, game
from diptych.adversarial.penalties import Penalty, checked_weight
from diptych.adversarial.regularisers import Regulariser
from diptych.adversarial.standing import standing_statistics
from diptych.data.images import Images
from diptych.errors import WrongUse
from diptych.method import Batch, Clock, Loss, Method, Phase, Schedule, adam, checked_rate, constant
from diptych.model import Model
from diptych.networks.equalized import at_least_float32
from diptych.networks.spectral import converge

Grow = Callable[[nn.Module, Clock], None]  # sets what of a network depends on the clock
Betas = tuple[float, float]


class Adversarial(Method):
    """A critic and a generator that take turns.

    loss: one of `diptych.adversarial.losses.GAMES`. augment: what the critic sees images through, reals and
    fakes alike; where it has `observe(real_logit, clock)`, it is told how the reals fare. critic_steps: turns
    of the critic for one of the generator. frozen: so many of the critic's first stages hold still
    ("Freeze-D"). clip_weights: WGAN's box for the critic's weights. grow: is given both networks before each
    turn. reals: what real images (B, C, H, W) look like at this time. blur: width in pixels of a Gaussian
    that all images pass before they are augmented. lr, betas: of both, or (generator's, critic's). clip: the
    largest norm that either network's gradient may have; a larger one is scaled down to it. remedy: what else
    than a smaller learning rate may help where training diverges.
    """

    def __init__(
        self,
        model: GeneratorModel | nn.Module,
        critic: nn.Module,
        *,
        loss: str = "non-saturating",
        penalties: Sequence[Penalty] = (),
        regularisers: Sequence[Regulariser] = (),
        augment: nn.Module | None = None,
        lr: float | tuple[float, float] = 2e-4,
        betas: Betas | tuple[Betas, Betas] = (0.0, 0.99),
        lr_scale: Schedule = constant,
        critic_steps: int = 1,
        frozen: int = 0,
        clip_weights: float = 0.0,
        grow: Grow | None = None,
        reals: Callable[[Tensor, Clock], Tensor] | None = None,
        blur: Schedule | None = None,
        clip: float = math.inf,
        remedy: str = "",
    ) -> None:
        super().__init__()
        for name, every in (
            ("critic_steps", critic_steps),
            *((term.name, term.every) for term in penalties),
            *((term.name, term.every) for term in regularisers),
        ):
            if every < 1:
                raise WrongUse(f"{name}: every {every} steps is not possible", "1 is each step")
        self.model: GeneratorModel = model if isinstance(model, GeneratorModel) else LatentModel(model)
        self.critic, self.augment = critic, augment or nn.Identity()
        named = [term.name for term in penalties]
        for name in named:
            if named.count(name) > 1:
                raise WrongUse(
                    f"the critic's loss has {name} twice", "a weight of its own, --gamma, say, is enough"
                )
        self.penalties, self.regularisers = tuple(penalties), tuple(regularisers)
        self.terms = nn.ModuleList([*penalties, *regularisers])  # so that their state is saved
        self.game = game(loss)
        generator_lr, critic_lr = lr if isinstance(lr, tuple) else (lr, lr)
        self.lr = checked_rate(generator_lr), checked_rate(critic_lr)
        self.betas = both(betas)
        checked_weight(clip_weights, "clip_weights", "0.01, say; 0 clips nothing")
        self.lr_scale, self.critic_steps, self.frozen = lr_scale, critic_steps, frozen
        if not clip > 0:
            raise WrongUse(f"clip is a gradient's largest norm, above 0, not {clip}", "1.0; inf: none")
        self.clip = clip
        self.clip_weights, self.grow, self.reals, self.blur = clip_weights, grow, reals, blur
        self.sigma = 0.0  # of the blur; follows the clock
        if remedy:
            self.remedy = f"a smaller --lr, or {remedy}, is the usual remedy"

    @property
    def generator(self) -> nn.Module:
        """The network in training, as the model sees it."""
        return self.model.network  # type: ignore[no-any-return]

    def phases(self) -> Sequence[Phase]:
        """The critic, its lazy penalties, the generator, its lazy terms."""
        trained = nn.ModuleList(unfrozen(self.critic, self.frozen))
        critic = adam(trained, self.lr[1], betas=self.betas[1])
        generator = adam(self.generator, self.lr[0], betas=self.betas[0])
        phase = partial(Phase, lr_scale=self.lr_scale, clip=self.clip)
        return [
            phase("critic", self.critic_loss, critic),
            *(
                phase(penalty.name, partial(self.critic_term, penalty), critic, every=penalty.every)
                for penalty in self.penalties
                if penalty.every > 1
            ),
            phase("generator", self.generator_loss, generator, every=self.critic_steps),
            *(
                phase(
                    term.name,
                    partial(self.generator_term, term),
                    generator,
                    every=self.critic_steps * term.every,
                )
                for term in self.regularisers
                if term.every > 1
            ),
        ]

    def compilable(self) -> Sequence[nn.Module]:
        """The generator, unless a term differentiates it twice."""
        return () if any(term.twice for term in self.regularisers) else self.model.networks()

    def settle(self, model: Model, clock: Clock) -> None:
        """Growing networks are set to the clock, spectral norms to the averaged weights, batch norms to their
        standing statistics."""
        assert isinstance(model, GeneratorModel)
        if self.grow is not None:
            self.grow(model.network, clock)
        converge(model)
        standing_statistics(model)

    def memory(self, train: Batch, held_out: Batch, clock: Clock) -> Mapping[str, Tensor]:
        """The critic's logits of images that are not augmented (Karras et al., 2020, arXiv:2006.06676)."""
        self.set_blur(clock)
        train, held_out = self.heard(train, clock), self.heard(held_out, clock)
        fake = Batch(self.fakes(train), train.condition)
        batches = {"train": train, "held_out": held_out, "fake": fake}
        return {
            name: self.critic(blurred(b.image, self.sigma), b.condition.label).float() - self.game.boundary
            for name, b in batches.items()
        }

    def firmer(self, factor: float) -> None:
        """Makes every penalty this many times as heavy. Raises WrongUse where none has any weight."""
        if not any(penalty.heavy for penalty in self.penalties):
            why = "its penalties' weights are all 0" if self.penalties else "it has no penalty"
            raise WrongUse(f"this GAN's critic cannot be held more firmly: {why}", "--on-alarm rollback, say")
        for penalty in self.penalties:
            penalty.firmer(factor)

    def critic_loss(self, batch: Batch, clock: Clock) -> Loss:
        """The critic's side, with the penalties that are not lazy, on the same logits."""
        look = self.look(batch, clock)
        loss = self.game.critic(look.real_logit, look.fake_logit)
        sure = certainty(look, self.game)
        logs = {**told(look), "real_sign": sure.sign().mean()}
        if observe := getattr(self.augment, "observe", None):
            logs |= observe(sure, clock)
        for penalty in self.penalties:
            if penalty.every == 1:
                term, sizes = penalty(look, clock)
                loss, logs = loss + penalty.firmness * term, {**logs, **sizes}
        return loss, logs

    def critic_term(self, penalty: Penalty, batch: Batch, clock: Clock) -> Loss:
        """A lazy penalty, as heavy as all the steps that it skips."""
        term, sizes = penalty(self.look(batch, clock), clock)
        return penalty.firmness * term * penalty.every, sizes

    def generator_loss(self, batch: Batch, clock: Clock) -> Loss:
        """The generator's side, with the terms that are not lazy."""
        self.set_clock(clock)
        batch = self.heard(batch, clock)
        label = batch.condition.label
        fake_logit = self.judge(self.fakes(batch), label)
        real_logit = fake_logit.detach()
        if self.game.compares:
            with torch.no_grad():
                real_logit = self.judge(batch.image, label)
        loss = self.game.generator(fake_logit, real_logit)
        logs: dict[str, Tensor] = {}
        for term in self.regularisers:
            if term.every == 1:
                size, sizes = term(self.generator, batch, clock)
                loss, logs = loss + size, {**logs, **sizes}
        return loss, logs

    def generator_term(self, term: Regulariser, batch: Batch, clock: Clock) -> Loss:
        """A lazy term of the generator, as heavy as all the steps that it skips."""
        self.set_clock(clock)
        size, sizes = term(self.generator, self.heard(batch, clock), clock)
        return size * term.every, sizes

    def look(self, batch: Batch, clock: Clock) -> Look:
        """What the critic sees of this batch."""
        self.set_clock(clock)
        batch = self.heard(batch, clock)

        def generate() -> Tensor:
            with torch.no_grad():
                return self.fakes(batch)

        return Look(self.judge, batch.image, batch.condition.label, generate)

    def judge(self, image: Tensor, label: Tensor | None) -> Tensor:
        """Logits (B,) of images seen through the augmentation, and first through the blur."""
        return self.critic(self.augment(blurred(image, self.sigma)), label)  # type: ignore[no-any-return]

    def fakes(self, batch: Batch) -> Tensor:
        """One fake for each real, with its label, and of float32 as reals are."""
        z = torch.randn(batch.image.shape[0], self.generator.latent, device=batch.image.device)  # type: ignore[call-overload]
        return at_least_float32(self.generator(z, batch.condition.label))

    def heard(self, batch: Batch, clock: Clock) -> Batch:
        """The batch with labels as networks are told them."""
        image = batch.image if self.reals is None else self.reals(batch.image, clock)
        return Batch(image, replace(batch.condition, label=self.model.heard(batch.condition)))

    def set_clock(self, clock: Clock) -> None:
        """Tells networks that grow where training stands; puts the critic's weights back into their box."""
        if self.clip_weights:
            clip(unfrozen(self.critic, self.frozen), self.clip_weights)
        if self.grow is not None:
            for network in (self.generator, self.critic):
                self.grow(network, clock)
        self.set_blur(clock)

    def set_blur(self, clock: Clock) -> None:
        """As the schedule says, where there is one."""
        if self.blur is not None:
            self.sigma = self.blur(clock)


def told(look: Look) -> dict[str, Tensor]:
    """What the log says of a critic: mean logits and their gap."""
    real, fake = look.real_logit.detach(), look.fake_logit.detach()
    return {
        "real_logit": real.mean(),
        "fake_logit": fake.mean(),
        "logit_gap": (real - fake).mean(),
    }


def certainty(look: Look, game: Game) -> Tensor:
    """How real reals look (B,): their logits above the game's boundary, or above those of fakes where only
    differences mean anything.

    The mean of its signs is r_t, which nears 1 where a critic has learned its reals by heart (Karras et al.,
    2020, arXiv:2006.06676, equation 1).
    """
    real, fake = look.real_logit.detach(), look.fake_logit.detach()
    return real - fake if game.compares or game.unbounded else real - game.boundary


def unfrozen(critic: nn.Module, frozen: int) -> list[nn.Module]:
    """The parts of a critic that train: all but its first `frozen` stages, and what leads into them.

    A critic that can be frozen names its parts in order, from the image on, in `parts()`. Mo et al., 2020,
    arXiv:2002.10964.
    """
    if not frozen:
        return [critic]
    if frozen < 0:
        raise WrongUse(f"so many stages cannot be frozen: {frozen}", "0 is none, 2 the first two")
    parts: Iterable[nn.Module] = getattr(critic, "parts", lambda: [critic])()
    kept = list(parts)
    if frozen >= len(kept):
        raise WrongUse(
            f"this critic has {len(kept)} parts, so at most {len(kept) - 1} can be frozen, not {frozen}",
            "the last one has to learn what the new images are judged by; 0 freezes none",
        )
    return kept[frozen:]


def both(betas: Betas | tuple[Betas, Betas]) -> tuple[Betas, Betas]:
    """Those of the generator and of the critic."""
    first, second = betas
    if isinstance(first, tuple) and isinstance(second, tuple):
        return first, second
    return (first, second), (first, second)  # type: ignore[return-value]


@torch.no_grad()
def clip(parts: Iterable[nn.Module], bound: float) -> None:
    """Puts each weight back into [-bound, bound]."""
    weights: list[Tensor] = list(nn.ModuleList(parts).parameters())
    torch._foreach_clamp_min_(weights, -bound)
    torch._foreach_clamp_max_(weights, bound)


def labels_of(data: Images) -> dict[str, int]:
    """What networks are to know of the labels."""
    return {"classes": data.classes, "attributes": data.told}


def few(data: Images, tiny: int = 16) -> int:
    """Images a step where none are asked for: `tiny` up to 8 pixels, 16 up to 32, 32 above.

    A short training has too few steps, not too few images. But where networks are small and images tiny most
    of a step's time is the same for 64 of them.
    """
    shortest = min(data.shape[1:])
    return tiny if shortest <= 8 else 16 if shortest <= 32 else 32

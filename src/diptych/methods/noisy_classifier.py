"""Classifier guidance: a classifier of noisy images, and the diffusion model that it leads (Dhariwal and
Nichol, 2021, arXiv:2105.05233, section 4)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
import torch.nn.functional as F

from diptych.data.images import Images
from diptych.diffusion.classifier import NoisyClassifier
from diptych.diffusion.denoiser import Denoiser, EDMDenoiser, NetworkDenoiser, each
from diptych.diffusion.guidance import ClassifierGuide
from diptych.diffusion.model import DiffusionModel, DiffusionOptions
from diptych.diffusion.objective import lognormal, spread
from diptych.errors import WrongUse
from diptych.method import Batch, Clock, Condition, Loss, Method, Phase, adam, warmup_cosine
from diptych.methods.denoising import by_size, led_already, load_teacher, unet_for
from diptych.methods.iddpm import numbers
from diptych.networks.adm import multipliers_for
from diptych.networks.noisy_classifier import ADMClassifier
from diptych.recipe import AutoSize, NamesRun, NotNegative, Recipe, Share, Size, recipe


class ClassifierGuidance(Method):
    """Trains a classifier on a denoiser's noise levels; its model is the denoiser, led by the classifier.

    learns: the denoiser is trained as well, EDM's way and without labels; otherwise it stays as it is.
    """

    def __init__(
        self,
        denoiser: Denoiser,
        classifier: NoisyClassifier,
        *,
        learns: bool,
        lr: float = 1e-3,
        classifier_lr: float = 3e-4,
        weight_decay: float = 0.05,
        options: DiffusionOptions = DiffusionOptions(),
    ) -> None:
        super().__init__()
        self.model: DiffusionModel = DiffusionModel(denoiser, options, ClassifierGuide(classifier))
        self.learns, self.lr = learns, lr
        self.classifier_lr, self.weight_decay = classifier_lr, weight_decay
        self.levels = lognormal(-1.2, 1.2)  # EDM, table 1

    @property
    def classifier(self) -> NoisyClassifier:
        """p(label | noisy image), in training."""
        guide = self.model.guide
        assert isinstance(guide, ClassifierGuide)
        assert isinstance(guide.classifier, NoisyClassifier)
        return guide.classifier

    def phases(self) -> Sequence[Phase]:
        """The classifier learns, and where it is asked for the denoiser."""
        optimizer = adam(self.classifier, self.classifier_lr, weight_decay=self.weight_decay)
        phases = [Phase("classifier", self.classifier_loss, optimizer, lr_scale=warmup_cosine, clip=1.0)]
        if self.learns:
            optimizer = adam(self.model.denoiser, self.lr)
            phases.append(Phase("denoiser", self.denoiser_loss, optimizer, lr_scale=warmup_cosine, clip=1.0))
        return phases

    def classifier_loss(self, batch: Batch, clock: Clock) -> Loss:
        """-log p(label | x + sigma eps), over all times of the denoiser's schedule."""
        x, label = batch.image, batch.condition.label
        assert label is not None
        n = x.shape[0]
        sigma = self.model.denoiser.schedule.level(spread(n, x.device))
        logits = self.classifier(x + each(sigma) * torch.randn_like(x), sigma)
        right = (logits.argmax(1) == label).float()
        half = max(1, n // 2)
        seen = {"accuracy_low_noise": right[:half].mean(), "accuracy_high_noise": right[-half:].mean()}
        return F.cross_entropy(logits, label), seen

    def denoiser_loss(self, batch: Batch, clock: Clock) -> Loss:
        """||F - its target||^2: EDM's weighted ||D(x + sigma eps) - x||^2, without labels."""
        x, denoiser = batch.image, self.model.denoiser
        assert isinstance(denoiser, NetworkDenoiser)
        sigma = self.levels(x.shape[0], x.device)
        error = (denoiser(x + each(sigma) * torch.randn_like(x), sigma, Condition()) - x).square()
        return (error / each(denoiser.c_out(sigma)).square()).mean(), {"mse": error.detach().mean()}


@recipe(needs_labels=True, width=8, blocks=1, denoiser_width=8, denoiser_blocks=1, batch=8, steps=4)
def noisy_classifier(
    data: Images,
    *,
    denoiser: NamesRun = "",
    width: AutoSize = 0,
    blocks: AutoSize = 0,
    multipliers: str = "",
    attention: str = "32,16,8",
    batch: Size = 64,
    lr: float = 0.0,
    weight_decay: NotNegative = 0.05,
    dropout: Share = 0.0,
    denoiser_width: int = 0,
    denoiser_blocks: int = 0,
    denoiser_lr: float = 0.0,
    guidance: float = 1.0,
    steps: Size = 18,
) -> Recipe:
    """Classifier guidance: a classifier of noisy images leads a diffusion model to the labels. Needs labels.

    Parameters
    ----------
    denoiser
        A run of a diffusion method to lead: it is not trained further, its sampler is kept, and steps and
        denoiser_... here are not used. Empty: an unconditional one is trained beside the classifier.
    width
        Channels of the classifier at full resolution; 0: 32 for images of up to 16 pixels, 64 above.
    blocks
        Residual blocks a level of the classifier; 0: one for images of up to 16 pixels, two above.
    multipliers
        Of the width at each level, as 1,2,3,4; empty: by the images' size.
    attention
        Resolutions with attention.
    batch
        Images a step.
    lr
        Peak learning rate of the classifier's AdamW, warmed up, then lowered to 0 along a cosine;
        0: 0.032 / width, near the paper's 3e-4 at its 128.
    weight_decay
        Of the classifier, which overfits where images are few.
    dropout
        Inside the classifier's residual blocks.
    denoiser_width, denoiser_blocks, denoiser_lr
        As edm's width, blocks and lr.
    guidance
        Default strength; 1 makes an unconditional model conditional, more trades diversity for clearer
        classes, 0 leaves the model alone.
    steps
        Default number of sampling steps; `--steps` at sampling overrides it.
    """
    if not data.classes:
        raise WrongUse(
            "noisy-classifier needs labels, and these images have none",
            "a folder for each class gives them; edm and adm do without",
        )
    if denoiser:
        model = load_teacher(denoiser, data, "denoiser", unlabelled=True)
        if model.guide is not None:
            raise led_already(f"denoiser {denoiser}")
        led, options = model.denoiser, replace(model.options, guidance=guidance)
    else:
        size = by_size(data, denoiser_width, denoiser_blocks, denoiser_lr)
        unlabelled = replace(data, labels=None, class_names=())
        led = EDMDenoiser(unet_for(unlabelled, width=size[0], blocks=size[1], dropout=0.0))
        denoiser_lr, options = size[2], DiffusionOptions(steps=steps, guidance=guidance)
    width, blocks, _ = by_size(data, width, blocks, lr)
    network = ADMClassifier(
        data.shape,
        classes=data.classes,
        width=width,
        multipliers=numbers(multipliers, "multipliers") or multipliers_for(min(data.shape[1:])),
        blocks=blocks,
        attention=numbers(attention, "attention"),
        dropout=dropout,
    )
    method = ClassifierGuidance(
        led,
        NoisyClassifier(network, led.schedule),
        learns=not denoiser,
        lr=denoiser_lr,
        classifier_lr=lr or 0.032 / width,
        weight_decay=weight_decay,
        options=options,
    )
    return Recipe(method, batch=batch)

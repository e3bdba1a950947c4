"""A network that classifies noisy images, for the noise levels of a schedule (Dhariwal and Nichol, 2021,
arXiv:2105.05233, section 4)."""

from __future__ import annotations

from torch import Tensor, nn

from diptych.diffusion.denoiser import each
from diptych.diffusion.schedules import Schedule, variance_preserving
from diptych.saveable import saveable


@saveable
class NoisyClassifier(nn.Module):
    """p(label | x) for x = x_0 + sigma * normal noise. The network is told the schedule's time, 0 to 1000."""

    def __init__(self, network: nn.Module, schedule: Schedule) -> None:
        super().__init__()
        self.network, self.schedule = network, schedule
        self.image_shape, self.classes = network.image_shape, network.classes

    def forward(self, x: Tensor, sigma: Tensor) -> Tensor:
        """x (B, C, H, W), sigma (B,) or (1,); returns logits (B, classes), float32."""
        alpha, _ = variance_preserving(sigma)  # whatever the schedule, so that the input is of size 1
        logits: Tensor = self.network(each(alpha) * x, self.schedule.told(self.schedule.time(sigma)))
        return logits.float()

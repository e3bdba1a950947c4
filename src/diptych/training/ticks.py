"""The moments of a training at which something is due: the ends of equal parts of its images, and its end."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from diptych.training.state import Training


@dataclass(frozen=True)
class Ticks:
    """Each falls on the first step that comes to the end of a part; the last on the training's last step."""

    total: int  # images that the budget allows; the last batch may go beyond
    batch: int  # images in a step
    apart: int  # images from one tick to the next

    @classmethod
    def of(cls, training: Training, every: int = 1) -> Ticks:
        """Every k-th of those that a training was asked for."""
        return cls(training.total, training.batch, every * -(-training.total // training.settings.ticks))

    @classmethod
    def parts(cls, training: Training, count: int) -> Ticks:
        """So many in all, where steps are not longer."""
        return cls(training.total, training.batch, -(-training.total // count))

    def due(self, images: int) -> bool:
        """Whether the step that ended at so many images is one of them."""
        before = images - self.batch
        return images >= self.total > before or images // self.apart > before // self.apart

    def passed(self, images: int) -> int:
        """How many have been, once a step has ended at so many images."""
        at_the_end = images >= self.total and images // self.apart == (images - self.batch) // self.apart
        return min(images // self.batch, images // self.apart) + at_the_end

    @property
    def in_all(self) -> int:
        """How many there will have been."""
        return self.passed(-(-self.total // self.batch) * self.batch)

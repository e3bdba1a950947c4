"""How much training a contender gets: so many images, so many seconds, or so many FLOPs."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import Literal

from diptych.errors import WrongUse

Unit = Literal["images", "seconds", "flop"]
_PREFIX = {"": 1.0, "k": 1e3, "M": 1e6, "G": 1e9, "T": 1e12, "P": 1e15}
_SECONDS = {"s": 1.0, "m": 60.0, "min": 60.0, "h": 3600.0, "d": 86400.0}


@dataclass(frozen=True)
class Budget:
    """An amount and its unit."""

    amount: float
    unit: Unit

    @classmethod
    def parse(cls, text: str) -> Budget:
        """From "20M-images", "50s", "30m", "1.5h" or "5e17flop". Raises WrongUse for anything else.

        >>> Budget.parse("30m")
        Budget(amount=1800.0, unit='seconds')
        """
        found = re.fullmatch(r"\s*([0-9.]+(?:e[+-]?[0-9]+)?)\s*([kMGTP]?)[- ]?(images?|flops?)\s*", text)
        timed = re.fullmatch(r"\s*([0-9.]+(?:e[+-]?[0-9]+)?)\s*(s|min|m|h|d)\s*", text)
        try:
            if found and 0 < (amount := float(found[1]) * _PREFIX[found[2]]) < math.inf:
                return cls(amount, "images" if found[3].startswith("image") else "flop")
            if timed and 0 < (amount := float(timed[1]) * _SECONDS[timed[2]]) < math.inf:
                return cls(amount, "seconds")
        except ValueError:
            pass
        raise WrongUse(
            f"budget {text!r} is not an amount of training", "write 20M-images, 50s, 30m, 1.5h or 5e17flop"
        )

    def images(self, rate: float, flops: float) -> int:
        """How many images it buys at `rate` images a second and `flops` FLOPs an image; at least one."""
        per_image = {"images": 1.0, "seconds": 1 / rate, "flop": flops}[self.unit]
        return max(1, round(self.amount / per_image))

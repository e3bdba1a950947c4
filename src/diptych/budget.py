"""How much training a contender gets: so many images, so many seconds, or so many FLOPs."""

from __future__ import annotations

import math
import re
from contextlib import suppress
from dataclasses import dataclass
from typing import Literal

from diptych.errors import WrongUse

Unit = Literal["images", "seconds", "flop"]
_PREFIX = {"": 1.0, "k": 1e3, "K": 1e3, "M": 1e6, "G": 1e9, "T": 1e12, "P": 1e15}
_SECONDS = {"s": 1.0, "m": 60.0, "min": 60.0, "h": 3600.0, "d": 86400.0}
_NUMBER = r"([0-9]{1,3}(?:,[0-9]{3})+|[0-9.]+(?:e[+-]?[0-9]+)?)"
_SOME = re.compile(rf"\s*{_NUMBER}\s*([kKMGTP]?)[- ]?(images?|flops?|epochs?|)\s*")
_PART = re.compile(rf"{_NUMBER}\s*(min|[smhd])\s*")
_TIME = re.compile(rf"\s*(?:{_PART.pattern})+")


@dataclass(frozen=True)
class Budget:
    """An amount and its unit."""

    amount: float
    unit: Unit

    @classmethod
    def parse(cls, text: str) -> Budget:
        """From "20M-images", "50s", "30m", "1h30m" or "5e17flop". Raises WrongUse for anything else.

        >>> Budget.parse("30m")
        Budget(amount=1800.0, unit='seconds')
        """
        some, hint = _SOME.fullmatch(text), "write 20M-images, 50s, 30m, 1.5h or 5e17flop"
        with suppress(ValueError):  # such as "1.2.3"
            if _TIME.fullmatch(text):
                amount = sum(_number(number) * _SECONDS[unit] for number, unit in _PART.findall(text))
                if 0 < amount < math.inf:
                    return cls(amount, "seconds")
            elif some and 0 < (amount := _number(some[1]) * _PREFIX[some[2]]) < math.inf:
                if some[3].startswith(("image", "flop")):
                    return cls(amount, "images" if some[3].startswith("image") else "flop")
                hint = _said_in_images(some, amount)
        raise WrongUse(f"budget {text!r} is not an amount of training", hint)

    def images(self, rate: float, flops: float) -> int:
        """How many images it buys at `rate` images a second and `flops` FLOPs an image; at least one."""
        per_image = {"images": 1.0, "seconds": 1 / rate, "flop": flops}[self.unit]
        return max(1, round(self.amount / per_image))


def _number(text: str) -> float:
    return float(text.replace(",", ""))


def _said_in_images(some: re.Match[str], amount: float) -> str:
    """A hint for a number without a unit, or of epochs."""
    if not some[3]:
        return f"of what? write {some[1]}{some[2]}-images, or a time such as 30m"
    return f"say it in images: {some[1]} {some[3]} of 10,000 are {amount * 10_000:,.0f}-images"

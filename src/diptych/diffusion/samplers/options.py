"""What samplers are told beside the noise levels: their keyword-only arguments, by kind, range and default.

A model keeps those of its sampler as one text, "S_noise=1.007,S_tmin=0.05": plain in files and in reports.
"""

from __future__ import annotations

import math
import types
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import numpy as np
from torch import Tensor

from diptych.checking import Within, between, shown, unfit
from diptych.errors import WrongUse

Eta = Annotated[float, between(0, 1, "0 adds no noise, 1 is the reverse of the noising itself")]
WORDS = {"true": True, "yes": True, "false": False, "no": False}


@dataclass(frozen=True)
class Option:
    """An option of a sampler: a number, a word, or yes or no."""

    name: str
    annotation: Any  # its kind, with its range: Annotated[float, at_least(0)]
    default: Any

    @property
    def kind(self) -> Any:
        """Its kind alone."""
        return get_args(self.annotation)[0] if get_origin(self.annotation) is Annotated else self.annotation

    def fitted(self, value: Any) -> Any:
        """The value as the sampler takes it. Raises WrongUse for one of another kind, or beyond its range."""
        return fitted(plain(value), self.annotation, self.name, f"the default is {self.name}={self.default}")


def fitted(value: Any, annotation: Any, name: str, hint: str) -> Any:
    """The same value. Raises WrongUse where it is not of this kind, not finite, or beyond its range."""
    for number in value if isinstance(value, tuple) else (value,):
        if isinstance(number, float) and not math.isfinite(number):
            raise WrongUse(f"{name} must be finite, not {number}", hint)
    if wrong := unfit(value, annotation, name):
        raise WrongUse(f"{wrong.name} must be {wrong.wanted}, not {wrong.found}", hint)
    marks = annotation.__metadata__ if get_origin(annotation) is Annotated else ()
    for within in marks:
        if isinstance(within, Within) and not within.holds(value):
            raise WrongUse(f"{name} must be {within.says}, not {value:g}", within.hint or hint)
    return value


def plain(value: Any) -> Any:
    """Numbers of numpy and tensors made plain, lists made tuples."""
    if isinstance(value, np.generic | np.ndarray | Tensor):
        value = value.tolist()
    return tuple(map(plain, value)) if isinstance(value, list | tuple) else value


def written(given: Mapping[str, Any]) -> str:
    """Options as one text. Raises WrongUse for a value that it cannot hold.

    >>> written({"S_noise": 1.007, "order": 3})
    'S_noise=1.007,order=3'
    """
    for name, value in given.items():
        if not isinstance(value, int | float | str) or (isinstance(value, str) and set(value) & set(",=")):
            raise WrongUse(f"{name} must be a number, a word, or yes or no, not {shown(value)}")
    words = {n: str(v).lower() if isinstance(v, bool) else v for n, v in given.items()}
    return ",".join(f"{name}={word}" for name, word in words.items())  # a float's text is exact


def parsed(text: str) -> dict[str, str]:
    """The inverse, each value still as text. Raises WrongUse where it is something else.

    >>> parsed("S_noise=1.007, order=3")
    {'S_noise': '1.007', 'order': '3'}
    """
    found: dict[str, str] = {}
    for part in text.split(",") if text.strip() else ():
        name, sign, word = (piece.strip() for piece in part.partition("="))
        if not sign or not name or not word:
            raise WrongUse(f"{shown(part)} is no option=value", "write S_noise=1.007,S_tmin=0.05")
        if name in found:
            raise WrongUse(f"{name} is given twice", "write S_noise=1.007,S_tmin=0.05")
        found[name] = word
    return found


def read(word: str, kind: Any) -> Any:
    """A text as a value of this kind; as it is where it is none, which `fitted` will say."""
    if get_origin(kind) in (Union, types.UnionType):
        tried = ((read(word, part), part) for part in get_args(kind))
        return next((value for value, part in tried if unfit(value, part, "") is None), word)
    if get_origin(kind) is Literal:
        return next((one for one in get_args(kind) if str(one) == word), word)
    if kind is bool:
        return WORDS.get(word.lower(), word)
    try:
        return kind(word) if kind in (int, float) else word
    except ValueError:
        return word

"""Arguments as Python gives them: numbers of numpy, paths and devices made plain, wrong types refused."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import PurePath
from typing import Any

import numpy as np
import torch

from diptych.checking import misfit
from diptych.errors import WrongUse


def plain(value: Any) -> Any:
    """A number of numpy, a path or a device as JSON has it; all else as it is.

    >>> plain(np.int64(4)), plain(torch.device("cpu")), plain(None)
    (4, 'cpu', None)
    """
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, Mapping):
        return {name: plain(one) for name, one in value.items()}
    return str(value) if isinstance(value, PurePath | torch.device) else value


def fitting(value: Any, kind: Any, name: str, default: Any) -> Any:
    """A value made `plain`. Raises WrongUse, naming the argument, where it is not of this annotated kind."""
    value = plain(value)
    if type(value) is kind:  # how large a number may be is for others to say
        return value
    if kind is bool and type(value) is int and value in (0, 1):
        return bool(value)
    if said := misfit(value, kind, name, finite=False):
        raise WrongUse(said, f"the default is {name}={default!r}")
    return value


def fitted(given: Mapping[str, Any], kinds: Mapping[str, Any], defaults: Mapping[str, Any]) -> dict[str, Any]:
    """The same for each of several."""
    return {name: fitting(value, kinds[name], name, defaults[name]) for name, value in given.items()}

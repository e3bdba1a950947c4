"""A module whose attributes are set once: what others have worked out from it stays true."""

from __future__ import annotations

from typing import Any

from torch import nn

from diptych.errors import WrongUse


class Settled(nn.Module):
    """Refuses to be changed; to be moved to a device is no change. Another is put in its place instead.

    Raises WrongUse where an attribute or a buffer is set that is there already, but for `training`.
    """

    def __setattr__(self, name: str, value: Any) -> None:
        free = name == "training" or name.startswith("_")
        if not free and (name in vars(self) or name in self._buffers):
            kind = type(self).__name__
            raise WrongUse(f"{name} of a {kind} cannot be changed", f"put another {kind} in its place")
        super().__setattr__(name, value)

"""TensorBoard event files beside the log, where tensorboard is installed."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from pathlib import Path
from typing import Any


def track(directory: Path, line: Mapping[str, Any]) -> None:
    """Writes a log line's losses and exam as TensorBoard scalars; does nothing without tensorboard."""
    if importlib.util.find_spec("tensorboard") is None:
        return
    from torch.utils.tensorboard import SummaryWriter

    with SummaryWriter(str(directory / "tensorboard")) as writer:
        for part in ("losses", "exam"):
            for name, value in line[part].items():
                writer.add_scalar(f"{part}/{name}", value, line["images"])

"""TensorBoard event files beside the log, where tensorboard is installed."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from pathlib import Path
from typing import Any


class Tracker:
    """Writes log lines as TensorBoard scalars over images; does nothing without tensorboard."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory / "tensorboard"
        self.writer: Any = None

    def write(self, line: Mapping[str, Any]) -> None:
        """The losses and the exam of one log line. After a resume, what was written past it is hidden."""
        if importlib.util.find_spec("tensorboard") is None:
            return
        if self.writer is None:
            from torch.utils.tensorboard import SummaryWriter

            self.writer = SummaryWriter(str(self.directory), purge_step=line["images"])
        for part in ("losses", "exam"):
            for name, value in line[part].items():
                self.writer.add_scalar(f"{part}/{name}", value, line["images"])
        self.writer.flush()

    def close(self) -> None:
        """Ends the file."""
        if self.writer is not None:
            self.writer.close()

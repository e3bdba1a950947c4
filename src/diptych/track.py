"""Who looks on while a model is trained: the exam, the one who watches, TensorBoard where it is installed."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol

from diptych.method import Clock
from diptych.model import Model

# told a few times a second where training stands: losses by name, the last exam's scores as "exam/fid"
Watch = Callable[[Clock, Mapping[str, float]], None]


class Examine(Protocol):
    """A quick look at the averaged model at every k-th tick, and at the last."""

    @property
    def n(self) -> int:
        """How many images it looks at."""
        ...

    @property
    def every(self) -> int:
        """Ticks from one look to the next; sample sheets are drawn at the same ticks."""
        ...

    def settled(self, model: Model, seconds: float, ticks: int, recorded: Mapping[str, Any]) -> Examine:
        """How it is done in a training of so many seconds and ticks: as `recorded`, where anything is."""
        ...

    def terms(self) -> Mapping[str, Any]:
        """What is to be recorded of that."""
        ...

    def __call__(self, model: Model) -> Mapping[str, float]:
        """Scores by name."""
        ...


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

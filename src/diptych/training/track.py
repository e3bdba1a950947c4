"""Who looks on while a model is trained: the exam, the one who watches, TensorBoard where it is installed."""

from __future__ import annotations

import importlib.util
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Literal, Protocol

from torch import Tensor

from diptych.errors import RunError
from diptych.method import Clock, Method
from diptych.model import Model

# told a few times a second where training stands: losses by name, the last exam's scores as "exam/fid"
Watch = Callable[[Clock, Mapping[str, float]], None]

State = Literal["ok", "beyond chance", "alarm"]  # of an alarm
OK: State = "ok"
BEYOND: State = "beyond chance"
ALARM: State = "alarm"


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

    def memory(self, method: Method, clock: Clock) -> Mapping[str, float]:
        """Whether networks in training tell training images from held-out ones; nothing: not known."""
        ...

    def judge(self, history: Sequence[Mapping[str, Any]], clock: Clock) -> Mapping[str, Mapping[str, Any]]:
        """Each alarm's verdict on the last of these log lines, a function of them and of `terms` alone."""
        ...

    def copies(self, verdicts: Mapping[str, Mapping[str, Any]]) -> Tensor | None:
        """uint8 (2 K, C, H, W): the last exam's worst copies, each before its training image; None: none."""
        ...


@contextmanager
def examining(images: int) -> Iterator[None]:
    """Around the exam of a model that has seen so many images.

    Raises RunError, which says how training goes on without exams, where it raises anything.
    """
    try:
        yield
    except Exception as error:
        said = str(error).partition("\n")[0]
        raise RunError(
            f"the exam after {images:,} images failed: {type(error).__name__}: {said}",
            "--exam 0 goes on from the last checkpoint without exams, and --exam 64 with small ones",
        ) from error


class Tracker:
    """Writes log lines as TensorBoard scalars over images; does nothing without tensorboard."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory / "tensorboard"
        self.writer: EventFile | None = None

    def write(self, line: Mapping[str, Any]) -> None:
        """The losses and the exam of one log line. After a resume, what was written past it is hidden."""
        if importlib.util.find_spec("tensorboard") is None:
            return
        try:
            self._write(line)
        except OSError as error:
            said = f"{self.directory} could not be written to: {error.strerror or error}"
            raise RunError(said, "the same command goes on from the last checkpoint") from error

    def _write(self, line: Mapping[str, Any]) -> None:
        if self.writer is None:
            self.writer = EventFile(self.directory, line["images"])
        for part in ("losses", "exam"):
            for name, value in line[part].items():
                self.writer.add_scalar(f"{part}/{name}", value, line["images"])
        self.writer.flush()

    def close(self) -> None:
        """Ends the file."""
        if self.writer is not None:
            with suppress(OSError):  # `write` has said it, or nothing was left to write
                self.writer.close()


class EventFile:
    """Scalars as TensorBoard reads them, in a file of this life of a run.

    SummaryWriter would do the same, but names the host in the file's name.
    """

    def __init__(self, directory: Path, step: int) -> None:
        """step: what files of earlier lives have from here on is hidden."""
        from tensorboard.compat.proto.event_pb2 import Event, SessionLog
        from tensorboard.compat.proto.summary_pb2 import Summary
        from tensorboard.summary.writer.record_writer import RecordWriter

        self.event, self.summary = Event, Summary
        directory.mkdir(parents=True, exist_ok=True)
        # TensorBoard reads files in the order of their names: two lives may begin within one second
        number = sum("tfevents" in file.name for file in directory.iterdir())
        name = f"events.out.tfevents.{int(time.time()):010d}.{number:06d}"
        self.records = RecordWriter((directory / name).open("ab"))
        self.add(file_version="brain.Event:2")
        self.add(step=step, session_log=SessionLog(status=SessionLog.START))

    def add(self, **event: Any) -> None:
        """One record, with the time."""
        self.records.write(self.event(wall_time=time.time(), **event).SerializeToString())

    def add_scalar(self, tag: str, value: float, step: int) -> None:
        """One number."""
        value_of_tag = self.summary.Value(tag=tag, simple_value=value)
        self.add(step=step, summary=self.summary(value=[value_of_tag]))

    def flush(self) -> None:
        """Writes what is still in memory."""
        self.records.flush()

    def close(self) -> None:
        """Ends the file."""
        self.records.close()

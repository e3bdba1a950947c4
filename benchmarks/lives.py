"""Which stage of a training a process is in, told to its parent while it lives and after it was killed."""

from __future__ import annotations

import json
import mmap
import os
import select
import signal
import sys
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from diptych import pictures
from diptych.alarms.verdict import BEYOND, OK
from diptych.checkpoints import Checkpoints
from diptych.measuring.quick import QuickExam
from diptych.method import Clock
from diptych.model import Model
from diptych.training import averages, loop
from diptych.training.loop import Loop
from diptych.training.reactions import Reactions
from diptych.training.state import Training
from diptych.training.track import ALARM

# what comes before the first step, the step, what a tick consists of, and all that lies between these
STAGES = (
    "start",
    "step",
    "exam",
    "sheet",
    "model",
    "averages",
    "log",
    "back",
    "checkpoint",
    "best",
    "between",
)
Verdicts = Mapping[str, Mapping[str, Any]]
TOUCHING = ("open", "os.rename", "os.remove", "os.link", "os.mkdir", "os.chmod", "os.truncate")


class Marks:
    """The last stage in shared memory, each entry through a pipe."""

    def __init__(self) -> None:
        self.memory = mmap.mmap(-1, 1)
        self.ear, self.mouth = os.pipe()
        self.stage = "start"
        self.begun = time.perf_counter()
        self.taken: dict[str, list[float]] = {}
        self.operations: Counter[str] = Counter()

    @property
    def last(self) -> str:
        """Where the process is, or was when it was killed."""
        return STAGES[self.memory[0]]

    def entries(self, timeout: float) -> list[str]:
        """Stages entered since one last asked."""
        ready, _, _ = select.select([self.ear], [], [], timeout)
        return [STAGES[byte] for byte in os.read(self.ear, 4096)] if ready else []

    def enter(self, stage: str) -> None:
        """Says that a stage begins."""
        self.stage = stage
        self.memory[0] = STAGES.index(stage)
        os.write(self.mouth, bytes([STAGES.index(stage)]))

    def wrap(self, owner: Any, name: str, stage: str) -> None:
        """Makes a function say when it is at work, where it is not part of another stage."""
        inner = getattr(owner, name)

        def outer(*args: Any, **kwargs: Any) -> Any:
            if self.stage != "between":
                return inner(*args, **kwargs)
            begun = time.perf_counter()
            self.enter(stage)
            try:
                return inner(*args, **kwargs)
            finally:
                self.enter("between")
                self.taken.setdefault(stage, []).append(time.perf_counter() - begun)

        setattr(owner, name, outer)

    def install(self, folder: str, stage: str, operation: int, rings: frozenset[int] = frozenset()) -> None:
        """In the child: from now on its stages are told.

        folder: the run's. With an `operation` the child kills itself before that one of this stage's file
        operations there. rings: after how many images an alarm rings, whatever the samples are. Copying is
        always suspected, so that sheets of copies are drawn.
        """
        self.enter("start")
        inner = Loop.run_to_the_end

        def run(*args: Any, **kwargs: Any) -> Any:
            self.taken["start"] = [time.perf_counter() - self.begun]
            self.enter("between")
            return inner(*args, **kwargs)

        Loop.run_to_the_end = run  # type: ignore[method-assign]
        self.wrap(Training, "step", "step")
        self.wrap(QuickExam, "__call__", "exam")
        self.wrap(Model, "sample", "sheet")
        self.wrap(pictures, "save", "sheet")
        for name in ("save_model", "save_best", "save_weights"):
            self.wrap(loop, name, "model")
        self.wrap(averages.Averages, "store", "averages")
        self.wrap(Reactions, "take_best", "back")
        self.wrap(loop, "append_line", "log")
        self.wrap(Checkpoints, "write", "checkpoint")
        self.wrap(Checkpoints, "mark_best", "best")

        judge = QuickExam.judge

        def ringing(exam: QuickExam, history: Sequence[Mapping[str, Any]], clock: Clock) -> Verdicts:
            verdicts = dict(judge(exam, history, clock))
            if verdicts.get("copying", {}).get("state") == OK:
                verdicts["copying"] = {**verdicts["copying"], "state": BEYOND}
            if clock.images in rings:
                verdicts["planted"] = {"name": "planted", "state": ALARM, "sentence": "it was told to"}
            return verdicts

        QuickExam.judge = ringing  # type: ignore[method-assign, assignment]

        def touched(event: str, args: tuple[Any, ...]) -> None:
            if event in TOUCHING and str(args[0]).startswith(folder):
                self.operations[self.stage] += 1
                if self.stage == stage and self.operations[stage] == operation:
                    os.kill(os.getpid(), signal.SIGKILL)

        sys.addaudithook(touched)

    def report(self, path: Path) -> None:
        """Writes what a whole life did: mean seconds and file operations of each stage, and modules."""
        seconds = {stage: sum(taken) / len(taken) for stage, taken in self.taken.items()}
        touched = {stage: -(-self.operations[stage] // len(taken)) for stage, taken in self.taken.items()}
        found = {"seconds": seconds, "operations": touched, "modules": list(sys.modules)}
        path.write_text(json.dumps(found))

    def close(self) -> None:
        """Gives back the memory and the pipe."""
        self.memory.close()
        os.close(self.ear)
        os.close(self.mouth)

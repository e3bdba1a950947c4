"""What a training does on an alarm: warn, stop, or go on from the best checkpoint with smaller steps.

Which alarms ring is a function of the log lines, and what is done of that and of how often it was done: both
are in the checkpoint, so that a training that was interrupted does the same.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any

from diptych import averages, parallel
from diptych.errors import Alarmed, Diverged
from diptych.runs import Run
from diptych.track import ALARM, Examine
from diptych.training import Training

log = logging.getLogger("diptych")

MOST = 3  # times that a training goes back; then it stops
BACK = ("rollback", "firmer")
Line = dict[str, Any]


class Reactions:
    """Alarms of one training, in its log, on stderr, and in what follows from them."""

    def __init__(self, run: Run, training: Training, examine: Examine | None, lines: Sequence[Line]) -> None:
        self.run, self.training, self.examine = run, training, examine
        told = [line["alarms"] for line in lines if "alarms" in line]
        self.states = {name: each["state"] for alarms in told for name, each in alarms.items()}

    @property
    def recovers(self) -> bool:
        """Whether a training that diverges goes back, which is decided at ticks alone, whatever the time."""
        return self.examine is not None and self.training.settings.on_alarm in BACK

    def judge(self, line: Line, earlier: Sequence[Line]) -> None:
        """Adds to a log line what alarms say of it, and what is done about it."""
        training, examine = self.training, self.examine
        if examine is None:
            return
        if line["exam"]:
            line["memory"] = dict(examine.memory(training.method, training.clock))
        verdicts = dict(examine.judge([*earlier, line], training.clock))
        line["alarms"], action = parallel.of_first([verdicts, self.action(verdicts)])
        if action:
            line["reaction"] = action
        self.say(line["alarms"])

    def action(self, verdicts: Mapping[str, Mapping[str, Any]]) -> str:
        """What is done: nothing, "stop", "rollback" or "firmer"."""
        training, wanted = self.training, self.training.settings.on_alarm
        ringing = any(verdict["state"] == ALARM for verdict in verdicts.values())
        if not ringing or wanted == "warn" or training.finished:
            return ""
        possible = training.reactions < MOST and self.run.checkpoints.best.exists()
        return wanted if wanted in BACK and possible else "stop"

    def say(self, verdicts: Mapping[str, Mapping[str, Any]]) -> None:
        """Warns of each alarm whose state is another than before."""
        for name, verdict in verdicts.items():
            if verdict["state"] != self.states.get(name, "ok"):
                how = log.warning if verdict["state"] == ALARM else log.info
                how("%s: %s: %s", name, verdict["state"], verdict["sentence"])
            self.states[name] = verdict["state"]

    def go_back(self, line: Line) -> None:
        """Takes the best checkpoint, where the line says so; the next one is not yet written."""
        if line.get("reaction") in BACK:
            self.take_best(line["reaction"])

    def take_best(self, reaction: str) -> None:
        """The best weights and optimizers, half the learning rate, and averages as they were then."""
        best = self.run.checkpoints.read(self.run.checkpoints.best)
        self.training.take_back(best)
        if parallel.rank() == 0:  # what was averaged since then is of weights that were given up
            averages.forget_after(self.run.path / averages.FOLDER, best["images"])
        log.warning(
            "back to the weights after %s images, with %g of the learning rate%s: %d of %d times",
            f"{best['images']:,}",
            0.5**self.training.reactions,
            ", penalties twice as heavy" if reaction == "firmer" else "",
            self.training.reactions,
            MOST,
        )

    def stop(self, line: Line) -> None:
        """Raises Alarmed where the line says so; the checkpoint is written."""
        if line.get("reaction") != "stop":
            return
        ringing = {n: v["sentence"] for n, v in line["alarms"].items() if v["state"] == ALARM}
        told = "; ".join(f"{name}: {sentence}" for name, sentence in ringing.items())
        often = f" ({self.training.reactions} times it went back)" if self.training.reactions else ""
        raise Alarmed(
            f"training stopped after {line['images']:,} images: {told}{often}",
            f"see {self.run.path / 'samples'}; {self.run.best} holds the best weights, and the same command "
            "goes on all the same",
        )

    def diverged(self, line: Line, error: Diverged) -> Line:
        """The log line of a tick that met numbers that are not finite; or the error, where that ends it."""
        verdict = {
            "name": "divergence",
            "state": ALARM,
            "value": 0.0,
            "limit": 0.0,
            "false_positives": 0.0,
            "sentence": "numbers are no longer finite",  # in which step depends on interrupts
        }
        action = parallel.of_first(self.action({"divergence": verdict}))
        if action not in BACK:
            raise error
        line |= {"losses": {}, "exam": {}, "alarms": {"divergence": verdict}, "reaction": action}
        self.say(line["alarms"])
        return line

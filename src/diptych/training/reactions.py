"""What a training does on an alarm: warn, stop, or go on from the best checkpoint with smaller steps.

Which alarms ring is a function of the log lines, and what is done of that and of how often it was done: both
are in the checkpoint, so that a training that was interrupted does the same.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any

from diptych.alarms.calibration import LEVEL
from diptych.alarms.progress import divergence
from diptych.errors import Alarmed, Diverged, WrongUse
from diptych.runs import Run, best_of
from diptych.system import parallel
from diptych.training import averages
from diptych.training.state import Training
from diptych.training.ticks import Ticks
from diptych.training.track import ALARM, Examine

log = logging.getLogger("diptych")

MOST = 3  # times that a training goes back; then it stops
BACK = ("rollback", "firmer")
LOW = {"collapse", "quality"}  # alarms of what fid counts too: where it is best, no earlier tick was better
Line = dict[str, Any]


def check(training: Training, examine: Examine | None) -> None:
    """Raises WrongUse where a training that begins could never do what it should on an alarm."""
    wanted = training.settings.on_alarm
    if wanted == "firmer":
        training.method.firmer(1.0)  # raises where there are no penalties
    if wanted in BACK and examine is None:
        raise WrongUse(
            f"--on-alarm {wanted} goes back to the tick with the best exam, and there are no exams",
            "--exam 64 examines; --on-alarm stop needs no exam to stop a training that diverges",
        )


class Reactions:
    """Alarms of one training, in its log, on stderr, and in what follows from them."""

    def __init__(self, run: Run, training: Training, examine: Examine | None, lines: Sequence[Line]) -> None:
        self.run, self.training, self.examine = run, training, examine
        self.last: Line = lines[-1] if lines else {}
        told = [line["alarms"] for line in lines if "alarms" in line]
        self.states = {name: each["state"] for alarms in told for name, each in alarms.items()}

    @property
    def recovers(self) -> bool:
        """Whether a training that diverges goes back, which is decided at ticks alone, whatever the time."""
        return self.training.settings.on_alarm in BACK

    def begin(self) -> None:
        """Warns of what alarms cannot do in this training, or of what rang at its end."""
        training, wanted = self.training, self.training.settings.on_alarm
        if training.finished:
            if self.last.get("reaction") == "stop":
                log.warning("this training is over, and an alarm rang at its end: %s", rung(self.last))
        elif wanted == "warn":
            return
        elif self.examine is None:
            log.warning("there are no exams: --on-alarm %s acts on divergence alone", wanted)
        elif Ticks.of(self.training, self.examine.every).in_all == 1:
            log.warning(
                "exams come only at the end of this training: until then --on-alarm %s acts on divergence "
                "alone%s; %s",
                wanted,
                ", and stops, as nothing is the best yet" if wanted in BACK else "",
                "--exam 64 asks for one at every tick" if self.examine.every > 1 else "--ticks 10 has more",
            )

    def judge(self, line: Line, earlier: Sequence[Line]) -> None:
        """Adds to a log line what alarms say of it, and what is done about it."""
        training, examine = self.training, self.examine
        verdicts: Mapping[str, Mapping[str, Any]]
        if examine is None:  # what the log tells needs no exam
            verdicts = {"divergence": divergence([*earlier, line], LEVEL).to_json()}
        else:
            if line["exam"]:
                line["memory"] = dict(examine.memory(training.method, training.clock))
            verdicts = examine.judge([*earlier, line], training.clock)
        best = best_of([*earlier, line]) is line
        line["alarms"], action = parallel.of_first([dict(verdicts), self.action(verdicts, best)])
        if action:
            line["reaction"] = action
        self.say(line["alarms"])

    def action(self, verdicts: Mapping[str, Mapping[str, Any]], best: bool = False) -> str:
        """What is done: nothing, "stop", "rollback" or "firmer".

        Nobody goes back at the end, nor where quality is low but better than ever before.
        """
        training, wanted = self.training, self.training.settings.on_alarm
        ringing = {name for name, verdict in verdicts.items() if verdict["state"] == ALARM}
        if not ringing or wanted == "warn":
            return ""
        if wanted in BACK and (training.finished or (best and ringing <= LOW)):
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
        """Raises Alarmed where the line says so; all that belongs to the line is written.

        Warns where it was to go back, and nothing is left of the budget.
        """
        training, sentences = self.training, rung(line)
        hints = [f"see {self.run.path / 'samples'}"]
        if self.run.checkpoints.best.exists():
            hints += [f"{self.run.best} holds the best weights"]
        if line.get("reaction") == "stop":
            over, again = "stopped after", "the same command goes on all the same"
            if training.finished:
                over, again = "ended with an alarm after", "the same command trains no further"
            often = f" ({training.reactions} times it went back)" if training.reactions else ""
            said = f"training {over} {line['images']:,} images: {sentences}{often}"
            raise Alarmed(said, "; ".join([*hints, again]))
        if sentences and training.finished and training.settings.on_alarm in BACK:
            left = "training is over, and nothing is left of the budget to go back with"
            log.warning("%s: %s; %s", sentences, left, "; ".join(hints))

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


def rung(line: Mapping[str, Any]) -> str:
    """What rings at a log line, in one sentence; nothing where nothing does."""
    ringing = {n: v["sentence"] for n, v in line.get("alarms", {}).items() if v["state"] == ALARM}
    return "; ".join(f"{name}: {sentence}" for name, sentence in ringing.items())

"""What alarms said while a contender was trained, in a few words each."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from diptych.report.record import Contender, DuelRecord

LOUD = ("alarm", "beyond chance")  # the worse first


class Told(NamedTuple):
    """One alarm of one contender."""

    name: str
    state: str  # the worst: "alarm", "beyond chance" or "ok"
    words: str


def alarms_of(contender: Contender) -> list[Told]:
    """Each alarm that judged this training: first those that rang."""
    lines = [line for line in contender.curve if isinstance(line.get("alarms"), Mapping)]
    names = dict.fromkeys(name for line in lines for name in line["alarms"])
    found = [_told(name, [line for line in lines if name in line["alarms"]]) for name in names]
    return sorted(found, key=lambda told: LOUD.index(told.state) if told.state in LOUD else len(LOUD))


def _told(name: str, lines: list[Mapping[str, Any]]) -> Told:
    verdicts = [(line, line["alarms"][name]) for line in lines]
    for state in LOUD:
        hits = [(line, verdict) for line, verdict in verdicts if verdict.get("state") == state]
        if not hits:
            continue
        line, verdict = hits[-1]
        often = f"at {len(hits)} of {len(lines)} looks, last after {line.get('images', 0):,} images"
        done = next((f"; {hit['reaction']}" for hit, _ in hits if "reaction" in hit), "")
        last = verdicts[-1][1].get("state")
        end = "" if last == state else f"; in the end {last}"
        return Told(name, state, f"{often}: {verdict.get('sentence', '')}{done}{end}")
    return Told(name, "ok", f"ok at all of {len(lines)} looks")


def alarms(record: DuelRecord) -> list[tuple[int, Contender, list[Told]]]:
    """Of every contender that was judged: its number, itself, what was told."""
    found = [(index, each, alarms_of(each)) for index, each in enumerate(record.contenders)]
    return [(index, each, told) for index, each, told in found if told]


def rates(record: DuelRecord) -> list[str]:
    """The per cent of real draws (or healthy lines) that an alarm calls ok, as it states: usually one."""
    verdicts = [v for c in record.contenders for line in c.curve for v in line.get("alarms", {}).values()]
    return sorted({f"{100 * (1 - v['false_positives']):.3g}" for v in verdicts if v.get("false_positives")})

"""What --dry-run predicts beside what the training then takes: time, peak memory, disk.

    python benchmarks/planned.py [--recipes edm,r3gan,stylegan2] [--data digits] [--seconds 60]

Each is one command, run twice: with --dry-run and without. Its budget is so many images as take about
--seconds. Time is that of the whole process, memory its peak resident set, disk what the run directory holds
at the end (files with two names are counted once); it is compared with what was predicted for the case that
came about, a best checkpoint that is one of the last or an older one. Target: each forecast of each of the
--rounds within 20 %, on three recipes.

A forecast is for a machine that stays as it is. --beside makes sure of that: training and rehearsals, one
after another until the training is done, share one core and take turns every few milliseconds, so that both
meet the same machine; the processor's seconds are counted in the clock's place, and the rehearsal is called
as the command calls it. Each rehearsal is judged, also where several are of one training.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

from paired import finish, parser, table

TARGET = 0.2
WIDTHS = {"edm": 16, "r3gan": 32, "stylegan2": 16, "dit": 64}  # so that a minute holds some thousand steps


def main() -> None:
    """Predicts, trains, compares."""
    flags = parser(__doc__ or "", rounds=1)
    flags.add_argument("--recipes", default="edm,r3gan,stylegan2")
    flags.add_argument("--data", default="digits")
    flags.add_argument("--seconds", type=float, default=60.0)
    flags.add_argument("--beside", action="store_true", help="rehearse while the training runs, by turns")
    given = flags.parse_args()
    os.environ["OMP_NUM_THREADS"] = str(given.threads)
    seconds = 5.0 if given.quick else given.seconds
    results: dict[str, list[dict[str, Any]]] = {}
    for recipe in given.recipes.split(","):
        for _ in range(given.rounds):
            for found in measured(recipe, given.data, seconds, given.beside):
                results.setdefault(recipe, []).append(found)
                print(recipe, json.dumps(found), flush=True)
    rows = [row(recipe, each) for recipe, rounds in results.items() for each in rounds]
    head = ["", "time: predicted", "measured", "ratio", "memory: predicted", "measured", "ratio"]
    table([*head, "disk: predicted", "measured", "ratio"], rows)
    ratios = [p / real for rounds in results.values() for each in rounds for p, real in pairs(each)]
    close = sum(abs(ratio - 1) <= TARGET for ratio in ratios)
    print(f"\nwithin {100 * TARGET:.0f} %: {close} of {len(ratios)}")
    finish(results, given.out)


FORETOLD = """
import json, sys, time
from pathlib import Path
from diptych import catalog
from diptych.data import open_data
from diptych.training.forecast import forecast
from diptych.measuring.quick import QuickExam
from diptych.training.state import Settings

recipe, data, arguments, out, budget = json.loads(sys.argv[1])
images, settings = open_data(data), Settings(budget=budget, device="cpu")
how = {"examine": QuickExam(images), "started": 0.0, "clock": time.process_time}
found = forecast(catalog.recipe(recipe), images, out, arguments=arguments, settings=settings, **how)
print(json.dumps(found.to_json()))
"""


def measured(recipe: str, data: str, seconds: float, beside: bool) -> list[dict[str, Any]]:
    """One training: what was predicted, once or again and again, and what it took."""
    with tempfile.TemporaryDirectory() as folder:
        out = str(Path(folder) / "run")
        width = ["--width", str(WIDTHS[recipe])] if recipe in WIDTHS else []
        arguments = {"width": WIDTHS[recipe]} if recipe in WIDTHS else {}
        command = [sys.executable, "-m", "diptych", "train", recipe, data, *width, "--out", out]
        command += ["--device", "cpu", "--json", "--budget"]
        first = json.loads(run([*command, f"{seconds:g}s", "--dry-run"])[0])
        budget = f"{round(first['images_per_s'] * seconds)}-images"
        if beside:
            job = json.dumps([recipe, data, arguments, out, budget])
            foretold, used = by_turns([sys.executable, "-c", FORETOLD, job], [*command, budget])
        else:
            foretold = [json.loads(run([*command, budget, "--dry-run"])[0])]
            assert not os.listdir(folder), "the rehearsal left something behind"
            _, used = run([*command, budget])
        assert os.listdir(folder) == ["run"], "a rehearsal left something behind"
        found = {
            "seconds": used.processor if beside else used.seconds,
            "memory_mib": used.memory_mib,
            "disk_mib": held(Path(out)),
            "older_best": best_is_older(Path(out)),
            "used": used._asdict(),
            "ticks": [json.loads(line) for line in (Path(out) / "log.jsonl").read_text().splitlines()],
        }
        return [{"expected": expected, **found} for expected in foretold]


def by_turns(rehearsal: list[str], training: list[str]) -> tuple[list[dict[str, Any]], Used]:
    """Every rehearsal that ends before the training does, the first in any case; and what that took."""
    cores, foretold = os.sched_getaffinity(0), []
    os.sched_setaffinity(0, {min(cores)})
    try:
        with ThreadPoolExecutor(1) as pool:
            trained = pool.submit(run, training)
            while not trained.done():
                text, _ = run(rehearsal)
                if not (foretold and trained.done()):
                    foretold.append(json.loads(text))
        return foretold, trained.result()[1]
    finally:
        os.sched_setaffinity(0, cores)


class Used(NamedTuple):
    """What a process took."""

    seconds: float
    processor: float
    memory_mib: float


def run(command: list[str]) -> tuple[str, Used]:
    """Standard output of a process, and what it took."""
    begun = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    assert process.stdout is not None
    text = process.stdout.read()
    _, status, used = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        sys.exit(f"{' '.join(command)} ended with {process.returncode}")
    processor = used.ru_utime + used.ru_stime
    return text, Used(time.perf_counter() - begun, processor, used.ru_maxrss / 1024)


def held(folder: Path) -> float:
    """MiB in a folder; files with several names are counted once."""
    files = {(s.st_dev, s.st_ino): s.st_size for f in folder.rglob("*") if f.is_file() for s in [f.stat()]}
    return sum(files.values()) / 2**20


def best_is_older(folder: Path) -> bool:
    """Whether the best checkpoint is a file of its own, and not another name of one of the last."""
    files = list((folder / "checkpoints").glob("*.safetensors"))
    inodes = {file: file.stat().st_ino for file in files}
    return any(
        list(inodes.values()).count(inode) == 1 for file, inode in inodes.items() if not file.stem.isdigit()
    )


def pairs(found: dict[str, Any]) -> list[tuple[float, float]]:
    """Predicted and measured."""
    expected = found["expected"]
    disk = expected["disk_most_mib" if found["older_best"] else "disk_mib"]
    return [
        (expected["seconds"], found["seconds"]),
        (expected["memory_mib"], found["memory_mib"]),
        (disk, found["disk_mib"]),
    ]


def row(recipe: str, found: dict[str, Any]) -> list[str]:
    """A line of the table."""
    cells = [recipe]
    for (predicted, real), unit in zip(pairs(found), (" s", " MiB", " MiB"), strict=True):
        cells += [f"{predicted:.1f}{unit}", f"{real:.1f}{unit}", f"{predicted / real:.2f}"]
    return cells


if __name__ == "__main__":
    main()

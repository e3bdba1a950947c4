"""Damaged and hostile files: 10,000 pictures and 10,000 of all else that is read, each in a sandbox.

Each kind of file is read by a process of its own, whose memory is limited, whose home, temporary and working
directories are empty folders, and which is watched: what is counted are errors that are not ours, inputs
that take longer than 5 s of the processor or more than 2 GiB of memory (24 bytes for each of the most pixels
that a picture may have), and files that appear where nothing is to be written. Any of them is exit code 1.

    python benchmarks/fuzz.py [--pictures 10000] [--others 10000] [--seed 0] [--only zip,npz] [--out F.json]
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from pathlib import Path
from random import Random
from typing import Any

HERE = Path(__file__).resolve()
sys.path.insert(0, str(HERE.parents[1] / "tests"))
MOST_MEMORY = 8 << 30  # bytes of address space
HANG, DEAD = 5.0, 120.0  # seconds of the processor; of the clock, after which a process is ended
COLUMNS = {"inputs": 7, "opened": 8, "refused": 9, "crashes": 9, "hangs": 7, "large": 7}
FAULTS = ("crashes", "hangs", "large")
SEEN = {"crash": "crashes_seen", "hang": "hangs_seen", "large": "large_seen"}
OUTSIDE = ("/tmp/escape", "/absolute", "/escape", "C:\\escape")


def peak() -> float:
    """The most memory that this process has held since it was last asked to forget, MiB."""
    status = Path("/proc/self/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) / 1024


def forget_peak() -> None:
    """Begins anew."""
    Path("/proc/self/clear_refs").write_text("5")


def snapshot(folder: Path) -> set[str]:
    """Every file below a folder."""
    return {str(path.relative_to(folder)) for path in folder.rglob("*")}


def every_door() -> dict[str, Any]:
    """By name: pictures of every format that is opened, then all else."""
    import doors
    import stills

    return {**doors.PICTURES, **stills.PICTURES, **doors.OTHERS}


def work(name: str, n: int, seed: int, sandbox: Path) -> None:
    """Damages, opens and counts; one line of JSON an input that matters, and one at the end, on stdout."""
    import torch

    import bombs
    from diptych.data.decode import MAX_BYTES
    from diptych.errors import DiptychError

    torch.set_num_threads(1)
    resource.setrlimit(resource.RLIMIT_AS, (MOST_MEMORY, MOST_MEMORY))
    folder = sandbox / "in" / "files"
    folder.mkdir(parents=True)
    counts = {"inputs": 0, "opened": 0, "refused": 0, "crashes": 0, "hangs": 0, "large": 0}
    slowest = most = 0.0

    def tell(tree: dict[str, Any]) -> None:
        print(json.dumps(tree), flush=True)

    def attempt(opened: Any, what: str) -> None:
        nonlocal slowest, most
        forget_peak()
        before, begun = peak(), time.process_time()
        try:
            opened(folder)
            counts["opened"] += 1
        except DiptychError:
            counts["refused"] += 1
        except BaseException as error:
            counts["crashes"] += 1
            where = traceback.extract_tb(error.__traceback__)[-1]
            said = f"{type(error).__name__}: {str(error)[:200]} at {Path(where.filename).name}:{where.lineno}"
            tell({"crash": f"{name} {what}", "said": said})
        took, held = time.process_time() - begun, peak() - before
        slowest, most = max(slowest, took), max(most, held)
        counts["inputs"] += 1
        if took > HANG:
            counts["hangs"] += 1
            tell({"hang": f"{name} {what}", "seconds": took})
        if held > MAX_BYTES / (1 << 20):
            counts["large"] += 1
            tell({"large": f"{name} {what}", "mib": round(held)})
        tell({"at": what})

    if name == "bombs":
        for what, (lay, opened) in bombs.BOMBS.items():
            for old in sorted(folder.rglob("*"), reverse=True):
                old.rmdir() if old.is_dir() else old.unlink()
            lay(folder)
            attempt(opened, what)
    else:
        door = every_door()[name]
        files = door.lay(folder)
        door.open(folder)
        sound = {file: file.read_bytes() for file in files}
        laid = snapshot(folder)
        for i in range(n):
            draw = Random(f"{name} {seed} {i}")
            file = draw.choice(files)
            file.write_bytes(door.damage(sound[file], draw))
            attempt(door.open, str(i))
            file.write_bytes(sound[file])
        if new := snapshot(folder) - laid:
            tell({"outside": sorted(new)[:10]})
    tell({"end": counts | {"slowest_s": round(slowest, 2), "most_mib": round(most)}})


def run(name: str, n: int, seed: int) -> dict[str, Any]:
    """One kind of file in a process of its own."""
    with tempfile.TemporaryDirectory() as place:
        sandbox = Path(place)
        for part in ("in", "home", "tmp", "cwd", "cache"):
            (sandbox / part).mkdir()
        environment = {**os.environ, "HOME": str(sandbox / "home"), "TMPDIR": str(sandbox / "tmp")}
        environment |= {"DIPTYCH_CACHE": str(sandbox / "cache"), "OMP_NUM_THREADS": "1"}
        environment["TORCHINDUCTOR_CACHE_DIR"] = str(sandbox / "cache" / "torch")  # torch makes it on import
        environment.pop("XDG_CACHE_HOME", None)
        command = [sys.executable, "-W", "ignore", str(HERE), "--work", name, str(n), str(seed), place]
        there = {path for path in OUTSIDE if Path(path).exists()}
        begun = time.monotonic()
        child = subprocess.Popen(
            command,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=environment,
            cwd=sandbox / "cwd",
        )
        told = {
            "name": name,
            "crashes_seen": [],
            "hangs_seen": [],
            "large_seen": [],
            "outside": [],
            "last": "",
        }
        heard = [time.monotonic()]
        threading.Thread(target=watch, args=(child, heard), daemon=True).start()
        errors: list[str] = []
        drain = threading.Thread(target=lambda: errors.extend(child.stderr or ()), daemon=True)
        drain.start()
        for line in child.stdout or ():
            heard[0] = time.monotonic()
            tree = json.loads(line)
            told["last"] = tree.get("at", told["last"])
            for kind, seen in SEEN.items():
                if kind in tree:
                    told[seen].append(tree)
            told["outside"] += tree.get("outside", [])
            told |= tree.get("end", {})
        child.wait()
        drain.join(5)
        if "inputs" not in told:
            told |= {**dict.fromkeys(COLUMNS, 0), "crashes": 1, "slowest_s": 0, "most_mib": 0}
            told["crashes_seen"].append(
                {"crash": f"{name} after {told['last']}", "said": "".join(errors)[-500:]}
            )
        for part in ("home", "tmp", "cwd"):
            told["outside"] += [f"{part}/{file}" for file in snapshot(sandbox / part)]
        told["outside"] += [path for path in OUTSIDE if Path(path).exists() and path not in there]
        told["wall_s"] = round(time.monotonic() - begun, 1)
    return told


def watch(child: subprocess.Popen[str], heard: list[float]) -> None:
    """Ends a process that has said nothing for too long."""
    while child.poll() is None:
        if time.monotonic() - heard[0] > DEAD:
            child.kill()
        time.sleep(0.5)


def main() -> int:
    """Runs all of it and prints a table; 1 where something was found."""
    if sys.argv[1:2] == ["--work"]:
        name, n, seed, place = sys.argv[2:]
        work(name, int(n), int(seed), Path(place))
        return 0
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--pictures", type=int, default=10_000)
    parser.add_argument("--others", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", default="")
    parser.add_argument("--out", type=Path)
    asked = parser.parse_args()
    import doors

    kinds = [*every_door()][: -len(doors.OTHERS)]
    plan = {name: -(-asked.pictures // len(kinds)) for name in kinds}
    plan |= {name: -(-asked.others // len(doors.OTHERS)) for name in doors.OTHERS} | {"bombs": 0}
    found = []
    heads = "".join(f"{column:>{width}}" for column, width in COLUMNS.items())
    print(f"{'':17}{heads}{'outside':>9}{'slowest s':>11}{'MiB':>6}")
    for name, n in plan.items():
        if asked.only and name not in asked.only.split(","):
            continue
        told = run(name, n, asked.seed)
        found.append(told)
        cells = "".join(f"{told[column]:>{width},}" for column, width in COLUMNS.items())
        print(
            f"{name:17}{cells}{len(told['outside']):>9}{told['slowest_s']:>11}{told['most_mib']:>6,}",
            flush=True,
        )
        for tree in (tree for seen in SEEN.values() for tree in told[seen][:5]):
            print("   ", json.dumps(tree)[:600])
        for path in told["outside"][:5]:
            print("    outside:", path)
    total = {k: sum(t[k] for t in found) for k in ("inputs", *FAULTS)}
    total["files outside"] = sum(len(t["outside"]) for t in found)
    total["MiB at most"] = max(t["most_mib"] for t in found)
    print(", ".join(f"{value:,} {key}" for key, value in total.items()))
    if asked.out:
        asked.out.write_text(json.dumps(found, indent=2) + "\n")
    return int(any(total[key] for key in (*FAULTS, "files outside")))


if __name__ == "__main__":
    sys.exit(main())

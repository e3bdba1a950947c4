"""Whether two run directories say the same: files, tensors bit for bit, log lines but for seconds."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open

TIMES = ("seconds", "tick_seconds", "sheet_seconds", "exam_seconds", "cost", "sheet")
# of recipe.json: the probe times and what the machine can afford follow from timing; the command says --out
UNLIKE = ("probe", "command", "exam")


def differences(one: Path, other: Path) -> list[str]:
    """One line for each thing that differs between two run directories."""
    ours, theirs = files(one), files(other)
    found = [f"only in {one.name}: {name}" for name in sorted(ours - theirs)]
    found += [f"only in {other.name}: {name}" for name in sorted(theirs - ours)]
    for name in sorted(ours & theirs):
        found += [f"{name}: {what}" for what in compared(one / name, other / name)]
    return found + scalars_differ(one, other)


def files(run: Path) -> set[str]:
    """All that a run left, but for TensorBoard's files, which have a time in their names."""
    names = {str(path.relative_to(run)) for path in run.rglob("*") if path.is_file()}
    return {name for name in names if not name.startswith("tensorboard")}


def compared(one: Path, other: Path) -> Iterator[str]:
    """What differs between two files of one name."""
    if one.suffix == ".safetensors":
        yield from tensors_differ(one, other)
    elif one.suffix == ".jsonl":
        a, b = (path.read_text().splitlines() for path in (one, other))
        if len(a) != len(b):
            yield f"{len(a)} lines and {len(b)}"
        for number, lines in enumerate(zip(a, b, strict=False), 1):
            x, y = (timeless(json.loads(line)) for line in lines)
            yield from (f"line {number}, {key}" for key in x.keys() | y.keys() if x.get(key) != y.get(key))
    elif one.name == "recipe.json":
        x, y = (json.loads(path.read_text()) for path in (one, other))
        for tree in (x, y):
            tree["calibration"] = tree.get("exam", {}).get("calibration")
        keys = (x.keys() | y.keys()) - set(UNLIKE)
        yield from (key for key in sorted(keys) if x.get(key) != y.get(key))
    elif one.read_bytes() != other.read_bytes():
        yield "bytes"


def timeless(tree: Any) -> Any:
    """A tree of JSON without what a clock said."""
    if isinstance(tree, dict):
        return {key: timeless(value) for key, value in tree.items() if key not in TIMES}
    return [timeless(item) for item in tree] if isinstance(tree, list) else tree


def tensors_differ(one: Path, other: Path) -> Iterator[str]:
    """Tensors by name, and the metadata; of a skeleton all but the seconds."""
    with safe_open(one, "pt") as a, safe_open(other, "pt") as b:
        names = set(a.keys()), set(b.keys())
        yield from (f"only in one: {name}" for name in sorted(names[0] ^ names[1]))
        for name in sorted(names[0] & names[1]):
            x, y = a.get_tensor(name), b.get_tensor(name)
            if x.shape != y.shape or x.dtype != y.dtype or bits(x) != bits(y):
                yield name
        x, y = (about(file.metadata() or {}) for file in (a, b))
        yield from (key for key in x.keys() | y.keys() if x.get(key) != y.get(key))


def bits(tensor: torch.Tensor) -> bytes:
    """As they lie: -0 is not 0, and nan is nan."""
    return bytes(tensor.contiguous().reshape(-1).view(torch.uint8).numpy().data)


def about(metadata: dict[str, str]) -> dict[str, Any]:
    """Metadata without the checksum, which covers the seconds too."""
    known: dict[str, Any] = {key: value for key, value in metadata.items() if key != "crc32"}
    if "skeleton" in known:
        tree = json.loads(known["skeleton"])
        tree["map"] = [pair for pair in tree["map"] if pair[0] != "seconds"]
        known["skeleton"] = tree
    return known


def scalars_differ(one: Path, other: Path) -> list[str]:
    """What TensorBoard shows of both, where it is installed."""
    try:
        from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    except ImportError:
        return []
    logging.getLogger("tensorboard").setLevel(logging.ERROR)  # it tells of each life that was cut off
    shown = []
    for run in (one, other):
        if not (run / "tensorboard").exists():
            return [] if not (other / "tensorboard").exists() else ["tensorboard"]
        read = EventAccumulator(str(run / "tensorboard"))
        read.Reload()
        tags = read.Tags()["scalars"]
        shown.append({tag: [(event.step, event.value) for event in read.Scalars(tag)] for tag in tags})
    a, b = shown
    return [f"tensorboard: {tag}" for tag in sorted(a.keys() | b.keys()) if a.get(tag) != b.get(tag)]

"""Where numbers come from: the command, the versions and the source, hashes of what went in and came out.

Nothing is executed to find out, git included.
"""

from __future__ import annotations

import hashlib
import os
import platform
import sys
from collections.abc import Mapping
from functools import lru_cache
from importlib import metadata
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import diptych
from diptych.system import parallel
from diptych.system.files import expanded
from diptych.system.machine import machine
from diptych.system.privacy import command_line

PACKAGE = Path(diptych.__file__).parent
LIBRARIES = ("numpy", "pillow", "safetensors", "scikit-learn")  # of what numbers depend on beside torch
CHUNK = 1 << 24  # bytes that are hashed at once


def environment(device: torch.device | str) -> dict[str, Any]:
    """What a training runs with: versions, command, machine, processes, and how matrices are multiplied."""
    return {
        "command": command(),
        "versions": versions(),
        "machine": machine(device),
        "processes": parallel.world(),
        "matmul": torch.get_float32_matmul_precision(),  # "highest": float32 throughout, no TF32
        "convolutions_tf32": bool(torch.backends.cudnn.allow_tf32),  # of a GPU's
    }


def command() -> str:
    """The command as it was typed, without secrets and home directories; none in an interactive session."""
    program, *arguments = sys.argv or [""]
    if program in ("", "-c"):
        return ""
    name = Path(program).name
    own = name == "diptych" or Path(program).parent == PACKAGE
    if (processes := parallel.world()) > 1:
        here = os.environ.get("LOCAL_WORLD_SIZE", str(processes))
        start = ["torchrun", "--nproc-per-node", here]
        if (nodes := processes // int(here)) > 1:
            start += ["--nnodes", str(nodes)]
        return command_line([*start, *(["-m", "diptych"] if own else [program]), *arguments])
    return command_line([*(["diptych"] if own else ["python", program]), *arguments])


def versions() -> dict[str, str]:
    """Of what numbers could depend on: the commit of a checkout, a hash of the source, libraries."""
    found = {"diptych": diptych.__version__}
    if known := commit():
        found["commit"] = known
    found |= {"source_sha256": source_sha256(), "python": platform.python_version()}
    found["torch"] = torch.__version__
    found |= {name: installed(name) for name in LIBRARIES}
    if torch.version.cuda and torch.cuda.is_available():
        found |= {"cuda": torch.version.cuda, "cudnn": str(torch.backends.cudnn.version())}  # type: ignore[no-untyped-call]
    return found


def installed(name: str) -> str:
    """The version of a library; "none" where it is not there."""
    try:
        return str(metadata.version(name))
    except metadata.PackageNotFoundError:
        return "none"


@lru_cache(maxsize=1)
def source_sha256() -> str:
    """Of the package's own Python files: a checkout may have changed since its commit."""
    digest = hashlib.sha256()
    for file in sorted(PACKAGE.rglob("*.py")):
        digest.update(f"{file.relative_to(PACKAGE).as_posix()}\0".encode())
        digest.update(file.read_bytes())
    return digest.hexdigest()


def commit(package: Path = PACKAGE) -> str:
    """The commit that a checkout stands at, read from its .git; empty where the package was installed."""
    git = package.parent.parent / ".git"
    if package.parent.name != "src" or not git.exists():  # site-packages may lie within a repository
        return ""
    try:
        if git.is_file():  # a worktree
            git = (git.parent / git.read_text(encoding="utf-8").removeprefix("gitdir:").strip()).resolve()
        head = (git / "HEAD").read_text(encoding="utf-8").strip()
        if not head.startswith("ref:"):
            return head
        shared = git / "commondir"
        places = [git, (git / shared.read_text(encoding="utf-8").strip())] if shared.exists() else [git]
        return _resolved(head.removeprefix("ref:").strip(), places)
    except (OSError, UnicodeError):
        return ""


def _resolved(ref: str, places: list[Path]) -> str:
    for place in places:
        if (place / ref).is_file():
            return (place / ref).read_text(encoding="utf-8").strip()
        packed = place / "packed-refs"
        for line in packed.read_text(encoding="utf-8").splitlines() if packed.is_file() else ():
            value, _, name = line.partition(" ")
            if name == ref:
                return value
    return ""


def tensors_sha256(tensors: Mapping[str, Tensor]) -> str:
    """Of names, types, shapes and values; the order does not matter, nor where they lie in memory."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu().contiguous()
        digest.update(f"{name}\0{tensor.dtype}\0{tuple(tensor.shape)}\0".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def file_sha256(path: Path) -> str:
    """Of a file's content."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while part := file.read(CHUNK):
            digest.update(part)
    return digest.hexdigest()


def weights_sha256(runs: Mapping[str, str]) -> dict[str, str]:
    """Hashes of the weights in these directories, by the same names; of those that have any."""
    found = {}
    for name, run in runs.items():
        weights = expanded(run) / "model.safetensors"  # recorded paths begin with ~
        if run and weights.is_file():
            found[name] = file_sha256(weights)
    return found

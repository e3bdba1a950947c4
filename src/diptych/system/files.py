"""Files that are either whole or not there: temporary name, fsync, rename."""

from __future__ import annotations

import errno
import json
import os
import tempfile
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from io import BufferedReader
from itertools import accumulate, chain, pairwise
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor

from diptych.errors import DiptychError, RunError
from diptych.system.privacy import cleaned

CHUNK = 1 << 18  # bytes
MAX_JSON_BYTES = 16 << 20  # as Python objects up to 25 times as much
# what a packed file may unpack to: a small one this much, a larger one this often; pictures pack to a tenth
UNPACKED_BYTES, UNPACKED_RATIO = 512 << 20, 50
_DTYPES = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.int16: "I16",
    torch.int8: "I8",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}  # as safetensors calls them
os.umask(UMASK := os.umask(0))  # it can only be read by setting it


def expanded(path: str | Path) -> Path:
    """A path with a home directory in the place of ~; as it is where there is no such home.

    Containers have users without one, for whom Path.expanduser raises.
    """
    return Path(os.path.expanduser(path))


def cache_folder() -> Path:
    """$DIPTYCH_CACHE, or diptych in $XDG_CACHE_HOME, ~/.cache or, without a home, the temporary directory."""
    if own := os.environ.get("DIPTYCH_CACHE"):
        return expanded(own)
    places = os.environ.get("XDG_CACHE_HOME", ""), "~/.cache", tempfile.gettempdir()
    return next(place for place in map(expanded, places) if place.is_absolute()) / "diptych"


def unpacked_at_most(path: Path) -> int:
    """The bytes that a packed file may declare: 512 MiB, or 50 times its size where that is more."""
    return max(UNPACKED_BYTES, UNPACKED_RATIO * path.stat().st_size)


def write(path: Path, produce: Callable[[Path], None]) -> None:
    """Lets `produce` write to a temporary name beside `path`, then moves it there in one step.

    Raises RunError where that fails: what was there before is still there.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        produce(temporary)
        temporary.chmod(0o666 & ~UMASK)  # libraries create theirs for the owner alone
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        raise RunError(f"{path} could not be written: {error.strerror or error}", remedy(error)) from error
    finally:
        with suppress(OSError):  # a directory that cannot be written to cannot be tidied either
            temporary.unlink(missing_ok=True)


def clear_temporaries(folder: Path) -> None:
    """Removes what processes that were killed in the middle of a `write` have left in a folder."""
    for left in folder.glob(".*.tmp"):
        left.unlink(missing_ok=True)


def is_temporary(path: Path) -> bool:
    """Whether it has a name that `write` gives to what is not yet whole."""
    return path.name.startswith(".") and path.suffix == ".tmp"


def append_line(path: Path, text: str) -> None:
    """One more line of a text file. Raises RunError that names it where it cannot be written."""
    try:
        with path.open("a", encoding="utf-8") as file:
            file.write(text + "\n")
            file.flush()
            os.fsync(file.fileno())  # a line is there before the checkpoint that follows it
    except OSError as error:
        raise RunError(f"{path} could not be written: {error.strerror or error}", remedy(error)) from error


def remedy(error: OSError) -> str:
    """What can be done where a file cannot be written, if that is known."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        return "make room: what was there before is untouched, and the same command goes on from it"
    return ""


def write_text(path: Path, text: str) -> None:
    """A text file, atomically."""

    def produce(temporary: Path) -> None:
        temporary.write_text(text, encoding="utf-8")

    write(path, produce)


def write_json(path: Path, tree: Any, verbatim: bool = False) -> None:
    """A JSON file, atomically; without secrets and home directories unless `verbatim` (see privacy.py)."""
    write_text(path, json.dumps(tree if verbatim else cleaned(tree), indent=2) + "\n")


def read_json(path: Path) -> Any:
    """A JSON file of at most 16 MiB. Raises RunError that names it where it is missing or damaged."""
    try:
        with path.open("rb") as file:
            data = file.read(MAX_JSON_BYTES + 1)
        if len(data) > MAX_JSON_BYTES:
            raise ValueError(f"it is longer than {MAX_JSON_BYTES:,} bytes")
        return json.loads(data.decode("utf-8"))
    except FileNotFoundError as error:
        raise RunError(f"there is no {path}") from error
    except (ValueError, OSError, RecursionError) as error:
        raise RunError(f"{path} cannot be read: {error}") from error


def write_tensors(
    path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None
) -> None:
    """A safetensors file, atomically: header length, JSON header, and the tensors' bytes."""
    dense = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    order = sorted(
        dense, key=lambda name: -dense[name].itemsize
    )  # so that each value lies at a multiple of its size
    ends = list(accumulate((dense[name].nbytes for name in order), initial=0))
    header = {
        name: {
            "dtype": _DTYPES[dense[name].dtype],
            "shape": list(dense[name].shape),
            "data_offsets": list(place),
        }
        for name, place in zip(order, pairwise(ends), strict=True)
    }
    head = json.dumps({"__metadata__": {**(metadata or {}), _SUM: _NO_SUM}} | header).encode()
    head += b" " * (-len(head) % 8)
    parts = [dense[name].reshape(-1).view(torch.uint8).numpy().data for name in order]
    head = head.replace(_field(_NO_SUM), _field(checksum([head, *parts])), 1)

    def produce(temporary: Path) -> None:
        with temporary.open("wb") as file:
            reserve(file.fileno(), 8 + len(head) + ends[-1])
            file.write(len(head).to_bytes(8, "little") + head)
            file.writelines(parts)

    write(path, produce)


_SUM, _NO_SUM = "crc32", "00000000"  # of header and tensors, with the sum itself left at zeros


def _field(value: str) -> bytes:
    """How the checksum stands in the header."""
    return f'"{_SUM}": "{value}"'.encode()


def checksum(parts: Iterable[bytes | memoryview]) -> str:
    """CRC-32 of all of these in order, as eight hexadecimal digits."""
    total = 0
    for part in parts:
        total = zlib.crc32(part, total)
    return f"{total:08x}"


def chunks(file: BufferedReader) -> Iterator[memoryview]:
    """The rest of a file, through one piece of memory that stays in the processor's cache."""
    chunk = memoryview(bytearray(CHUNK))
    while size := file.readinto(chunk):
        yield chunk[:size]


def verify(path: Path, recorded: str) -> None:
    """Raises RunError where a safetensors file is not what was written."""
    with path.open("rb") as file:
        head = file.read(int.from_bytes(file.read(8), "little"))
        found = checksum(chain([head.replace(_field(recorded), _field(_NO_SUM), 1)], chunks(file)))
    if found != recorded:
        raise RunError(
            f"{path} is damaged: its checksum is {found}, and {recorded} was written",
            "take another copy of it; a disk that changes files should not be trusted with more",
        )


def reserve(descriptor: int, size: int) -> None:
    """Takes the space on the disk at once: a full disk shows early, and the flush is shorter."""
    if not hasattr(os, "posix_fallocate"):
        return
    try:
        os.posix_fallocate(descriptor, 0, size)
    except OSError as error:
        if error.errno == errno.ENOSPC:  # a file system that cannot reserve is no reason to stop
            raise


def read_tensors(path: Path, summed: bool = False) -> tuple[dict[str, Tensor], dict[str, str]]:
    """The tensors and the metadata of a safetensors file.

    Raises RunError that names it where it is damaged; files of ours carry a checksum, and with `summed` they
    must.
    """
    try:
        with safe_open(path, "pt") as file:
            metadata = file.metadata() or {}
            if recorded := metadata.pop(_SUM, ""):
                verify(path, recorded)
            elif summed:
                raise RunError(f"{path} is damaged, or no training state: it carries no checksum")
            return {name: file.get_tensor(name) for name in file.keys()}, metadata  # noqa: SIM118
    except FileNotFoundError as error:
        raise RunError(f"there is no {path}") from error
    except DiptychError:
        raise
    except Exception as error:  # of a damaged header safetensors and torch each raise their own
        raise RunError(f"{path} cannot be read: {error}") from error


def write_state(path: Path, state: Any) -> None:
    """Any nesting of dicts, lists, tuples, numbers, strings and tensors, as safetensors with a JSON skeleton.

    Saves and loads several times faster than torch.save, and nothing in it executes.
    """
    tensors: dict[str, Tensor] = {}
    skeleton = json.dumps(_strip(state, "", tensors))
    write_tensors(path, tensors, {"skeleton": skeleton})


def read_state(path: Path, summed: bool = False) -> Any:
    """The inverse of `write_state`. Raises RunError that names the file where it is damaged.

    summed: it must have a checksum.
    """
    tensors, metadata = read_tensors(path, summed=summed)
    try:
        return _fill(json.loads(metadata["skeleton"]), tensors)
    except Exception as error:  # a tree of anything fails in any way
        raise RunError(f"{path} is not a training state") from error


def _strip(value: Any, place: str, tensors: dict[str, Tensor]) -> Any:
    if isinstance(value, Tensor):
        order = sorted(
            range(value.ndim), key=lambda d: -value.stride()[d]
        )  # as it lies: to reorder costs a copy
        tensors[place] = value.permute(order)
        return {"tensor": [place, *order]}
    if isinstance(value, Mapping):  # pairs, because keys may be numbers
        return {"map": [[key, _strip(item, f"{place}/{key}", tensors)] for key, item in value.items()]}
    if isinstance(value, (list, tuple)):
        kind = "list" if isinstance(value, list) else "tuple"
        return {kind: [_strip(item, f"{place}/{i}", tensors) for i, item in enumerate(value)]}
    return {"value": value}


def _fill(tree: Any, tensors: Mapping[str, Tensor]) -> Any:
    ((kind, content),) = tree.items()
    if kind == "tensor":
        place, *order = content
        return tensors[place].permute([order.index(d) for d in range(len(order))])
    if kind == "map":
        return {key: _fill(item, tensors) for key, item in content}
    if kind in ("list", "tuple"):
        return (list if kind == "list" else tuple)(_fill(item, tensors) for item in content)
    return content

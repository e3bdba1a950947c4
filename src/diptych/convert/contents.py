"""What a pickle of networks holds: for each network its class, its arguments and its tensors by name."""

from __future__ import annotations

import hashlib
import mmap
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, cast

from torch import Tensor

from diptych.convert.tensors import (
    ARRAYS,
    FROM_BYTES,
    PARAMETERS,
    SCALARS,
    STORAGES,
    TENSORS,
    Tensors,
    array,
    scalar,
)
from diptych.unpickler import ENCODE, ConvertError, Made, Name, read_pickle

DEEPEST = 32
MOST_LOOKS = 200_000  # real networks need some ten thousand
PERSISTENT = Name("torch_utils.persistence", "_reconstruct_persistent_obj")
DICTS = {Name("collections", "OrderedDict"), Name("dnnlib.util", "EasyDict"), Name("dnnlib", "EasyDict")}
SETS = {Name(module, "set") for module in ("builtins", "__builtin__")}
TYPES = {f"{kind}{bits}" for kind in ("float", "int", "uint", "bfloat") for bits in (8, 16, 32, 64)} | {
    "bool"
}
KNOWN = (
    {PERSISTENT, FROM_BYTES, ENCODE, Name("numpy", "ndarray"), Name("numpy", "dtype"), Name("torch", "Size")}
    | TENSORS
    | PARAMETERS
    | ARRAYS
    | SCALARS
    | DICTS
    | SETS
    | {Name("torch", name) for name in (*STORAGES, *TYPES)}
)
LAYERS = re.compile(
    r"torch\.nn\.modules\.[a-z_]+|R3GAN\.(Networks|FusedOperators|Resamplers)|training\.networks"
)


def allowed(name: Name) -> bool:
    """Whether a pickle of networks may hold this name: tensors, containers, layers."""
    return name in KNOWN or bool(LAYERS.fullmatch(name.module) and re.fullmatch(r"[A-Z]\w*", name.name))


@dataclass(frozen=True)
class Network:
    """One network of a file: nothing but names, plain values and tensors."""

    kind: str  # the class's name
    arguments: Mapping[str, Any]  # of its constructor, where the file tells them
    tensors: dict[str, Tensor]  # parameters and buffers
    attributes: dict[str, Any]  # plain values that its modules hold, by path


@dataclass(frozen=True)
class Contents:
    """The networks of a file, by the file's own names: G, D, G_ema."""

    networks: Mapping[str, Network]
    sha256: str


def read_networks(path: Path) -> Contents:
    """The networks of a pickle, without running anything of it.

    Raises ConvertError that names the file where it is none, damaged, or asks for something to be run.
    """
    try:
        if path.is_file() and not path.stat().st_size:
            raise ConvertError("it is empty", "was it fetched whole?")
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            check_head(data[:64])
            digest = hashlib.sha256(data).hexdigest()
            networks = dict(found(read_pickle(cast(IO[bytes], data), allowed)))
    except FileNotFoundError as error:
        raise ConvertError(f"there is no {path}") from error
    except IsADirectoryError as error:
        raise ConvertError(f"{path} is a directory, not a pickle of networks") from error
    except ConvertError as error:
        raise ConvertError(f"{path} was not converted: {error.message}", error.hint) from error
    except (OSError, ValueError) as error:
        raise ConvertError(f"{path} cannot be read: {error}") from error
    return Contents(networks, digest)


HEADS = (
    (b"PK", "a zip archive, perhaps of torch.save", "official networks come as .pkl files"),
    (b"<", "a web page", "the download has failed: fetch the file itself"),
    (b"version https://git-lfs", "a pointer of git-lfs, not the file itself", "git lfs pull fetches it"),
    (b"{", "text, not weights", ""),
)


def check_head(head: bytes) -> None:
    """Raises ConvertError where a file begins like something else than a pickle."""
    for start, what, hint in HEADS:
        if head.lstrip().startswith(start):
            raise ConvertError(f"it is {what}", hint)
    if len(head) > 8 and head[8:9] == b"{":
        raise ConvertError("it is a safetensors file", "those need no conversion")
    if head[:1] != b"\x80" or head[1:2] not in (b"\x02", b"\x03", b"\x04", b"\x05"):
        raise ConvertError("it is not a pickle of protocol 2 to 5", "official networks come as .pkl files")


def found(tree: Any) -> Iterator[tuple[str, Network]]:
    """All networks at the top of a pickle."""
    top = mapping(tree)
    if top is None:
        raise ConvertError("it holds no networks by name", "training leaves pickles with G, D and G_ema")
    reader = Reader()
    for name, value in top.items():
        described = state_of(value)
        if isinstance(name, str) and described is not None:
            yield name, reader.network(value, *described)


class Reader:
    """Reads networks; what a file names many times over is still looked at so many times in all at most."""

    def __init__(self) -> None:
        self.tensors, self.looks = Tensors(), 0

    def look(self, times: int = 1) -> None:
        """Counts. Raises ConvertError where it is too often: few bytes can describe endless trees."""
        self.looks += times
        if self.looks > MOST_LOOKS:
            raise ConvertError(f"it describes more than {MOST_LOOKS:,} things")

    def network(self, made: Made, kind: str, state: Mapping[Any, Any]) -> Network:
        """A network and all that it consists of."""
        given = mapping(state.get("_init_kwargs")) or {}
        arguments = {str(name): self.plain(value) for name, value in given.items()}
        held = Network(kind, arguments, {}, {})
        self.gather(made, "", held, 0)
        return held

    def gather(self, made: Any, prefix: str, held: Network, depth: int) -> None:
        """Notes tensors and plain values of a module and of those within it."""
        described = state_of(made)
        if described is None or depth > DEEPEST:
            raise ConvertError(f"its part {prefix[:80] or 'at the top'} is no module, or lies too deep")
        _, state = described
        for group in ("_parameters", "_buffers"):
            for name, value in (mapping(state.get(group)) or {}).items():
                self.look()
                if value is not None:
                    held.tensors[f"{prefix}{name}"] = self.tensors.tensor(value)
        for name, value in state.items():
            self.look()
            if isinstance(value, str | int | float | bool) and not str(name).startswith("_"):
                held.attributes[f"{prefix}{name}"] = value
        for name, value in (mapping(state.get("_modules")) or {}).items():
            if value is not None:
                self.gather(value, f"{prefix}{name}.", held, depth + 1)

    def plain(self, value: Any, depth: int = 0) -> Any:
        """Numbers, text, lists and dicts. Raises ConvertError for anything else, and where it nests deep."""
        self.look()
        if depth > DEEPEST:
            raise ConvertError("its arguments nest too deep")
        if value is None or isinstance(value, str | int | float | bool):
            return value
        if isinstance(value, list | tuple):
            return [self.plain(item, depth + 1) for item in value]
        if (items := mapping(value)) is not None:
            return {str(name): self.plain(item, depth + 1) for name, item in items.items()}
        if isinstance(value, Made) and value.what in SCALARS:
            return scalar(value)
        if isinstance(value, Made) and value.what in ARRAYS:
            found = array(value)
            self.look(found.size)
            return found.tolist()
        what = value.what if isinstance(value, Made) else type(value).__name__
        raise ConvertError(f"its arguments hold {what}, which is no number, text or list of them")


def state_of(value: Any) -> tuple[str, Mapping[Any, Any]] | None:
    """The class's name and the attributes of a module; None for anything else."""
    if not isinstance(value, Made):
        return None
    if value.what == PERSISTENT:
        meta = mapping(value.arguments[0]) if value.arguments else None
        state = mapping(meta.get("state")) if meta else None
        kind = meta.get("class_name") if meta else None
        return (kind, state) if isinstance(kind, str) and state is not None else None
    state = mapping(value.state)
    return None if state is None or "_modules" not in state else (value.what.name, state)


def mapping(value: Any) -> Mapping[Any, Any] | None:
    """A dict or what stands for one."""
    if isinstance(value, Made) and value.what in DICTS:
        return value.items
    return value if isinstance(value, dict) else None

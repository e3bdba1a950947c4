"""Tensors and arrays of a pickle that was read as data, with every length checked against what is there."""

from __future__ import annotations

import io
import math
from typing import Any

import numpy as np
import torch
from torch import Tensor

from diptych.unpickler import ConvertError, Made, Name, Stored, read_pickle

MAGIC = 0x1950A86A20F9469CFC6C  # torch.save's, before it wrote archives
STORAGES = {
    "DoubleStorage": torch.float64,
    "FloatStorage": torch.float32,
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "LongStorage": torch.int64,
    "IntStorage": torch.int32,
    "ShortStorage": torch.int16,
    "CharStorage": torch.int8,
    "ByteStorage": torch.uint8,
    "BoolStorage": torch.bool,
}
TENSORS = {Name("torch._utils", name) for name in ("_rebuild_tensor", "_rebuild_tensor_v2")}
PARAMETERS = {Name("torch._utils", name) for name in ("_rebuild_parameter", "_rebuild_parameter_with_state")}
FROM_BYTES = Name("torch.storage", "_load_from_bytes")
ARRAYS = {Name(f"numpy.{core}.multiarray", "_reconstruct") for core in ("core", "_core")}
SCALARS = {Name(f"numpy.{core}.multiarray", "scalar") for core in ("core", "_core")}
KINDS = {"f2", "f4", "f8", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "b1"}
LARGEST_RANK = 8


class Tensors:
    """Reads tensors; storages that several of them share are read once."""

    def __init__(self) -> None:
        self.storages: dict[int, tuple[Any, Tensor]] = {}

    def tensor(self, made: Any) -> Tensor:
        """A tensor or a parameter, as it lay in memory. Raises ConvertError where it does not fit."""
        if isinstance(made, Made) and made.what in PARAMETERS and made.arguments:
            made = made.arguments[0]
        if not isinstance(made, Made) or made.what not in TENSORS or len(made.arguments) < 4:
            raise ConvertError(f"it has {described(made)} where a tensor should be")
        storage, offset, size, stride = made.arguments[:4]
        flat, size, stride = self.storage(storage), whole(size), whole(stride)
        if len(size) != len(stride) or len(size) > LARGEST_RANK or whole((offset,)) != (offset,):
            raise ConvertError("it has a tensor whose shape is none")
        last = offset + sum((n - 1) * step for n, step in zip(size, stride, strict=True))
        count = math.prod(size)
        if count > flat.numel() or (count and last >= flat.numel()):
            raise ConvertError(f"it has a tensor of shape {size} that needs more values than it brings")
        return flat.as_strided(size, stride, offset) if count else flat.new_empty(size)

    def storage(self, made: Any) -> Tensor:
        """All values of a storage, (n,)."""
        if not isinstance(made, Made) or made.what != FROM_BYTES or len(made.arguments) != 1:
            raise ConvertError(f"it has {described(made)} where the values of a tensor should be")
        (held,) = made.arguments
        known = self.storages.get(id(held))
        if known is None:
            known = self.storages[id(held)] = held, storage(as_bytes(held))  # kept: its id stays its own
        return known[1]


def whole(values: Any) -> tuple[int, ...]:
    """Whole numbers of at least 0. Raises ConvertError for anything else."""
    if not isinstance(values, tuple | list) or not all(type(v) is int and 0 <= v < 2**40 for v in values):
        raise ConvertError("it has a tensor whose shape is none")
    return tuple(values)


def storage(data: bytes) -> Tensor:
    """The values that torch.save wrote into bytes within a pickle, (n,)."""
    source = io.BytesIO(data)
    if read_pickle(source, no_names) != MAGIC:
        raise ConvertError("it has values of a tensor that torch did not write")
    read_pickle(source, no_names)  # the version of the protocol
    system = read_pickle(source, no_names)
    if isinstance(system, dict) and not system.get("little_endian", True):
        raise ConvertError("its tensors were written on a big-endian machine, which is not read here")
    found, keys = read_pickle(source, is_storage, stored=True), read_pickle(source, no_names)
    key = found.key if isinstance(found, Stored) else ()
    if len(key) < 5 or key[0] != "storage" or not isinstance(key[1], Name) or keys != [key[2]]:
        raise ConvertError("it has values of a tensor that torch did not write")
    dtype = STORAGES[key[1].name]
    count = int.from_bytes(source.read(8), "little")
    raw = memoryview(data)[source.tell() :]
    if key[4] != count or len(raw) != count * dtype.itemsize:
        raise ConvertError(f"it has {len(raw):,} bytes where {count:,} values of a tensor should be")
    return torch.frombuffer(bytearray(raw), dtype=dtype) if count else torch.empty(0, dtype=dtype)


def no_names(name: Name) -> bool:
    """Nothing is allowed."""
    return False


def is_storage(name: Name) -> bool:
    """The kinds of numbers that tensors are made of."""
    return name.module == "torch" and name.name in STORAGES


def array(made: Made) -> np.ndarray[Any, Any]:
    """A numpy array of numbers. Raises ConvertError for any other."""
    state = made.state
    if not isinstance(state, tuple) or len(state) != 5:
        raise ConvertError("it has an array without values")
    _, size, kind, fortran, data = state
    data, dtype, size = as_bytes(data), number_type(kind), whole(size)
    if len(size) > LARGEST_RANK or len(data) != math.prod(size) * dtype.itemsize:
        raise ConvertError(f"it has an array of shape {size} with {len(data):,} bytes")
    return np.frombuffer(data, dtype).reshape(size, order="F" if fortran is True else "C")


def scalar(made: Made) -> float | int | bool:
    """A number of numpy's as Python's own."""
    if len(made.arguments) != 2:
        raise ConvertError("it has a number without a value")
    dtype, data = number_type(made.arguments[0]), as_bytes(made.arguments[1])
    if len(data) != dtype.itemsize:
        raise ConvertError("it has a number without a value")
    return np.frombuffer(data, dtype)[0].item()  # type: ignore[no-any-return]


def number_type(made: Any) -> np.dtype[Any]:
    """A type of numbers; those of objects, which numpy would unpickle, are none."""
    kind = made.arguments[0] if isinstance(made, Made) and made.arguments else None
    if (
        not isinstance(made, Made)
        or made.what != Name("numpy", "dtype")
        or not isinstance(kind, str)
        or kind not in KINDS
    ):
        raise ConvertError("it has an array of something else than numbers")
    order = made.state[1] if isinstance(made.state, tuple) and len(made.state) > 1 else "<"
    swapped: np.dtype[Any] = np.dtype(kind).newbyteorder(">" if order == ">" else "<")
    return swapped


def as_bytes(value: Any) -> bytes:
    """Bytes. Raises ConvertError for anything else."""
    if not isinstance(value, bytes):
        raise ConvertError("it has numbers without values")
    return value


def described(value: Any) -> str:
    """What something is, in a few words."""
    return str(value.what) if isinstance(value, Made) else f"a {type(value).__name__}"

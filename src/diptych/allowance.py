"""How much a description out of a file may build: memory, operations, modules, time; counted as it happens.

What is asked for is refused before it is allocated: each operation's result is worked out from its arguments.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from functools import lru_cache
from itertools import zip_longest
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.module import register_module_module_registration_hook
from torch.utils._python_dispatch import TorchDispatchMode

from diptych.errors import RunError

# at most so many, and for each stored value as many again: BigGAN takes 32 bytes to begin orthogonal
BYTES, PER_VALUE = 128 << 20, 40
OPERATIONS, PER_TENSOR = 5_000, 100
MODULES = 100_000
SECONDS, VALUES_A_SECOND = 30.0, 5e6  # for Python loops that ask for nothing


class TooMuch(RunError):
    """A file describes more than its weights account for."""


class Allowance(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts what is asked of torch in this thread, and refuses what goes beyond."""

    def __init__(self, values: int, tensors: int) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.thread, self.begun = threading.get_ident(), time.monotonic()
        self.bytes, self.operations, self.modules = 0, 0, 0
        self.most_bytes, self.most_operations, self.seconds = BYTES, OPERATIONS, SECONDS
        self.extend(values, tensors)

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False  # or the first operation imports the compiler, which takes seconds

    def extend(self, values: int, tensors: int) -> None:
        """More weights are there than was known."""
        self.most_bytes += PER_VALUE * values
        self.most_operations += PER_TENSOR * tensors
        self.seconds += values / VALUES_A_SECOND

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        self.operations += 1
        expected = asked(func, args, kwargs)
        self.count_bytes(expected)
        if self.operations > self.most_operations:
            raise TooMuch(f"it asks for more than {self.most_operations:,} operations to be built")
        self.check_time()
        made = func(*args, **kwargs)
        if not taken(func):  # what its arguments did not tell
            self.count_bytes(max(0, sum(p.nbytes for p in parts_of(made) if not p.is_meta) - expected))
        return made

    def count_bytes(self, more: int) -> None:
        """So many more. Raises TooMuch where they are too many."""
        self.bytes += more
        if self.bytes > self.most_bytes:
            raise TooMuch(
                f"it asks for {self.bytes / 2**20:,.0f} MiB or more, where its weights allow for "
                f"{self.most_bytes / 2**20:,.0f}"
            )

    def count_module(self) -> None:
        """One more. Raises TooMuch where they are too many."""
        self.modules += 1
        if self.modules > MODULES:
            raise TooMuch(f"it describes more than {MODULES:,} modules")
        self.check_time()

    def check_time(self) -> None:
        """Raises TooMuch where building has taken too long."""
        if time.monotonic() - self.begun > self.seconds:
            raise TooMuch(f"it could not be built within {self.seconds:,.0f} s")


_current: ContextVar[Allowance | None] = ContextVar("allowance", default=None)


@contextmanager
def allowance(values: int = 0, tensors: int = 0) -> Iterator[Allowance]:
    """Within, a model may be built that has so many stored values in so many tensors; one within it adds up.

    Raises TooMuch beyond 128 MiB and 40 bytes a value (all that is asked for, whether or not it is given
    back), 5,000 operations and 100 a tensor, 100,000 modules, 30 s and a second for five million values.
    """
    outer = _current.get()
    if outer is not None:
        outer.extend(values, tensors)
        yield outer
        return
    mode = Allowance(values, tensors)

    def count(module: nn.Module, name: str, part: nn.Module | None) -> None:
        if threading.get_ident() == mode.thread:
            mode.count_module()

    hook = register_module_module_registration_hook(count)
    token = _current.set(mode)
    try:
        with mode:
            yield mode
    finally:
        _current.reset(token)
        hook.remove()


def asked(func: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> int:
    """The bytes that an operation will take for its results, as far as its arguments tell.

    Worked out by hand: the meta device would import the compiler. Results that only broadcast, multiply or
    join their inputs are counted as large as inputs of these shapes can make them.
    """
    if taken(func):
        return 0
    given = dict(zip(names_of(func), args, strict=False)) | dict(kwargs)
    tensors = [part for value in given.values() for part in parts_of(value)]
    if any(part.is_meta for part in tensors) or str(given.get("device")) == "meta":
        return 0
    dtype = given.get("dtype")
    width = max((part.itemsize for part in tensors), default=4)
    width = dtype.itemsize if isinstance(dtype, torch.dtype) else width
    if "mat2" in given or "vec" in given:  # a product of matrices
        left, right = tensors[-2:]
        columns = right.shape[-1] if right.ndim > 1 else 1
        return int(width * math.prod(left.shape[:-1]) * columns)
    return int(width * values_asked(given, tensors))


def values_asked(given: Mapping[str, Any], tensors: Sequence[Tensor]) -> int:
    """How many values results have."""
    first = tensors[0].numel() if tensors else 1
    sizes = given.get("size", given.get("output_size"))
    if isinstance(sizes, list | tuple):
        outer = math.prod(tensors[0].shape[: -len(sizes)]) if "output_size" in given and tensors else 1
        return outer * math.prod(sizes)
    if isinstance(repeats := given.get("repeats"), list | tuple):
        return first * math.prod(repeats)
    if "steps" in given:
        return int(given["steps"])
    if "end" in given and not tensors:
        step = given.get("step") or 1
        return int(abs((given["end"] - (given.get("start") or 0)) / step)) + 1
    if "n" in given and not tensors:  # eye
        return int(given["n"]) * int(given.get("m", given["n"]))
    if isinstance(pad := given.get("pad"), list | tuple) and tensors:
        added = [a + b for a, b in zip(pad[::2], pad[1::2], strict=False)]
        return math.prod(n + more for n, more in zip_longest(reversed(tensors[0].shape), added, fillvalue=0))
    spread = math.prod(map(max, zip_longest(*(reversed(t.shape) for t in tensors), fillvalue=1)))
    return max(spread, sum(tensor.numel() for tensor in tensors)) if len(tensors) > 1 else first


def parts_of(value: Any) -> list[Tensor]:
    """The tensors that an argument is, or holds."""
    return [
        part for part in (value if isinstance(value, list | tuple) else (value,)) if isinstance(part, Tensor)
    ]


@lru_cache(maxsize=1024)
def taken(func: Any) -> bool:
    """Whether results lie in memory that is taken already."""
    resizes = func is torch.ops.aten.resize_.default
    viewed = func.is_view or func is torch.ops.aten._unsafe_view.default
    return bool(viewed or (func._schema.is_mutable and not resizes))


@lru_cache(maxsize=1024)
def names_of(func: Any) -> list[str]:
    """Of an operation's arguments, in order."""
    return [argument.name for argument in func._schema.arguments]

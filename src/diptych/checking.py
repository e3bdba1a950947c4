"""Whether values out of a file are what annotations say, before anything is made of them. No torch."""

from __future__ import annotations

import inspect
import math
import types
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass
from functools import lru_cache
from typing import Annotated, Any, Literal, NamedTuple, TypeVar, Union, get_args, get_origin, get_type_hints

from diptych.errors import RunError

T = TypeVar("T")
UNBOUNDED = "may be infinite, or not a number"
Unbounded = Annotated[float, UNBOUNDED]  # how a class says that it takes such numbers out of a file
MOST = 2**63 - 1  # of a whole number: that of 64 bits
DEEPEST = 64  # objects and lists within each other
_NAMES = {
    int: "a whole number",
    float: "a finite number",
    bool: "true or false",
    str: "text",
    type(None): "null",
}


@dataclass(frozen=True)
class Within:
    """What a number may be, as an annotation: `Annotated[float, at_least(0, "0 is none")]`."""

    holds: Callable[[float], bool]
    says: str  # completes "must be ..."
    hint: str = ""  # what the number does, or which are usual


def between(low: float, high: float, hint: str = "") -> Within:
    """From one number to another, the two included."""
    return Within(lambda value: low <= value <= high, f"from {low:g} to {high:g}", hint)


def at_least(low: float, hint: str = "") -> Within:
    """This number or a larger one."""
    return Within(lambda value: value >= low, f"at least {low:g}", hint)


class Misfit(NamedTuple):
    """A value that is not of its annotated kind; as text "steps is 2.5, not a whole number"."""

    name: str  # of the value, "sigmas[1]" where it stands in a list
    found: str
    wanted: str

    def __str__(self) -> str:
        return f"{self.name} is {self.found}, not {self.wanted}"


def shown(value: Any, most: int = 60) -> str:
    """A value of a stranger's in a message: short, and without what a terminal would obey.

    >>> shown("a" * 99, 10), shown("red\\x1b[31m")
    ("'aaaaaaaa...", "'red\\\\x1b[31m'")
    """
    if isinstance(value, Mapping | list | tuple):
        return f"{'an object' if isinstance(value, Mapping) else 'a list'} of {len(value):,}"
    text = f"{value:.6g}" if isinstance(value, int) and abs(value) > 10**9 and abs(value) < 10**300 else ""
    text = text or (ascii(value[: most + 1]) if isinstance(value, str) else ascii(value))
    return text if len(text) <= most else f"{text[: most - 1]}..."


def misfit(value: Any, kind: Any, name: str, *, finite: bool = True) -> str:
    """Why a value is not of this annotated kind, as a sentence; empty where it is: see `unfit`."""
    return str(unfit(value, kind, name, finite=finite) or "")


def unfit(value: Any, kind: Any, name: str, *, finite: bool = True) -> Misfit | None:
    """Where a value, or one within it, is not of this annotated kind; None where it is.

    A bool is no number, a whole number will do for a float, a list for a tuple. finite: floats are, except
    those annotated `Unbounded`.
    """
    origin, parts = get_origin(kind), get_args(kind)
    if origin is Annotated:
        return unfit(value, parts[0], name, finite=finite and UNBOUNDED not in parts[1:])
    if kind is Any or kind is object or isinstance(kind, TypeVar):
        return None
    if origin in (Union, types.UnionType):
        fits = any(unfit(value, part, name, finite=finite) is None for part in parts)
    elif origin is Literal:
        fits = any(value == one and type(value) is type(one) for one in parts)
    elif origin is not None and issubclass(origin, Mapping):
        return _in_mapping(value, kind, name, finite)
    elif origin is not None and issubclass(origin, Sequence):
        return _in_sequence(value, kind, name, finite)
    elif kind is float:
        fits = type(value) in (int, float) and (_finite(value) or (type(value) is float and not finite))
    elif kind is int:
        fits = type(value) is int and -MOST <= value <= MOST
    elif kind in (bool, str):
        fits = type(value) is kind
    else:
        fits = isinstance(value, type(None) if kind is None else origin or kind)
    return None if fits else _not(value, kind, name)


def _finite(value: float) -> bool:
    try:
        return math.isfinite(value)
    except OverflowError:  # a whole number that no float can be
        return False


def _not(value: Any, kind: Any, name: str) -> Misfit:
    return Misfit(name, shown(value), _said(kind))


def _said(kind: Any) -> str:
    """A kind in words."""
    origin, parts = get_origin(kind), get_args(kind)
    if origin is Annotated:
        return "a number" if UNBOUNDED in parts[1:] else _said(parts[0])
    if origin in (Union, types.UnionType):
        return " or ".join(map(_said, parts))
    if origin is Literal:
        return " or ".join(map(repr, parts))
    if origin is not None:
        return "an object" if issubclass(origin, Mapping) else "a list"
    return _NAMES.get(kind) or f"a {getattr(kind, '__name__', kind)}"


def _in_mapping(value: Any, kind: Any, name: str, finite: bool) -> Misfit | None:
    if not isinstance(value, Mapping):
        return _not(value, kind, name)
    key_kind, item_kind = get_args(kind) or (Any, Any)
    for key, item in value.items():
        here = f"{name}.{shown(key)[1:-1] if isinstance(key, str) else key}"
        if found := unfit(key, key_kind, f"a key of {name}") or unfit(item, item_kind, here, finite=finite):
            return found
    return None


def _in_sequence(value: Any, kind: Any, name: str, finite: bool) -> Misfit | None:
    if not isinstance(value, list | tuple):
        return _not(value, kind, name)
    parts = get_args(kind) or (Any, ...)
    if get_origin(kind) is tuple and (len(parts) != 2 or parts[1] is not ...):
        if len(value) != len(parts):
            return Misfit(name, f"a list of {len(value):,}", f"of {len(parts)}")
        kinds: Sequence[Any] = parts
    else:
        kinds = [parts[0]] * len(value)
    found = (
        unfit(one, part, f"{name}[{i}]", finite=finite)
        for i, (one, part) in enumerate(zip(value, kinds, strict=True))
    )
    return next(filter(None, found), None)


def kinds_of(cls: type) -> Mapping[str, Any]:
    """What each argument of a class is annotated as; `Any` where it is not."""
    return _kinds_of(cls)


@lru_cache(maxsize=512)
def _kinds_of(cls: Any) -> Mapping[str, Any]:
    if is_dataclass(cls):
        names, hints = [f.name for f in fields(cls)], get_type_hints(cls, include_extras=True)
    else:
        construct = inspect.unwrap(cls.__init__)
        names = list(inspect.signature(cls).parameters)
        hints = get_type_hints(construct, include_extras=True)
    return {name: hints.get(name, Any) for name in names}


def made(cls: type[T], given: Mapping[str, Any], what: str) -> T:
    """A frozen dataclass of plain values from a file's, each checked; unknown ones are left out.

    Infinite numbers pass: what is measured may be infinite. Raises RunError that says where `what` is wrong.
    """
    known = {name: given[name] for name in kinds_of(cls) if name in given}
    for name, kind in kinds_of(cls).items():
        if name in known and (said := misfit(known[name], kind, name, finite=False)):
            raise RunError(f"{what} cannot be read: {said}")
    try:
        return cls(**{name: _as_annotated(value, kinds_of(cls)[name]) for name, value in known.items()})
    except (TypeError, ValueError) as error:
        raise RunError(f"{what} cannot be read: {error}") from error


def _as_annotated(value: Any, kind: Any) -> Any:
    """JSON's lists as tuples, where that is what is annotated."""
    if get_origin(kind) is not tuple or not isinstance(value, list):
        return value
    parts = get_args(kind)
    kinds = [parts[0]] * len(value) if parts[1:] == (...,) else parts
    return tuple(_as_annotated(one, part) for one, part in zip(value, kinds, strict=True))


def need(tree: Any, kinds: Mapping[str, Any], what: str) -> Mapping[str, Any]:
    """An object out of a file that has these fields, each of its kind. Raises RunError where it has not."""
    if not isinstance(tree, Mapping):
        raise RunError(f"{what} cannot be read: it holds {shown(tree)}, not an object")
    for name, kind in kinds.items():
        if name not in tree:
            raise RunError(f"{what} cannot be read: it has no {name}")
        if said := misfit(tree[name], kind, name, finite=False):
            raise RunError(f"{what} cannot be read: {said}")
    return tree


def bounded(tree: Any, what: str, most: int = 1 << 20) -> None:
    """Raises RunError where lists and objects nest deeper than DEEPEST or hold more than `most` values."""
    level, count = [tree], 0
    for _ in range(DEEPEST):
        inside = [
            part
            for one in level
            if isinstance(one, Mapping | list | tuple)
            for part in (one.values() if isinstance(one, Mapping) else one)
        ]
        count += len(inside)
        if count > most:
            raise RunError(f"{what} holds more than {most:,} values")
        if not inside:
            return
        level = inside
    raise RunError(f"{what} nests deeper than {DEEPEST} levels")

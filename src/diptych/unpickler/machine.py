"""The stack and the memo of a pickle, with notes in the place of what would be made."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from diptych.errors import DiptychError

MOST_MEMO = 1_000_000
LONGEST_NAME = 200
FARTHEST_KEY = 2**63


class ConvertError(DiptychError):
    """A file of weights that is not what it should be, that is damaged, or that asks for what it must not."""

    def __init__(self, message: str, hint: str = "") -> None:
        # messages quote the file, and what a terminal would obey is not repeated to it
        super().__init__("".join(c if c.isprintable() else "?" for c in message), hint)


@dataclass(frozen=True, slots=True)
class Name:
    """What a pickle calls by name; it is never looked up."""

    module: str
    name: str

    def __str__(self) -> str:
        return f"{self.module}.{self.name}"


@dataclass(slots=True, eq=False)
class Made:
    """What a pickle would have made by calling `what(*arguments)`, with the state it would have got."""

    what: Name
    arguments: tuple[Any, ...]
    state: Any = None
    items: dict[Any, Any] = field(default_factory=dict)
    members: list[Any] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Stored:
    """A persistent id: something that lies elsewhere in the file."""

    key: tuple[Any, ...]


ENCODE = Name("_codecs", "encode")


class Mark:
    """Where on the stack a sequence begins."""


MARK = Mark()
Atom = str | bytes | int | float | bool | None


class Machine:
    """The stack and the memo that opcodes work on."""

    def __init__(self, allowed: Callable[[Name], bool], stored: bool) -> None:
        self.allowed, self.stored = allowed, stored
        self.stack: list[Any] = []
        self.memo: dict[int, Any] = {}
        self.result: Any = None
        self.position = 0

    def pop(self) -> Any:
        """The uppermost value."""
        value = self.stack.pop()
        if value is MARK:
            raise ValueError("a mark where a value should be")
        return value

    def top(self) -> Any:
        """The uppermost value, left where it is."""
        value = self.stack[-1]
        if value is MARK:
            raise ValueError("a mark where a value should be")
        return value

    def since_mark(self) -> list[Any]:
        """All above the last mark, which goes too."""
        place = len(self.stack) - 1
        while self.stack[place] is not MARK:
            place -= 1
            if place < 0:
                raise ValueError("no mark")
        values = self.stack[place + 1 :]
        del self.stack[place:]
        return values

    def remember(self, index: int) -> None:
        """Notes the uppermost value under a number."""
        if not 0 <= index < MOST_MEMO:
            raise ValueError(f"memo {index} is out of range")
        self.memo[index] = self.top()

    def name(self, module: Any, name: Any) -> None:
        """A name, if it is on the list."""
        if not isinstance(module, str) or not isinstance(name, str):
            raise ValueError("a name that is not text")
        found = Name(module, name)
        if len(module) + len(name) > LONGEST_NAME or not self.allowed(found):
            raise ConvertError(
                f"it asks for {str(found)[:80]}, which weights do not need; nothing of it was run",
                hint_for(found),
            )
        self.stack.append(found)

    def call(self, arguments: Any, what: Any) -> None:
        """A note of a call."""
        if not isinstance(what, Name):
            raise ValueError("a call of something that is not a name")
        if not isinstance(arguments, tuple):
            raise ValueError("a call whose arguments are not a tuple")
        self.stack.append(encoded(arguments) if what == ENCODE else Made(what, arguments))

    def build(self) -> None:
        """A note of the state of something made."""
        state, made = self.pop(), self.top()
        if not isinstance(made, Made) or made.state is not None:
            raise ValueError("a state for something that has none")
        made.state = state

    def extend(self, values: list[Any]) -> None:
        """More members of a list, a set, or something made."""
        target = self.top()
        if isinstance(target, list):
            target.extend(values)
        elif isinstance(target, Made):
            target.members.extend(values)
        else:
            raise ValueError("members for something that is not a list")

    def insert(self, values: list[Any]) -> None:
        """More items of a dict or something made."""
        target = self.top()
        items = target.items if isinstance(target, Made) else target
        if not isinstance(items, dict) or len(values) % 2:
            raise ValueError("items for something that is not a dict")
        items.update(pairs(values))

    def persistent(self, key: Any) -> None:
        """A reference to something that lies elsewhere in the file."""
        if not self.stored or not isinstance(key, tuple):
            raise ConvertError("it refers to something outside of itself")
        self.stack.append(Stored(key))


def encoded(arguments: tuple[Any, ...]) -> bytes:
    """Bytes, out of the text that stands for them."""
    if len(arguments) != 2 or not isinstance(arguments[0], str) or arguments[1] != "latin1":
        raise ConvertError("it encodes something that is not latin1 text")
    return arguments[0].encode("latin1")


def hint_for(name: Name) -> str:
    """What a person may do about a file that asks for this."""
    if name.module.startswith("dnnlib.tflib"):
        return (
            "it is of the TensorFlow version; legacy.py of stylegan2-ada-pytorch makes a torch pickle of it"
        )
    return "a file of weights that asks for code is hostile, or of a kind of network that is not known here"


def pairs(values: list[Any]) -> Iterator[tuple[Atom, Any]]:
    """Keys and values; keys are text or numbers: the hash of anything else may take forever.

    Whole numbers have 64 bits: all multiples of 2^61 - 1 have the same hash, and a dict of many of them takes
    time that grows with the square of their number.
    """
    for key, value in zip(values[::2], values[1::2], strict=True):
        if not isinstance(key, str | bytes | int | float | bool | None):
            raise ValueError("a key that is neither text nor a number")
        if isinstance(key, int) and not -FARTHEST_KEY <= key < FARTHEST_KEY:
            raise ValueError("a key beyond 64 bits")
        yield key, value

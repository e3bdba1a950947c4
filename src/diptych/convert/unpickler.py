"""A pickle read as data: its opcodes are followed, and nothing that it names is imported, called or set.

An ordinary unpickler calls what a file tells it to call. Here a name stays a name, a call stays a note of
what would have been called with what, and only names that pickles of networks need may appear at all.
"""

from __future__ import annotations

import pickletools
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import IO, Any

from diptych.errors import DiptychError

MOST_OPCODES = 5_000_000
MOST_MEMO = 1_000_000
LONGEST_NAME = 200


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


class Mark:
    """Where on the stack a sequence begins."""


MARK = Mark()
Atom = str | bytes | int | float | bool | None
Step = Callable[["Machine", Any], None]


def read_pickle(source: IO[bytes], allowed: Callable[[Name], bool], stored: bool = False) -> Any:
    """The next pickle of `source` as plain values, `Made`, `Name` and, where `stored`, `Stored`.

    source lies in memory or is mapped to it, so that no length in it can ask for more than there is.

    Raises ConvertError where it is damaged, too long, or names what is not allowed.
    """
    machine = Machine(allowed, stored)
    try:
        for code, argument, position in limited(pickletools.genops(source)):
            machine.position = position or 0
            step = STEPS.get(code)
            if step is None:
                raise ConvertError(f"it holds the instruction {code}, which pickles of networks do not need")
            step(machine, argument)
    except (ValueError, IndexError, KeyError, OverflowError, MemoryError, RecursionError) as error:
        raise ConvertError(f"it is damaged at byte {machine.position:,}: {reason(error)}") from error
    return machine.result


def limited(steps: Iterator[tuple[Any, Any, int | None]]) -> Iterator[tuple[str, Any, int | None]]:
    """The opcodes' names, with an end to their number."""
    for count, (opcode, argument, position) in enumerate(steps):
        if count >= MOST_OPCODES:
            raise ConvertError(f"it is longer than {MOST_OPCODES:,} instructions")
        yield opcode.name, argument, position


def reason(error: Exception) -> str:
    """What went wrong in a few words: messages may quote the file."""
    text = str(error).split("\n")[0][:100]
    return text if text and text.isprintable() else type(error).__name__


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
        self.stack.append(Made(what, arguments))

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


def hint_for(name: Name) -> str:
    """What a person may do about a file that asks for this."""
    if name.module.startswith("dnnlib.tflib"):
        return (
            "it is of the TensorFlow version; legacy.py of stylegan2-ada-pytorch makes a torch pickle of it"
        )
    return "a file of weights that asks for code is hostile, or of a kind of network that is not known here"


def pairs(values: list[Any]) -> Iterator[tuple[Atom, Any]]:
    """Keys and values; keys are text or numbers: the hash of anything else may take forever."""
    for key, value in zip(values[::2], values[1::2], strict=True):
        if not isinstance(key, str | bytes | int | float | bool | None):
            raise ValueError("a key that is neither text nor a number")
        yield key, value


def push(machine: Machine, value: Any) -> None:
    """The argument itself."""
    machine.stack.append(value)


def pushed(value: Any) -> Step:
    """Always the same."""
    return lambda machine, _: machine.stack.append(value)


def fresh(kind: type) -> Step:
    """A new empty one."""
    return lambda machine, _: machine.stack.append(kind())


def some(n: int) -> Step:
    """A tuple of the n uppermost."""

    def step(machine: Machine, _: Any) -> None:
        values = [machine.pop() for _ in range(n)]
        machine.stack.append(tuple(reversed(values)))

    return step


def stop(machine: Machine, _: Any) -> None:
    """The end: the one value left is the result."""
    machine.result = machine.pop()


def split(machine: Machine, argument: str) -> None:
    """A name as "module name"."""
    machine.name(*argument.split(" ", 1))


def swapped(machine: Machine, _: Any) -> None:
    """A name whose parts are on the stack."""
    name, module = machine.pop(), machine.pop()
    machine.name(module, name)


def one(machine: Machine, _: Any) -> None:
    """One item of a dict."""
    value, key = machine.pop(), machine.pop()
    machine.insert([key, value])


def one_member(machine: Machine, _: Any) -> None:
    """One member of a list."""
    machine.extend([machine.pop()])


def dropped(machine: Machine, _: Any) -> None:
    """The uppermost value, or mark."""
    machine.stack.pop()


def dropped_to_mark(machine: Machine, _: Any) -> None:
    """All above the last mark."""
    machine.since_mark()


def nothing(machine: Machine, _: Any) -> None:
    """Of no consequence here."""


STEPS: Mapping[str, Step] = {
    **dict.fromkeys(("PROTO", "FRAME"), nothing),
    "STOP": stop,
    "MARK": pushed(MARK),
    "POP": dropped,
    "POP_MARK": dropped_to_mark,
    "NONE": pushed(None),
    "NEWTRUE": pushed(True),
    "NEWFALSE": pushed(False),
    **dict.fromkeys(("BININT", "BININT1", "BININT2", "LONG1", "LONG4", "BINFLOAT"), push),
    **dict.fromkeys(("BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8"), push),
    **dict.fromkeys(("BINBYTES", "SHORT_BINBYTES", "BINBYTES8", "BYTEARRAY8"), push),
    **dict.fromkeys(("SHORT_BINSTRING", "BINSTRING"), push),
    "EMPTY_TUPLE": pushed(()),
    "TUPLE": lambda machine, _: machine.stack.append(tuple(machine.since_mark())),
    "TUPLE1": some(1),
    "TUPLE2": some(2),
    "TUPLE3": some(3),
    "EMPTY_LIST": fresh(list),
    "EMPTY_SET": fresh(list),  # its members are of no interest, and need no hash
    "FROZENSET": lambda machine, _: machine.stack.append(machine.since_mark()),
    "EMPTY_DICT": fresh(dict),
    "APPEND": one_member,
    "APPENDS": lambda machine, _: machine.extend(machine.since_mark()),
    "ADDITEMS": lambda machine, _: machine.extend(machine.since_mark()),
    "SETITEM": one,
    "SETITEMS": lambda machine, _: machine.insert(machine.since_mark()),
    **dict.fromkeys(("BINPUT", "LONG_BINPUT"), lambda machine, index: machine.remember(index)),
    "MEMOIZE": lambda machine, _: machine.remember(len(machine.memo)),
    **dict.fromkeys(("BINGET", "LONG_BINGET"), lambda machine, index: push(machine, machine.memo[index])),
    "GLOBAL": split,
    "STACK_GLOBAL": swapped,
    **dict.fromkeys(("REDUCE", "NEWOBJ"), lambda machine, _: machine.call(machine.pop(), machine.pop())),
    "BUILD": lambda machine, _: machine.build(),
    "BINPERSID": lambda machine, _: machine.persistent(machine.pop()),
}

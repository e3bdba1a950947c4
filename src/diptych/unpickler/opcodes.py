"""What each opcode of a pickle does to the stack; those that are not here are not followed."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from diptych.unpickler.machine import MARK, Machine, pairs

Step = Callable[[Machine, Any], None]


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
    **dict.fromkeys(("INT", "LONG", "FLOAT", "STRING", "UNICODE"), push),  # protocol 0
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
    "LIST": lambda machine, _: machine.stack.append(machine.since_mark()),
    "DICT": lambda machine, _: machine.stack.append(dict(pairs(machine.since_mark()))),
    "APPEND": one_member,
    "APPENDS": lambda machine, _: machine.extend(machine.since_mark()),
    "ADDITEMS": lambda machine, _: machine.extend(machine.since_mark()),
    "SETITEM": one,
    "SETITEMS": lambda machine, _: machine.insert(machine.since_mark()),
    **dict.fromkeys(("PUT", "BINPUT", "LONG_BINPUT"), lambda machine, index: machine.remember(index)),
    "MEMOIZE": lambda machine, _: machine.remember(len(machine.memo)),
    **dict.fromkeys(
        ("GET", "BINGET", "LONG_BINGET"), lambda machine, index: push(machine, machine.memo[index])
    ),
    "GLOBAL": split,
    "STACK_GLOBAL": swapped,
    **dict.fromkeys(("REDUCE", "NEWOBJ"), lambda machine, _: machine.call(machine.pop(), machine.pop())),
    "BUILD": lambda machine, _: machine.build(),
    "BINPERSID": lambda machine, _: machine.persistent(machine.pop()),
}

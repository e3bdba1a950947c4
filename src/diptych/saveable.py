"""@saveable: a class that remembers its constructor's arguments, so that a file can describe it.

`to_tree` writes a module as a tree of constructors, {"class": "diptych.networks.unet:UNet", "width": 32};
`from_tree` builds it again. Only classes that carry @saveable are ever constructed from a file, from
arguments of the kinds that they are annotated with, and within an `allowance` of memory and time.
"""

from __future__ import annotations

import functools
import importlib
import inspect
from collections.abc import Mapping
from dataclasses import asdict, is_dataclass
from math import prod
from typing import Any, TypeVar

from torch import nn

from diptych.allowance import TooMuch, allowance
from diptych.checking import Unbounded, bounded, kinds_of, misfit, shown
from diptych.errors import RunError

__all__ = ["Unbounded", "arguments", "change", "class_name", "from_tree", "rebuilt", "saveable", "to_tree"]

C = TypeVar("C", bound=type)
M = TypeVar("M", bound=nn.Module)
LARGEST = 1 << 20  # of whole numbers: widths, blocks, steps, pixels on a side
LARGEST_IMAGE = 1 << 28  # values of an image
LONGEST = 1 << 16  # characters of a text
# where the package's own are: nothing else is imported because a file names it
PARTS = ("adversarial", "diffusion", "networks", "pipeline", "pretrained")
_known: dict[str, type] = {}


def saveable(cls: C) -> C:
    """Class decorator: instances remember their arguments.

    For nn.Modules and frozen dataclasses of plain values.
    """
    _known[class_name(cls)] = cls
    if is_dataclass(cls):
        return cls
    construct = cls.__init__  # type: ignore[misc]
    signature = inspect.signature(construct)

    @functools.wraps(construct)
    def __init__(self: Any, *args: Any, **kwargs: Any) -> None:
        bound = signature.bind(self, *args, **kwargs)
        bound.apply_defaults()
        construct(self, *args, **kwargs)
        self._arguments = dict(list(bound.arguments.items())[1:])

    cls.__init__ = __init__  # type: ignore[misc]
    return cls


def class_name(cls: type) -> str:
    """How a class is called in a file: "module:Name"."""
    return f"{cls.__module__}:{cls.__qualname__}"


def arguments(module: nn.Module) -> dict[str, Any]:
    """What a @saveable module was constructed with."""
    if class_name(type(module)) not in _known:
        raise RunError(f"{type(module).__name__} cannot be saved", "decorate the class with @saveable")
    return dict(module._arguments)  # type: ignore[arg-type]


def rebuilt(module: M, **changes: Any) -> M:
    """The same class around the same parts (weights are shared, not copied) with some arguments changed."""
    twin = type(module)(**{**arguments(module), **changes})
    return twin.train(module.training)


def change(module: nn.Module, **changes: Any) -> None:
    """Sets attributes of a @saveable module that are arguments too: a file describes it as it is now."""
    remembered = arguments(module)
    if unknown := changes.keys() - remembered.keys():
        raise TypeError(f"{type(module).__name__} has no argument {min(unknown)!r}")
    module._arguments = remembered | changes  # type: ignore[assignment]
    for name, value in changes.items():
        setattr(module, name, value)


def to_tree(value: Any) -> Any:
    """A saveable object as plain JSON types. Raises RunError where `from_tree` would not take it back."""
    if isinstance(value, nn.Module):
        return _described(type(value), arguments(value))
    if is_dataclass(value) and not isinstance(value, type):
        return _described(type(value), asdict(value))
    if isinstance(value, (list, tuple)):
        return [to_tree(item) for item in value]
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    raise RunError(
        f"a {type(value).__name__} cannot be written to model.json", "use plain numbers, strings and lists"
    )


def _described(cls: type, given: Mapping[str, Any]) -> dict[str, Any]:
    check(cls, given)
    return {"class": class_name(cls)} | {name: to_tree(value) for name, value in given.items()}


def from_tree(tree: Any, values: int = 0, tensors: int = 0) -> Any:
    """The inverse of `to_tree`; `values` in `tensors` are stored beside it, which says how large it may be.

    Raises RunError for a class that is not @saveable, for arguments of another kind, for whole numbers beyond
    2^20 and images beyond 2^28 values, and before more is allocated than 128 MiB and 40 bytes for each of
    `values` (see `diptych.allowance`).
    """
    bounded(tree, "model.json")
    try:
        with allowance(values, tensors):
            return _built(tree)
    except TooMuch as error:
        raise RunError(f"model.json was not built: {error.message}", "it is damaged or hostile") from error


def _built(tree: Any) -> Any:
    if isinstance(tree, list):
        return tuple(_built(item) for item in tree)
    if not isinstance(tree, Mapping):
        return tree
    if not isinstance(name := tree.get("class"), str):
        raise RunError("model.json has an object without a class")
    cls = _find(name)
    given = {key: _built(value) for key, value in tree.items() if key != "class"}
    if unknown := given.keys() - kinds_of(cls).keys():
        raise RunError(f"model.json gives {name} an argument {shown(min(unknown))} that it does not take")
    check(cls, given)
    try:
        return cls(**given)
    except RunError:
        raise
    except Exception as error:  # out of what they are given, constructors raise nearly anything
        why = shown(str(error) or type(error).__name__, 300)
        raise RunError(f"model.json has arguments that {name} cannot be built from: {why}") from error


def check(cls: type, given: Mapping[str, Any]) -> None:
    """Raises RunError where an argument is not of its annotated kind, or absurdly large."""
    for name, value in given.items():
        said = misfit(value, kinds_of(cls).get(name, Any), name) or _absurd(value, name)
        if said:
            raise RunError(f"model.json has arguments that {class_name(cls)} cannot be built from: {said}")


def _absurd(value: Any, name: str) -> str:
    """Why a value is out of all proportion, as a sentence; empty where it is not."""
    if isinstance(value, int) and abs(value) > LARGEST:
        return f"{name} is {shown(value)}, beyond {LARGEST:,}"
    if isinstance(value, str) and len(value) > LONGEST:
        return f"{name} is a text of {len(value):,} characters"
    if not isinstance(value, list | tuple):
        return ""
    if name == "image_shape" and (min(value, default=0) < 1 or prod(value) > LARGEST_IMAGE):
        return f"no image has the shape {shown(repr(tuple(value)))}"
    return next(filter(None, (_absurd(item, name) for item in value)), "")


def _find(name: str) -> type:
    """The @saveable class of this name; the package's own are imported when they are first named."""
    words = name.partition(":")[0].split(".")
    if name not in _known and len(words) > 1 and words[0] == "diptych" and words[1] in PARTS:
        try:
            if all(map(str.isidentifier, words)):
                importlib.import_module(".".join(words))
        except ImportError as error:
            raise RunError(f"model.json names {shown(name)}, whose module does not exist here") from error
    if name not in _known:
        hint = "if it is a class of yours, import its module first; otherwise the file is damaged or hostile"
        raise RunError(f"model.json names {shown(name)}, which is not a @saveable class", hint)
    return _known[name]

"""@saveable: a class that remembers its constructor's arguments, so that a file can describe it.

`to_tree` writes a module as a tree of constructors, {"class": "diptych.networks.unet:UNet", "width": 32};
`from_tree` builds it again. Only classes that carry @saveable are ever constructed from a file.
"""

from __future__ import annotations

import functools
import importlib
import inspect
from collections.abc import Mapping
from dataclasses import asdict, fields, is_dataclass
from typing import Any, TypeVar

from torch import nn

from diptych.errors import RunError

C = TypeVar("C", bound=type)
M = TypeVar("M", bound=nn.Module)
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
    """A saveable object as plain JSON types."""
    if isinstance(value, nn.Module):
        return {"class": class_name(type(value))} | {k: to_tree(v) for k, v in arguments(value).items()}
    if is_dataclass(value) and not isinstance(value, type):
        return {"class": class_name(type(value))} | {k: to_tree(v) for k, v in asdict(value).items()}
    if isinstance(value, (list, tuple)):
        return [to_tree(item) for item in value]
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    raise RunError(
        f"a {type(value).__name__} cannot be written to model.json", "use plain numbers, strings and lists"
    )


def from_tree(tree: Any) -> Any:
    """The inverse of `to_tree`.

    Raises RunError for a class that is not @saveable or arguments that do not fit.
    """
    if isinstance(tree, list):
        return tuple(from_tree(item) for item in tree)
    if not isinstance(tree, Mapping):
        return tree
    if not isinstance(name := tree.get("class"), str):
        raise RunError("model.json has an object without a class")
    cls = _find(name)
    given = {key: from_tree(value) for key, value in tree.items() if key != "class"}
    wanted = {f.name for f in fields(cls)} if is_dataclass(cls) else set(inspect.signature(cls).parameters)
    if unknown := given.keys() - wanted:
        raise RunError(f"model.json gives {name} an argument {min(unknown)!r} that it does not take")
    try:
        return cls(**given)
    except (TypeError, ValueError, RuntimeError, MemoryError, OverflowError) as error:
        raise RunError(f"model.json has arguments that {name} cannot be built from: {error}") from error


def _find(name: str) -> type:
    """The @saveable class of this name; modules of this package are imported when they are first named."""
    module = name.partition(":")[0]
    if (
        name not in _known
        and module.split(".")[0] == "diptych"
        and all(map(str.isidentifier, module.split(".")))
    ):
        try:
            importlib.import_module(module)
        except ImportError as error:
            raise RunError(f"model.json names {name}, whose module does not exist here") from error
    if name not in _known:
        hint = "if it is a class of yours, import its module first; otherwise the file is damaged or hostile"
        raise RunError(f"model.json names {name}, which is not a @saveable class", hint)
    return _known[name]

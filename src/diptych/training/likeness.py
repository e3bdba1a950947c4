"""By which arguments networks differ though tensors of one fit the other: those change what weights mean."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import nn

from diptych.errors import DiptychError
from diptych.saveable import arguments, class_name, rebuilt, to_tree

CRITIC = "critic.json"  # beside weights that were converted: the constructors of their critic
# sizes, which tensors tell where they matter
SIZES = {
    *("width", "base", "largest", "blocks", "depth", "multipliers", "latent", "style", "shared", "embedding"),
    *("image_shape", "classes", "attributes"),
}
# what belongs to the data, to sampling, or to training alone, as the level of networks that grow does
ELSEWHERE = {
    *("attribute_names", "examples", "units", "names", "mean", "deviation", "counts"),
    *("options", "guide", "dropout", "mixing", "half_life", "checkpointing", "unlabelled"),
    "level",
}


def unlike(ours: nn.Module, theirs: Mapping[str, Any], part: str) -> Iterator[str]:
    """Each argument of ours that differs from a tree of `to_tree` though no shape tells it, as a phrase.

    Raises RunError where ours is not @saveable.
    """
    here, there = class_name(type(ours)), theirs.get("class", "")
    if here != there:
        yield f"the {part} is {short(here)}, there it is {short(there)}"
        return
    for name, value in arguments(ours).items():
        if name in ELSEWHERE or name not in theirs:
            continue
        if isinstance(value, nn.Module):
            if isinstance(theirs[name], Mapping):
                yield from unlike(value, theirs[name], part if name == "network" else name)
        elif not told_by_shapes(ours, name, theirs[name]):
            yield f"{name} of the {part} is {short(to_tree(value))}, there it is {short(theirs[name])}"


def told_by_shapes(module: nn.Module, name: str, value: Any) -> bool:
    """Whether another value of an argument is the same, or would make tensors of other names or shapes."""
    ours = to_tree(arguments(module)[name])
    sized = name in SIZES and not isinstance(value, str)
    if sized or flat(ours) == flat(value):
        return True
    if isinstance(value, Mapping) or any(isinstance(part, nn.Module) for part in arguments(module).values()):
        return False
    try:
        with torch.random.fork_rng(devices=[]):  # weights remain a function of the seed
            twin = rebuilt(module, **{name: tuple(value) if isinstance(value, list) else value})
    except (DiptychError, ValueError, TypeError, RuntimeError):
        return True  # it does not go with the other arguments: they differ too, and are told
    return shapes(twin) != shapes(module)


def flat(value: Any) -> Any:
    """One number where a list says the same one for each size."""
    return value[0] if isinstance(value, list) and value and all(v == value[0] for v in value) else value


def shapes(module: nn.Module) -> dict[str, torch.Size]:
    """Of all tensors, by name."""
    return {name: tensor.shape for name, tensor in module.state_dict().items()}


def short(value: Any) -> str:
    """A value in a sentence: VP(beta_min=0.1), not a tree."""
    if isinstance(value, Mapping):
        given = ", ".join(f"{name}={short(v)}" for name, v in value.items() if name != "class")
        return f"{short(value.get('class', ''))}({given})"
    return value.rpartition(":")[2] or "empty" if isinstance(value, str) else str(value)

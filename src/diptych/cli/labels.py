"""What --label, --labels and --attributes say: a class by its number or its name, continuous labels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

from diptych.errors import WrongUse, did_you_mean

if TYPE_CHECKING:
    from torch import Tensor

    from diptych.model import Model

Label = Annotated[
    str | None,
    Parameter(help="One class for all, by number or name; else seed modulo the number of classes."),
]
OrAny = Annotated[
    str | None,
    Parameter(help="One class for all, by number or name, or any; else seed modulo the number of classes."),
]
Attributes = Annotated[
    str | None,
    Parameter(help="Continuous labels for all, 0.3,1.7 or x=0.3,y=1.7; else those of training images."),
]


def values(text: str, names: Sequence[str]) -> list[float]:
    """From "0.3,1.7" or "y=1.7,x=0.3" to a number for each name. Raises WrongUse for anything else.

    >>> values("y=1.7,x=0.3", ["x", "y"])
    [0.3, 1.7]
    """
    hint = f"this model is told {', '.join(names)}: write {','.join(f'{name}=0' for name in names)}"
    if not names:
        raise WrongUse("this model is told no attributes", "it was trained without continuous labels")
    parts = [part.rpartition("=") for part in text.split(",")]
    given = [name.strip() for name, _, _ in parts]
    order = list(names) if not any(given) else given
    if len(parts) != len(names) or sorted(order) != sorted(names):
        raise WrongUse(f"{text!r} is not a number for each attribute", hint)
    try:
        found = {name: float(number) for name, (_, _, number) in zip(order, parts, strict=True)}
    except ValueError as error:
        raise WrongUse(f"{text!r} is not a number for each attribute", hint) from error
    return [found[name] for name in names]


def class_number(text: str, run: Path, model: Model) -> int:
    """A class by its number, or by the name that the run recorded. Raises WrongUse where there is none such.

    Whole numbers are always numbers: of folders called 10, 20 and 30 --label 2 is 30.
    """
    from diptych.api import class_names

    text = text.strip()
    if text.removeprefix("-").isdecimal():
        return int(text)
    names = class_names(run)
    if len(names) != model.classes or not names:
        known = f"0 to {model.classes - 1}" if model.classes else "none: it was trained without classes"
        raise WrongUse(
            f"{text!r} is no class: {run} has no names for its classes", f"its numbers are {known}"
        )
    if text not in names:
        raise WrongUse(f"there is no class {text!r}", did_you_mean(text, list(names)))
    return names.index(text)


def no_label(model: Model, label: str | None, changes: Mapping[str, Any]) -> bool:
    """Whether --label is any. Raises WrongUse for a model that cannot do without, and for idle options."""
    if label != "any":
        return False
    if not model.unlabelled:
        raise WrongUse(
            "this model never learned to draw images of no label"
            if model.wants & {"label"}
            else "this model was trained without classes: it does not take a label",
            "leave --label out" + (": classes go in turn" if model.classes else ""),
        )
    from diptych.diffusion.editing import check_guidance, diffusion_of

    check_guidance(diffusion_of(model), changes, labelled=False)
    return True


def asked(model: Model, run: Path, label: str | None, attributes: str | None) -> Tensor | None:
    """What --label and --attributes say: a class (), attributes (K,), or None."""
    import torch

    if attributes is not None:
        if label is not None:
            raise WrongUse("--label and --attributes were both given", "a model is told one of them")
        return torch.tensor(values(attributes, model.attribute_names))
    return None if label is None else torch.tensor(class_number(label, run, model))

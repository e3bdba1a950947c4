"""GANs and diffusion models, side by side: train both, measure them with one ruler, choose, ship.

>>> import diptych
>>> run = diptych.train("edm", "digits", "runs/digits", budget="1m")
>>> images = diptych.load("runs/digits").using(steps=8).sample(range(64))   # uint8 (64, 1, 8, 8)
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # names are imported when they are first used: `import diptych` does not import torch
    from diptych import edit as edit
    from diptych.api import (
        average,
        choose,
        class_names,
        compare,
        convert_pickle,
        duel,
        evaluate,
        export,
        guide,
        invert,
        judge,
        load,
        mix,
        rerun,
        sweep_averages,
        sweep_option,
        train,
        tune_steps,
    )
    from diptych.catalog import recipes
    from diptych.data import inspect, open_data
    from diptych.model import Condition, Model, Noise
    from diptych.scores import Estimate, Report, RulerCard

__version__ = "0.1.0"
__all__ = [
    "Condition",
    "Estimate",
    "Model",
    "Noise",
    "Report",
    "RulerCard",
    "average",
    "choose",
    "class_names",
    "compare",
    "convert_pickle",
    "duel",
    "edit",
    "evaluate",
    "export",
    "guide",
    "inspect",
    "invert",
    "judge",
    "load",
    "mix",
    "open_data",
    "recipes",
    "rerun",
    "sweep_averages",
    "sweep_option",
    "train",
    "tune_steps",
]

_HOME = {
    **dict.fromkeys(("average", "choose", "class_names", "compare", "convert_pickle"), "diptych.api"),
    **dict.fromkeys(("duel", "evaluate", "export", "guide", "invert", "judge", "load", "mix"), "diptych.api"),
    **dict.fromkeys(("rerun", "sweep_averages", "sweep_option", "train", "tune_steps"), "diptych.api"),
    **dict.fromkeys(("inspect", "open_data"), "diptych.data"),
    **dict.fromkeys(("Condition", "Model", "Noise"), "diptych.model"),
    **dict.fromkeys(("Estimate", "Report", "RulerCard"), "diptych.scores"),
    "edit": "diptych.edit",
    "recipes": "diptych.catalog",
}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'diptych' has no attribute {name!r}")
    import importlib

    module = importlib.import_module(_HOME[name])
    return module if name == "edit" else getattr(module, name)

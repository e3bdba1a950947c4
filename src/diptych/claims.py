"""What recipe.json says of a run: what must be the same for it to be resumed, and whether it is."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import torch

import diptych
from diptych.data.images import DataSet
from diptych.errors import RunError
from diptych.files import write_json
from diptych.lock import NAME as LOCK
from diptych.recipe import RecipeSpec
from diptych.runs import Run
from diptych.training import Settings


def describe(
    spec: RecipeSpec, data: DataSet, arguments: Mapping[str, Any], settings: Settings
) -> dict[str, Any]:
    """recipe.json: what must be the same for a run to be resumed."""
    card = asdict(data.card)
    card.pop("incidents")
    return {
        "recipe": spec.name,
        "arguments": spec.arguments(arguments),
        "data": card,
        "settings": asdict(settings),
        "versions": versions(),
    }


def versions() -> dict[str, str]:
    """Of what numbers could depend on."""
    return {"diptych": diptych.__version__, "torch": torch.__version__}


def claim(
    run: Run, description: Mapping[str, Any], force: bool, defaults: Mapping[str, Any]
) -> dict[str, Any]:
    """What recipe.json says already, or nothing. defaults: the recipe's own.

    Raises RunError where it says something else and not `force`.
    """
    if not (run.path / "recipe.json").exists():
        if run.path.is_dir() and any(file.name != LOCK for file in run.path.iterdir()):
            raise RunError(f"{run.path} is not empty and not a run", "choose another --out")
        return {}
    recorded = dict(run.recipe)
    different = differences(recorded, description, defaults)
    if different and not force:
        raise RunError(
            f"{run.path} was made by another command:\n  " + "\n  ".join(different),
            "repeat the old arguments to resume, choose another --out, or go on with the new ones by --force",
        )
    if not different:
        return recorded
    budget = recorded["settings"]["budget"] != description["settings"]["budget"]
    keys = set() if budget else recorded.keys() & {"images", "probe", "exam", "shards"}
    merged = {**description, **{key: recorded[key] for key in keys}}
    if not budget:
        write_json(run.path / "recipe.json", merged)
    return merged


def differences(old: Mapping[str, Any], new: Mapping[str, Any], defaults: Mapping[str, Any]) -> list[str]:
    """One line for each argument that changed. The device may change, compiling, and where the data lies."""
    ignored = {
        ("settings", "device"),
        ("settings", "compile"),
        ("settings", "keep"),
        ("settings", "fsdp"),
        ("data", "source"),
        ("data", "name"),
        ("data", "licence"),
    }
    unsaid = {
        "settings": asdict(Settings()),
        "arguments": defaults,
    }  # what runs of earlier versions could not set
    lines = [] if old["recipe"] == new["recipe"] else [f"recipe: {old['recipe']}, now {new['recipe']}"]
    for part in ("arguments", "data", "settings"):
        trees = ({**unsaid.get(part, {}), **tree[part]} for tree in (old, new))
        before, after = (json.loads(json.dumps(tree)) for tree in trees)
        lines += [
            f"{part}.{name}: {before.get(name)}, now {after.get(name)}"
            for name in sorted(before.keys() | after.keys())
            if before.get(name) != after.get(name) and (part, name) not in ignored
        ]
    return lines


def before(run: Run, settings: Settings) -> Mapping[str, Any]:
    """recipe.json of an earlier start of this run under the same budget; empty where there was none."""
    there = (run.path / "recipe.json").exists()
    if not there or run.recipe["settings"]["budget"] != settings.budget:
        return {}
    return run.recipe

"""What recipe.json says of a run: what must be the same for it to be resumed, and whether it is."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from diptych.checking import made, need
from diptych.data.images import DataSet
from diptych.errors import RunError, WrongUse
from diptych.recipe import RecipeSpec
from diptych.runs import Run
from diptych.system import parallel
from diptych.system.files import is_temporary
from diptych.system.lock import NAME as LOCK
from diptych.system.privacy import cleaned
from diptych.system.provenance import environment, weights_sha256
from diptych.training.probe import Plan
from diptych.training.state import Settings


def describe(
    spec: RecipeSpec, data: DataSet, arguments: Mapping[str, Any], settings: Settings
) -> dict[str, Any]:
    """recipe.json: what must be the same for a run to be resumed, and what is to be known to repeat it."""
    card = asdict(data.card)
    card.pop("incidents")
    chosen, how = spec.fitted(arguments), asdict(settings)
    description = {
        "recipe": spec.name,
        "arguments": chosen,
        "data": card,
        "settings": how,
        "weights_sha256": weights_read(spec, chosen, settings),
        **environment(settings.device),
    }
    return cleaned(description)  # as it is written: what is compared with it was


def weights_read(spec: RecipeSpec, arguments: Mapping[str, Any], settings: Settings) -> dict[str, str]:
    """Hashes of the weights of runs that a training begins from or learns of, by the argument's name."""
    return weights_sha256({name: arguments[name] for name in spec.runs} | {"init": settings.init})


def unanimous(description: Mapping[str, Any]) -> None:
    """Raises WrongUse where processes of one training were started with other arguments, data or versions."""
    data = {name: description["data"].get(name) for name in ("train_sha256", "held_out_sha256")}
    parts = {name: description.get(name) for name in ("recipe", "arguments", "settings", "versions")}
    told = {name: json.dumps(part, sort_keys=True) for name, part in {**parts, "data": data}.items()}
    first = parallel.of_first(told)
    differ = parallel.everywhere([told[name] != first[name] for name in told])
    if any(differ):
        names = ", ".join(name for name, other in zip(told, differ, strict=True) if other)
        raise WrongUse(
            f"the processes of this training do not agree in {names}",
            "start the same command, with the same version and the same data, on each machine",
        )


def recipe_of(run: Run) -> dict[str, Any]:
    """recipe.json. Raises RunError where it is damaged; the best weights have a copy of it."""
    try:
        recorded = cleaned(dict(run.recipe))  # versions before this one wrote it as it was
        check(recorded, str(run.path / "recipe.json"))
        return recorded
    except RunError as error:
        copy = run.best / "recipe.json"
        hint = f"{copy} is a copy of it: put it in its place" if copy.exists() else ""
        raise RunError(error.message, hint or error.hint) from error


def other_out(run: Run) -> str:
    """What to do with a directory that is no run, or has lost its recipe.json."""
    copy = run.best / "recipe.json"
    lost = f", or, if it is a run that lost its recipe.json, put {copy} in its place" if copy.exists() else ""
    return f"choose another --out{lost}"


def claim(
    run: Run, description: Mapping[str, Any], force: bool, defaults: Mapping[str, Any]
) -> dict[str, Any]:
    """What recipe.json says already, or nothing; with `force` what it is to say. defaults: the recipe's own.

    Writes nothing: whether the state fits what is forced upon it is not known yet. Raises RunError where it
    says something else, or models that it names have changed, and not `force`.
    """
    if not (run.path / "recipe.json").exists():
        there = run.path.iterdir() if run.path.is_dir() else ()
        if any(file.name != LOCK and not is_temporary(file) for file in there):
            raise RunError(f"{run.path} is not empty and not a run", other_out(run))
        return {}
    recorded = recipe_of(run)
    whole = Run(run.path.parent)
    if "derived" in recorded or (run.path.name == whole.best.name and (whole.path / "recipe.json").exists()):
        raise RunError(
            f"{run.path} holds a model that was made of a run, which cannot be trained on",
            "begin from it by --init",
        )
    if recorded.get("recipe", description["recipe"]) != description["recipe"]:  # nothing of it would fit
        raise RunError(f"{run.path} is a run of {recorded['recipe']}", other_out(run))
    different = differences(recorded, description, defaults)
    if different and not force:
        raise RunError(
            f"{run.path} was made by another command:\n  " + "\n  ".join(different),
            "repeat the old arguments to resume, choose another --out, or go on with the new ones by --force",
        )
    moved = other_models(run, recorded, description) if different or not run.finished else []
    if moved and not force:
        raise RunError(
            "; ".join(moved),
            "put back the weights of then, choose another --out, or go on with those of now by --force",
        )
    different = [*different, *moved]
    if not different:
        return recorded
    budget = recorded["settings"].get("budget") != description["settings"]["budget"]
    keys = set() if budget else recorded.keys() & {"images", "probe", "exam", "shards"}
    if recorded["settings"].get("microbatch") != description["settings"]["microbatch"]:
        keys -= {"shards"}
    merged = {**description, **{key: recorded[key] for key in keys}}
    seen = [line["images"] for line in run.log()[-1:]] or [0]
    merged["forced"] = [*recorded.get("forced", ()), {"after_images": seen[0], "changes": different}]
    return merged


def other_models(run: Run, recorded: Mapping[str, Any], description: Mapping[str, Any]) -> list[str]:
    """One line for each model that a training still reads and that has other weights than at its start.

    A recipe reads what its arguments name at each start; what --init names is read before the first state
    alone, and may be trained on, or gone, after that.
    """
    begun = run.checkpoints.newest is not None or bool(run.log())
    then, now = (tree.get("weights_sha256", {}) for tree in (recorded, description))
    old, new = ({**tree["settings"], **tree["arguments"]} for tree in (recorded, description))
    return [
        f"the weights of --{name} {old.get(name, '')} "
        + ("are others than" if name in now else "are not there, which were there")
        + f" when {run.path} was started"
        for name in then
        if now.get(name) != then[name]
        and old.get(name) == new.get(name)  # another model is another argument, and told as such
        and (name in recorded["arguments"] or not begun)
    ]


def check(recorded: Mapping[str, Any], file: str) -> None:
    """Raises RunError where recipe.json lacks what resuming needs."""
    need(recorded, dict.fromkeys(("arguments", "data", "settings"), Mapping[str, Any]), file)
    if "images" in recorded:
        made(Plan, need(recorded, {"probe": Mapping[str, Any]}, file)["probe"], f"probe in {file}")


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
    if not there or run.recipe.get("settings", {}).get("budget") != settings.budget:
        return {}
    return run.recipe

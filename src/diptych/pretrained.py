"""Pretrained: the parts of a diffusers pipeline directory, opened so that nothing in it can run code.

Weights are read from safetensors only, nothing is fetched, and code that lies beside them is refused.
"""

from __future__ import annotations

import importlib
import importlib.util
import inspect
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from safetensors import safe_open
from torch import nn

from diptych.allowance import allowance
from diptych.checking import shown
from diptych.errors import DiptychError, RunError
from diptych.saveable import saveable
from diptych.system.files import expanded, read_json

INDEX = "model_index.json"
_PICKLES = {".bin", ".pt", ".pth", ".ckpt"}


@saveable
class Pretrained(nn.Module):
    """The parts of a pipeline directory. The weights stay where they are: what is saved is the path."""

    def __init__(self, path: str) -> None:
        super().__init__()
        self.pipe = opened(expanded(path))
        parts = self.pipe.components.items()
        self.networks = nn.ModuleDict({name: part for name, part in parts if isinstance(part, nn.Module)})
        self.requires_grad_(False)
        self.register_state_dict_post_hook(_leave_out)  # type: ignore[no-untyped-call]
        self.register_load_state_dict_pre_hook(_fill_in)  # type: ignore[no-untyped-call]


def _leave_out(module: nn.Module, state: dict[str, Any], prefix: str, metadata: Any) -> None:
    for name in [name for name in state if name.startswith(f"{prefix}networks.")]:
        del state[name]


def _fill_in(module: nn.Module, state: dict[str, Any], prefix: str, *rest: Any) -> None:
    # so that a strict load finds the weights that it already has
    state.update({f"{prefix}networks.{k}": v for k, v in module.networks.state_dict().items()})  # type: ignore[union-attr]


def opened(path: Path) -> Any:
    """The diffusers object, with its networks in float32, its progress bar off and no safety checker."""
    index = trusted_index(path)
    diffusers, name = hub(), index["_class_name"]
    kind = getattr(diffusers, name, None)
    if not isinstance(kind, type) or not issubclass(kind, diffusers.DiffusionPipeline):
        raise RunError(
            f"{path} is a {name}, which diffusers {diffusers.__version__} does not know",
            "a newer diffusers may: pip install --upgrade diffusers",
        )
    without: dict[str, Any] = dict.fromkeys(_unused(index))
    if "requires_safety_checker" in inspect.signature(kind).parameters:
        without["requires_safety_checker"] = False
    with _quiet(diffusers), allowance(*_stored(path)):
        try:
            pipe = kind.from_pretrained(  # type: ignore[attr-defined]
                str(path),
                use_safetensors=True,
                local_files_only=True,
                trust_remote_code=False,
                low_cpu_mem_usage=importlib.util.find_spec("accelerate") is not None,
                **without,
            )
        except (
            Exception
        ) as error:  # each part raises its own: OSError, ValueError, KeyError, SafetensorError ...
            why = (str(error).strip() or type(error).__name__).splitlines()[0]
            raise RunError(f"{path} cannot be opened as a {name}: {why}") from error
    for part in pipe.components.values():
        if isinstance(part, nn.Module):
            part.float()
    pipe.set_progress_bar_config(disable=True)
    return pipe


def _stored(path: Path) -> tuple[int, int]:
    """How many values the weights below a directory may hold, by their size, in how many tensors."""
    files = sorted(path.rglob("*.safetensors"))
    try:
        tensors = 0
        for file in files:
            with safe_open(file, "pt") as opened_file:
                tensors += len(opened_file.keys())
    except Exception as error:  # safetensors raises its own
        raise RunError(f"{path} cannot be opened: {error}") from error
    return sum(file.stat().st_size for file in files) // 2, tensors  # two bytes a value, or more


def hub() -> Any:
    """The diffusers package. Raises DiptychError with what to install where it is missing."""
    try:
        importlib.import_module("transformers")
        return importlib.import_module("diffusers")
    except ImportError as error:
        raise DiptychError(
            f"diffusers pipelines need {error.name}, which is not installed", 'pip install "diptych[hub]"'
        ) from error


@contextmanager
def _quiet(diffusers: Any) -> Iterator[None]:
    shown = diffusers.utils.logging.is_progress_bar_enabled()
    diffusers.utils.logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            diffusers.utils.logging.enable_progress_bar()


def trusted_index(path: Path) -> Mapping[str, Any]:
    """model_index.json, if all classes in it are diffusers' and transformers' own and no weights are pickles.

    Nothing is imported to find out. Raises RunError with the part that is not to be trusted.
    """
    index = read_json(path / INDEX)
    name = index.get("_class_name") if isinstance(index, dict) else None
    if not isinstance(name, str) or not name.isidentifier():
        hint = "pipelines with code of their own are not loaded" if isinstance(name, list) else ""
        raise RunError(f"{path / INDEX} does not name a pipeline of diffusers", hint)
    for part, value in index.items():
        if (
            part.startswith("_")
            or not isinstance(value, list)
            or part in _unused(index)
            or value == [None, None]
        ):
            continue
        if not part.isidentifier() or len(part) > 100 or not _is_theirs(value):
            raise RunError(
                f"{path / INDEX} names {shown(str(value), 200)} as its {shown(part)}, which is not "
                "diffusers' or transformers' own",
                "code that comes with weights is not run here",
            )
        _check_files(path / part)
    return index  # type: ignore[no-any-return]


def _unused(index: Mapping[str, Any]) -> list[str]:
    """Parts that are not opened: a safety checker would black images out; the other serves only that."""
    names = ("safety_checker", "feature_extractor") if "safety_checker" in index else ()
    return [name for name in names if name in index]


def _is_theirs(value: list[Any]) -> bool:
    """Whether [library, class] names a class of diffusers, of transformers, or of a pipeline of diffusers."""
    if len(value) != 2 or not all(
        isinstance(word, str) and word.isidentifier() and len(word) < 100 for word in value
    ):
        return False
    library = value[0]
    if library in ("diffusers", "transformers"):
        return True
    spec = importlib.util.find_spec("diffusers")  # finds it without importing it
    folders = [Path(place, "pipelines") for place in (spec and spec.submodule_search_locations) or ()]
    return any(
        (f / library / "__init__.py").is_file() for f in [*folders, *(f / "deprecated" for f in folders)]
    )


def _check_files(folder: Path) -> None:
    files = sorted(folder.iterdir()) if folder.is_dir() else []
    endings = {file.suffix for file in files}
    for file in files:
        if file.suffix == ".py":
            raise RunError(f"{file} is code that lies beside weights", "such pipelines are not loaded")
        if file.suffix in _PICKLES and ".safetensors" not in endings:
            raise RunError(
                f"{file} is a pickle, which can run code when it is opened, and {folder} has no safetensors",
                "ask its publisher for safetensors, or, if you trust it, load it with diffusers and write it "
                "with save_pretrained(DIRECTORY, safe_serialization=True)",
            )

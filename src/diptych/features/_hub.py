"""Vision transformers through the transformers library: from a folder, or from the hub by name."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from diptych.allowance import allowance
from diptych.errors import RunError, WrongUse
from diptych.features._resize import pillow_bicubic, rgb
from diptych.features._weights import sha256_of
from diptych.system.files import expanded, read_json

log = logging.getLogger("diptych")

INDEX = "model.safetensors.index.json"
WANTED = ["config.json", "model.safetensors", "model-*.safetensors", INDEX]
PICKLED = "pytorch_model.bin"


def library() -> Any:
    """The transformers module. Raises WrongUse with the line that installs it."""
    try:
        import transformers
    except ImportError as error:
        raise WrongUse(
            "this extractor needs the transformers library, which is not installed",
            'pip install "diptych[hub]"',
        ) from error
    return transformers


def folder_of(where: str, ruler: str) -> Path:
    """A folder with config.json and weights: `where` itself, or what the hub has under that name."""
    folder = expanded(where)
    if folder.is_dir():
        return folder
    library()
    from huggingface_hub import snapshot_download

    try:
        found = Path(snapshot_download(where, allow_patterns=WANTED))
        if not any(found.glob("*.safetensors")):  # some of the older repositories hold a pickle alone
            found = Path(snapshot_download(where, allow_patterns=[*WANTED, PICKLED]))
    except Exception as error:  # what it raises changes with its version, and with how the network fails
        reason = next(iter(str(error).splitlines()), "") or type(error).__name__
        raise WrongUse(
            f"{where} is neither a folder nor to be had from the Hugging Face hub: {reason}",
            f"{ruler}:FOLDER takes a folder with config.json and model.safetensors, "
            f"{ruler}:OWNER/NAME a name on the hub",
        ) from error
    return found


def weight_files(folder: Path) -> list[Path]:
    """The files that hold the weights. Raises WrongUse that names the folder where there are none."""
    if (folder / "model.safetensors").is_file():
        return [folder / "model.safetensors"]
    if (folder / INDEX).is_file():
        try:
            names = sorted(set(read_json(folder / INDEX)["weight_map"].values()))
        except (KeyError, AttributeError, TypeError) as error:
            raise RunError(f"{folder / INDEX} cannot be read: {error}") from error
        if not all(isinstance(name, str) and Path(name).name == name for name in names):
            raise RunError(f"{folder / INDEX} names files outside of its folder")
        return [folder / name for name in names]
    if (folder / PICKLED).is_file():
        return [folder / PICKLED]
    raise WrongUse(
        f"{folder} holds no model.safetensors",
        "save_pretrained of the transformers library writes such a folder",
    )


def network(kind: str, folder: Path, types: Sequence[str]) -> tuple[Any, str]:
    """The transformers network of class `kind` with the weights of a folder, in float32, and their sha256.

    No code from the folder runs, and a pickle may hold tensors alone. Raises WrongUse where the folder is of
    another network, RunError where it is damaged; both name it.
    """
    transformers = library()
    config = _config(folder)
    if config.get("model_type") not in types:
        raise WrongUse(
            f"{folder} holds a {config.get('model_type', 'network of no named type')}, not {types[0]}",
            "give the folder of the network that the extractor is named after",
        )
    files = weight_files(folder)
    sha256 = sha256_of(files)
    pickled = files[0].name == PICKLED
    try:
        # two bytes a value, or more; what config.json describes is no larger than what is stored
        with _quiet(transformers), allowance(sum(f.stat().st_size for f in files) // 2, 10_000):
            net, notes = getattr(transformers, kind).from_pretrained(
                str(folder),
                local_files_only=True,
                use_safetensors=not pickled,
                weights_only=True,
                trust_remote_code=False,
                dtype=torch.float32,
                output_loading_info=True,
                ignore_mismatched_sizes=True,  # they are refused below, by name
            )
    except Exception as error:  # a damaged file raises whatever its first odd byte leads to
        reason = next(iter(str(error).splitlines()), "") or type(error).__name__
        raise RunError(
            f"the weights in {folder} cannot be loaded: {reason}", "download them again"
        ) from error
    odd = sorted(notes["missing_keys"]) + sorted(each[0] for each in notes["mismatched_keys"])
    if odd:
        raise WrongUse(
            f"the weights in {folder} do not fit its config.json: {len(odd)} tensors of {types[0]} are "
            f"missing or have another shape, {odd[0]} among them",
            "they are another network's, or only a part",
        )
    return net.eval(), sha256


def _config(folder: Path) -> dict[str, Any]:
    path = folder / "config.json"
    try:
        config = read_json(path)
    except RunError as error:
        if path.exists():
            raise
        raise WrongUse(f"there is no {path}", "a folder of the transformers library has one") from error
    if not isinstance(config, dict):
        raise RunError(f"{path} is not the configuration of a network")
    return config


class _quiet:
    """Loading draws a progress bar and lists tensors of the text half: nothing that a person can act on."""

    def __init__(self, transformers: Any) -> None:
        self.logging = transformers.utils.logging

    def __enter__(self) -> None:
        self.level, self.bars = self.logging.get_verbosity(), self.logging.is_progress_bar_enabled()
        self.logging.set_verbosity_error()
        self.logging.disable_progress_bar()

    def __exit__(self, *_: object) -> None:
        self.logging.set_verbosity(self.level)
        if self.bars:
            self.logging.enable_progress_bar()


def normalized(
    image: Tensor, size: int, mean: Sequence[float], deviation: Sequence[float], crop: bool = False
) -> Tensor:
    """float32 (N, 3, size, size) of uint8 images: Pillow's bicubic, then each channel in its own units."""
    image = rgb(image)
    if crop:
        image = _centre_square(image)
    level = pillow_bicubic(image, size).float() / 255
    shift, scale = (torch.tensor(numbers, device=image.device).view(3, 1, 1) for numbers in (mean, deviation))
    return (level - shift) / scale


def _centre_square(image: Tensor) -> Tensor:
    height, width = image.shape[2:]
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    return image[:, :, top : top + side, left : left + side]

"""Weights from elsewhere: found, hashed, fetched on request, and read without executing anything."""

from __future__ import annotations

import hashlib
import http.client
import pickle
import urllib.request
import warnings
import zipfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from diptych.errors import RunError, WrongUse
from diptych.system.files import cache_folder, read_tensors, write

CHUNK = 1 << 20


def weights_folder() -> Path:
    """Where fetched weights are kept: `weights` in the cache folder."""
    return cache_folder() / "weights"


def sha256_of(paths: Iterable[Path]) -> str:
    """Of the bytes of these files, one after the other. Raises WrongUse where one cannot be read."""
    digest = hashlib.sha256()
    for path in paths:
        try:
            with path.open("rb") as file:
                while chunk := file.read(CHUNK):
                    digest.update(chunk)
        except OSError as error:
            raise WrongUse(f"{path} cannot be read: {error.strerror or error}") from error
    return digest.hexdigest()


def fetch(url: str, path: Path, sha256: str, size: int) -> None:
    """Downloads a file of known hash and size in bytes to `path`, which is there only when it is whole.

    Raises RunError where the network fails or something else arrives.
    """

    def produce(temporary: Path) -> None:
        digest, received = hashlib.sha256(), 0
        with temporary.open("wb") as file:
            for chunk in _chunks(url):
                received += len(chunk)
                if received > size:
                    break
                digest.update(chunk)
                file.write(chunk)
        if digest.hexdigest() != sha256 or received != size:
            raise RunError(
                f"{url} gave another file: {received:,} bytes of {size:,}, sha256 {digest.hexdigest()}",
                f"{path.name} has sha256 {sha256}: download it another way and give its path",
            )

    write(path, produce)


def _chunks(url: str) -> Iterable[bytes]:
    try:
        with urllib.request.urlopen(url, timeout=60) as answer:
            while chunk := answer.read(CHUNK):
                yield chunk
    except (OSError, http.client.HTTPException) as error:
        raise RunError(
            f"{url} could not be downloaded: {getattr(error, 'reason', None) or error}",
            "download it on a machine with a network and give its path",
        ) from error


def read_weights(path: Path) -> dict[str, Tensor]:
    """The tensors of a .safetensors file or of a pickle, which may hold tensors and nothing else.

    Raises RunError that names the file where it is damaged or would execute something.
    """
    if path.suffix == ".safetensors":
        return read_tensors(path)[0]
    try:
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                if any(info.compress_type != zipfile.ZIP_STORED for info in archive.infolist()):
                    raise ValueError("its parts are compressed, which torch.save never does")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of the pickle's age: what it may hold is checked all the same
            state: Any = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise RunError(
            f"{path} is damaged, or holds more than tensors and could execute something; it was not loaded",
            "only tensors by name are read; check its sha256 against the publisher's",
        ) from error
    except Exception as error:  # what torch raises for a damaged file depends on where the damage is
        raise RunError(
            f"{path} cannot be read: {_first_line(error)}", "it may be truncated: download it again"
        ) from error
    if not isinstance(state, Mapping):
        raise RunError(f"{path} holds a {type(state).__name__}, not tensors by name")
    return {str(name): tensor for name, tensor in state.items() if isinstance(tensor, Tensor)}


def check_shapes(path: Path, state: Mapping[str, Tensor], shapes: Mapping[str, tuple[int, ...]]) -> None:
    """Raises WrongUse that names the file where a tensor is missing, has another shape, or is not finite."""
    missing = [name for name in shapes if name not in state]
    if missing:
        raise WrongUse(
            f"{path} lacks {len(missing)} of {len(shapes)} tensors, {missing[0]} among them",
            "it holds the weights of another network, or only a part of them",
        )
    for name, shape in shapes.items():
        tensor = state[name]
        if tuple(tensor.shape) != shape or not tensor.is_floating_point():
            raise WrongUse(
                f"{path}: {name} is {tensor.dtype} {tuple(tensor.shape)}, not floats {shape}",
                "it holds the weights of another network",
            )
        if not tensor.isfinite().all():
            raise WrongUse(f"{path}: {name} holds numbers that are not finite", "download it again")


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]

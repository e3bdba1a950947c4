"""Small files that ask for much: memory, time, places outside. Each is laid into a folder, and opened."""

from __future__ import annotations

import gzip
import io
import json
import struct
import zipfile
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

import doors
from diptych.convert.official import convert
from diptych.data import open_data
from diptych.runs import load_model
from diptych.system.files import read_json, read_tensors
from diptych.training.agreement import samples_differ, sheets_of

Bomb = tuple[Callable[[Path], object], Callable[[Path], object]]
ZEROS = 480 << 20  # bytes: a bomb that stays below what a small file may unpack to


def png(width: int, height: int, data: bytes) -> bytes:
    """A grey picture of this size with these compressed rows."""

    def chunk(name: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))

    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + head + chunk(b"IDAT", data) + chunk(b"IEND", b"")


def packed(size: int) -> bytes:
    """So many zeros, as zlib packs them, without having them."""
    packer, block = zlib.compressobj(9), bytes(1 << 20)
    return b"".join(packer.compress(block) for _ in range(size >> 20)) + packer.flush()


def large_picture(folder: Path) -> None:
    """Eighty million pixels of nothing in a hundred kilobytes, among others."""
    (folder / "set").mkdir()
    for i in range(6):
        (folder / "set" / f"{i}.png").write_bytes(doors.picture("PNG", 0, i))
    (folder / "set" / "large.png").write_bytes(png(8900, 9000, packed(8901 * 9000)))


def zip_of(*members: tuple[str, bytes]) -> Callable[[Path], None]:
    """A zip of these."""

    def lay(folder: Path) -> None:
        with zipfile.ZipFile(folder / "set.zip", "w", zipfile.ZIP_DEFLATED) as archive:
            for name, content in members:
                archive.writestr(name, content)

    return lay


def overlapping(folder: Path) -> None:
    """A zip of a thousand members that are one and the same quarter of a gibibyte (Fifield, 2019)."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive, archive.open("0.png", "w") as member:
        for _ in range(250):
            member.write(bytes(1 << 20))
    data = out.getvalue()
    start, end = data.find(b"PK\1\2"), data.find(b"PK\5\6")
    heads = data[start:end] * 1000
    tail = struct.pack("<4sHHHHIIH", b"PK\5\6", 0, 0, 1000, 1000, len(heads), start, 0)
    (folder / "set.zip").write_bytes(data[:start] + heads + tail)


def packed_idx(n: int, content: int) -> Callable[[Path], None]:
    """A packed idx file that says that it holds n images of 1024x1024 pixels."""

    def lay(folder: Path) -> None:
        head = gzip.compress(struct.pack(">IIII", 2051, n, 1024, 1024))
        body = gzip.GzipFile(fileobj=(out := io.BytesIO()), mode="wb")
        for _ in range(content >> 20):
            body.write(bytes(1 << 20))
        body.close()
        (folder / "train-images-idx3-ubyte.gz").write_bytes(head + out.getvalue())

    return lay


def npz_of(shape: tuple[int, ...], kind: str = "|u1", content: int = 0, declared: int | None = None) -> Any:
    """An .npz whose one array says that it has this shape."""

    def lay(folder: Path) -> None:
        head = io.BytesIO()
        about = {"descr": kind, "fortran_order": False, "shape": shape}
        np.lib.format.write_array_header_2_0(head, about)  # type: ignore[arg-type]
        out = io.BytesIO()
        with (
            zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive,
            archive.open("images.npy", "w", force_zip64=True) as member,
        ):
            member.write(head.getvalue())
            for _ in range(content >> 20):
                member.write(bytes(1 << 20))
        (folder / "set.npz").write_bytes(out.getvalue())

    return lay


def npy_of(shape: tuple[int, ...]) -> Callable[[Path], None]:
    """The same, as an .npy file."""

    def lay(folder: Path) -> None:
        with (folder / "set.npy").open("wb") as file:
            about = {"descr": "|u1", "fortran_order": False, "shape": shape}
            np.lib.format.write_array_header_2_0(file, about)  # type: ignore[arg-type]
            file.write(bytes(100))

    return lay


def absurd(model: str, *path: str, value: Any) -> Callable[[Path], None]:
    """A model.json in which one argument is absurd."""

    def lay(folder: Path) -> None:
        doors.saved(folder)
        file = folder / model / "model.json"
        tree = node = json.loads(file.read_text())
        for key in path[:-1]:
            node = node[key]
        node[path[-1]] = value
        file.write_text(json.dumps(tree))

    return lay


def laughing(depth: int) -> bytes:
    """A pickle of tuples within tuples as the key of a dict: its hash would take 2^depth steps."""
    return b"\x80\x02})q\x00" + b"0h\x00h\x00\x86q\x00" * depth + b"Ns."


def alike(n: int) -> bytes:
    """A pickle of a dict of n numbers whose hash is the same: each is compared with all before it."""
    keys = (i * (2**61 - 1) for i in range(1, n + 1))
    items = b"".join(b"\x8a\x0b" + key.to_bytes(11, "little", signed=True) + b"N" for key in keys)
    return b"\x80\x02}(" + items + b"u."


def batch(data: bytes) -> Callable[[Path], None]:
    """A CIFAR-10 batch that is this pickle."""
    return lambda folder: (folder / "data_batch_1").write_bytes(data) and None


def pickle(data: bytes) -> Callable[[Path], None]:
    """A file of networks that is this pickle."""
    return lambda folder: (folder / "network.pkl").write_bytes(data) and None


def text(name: str, make: Callable[[], str]) -> Callable[[Path], None]:
    """A file of this text."""
    return lambda folder: (folder / name).write_text(make()) and None


def sheet(make: Callable[[], bytes]) -> Callable[[Path], None]:
    """A stranger's sheet of samples, beside that of a repetition."""

    def lay(folder: Path) -> None:
        for name, data in (("then", make()), ("now", doors.picture("PNG", 1))):
            (folder / name).mkdir()
            (folder / name / "000000000008.png").write_bytes(data)

    return lay


def compare_sheets(folder: Path) -> None:
    """The sheets of a run and of its repetition."""
    samples_differ(sheets_of(folder / "then", 8), sheets_of(folder / "now", 8))


def open_all(folder: Path) -> None:
    """The sources in a folder."""
    doors.opened(folder)


def open_folder(folder: Path) -> None:
    """The folder itself."""
    open_data(folder)


def tensors(head: bytes, size: int | None = None) -> Callable[[Path], None]:
    """A safetensors file with this header."""
    length = struct.pack("<Q", len(head) if size is None else size)
    return lambda folder: (folder / "a.safetensors").write_bytes(length + head + bytes(64)) and None


UNET = ("denoiser", "network")
POSTSCRIPT = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 12 12\n%%EndComments\nshowpage\n"
MEMO = b"\x80\x02}r\xff\xff\xff\x7f."
BOMBS: Mapping[str, Bomb] = {
    "80 million pixels": (large_picture, open_all),
    "overlapping members": (overlapping, open_all),
    "zip of zeros": (zip_of(("a.png", bytes(250 << 20)), ("b.png", bytes(230 << 20))), open_all),
    "zip of zips": (zip_of(("a.zip", b"PK\5\6" + bytes(18)), ("b/c.zip", b"x" * 999)), open_all),
    "idx that says 4 TiB": (packed_idx(2**22, 0), open_folder),
    "idx of zeros": (packed_idx(ZEROS >> 20, ZEROS), open_folder),
    "idx of 4 billion images": (
        lambda folder: (folder / "train-images-idx3-ubyte").write_bytes(
            struct.pack(">IIII", 2051, 2**32 - 1, 0, 0)
        ),
        open_folder,
    ),
    "npz of 10^15 pixels": (npz_of((10**9, 1000, 1000)), open_all),
    "npz of zeros": (npz_of((ZEROS >> 20, 1024, 1024), content=ZEROS), open_all),
    "npz of tiny images": (npz_of((ZEROS, 1, 1), content=ZEROS), open_all),
    "npz of long names": (npz_of((4, 8, 8), "<U99999999"), open_all),
    "npz beyond the ratio": (npz_of((2048, 1024, 1024), content=2048 << 20), open_all),
    "npy of 10^15 pixels": (npy_of((10**9, 1000, 1000)), open_all),
    "npy without end": (npy_of((2**62, 2, 2)), open_all),
    "width": (absurd("diffusion", *UNET, "width", value=10**9), doors.load),
    "a wide width": (absurd("diffusion", *UNET, "width", value=2**16), doors.load),
    "blocks": (absurd("diffusion", *UNET, "blocks", value=10**9), doors.load),
    "many blocks": (absurd("diffusion", *UNET, "blocks", value=2**20), doors.load),
    "many multipliers": (absurd("diffusion", *UNET, "multipliers", value=[1] * 2**19), doors.load),
    "terapixels": (absurd("diffusion", *UNET, "image_shape", value=[3, 10**6, 10**6]), doors.load),
    "channels": (absurd("diffusion", *UNET, "image_shape", value=[2**20, 8, 8]), doors.load),
    "classes": (absurd("gan", "network", "classes", value=2**20), doors.load),
    "latent": (absurd("gan", "network", "latent", value=10**12), doors.load),
    "latent that fits": (absurd("gan", "network", "latent", value=2**20), doors.load),
    "groups": (absurd("gan", "network", "width", value=[8] * 100_000), doors.load),
    "a million objects": (absurd("gan", "units", value=[[]] * 2**20), doors.load),
    "depth": (text("a.json", lambda: "[" * 10**6), lambda folder: read_json(folder / "a.json")),
    "40 MB of JSON": (text("a.json", lambda: f"[{'[],' * 13_500_000}0]"), lambda f: read_json(f / "a.json")),
    "15 MB of JSON": (text("a.json", lambda: f"[{'[],' * 5_000_000}0]"), lambda f: read_json(f / "a.json")),
    "memo": (batch(MEMO), open_folder),
    "hash": (batch(laughing(60)), open_folder),
    "memo of networks": (pickle(MEMO), lambda folder: convert(folder / "network.pkl")),
    "hash of networks": (pickle(laughing(60)), lambda folder: convert(folder / "network.pkl")),
    "numbers of one hash": (batch(alike(300_000)), open_folder),
    "numbers of one hash in networks": (pickle(alike(300_000)), lambda f: convert(f / "network.pkl")),
    "lists without end": (pickle(b"\x80\x02" + b"]" * 30_000_000), lambda f: convert(f / "network.pkl")),
    "header of 2^63": (tensors(b"{}", 2**63), lambda folder: read_tensors(folder / "a.safetensors")),
    "header of 90 MB": (tensors(b"{}" + b" " * 90_000_000), lambda f: read_tensors(f / "a.safetensors")),
    "sheet in PostScript": (sheet(lambda: POSTSCRIPT), compare_sheets),
    "sheet of 10^10 pixels": (sheet(lambda: png(10**5, 10**5, packed(1 << 20))), compare_sheets),
    "weights elsewhere": (
        lambda folder: absurd("gan", "class", value="diptych.pretrained:Pretrained")(folder),
        lambda folder: load_model(folder / "gan", "cpu"),
    ),
}

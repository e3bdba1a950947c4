"""Files from strangers: broken, truncated, gigantic or hostile ones are named and left out."""

from __future__ import annotations

import io
import os
import struct
import warnings
import zipfile
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageFile

from diptych.data import decode, files, inspect, open_data
from diptych.data.decode import Unreadable, open_image, strict_pillow
from diptych.errors import DataError

RNG = np.random.default_rng(2)


def encoded(kind: str, side: int = 24) -> bytes:
    out = io.BytesIO()
    image = Image.fromarray(RNG.integers(0, 256, (side, side, 3), dtype=np.uint8))
    image.save(out, kind)
    return out.getvalue()


def png(width: int, height: int, data: bytes = b"") -> bytes:
    def chunk(name: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", data) + chunk(b"IEND", b"")


def good(folder: Path, n: int = 8) -> Path:
    folder.mkdir(exist_ok=True)
    for i in range(n):
        (folder / f"good{i}.png").write_bytes(encoded("PNG"))
    return folder


BROKEN = {
    "bomb.png": (
        png(60000, 60000, zlib.compress(bytes(1000))),
        "decompression bomb: 3600000000 pixels declared",
    ),
    "large.png": (png(12000, 10000), "decompression bomb: 120000000 pixels declared"),
    "cut.jpg": (encoded("JPEG")[:600], "truncated JPEG"),
    "cut.png": (encoded("PNG")[:900], "truncated PNG"),
    "cut.gif": (encoded("GIF")[:1000], "truncated GIF"),
    "cut.bmp": (encoded("BMP")[:300], "truncated BMP"),
    "cut.webp": (encoded("WEBP")[:200], "broken WEBP"),
    "head.png": (b"\x89PNG" + bytes(range(99)), "broken PNG"),
    "nothing.png": (b"", "empty file (0 bytes)"),
    "text.jpg": (
        b"not a picture",
        "13 bytes, no image format that we open (PNG, JPEG, WEBP, GIF, BMP, TIFF, PPM)",
    ),
    "page.eps": (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "PostScript, which is never opened"),
    "logo.png": (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "PostScript, which is never opened"),
}


@pytest.mark.parametrize("zipped", [False, True])
def test_broken_files_are_named_and_the_others_are_read(tmp_path: Path, zipped: bool) -> None:
    folder = good(tmp_path / "set")
    for name, (data, _) in BROKEN.items():
        (folder / name).write_bytes(data)
    source = folder
    if zipped:
        source = tmp_path / "set.zip"
        with zipfile.ZipFile(source, "w", zipfile.ZIP_DEFLATED) as archive:
            for path in folder.iterdir():
                archive.write(path, path.name)
    data = open_data(source)
    assert len(data.train) + len(data.held_out) == 8
    found = {i.file: i for i in data.card.incidents}
    assert set(found) == set(BROKEN)
    for name, (_, why) in BROKEN.items():
        assert found[name].what.startswith(why), (name, found[name].what)
        assert found[name].done == "left out"
    assert {i.file for i in inspect(source).incidents} == set(BROKEN)


def test_only_broken_files_is_an_error_that_names_them(tmp_path: Path) -> None:
    for i in range(5):
        (tmp_path / f"{i}.png").write_bytes(b"")
    with pytest.raises(DataError, match=r"none of the 5 files (.|\n)*0\.png: empty file"):
        open_data(tmp_path)
    assert inspect(tmp_path).images == 0


def test_mutated_files_never_raise_anything_else() -> None:
    rng = np.random.default_rng(3)
    originals = [encoded(kind, 12) for kind in ("PNG", "JPEG", "GIF", "BMP", "TIFF", "WEBP", "PPM")]
    modes: set[str] = set()
    reasons: list[str] = []
    with strict_pillow():
        for i in range(1400):
            data = bytearray(originals[i % len(originals)])
            for _ in range(int(rng.integers(1, 6))):
                data[rng.integers(len(data))] = rng.integers(256)
            end = int(rng.integers(1, len(data) + 1)) if i % 3 == 0 else len(data)
            try:
                modes.add(open_image(bytes(data[:end])).image.mode)
            except Unreadable as reason:
                reasons.append(str(reason))
    assert modes <= {"L", "RGB", "RGBA"}
    assert len(reasons) > 300
    assert not any("0x" in reason for reason in reasons)  # no address: the same words every time


def test_pillow_is_left_as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", True)
    before = list(warnings.filters)
    cut = encoded("JPEG")[:600]
    with strict_pillow(), pytest.raises(Unreadable, match="truncated JPEG"):
        open_image(cut)
    assert ImageFile.LOAD_TRUNCATED_IMAGES is True
    assert list(warnings.filters) == before


def test_the_limit_holds_when_pillows_own_is_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", None)
    with pytest.raises(Unreadable, match="60,000 x 60,000 pixels"):
        open_image(png(60000, 60000))


def test_large_files_are_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = good(tmp_path / "set")
    (folder / "long.png").write_bytes(encoded("PNG") + bytes(200_000))
    with zipfile.ZipFile(tmp_path / "set.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        for path in folder.iterdir():
            archive.write(path, path.name)
    monkeypatch.setattr(files, "MAX_FILE_BYTES", 100_000)
    assert [i.what for i in open_data(folder).card.incidents] == ["more than 100,000 bytes"]
    (incident,) = open_data(tmp_path / "set.zip").card.incidents
    assert incident.file == "long.png"
    assert "bytes declared in the zip" in incident.what


def test_a_zip_that_lies_about_sizes_is_bounded(tmp_path: Path) -> None:
    path = tmp_path / "lie.zip"
    big = zlib.compress(bytes(50_000_000), 9)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for i in range(8):
            archive.writestr(f"{i}.png", encoded("PNG"))
        archive.writestr("bomb.png", bytes(50_000_000))
    raw = path.read_bytes()
    assert len(raw) < 2 * len(big) + 100_000
    # both places where the size is declared now say 1,000 bytes
    path.write_bytes(raw.replace(struct.pack("<I", 50_000_000), struct.pack("<I", 1000)))
    data = open_data(path)
    assert [i.file for i in data.card.incidents] == ["bomb.png"]
    assert len(data.train) + len(data.held_out) == 8


def test_traversal_names_write_nothing(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    path = tmp_path / "in" / "evil.zip"
    with zipfile.ZipFile(path, "w") as archive:
        for i in range(4):
            archive.writestr(f"../../escape{i}.png", encoded("PNG"))
            archive.writestr(f"/abs/olute{i}.png", encoded("PNG"))
    data = open_data(path)
    assert len(data.train) + len(data.held_out) == 8
    assert sorted(p.name for p in tmp_path.rglob("*") if p.is_file()) == ["evil.zip"]


def test_damaged_and_encrypted_members_are_left_out(tmp_path: Path) -> None:
    path = tmp_path / "set.zip"
    with zipfile.ZipFile(path, "w") as archive:
        for i in range(8):
            archive.writestr(f"{i}.png", encoded("PNG"))
    raw = bytearray(path.read_bytes())
    raw[200] ^= 0xFF  # inside the first member: its checksum no longer fits
    flags = raw.rfind(b"PK\x01\x02") + 8
    raw[flags] |= 1  # the last member now says that it is encrypted
    path.write_bytes(raw)
    incidents = open_data(path).card.incidents
    assert [i.file for i in incidents] == ["0.png", "7.png"]
    assert "CRC" in incidents[0].what
    assert "password" in incidents[1].what


def test_not_a_zip(tmp_path: Path) -> None:
    (tmp_path / "a.zip").write_bytes(b"PK nothing")
    with pytest.raises(DataError, match="not a zip that can be read"):
        open_data(tmp_path / "a.zip")


def test_a_pipe_does_not_block_and_names_are_safe_to_print(tmp_path: Path) -> None:
    folder = good(tmp_path / "set")
    os.mkfifo(folder / "pipe.png")
    (folder / "red\x1b[31m.png").write_bytes(b"")
    (folder / os.fsdecode(b"\xff\xfe.png")).write_bytes(b"")
    data = open_data(folder)
    found = {i.file: i.what for i in data.card.incidents}
    assert found["pipe.png"] == "neither a file nor a folder"
    assert found["red\\x1b[31m.png"] == "empty file (0 bytes)"
    assert all(name.isprintable() and name.encode() for name in found)


def test_floats_and_32_bit_grey(tmp_path: Path) -> None:
    folder = good(tmp_path / "set")
    Image.fromarray(np.linspace(0, 1, 576, dtype=np.float32).reshape(24, 24)).save(folder / "unit.tif")
    Image.fromarray(np.linspace(0, 900, 576, dtype=np.float32).reshape(24, 24)).save(folder / "hdr.tif")
    Image.fromarray(np.arange(576, dtype=np.int32).reshape(24, 24) * 1000).save(folder / "wide.tif")
    found = {(i.file, i.done): i.what for i in open_data(folder).card.incidents}
    assert found["unit.tif", "scaled from 0..1"] == "floating-point grey"
    assert "0 to 900" in found["hdr.tif", "left out"]
    assert "0 to 575,000" in found["wide.tif", "left out"]


def test_only_the_short_list_is_ever_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    out = io.BytesIO()
    Image.new("RGB", (8, 8)).save(out, "ICO")
    with pytest.raises(Unreadable, match="no image format that we open"):
        open_image(out.getvalue())
    assert set(decode.FORMATS) == {"PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "PPM"}

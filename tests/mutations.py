"""Seeded damage to files: bytes, lengths, headers, archives, JSON. The same seed makes the same file."""

from __future__ import annotations

import copy
import io
import json
import struct
import zipfile
import zlib
from collections.abc import Callable, Iterator
from functools import lru_cache
from random import Random
from typing import Any

Mutator = Callable[[bytes, Random], bytes]
EXTREMES = (0, 1, 0x7F, 0x80, 0xFF, 0x7FFF, 0xFFFF, 2**31 - 1, 2**31, 2**32 - 1, 2**63 - 1, 2**64 - 1)
WORDS = (
    "../../escape",
    "/absolute/escape",
    "C:\\escape",
    "\x1b[2J",
    "\x00",
    "a" * 5000,
    "\ud800",
    "__class__",
    "",
)


def any_of(data: bytes, draw: Random, *special: Mutator) -> bytes:
    """One to four kinds of damage, one after the other; those that know the format as often as the others."""
    for _ in range(draw.choice((1, 1, 1, 2, 2, 4))):
        made = draw.choice(special) if special and draw.random() < 0.5 else draw.choice(PLAIN)
        data = made(data, draw)
    return data


# ------------------------------------------------------------------------------------------------ plain bytes


def flipped(data: bytes, draw: Random) -> bytes:
    """A few bits are other bits."""
    out = bytearray(data)
    for _ in range(draw.randint(1, 8) if out else 0):
        out[draw.randrange(len(out))] ^= 1 << draw.randrange(8)
    return bytes(out)


def overwritten(data: bytes, draw: Random) -> bytes:
    """A few bytes are extreme ones; half of the time near the beginning, where headers are."""
    out = bytearray(data)
    for _ in range(draw.randint(1, 6) if out else 0):
        out[place(data, draw)] = draw.choice((0, 1, 0x7F, 0x80, 0xFE, 0xFF, draw.randrange(256)))
    return bytes(out)


def truncated(data: bytes, draw: Random) -> bytes:
    """It ends early."""
    return data[: draw.randrange(len(data) + 1)]


def cut(data: bytes, draw: Random) -> bytes:
    """A stretch is missing."""
    start = place(data, draw)
    return data[:start] + data[start + draw.choice((1, 2, 4, 16, 256)) :]


def spliced(data: bytes, draw: Random) -> bytes:
    """A stretch stands somewhere else too."""
    start, end = place(data, draw), place(data, draw)
    return data[:end] + data[start : start + draw.choice((4, 32, 512))] + data[end:]


def stuffed(data: bytes, draw: Random) -> bytes:
    """Random bytes, or many of the same, are put in."""
    start = place(data, draw)
    return (
        data[:start] + draw.choice((draw.randbytes(8), b"\0" * 64, b"\xff" * 64, b"(" * 4096)) + data[start:]
    )


def lengthened(data: bytes, draw: Random) -> bytes:
    """A number of 2, 4 or 8 bytes, which may be a length, is extreme, or off by a little."""
    kind, size = draw.choice((("<H", 2), (">H", 2), ("<I", 4), (">I", 4), ("<Q", 8), (">Q", 8)))
    if len(data) < size:
        return data
    start = min(place(data, draw), len(data) - size)
    (value,) = struct.unpack_from(kind, data, start)
    value = draw.choice((*EXTREMES, value + 1, value - 1, value * 2, value + 2**24)) % 2 ** (8 * size)
    return data[:start] + struct.pack(kind, value) + data[start + size :]


def place(data: bytes, draw: Random) -> int:
    """Where to do damage."""
    return draw.randrange(min(len(data), 64 if draw.random() < 0.5 else len(data)) or 1)


PLAIN: tuple[Mutator, ...] = (flipped, overwritten, truncated, cut, spliced, stuffed, lengthened)


# ---------------------------------------------------------------------------------------- formats of pictures


def png(data: bytes, draw: Random) -> bytes:
    """A PNG's chunk is changed, doubled, dropped or moved, with the checksum that then is right."""
    chunks = list(png_chunks(data))
    if not chunks:
        return data
    i = draw.randrange(len(chunks))
    name, body = chunks[i]
    match draw.randrange(6):
        case 0:
            chunks[i] = name, draw.choice(PLAIN)(body, draw)
        case 1:
            chunks.insert(draw.randrange(len(chunks) + 1), (name, body))
        case 2:
            del chunks[i]
        case 3:
            draw.shuffle(chunks)
        case 4 if len(chunks[0][1]) >= 13:
            size = [draw.choice((0, 1, 7, 2**15, 2**16, 2**31 - 1)) for _ in range(2)]
            rest = bytes(draw.randrange(9) if draw.random() < 0.5 else b for b in chunks[0][1][8:13])
            chunks[0] = chunks[0][0], struct.pack(">II", *size) + rest
        case _:
            kinds = (b"tEXt", b"zTXt", b"iTXt", b"iCCP", b"eXIf", b"PLTE", b"tRNS", b"acTL", b"fcTL", b"fdAT")
            bomb = b"key\0\0" + zeros(draw.choice((10, 10**6, 10**8)))
            chunks.insert(
                draw.randrange(len(chunks)), (draw.choice(kinds), draw.choice((bomb, draw.randbytes(30))))
            )
    body = (struct.pack(">I", len(b)) + n + b + struct.pack(">I", zlib.crc32(n + b)) for n, b in chunks)
    return data[:8] + b"".join(body)


@lru_cache
def zeros(size: int) -> bytes:
    """So many, packed."""
    return zlib.compress(bytes(size), 9)


def png_chunks(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Names and bodies, as far as they can be followed."""
    at = 8
    while at + 12 <= len(data):
        (size,) = struct.unpack_from(">I", data, at)
        if at + 12 + size > len(data):
            return
        yield data[at + 4 : at + 8], data[at + 8 : at + 8 + size]
        at += 12 + size


def jpeg(data: bytes, draw: Random) -> bytes:
    """A JPEG's segment has another length or other contents; its frame another size."""
    marks = [i for i in range(len(data) - 8) if data[i] == 0xFF and 0xC0 <= data[i + 1] <= 0xFE]
    if not marks:
        return data
    at, out = draw.choice(marks), bytearray(data)
    if draw.random() < 0.3:
        frames = [i for i in marks if data[i + 1] in (0xC0, 0xC1, 0xC2)]
        at = draw.choice(frames or marks)
        out[at + 5 : at + 9] = struct.pack(">HH", *(draw.choice((0, 1, 9000, 65535)) for _ in range(2)))
    elif draw.random() < 0.5:
        out[at + 2 : at + 4] = struct.pack(">H", draw.choice((0, 1, 2, 3, 255, 65535)))
    else:
        out[at + 1] = draw.randrange(0xC0, 0xFF)
    return bytes(out)


def gif(data: bytes, draw: Random) -> bytes:
    """A GIF's screen, a frame's place and size, or the size of its codes is another."""
    out, frames = bytearray(data), [i for i in range(len(data) - 11) if data[i] == 0x2C]
    if draw.random() < 0.3 and len(out) > 10:
        out[6:10] = struct.pack("<HH", *(draw.choice((0, 1, 9000, 65535)) for _ in range(2)))
    elif frames:
        at = draw.choice(frames)
        out[at + 1 : at + 9] = struct.pack("<HHHH", *(draw.choice((0, 1, 12, 9000, 65535)) for _ in range(4)))
        out[at + 10] = draw.choice((0, 1, 2, 8, 12, 13, 255))
    return bytes(out)


def webp(data: bytes, draw: Random) -> bytes:
    """A WebP's chunk has another name or another length."""
    names = [
        i for i in range(12, len(data) - 8) if data[i : i + 3] in (b"VP8", b"ALP", b"ANI", b"ANM", b"EXI")
    ]
    if not names:
        return data
    at, out = draw.choice(names), bytearray(data)
    if draw.random() < 0.5:
        out[at + 4 : at + 8] = struct.pack("<I", draw.choice((0, 1, 2**24, 2**31, 2**32 - 1, len(data))))
    else:
        out[at : at + 4] = draw.choice(
            (b"VP8 ", b"VP8L", b"VP8X", b"ALPH", b"ANIM", b"ANMF", b"EXIF", b"XXXX")
        )
    return bytes(out)


# -------------------------------------------------------------------------------------------------- archives


def zipped(data: bytes, draw: Random) -> bytes:
    """A field of a zip's headers is another: flags, method, checksum, sizes, lengths, offsets."""
    heads = [(i, s) for s in (b"PK\1\2", b"PK\3\4", b"PK\5\6") for i in found(data, s)]
    if not heads:
        return data
    at, kind = draw.choice(heads)
    fields = {
        b"PK\3\4": ((6, 2), (8, 2), (14, 4), (18, 4), (22, 4), (26, 2), (28, 2)),
        b"PK\1\2": ((8, 2), (10, 2), (16, 4), (20, 4), (24, 4), (28, 2), (30, 2), (32, 2), (38, 4), (42, 4)),
        b"PK\5\6": ((4, 2), (8, 2), (10, 2), (12, 4), (16, 4), (20, 2)),
    }[kind]
    offset, size = draw.choice(fields)
    value = draw.choice((0, 1, 8, 12, 14, 99, 2**16 - 1, 2**31, 2**32 - 1)) % 2 ** (8 * size)
    return data[: at + offset] + value.to_bytes(size, "little") + data[at + offset + size :]


def renamed(data: bytes, draw: Random) -> bytes:
    """A zip is written anew with hostile names, members twice, nested archives, or bombs in it."""
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            members = [(info.filename, archive.read(info)) for info in archive.infolist()]
    except Exception:
        return data
    out = io.BytesIO()
    method = draw.choice((zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED))
    with zipfile.ZipFile(out, "w", method) as archive:
        for name, content in members[:50]:
            draw_name = draw.choice(
                (name, name, f"../../{name}", f"/tmp/{name}", f"..\\{name}", f"a/../../{name}")
            )
            content = draw.choice((content, content, data, bytes(draw.choice((0, 10**6)))))
            archive.writestr(draw_name, content)
    return out.getvalue()


def found(data: bytes, what: bytes) -> Iterator[int]:
    """All places of some bytes."""
    at = data.find(what)
    while at >= 0:
        yield at
        at = data.find(what, at + 1)


# ------------------------------------------------------------------------------------------ JSON and its kin


HOSTILE: tuple[Any, ...] = (
    *(None, True, False, 0, -1, 1, 7, 2**20, 2**31, 10**9, 10**18, 10**400, 0.5, -0.0, 1e308, 1e-308),
    *(float("nan"), float("inf"), -float("inf"), "", "x", "auto", "1", *WORDS, [], {}, [[]], [{}], {"": {}}),
    *([0] * 3, [10**9] * 3, [1] * 5000, [1.5, "x", None], {"class": 5}, {"class": "os:system"}, {"a": 1}),
)


def replaced(tree: Any, draw: Random) -> Any:
    """Plain data in which one to three things are others: of another type, absurd, gone, or deeper."""
    tree = copy.deepcopy(tree)
    for _ in range(draw.choice((1, 1, 1, 2, 3))):
        spots = list(places(tree))
        if not spots:
            return draw.choice(HOSTILE)
        holder, key = draw.choice(spots)
        match draw.randrange(8):
            case 0:
                del holder[key]
            case 1 if isinstance(holder, dict):
                holder[draw.choice((*WORDS, "extra", str(key).upper()))] = holder.pop(key)
            case 2:
                deep: Any = holder[key]
                for _ in range(draw.choice((1, 3, 40, 200))):
                    deep = draw.choice(([deep], {"a": deep}, {"class": "x:y", "a": deep}))
                holder[key] = deep
            case 3:
                holder[key] = copy.deepcopy(draw.choice(draw.choice(spots)[:1]))
            case 4 if isinstance(holder[key], int | float) and not isinstance(holder[key], bool):
                holder[key] = draw.choice(
                    (holder[key] * 1000, -holder[key], holder[key] + 0.5, str(holder[key]))
                )
            case _:
                holder[key] = copy.deepcopy(draw.choice(HOSTILE))
    return tree


def places(tree: Any) -> Iterator[tuple[Any, Any]]:
    """Every holder with every key or index in it."""
    if isinstance(tree, dict):
        for key, value in tree.items():
            yield tree, key
            yield from places(value)
    elif isinstance(tree, list):
        for i, value in enumerate(tree):
            yield tree, i
            yield from places(value)


def json_text(data: bytes, draw: Random) -> bytes:
    """A JSON file whose contents are others; now and then what no writer writes."""
    match draw.randrange(12):
        case 0:
            return b"[" * draw.choice((100, 5000, 200_000))
        case 1:
            return b'{"a":' * draw.choice((100, 100_000)) + b"1"
        case 2:
            return data.replace(b"1", b"1" * draw.choice((400, 6000)), 1)
        case _:
            try:
                return json.dumps(replaced(json.loads(data), draw)).encode("utf-8", "surrogatepass")
            except (ValueError, RecursionError):  # what was damaged before
                return data


def json_lines(data: bytes, draw: Random) -> bytes:
    """The same for one line of many."""
    lines = data.split(b"\n")
    i = draw.randrange(len(lines))
    lines[i] = json_text(lines[i] or b"{}", draw)
    return b"\n".join(lines)


def safetensors(data: bytes, draw: Random) -> bytes:
    """The JSON header of a safetensors file is another, and its length right."""
    (size,) = struct.unpack_from("<Q", data) if len(data) >= 8 else (0,)
    try:
        head = json.loads(data[8 : 8 + size])
    except (ValueError, RecursionError):
        return data
    if not isinstance(head, dict):
        return data
    names = [name for name in head if name != "__metadata__"]
    if isinstance(about := head.get("__metadata__"), dict) and draw.random() < 0.8:
        about.pop("crc32", None)  # or the checksum refuses all that follows
    if not names:
        return data
    name = draw.choice(names)
    if not isinstance(head[name], dict) or draw.random() < 0.3:
        head = replaced(head, draw)
    else:
        absurd = draw.choice((0, 1, 2**31, 2**62, -1, 10**30))
        head[name] |= draw.choice(
            (
                {"shape": [absurd]},
                {"shape": [absurd] * 3},
                {"dtype": draw.choice(("F64", "U8", "F8_E4M3", "X", "BOOL"))},
                {"data_offsets": [0, absurd]},
                {"data_offsets": [absurd, 0]},
                {"data_offsets": head[draw.choice(names)].get("data_offsets")},
            )
        )
    text = json.dumps(head).encode("utf-8", "surrogatepass")
    return struct.pack("<Q", len(text)) + text + data[8 + size :]


def npy(data: bytes, draw: Random) -> bytes:
    """The header of an array (in an .npz that is not compressed too) tells of another shape or type."""
    heads = list(found(data, b"\x93NUMPY"))
    if not heads:
        return data
    at = draw.choice(heads)
    end = data.find(b"\n", at)
    if end < 0:
        return data
    shape = draw.choice(
        ("()", "(0,)", "(-1, 8, 8)", f"({10**12},)", f"({2**31}, {2**31}, 3)", "(1, 1, 1)", "5")
    )
    kind = draw.choice(
        ("|O", "<f8", "<f4", "|u1", "<U99999999", "|V65536", "<M8[s]", "<c16", "|S0", "?", ">i2")
    )
    text = (
        f"{{'descr': '{kind}', 'fortran_order': {draw.choice(('True', 'False', '1'))}, 'shape': {shape}, }}"
    )
    size = end - at - 10
    return data[: at + 10] + text.encode()[:size].ljust(size) + data[end:]


def pickled(data: bytes, draw: Random) -> bytes:
    """A pickle in which opcodes are put in: calls of what no file may call, memos, marks, long lengths."""
    calls = (
        b"cos\nsystem\n(S'true'\ntR",
        b"cbuiltins\neval\n\x8c\x011\x85R",
        b"\x8c\x02os\x8c\x06system\x93",
    )
    rest = (
        b"(",
        b"0",
        b"2",
        b".",
        b"}",
        b"]",
        b")",
        b"t",
        b"u",
        b"s",
        b"b",
        b"R",
        b"\x81",
        b"h\x00",
        b"q\xff",
    )
    long = (
        b"\x8e" + b"\xff" * 7 + b"\x7f",
        b"X\xff\xff\xff\x7f",
        b"\x8b\xff\xff\xff\x7f",
        b"r\xff\xff\xff\xff",
    )
    at = place(data, draw)
    return data[:at] + draw.choice((*calls, *rest, *long)) + data[at:]

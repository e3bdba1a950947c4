"""Arrays: .npz, idx files, CIFAR-10 batches. What is detected is said; nothing is ever unpickled."""

from __future__ import annotations

import gzip
import pickle
import struct
from pathlib import Path

import numpy as np
import pytest

from diptych.data import open_data
from diptych.data.arrays import load_npz
from diptych.data.cifar import load_cifar
from diptych.errors import DataError

RNG = np.random.default_rng(4)


def noise(*shape: int) -> np.ndarray:
    return RNG.integers(0, 256, shape, dtype=np.uint8)


def test_train_and_test_arrays_keep_the_official_split(tmp_path: Path) -> None:
    x, t = noise(12, 8, 8), noise(5, 8, 8)
    np.savez_compressed(
        tmp_path / "set.npz", x_train=x, y_train=np.arange(12)[:, None] % 3, x_test=t, y_test=np.arange(5) % 3
    )
    data = open_data(tmp_path / "set.npz")
    assert np.array_equal(data.train.pixels[..., 0], x)
    assert np.array_equal(data.held_out.pixels[..., 0], t)
    assert data.train.labels is not None
    assert data.train.labels.tolist() == [i % 3 for i in range(12)]
    assert data.train.class_names == ("0", "1", "2")
    assert data.card.class_counts == {"0": 6, "1": 6, "2": 5}
    assert open_data(tmp_path).card.train_sha256 == data.card.train_sha256  # the folder that holds only this


def test_copies_across_an_official_split_are_said(tmp_path: Path) -> None:
    x, t = noise(12, 8, 8), noise(5, 8, 8)
    t[1:3] = x[4]
    np.savez(tmp_path / "set.npz", x_train=x, x_test=t)
    (incident,) = open_data(tmp_path / "set.npz").card.incidents
    assert incident.what == "2 held-out images are also in the training split"


def test_arrays_for_validation_and_arrays_that_nothing_asks_for(tmp_path: Path) -> None:
    x, v, t = noise(12, 8, 8), noise(5, 8, 8), noise(4, 8, 8)
    labels = {"y_train": np.arange(12) % 3, "y_val": np.arange(5) % 3}
    np.savez(tmp_path / "two.npz", x_train=x, x_val=v, **labels)
    data = open_data(tmp_path / "two.npz")
    assert np.array_equal(data.held_out.pixels[..., 0], v)
    assert data.held_out.labels is not None
    assert data.held_out.labels.tolist() == [0, 1, 2, 0, 1]
    assert data.card.incidents == ()
    np.savez(tmp_path / "three.npz", x_train=x, x_val=v, x_test=t, y_test=np.arange(4) % 3, **labels)
    data = open_data(tmp_path / "three.npz")
    assert np.array_equal(data.held_out.pixels[..., 0], t)
    assert [(i.what, i.done) for i in data.card.incidents] == [("also holds x_val, y_val", "not used")]


@pytest.mark.parametrize(
    ("shape", "expected"),
    [
        ((9, 8, 10), (1, 8, 10)),
        ((9, 8, 8, 1), (1, 8, 8)),
        ((9, 8, 8, 3), (3, 8, 8)),
        ((9, 3, 8, 8), (3, 8, 8)),
        ((9, 1, 8, 8), (1, 8, 8)),
        ((9, 3, 4, 4), (3, 4, 4)),  # could be 3x4 with four channels; the square is meant
        ((9, 4, 4, 3), (3, 4, 4)),
    ],
)
def test_layouts(tmp_path: Path, shape: tuple[int, ...], expected: tuple[int, int, int]) -> None:
    images = noise(*shape)
    np.savez(tmp_path / "a.npz", images=images)
    data = open_data(tmp_path / "a.npz", held_out=2)
    assert data.card.shape == expected
    chw = images.reshape(9, 1, *shape[1:]) if len(shape) == 3 else images
    if shape[1:] != expected and len(shape) == 4:
        chw = np.moveaxis(images, -1, 1)
    else:
        assert ("moved last" in {i.done for i in data.card.incidents}) == (len(shape) == 4)
    want = {image.tobytes() for image in np.ascontiguousarray(np.moveaxis(chw, 1, -1))}
    got = {image.tobytes() for part in (data.train, data.held_out) for image in part.pixels}
    assert got == want


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_float_ranges_are_detected_and_said(tmp_path: Path, dtype: type) -> None:
    levels = noise(8, 8, 8)
    levels[0, 0, :2] = 0, 255
    for name, values in (("unit", levels / 255), ("signed", levels / 127.5 - 1)):
        np.savez(tmp_path / f"{name}.npz", arr_0=values.astype(dtype))
        stack = load_npz(tmp_path / f"{name}.npz")
        assert np.array_equal(stack.pixels[..., 0], levels)
        said = "0..1" if name == "unit" else "-1..1"
        assert stack.incidents[0].what == f"{np.dtype(dtype).name} in {said}"


def test_a_split_is_scaled_as_one(tmp_path: Path) -> None:
    # the test part alone would look like 0..1
    np.savez(tmp_path / "a.npz", x_train=np.linspace(-1, 1, 512).reshape(8, 8, 8), x_test=np.zeros((4, 8, 8)))
    data = open_data(tmp_path / "a.npz")
    assert set(np.unique(data.held_out.pixels)) == {128}
    assert (data.train.pixels.min(), data.train.pixels.max()) == (0, 255)


@pytest.mark.parametrize(
    ("arrays", "words"),
    [
        ({"arr_0": np.zeros((8, 8, 8), np.int64)}, "pixels of type int64"),
        ({"arr_0": np.zeros((8, 8, 8), bool)}, "pixels of type bool"),
        ({"arr_0": np.full((8, 8, 8), 255.0)}, "floats from 255 to 255"),
        ({"arr_0": np.full((8, 8, 8), np.nan)}, "floats from nan to nan"),
        ({"arr_0": np.zeros((8, 64), np.uint8)}, "an array of shape"),
        ({"arr_0": np.zeros((8, 4, 8, 8, 3), np.uint8)}, "an array of shape"),
        ({"arr_0": np.zeros((8, 8, 8, 2), np.uint8)}, "1, 3 or 4 channels"),
        ({"arr_0": np.zeros((8, 0, 8), np.uint8)}, "no pixels"),
        ({"arr_0": np.zeros((0, 8, 8), np.uint8)}, "holds 0 images"),
        ({"pictures": np.zeros((8, 8, 8), np.uint8)}, "holds pictures"),
        ({"images": noise(8, 8, 8), "labels": np.zeros(7, int)}, "8 images, its labels the shape"),
        ({"images": noise(8, 8, 8), "labels": np.zeros(8, complex)}, "labels of type complex128"),
        ({"x_train": noise(8, 8, 8), "x_test": noise(8, 9, 9)}, "different shapes"),
        ({"x_train": noise(8, 8, 8), "x_test": np.zeros((8, 8, 8))}, "differ in type"),
        (
            {"x_train": noise(8, 8, 8), "y_train": np.zeros(8, int), "x_test": noise(4, 8, 8)},
            "for one split only",
        ),
        ({"arr_0": np.array([noise(8, 8), "x"], dtype=object)}, "Python objects, which could run code"),
    ],
)
def test_arrays_that_cannot_be_meant(tmp_path: Path, arrays: dict[str, np.ndarray], words: str) -> None:
    np.savez(tmp_path / "a.npz", **arrays)
    with pytest.raises(DataError, match=words):
        open_data(tmp_path / "a.npz")


def test_damaged_archives(tmp_path: Path) -> None:
    np.savez_compressed(tmp_path / "a.npz", images=noise(50, 8, 8))
    raw = bytearray((tmp_path / "a.npz").read_bytes())
    raw[400] ^= 0xFF
    (tmp_path / "flipped.npz").write_bytes(raw)
    (tmp_path / "cut.npz").write_bytes(raw[:1000])
    (tmp_path / "text.npz").write_text("nothing of the kind")
    for name, words in (("flipped", "cannot be read"), ("cut", "neither"), ("text", "neither")):
        with pytest.raises(DataError, match=words):
            open_data(tmp_path / f"{name}.npz")


def test_labels_are_counted_from_zero_and_named(tmp_path: Path) -> None:
    x = noise(8, 8, 8)
    np.savez(tmp_path / "gaps.npz", images=x, labels=np.array([5, 9, 5, 9, 7, 7, 5, 9]))
    stack = load_npz(tmp_path / "gaps.npz")
    assert stack.labels is not None
    assert (stack.labels.tolist(), stack.class_names) == ([0, 2, 0, 2, 1, 1, 0, 2], ("5", "7", "9"))
    np.savez(tmp_path / "words.npz", images=x, labels=np.array(list("bbaabbaa")))
    assert load_npz(tmp_path / "words.npz").class_names == ("a", "b")
    np.savez(tmp_path / "named.npz", images=x, labels=np.arange(8) % 2, class_names=["cat", "dog", "fox"])
    assert load_npz(tmp_path / "named.npz").class_names == ("cat", "dog", "fox")
    np.savez(tmp_path / "short.npz", images=x, labels=np.arange(8), class_names=["cat", "dog"])
    with pytest.raises(DataError, match="2 names for labels 0 to 7"):
        load_npz(tmp_path / "short.npz")


def test_arrays_are_resized_and_recoloured(tmp_path: Path) -> None:
    x = np.zeros((6, 8, 16, 4), np.uint8)
    x[:, :, 4:12] = (10, 20, 30, 255)
    x[:, 0, 4, :3] = noise(6, 3)
    np.savez(tmp_path / "a.npz", images=x)
    data = open_data(tmp_path / "a.npz", size=8)
    assert data.train.pixels[0, 4, 4].tolist() == [10, 20, 30]
    assert data.card.shape == (3, 8, 8)
    assert data.card.incidents[0].what == "transparency in 6 images"
    wide = open_data(tmp_path / "a.npz", size=16, fit="pad", channels=1)
    assert wide.card.shape == (1, 16, 16)
    assert wide.train.pixels[0, 0, 0, 0] == 255


def idx(array: np.ndarray) -> bytes:
    return bytes([0, 0, 8, array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape) + array.tobytes()


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("names", ["train-images-idx3-ubyte", "train-images.idx3-ubyte"])
def test_idx_files(tmp_path: Path, names: str, packed: bool) -> None:
    x, t = noise(20, 28, 28), noise(6, 28, 28)
    y, u = (np.arange(n, dtype=np.uint8) % 10 for n in (20, 6))
    for stem, images, labels in (("train", x, y), ("t10k", t, u)):
        for kind, array in (("images", images), ("labels", labels)):
            name = names.replace("train", stem).replace("images", kind)
            name = name.replace("idx3", "idx1") if kind == "labels" else name
            data = idx(array)
            (tmp_path / (name + ".gz" * packed)).write_bytes(gzip.compress(data) if packed else data)
    data = open_data(tmp_path)
    assert np.array_equal(data.train.pixels[..., 0], x)
    assert np.array_equal(data.held_out.pixels[..., 0], t)
    assert data.train.labels is not None
    assert data.train.labels.tolist() == y.tolist()
    named = open_data(tmp_path / (names + ".gz" * packed))  # its labels and the test part found beside it
    assert named.card.train_sha256 == data.card.train_sha256
    assert named.card.held_out_sha256 == data.card.held_out_sha256
    alone = open_data(tmp_path / (names.replace("train", "t10k") + ".gz" * packed), held_out=2)
    assert (len(alone.train), len(alone.held_out)) == (4, 2)
    assert alone.card.class_counts == {str(d): 1 for d in range(6)}


def test_several_sets_of_idx_files_in_one_folder(tmp_path: Path) -> None:
    """As EMNIST comes."""
    for name, n in (("digits", 20), ("letters", 24)):
        for part, share in (("train", n), ("test", n // 4)):
            stem = tmp_path / f"emnist-{name}-{part}"
            Path(f"{stem}-images-idx3-ubyte").write_bytes(idx(noise(share, 28, 28)))
            Path(f"{stem}-labels-idx1-ubyte").write_bytes(idx(np.arange(share, dtype=np.uint8) % 2))
    with pytest.raises(DataError) as caught:
        open_data(tmp_path)
    assert "emnist-digits-train-images-idx3-ubyte, emnist-letters-train-images" in caught.value.message
    data = open_data(caught.value.hint.removeprefix("name the file of one: "))
    assert (len(data.train), len(data.held_out)) == (20, 5)


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"\x00\x01\x08\x03" + bytes(12), "not an idx file: it starts with 00 01 08 03"),
        (b"", "it starts with nothing"),
        (b"\x00\x00\x0d\x03" + bytes(12), "holds type 0x0d"),
        (idx(noise(4, 8, 8))[:-5], "should hold 256 bytes .* holds only 251"),
        (idx(noise(4, 8, 8)) + b"x", "holds more"),
        (bytes([0, 0, 8, 3]) + b"\xff" * 12, "declares 79,228,162"),
        (gzip.compress(idx(noise(4, 8, 8)))[:-30], "cannot be read"),
        (idx(noise(9)), "1-dimensional"),
    ],
)
def test_broken_idx(tmp_path: Path, data: bytes, words: str) -> None:
    path = tmp_path / "train-images-idx3-ubyte"
    path.write_bytes(data)
    with pytest.raises(DataError, match=words):
        open_data(path)


def cifar(folder: Path, protocol: int = 2) -> tuple[np.ndarray, np.ndarray]:
    """A small CIFAR-10 as its authors pickled it: byte keys, rows of three planes."""
    folder.mkdir(parents=True)
    rows = noise(30, 3072)
    for i in range(6):
        name = "test_batch" if i == 5 else f"data_batch_{i + 1}"
        tree = {
            b"data": rows[5 * i : 5 * i + 5],
            b"labels": [(i + j) % 10 for j in range(5)],
            b"batch_label": b"x",
        }
        (folder / name).write_bytes(pickle.dumps(tree, protocol))
    names = [b"plane", b"car", b"bird", b"cat", b"deer", b"dog", b"frog", b"horse", b"ship", b"truck"]
    (folder / "batches.meta").write_bytes(pickle.dumps({b"label_names": names}, protocol))
    return rows, rows.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)


@pytest.mark.parametrize("protocol", [0, 2, 4])
def test_cifar_batches(tmp_path: Path, protocol: int) -> None:
    _, images = cifar(tmp_path / "cifar-10-batches-py", protocol)
    for source in (tmp_path, tmp_path / "cifar-10-batches-py"):
        data = open_data(source)
        assert np.array_equal(data.train.pixels, images[:25])
        assert np.array_equal(data.held_out.pixels, images[25:])
        assert data.held_out.labels is not None
        assert data.held_out.labels.tolist() == [5, 6, 7, 8, 9]
        assert data.train.class_names[3] == "cat"


def test_cifar_as_python_2_wrote_it(tmp_path: Path) -> None:
    # protocol 2, str keys, and numpy.core.multiarray, as in the archive of 2009
    raw = noise(2, 3072)
    body = (
        b"\x80\x02}q\x01(U\x04dataq\x02cnumpy.core.multiarray\n_reconstruct\nq\x03cnumpy\nndarray\nq\x04K\x00\x85"
        b"U\x01b\x87Rq\x05(K\x01K\x02M\x00\x0c\x86cnumpy\ndtype\nq\x06U\x02u1K\x00K\x01\x87Rq\x07(K\x03U\x01|NNNJ"
        b"\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb\x89T" + struct.pack("<I", raw.size) + raw.tobytes() + b"tb"
        b"U\x06labelsq\x08]q\x09(K\x06K\x09eu."
    )
    (tmp_path / "data_batch_1").write_bytes(body)
    stack = load_cifar(tmp_path)
    assert np.array_equal(stack.pixels, raw.reshape(2, 3, 32, 32).transpose(0, 2, 3, 1))
    assert stack.class_names == ("6", "9")
    assert pickle.loads(body, encoding="bytes")[b"labels"] == [6, 9]  # a real pickle, for anyone


class Hostile:
    def __init__(self, call: object, *arguments: object) -> None:
        self.call, self.arguments = call, arguments

    def __reduce__(self) -> tuple[object, tuple[object, ...]]:
        return self.call, self.arguments


def test_hostile_pickles_run_nothing(tmp_path: Path) -> None:
    import codecs
    import os

    mark = tmp_path / "ran"
    attacks = [
        Hostile(os.system, f"touch {mark}"),
        Hostile(eval, f"open({str(mark)!r}, 'w')"),
        Hostile(getattr, [], "append"),
        Hostile(np.load, "x"),
        Hostile(codecs.encode, "x", "rot13"),
    ]
    for i, attack in enumerate(attacks):
        folder = tmp_path / str(i)
        folder.mkdir()
        tree = {b"data": noise(5, 3072), b"labels": [attack, 1, 2, 3, 4]}
        (folder / "data_batch_1").write_bytes(pickle.dumps(tree, 2))
        with pytest.raises(DataError, match=r"is not a CIFAR-10 batch: it (asks|encodes)"):
            open_data(folder)
    assert not mark.exists()


@pytest.mark.parametrize(
    ("tree", "words"),
    [
        ([1, 2], "holds a list"),
        ({b"labels": [1]}, "has no data"),
        ({b"data": noise(2, 3072)}, "has no labels"),
        ({b"data": noise(2, 3000), b"labels": [1, 2]}, "3,072 unsigned bytes"),
        ({b"data": np.zeros((2, 3072)), b"labels": [1, 2]}, "3,072 unsigned bytes"),
        ({b"data": noise(2, 3072), b"labels": [1]}, "one whole number"),
        ({b"data": noise(2, 3072), b"labels": [1, b"x"]}, "one whole number"),
    ],
)
def test_batches_that_are_not_cifar(tmp_path: Path, tree: object, words: str) -> None:
    (tmp_path / "data_batch_1").write_bytes(pickle.dumps(tree, 2))
    with pytest.raises(DataError, match=words):
        open_data(tmp_path)
    (tmp_path / "data_batch_1").write_bytes(pickle.dumps(tree, 2)[:-9])
    with pytest.raises(DataError, match="is not a CIFAR-10 batch"):
        open_data(tmp_path)

"""Folders and zips of images: every odd kind of file, what becomes of it, and what is said about it."""

from __future__ import annotations

import io
import os
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from diptych.data import DataSet, Images, open_data
from diptych.data.decode import Policy, fitted, open_image, recolour, strict_pillow
from diptych.errors import DataError, WrongUse

RNG = np.random.default_rng(1)


def noise(height: int = 16, width: int = 16, channels: int = 3) -> np.ndarray:
    pixels = RNG.integers(0, 256, (height, width, channels), dtype=np.uint8)
    return pixels[..., 0] if channels == 1 else pixels


def save(path: Path, pixels: np.ndarray, **how: object) -> np.ndarray:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path, **how)
    return pixels


def photos(folder: Path, n: int = 6, **how: int) -> Path:
    for i in range(n):
        save(folder / f"photo{i}.png", noise(**how))
    return folder


def everything(data: DataSet) -> list[bytes]:
    return [image.tobytes() for part in (data.train, data.held_out) for image in part.pixels]


def said(data: DataSet) -> dict[str, tuple[str, str]]:
    return {incident.file: (incident.what, incident.done) for incident in data.card.incidents}


def test_class_folders_become_sorted_labels_even_when_nested(tmp_path: Path) -> None:
    for name, level in (("zebra", 10), ("ant", 200)):
        for i in range(5):
            save(
                tmp_path / name / ("deep" if i % 2 else "") / f"{i}.png", np.full((8, 8), level + i, np.uint8)
            )
    data = open_data(tmp_path)
    assert data.train.class_names == ("ant", "zebra")
    assert data.card.class_counts == {"ant": 5, "zebra": 5}
    for part in (data.train, data.held_out):
        assert part.labels is not None
        assert [level >= 200 for level in part.pixels[:, 0, 0, 0]] == [label == 0 for label in part.labels]
    assert data.card.shape == (1, 8, 8)


def test_a_flat_folder_has_no_labels_and_hidden_files_are_skipped(tmp_path: Path) -> None:
    photos(tmp_path / "holiday")  # one subfolder is not a class
    save(tmp_path / ".cache" / "x.png", noise())
    save(tmp_path / "__MACOSX" / "x.png", noise())
    save(tmp_path / "holiday" / "._photo0.png", noise())
    data = open_data(tmp_path)
    assert data.train.labels is None
    assert len(data.train) + len(data.held_out) == 6
    assert data.card.incidents == ()
    assert data.card.fit == "kept at the size that they have"


def test_an_official_split_is_used_and_a_third_is_named(tmp_path: Path) -> None:
    for split, n in (("train", 5), ("test", 3), ("val", 2)):
        for name in ("a", "b"):
            photos(tmp_path / split / name, n)
    data = open_data(tmp_path)
    assert (len(data.train), len(data.held_out)) == (10, 6)
    assert data.train.class_names == data.held_out.class_names == ("a", "b")
    held = {np.asarray(Image.open(p)).tobytes() for p in (tmp_path / "test").rglob("*.png")}
    assert {image.tobytes() for image in data.held_out.pixels} == held
    assert said(data) == {"val/": ("a third split, 4 files", "not used")}
    fewer = open_data(tmp_path, held_out=2)
    assert (len(fewer.train), len(fewer.held_out)) == (10, 2)
    assert {image.tobytes() for image in fewer.held_out.pixels} < held


def test_a_stray_file_does_not_turn_a_split_into_classes(tmp_path: Path) -> None:
    photos(tmp_path / "top" / "Train", 5)
    photos(tmp_path / "top" / "Valid", 3)
    save(tmp_path / "top" / "preview.png", noise())
    data = open_data(tmp_path)
    assert data.train.labels is None
    assert (len(data.train), len(data.held_out)) == (5, 3)
    assert said(data)["top/preview.png"] == ("lies beside the folders of the split", "left out")


def test_a_folder_called_train_among_others_is_a_class(tmp_path: Path) -> None:
    for name in ("bus", "test", "train"):
        photos(tmp_path / name, 3)
    assert open_data(tmp_path).train.class_names == ("bus", "test", "train")


def test_mostly_flat_folders_have_no_classes(tmp_path: Path) -> None:
    photos(tmp_path, 9)
    photos(tmp_path / "thumbs", 3)
    alone = open_data(tmp_path)
    assert (len(alone.train) + len(alone.held_out), alone.card.incidents) == (12, ())
    photos(tmp_path / "more", 3)
    data = open_data(tmp_path)
    assert data.train.labels is None
    assert len(data.train) + len(data.held_out) == 15
    assert [i.done for i in data.card.incidents] == ["no classes taken"]


def test_files_beside_class_folders_are_left_out_by_name(tmp_path: Path) -> None:
    photos(tmp_path / "a")
    photos(tmp_path / "b")
    save(tmp_path / "cover.png", noise())
    (tmp_path / "README.md").write_text("about")
    data = open_data(tmp_path)
    assert len(data.train) + len(data.held_out) == 12
    assert said(data)["cover.png"] == ("lies beside the class folders, so it has no class", "left out")
    assert said(data)["README.md"][0] == "not an image, by its name"


def test_every_odd_kind_decodes_to_the_right_pixels(tmp_path: Path) -> None:
    grey16 = np.arange(256, dtype=np.uint16).reshape(16, 16) * 257
    Image.fromarray(grey16).save(tmp_path / "16bit.png")
    grey = save(tmp_path / "grey.png", noise(channels=1))
    rgba = save(tmp_path / "rgba.png", noise(channels=4))
    Image.fromarray(noise()).quantize(16).save(tmp_path / "palette.png")
    Image.fromarray(grey).convert("1").save(tmp_path / "bits.png")
    Image.new("CMYK", (16, 16), (0, 255, 255, 0)).save(tmp_path / "cmyk.tif")
    frames = [Image.fromarray(np.full((16, 16, 3), level, np.uint8)) for level in (30, 220)]
    frames[0].save(tmp_path / "moving.gif", save_all=True, append_images=frames[1:])
    frames[1].save(tmp_path / "moving.webp", save_all=True, append_images=frames[:1], lossless=True)
    frames[0].save(tmp_path / "pages.tif", save_all=True, append_images=frames[1:])
    data = open_data(tmp_path)
    assert data.card.shape == (3, 16, 16)
    found = said(data)
    assert found["16bit.png"] == ("grey among colour images", "given three equal channels")
    kinds = {(i.file, i.what): i.done for i in data.card.incidents}
    assert kinds["16bit.png", "16-bit grey"] == "scaled to 8 bits, 65,535 to 255"
    assert kinds["rgba.png", "transparency"] == "composited on white; --channels 4 keeps it"
    assert kinds["palette.png", "palette"] == "converted to RGB"
    assert kinds["bits.png", "black and white, 1 bit"] == "read as grey"
    assert kinds["cmyk.tif", "CMYK colours"] == "converted to RGB"
    for name in ("moving.gif", "moving.webp", "pages.tif"):
        assert kinds[name, "several frames"] == "first frame taken"
    pixels = set(everything(data))
    alpha = rgba[..., 3:] / 255
    expected = {
        "16bit": np.repeat(np.arange(256, dtype=np.uint8).reshape(16, 16, 1), 3, 2),
        "grey": np.repeat(grey[..., None], 3, 2),
        "rgba": np.rint(rgba[..., :3] * alpha + 255 * (1 - alpha)).astype(np.uint8),
        "cmyk": np.full((16, 16, 3), (255, 0, 0), np.uint8),
        "gif": np.full((16, 16, 3), 30, np.uint8),
        "webp": np.full((16, 16, 3), 220, np.uint8),
    }
    for name, image in expected.items():
        assert image.tobytes() in pixels, name


@pytest.mark.parametrize("kind", ["jpg", "png", "tif", "webp"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_turned_upright(tmp_path: Path, orientation: int, kind: str) -> None:
    # quadrants of 16 px survive JPEG; the stored picture is the upright one turned the other way
    upright = np.kron(np.array([[10, 90, 160], [230, 60, 200]], np.uint8), np.ones((16, 16), np.uint8))
    stored = {
        1: upright,
        2: upright[:, ::-1],
        3: upright[::-1, ::-1],
        4: upright[::-1],
        5: upright.T,
        6: np.rot90(upright),
        7: upright[::-1, ::-1].T,
        8: np.rot90(upright, -1),
    }[orientation]
    exif = Image.Exif()
    exif[0x0112] = orientation
    out = io.BytesIO()
    how = {"jpg": {"quality": 100}, "webp": {"lossless": True}}.get(kind, {})
    Image.fromarray(np.ascontiguousarray(stored)).save(
        out, {"jpg": "JPEG", "tif": "TIFF"}.get(kind, kind), exif=exif, **how
    )
    with strict_pillow():
        opened = open_image(out.getvalue())
    assert opened.size == (48, 32)
    got = np.asarray(opened.image.convert("L")).astype(int)
    assert np.abs(got - upright).max() <= (2 if kind in ("jpg", "webp") else 0)
    assert any("EXIF" in what for what, _ in opened.notes) == (orientation > 1)


def test_channels_default_by_content_and_on_request(tmp_path: Path) -> None:
    for i in range(6):  # grey pictures that were saved as RGB
        save(tmp_path / f"{i}.png", np.repeat(noise(channels=1)[..., None], 3, 2))
    assert open_data(tmp_path).card.shape == (1, 16, 16)
    assert open_data(tmp_path, channels=3).card.shape == (3, 16, 16)
    data = open_data(tmp_path, channels=4)
    assert data.card.shape == (4, 16, 16)
    assert bool((data.train.pixels[..., 3] == 255).all())


def test_four_channels_keep_transparency(tmp_path: Path) -> None:
    images = {save(tmp_path / f"{i}.png", noise(channels=4)).tobytes() for i in range(6)}
    data = open_data(tmp_path, channels=4)
    assert set(everything(data)) == images
    assert data.card.incidents == ()


def test_grey_is_pillows_grey() -> None:
    pixels = noise(64, 64)
    expected = np.asarray(Image.fromarray(pixels).convert("L"))
    assert np.array_equal(recolour(pixels, 1)[..., 0], expected)


def test_crop_pad_and_stretch(tmp_path: Path) -> None:
    wide = np.zeros((32, 96, 3), np.uint8)
    wide[:, 32:64] = (200, 100, 50)
    crop = fitted(wide, Policy(16, "crop"))
    assert np.array_equal(crop, np.full((16, 16, 3), (200, 100, 50), np.uint8))
    pad = fitted(wide, Policy(48, "pad"))
    assert np.array_equal(pad[:16], np.full((16, 48, 3), 255, np.uint8))
    assert np.array_equal(pad[32:], np.full((16, 48, 3), 255, np.uint8))
    assert np.array_equal(pad[24, 24], (200, 100, 50))
    assert pad[24, 2].tolist() == [0, 0, 0]
    stretch = fitted(wide, Policy(24, "stretch"))
    assert stretch[12, 12].tolist() == [200, 100, 50]
    assert stretch[12, 1].tolist() == [0, 0, 0]
    same = noise(16, 16)
    assert fitted(same, Policy(16)) is same
    assert fitted(noise(1, 500), Policy(8, "pad")).shape == (8, 8, 3)


def test_shrinking_is_antialiased() -> None:
    stripes = np.zeros((128, 128, 1), np.uint8)
    stripes[:, ::2] = 255
    small = fitted(stripes, Policy(16))
    assert small.min() >= 126
    assert small.max() <= 129  # picking pixels would give 0 or 255


def test_padding_with_alpha_is_transparent() -> None:
    pad = fitted(noise(16, 8, 4), Policy(16, "pad", 4))
    assert bool((pad[:, :4, 3] == 0).all())


def test_mixed_sizes_need_a_size_and_a_sensible_one_is_offered(tmp_path: Path) -> None:
    for i in range(6):
        save(tmp_path / f"{i}.png", noise(70 + 10 * (i // 4), 90))
    with pytest.raises(DataError) as caught:
        open_data(tmp_path)
    assert "2 different sizes: 90x70 (4), 90x80 (2)" in caught.value.message
    assert "--size 64" in caught.value.hint
    data = open_data(tmp_path, size=64)
    assert data.card.shape == (3, 64, 64)
    assert data.card.fit == "crop to the central square, bicubic antialiased, 64 px"
    assert open_data(tmp_path, size=64, fit="pad").card.fit.startswith("pad to a square with white")


def test_large_jpegs_reduced_while_decoding_look_the_same(tmp_path: Path) -> None:
    y, x = np.mgrid[:960, :1280]
    smooth = np.stack([x / 5, y / 4, 128 + 100 * np.sin(x / 60)], -1).clip(0, 255).astype(np.uint8)
    out = io.BytesIO()
    Image.fromarray(smooth).save(out, "JPEG", quality=95)
    with strict_pillow():
        reduced = open_image(out.getvalue(), 64)
        whole = open_image(out.getvalue())
    assert reduced.image.width < whole.image.width == 1280
    assert reduced.size == (1280, 960)
    a, b = (fitted(np.asarray(o.image), Policy(64)).astype(int) for o in (reduced, whole))
    assert np.abs(a - b).max() <= 4


def test_enlarging_is_said(tmp_path: Path) -> None:
    photos(tmp_path, 5)
    assert {what for what, _ in said(open_data(tmp_path, size=32)).values()} == {"smaller than 32 px"}
    photos(tmp_path, 20)
    (incident,) = open_data(tmp_path, size=32).card.incidents
    assert incident.file == "photo0.png and 19 more"


def test_a_zip_is_the_folder(tmp_path: Path) -> None:
    for name in ("cat", "dog"):
        photos(tmp_path / "in" / name)
    with zipfile.ZipFile(tmp_path / "pets.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        for path in sorted((tmp_path / "in").rglob("*.png"), reverse=True):
            archive.write(path, "top/" + path.relative_to(tmp_path / "in").as_posix())
        archive.writestr("__MACOSX/top/cat/._photo0.png", b"x")
    folder, zipped = open_data(tmp_path / "in"), open_data(tmp_path / "pets.zip")
    assert zipped.card.train_sha256 == folder.card.train_sha256
    assert zipped.card.held_out_sha256 == folder.card.held_out_sha256
    assert zipped.card.incidents == ()
    assert zipped.card.name == "pets"


def test_reading_twice_gives_the_same_bytes_in_the_same_order(tmp_path: Path) -> None:
    photos(tmp_path, 40)
    first, second = (open_data(tmp_path, cache=tmp_path.parent / f"cache{i}") for i in range(2))
    assert everything(first) == everything(second)
    assert first.card == second.card
    names = sorted(tmp_path.iterdir())
    order = [np.asarray(Image.open(path)).tobytes() for path in names]
    kept = [image.tobytes() for image in first.train.pixels]
    assert kept == [image for image in order if image in set(kept)]


def test_folders_that_hold_too_little(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="holds no images"):
        open_data(tmp_path)
    photos(tmp_path, 1)
    with pytest.raises(DataError, match="holds 1 image\n"):
        open_data(tmp_path)
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "a.npz").write_bytes(b"")
    (tmp_path / "empty" / "b.zip").write_bytes(b"")
    with pytest.raises(DataError, match=r"name the file itself: a\.npz, b\.zip"):
        open_data(tmp_path / "empty")


def test_wrong_use(tmp_path: Path) -> None:
    photos(tmp_path)
    with pytest.raises(DataError, match="did you mean digits"):
        open_data("digts")
    with pytest.raises(DataError, match="is one file"):
        open_data(tmp_path / "photo0.png")
    with pytest.raises(WrongUse, match="out of range"):
        open_data(tmp_path, size=3)
    with pytest.raises(WrongUse, match="no fit called 'zoom'"):
        open_data(tmp_path, fit="zoom")  # type: ignore[arg-type]
    with pytest.raises(WrongUse, match="2 channels"):
        open_data(tmp_path, channels=2)  # type: ignore[arg-type]
    for held_out in (0, 1, 1.5, -0.1, 0.0, True):
        with pytest.raises(WrongUse, match="neither a fraction nor a count"):
            open_data(tmp_path, held_out=held_out)
    with pytest.raises(WrongUse, match="cannot be held out"):
        open_data(tmp_path, held_out=5)


def test_links_in_a_circle_end(tmp_path: Path) -> None:
    photos(tmp_path / "a")
    os.symlink(tmp_path, tmp_path / "a" / "loop")
    os.symlink(tmp_path / "nothing", tmp_path / "a" / "dangling.png")
    data = open_data(tmp_path)
    assert len(data.train) + len(data.held_out) == 6
    assert said(data) == {
        "a/dangling.png": ("No such file or directory", "left out"),
        "a/loop/": ("the same folder as ./", "left out"),
    }


def test_returned_pixels_are_read_only(tmp_path: Path) -> None:
    data = open_data(photos(tmp_path), flip=True)
    assert isinstance(data.train, Images)
    assert (data.train.flip, data.held_out.flip) == (True, False)
    with pytest.raises(ValueError, match="read-only"):
        data.train.pixels[0] = 0
    assert data.train.batch(0, 0, 8).image.shape == (8, 3, 16, 16)

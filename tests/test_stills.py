"""BMP, TIFF and PPM pictures: sound ones are opened, damaged ones refused, and memory is bounded."""

from __future__ import annotations

import tracemalloc
from pathlib import Path
from random import Random

import numpy as np
import pytest
from PIL import Image

import stills
from diptych.data.decode import MAX_BYTES, MAX_PIXELS, Unreadable, open_image, strict_pillow
from doors import PIXELS
from stills import PICTURES, made


@pytest.mark.parametrize("kind", PICTURES)
def test_sound_pictures_are_opened(kind: str, tmp_path: Path) -> None:
    files = PICTURES[kind].lay(tmp_path)
    with strict_pillow():
        opened = [open_image(file.read_bytes()).image for file in files]
    assert len(opened) >= 7
    assert {image.size for image in opened} == {(12, 12)}
    assert {image.mode for image in opened} == {"L", "RGB"}


@pytest.mark.parametrize("kind", PICTURES)
def test_damaged_pictures_are_refused_in_our_words(kind: str, tmp_path: Path) -> None:
    door, refused = PICTURES[kind], list[str]()
    sound = [file.read_bytes() for file in door.lay(tmp_path)]
    with strict_pillow():
        for i in range(300):
            draw = Random(i)
            try:
                open_image(door.damage(draw.choice(sound), draw))
            except Unreadable as error:
                refused.append(str(error))
    assert 30 < len(refused) < 300
    assert all(refused)


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "PPM"])
def test_16_bits_are_scaled_to_the_nearest(kind: str) -> None:
    grey = PIXELS[0, ..., 0]
    assert np.array_equal(np.asarray(open_image(made(kind, "I;16")).image), grey)


@pytest.mark.parametrize("mode", ["I;16", "I", "F", "RGBA"])
def test_memory_of_the_largest_picture(mode: str, tmp_path: Path) -> None:
    """What numpy holds on the way, and two pictures of 4 bytes a pixel, which only Pillow knows of."""
    side = 1000
    file = tmp_path / "x.tiff"
    Image.new(mode, (side, side)).save(file, compression="tiff_adobe_deflate")
    data = file.read_bytes()
    open_image(data)  # imports what it needs
    tracemalloc.start()
    open_image(data)
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert (most / side**2 + 8) * MAX_PIXELS < MAX_BYTES


def test_damage_knows_the_format() -> None:
    for kind, damaged in (("BMP", stills.bmp), ("TIFF", stills.tiff), ("PPM", stills.ppm)):
        data = made(kind, "RGB")
        assert len({damaged(data, Random(i)) for i in range(50)}) > 20

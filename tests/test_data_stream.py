"""The stream of batches: a pure function of (seed, images seen), a permutation in each epoch."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from diptych.data import Images


def numbered(n: int = 23, flip: bool = False) -> Images:
    """Image i is 2x3 with i in its left columns and 200 at the right edge."""
    pixels = np.repeat(np.arange(n, dtype=np.uint8), 6).reshape(n, 2, 3, 1)
    pixels[:, :, 2] = 200
    return Images(pixels, np.arange(n), tuple(map(str, range(n))), flip=flip)


def drawn(images: Images, seed: int, start: int, size: int) -> list[int]:
    label = images.batch(seed, start, size).condition.label
    assert label is not None
    return label.tolist()


def test_each_epoch_is_a_permutation_and_they_differ() -> None:
    images = numbered()
    epochs = [drawn(images, 5, 23 * e, 23) for e in range(3)]
    assert all(sorted(epoch) == list(range(23)) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == 3
    assert drawn(images, 6, 0, 23) != epochs[0]


@pytest.mark.parametrize("size", [1, 4, 7, 50])
def test_the_stream_does_not_depend_on_how_it_is_cut(size: int) -> None:
    images = numbered(flip=True)
    whole = images.batch(1, 0, 100)
    pieces = [images.batch(1, start, min(size, 100 - start)) for start in range(0, 100, size)]
    assert torch.equal(torch.cat([piece.image for piece in pieces]), whole.image)
    assert torch.equal(torch.cat([p.condition.label for p in pieces]), whole.condition.label)  # type: ignore[misc]


def test_a_batch_is_the_same_whatever_was_drawn_before() -> None:
    images = numbered(flip=True)
    late = images.batch(3, 1000, 16).image
    for epoch in range(8):  # pushes the remembered permutations out
        images.batch(9, 23 * epoch, 5)
    assert torch.equal(images.batch(3, 1000, 16).image, late)
    assert images.batch(3, 0, 0).image.shape == (0, 1, 2, 3)


def test_values_range_and_layout() -> None:
    pixels = np.zeros((2, 4, 4, 3), np.uint8)
    pixels[1] = 255
    batch = Images(pixels).batch(0, 0, 2)
    assert sorted(batch.image.flatten(1).mean(1).tolist()) == [-1.0, 1.0]
    assert batch.image.is_contiguous(memory_format=torch.channels_last)
    assert batch.condition.label is None


def test_flip_mirrors_about_half_and_the_same_ones_each_time() -> None:
    images, plain = numbered(flip=True), numbered()
    image, unflipped = images.batch(0, 0, 2300).image, plain.batch(0, 0, 2300).image
    mirrored = image[:, 0, 0, 0] == unflipped[:, 0, 0, 2]
    kept = (image == unflipped).flatten(1).all(1)
    assert bool((mirrored ^ kept).all())
    assert torch.equal(image[mirrored], unflipped[mirrored].flip(3))
    assert 0.45 < mirrored.float().mean().item() < 0.55
    assert torch.equal(images.batch(0, 0, 2300).image, image)
    assert images.pixels[0, 0].ravel().tolist() == [0, 0, 200]  # the data itself is untouched


def test_read_only_pixels_become_tensors_that_may_be_written() -> None:
    images = numbered()
    images.pixels.flags.writeable = False
    tensor = images.tensor()
    tensor[0] = 7
    assert images.pixels[0, 0, 0, 0] == 0
    assert images.tensor(np.array([4, 2]))[:, 0, 0, 0].tolist() == [4, 2]
    assert images.subset(slice(3, 5)).sha256 == images.subset(np.array([3, 4])).sha256

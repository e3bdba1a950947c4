"""Inception as FID has it: beside torch-fidelity's numbers, a plain network, TensorFlow's resize in loops."""

from __future__ import annotations

import hashlib
import logging
import pickle
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor
from torch.nn.functional import avg_pool2d, batch_norm, conv2d, max_pool2d

from diptych.errors import RunError, WrongUse
from diptych.features import inception
from diptych.features._inception_net import kernels, random_weights, shapes
from diptych.features._resize import rgb, tf1_bilinear
from diptych.features.extractor import extractor, names
from diptych.features.inception import SHA256, Inception, build

# what torch-fidelity 0.4.0 says of `noise(32, 32)` and `noise(70, 50)` with `random_weights(0)`:
#   net = FeatureExtractorInceptionV3("inception-v3-compat", ["2048", "logits_unbiased"], "weights.pth")
#   pooled, logits = net(image); pooled[0, ::186][:12], pooled.double().sum(), logits[0, ::200][:6]
# and a forward hook on Mixed_6d for the spatial view: out[0, :7].permute(1, 2, 0).flatten()[::400][:6], sum
RECORDED: dict[tuple[int, int], dict[str, list[float]]] = {
    (32, 32): {
        "pooled": [
            0.0,
            6.521118,
            0.394617,
            7.053195,
            6.577123,
            7.193737,
            0.307923,
            5.350852,
            4.407638,
            23.390594,
            7.221932,
            5.491498,
        ],
        "logits": [5.875541, 10.731302, -6.325728, 9.631192, 4.3934, 0.087627],
        "spatial": [0.0, 2.788445, 0.0, 0.0, 1.491165, 0.0],
        "sums": [6435.947566, -129.941642, 1214.537193],
    },
    (70, 50): {
        "pooled": [
            0.0,
            6.560029,
            0.345666,
            7.201506,
            7.3484,
            7.488935,
            0.350422,
            6.192001,
            4.81729,
            24.405796,
            7.299705,
            5.843238,
        ],
        "logits": [6.008426, 11.221647, -6.489025, 10.351377, 4.571614, 0.022026],
        "spatial": [0.0, 2.77285, 0.0, 0.0, 1.14072, 0.0],
        "sums": [6749.766616, -141.936335, 1230.243925],
    },
}


@pytest.fixture(scope="module")
def weights() -> dict[str, Tensor]:
    """Seeded weights, the same bits on every machine."""
    return random_weights(0)


@pytest.fixture(scope="module")
def net(weights: dict[str, Tensor]) -> Inception:
    """The extractor with these weights."""
    return Inception(weights, "made up").eval()


@pytest.fixture(scope="module")
def file(weights: dict[str, Tensor], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """These weights as the known file has them, batch counters included."""
    path = tmp_path_factory.mktemp("weights") / "made-up.pth"
    counters = {f"{name}.bn.num_batches_tracked": torch.tensor(0) for name in kernels()}
    torch.save(weights | counters, path)
    return path


def noise(height: int, width: int, n: int = 1, seed: int = 7) -> Tensor:
    """uint8 (n, 3, height, width), the same on every machine."""
    raw = np.random.PCG64(seed).random_raw(n * 3 * height * width)
    return torch.from_numpy((raw >> np.uint64(56)).astype(np.uint8)).view(n, 3, height, width)


def tf1_loops(image: npt.NDArray[np.float64], size: int) -> npt.NDArray[np.float64]:
    """TensorFlow 1's resize_bilinear of (H, W), pixel by pixel, from its documentation."""
    height, width = image.shape
    out = np.zeros((size, size))
    for i in range(size):
        for j in range(size):
            y, x = i * height / size, j * width / size
            top, left = int(y), int(x)
            bottom, right = min(top + 1, height - 1), min(left + 1, width - 1)
            above = image[top, left] + (image[top, right] - image[top, left]) * (x - left)
            below = image[bottom, left] + (image[bottom, right] - image[bottom, left]) * (x - left)
            out[i, j] = above + (below - above) * (y - top)
    return out


def plain(weights: dict[str, Tensor], x: Tensor) -> tuple[Tensor, Tensor]:
    """The network as it is drawn: every convolution, batch norm and branch by itself."""

    def layer(x: Tensor, name: str, stride: int = 1, pad: bool = True) -> Tensor:
        kernel = weights[f"{name}.conv.weight"]
        padding = tuple(side // 2 for side in kernel.shape[2:]) if pad else (0, 0)
        mean, var, gain, bias = (
            weights[f"{name}.bn.{part}"] for part in ("running_mean", "running_var", "weight", "bias")
        )
        y = conv2d(x, kernel, None, stride, padding)
        return batch_norm(y, mean, var, gain, bias, eps=1e-3).relu()

    def chain(x: Tensor, block: str, *names: str) -> Tensor:
        for name in names:
            x = layer(x, f"{block}.{name}")
        return x

    def averaged(x: Tensor) -> Tensor:
        return avg_pool2d(x, 3, 1, 1, count_include_pad=False)

    x = layer(layer(x, "Conv2d_1a_3x3", 2, False), "Conv2d_2a_3x3", pad=False)
    x = max_pool2d(layer(x, "Conv2d_2b_3x3"), 3, 2)
    x = max_pool2d(layer(layer(x, "Conv2d_3b_1x1"), "Conv2d_4a_3x3", pad=False), 3, 2)
    for block in ("Mixed_5b", "Mixed_5c", "Mixed_5d"):
        five = chain(x, block, "branch5x5_1", "branch5x5_2")
        three = chain(x, block, "branch3x3dbl_1", "branch3x3dbl_2", "branch3x3dbl_3")
        branches = [chain(x, block, "branch1x1"), five, three, chain(averaged(x), block, "branch_pool")]
        x = torch.cat(branches, 1)
    double = chain(x, "Mixed_6a", "branch3x3dbl_1", "branch3x3dbl_2")
    double = layer(double, "Mixed_6a.branch3x3dbl_3", 2, False)
    x = torch.cat([layer(x, "Mixed_6a.branch3x3", 2, False), double, max_pool2d(x, 3, 2)], 1)
    for block in ("Mixed_6b", "Mixed_6c", "Mixed_6d", "Mixed_6e"):
        seven = chain(x, block, *(f"branch7x7_{i}" for i in (1, 2, 3)))
        double = chain(x, block, *(f"branch7x7dbl_{i}" for i in (1, 2, 3, 4, 5)))
        branches = [chain(x, block, "branch1x1"), seven, double, chain(averaged(x), block, "branch_pool")]
        x = torch.cat(branches, 1)
        if block == "Mixed_6d":
            spatial = x[:, :7].permute(0, 2, 3, 1).flatten(1)
    three = layer(chain(x, "Mixed_7a", "branch3x3_1"), "Mixed_7a.branch3x3_2", 2, False)
    seven = chain(x, "Mixed_7a", *(f"branch7x7x3_{i}" for i in (1, 2, 3)))
    x = torch.cat([three, layer(seven, "Mixed_7a.branch7x7x3_4", 2, False), max_pool2d(x, 3, 2)], 1)
    for block, pool in (("Mixed_7b", averaged), ("Mixed_7c", lambda x: max_pool2d(x, 3, 1, 1))):
        three = chain(x, block, "branch3x3_1")
        double = chain(x, block, "branch3x3dbl_1", "branch3x3dbl_2")
        both = [chain(three, block, f"branch3x3_2{i}") for i in "ab"]
        both += [chain(double, block, f"branch3x3dbl_3{i}") for i in "ab"]
        x = torch.cat([chain(x, block, "branch1x1"), *both, chain(pool(x), block, "branch_pool")], 1)
    return x.mean((2, 3)), spatial


def off(found: Tensor, right: Tensor) -> float:
    """The relative difference."""
    return float((found - right).norm() / right.norm())


@pytest.mark.parametrize(("height", "width"), [(8, 8), (32, 20), (299, 299), (310, 301), (1, 2)])
def test_resize_is_tensorflow_1s(height: int, width: int) -> None:
    image = noise(height, width)[0, 0].double().numpy()
    size = 299 if height < 50 else 60  # loops are slow
    found = tf1_bilinear(torch.from_numpy(image).float()[None, None], size)[0, 0]
    # float32 positions move a value by at most 255 * 310 * 2^-24 levels
    np.testing.assert_allclose(found.numpy(), tf1_loops(image, size), atol=1e-2, rtol=0)


def test_resize_leaves_its_own_size_alone() -> None:
    image = noise(299, 299).float()
    assert torch.equal(tf1_bilinear(image, 299), image)


@pytest.mark.parametrize("size", [(32, 32), (70, 50)])
@torch.inference_mode()
def test_numbers_are_torch_fidelitys(net: Inception, size: tuple[int, int]) -> None:
    found, right = net(noise(*size)), RECORDED[size]
    np.testing.assert_allclose(found["pooled"][0, ::186][:12], right["pooled"], rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(found["logits"][0, ::200][:6], right["logits"], rtol=1e-5, atol=2e-5)
    np.testing.assert_allclose(found["spatial"][0, ::400][:6], right["spatial"], rtol=1e-4, atol=1e-5)
    sums = [float(found[view].double().sum()) for view in ("pooled", "logits", "spatial")]
    np.testing.assert_allclose(sums, right["sums"], rtol=1e-5)


@torch.inference_mode()
def test_folded_is_the_plain_network(net: Inception, weights: dict[str, Tensor]) -> None:
    image = noise(64, 48)
    level = (tf1_bilinear(image.float(), 299) - 128) / 128
    pooled, spatial = plain(weights, level)
    found = net(image)
    assert off(found["pooled"], pooled) < 1e-5
    assert off(found["spatial"], spatial) < 1e-5
    assert off(found["logits"], pooled @ weights["fc.weight"].T) < 1e-5
    assert {view: value.shape[1] for view, value in found.items()} == dict(net.views)


@torch.inference_mode()
def test_equals_torch_fidelity_where_it_is_installed(net: Inception, file: Path) -> None:
    peer = pytest.importorskip("torch_fidelity.feature_extractor_inceptionv3", exc_type=ImportError)
    theirs = peer.FeatureExtractorInceptionV3(
        "inception-v3-compat", ["2048", "logits_unbiased"], feature_extractor_weights_path=str(file)
    )
    image = noise(40, 40)
    pooled, logits = theirs(image)
    assert off(net(image)["pooled"], pooled) < 1e-5
    assert off(net(image)["logits"], logits) < 1e-5


@torch.inference_mode()
def test_an_image_does_not_depend_on_its_batch_nor_grey_on_its_channels(net: Inception) -> None:
    grey = noise(16, 16, n=2)[:, :1]
    assert off(net(grey[1:].expand(-1, 3, -1, -1))["pooled"], net(grey)["pooled"][1:]) < 1e-5


def test_channels_are_made_three() -> None:
    every = torch.arange(256, dtype=torch.uint8).view(1, 1, 16, 16)
    three = every.expand(-1, 3, -1, -1)
    assert torch.equal(rgb(every), three)
    assert torch.equal(rgb(torch.cat([three, torch.full_like(every, 255)], 1)), three)
    assert (rgb(torch.cat([three, torch.zeros_like(every)], 1)) == 255).all()
    with pytest.raises(WrongUse, match="2 channels"):
        rgb(every.expand(-1, 2, -1, -1))


def test_file_is_found_read_and_warned_of(
    file: Path,
    net: Inception,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setenv("DIPTYCH_CACHE", str(tmp_path))
    assert "inception" in names()
    with pytest.raises(
        WrongUse, match=r"(?s)Inception needs its weights.*inception:download.*inception:FILE"
    ):
        extractor("inception")
    with pytest.raises(WrongUse, match=r"there is no file .*nowhere\.pth"):
        extractor("inception:nowhere.pth")
    with caplog.at_level(logging.WARNING, "diptych"):
        built = extractor(f"inception:{file}")
    assert "comparable only with scores of the same file" in caplog.text
    assert built.sha256 == hashlib.sha256(file.read_bytes()).hexdigest() != SHA256
    assert torch.equal(built.network.stem[0].weight, net.network.stem[0].weight)


def test_the_known_file_is_taken_from_the_cache_without_a_warning(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    fetched(file, tmp_path, monkeypatch)
    with caplog.at_level(logging.WARNING, "diptych"):
        assert build("download").sha256 == inception.SHA256
        monkeypatch.setattr(inception, "URL", "file:///nowhere")  # the second time nothing is fetched
        assert build().sha256 == inception.SHA256
    assert not caplog.text


def fetched(file: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Makes `file` the known one, to be fetched from where it lies into an empty cache."""
    monkeypatch.setenv("DIPTYCH_CACHE", str(cache))
    monkeypatch.setattr(inception, "URL", file.as_uri())
    monkeypatch.setattr(inception, "BYTES", file.stat().st_size)
    monkeypatch.setattr(inception, "SHA256", hashlib.sha256(file.read_bytes()).hexdigest())


def test_what_is_fetched_is_whole_and_the_right_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    original = tmp_path / "original"
    original.write_bytes(b"weights" * 1000)
    cache = tmp_path / "cache"
    fetched(original, cache, monkeypatch)
    for sent in (b"weights" * 999, b"weights" * 1001, b"sthgiew" * 1000):
        original.write_bytes(sent)
        with pytest.raises(RunError, match="gave another file"):
            build("download")
        assert not list((cache / "weights").iterdir())
    original.unlink()
    with pytest.raises(RunError, match="could not be downloaded"):
        build("download")


class Harmful:
    """What a pickle can do when it is loaded."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return Path.touch, (self.path,)


def test_pickles_execute_nothing(tmp_path: Path) -> None:
    path, trace = tmp_path / "weights.pth", tmp_path / "executed"
    for write in (
        lambda: torch.save({"fc.weight": Harmful(trace)}, path),
        lambda: dumped(Harmful(trace), path),
    ):
        write()
        with pytest.raises(RunError, match=r"weights\.pth.*could execute something"):
            build(str(path))
        assert not trace.exists()


def dumped(value: object, path: Path) -> None:
    """A plain pickle."""
    path.write_bytes(pickle.dumps(value))


def test_damaged_and_foreign_files_are_named(weights: dict[str, Tensor], file: Path, tmp_path: Path) -> None:
    path = tmp_path / "weights.pth"
    whole = file.read_bytes()
    for part in (b"", whole[:100], whole[: len(whole) // 2], whole[:-1000], b"<html>not found</html>" * 9):
        path.write_bytes(part)
        with pytest.raises(RunError, match=r"weights\.pth"):
            build(str(path))
    torch.save([1, 2], path)
    with pytest.raises(RunError, match="holds a list, not tensors by name"):
        build(str(path))
    small = {name: tensor for name, tensor in weights.items() if tensor.numel() < 10_000}
    torch.save(small, path)
    with pytest.raises(WrongUse, match=r"weights\.pth lacks \d+ of 471 tensors"):
        build(str(path))


def test_misshapen_and_infinite_weights_are_named(weights: dict[str, Tensor], tmp_path: Path) -> None:
    path = tmp_path / "weights.safetensors"
    name = "Conv2d_1a_3x3.bn.bias"
    for wrong, what in (
        (torch.zeros(31), r"float32 \(31,\), not floats \(32,\)"),
        (torch.zeros(32, dtype=torch.int64), "int64"),
        (torch.full((32,), torch.nan), "not finite"),
    ):
        # zeros stand in for the large ones: only the shapes count here
        tensors = {key: torch.zeros(shape, dtype=torch.float16) for key, shape in shapes().items()}
        save_file(tensors | {name: wrong}, path)
        with pytest.raises(WrongUse, match=rf"(?s)weights\.safetensors.*{name}.*{what}"):
            build(str(path))


def test_safetensors_are_the_same_weights(weights: dict[str, Tensor], net: Inception, tmp_path: Path) -> None:
    save_file(weights, tmp_path / "weights.safetensors")
    built = build(str(tmp_path / "weights.safetensors")).state_dict()
    assert all(torch.equal(built[name], tensor) for name, tensor in net.state_dict().items())

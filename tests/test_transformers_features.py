"""DINOv2 and CLIP: beside Pillow's resize and transformers' own modules; folders gone wrong."""

from __future__ import annotations

import hashlib
import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor
from torch.nn.functional import interpolate, normalize

from diptych.errors import RunError, WrongUse
from diptych.features._resize import pillow_bicubic
from diptych.features.extractor import Extractor, extractor, names

transformers = pytest.importorskip("transformers")

IMAGENET = ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])


@pytest.fixture(autouse=True)
def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever is asked for, nothing is downloaded."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)


@pytest.fixture(scope="module")
def dinov2_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small DINOv2 with the published grid of 37x37 positions, seeded."""
    return saved("Dinov2Model", dinov2_config(518), tmp_path_factory.mktemp("dinov2"))


@pytest.fixture(scope="module")
def clip_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small CLIP, both halves, seeded."""
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
    config = transformers.CLIPConfig(
        text_config=sizes | {"vocab_size": 64, "bos_token_id": 1, "eos_token_id": 2},
        vision_config=sizes | {"image_size": 56, "patch_size": 14, "projection_dim": 24},
        projection_dim=24,
    )
    return saved("CLIPModel", config, tmp_path_factory.mktemp("clip"))


def dinov2_config(size: int):
    """A small DINOv2 whose weights are for images of this size."""
    return transformers.Dinov2Config(
        hidden_size=32, num_hidden_layers=2, num_attention_heads=2, image_size=size, patch_size=14
    )


def saved(kind: str, config: object, folder: Path) -> Path:
    """The folder, with a network of seeded weights that are large enough for every one to matter."""
    transformers.utils.logging.disable_progress_bar()
    net = getattr(transformers, kind)(config)
    generator = torch.Generator().manual_seed(0)
    for parameter in net.parameters():
        parameter.data.normal_(std=0.2, generator=generator)
    net.save_pretrained(folder)
    return folder


def noise(height: int, width: int, n: int = 2, seed: int = 0) -> Tensor:
    """uint8 (n, 3, height, width), each darker than the last; hard edges, so that bicubic overshoots."""
    rng = np.random.default_rng([seed, height, width])
    image = torch.from_numpy(rng.choice(np.array([0, 30, 200, 255], np.uint8), (n, 3, height, width)))
    return image // torch.arange(1, n + 1, dtype=torch.uint8).view(n, 1, 1, 1)


def by_pillow(image: Tensor, size: int) -> Tensor:
    """The same images resized by Pillow, widths first."""
    height = image.shape[2]
    images = [Image.fromarray(each.permute(1, 2, 0).numpy()) for each in image]
    wide = [each.resize((size, height), Image.Resampling.BICUBIC) for each in images]
    done = [np.asarray(each.resize((size, size), Image.Resampling.BICUBIC)) for each in wide]
    return torch.from_numpy(np.stack(done)).permute(0, 3, 1, 2)


def inputs(image: Tensor, size: int, mean: list[float], deviation: list[float]) -> Tensor:
    """What a network is handed: Pillow's pixels, normalised."""
    level = by_pillow(image, size).double() / 255
    mean_, deviation_ = (torch.tensor(each).double().view(3, 1, 1) for each in (mean, deviation))
    return ((level - mean_) / deviation_).float()


@torch.inference_mode()
def seen(ruler: Extractor, image: Tensor) -> Tensor:
    """Its pooled features."""
    return ruler(image)["pooled"]


@pytest.mark.parametrize(
    ("height", "width", "size"),
    [
        (8, 8, 224),
        (32, 32, 224),
        (224, 224, 224),
        (225, 225, 224),
        (300, 200, 224),
        (90, 700, 56),
        (1, 3, 20),
    ],
)
def test_bicubic_is_pillows_to_the_level(height: int, width: int, size: int) -> None:
    image = noise(height, width)
    assert torch.equal(pillow_bicubic(image, size), by_pillow(image, size))


def test_bicubic_of_squares_is_one_call_of_pillow() -> None:
    image = noise(96, 96, n=1)
    once = Image.fromarray(image[0].permute(1, 2, 0).numpy()).resize((56, 56), Image.Resampling.BICUBIC)
    assert np.array_equal(pillow_bicubic(image, 56)[0].permute(1, 2, 0).numpy(), np.asarray(once))


@pytest.mark.parametrize("size", [(64, 64), (50, 30)])
def test_dinov2_is_transformers_where_positions_fit(size: tuple[int, int], tmp_path: Path) -> None:
    saved("Dinov2Model", dinov2_config(224), tmp_path)
    net = transformers.Dinov2Model.from_pretrained(tmp_path).eval()
    image = noise(*size)
    with torch.inference_mode():
        right = net(inputs(image, 224, *IMAGENET)).last_hidden_state[:, 0]
    found = seen(extractor(f"dinov2:{tmp_path}"), image)
    torch.testing.assert_close(found, right, rtol=1e-4, atol=1e-5)
    assert float((found[0] - found[1]).norm() / found.norm()) > 0.01  # or nothing would be compared


def test_dinov2_agrees_with_the_image_processor(tmp_path: Path) -> None:
    saved("Dinov2Model", dinov2_config(224), tmp_path)
    from transformers.models.bit.image_processing_pil_bit import BitImageProcessorPil

    square = {"height": 224, "width": 224}
    prepare = BitImageProcessorPil(
        size=square, do_center_crop=False, image_mean=IMAGENET[0], image_std=IMAGENET[1]
    )
    image = noise(40, 40)
    pixels = prepare(list(image.permute(0, 2, 3, 1).numpy()), return_tensors="pt")["pixel_values"]
    with torch.inference_mode():
        right = transformers.Dinov2Model.from_pretrained(tmp_path).eval()(pixels).pooler_output
    torch.testing.assert_close(seen(extractor(f"dinov2:{tmp_path}"), image), right, rtol=1e-4, atol=1e-5)


def test_dinov2_shrinks_positions_as_its_authors_do(dinov2_folder: Path) -> None:
    # facebookresearch/dinov2 hands interpolate a factor of (16 + 0.1) / 37; transformers hands it the size
    net = transformers.Dinov2Model.from_pretrained(dinov2_folder).eval()
    known = net.embeddings.position_embeddings.detach()
    grid = known[0, 1:].T.reshape(1, 32, 37, 37)
    grid = interpolate(grid, scale_factor=(16.1 / 37, 16.1 / 37), mode="bicubic")
    small = torch.cat([known[0, :1], grid[0].flatten(1).T])[None]
    pixels = inputs(noise(64, 64), 224, *IMAGENET)
    with torch.inference_mode():
        plain = net(pixels).pooler_output
        net.embeddings.position_embeddings = torch.nn.Parameter(small)
        right = net(pixels).pooler_output
    found = seen(extractor(f"dinov2:{dinov2_folder}"), noise(64, 64))
    torch.testing.assert_close(found, right, rtol=1e-4, atol=1e-5)
    # and the two differ by little, but not by nothing
    assert 1e-5 < float((found - plain).norm() / plain.norm()) < 0.2


@pytest.mark.parametrize("size", [(56, 56), (90, 90)])
def test_clip_is_transformers(size: tuple[int, int], clip_folder: Path) -> None:
    from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

    prepare = CLIPImageProcessorPil(size={"shortest_edge": 56}, crop_size={"height": 56, "width": 56})
    image = noise(*size)
    pixels = prepare(list(image.permute(0, 2, 3, 1).numpy()), return_tensors="pt")["pixel_values"]
    net = transformers.CLIPModel.from_pretrained(clip_folder).eval()
    with torch.inference_mode():
        out = net.vision_model(pixels).pooler_output @ net.visual_projection.weight.T
    found = seen(extractor(f"clip:{clip_folder}"), image)
    torch.testing.assert_close(found, normalize(out, dim=-1), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(found.norm(dim=1), torch.ones(2))


def test_clip_looks_at_the_centre_square(clip_folder: Path) -> None:
    image = noise(60, 91)
    ruler = extractor(f"clip:{clip_folder}")
    assert torch.equal(seen(ruler, image), seen(ruler, image[..., 15:75]))
    assert not torch.equal(seen(ruler, image), seen(ruler, image[..., 16:76]))


def test_the_card_names_the_weights(clip_folder: Path, dinov2_folder: Path) -> None:
    assert {"clip", "dinov2"} <= set(names())
    for folder, name, dim, size in (
        (clip_folder, "clip", 24, "56x56"),
        (dinov2_folder, "dinov2", 32, "224x224"),
    ):
        ruler = extractor(f"{name}:{folder}")
        weights = (folder / "model.safetensors").read_bytes()
        assert ruler.sha256 == hashlib.sha256(weights).hexdigest()
        assert (ruler.name, ruler.dim, dict(ruler.views)) == (name, dim, {"pooled": dim})
        assert "Pillow's bicubic" in ruler.resize
        assert size in ruler.resize
        assert seen(ruler, noise(8, 8)[:, :1]).shape == (2, dim)


def test_without_transformers_the_line_to_install_it(
    clip_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from diptych.features.clip import build

    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(WrongUse, match=r'(?s)not installed.*pip install "diptych\[hub\]"'):
        build(str(clip_folder))


def test_names_that_are_nowhere(tmp_path: Path) -> None:
    for where in ("nobody/such-a-network", str(tmp_path / "missing"), "a/b/c"):
        with pytest.raises(WrongUse, match=r"(?s)neither a folder nor.*dinov2:FOLDER"):
            extractor(f"dinov2:{where}")


def test_folders_gone_wrong_are_named(clip_folder: Path, dinov2_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(WrongUse, match=r"holds a clip, not dinov2"):
        extractor(f"dinov2:{clip_folder}")
    for name in ("no-config", "no-weights", "odd-config", "truncated", "other", "wider"):
        (tmp_path / name).mkdir()
    config = (dinov2_folder / "config.json").read_text()
    weights = (dinov2_folder / "model.safetensors").read_bytes()
    for name in ("no-weights", "truncated", "other"):
        (tmp_path / name / "config.json").write_text(config)
    (tmp_path / "odd-config" / "config.json").write_text("[1, 2")
    (tmp_path / "truncated" / "model.safetensors").write_bytes(weights[: len(weights) // 2])
    deeper = json.loads(config) | {"num_hidden_layers": 3}
    (tmp_path / "other" / "config.json").write_text(json.dumps(deeper))
    wider = json.loads(config) | {"hidden_size": 64}
    (tmp_path / "wider" / "config.json").write_text(json.dumps(wider))
    for name in ("other", "wider"):
        (tmp_path / name / "model.safetensors").write_bytes(weights)
    wrong = {
        "no-config": (WrongUse, r"there is no .*config\.json"),
        "no-weights": (WrongUse, r"no-weights holds no model\.safetensors"),
        "odd-config": (RunError, r"config\.json cannot be read"),
        "truncated": (RunError, r"the weights in .*truncated cannot be loaded"),
        "other": (WrongUse, r"other do not fit its config\.json: \d+ tensors of dinov2.*encoder\.layer\.2"),
        "wider": (WrongUse, r"wider do not fit its config\.json: \d+ tensors"),
    }
    for name, (kind, message) in wrong.items():
        with pytest.raises(kind, match=message):
            extractor(f"dinov2:{tmp_path / name}")


class Harmful:
    """What a pickle can do when it is loaded."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[Path]]:
        return Path.touch, (self.path,)


def test_pickled_weights_execute_nothing(dinov2_folder: Path, tmp_path: Path) -> None:
    trace = tmp_path / "executed"
    (tmp_path / "config.json").write_text((dinov2_folder / "config.json").read_text())
    state = transformers.Dinov2Model.from_pretrained(dinov2_folder).state_dict()
    torch.save(state, tmp_path / "pytorch_model.bin")
    right = seen(extractor(f"dinov2:{dinov2_folder}"), noise(20, 20))
    assert torch.equal(seen(extractor(f"dinov2:{tmp_path}"), noise(20, 20)), right)
    torch.save(state | {"more": Harmful(trace)}, tmp_path / "pytorch_model.bin")
    with pytest.raises(RunError, match="cannot be loaded"):
        extractor(f"dinov2:{tmp_path}/.")
    assert not trace.exists()

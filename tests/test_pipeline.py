"""Diffusers pipelines as Models: diffusers' own images, one stream an image, and nothing that runs code."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from conftest import made_up
from diptych.errors import DiptychError, NotMeasurable, RunError, WrongUse
from diptych.exam import Exam
from diptych.measuring.reference import open_all
from diptych.measuring.subject import check_prompts, open_subject
from diptych.metrics.cost import flops_per_image
from diptych.model import Condition, Noise
from diptych.pipeline import Pipeline, PipelineOptions, generators, open_pipeline, seeds_of
from diptych.pretrained import hub, trusted_index
from diptych.runs import load_model, save_model

diffusers = pytest.importorskip("diffusers")
transformers = pytest.importorskip("transformers")


def unet(**changes: Any) -> Any:
    return diffusers.UNet2DModel(
        **{
            "sample_size": 8,
            "in_channels": 3,
            "out_channels": 3,
            "layers_per_block": 1,
            "block_out_channels": (8, 8),
            "norm_num_groups": 4,
            "down_block_types": ("DownBlock2D", "DownBlock2D"),
            "up_block_types": ("UpBlock2D", "UpBlock2D"),
            **changes,
        }
    )


def vae() -> Any:
    return diffusers.AutoencoderKL(
        down_block_types=("DownEncoderBlock2D", "DownEncoderBlock2D"),
        up_block_types=("UpDecoderBlock2D", "UpDecoderBlock2D"),
        block_out_channels=(8, 8),
        norm_num_groups=4,
        latent_channels=4,
        sample_size=16,
    )


def dit(scheduler: Any) -> Any:
    transformer = diffusers.DiTTransformer2DModel(
        num_attention_heads=2,
        attention_head_dim=8,
        in_channels=4,
        out_channels=4,
        num_layers=1,
        sample_size=8,
        num_embeds_ada_norm=1000,
    )
    return diffusers.DiTPipeline(transformer, vae(), scheduler)


def stable_diffusion(folder: Path) -> Any:
    """Text to image, with a vocabulary of five words."""
    words = ["<|startoftext|>", "<|endoftext|>", "a</w>", "cat</w>", "dog</w>", "!"]
    letters = sorted({*"acdogt", "t</w>", "g</w>"})
    merges = ["c a", "ca t</w>", "d o", "do g</w>"]
    vocabulary = [*words, *letters, "ca", "do"]
    (folder / "vocab.json").write_text(json.dumps({word: i for i, word in enumerate(vocabulary)}))
    (folder / "merges.txt").write_text("#version: 0.2\n" + "\n".join(merges))
    tokenizer = transformers.CLIPTokenizer.from_pretrained(str(folder), local_files_only=True)
    tokenizer.model_max_length = 8
    text = transformers.CLIPTextModel(
        transformers.CLIPTextConfig(
            vocab_size=len(vocabulary),
            hidden_size=8,
            intermediate_size=8,
            num_hidden_layers=1,
            num_attention_heads=2,
            max_position_embeddings=8,
            bos_token_id=0,
            eos_token_id=1,
            projection_dim=8,
        )
    )
    network = diffusers.UNet2DConditionModel(
        sample_size=8,
        layers_per_block=1,
        block_out_channels=(8, 8),
        norm_num_groups=4,
        cross_attention_dim=8,
        attention_head_dim=2,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
    )
    scheduler = diffusers.DDIMScheduler(steps_offset=1, clip_sample=False)
    return diffusers.StableDiffusionPipeline(
        vae(), text, tokenizer, network, scheduler, None, None, requires_safety_checker=False
    )


def written(pipe: Any, path: Path) -> Path:
    pipe.save_pretrained(str(path))
    return path


def theirs(path: Path) -> Any:
    """What diffusers itself makes of the directory."""
    pipe = diffusers.DiffusionPipeline.from_pretrained(str(path), low_cpu_mem_usage=False)
    pipe.set_progress_bar_config(disable=True)
    for part in pipe.components.values():
        if isinstance(part, torch.nn.Module):
            part.requires_grad_(False)  # frozen weights take other kernels, which differ in the last bits
    return pipe


@pytest.fixture(scope="module")
def ddpm(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    return written(diffusers.DDPMPipeline(unet(), diffusers.DDPMScheduler()), tmp_path_factory.mktemp("ddpm"))


@pytest.mark.parametrize("kind", ["DDPM", "DDIM", "DiT", "StableDiffusion"])
def test_images_are_those_that_diffusers_draws(kind: str, tmp_path: Path) -> None:
    torch.manual_seed(1)
    seeds, asked = list(range(4)), dict[str, Any]()
    if kind == "DiT":
        pipe = dit(diffusers.DDIMScheduler())
        asked = {"class_labels": [3, 1, 4, 1], "guidance_scale": 3.0}
        condition, options = Condition(label=torch.tensor([3, 1, 4, 1])), {"guidance": 3.0}
    elif kind == "StableDiffusion":
        pipe = stable_diffusion(tmp_path)
        texts = ["a cat", "a dog", "dog", "cat"]
        asked = {"prompt": texts, "guidance_scale": 2.0}
        condition, options = Condition(text=texts), {"guidance": 2.0}
    else:
        scheduler = getattr(diffusers, f"{kind}Scheduler")()
        pipe = getattr(diffusers, f"{kind}Pipeline")(unet(), scheduler)
        asked, condition, options = {"batch_size": 4}, Condition(), {}
    path = written(pipe, tmp_path / "pipeline")
    model = open_pipeline(path, "cpu").using(steps=3, **options)
    expected = theirs(path)(
        generator=generators(seeds_of(Noise(seeds))), num_inference_steps=3, output_type="np", **asked
    ).images
    with torch.inference_mode():
        image = model(Noise(seeds), condition)
    assert image.shape == (4, *model.image_shape)
    assert np.abs(image.permute(0, 2, 3, 1).numpy() - (2 * expected - 1)).max() <= 1e-6
    assert len({each.numpy().tobytes() for each in image}) == 4


@pytest.mark.parametrize("kind", ["handed on", "global"])
def test_image_i_depends_on_seed_i_alone(kind: str, ddpm: Path, tmp_path: Path) -> None:
    if kind == "global":  # DiTPipeline does not hand its generators to the scheduler, and DDPM draws
        path = written(dit(diffusers.DDPMScheduler()), tmp_path / "dit")
    else:
        path = ddpm
    model = open_pipeline(path, "cpu").using(steps=2)
    state = torch.get_rng_state()
    together = model.sample(range(5), batch=5)
    alone = torch.cat([model.sample([seed]) for seed in (4, 2)])
    assert (together[[4, 2]].int() - alone.int()).abs().max() <= 1
    assert model.own_stream == (kind == "handed on")
    assert torch.equal(torch.get_rng_state(), state)  # and the world's stream is left where it was


def test_a_saved_pipeline_is_its_path(ddpm: Path, tmp_path: Path) -> None:
    model = open_pipeline(ddpm, "cpu").using(steps=2)
    assert not model.state_dict()
    assert sum(p.numel() for p in model.parameters()) == sum(
        p.numel() for p in theirs(ddpm).unet.parameters()
    )
    save_model(model, tmp_path)
    twin = load_model(tmp_path, "cpu")
    assert isinstance(twin, Pipeline)
    assert twin.options == PipelineOptions(steps=2)
    assert torch.equal(twin.sample(range(3)), model.sample(range(3)))
    assert twin.using(steps=3).weights is twin.weights  # opened once
    assert next(twin.to("meta").parameters()).is_meta
    assert (tmp_path / "model.safetensors").stat().st_size < 200


def test_an_exam_of_a_pipeline(ddpm: Path) -> None:
    (subject,), data = open_all([ddpm], made_up((3, 8, 8)), device="cpu")
    assert (subject.kind, subject.recipe, subject.shape) == ("diffusers pipeline", "DDPMPipeline", (3, 8, 8))
    assert subject.model is not None
    model = subject.model.using(steps=2)
    exam = Exam(model, data, n=6, keep=False)
    assert torch.equal(exam.images("fake"), model.sample(range(6)))
    assert exam.features("fake").isfinite().all()
    one = flops_per_image(model.using(steps=1))
    assert one > 0
    assert flops_per_image(model) == pytest.approx(2 * one)


def test_the_dial_and_the_options(ddpm: Path, tmp_path: Path) -> None:
    model = open_pipeline(ddpm, "cpu")
    assert model.dial() == [{"steps": steps} for steps in (4, 10, 20, 50)]
    for changes, message in (
        ({"guidance": 2.0}, "DDPMPipeline has no guidance"),
        ({"prompt": "a cat"}, "DDPMPipeline has no prompt"),
        ({"steps": -1}, "cannot be negative"),
        ({"size": 8}, "no option 'size'"),
    ):
        with pytest.raises(WrongUse, match=message):
            model.using(**changes)
    consistency = diffusers.ConsistencyModelPipeline(unet(), diffusers.CMStochasticIterativeScheduler())
    few = open_pipeline(written(consistency, tmp_path), "cpu")
    assert few.dial() == [{"steps": steps} for steps in (1, 2, 4)]
    assert (few.classes, few.wants) == (0, frozenset())
    assert few.sample(range(2)).shape == (2, 3, 8, 8)


def test_a_text_model_needs_texts(tmp_path: Path) -> None:
    path = written(stable_diffusion(tmp_path), tmp_path / "sd")
    subject = open_subject(path, device="cpu")
    assert subject.model is not None
    assert subject.model.wants == {"text"}
    with pytest.raises(WrongUse, match="draws from texts"):
        check_prompts(subject, None)
    check_prompts(subject, ("a cat",))
    prompted = open_subject(subject.model.using(prompt="a cat", steps=2))
    check_prompts(prompted, None)
    assert prompted.model is not None
    drawn = prompted.model.sample(range(2))
    asked = subject.model.using(steps=2).sample(range(2), Condition(text=["a cat"] * 2))
    assert torch.equal(drawn, asked)
    assert not torch.equal(drawn, prompted.model.using(prompt="a dog").sample(range(2)))


def poisoned(path: Path, original: Path, **changes: Any) -> Path:
    path.mkdir()
    for part in original.iterdir():
        if part.is_dir():
            (path / part.name).symlink_to(part)
    index = json.loads((original / "model_index.json").read_text())
    (path / "model_index.json").write_text(json.dumps({**index, **changes}))
    return path


@pytest.mark.parametrize(
    "changes",
    [
        {"unet": ["os", "system"]},
        {"unet": ["evil", "UNet"]},
        {"unet": ["..evil", "UNet"]},
        {"unet": ["diffusers", "UNet.from_config"]},
        {"unet": ["diffusers"]},
        {"unet": ["diffusers", 3]},
        {"_class_name": ["pipeline.py", "Mine"]},
        {"_class_name": "os.system"},
        {"_class_name": "UNet2DModel"},
        {"_class_name": "NoSuchPipeline"},
    ],
)
def test_classes_that_are_not_diffusers_own_are_refused(
    changes: dict[str, Any], ddpm: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "evil.py").write_text("raise SystemExit('this ran')")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.chdir(tmp_path)
    with pytest.raises(
        RunError, match=r"not diffusers' or transformers' own|pipeline of diffusers|does not know"
    ):
        open_pipeline(poisoned(tmp_path / "p", ddpm, **changes))


def test_code_beside_weights_is_refused(ddpm: Path, tmp_path: Path) -> None:
    path = poisoned(tmp_path / "p", ddpm)
    (path / "unet").unlink()
    (path / "unet").mkdir()
    (path / "unet" / "diffusers.py").write_text("raise SystemExit('this ran')")
    with pytest.raises(RunError, match=r"diffusers\.py is code that lies beside weights"):
        open_pipeline(path)


def test_pickled_weights_are_refused(tmp_path: Path) -> None:
    pipe = diffusers.DDPMPipeline(unet(), diffusers.DDPMScheduler())
    pipe.save_pretrained(str(tmp_path), safe_serialization=False)
    with pytest.raises(RunError, match=r"\.bin is a pickle, which can run code") as error:
        open_pipeline(tmp_path)
    assert "save_pretrained" in error.value.hint


def test_what_is_missing_or_broken(ddpm: Path, tmp_path: Path) -> None:
    empty = poisoned(tmp_path / "empty", ddpm)
    (empty / "unet").unlink()
    with pytest.raises(RunError, match="cannot be opened as a DDPMPipeline"):
        open_pipeline(empty)
    torn = poisoned(tmp_path / "torn", ddpm)
    (torn / "model_index.json").write_text("{")
    with pytest.raises(RunError, match=r"model_index\.json cannot be read"):
        open_subject(torn)
    assert trusted_index(ddpm)["_class_name"] == "DDPMPipeline"


def test_pipelines_that_need_an_image_cannot_be_measured(tmp_path: Path) -> None:
    parts = stable_diffusion(tmp_path).components
    pipe = diffusers.StableDiffusionImg2ImgPipeline(**parts, requires_safety_checker=False)
    with pytest.raises(NotMeasurable, match="does not draw images from noise alone"):
        open_pipeline(written(pipe, tmp_path / "p"))


def test_weights_that_draw_nothing_finite(tmp_path: Path) -> None:
    network = unet()
    torch.nn.init.constant_(network.conv_out.bias, float("nan"))
    path = written(diffusers.DDIMPipeline(network, diffusers.DDIMScheduler(clip_sample=False)), tmp_path)
    with pytest.raises(RunError, match="not finite"):
        open_pipeline(path, "cpu").using(steps=2).sample(range(2))


def test_without_diffusers(monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "diffusers", None)
    with pytest.raises(DiptychError, match="which is not installed") as error:
        hub()
    assert "diptych[hub]" in error.value.hint
